"""Many callers make one tokenP call: waiting, lost answers, late starts, and sixteen callers at once."""

from __future__ import annotations

import socket
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier, Event
from typing import TYPE_CHECKING, Any

import pytest

from kis_token.clock import SystemClock
from kis_token.errors import IssuanceError, IssuerOutage, IssuerRateLimited
from kis_token.sandbox.kis_http import PRICE_PATH, TOKEN_PATH, error_response
from kis_token.sandbox.loopback import Fault, LoopbackServer
from tests.resolver_harness import WatchedIssuer
from tests.support import HOUR, MINUTE, Caller, make_token
from tools.certificate import make_certificate

if TYPE_CHECKING:
    from pathlib import Path

    from tests.resolver_harness import Chain

CALLERS = 16


# many at once


@pytest.mark.parametrize("cache", ["off", "cache.json"], ids=["machines of their own", "one machine"])
def test_sixteen_cold_callers_make_one_call(chain: Chain, cache: str) -> None:
    """When many callers start on an empty slot, KIS is called once and all of them have its token."""
    barrier = Barrier(CALLERS)
    cache_path = cache if cache == "off" else str(chain.folder / cache)

    def resolve(_: int) -> tuple[str, bool]:
        resolver = chain.resolver(SystemClock(), cache_path=cache_path)
        barrier.wait(timeout=30)
        got = resolver.resolve()
        return got.token.token_id, got.refreshed

    with ThreadPoolExecutor(CALLERS) as pool:
        got = list(pool.map(resolve, range(CALLERS)))

    assert chain.issue_calls == 1
    assert {token_id for token_id, _ in got} == {chain.database.stored_id()}
    assert [refreshed for _, refreshed in got].count(True) == 1


def test_a_waiter_gets_the_winners_token(chain: Chain) -> None:
    """A caller that waits for another caller's token logs one line, and then uses that token."""
    issuing, told = Event(), Event()

    def hold() -> None:
        issuing.set()
        assert told.wait(30)

    with ThreadPoolExecutor(1) as pool:
        winner = pool.submit(chain.resolve, None, WatchedIssuer(chain, before=hold), cache_path="off")
        assert issuing.wait(30)

        def let_winner_finish(_: float) -> None:
            told.set()
            winner.result(30)

        clock = chain.clock()
        clock.on_sleep = let_winner_finish
        waiter = chain.resolve(clock, cache_path="off")

    assert waiter.token.token_id == winner.result().token.token_id
    assert (waiter.source, waiter.refreshed, winner.result().refreshed) == ("supabase", False, True)
    assert (chain.issue_calls, len(chain.told)) == (1, 1)
    assert "somebody on laptop is issuing a token" in chain.told[0]


def test_a_lost_holder_is_outwaited(chain: Chain) -> None:
    """If the holder never finishes, the waiter logs one line and issues a token itself after 70 s."""
    clock = chain.clock()
    begun = clock.monotonic()
    Caller(chain.database, label="a crashed job").begin()

    got = chain.resolve(clock)

    assert (got.source, chain.issue_calls) == ("oauth", 1)
    assert 69 < clock.monotonic() - begun < 80  # the pauses, and the seconds that a slow machine needs
    assert max(clock.slept) <= 10
    assert len(chain.told) == 1


def test_pauses_are_short_while_another_holds_the_lease(chain: Chain) -> None:
    """A caller that waits for an active holder reads the store at least once a second."""
    holder = Caller(chain.database)
    holder.begin()
    clock = chain.clock()
    clock.on_sleep = lambda _: holder.commit(make_token()) if len(clock.slept) == 8 else None

    assert chain.resolve(clock).source == "supabase"
    assert len(clock.slept) == 8
    assert max(clock.slept) <= 1


def test_a_lease_that_ended_without_a_token_is_taken_over(chain: Chain) -> None:
    """When the holder gives up, a waiter notices it within seconds and issues a token."""
    holder = Caller(chain.database)
    holder.begin()
    clock = chain.clock()
    clock.on_sleep = lambda _: holder.abort("kis-unreachable", 0 * MINUTE) if len(clock.slept) == 2 else None

    assert chain.resolve(clock).source == "oauth"
    assert sum(clock.slept) < 10


def test_a_short_deadline_ends_the_wait(chain: Chain) -> None:
    """If the deadline ends a wait, the error names the holder."""
    Caller(chain.database, label="acme/bot run 7 trade").begin()
    with pytest.raises(IssuanceError, match="acme/bot run 7 trade") as caught:
        chain.resolve(timeout="30s")
    assert (caught.value.code, caught.value.retryable, chain.issue_calls) == ("wait-too-long", True, 0)


def test_a_wait_beyond_the_deadline_is_not_begun(chain: Chain) -> None:
    """If KIS may not be called before the deadline, a caller fails at once, with the last error."""
    holder = Caller(chain.database)
    holder.begin()
    holder.abort("kis-unreachable", 61 * MINUTE / 60)
    clock = chain.clock()
    with pytest.raises(IssuanceError, match="kis-unreachable") as caught:
        chain.resolve(clock, timeout="45s")
    assert (caught.value.code, clock.slept, chain.issue_calls) == ("wait-too-long", [], 0)


def test_too_little_time_to_issue(chain: Chain) -> None:
    """With less than 20 s left, a caller does not call KIS and gives its lease back, so another caller can issue."""
    with pytest.raises(IssuanceError) as caught:
        chain.resolve(timeout="19s")
    assert (caught.value.code, chain.issue_calls) == ("wait-too-long", 0)
    assert chain.resolve().source == "oauth"


def test_a_stale_token_is_used_while_another_renews(chain: Chain) -> None:
    """A caller with a valid token waits at most three seconds for another caller's renewal."""
    token = make_token(left=5 * MINUTE, age=23 * HOUR)
    chain.database.put_token(token)
    Caller(chain.database).begin()
    clock = chain.clock()

    got = chain.resolve(clock)
    assert (got.token.token_id, got.source, chain.issue_calls) == (token.token_id, "supabase", 0)
    assert sum(clock.slept) <= 3


def test_a_renewal_that_is_soon_done_is_waited_for(chain: Chain) -> None:
    """If another caller's renewal takes only a second or two, a caller with a stale token gets the new token."""
    chain.database.put_token(make_token(left=5 * MINUTE, age=23 * HOUR))
    holder, token = Caller(chain.database), make_token()
    holder.begin()
    clock = chain.clock()
    clock.on_sleep = lambda _: holder.commit(token) if len(clock.slept) == 3 else None

    got = chain.resolve(clock)
    assert (got.token.token_id, got.source, len(clock.slept)) == (token.token_id, "supabase", 3)


def test_a_renewal_that_was_given_up_is_taken_over(chain: Chain) -> None:
    """A caller with a stale token asks for the lease a second time if the holder is slow: the lease may be free."""
    chain.database.put_token(make_token(left=5 * MINUTE, age=23 * HOUR))
    holder = Caller(chain.database)
    holder.begin()
    clock = chain.clock()
    clock.on_sleep = lambda _: holder.abort("kis-unreachable", 0 * MINUTE) if len(clock.slept) == 3 else None

    got = chain.resolve(clock)
    assert (got.source, got.refreshed, chain.issue_calls) == ("oauth", True, 1)


def test_a_token_about_to_end_is_not_worth_having(chain: Chain) -> None:
    """A token with less than 30 s left is not used: the caller waits for the new token."""
    chain.database.put_token(make_token(left=20 * MINUTE / 60, age=23 * HOUR))
    holder = Caller(chain.database)
    holder.begin()
    token = make_token()
    clock = chain.clock()
    clock.on_sleep = lambda _: holder.commit(token)

    assert chain.resolve(clock).token.token_id == token.token_id


# late starts


@pytest.mark.parametrize("seconds", [6, 300])
def test_a_late_start_makes_no_call(chain: Chain, seconds: int) -> None:
    """A caller whose machine was suspended after the grant ends that lease, asks for another, and calls KIS once."""
    clock = chain.clock()
    resolver = chain.resolver(clock, timeout="1h")
    store = chain.stores[-1]
    begin, statuses = store.begin, []

    def late_begin(*args: object, **kwargs: object) -> object:
        begun = begin(*args, **kwargs)  # type: ignore[arg-type]  # passed on
        statuses.append(begun.status)
        if len(statuses) == 1:
            clock.jump(seconds)
        return begun

    store.begin = late_begin  # type: ignore[assignment,method-assign]  # the machine sleeps here
    got = resolver.resolve()

    assert (got.source, chain.issue_calls, statuses) == ("oauth", 1, ["granted", "granted"])
    assert chain.database.outcomes() == ["granted", "aborted", "granted", "committed"]


@pytest.mark.parametrize("has_tls", [False, True], ids=["plain", "tls"])
def test_a_slow_name_server_makes_one_lease_late(
    chain: Chain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, has_tls: bool
) -> None:
    """If the lookup of KIS's name takes 14 s, nothing is sent to KIS in that lease.

    The next lease needs no further lookup, and its call is sent at once.
    """
    certificate, context = make_certificate(tmp_path)
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", certificate)
    kis = LoopbackServer(lambda request: chain.kis.production.answer(request)[0], tls=context if has_tls else None)
    resolve, asked = socket.getaddrinfo, list[object]()
    clock = chain.clock()

    def slow(host: str, port: int, *arguments: Any, **named: Any) -> Any:  # noqa: ANN401 - getaddrinfo's
        if f"{port}" == kis.url.rpartition(":")[2]:
            asked.append(host)
            clock.jump(14)
        return resolve(host, port, *arguments, **named)

    monkeypatch.setattr(socket, "getaddrinfo", slow)
    with kis:
        got = chain.resolve(clock, base_url=kis.url)

    assert (got.source, chain.issue_calls, len(asked)) == ("oauth", 1, 1)
    assert chain.database.outcomes() == ["granted", "aborted", "granted", "committed"]
    assert len(kis.seen) == 1


# KIS answers with a rate limit, or its answer is lost


def test_rate_limited_looks_at_the_store(chain: Chain) -> None:
    """If KIS answers EGW00133 and another caller has stored a token since, that token is used without a wait."""
    token = make_token()
    chain.refuse_issue("EGW00133")
    issuer = WatchedIssuer(chain, before=lambda: chain.database.put_token(token))
    clock = chain.clock()

    got = chain.resolve(clock, issuer)
    assert (got.token.token_id, got.source, clock.slept) == (token.token_id, "supabase", [])
    assert chain.issue_calls == 1


def test_rate_limited_waits_once(chain: Chain) -> None:
    """If KIS answers EGW00133 and no token is stored, the caller calls KIS once more, a minute later."""
    chain.refuse_issue("EGW00133")
    clock = chain.clock()
    begun = clock.monotonic()

    got = chain.resolve(clock)
    assert (got.source, chain.issue_calls, chain.database.lease()["last_error"]) == ("oauth", 2, None)
    assert 60 < clock.monotonic() - begun < 75
    assert "EGW00133" in chain.told[0]


def test_rate_limited_twice_is_an_error(chain: Chain) -> None:
    """A second EGW00133 is an error: the caller does not call KIS a third time."""
    chain.refuse_issue("EGW00133", times=9)
    with pytest.raises(IssuerRateLimited):
        chain.resolve(chain.clock(), timeout="10m")
    assert chain.issue_calls == 2


def test_an_unknown_outcome_uses_the_minute_up(chain: Chain) -> None:
    """If tokenP's answer is lost, the call is not repeated. A minute later, the next call returns the lost token."""
    chain.kis.production.add_fault(Fault("reset", TOKEN_PATH, after=True))
    with pytest.raises(IssuerOutage):
        chain.resolve()
    lease = chain.database.lease()
    assert (chain.issue_calls, lease["holder"]) == (1, None)

    assert chain.resolve().source == "oauth"
    assert (chain.issue_calls, chain.kis.counts("production").issues) == (2, 1)


# verify


def test_a_new_token_that_kis_refuses_is_not_stored(chain: Chain) -> None:
    """With `verify`, a new token that the API rejects is not stored."""
    with pytest.raises(IssuerOutage, match="EGW00121"):
        chain.resolve(None, WatchedIssuer(chain, after=lambda token: chain.kis.kill_token(token.value)), verify="true")
    assert chain.database.row() == {}


def test_a_rate_limited_quotation_says_nothing(chain: Chain) -> None:
    """If `verify` gets a rate limit instead of a quotation, the token is still stored, with a warning."""
    chain.kis.production.add_fault(Fault("answer", PRICE_PATH, response=error_response("EGW00201", PRICE_PATH)))

    got = chain.resolve(verify="true")
    assert (got.source, chain.database.stored_id()) == ("oauth", got.token.token_id)
    assert "could not be verified" in got.warnings[0]


def test_verified(chain: Chain) -> None:
    """With `verify`, a token that KIS accepts is stored without a warning."""
    got = chain.resolve(verify="true")
    assert (got.source, got.warnings, chain.database.stored_id()) == ("oauth", (), got.token.token_id)
