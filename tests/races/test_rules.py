"""The lease's rules through the whole chain, with concurrent callers: two slots, refusals, spoilt rows."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from kis_token.core.resolution import Resolution
from kis_token.errors import IssuanceError, IssuerRefused
from kis_token.kis.api import KISIssuer
from kis_token.sandbox.kis_http import TOKEN_PATH
from kis_token.sandbox.loopback import Fault
from tests.races.concurrent_callers import COMMIT, SharedClock, at_once, held, new_round, resolutions
from tests.resolver_harness import expired_token, stale_token
from tests.support import APP_KEY, HOUR, in_rounds, make_token, utc_now, wait_until

if TYPE_CHECKING:
    from kis_token.token import Token
    from tests.races.concurrent_callers import Outcome
    from tests.resolver_harness import Chain

CALLERS = 8

WRONG_SECRET = "d3Jvbmc="

REFUSALS = pytest.mark.parametrize("code", ["EGW00103", "EGW00105", "EGW00002"])


def resolve_at_once(chain: Chain, *inputs: dict[str, str]) -> list[Outcome]:
    """Run a caller for each of ``inputs``, or eight equal callers, all at one moment and with a shared clock."""
    inputs = inputs or ({},) * CALLERS
    clock = SharedClock(len(inputs), chain.pass_time)
    callers = [chain.resolver(clock, None, **{"cache_path": "off", **each}) for each in inputs]
    return at_once([caller.resolve for caller in callers], clock)


def resolve_behind_the_first(chain: Chain) -> list[Outcome]:
    """Run eight callers. KIS answers the first caller only when all other callers wait for that caller."""
    with ThreadPoolExecutor(1) as pool, held(chain.kis.production, TOKEN_PATH):
        running = pool.submit(resolve_at_once, chain)
        wait_until(lambda: chain.store_calls.count("begin_issuance") == CALLERS)
    return running.result()


# two slots


@in_rounds(2, 10)
def test_one_key_in_two_slots(chain: Chain, rounds: int) -> None:
    """Eight callers on each of two slots with the same key make one call.

    The callers of the first slot get the token, and the callers of the other slot get an error.
    """
    slots = ("kis", "kis-second") * CALLERS
    for _ in range(rounds):
        with new_round(chain) as fresh:
            got = resolve_at_once(fresh, *({"service_name": slot} for slot in slots))

            assert fresh.issue_calls == 1
            (first,) = (slot for slot in set(slots) if fresh.database.row(slot))
            found = resolutions([each for slot, each in zip(slots, got, strict=True) if slot == first])
            assert {each.token.token_id for each in found} == {fresh.database.stored_id(first)}
            others = [each for slot, each in zip(slots, got, strict=True) if slot != first]
            assert {isinstance(each, IssuanceError) and each.code for each in others} == {"key-in-two-slots"}


# a short validity


def test_a_min_validity_beyond_kis_s_is_renewed_after_six_hours(chain: Chain) -> None:
    """A token whose validity is always shorter than `min-validity` is renewed as soon as KIS issues a new token."""
    chain.kis.configure(expires_in=12 * 3600)
    first = chain.resolve(min_validity="12h", cache_path="off").token.token_id
    for _ in range(30):
        chain.pass_time(600)
        assert chain.resolve(min_validity="12h", cache_path="off").token.token_id == first
    assert chain.issue_calls == 1
    chain.pass_time(3600)

    second = chain.resolve(min_validity="12h", cache_path="off")

    assert (second.refreshed, chain.issue_calls) == (True, 2)
    assert chain.database.stored_id() == second.token.token_id != first


# KIS refuses


@REFUSALS
def test_a_refusal_reaches_all_waiting_callers(chain: Chain, code: str) -> None:
    """KIS is called once, and each caller's error has the code of the refusal.

    Each waiting caller logs its wait once.
    """
    chain.refuse_issue(code)

    got = resolve_behind_the_first(chain)

    assert chain.issue_calls == 1
    assert {each.kis_code if isinstance(each, IssuerRefused) else each for each in got} == {code}
    assert len(chain.told) == CALLERS - 1


@REFUSALS
def test_a_refusal_is_a_warning_with_a_stale_token(chain: Chain, code: str) -> None:
    """All callers use the valid token, and a warning has the reason for the failed renewal."""
    token = stale_token()
    chain.database.put_token(token)
    chain.refuse_issue(code)

    got = resolutions(resolve_behind_the_first(chain))

    assert chain.issue_calls == 1
    assert {each.token.token_id for each in got} == {token.token_id}
    assert [each.warnings for each in got if code not in " ".join(each.warnings)] == []


@in_rounds(2, 10)
def test_a_corrected_secret_among_wrong_ones(chain: Chain, rounds: int) -> None:
    """Many callers with a wrong secret make one call to KIS.

    If one caller has the correct secret, this caller issues without delay.
    """
    wrong = {"app_secret": WRONG_SECRET}
    for _ in range(rounds // 2):
        with new_round(chain) as fresh:
            refused = resolve_at_once(fresh, *[wrong] * CALLERS)
            assert fresh.issue_calls == 1
            assert {each.kis_code if isinstance(each, IssuerRefused) else each for each in refused} == {"EGW00105"}

            first, *others = resolve_at_once(fresh, {}, *[wrong] * CALLERS)

            assert isinstance(first, Resolution)
            assert (first.refreshed, fresh.issue_calls) == (True, 2)
            assert fresh.database.stored_id() == first.token.token_id
            found = [each for each in others if isinstance(each, Resolution)]
            assert {each.token.token_id for each in found} <= {first.token.token_id}
            assert all(isinstance(each, (Resolution, IssuerRefused)) for each in others)


def test_another_program_has_just_issued(chain: Chain) -> None:
    """After EGW00133 the holder waits for a minute.

    After a minute, one call returns the other program's token, and all callers use this token.
    """
    outside = KISIssuer(chain.kis.production_url, "production").issue(APP_KEY, utc_now())

    got = resolutions(resolve_behind_the_first(chain))

    assert [seen.code for seen in chain.kis.requests] == [None, "EGW00133", None]
    assert {each.token.token_id for each in got} == {outside.token_id} == {chain.database.stored_id()}
    assert len(chain.told) == CALLERS, "each waiting caller logs that once"


# rows that only look fresh


def spoil(chain: Chain, token: Token, how: str) -> None:
    """Replace the token's row by one that no caller can use, although its column ``expires_at`` looks fresh."""
    ended = json.dumps({**json.loads(token.to_json()), "expires_at": (utc_now() - HOUR).isoformat()})
    chain.database.put("access_token", {"broken": "{", "ended": ended}[how], utc_now() + 23 * HOUR)


@pytest.mark.parametrize("how", ["broken", "ended"])
def test_a_spoilt_row_is_mended_with_one_call(chain: Chain, how: str) -> None:
    """One call brings the token back for all callers, and later callers make no further call."""
    token = chain.resolve(cache_path="off").token
    spoil(chain, token, how)
    for _ in range(4):
        chain.pass_time(71)
        got = resolutions(resolve_at_once(chain))
        assert {each.token.token_id for each in got} == {token.token_id} == {chain.database.stored_id()}
    assert chain.issue_calls == 2
    chain.supabase.server.forget()
    chain.resolve(cache_path="off")
    assert chain.store_calls == ["read"]


def test_a_spoilt_row_is_mended_although_an_answer_is_lost(chain: Chain) -> None:
    """A lost answer to a commit does not change the result: one call replaces the spoilt row."""
    token = chain.resolve(cache_path="off").token
    spoil(chain, token, "ended")
    chain.supabase.server.add_fault(Fault("reset", COMMIT, after=True))
    for _ in range(4):
        chain.pass_time(71)
        assert chain.resolve(chain.clock(), cache_path="off").token.token_id == token.token_id
    assert chain.issue_calls == 2


@pytest.mark.parametrize("how", ["broken", "ended"])
def test_a_row_that_is_spoilt_after_the_read(chain: Chain, how: str) -> None:
    """If begin reports a token as fresh that the caller cannot use, the caller repeats begin and replaces the token."""
    chain.database.put_token(expired_token())
    resolver = chain.resolver(cache_path="off")
    view = resolver.look()
    spoil(chain, make_token(), how)

    got = resolver.resolve(view)

    assert (got.refreshed, chain.issue_calls) == (True, 1)
    assert chain.database.stored_id() == got.token.token_id


# a rotation


@pytest.mark.parametrize("is_stored", [True, False], ids=["stored", "lost"])
def test_rotations_beside_old_caches(chain: Chain, *, is_stored: bool) -> None:
    """Machines with the old token in their caches do not store it again, and do not rotate again at their own ticks."""
    old = make_token(left=12 * HOUR, age=12 * HOUR)
    if is_stored:
        chain.database.put_token(old)
    caches = [str(chain.folder / f"{number}.json") for number in range(4)]
    for cache in caches:
        chain.cache(cache_path=cache).write(old)

    ticks = []
    for cache in caches:
        ticks.append(chain.resolve(mode="rotate", refresh_after="8h", cache_path=cache))
        chain.pass_time(1800)

    assert [tick.refreshed for tick in ticks] == [True, False, False, False]
    assert {tick.token.token_id for tick in ticks} == {chain.database.stored_id()} != {old.token_id}
    assert {chain.cache(cache_path=cache).read().token_id for cache in caches} == {chain.database.stored_id()}
    assert chain.issue_calls == 1
