"""The chain on a machine with a wrong clock, and with answers of the store that have no Date."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

from tests.resolver_harness import expired_token
from tests.support import HOUR, MINUTE, TurnedClock, make_token

if TYPE_CHECKING:
    from tests.resolver_harness import Chain


def test_without_a_date_begin_judges(chain: Chain) -> None:
    """If the answer of the read has no Date, the database judges the token at begin, and KIS is not called."""
    chain.supabase.server.send_date = False
    token = make_token()
    chain.database.put_token(token)

    got = chain.resolve(TurnedClock(wrong_by=-9 * HOUR))

    assert (got.token.token_id, got.source) == (token.token_id, "supabase")
    assert (chain.store_calls, chain.issue_calls) == (["read", "begin_issuance"], 0)


def test_without_a_date_rotate_is_judged_by_the_database(chain: Chain) -> None:
    """If the answer has no Date, a rotation uses the database's time: a young token is kept, an old one is renewed."""
    chain.supabase.server.send_date = False
    chain.database.put_token(make_token(left=24 * HOUR, age=timedelta()))
    young = chain.resolve(TurnedClock(wrong_by=30 * HOUR), mode="rotate", cache_path="off")
    assert (young.refreshed, chain.issue_calls) == (False, 0)
    assert "not due before" in young.trace[-1].text

    chain.database.put_token(make_token(left=12 * HOUR, age=12 * HOUR))
    old = chain.resolve(TurnedClock(wrong_by=-9 * HOUR), mode="rotate", refresh_after="8h", cache_path="off")
    assert (old.refreshed, chain.issue_calls) == (True, 1)


@pytest.mark.parametrize("wrong_by", [-9 * HOUR, 9 * HOUR, 300 * HOUR])
def test_a_wrong_clock_changes_nothing(chain: Chain, wrong_by: timedelta) -> None:
    """A machine whose clock is hours off uses and renews the same tokens as any other machine, with a warning."""
    token = make_token()
    chain.database.put_token(token)
    got = chain.resolve(TurnedClock(wrong_by=wrong_by))
    assert (got.token.token_id, got.source) == (token.token_id, "supabase")
    assert "clock" in got.warnings[0]

    chain.database.put_token(expired_token())
    issued = chain.resolve(TurnedClock(wrong_by=wrong_by), cache_path="off")
    assert (issued.source, chain.issue_calls) == ("oauth", 1)


def test_a_slightly_wrong_clock_is_not_mentioned(chain: Chain) -> None:
    """A clock that is a minute off causes no warning."""
    chain.database.put_token(make_token())

    assert chain.resolve(TurnedClock(wrong_by=MINUTE)).warnings == ()
