"""Supabase, KIS or the lock hangs. A caller with little time gets a token or one error before its deadline.

The test moves the clock: a caller has a minute when it starts, and a part of a second when the call hangs.
Without the deadline, a read would wait 5 s, a write 8 s, and tokenP 15 s.
"""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
from typing import TYPE_CHECKING, Any

import pytest

from kis_token.errors import IssuanceError, IssuerError, KisTokenError, StoreOutage
from kis_token.kis.api import STORE_SECONDS, KISIssuer
from kis_token.sandbox.kis_http import PRICE_PATH
from tests.faults.helpers import (
    ABORT,
    BEGIN,
    COMMIT,
    HANGS,
    HOLD_LOCK,
    TABLE,
    assert_warned,
    error_of,
    soon,
    stored_stays,
)
from tests.races.concurrent_callers import held
from tests.resolver_harness import WatchedIssuer, stale_token
from tests.support import APP_KEY, Caller
from tools.step import CHECKOUT

if TYPE_CHECKING:
    from kis_token.core.resolution import View
    from kis_token.core.resolver import Resolver
    from kis_token.sandbox.loopback import Fault, Request, Response
    from tests.resolver_harness import Chain
    from tests.support import TurnedClock

#: The seconds that a caller has left, and the limit of a test, which is shorter than the time limits of all calls.
LEFT = 0.3
BOUND = 4.5

hangs = pytest.mark.parametrize("how", HANGS)
effect = pytest.mark.parametrize("before", [True, False], ids=["before-its-effect", "after-its-effect"])


def spend(clock: TurnedClock, left: float = LEFT) -> None:
    """Move the clock until only ``left`` seconds of the minute remain."""
    clock.jump(60 - left)


def hurried(chain: Chain, *, looks: bool = False, **inputs: str) -> tuple[Resolver, View | None]:
    """Return a caller with little time left and, with ``looks``, the view that it read while it had a minute."""
    clock = chain.clock()
    resolver = chain.resolver(clock, timeout="60s", **inputs)
    view = resolver.look() if looks else None
    spend(clock)
    return resolver, view


# Supabase hangs


@hangs
def test_read_with_a_cached_token(chain: Chain, how: str) -> None:
    """If the read hangs, the caller gets the cached token with a warning."""
    token = stale_token()
    chain.cache_token(token)
    with HANGS[how]() as url, soon(BOUND):
        resolver, _ = hurried(chain, supabase_url=url)
        got = resolver.resolve()

    assert (got.token.token_id, got.source, chain.issue_calls) == (token.token_id, "cache", 0)
    assert_warned(got, "[store-unreachable]", "did not answer within")


@hangs
@pytest.mark.parametrize(("policy", "code"), [("issue", "wait-too-long"), ("fail", "store-unreachable")])
def test_read_with_nothing(chain: Chain, how: str, policy: str, code: str) -> None:
    """If the read hangs and no token is cached, one error names Supabase, and KIS is not called."""
    with HANGS[how]() as url, soon(BOUND):
        resolver, _ = hurried(chain, supabase_url=url, on_store_outage=policy)
        with pytest.raises(KisTokenError) as caught:
            resolver.resolve()

    assert (caught.value.code, caught.value.retryable, chain.issue_calls) == (code, True, 0)
    assert "Supabase did not answer within" in f"{caught.value}"
    assert list(chain.folder.iterdir()) == []


@effect
def test_begin_with_a_stale_token(chain: Chain, *, before: bool) -> None:
    """If begin hangs, the caller gets the stale token that it has read."""
    token = stale_token()
    chain.database.put_token(token)
    with stored_stays(chain), held(chain.supabase.server, BEGIN, before=before), soon(BOUND):
        resolver, view = hurried(chain, looks=True)
        got = resolver.resolve(view)

    assert (got.token.token_id, got.source, chain.issue_calls) == (token.token_id, "supabase", 0)
    assert_warned(got, "[store-unreachable]")


@effect
def test_begin_with_nothing(chain: Chain, *, before: bool) -> None:
    """If begin hangs and no token is valid, the caller gets one error; a later caller gets a lease within 75 s."""
    resolver, view = hurried(chain, looks=True)
    with held(chain.supabase.server, BEGIN, before=before), soon(BOUND), pytest.raises(StoreOutage) as caught:
        resolver.resolve(view)

    assert (caught.value.code, caught.value.retryable, chain.issue_calls) == ("store-unreachable", True, 0)
    clock = chain.clock()
    assert (chain.resolve(clock).source, chain.issue_calls) == ("oauth", 1)
    assert sum(clock.slept) < 75


def test_a_look_while_another_issues(chain: Chain) -> None:
    """If a read hangs while a caller waits for the lease, the caller still gets its error in time."""
    holder = Caller(chain.database)
    assert holder.begin()["status"] == "granted"
    resolver = chain.resolver(timeout="1s")
    view = resolver.look()
    with held(chain.supabase.server, TABLE), soon(BOUND), pytest.raises(IssuanceError) as caught:
        resolver.resolve(view)

    assert (caught.value.code, chain.issue_calls) == ("wait-too-long", 0)


@effect
def test_commit(chain: Chain, *, before: bool) -> None:
    """If commit hangs, the issued token is used with a warning and cached; the late commit stores the token."""
    clock = chain.clock()
    issuer = WatchedIssuer(chain, after=lambda _: spend(clock, 1.0))
    with held(chain.supabase.server, COMMIT, before=before), soon(BOUND):
        got = chain.resolve(clock, issuer, timeout="60s")

    assert (got.source, chain.cached_id(), chain.issue_calls) == ("oauth", got.token.token_id, 1)
    assert_warned(got, "could not be stored", "[store-unreachable]")
    assert chain.resolve(cache_path="off").token.token_id == got.token.token_id


def test_abort(chain: Chain, monkeypatch: pytest.MonkeyPatch) -> None:
    """If abort hangs, the error is KIS's refusal; the lease ends when its time is over."""
    chain.refuse_issue("EGW00105")
    clock, answer = chain.clock(), chain.kis.production.answer

    def late_answer(request: Request) -> tuple[Response, Fault | None]:
        spend(clock)
        return answer(request)

    monkeypatch.setattr(chain.kis.production, "answer", late_answer)
    resolver = chain.resolver(clock, timeout="60s")
    with held(chain.supabase.server, ABORT), soon(BOUND), pytest.raises(IssuerError) as caught:
        resolver.resolve()

    assert caught.value.code == "kis-secret-refused"
    assert "lapses by itself" in chain.told[-1]


# KIS hangs


def issuer_in_a_hurry(url: str) -> KISIssuer:
    """An issuer that has little time left for its call, besides the time that is kept for storing."""
    return KISIssuer(url, "production", left=lambda: STORE_SECONDS + LEFT)


@hangs
def test_token_call_with_a_stale_token(chain: Chain, how: str) -> None:
    """If tokenP hangs, the caller gets the stale token with a warning; the row stays, and the lease is given back."""
    token = stale_token()
    chain.database.put_token(token)
    with HANGS[how]() as url, stored_stays(chain), soon(BOUND):
        got = chain.resolve(None, issuer_in_a_hurry(url))

    assert (got.token.token_id, got.source) == (token.token_id, "supabase")
    assert_warned(got, "[kis-unreachable]")
    assert chain.database.outcomes() == ["granted", "aborted"]


@hangs
@pytest.mark.parametrize("is_down", [False, True], ids=["supabase", "no-supabase"])
def test_token_call_with_nothing(chain: Chain, how: str, *, is_down: bool) -> None:
    """If tokenP hangs and no token is valid, the caller gets one error, and no token is stored or cached."""
    if is_down:
        chain.supabase.stop()
    with HANGS[how]() as url, stored_stays(chain), soon(BOUND), pytest.raises(KisTokenError) as caught:
        chain.resolve(None, issuer_in_a_hurry(url))

    assert (caught.value.code, caught.value.retryable) == ("kis-unreachable", True)
    assert not (chain.folder / "cache.json").exists()


def test_a_name_that_is_resolved_too_late(chain: Chain, monkeypatch: pytest.MonkeyPatch) -> None:
    """If KIS's name is resolved too late, no request is sent, and the caller gets the stale token.

    The next caller can issue at once.
    """
    token, known, resolve = stale_token(), threading.Event(), socket.getaddrinfo
    chain.database.put_token(token)
    started = set(threading.enumerate())

    def slow(host: str, port: int, *arguments: Any, **named: Any) -> Any:  # noqa: ANN401 - getaddrinfo's
        assert f"{port}" != chain.kis.production_url.rpartition(":")[2] or known.wait(30)
        return resolve(host, port, *arguments, **named)

    monkeypatch.setattr(socket, "getaddrinfo", slow)
    with soon(BOUND):
        got = chain.resolve(None, issuer_in_a_hurry(chain.kis.production_url))
    known.set()
    for thread in set(threading.enumerate()) - started:
        thread.join(1)

    assert (got.token.token_id, chain.kis.requests) == (token.token_id, ())
    assert_warned(got, "[kis-unreachable]")
    assert chain.resolve().source == "oauth"


def test_a_quotation(chain: Chain) -> None:
    """If the quotation with the new token hangs, the token is still stored, with a warning."""
    with held(chain.kis.production, PRICE_PATH), soon(BOUND):
        got = chain.resolve(None, issuer_in_a_hurry(chain.kis.production_url), verify="true")

    assert chain.database.stored_id() == got.token.token_id
    assert_warned(got, "could not be verified", "[kis-unreachable]")


# the cache hangs


@pytest.mark.skipif(sys.platform == "win32", reason="the test holds the lock through POSIX's pipes")
def test_the_lock_of_a_running_process(chain: Chain) -> None:
    """In an outage without a cached token, a caller that cannot get the lock in time gets one error."""
    chain.supabase.stop()
    command = [sys.executable, "-c", HOLD_LOCK, str(chain.machine_folder), APP_KEY.key_id]
    with subprocess.Popen(command, cwd=CHECKOUT, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        with soon(BOUND):
            error = error_of(chain, timeout="21s")  # 20 of the 21 s are kept for the call
        holder.kill()

    assert (error.code, error.retryable, chain.issue_calls) == ("wait-too-long", True, 0)
