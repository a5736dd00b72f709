"""The first two links judged: what store and cache have, and whether that is enough."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from kis_token.core.lookup import enough, look
from kis_token.core.resolution import View
from kis_token.core.retry import Retry
from kis_token.core.slot import Slot, describe
from kis_token.errors import StoreMisconfigured
from kis_token.store.sealing import PlainVault
from kis_token.token import LEAST_USEFUL, AppKey, Token
from tests.core.lookup_harness import (
    HOUR,
    NO_RETRY,
    NOON,
    OUTAGE,
    TEN_MINUTES,
    HeldCache,
    StillClock,
    answering,
    living,
    said,
    seen,
    slot_of,
)
from tests.support import ACCOUNT, APP_KEY, TurnedClock, make_settings, make_token


def test_fresh_stored_token_is_enough() -> None:
    """It is handed out with the account's keys, the links and the store's time."""
    token = living(3 * HOUR)
    view = seen(slot_of(token))
    found = enough(view, make_settings())
    assert found is not None
    assert found.token.token_id == token.token_id
    assert (found.source, found.refreshed, found.expired, found.now) == ("supabase", False, False, NOON)
    assert found.app_key == APP_KEY
    assert said(view) == [("supabase", "its token is fresh, 3 h 0 min left"), ("cache", "there is no cache file")]


@pytest.mark.parametrize(
    ("left", "is_enough"),
    [(TEN_MINUTES + timedelta(seconds=1), True), (TEN_MINUTES, False), (LEAST_USEFUL, False), (-HOUR, False)],
    ids=str,
)
def test_stored_token_is_enough_only_while_fresh(left: timedelta, is_enough: bool) -> None:  # noqa: FBT001 - a table's column
    """What is stale or dead asks for more than looking."""
    assert (enough(seen(slot_of(living(left))), make_settings()) is not None) is is_enough


def test_longer_need_makes_a_token_stale() -> None:
    """What the caller needs decides."""
    view = seen(slot_of(living(3 * HOUR)))
    assert enough(view, make_settings(KIS_TOKEN_MIN_VALIDITY="2h")) is not None
    assert enough(view, make_settings(KIS_TOKEN_MIN_VALIDITY="3h")) is None


@pytest.mark.parametrize("wrong_by", [-9 * HOUR, 9 * HOUR], ids=["behind", "ahead"])
def test_freshness_is_judged_by_the_store_s_clock(wrong_by: timedelta) -> None:
    """A machine nine hours off sees the same state as any other, and is told how far off it is."""
    fresh = enough(seen(slot_of(living(20 * HOUR)), wrong_by=wrong_by), make_settings())
    dead = enough(seen(slot_of(living(-HOUR)), wrong_by=wrong_by), make_settings())
    assert fresh is not None
    assert fresh.now == NOON
    assert fresh.warnings == (f"This machine's clock is 32400 s {'behind' if wrong_by < timedelta() else 'ahead'}.",)
    assert dead is None


def test_where_the_clocks_disagree_on_a_token_the_database_is_asked() -> None:
    """A token that is fresh by the answer's Date and dead by the machine's clock is not called either: one is wrong."""
    view = seen(slot_of(living(3 * HOUR)), wrong_by=9 * HOUR)
    assert enough(view, make_settings()) is None
    assert enough(view, make_settings(INPUT_MODE="rotate")) is None


@pytest.mark.parametrize("key", [AppKey("two\nlines-of-a-key-0123456789", "c2VjcmV0"), AppKey("PSabc", "a secret")])
def test_stored_key_that_cannot_be_one_is_named(key: AppKey) -> None:
    """A stored key with a line break or a blank is a mistake in the set-up; the error does not quote it."""
    with pytest.raises(StoreMisconfigured) as caught:
        seen(slot_of(living(3 * HOUR), keys=key))
    assert caught.value.code in ("invalid-app-key", "invalid-app-secret")
    assert key.key not in f"{caught.value}"
    assert key.secret not in f"{caught.value}"


def test_small_skew_is_nobody_s_business() -> None:
    """Two minutes are tolerated in silence."""
    assert seen(slot_of(living(HOUR)), wrong_by=timedelta(minutes=2)).warnings == ()


def test_without_the_store_s_time_nothing_is_called_fresh() -> None:
    """An answer without Date leaves this machine's clock, on whose word no stored token is handed out."""
    view = seen(slot_of(living(3 * HOUR), date=None))
    assert not view.certain
    assert enough(view, make_settings()) is None


def test_outage_with_a_living_cached_token_is_enough() -> None:
    """Any token that lives, fresh or not, with a warning that says why."""
    token = living(timedelta(minutes=1))
    settings = make_settings(KIS_APP_KEY=APP_KEY.key, KIS_APP_SECRET=APP_KEY.secret)
    found = enough(seen(OUTAGE, token, settings), settings)
    assert found is not None
    assert found.token.token_id == token.token_id
    assert found.source == "cache"
    assert found.app_key == APP_KEY
    assert found.warnings == (f"{OUTAGE}; the cached token is used.",)


@pytest.mark.parametrize("cached", [None, living(LEAST_USEFUL - timedelta(seconds=1))], ids=["none", "dead"])
def test_outage_without_a_living_cached_token_asks_for_more(cached: Token | None) -> None:
    """Nothing is handed out that would not live through the caller's first request."""
    view = seen(OUTAGE, cached)
    assert view.outage is OUTAGE
    assert enough(view, make_settings()) is None
    assert said(view)[0] == ("supabase", f"{OUTAGE}")


@pytest.mark.parametrize(("left", "tries"), [(29, 2), (31, 2), (34, 2), (36, 1), (600, 1)])
def test_cached_token_that_ends_while_the_store_is_asked_is_no_reason_to_give_up(left: float, tries: int) -> None:
    """Patience goes by the cached token as it is when a try has failed, not as it was before a try that took 5 s."""
    clock, asked = TurnedClock(), []
    token = make_token(now=clock.now(), left=timedelta(seconds=left))

    def read() -> Slot:
        asked.append(clock.monotonic())
        if len(asked) == 1:
            clock.jump(5.0)
            raise OUTAGE
        return Slot({}, clock.now())

    retry = Retry(clock, lambda: 170.0, print)
    view = look(make_settings(), read, HeldCache(token), PlainVault(), clock, retry=retry)

    assert len(asked) == tries
    assert (view.outage is None) is (tries == 2)


def test_token_for_which_a_caller_gives_up_is_the_one_it_gets() -> None:
    """A cache file that goes in that very moment takes nothing away: the look that decided is the look that counts."""
    clock, token = TurnedClock(), make_token()

    class VanishingCache(HeldCache):
        def read(self) -> Token:
            found = super().read()
            self.token = None  # gone after the first look
            return found

    view = look(make_settings(), answering(OUTAGE), VanishingCache(token), PlainVault(), clock, retry=NO_RETRY)

    found = enough(view, make_settings())
    assert found is not None
    assert (found.token.token_id, found.source) == (token.token_id, "cache")


def test_cached_token_does_not_stand_in_for_a_store_that_answers() -> None:
    """A store that works and has no token is believed: somebody has to issue or to store."""
    assert enough(seen(slot_of(None), living(3 * HOUR)), make_settings()) is None


def test_misconfigured_store_is_no_outage() -> None:
    """A mistake in the set-up is not covered up with a cached token."""
    with pytest.raises(StoreMisconfigured):
        seen(StoreMisconfigured("store-table-missing", "there is no table"), living(3 * HOUR))


def test_cache_that_is_turned_off_is_not_asked() -> None:
    """And says so."""
    view = look(make_settings(), answering(slot_of(None)), None, PlainVault(), StillClock(), retry=NO_RETRY)
    assert said(view) == [("supabase", "no token is stored"), ("cache", "turned off")]


def test_at_hand_is_the_longest_living_token_that_can_be_used() -> None:
    """Of two the longer; below 30 seconds none."""
    short, longer = living(LEAST_USEFUL), living(HOUR)
    view = View(now=NOON, trace=(), stored=short, cached=longer)
    assert view.at_hand() == (longer, "cache")
    assert replace(view, cached=None).at_hand() == (short, "supabase")
    assert replace(view, cached=None, now=NOON + timedelta(seconds=1)).at_hand() is None


WORDS = {
    timedelta(hours=3, minutes=2): "its token is fresh, 3 h 2 min left",
    timedelta(minutes=5): "its token is valid, but only 0 h 5 min left",
    timedelta(seconds=29): "its token has expired",
    -HOUR: "its token has expired",
}


@pytest.mark.parametrize(("left", "words"), WORDS.items(), ids=str)
def test_state_in_words(left: timedelta, words: str) -> None:
    """People read how much life is left."""
    assert describe(living(left), NOON, TEN_MINUTES) == words


def test_repr_of_what_was_seen_shows_no_secret() -> None:
    """View and resolution can land in a log."""
    token = living(3 * HOUR)
    view = seen(slot_of(token), token)
    shown = f"{view!r} {enough(view, make_settings())!r}"
    for secret in (token.value, ACCOUNT.app_key, ACCOUNT.app_secret):
        assert secret not in shown, "a secret is shown"
