"""The first two links judged: what store and cache have, and whether that is enough."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING

import pytest

from kis_token.core.lookup import enough, judge_row, look
from kis_token.core.resolution import View
from kis_token.core.retry import Retry
from kis_token.core.slot import Row, Slot, describe
from kis_token.errors import IssuanceError, KisTokenError, StoreMisconfigured, StoreOutage, TokenError, TokenUnusable
from kis_token.store.sealing import PlainVault, SealingVault
from kis_token.token import LEAST_USEFUL, AppKey, Token, build_token
from tests.support import ACCOUNT, APP_KEY, TurnedClock, make_settings, make_token

if TYPE_CHECKING:
    from collections.abc import Callable

    from kis_token.config import Settings

NOON = datetime(2026, 3, 2, 12, 0, tzinfo=timezone.utc)
HOUR = timedelta(hours=1)
TEN_MINUTES = timedelta(minutes=10)
OPAQUE = "opaque.token-of-a-test_0123456789"
OUTAGE = StoreOutage("store-unreachable", "Supabase does not answer")
OTHER = AppKey("PSzyxwvutsrqponmlkjihgfedcba76543210", "another-secret-of-the-form-that-kis-gives")


class StillClock:
    """Noon, for ever; off by as much as told."""

    def __init__(self, wrong_by: timedelta = timedelta()) -> None:
        self.wrong_by = wrong_by

    def now(self) -> datetime:
        """Noon, or what this machine takes for it."""
        return NOON + self.wrong_by

    def monotonic(self) -> float:
        """It stands still."""
        return 0.0

    def sleep(self, seconds: float) -> None:
        """Nobody waits here."""

    def jitter(self, low: float, high: float) -> float:
        """The middle."""
        return (low + high) / 2


#: For callers whose time is up: nothing is repeated.
NO_RETRY = Retry(StillClock(), lambda: 0.0, print)


class HeldCache:
    """A cache of one token, or of none with a reason."""

    def __init__(self, token: Token | None = None) -> None:
        self.token = token

    def read(self) -> Token:
        """The token."""
        if self.token is None:
            raise TokenUnusable("there is no cache file")
        return self.token


def living(left: timedelta, key: AppKey = APP_KEY) -> Token:
    """A token with that much life at noon."""
    return make_token(key.key, left=left, age=timedelta(hours=24) - left, now=NOON)


def slot_of(token: Token | None, *, keys: AppKey | None = APP_KEY, date: datetime | None = NOON) -> Slot:
    """What the store answers."""
    rows = {}
    if token is not None:
        rows["access_token"] = Row(token.to_json(), token.expires_at.isoformat(), 7)
    if keys is not None:
        rows |= {"app_key": Row(keys.key, None, 1), "app_secret": Row(keys.secret, None, 2)}
    return Slot(rows, date)


def answering(answer: Slot | KisTokenError) -> Callable[[], Slot]:
    """A store that answers so."""

    def read() -> Slot:
        if isinstance(answer, KisTokenError):
            raise answer
        return answer

    return read


def seen(
    answer: Slot | KisTokenError,
    cached: Token | None = None,
    settings: Settings | None = None,
    wrong_by: timedelta = timedelta(),
) -> View:
    """What is seen with that answer of the store and that token in the cache."""
    return look(
        settings or make_settings(),
        answering(answer),
        HeldCache(cached),
        PlainVault(),
        StillClock(wrong_by),
        retry=NO_RETRY,
    )


def said(view: View) -> list[tuple[str, str]]:
    """What each link said."""
    return [(link.name, link.said) for link in view.links]


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


def test_check_says_whose_clock_it_believed() -> None:
    """Check asks nobody else: without a Date the machine's clock has to do, and the answer says so."""
    found = enough(seen(slot_of(living(3 * HOUR), date=None)), make_settings(INPUT_MODE="check"))
    assert found is not None
    assert "clock was believed" in found.warnings[0]


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


def test_stored_keys_win_over_given_ones() -> None:
    """All machines go by the account in the store; a pair that is not whole there does not count."""
    settings = make_settings(KIS_APP_KEY=OTHER.key, KIS_APP_SECRET=OTHER.secret)
    half = slot_of(None)
    del half.rows["app_secret"]
    assert seen(slot_of(None), settings=settings).app_key == APP_KEY
    assert seen(half, settings=settings).app_key == OTHER
    assert seen(slot_of(None, keys=None), settings=settings).app_key == OTHER
    assert seen(slot_of(None, keys=None)).app_key is None


def test_blanks_around_stored_keys_are_cut_off() -> None:
    """A secret that was pasted into the table with a line break works."""
    assert seen(slot_of(None, keys=AppKey(f" {APP_KEY.key}\n", f"{APP_KEY.secret}\n"))).app_key == APP_KEY


@pytest.mark.parametrize("value", ["", "{", '{"access_token": "1"}', "token"])
def test_row_that_cannot_be_used_is_told_by_its_version(value: str) -> None:
    """A broken row is no error: its version says what a new token replaces."""
    slot = slot_of(None)
    slot.rows["access_token"] = Row(value, None, 9)
    view = seen(slot)
    assert (view.stored, view.unusable_version) == (None, 9)
    assert enough(view, make_settings()) is None
    assert judge_row(view, slot, make_settings(), PlainVault())[:2] == (None, 9)


def test_a_refused_token_counts_as_none_wherever_it_is() -> None:
    """What KIS has refused is taken neither from the store nor from the cache, and its row is to be replaced."""
    token = living(5 * HOUR)
    view = look(
        make_settings(),
        answering(slot_of(token)),
        HeldCache(token),
        PlainVault(),
        StillClock(),
        retry=NO_RETRY,
        refused_id=token.token_id,
    )

    assert (view.stored, view.cached, view.unusable_version) == (None, None, 7)
    assert [text for _, text in said(view)] == ["its token is one that KIS rejects"] * 2


def test_living_token_of_another_app_key_is_an_error() -> None:
    """Two accounts in one slot would replace each other's token for ever."""
    with pytest.raises(TokenError) as caught:
        seen(slot_of(living(3 * HOUR, OTHER)))
    assert caught.value.code == "token-of-another-key"


def test_dead_token_of_another_app_key_is_replaced() -> None:
    """After a change of keys the old account's dead token is in nobody's way."""
    view = seen(slot_of(living(-HOUR, OTHER)))
    assert view.stored is not None
    assert enough(view, make_settings()) is None


def test_living_token_of_another_environment_is_an_error() -> None:
    """A paper token is none for the real account."""
    token = build_token(OPAQUE, expiries=[NOON + HOUR], environment="paper")
    with pytest.raises(TokenError) as caught:
        seen(slot_of(token))
    assert caught.value.code == "token-of-another-environment"


def test_cached_token_of_another_account_is_a_miss() -> None:
    """In the cache it is no error, and not handed out either, outage or not."""
    settings = make_settings(KIS_APP_KEY=APP_KEY.key, KIS_APP_SECRET=APP_KEY.secret)
    view = seen(OUTAGE, living(3 * HOUR, OTHER), settings)
    assert view.cached is None
    assert "another app key" in said(view)[1][1]


def test_sealed_values_need_their_key() -> None:
    """A sealed token or key is no broken row: a new issue would not mend it, so it is an error."""
    vault = SealingVault((bytes(range(32)),))
    for name in ("access_token", "app_key"):
        slot = slot_of(living(HOUR))
        slot.rows[name] = replace(slot.rows[name], value=vault.seal(slot.rows[name].value, "kis", name))
        with pytest.raises(TokenError) as caught:
            seen(slot)
        assert caught.value.code == "sealed-without-key"


def test_sealed_slot_is_opened_with_the_key() -> None:
    """With the key a sealed slot is like any other."""
    vault = SealingVault((bytes(range(32)),))
    token = living(3 * HOUR)
    rows = {name: replace(row, value=vault.seal(row.value, "kis", name)) for name, row in slot_of(token).rows.items()}
    view = look(make_settings(), answering(Slot(rows, NOON)), None, vault, StillClock(), retry=NO_RETRY)
    assert view.app_key == APP_KEY
    assert view.stored is not None
    assert view.stored.token_id == token.token_id


def check() -> Settings:
    """Settings that never issue."""
    return make_settings(INPUT_MODE="check")


def rotate(**variables: str) -> Settings:
    """Settings of the nightly job."""
    return make_settings(INPUT_MODE="rotate", **variables)


def test_check_takes_the_longest_life() -> None:
    """Any living token will do; of store and cache the one that lives longer."""
    stored, cached = living(timedelta(minutes=1)), living(HOUR)
    found = enough(seen(slot_of(stored), cached), check())
    assert found is not None
    assert (found.source, found.token.token_id) == ("cache", cached.token_id)
    found = enough(seen(slot_of(stored)), check())
    assert found is not None
    assert found.source == "supabase"


def test_check_without_a_living_token_is_an_error() -> None:
    """It never issues, and says so."""
    with pytest.raises(IssuanceError) as caught:
        enough(seen(slot_of(living(-HOUR))), check())
    assert (caught.value.code, caught.value.retryable) == ("no-valid-token", False)


@pytest.mark.parametrize(
    ("mode", "age", "warned"),
    [
        ("resolve", 24 * HOUR, False),
        ("resolve", 25 * HOUR, False),
        ("resolve", 25 * HOUR + TEN_MINUTES, True),
        ("resolve", 72 * HOUR, True),
        ("rotate", 72 * HOUR, False),
        ("check", 72 * HOUR, False),
    ],
)
@pytest.mark.parametrize("lifetime", [24 * HOUR, 2160 * HOUR], ids=["a day", "90 days"])
def test_a_rotation_that_has_not_run_is_noticed(mode: str, age: timedelta, lifetime: timedelta, warned: bool) -> None:  # noqa: FBT001 - a table
    """Who resolves and finds a token, dead or alive, more than 2 h older than refresh-after is told of the rotation."""
    token = make_token(left=lifetime - age, age=age, now=NOON)
    slot = slot_of(token)

    view = look(make_settings(INPUT_MODE=mode), answering(slot), None, PlainVault(), StillClock(), retry=NO_RETRY)

    assert [f"The stored token is {age // HOUR} h old" in warning for warning in view.warnings] == [True] * warned


def test_rotate_leaves_a_young_token() -> None:
    """A token that is not due is handed out, and the log says when it will be."""
    found = enough(seen(slot_of(living(22 * HOUR))), rotate())
    assert found is not None
    assert found.links[-1].name == "rotation"
    assert found.links[-1].said.startswith("not due before 2026-03-0")


@pytest.mark.parametrize("left", [timedelta(minutes=59), timedelta(), -HOUR], ids=str)
def test_rotate_renews_what_is_due(left: timedelta) -> None:
    """A token of 23 hours, a dead one, or none: there is more to do."""
    assert enough(seen(slot_of(living(left))), rotate()) is None
    assert enough(seen(slot_of(None)), rotate()) is None
    assert enough(seen(OUTAGE, living(3 * HOUR)), rotate()) is None


def test_force_is_never_content() -> None:
    """Whatever there is, it is to be replaced."""
    assert enough(seen(slot_of(living(23 * HOUR))), make_settings(INPUT_MODE="force")) is None


def test_at_hand_is_the_longest_living_token_that_can_be_used() -> None:
    """Of two the longer; below 30 seconds none."""
    short, longer = living(LEAST_USEFUL), living(HOUR)
    view = View(now=NOON, links=(), stored=short, cached=longer)
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
