"""Callers with wrong clocks wait, hold leases and fall back like all other callers, and get a warning."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from kis_token.errors import IssuerOutage
from tests.resolver_harness import stale_token
from tests.support import HOUR, MINUTE, Caller, TurnedClock, make_token

if TYPE_CHECKING:
    from datetime import timedelta

    from kis_token.core.resolution import Resolution
    from kis_token.token import Token
    from tests.resolver_harness import Chain

WRONG_BY = {"10 min ahead": 10 * MINUTE, "10 min behind": -10 * MINUTE, "9 h ahead": 9 * HOUR, "9 h behind": -9 * HOUR}

pytestmark = [
    pytest.mark.parametrize("wrong_by", WRONG_BY.values(), ids=WRONG_BY.keys()),
    pytest.mark.usefixtures("date"),
]


@pytest.fixture(params=[True, False], ids=["", "no Date"])
def date(request: pytest.FixtureRequest, chain: Chain) -> None:
    """Make the store answer with or without the header Date."""
    chain.supabase.server.send_date = request.param


def expired_token() -> Token:
    """Return an expired token. By a clock that is 10 minutes behind, the token looks valid."""
    return make_token(left=-5 * MINUTE, age=24 * HOUR)


def assert_told(got: Resolution, wrong_by: timedelta) -> None:
    """Assert that a warning says by how many seconds the clock is wrong."""
    said = re.search(r"This machine's clock is (\d+) s (ahead|behind)", " ".join(got.warnings))
    assert said, got.warnings
    assert said[2] == ("ahead" if wrong_by > 0 * MINUTE else "behind")
    assert abs(int(said[1]) * MINUTE / 60 - abs(wrong_by)) < MINUTE


def test_a_waiter_steals_no_lease(chain: Chain, wrong_by: timedelta) -> None:
    """The caller waits for the holder and gets the new token. The caller does not use the stored, expired token."""
    chain.database.put_token(expired_token())
    holder, token = Caller(chain.database), make_token()
    holder.begin()
    clock = TurnedClock(wrong_by=wrong_by)
    clock.on_sleep = lambda _: holder.commit(token) if len(clock.slept) == 12 else None

    got = chain.resolve(clock, cache_path="off")

    assert (got.token.token_id, got.source, chain.issue_calls) == (token.token_id, "supabase", 0)
    assert chain.database.outcomes() == ["granted", "committed"]
    assert_told(got, wrong_by)


def test_a_holder_issues_once(chain: Chain, wrong_by: timedelta) -> None:
    """The caller replaces an expired token within one lease, and all callers use the new token."""
    chain.database.put_token(expired_token())

    got = chain.resolve(TurnedClock(wrong_by=wrong_by), cache_path="off")

    assert (got.refreshed, chain.database.outcomes()) == (True, ["granted", "committed"])
    assert_told(got, wrong_by)
    for clock in (TurnedClock(wrong_by=wrong_by), TurnedClock()):
        assert chain.resolve(clock, cache_path="off").token.token_id == got.token.token_id
    assert chain.issue_calls == 1


def test_a_valid_token_is_kept(chain: Chain, wrong_by: timedelta) -> None:
    """A token that is valid for a quarter of an hour is used unchanged; the only warning names the clock."""
    token = make_token(left=15 * MINUTE, age=23 * HOUR)
    chain.database.put_token(token)

    got = chain.resolve(TurnedClock(wrong_by=wrong_by), cache_path="off")

    assert (got.token.token_id, chain.issue_calls) == (token.token_id, 0)
    assert_told(got, wrong_by)
    assert len(got.warnings) == 1


def test_an_expired_token_is_not_used(chain: Chain, wrong_by: timedelta) -> None:
    """If KIS does not answer, an expired token does not count as valid."""
    chain.database.put_token(expired_token())
    chain.kis.production.stop()

    with pytest.raises(IssuerOutage):
        chain.resolve(TurnedClock(wrong_by=wrong_by), cache_path="off")


def test_a_stale_token_is_used(chain: Chain, wrong_by: timedelta) -> None:
    """If KIS does not answer, a valid token is used, however wrong the clock is."""
    token = stale_token()
    chain.database.put_token(token)
    chain.kis.production.stop()

    got = chain.resolve(TurnedClock(wrong_by=wrong_by), cache_path="off")

    assert got.token.token_id == token.token_id
    assert "not renewed" in " ".join(got.warnings)
    assert_told(got, wrong_by)
