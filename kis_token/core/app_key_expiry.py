"""The last day of an app key, which KIS ends after a year: as a day in Korea, and as a warning.

The day is the user's own note. It never makes a key invalid: only KIS decides whether it accepts one.
"""

from __future__ import annotations

from datetime import date, datetime, time, timedelta, timezone

from kis_token.token import KST

#: The time before the end of a key in which its owner is warned.
WARNING_TIME = timedelta(days=30)

#: The next action for such a key.
RENEWAL = (
    "Have a new one issued on the KIS Developers site (https://apiportal.koreainvestment.com), then run "
    "kis-token set-keys."
)


def default_last_day(now: datetime) -> date:
    """The last day of a key that is issued now: the same day of the next year, in Korea."""
    today = now.astimezone(KST).date()
    leap_day = (today.month, today.day) == (2, 29)
    return today.replace(year=today.year + 1, day=28 if leap_day else today.day)


def parse_last_day(text: str, now: datetime) -> date | None:
    """Return the day of a text YYYY-MM-DD; None for any other text and for a day that has passed in Korea."""
    try:
        day = datetime.strptime(text.strip(), "%Y-%m-%d").replace(tzinfo=KST).date()
    except ValueError:
        return None
    return day if day >= now.astimezone(KST).date() else None


def end_of(last_day: date) -> datetime:
    """The last second of a day in Korea, in UTC."""
    return datetime.combine(last_day, time(23, 59, 59), KST).astimezone(timezone.utc)


def last_day_of(expires_at: datetime) -> date:
    """The day in Korea of a stored end."""
    return expires_at.astimezone(KST).date()


def warn_of_key_end(service_name: str, end: datetime | None, now: datetime) -> str:
    """Return a sentence without its full stop if the slot's app key ends soon or has ended; empty in all other cases.

    ``end`` is the time in the key's row, which may have none.
    """
    if end is None or end - now > WARNING_TIME:
        return ""
    ends = "ends" if end >= now else "ended"
    return f"The app key of {service_name} {ends} on {last_day_of(end)} in Korea, by the day stored with it"
