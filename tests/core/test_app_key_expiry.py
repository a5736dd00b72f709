"""The last day of an app key: a day in Korea, its default, and the warning before it."""

from __future__ import annotations

from datetime import date, datetime, timedelta, timezone

import pytest

from kis_token.core.app_key_expiry import (
    WARNING_TIME,
    default_last_day,
    end_of,
    last_day_of,
    parse_last_day,
    warn_of_key_end,
)

#: 00:30 on March 2 in Korea; in UTC it is still March 1.
NIGHT = datetime(2026, 3, 1, 15, 30, tzinfo=timezone.utc)
SECOND = timedelta(seconds=1)


@pytest.mark.parametrize(
    ("now", "day"),
    [
        (NIGHT, date(2027, 3, 2)),
        (NIGHT - timedelta(hours=1), date(2027, 3, 1)),
        (datetime(2028, 2, 29, 3, 0, tzinfo=timezone.utc), date(2029, 2, 28)),
    ],
)
def test_default_is_a_year_from_today_in_korea(now: datetime, day: date) -> None:
    """The default is a year after the current day in Korea. A year after February 29 is February 28."""
    assert default_last_day(now) == day


@pytest.mark.parametrize(
    ("text", "day"),
    [
        ("2026-03-02", date(2026, 3, 2)),
        (" 2027-01-31 ", date(2027, 1, 31)),
        ("2026-03-01", None),
        ("2027-02-29", None),
        ("20270131", None),
        ("31.01.2027", None),
        ("", None),
    ],
)
def test_day_of_a_text(text: str, day: date | None) -> None:
    """Today in Korea and later days are accepted; past days, invalid days and other formats give None."""
    assert parse_last_day(text, NIGHT) == day


def test_day_ends_in_korea() -> None:
    """A key is valid until the last second of its last day in Korea; `last_day_of` returns that day."""
    end = end_of(date(2027, 3, 2))
    assert end == datetime(2027, 3, 2, 14, 59, 59, tzinfo=timezone.utc)
    assert last_day_of(end) == date(2027, 3, 2)


def test_warning_begins_thirty_days_before() -> None:
    """The warning begins 30 days before the key's end and names the day. Without an end there is no warning."""
    end = end_of(date(2027, 3, 2))
    assert warn_of_key_end("kis", None, NIGHT) == warn_of_key_end("kis", end, end - WARNING_TIME - SECOND) == ""
    soon = "The app key of kis ends on 2027-03-02 in Korea, according to the last day that is stored with the key"
    assert warn_of_key_end("kis", end, end - WARNING_TIME) == warn_of_key_end("kis", end, end) == soon
    assert warn_of_key_end("kis", end, end + SECOND) == soon.replace("ends", "ended")
