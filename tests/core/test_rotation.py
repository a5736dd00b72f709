"""The time from which a token is due for the nightly renewal."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kis_token.core.rotation import EVENING, due_at
from kis_token.token import KST, REISSUE_WINDOW, build_token

REFRESH_AFTER = timedelta(hours=23)
DAY = timedelta(days=1)


def due(issued: str, *, lifetime: timedelta = DAY, refresh_after: timedelta = REFRESH_AFTER) -> str:
    """Return when a token that was issued at this time becomes due; both times are in Korea time."""
    begun = datetime.strptime(issued, "%Y-%m-%d %H:%M").replace(tzinfo=KST)
    token = build_token("opaque.token-of-a-test_0123456789", expiries=[begun + lifetime], issued_at=begun)
    return f"{due_at(token, refresh_after).astimezone(KST):%Y-%m-%d %H:%M}"


DUE = {
    # issued in the morning: the token expires before the next day's evening, so it is due from the first evening
    "2026-03-03 06:30": "2026-03-03 20:00",
    # issued at 10:30: the token would expire in tomorrow's market hours, and is older than six hours at 20:00
    "2026-03-02 10:30": "2026-03-02 20:00",
    # issued at 15:00: KIS gives a new token only six hours later
    "2026-03-02 15:00": "2026-03-02 21:00",
    # issued just before 20:00: the token expires just before 20:00 on the next day, so it is due after six hours
    "2026-03-02 19:59": "2026-03-03 01:59",
    # issued in the evening: due at 20:00 on the next day, or at the age of 23 hours if that is earlier
    "2026-03-02 20:00": "2026-03-03 19:00",
    "2026-03-02 23:00": "2026-03-03 20:00",
}


@pytest.mark.parametrize(("issued", "when"), DUE.items())
def test_token_is_due_before_it_would_lapse_in_the_day(issued: str, when: str) -> None:
    """A token is due by age, or after six hours if it expires before the next evening in Korea."""
    assert due(issued) == when


def test_first_issue_at_half_past_ten_is_renewed_the_night_after() -> None:
    """A token that was issued at 10:30 is due the next night, so that it does not expire in market hours."""
    assert due("2026-03-02 10:30") < "2026-03-03 06:13"


def test_token_of_the_night_is_renewed_the_night_after() -> None:
    """A token that one night's rotation issued is due in the next night's rotation, and not earlier."""
    assert "2026-03-03 07:43" < due("2026-03-03 06:30") < "2026-03-04 06:13"


def test_token_of_three_months_is_due_by_age() -> None:
    """A partner company's token of 90 days is renewed at the age in the settings."""
    assert due("2026-03-02 10:30", lifetime=90 * DAY) == "2026-03-03 09:30"
    assert due("2026-03-02 10:30", lifetime=90 * DAY, refresh_after=80 * DAY) == "2026-05-21 10:30"


tokens = st.tuples(
    st.datetimes(datetime(2026, 1, 1), datetime(2027, 1, 1), timezones=st.just(timezone.utc)),  # noqa: DTZ001 - hypothesis adds the zone
    st.timedeltas(timedelta(minutes=1), 91 * DAY),
    st.timedeltas(timedelta(seconds=1), 90 * DAY),
)


@given(tokens)
def test_due_is_never_before_kis_gives_a_new_one(drawn: tuple[datetime, timedelta, timedelta]) -> None:
    """A token is due at the age of refresh-after at the latest; before six hours only if refresh-after is shorter."""
    begun, lifetime, refresh_after = drawn
    token = build_token("opaque.token-of-a-test_0123456789", expiries=[begun + lifetime], issued_at=begun)
    moment = due_at(token, refresh_after)
    assert moment.tzinfo is timezone.utc
    assert min(begun + REISSUE_WINDOW, begun + refresh_after) <= moment <= begun + refresh_after


@given(tokens)
def test_token_that_is_not_due_lasts_until_the_evening(drawn: tuple[datetime, timedelta, timedelta]) -> None:
    """A token that is older than six hours and not due is valid until at least the next 20:00 in Korea."""
    begun, lifetime, refresh_after = drawn
    token = build_token("opaque.token-of-a-test_0123456789", expiries=[begun + lifetime], issued_at=begun)
    now = (due_at(token, refresh_after) - timedelta(microseconds=1)).astimezone(KST)
    evening = datetime.combine(now.date(), EVENING, KST)
    next_evening = evening if now < evening else evening + DAY
    assert now < token.issued_at + REISSUE_WINDOW or token.expires_at >= next_evening
