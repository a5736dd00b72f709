"""Whether the tokens of store and cache are enough for a caller, or a new token is needed."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from kis_token.core.lookup import enough, look
from kis_token.core.resolution import View
from kis_token.core.retry import Retry
from kis_token.core.slot import PlainVault, Slot, describe
from kis_token.errors import StoreMisconfigured
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
    said,
    seen,
    slot_of,
    token_with,
)
from tests.support import ACCOUNT, APP_KEY, TurnedClock, make_settings, make_token


def test_fresh_stored_token_is_enough() -> None:
    """A fresh stored token is handed out with the account's keys, the trace and the store's time."""
    token = token_with(3 * HOUR)
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
    """A stale or expired stored token is not enough."""
    assert (enough(seen(slot_of(token_with(left))), make_settings()) is not None) is is_enough


def test_longer_need_makes_a_token_stale() -> None:
    """The caller's ``min-validity`` decides whether a token is fresh."""
    view = seen(slot_of(token_with(3 * HOUR)))
    assert enough(view, make_settings(KIS_TOKEN_MIN_VALIDITY="2h")) is not None
    assert enough(view, make_settings(KIS_TOKEN_MIN_VALIDITY="3h")) is None


@pytest.mark.parametrize("wrong_by", [-9 * HOUR, 9 * HOUR], ids=["behind", "ahead"])
def test_freshness_is_judged_by_the_store_s_clock(wrong_by: timedelta) -> None:
    """A machine whose clock is nine hours off comes to the same decision as any other, and gets a warning."""
    fresh = enough(seen(slot_of(token_with(20 * HOUR)), wrong_by=wrong_by), make_settings())
    expired = enough(seen(slot_of(token_with(-HOUR)), wrong_by=wrong_by), make_settings())
    assert fresh is not None
    assert fresh.now == NOON
    assert fresh.warnings == (f"This machine's clock is 32400 s {'behind' if wrong_by < timedelta() else 'ahead'}.",)
    assert expired is None


def test_where_the_clocks_disagree_on_a_token_the_database_is_asked() -> None:
    """If a token is fresh by the answer's Date and expired by the machine's clock, the database must decide."""
    view = seen(slot_of(token_with(3 * HOUR)), wrong_by=9 * HOUR)
    assert enough(view, make_settings()) is None
    assert enough(view, make_settings(INPUT_MODE="rotate")) is None


@pytest.mark.parametrize("key", [AppKey("two\nlines-of-a-key-0123456789", "c2VjcmV0"), AppKey("PSabc", "a secret")])
def test_stored_key_that_cannot_be_one_is_named(key: AppKey) -> None:
    """A stored key with a line break or a blank is a configuration error, and the error does not quote the key."""
    with pytest.raises(StoreMisconfigured) as caught:
        seen(slot_of(token_with(3 * HOUR), keys=key))
    assert caught.value.code in ("invalid-app-key", "invalid-app-secret")
    assert key.key not in f"{caught.value}"
    assert key.secret not in f"{caught.value}"


def test_small_skew_causes_no_warning() -> None:
    """A clock that is two minutes off causes no warning."""
    assert seen(slot_of(token_with(HOUR)), wrong_by=timedelta(minutes=2)).warnings == ()


def test_without_the_store_s_time_nothing_is_called_fresh() -> None:
    """If the answer has no Date, no stored token counts as fresh, because this machine's clock may be wrong."""
    view = seen(slot_of(token_with(3 * HOUR), date=None))
    assert not view.certain
    assert enough(view, make_settings()) is None


def test_outage_with_a_valid_cached_token_is_enough() -> None:
    """In an outage, any valid cached token is used, fresh or stale, with a warning that names the reason."""
    token = token_with(timedelta(minutes=1))
    settings = make_settings(KIS_APP_KEY=APP_KEY.key, KIS_APP_SECRET=APP_KEY.secret)
    found = enough(seen(OUTAGE, token, settings), settings)
    assert found is not None
    assert found.token.token_id == token.token_id
    assert found.source == "cache"
    assert found.app_key == APP_KEY
    assert found.warnings == (f"{OUTAGE.brief}; the cached token is used.",)


@pytest.mark.parametrize("cached", [None, token_with(LEAST_USEFUL - timedelta(seconds=1))], ids=["none", "expired"])
def test_outage_without_a_valid_cached_token_is_not_enough(cached: Token | None) -> None:
    """In an outage, a cached token with less than 30 s left is not handed out."""
    view = seen(OUTAGE, cached)
    assert view.outage is OUTAGE
    assert enough(view, make_settings()) is None
    assert said(view)[0] == ("supabase", OUTAGE.brief)


@pytest.mark.parametrize(("left", "tries"), [(29, 2), (31, 2), (34, 2), (36, 1), (600, 1)])
def test_cached_token_that_ends_during_the_read_does_not_end_the_retry_time(left: float, tries: int) -> None:
    """The retry_time depends on whether the cached token is still valid when a try has failed, 5 s after its start."""
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
    """A caller that stops waiting because a token is cached gets that token, even if the file then disappears."""
    clock, token = TurnedClock(), make_token()

    class VanishingCache(HeldCache):
        def read(self) -> Token:
            found = super().read()
            self.token = None  # gone after the first read
            return found

    view = look(make_settings(), answering(OUTAGE), VanishingCache(token), PlainVault(), clock, retry=NO_RETRY)

    found = enough(view, make_settings())
    assert found is not None
    assert (found.token.token_id, found.source) == (token.token_id, "cache")


def test_cached_token_does_not_stand_in_for_a_store_that_answers() -> None:
    """If the store answers and has no token, a cached token is not enough: the caller must store it or issue one."""
    assert enough(seen(slot_of(None), token_with(3 * HOUR)), make_settings()) is None


def test_misconfigured_store_is_no_outage() -> None:
    """A configuration error is raised although a token is cached."""
    with pytest.raises(StoreMisconfigured):
        seen(StoreMisconfigured("store-table-missing", "there is no table"), token_with(3 * HOUR))


def test_cache_that_is_turned_off_is_not_asked() -> None:
    """A cache that is turned off is not read, and the trace says so."""
    view = look(make_settings(), answering(slot_of(None)), None, PlainVault(), StillClock(), retry=NO_RETRY)
    assert said(view) == [("supabase", "no token is stored"), ("cache", "turned off")]


def test_at_hand_is_the_valid_token_with_the_latest_end() -> None:
    """`at_hand` returns the token with the later end, and None if no token has 30 seconds left."""
    short, longer = token_with(LEAST_USEFUL), token_with(HOUR)
    view = View(now=NOON, trace=(), stored=short, cached=longer)
    assert view.at_hand() == (longer, "cache")
    assert replace(view, cached=None).at_hand() == (short, "supabase")
    assert replace(view, cached=None, now=NOON + timedelta(seconds=1)).at_hand() is None


WORDS = {
    timedelta(hours=3, minutes=2): "its token is fresh, 3 h 2 min left",
    timedelta(minutes=5): "its token is valid, but has only 0 h 5 min left",
    timedelta(seconds=29): "its token has expired",
    -HOUR: "its token has expired",
}


@pytest.mark.parametrize(("left", "words"), WORDS.items(), ids=str)
def test_state_in_words(left: timedelta, words: str) -> None:
    """The description of a token names its state and the time left."""
    assert describe(token_with(left), NOON, TEN_MINUTES) == words


def test_repr_of_view_and_resolution_shows_no_secret() -> None:
    """View and resolution may be logged, so their repr shows no secret."""
    token = token_with(3 * HOUR)
    view = seen(slot_of(token), token)
    shown = f"{view!r} {enough(view, make_settings())!r}"
    for secret in (token.value, ACCOUNT.app_key, ACCOUNT.app_secret):
        assert secret not in shown, "a secret is shown"
