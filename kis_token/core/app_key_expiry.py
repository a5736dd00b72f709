"""The last day on which KIS accepts an app key, in Korea time, and a warning if the app key expires soon.

An app key expires after a year. The user stores the app key together with the last day on which KIS accepts it. An app
key is still used after its stored last day, because only KIS decides whether it accepts the app key.
"""

from __future__ import annotations

from datetime import date, datetime, time, timedelta, timezone

from kis_token.token import KST

#: The time from the first warning about an app key to the expiry of the app key.
WARNING_TIME = timedelta(days=30)

#: The remedy for an app key that expires soon or has expired.
RENEWAL = (
    "Have a new app key issued on the KIS Developers site (https://apiportal.koreainvestment.com), then run "
    "kis-token set-keys."
)


def default_last_day(now: datetime) -> date:
    """The last valid day of an app key that is issued now: the same day of the next year, in Korea."""
    today = now.astimezone(KST).date()
    leap_day = (today.month, today.day) == (2, 29)
    return today.replace(year=today.year + 1, day=28 if leap_day else today.day)


def parse_last_day(text: str, now: datetime) -> date | None:
    """Parse a day. Returns None if ``text`` is not a day YYYY-MM-DD, or if the day has passed in Korea."""
    try:
        day = datetime.strptime(text.strip(), "%Y-%m-%d").replace(tzinfo=KST).date()
    except ValueError:
        return None
    return day if day >= now.astimezone(KST).date() else None


def end_of(last_day: date) -> datetime:
    """Return the last second of ``last_day`` in Korea, as a time in UTC."""
    return datetime.combine(last_day, time(23, 59, 59), KST).astimezone(timezone.utc)


def last_day_of(expires_at: datetime) -> date:
    """Return the day in Korea that contains ``expires_at``, the stored expiry time of an app key."""
    return expires_at.astimezone(KST).date()


def warn_of_key_end(service_name: str, end: datetime | None, now: datetime) -> str:
    """Return a warning, without its full stop, if the slot's app key expires soon or has expired. Otherwise, return "".

    ``end`` is the time in the row of the app key; None if the row has no time.
    """
    if end is None or end - now > WARNING_TIME:
        return ""
    ends = "ends" if end >= now else "ended"
    day = f"{last_day_of(end)} in Korea, according to the last day that is stored with the key"
    return f"The app key of {service_name} {ends} on {day}"
