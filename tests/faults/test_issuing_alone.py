"""When a caller may issue a token without the store, and when it must not."""

from __future__ import annotations

import base64
import json
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, TypeVar

import pytest

from kis_token.client.kis_client import KISClient
from kis_token.clock import SystemClock
from kis_token.errors import KisTokenError, StoreOutage
from kis_token.local.machine_lock import LocalMachine
from kis_token.sandbox.kis_http import PRICE_PATH, PRICE_TR_ID
from kis_token.sandbox.loopback import Fault, FaultKind, LoopbackServer, Response
from tests.faults.helpers import BEGIN, TABLE, assert_warned, black_hole
from tests.faults.test_store import OUTAGES, mend
from tests.races.caller_processes import SECONDS
from tests.resolver_harness import OTHER
from tests.support import ANON_KEY, HOUR, MINUTE, Caller, make_token
from tools.certificate import make_certificate

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.resolver_harness import Chain


_Answer = TypeVar("_Answer")


def test_without_the_store_a_token_is_issued_only_after_the_retry_time(chain: Chain) -> None:
    """A caller first waits for the store for half of the time that issuing does not need, and only then issues."""
    chain.supabase.stop()
    clock = chain.clock()

    got = chain.resolve(clock, timeout="180s")

    assert (got.source, chain.issue_calls) == ("oauth", 1)
    assert 30 < sum(clock.slept) < 45
    assert_warned(got, "[store-unreachable]", "other machines do not see")


def test_a_store_that_is_back_when_the_runtime_is_built_is_used(chain: Chain) -> None:
    """If the first read meets an outage, the caller reads the store once more before it issues without the store."""
    token = make_token()
    chain.database.put_token(token)
    chain.supabase.stop()
    resolver = chain.resolver()
    view = resolver.look()
    chain.supabase.start()

    got = resolver.resolve(view)

    assert (got.token.token_id, got.source, chain.issue_calls) == (token.token_id, "supabase", 0)


def test_a_store_that_is_back_when_the_lock_is_free_is_used(chain: Chain, monkeypatch: pytest.MonkeyPatch) -> None:
    """When a caller gets the machine's lock, it reads the store again, and uses the stored token."""
    token = make_token()
    chain.database.put_token(token)
    chain.supabase.stop()

    class Busy(LocalMachine):
        @contextmanager
        def lock(self, app_key_id: str, seconds: float) -> Iterator[None]:
            with super().lock(app_key_id, seconds):
                chain.supabase.start()
                yield

    monkeypatch.setattr(type(chain), "machine", Busy(lambda: [chain.machine_folder]))

    got = chain.resolve()

    assert (got.token.token_id, got.source, chain.issue_calls) == (token.token_id, "supabase", 0)


@pytest.mark.parametrize("after", [False, True], ids=["request-lost", "answer-lost"])
@pytest.mark.parametrize("kind", ["reset", "truncate"])
def test_begin_that_reaches_the_database_and_whose_answers_are_lost(
    chain: Chain,
    kind: FaultKind,
    after: bool,  # noqa: FBT001 - a table
) -> None:
    """If all answers of begin are lost, the caller may have a lease and does not issue. The next caller issues once."""
    chain.supabase.server.add_fault(Fault(kind, BEGIN, 999, after=after))
    with pytest.raises(StoreOutage):
        chain.resolve()
    assert chain.issue_calls == 0
    mend(chain)

    assert chain.resolve().source == "oauth"
    assert chain.issue_calls == 1


def test_answers_of_begin_that_come_back_after_a_lease_s_time(chain: Chain) -> None:
    """If begin's answers are lost for longer than a lease lasts, the caller gets another lease and calls KIS once."""
    chain.supabase.server.add_fault(Fault("reset", BEGIN, 18, after=True))
    clock = chain.clock()

    got = chain.resolve(clock, timeout="10m")

    assert (got.source, got.warnings, chain.issue_calls) == ("oauth", (), 1)
    assert 60 < sum(clock.slept) < 160


@pytest.mark.parametrize("seconds", [2, 12, 40])
def test_a_store_that_restarts_while_callers_wait_for_a_holder(chain: Chain, seconds: float) -> None:
    """If the store restarts while callers wait for a holder, the callers get the holder's token and do not issue."""
    holder, token = Caller(chain.database), make_token()
    holder.begin()
    clock = chain.clock()
    down_since: list[float] = []

    def restart(_: float) -> None:
        if not down_since:
            chain.supabase.stop()
            down_since.append(clock.monotonic())
        elif clock.monotonic() - down_since[0] > seconds:
            chain.supabase.start()
            if chain.database.row() == {}:
                holder.commit(token)

    clock.on_sleep = restart

    got = chain.resolve(clock, cache_path="off")

    assert (got.token.token_id, got.source, chain.issue_calls) == (token.token_id, "supabase", 0)


def test_six_callers_wait_and_the_store_restarts(chain: Chain) -> None:
    """Six concurrent callers on separate machines, in real time, get the token that the holder commits."""
    holder, token = Caller(chain.database), make_token()
    holder.begin()
    resolvers = [chain.resolver(SystemClock(), cache_path="off", timeout="60s") for _ in range(6)]
    begun, noticed = threading.Semaphore(0), threading.Semaphore(0)
    for store in chain.stores:
        # These wrappers report the end of each call to the test.
        store.begin = partial(do_and_notice, store.begin, begun)  # type: ignore[method-assign]  # noticed
        store.read = partial(do_and_notice, store.read, noticed)  # type: ignore[method-assign]  # noticed

    with ThreadPoolExecutor(6) as pool:
        waiting = [pool.submit(resolver.resolve) for resolver in resolvers]
        for _ in resolvers:
            assert begun.acquire(timeout=SECONDS)
        chain.supabase.stop()
        for _ in range(3 * len(resolvers)):
            assert noticed.acquire(timeout=SECONDS)
        chain.supabase.start()
        holder.commit(token)
        got = [each.result(SECONDS) for each in waiting]

    assert {each.token.token_id for each in got} == {token.token_id}
    assert chain.issue_calls == 0


def do_and_notice(
    call: Callable[..., _Answer], noticed: threading.Semaphore, *arguments: object, **named: object
) -> _Answer:
    """Call the store, and report the end of the call to the test."""
    try:
        return call(*arguments, **named)
    finally:
        noticed.release()


def test_a_waiter_whose_store_stays_away_does_not_issue(chain: Chain) -> None:
    """If another caller has the lease, a waiting caller does not issue in an outage: it fails at its deadline."""
    Caller(chain.database, label="acme/bot run 7 trade").begin()
    clock = chain.clock()
    clock.on_sleep = lambda _: chain.supabase.stop()

    with pytest.raises(KisTokenError) as caught:
        chain.resolve(clock)
    assert (caught.value.code, chain.issue_calls) == ("store-unreachable", 0)


def test_a_key_that_changes_while_the_store_goes_away_issues_nothing(chain: Chain) -> None:
    """If begin reports a changed key and the next read gets no answer, the caller does not issue without the store."""
    resolver = chain.resolver()
    view = resolver.look()
    chain.database.put_keys(OTHER)
    chain.supabase.server.add_fault(replace(OUTAGES["503"], path=TABLE, times=999))
    with pytest.raises(StoreOutage):
        resolver.resolve(view)
    assert chain.issue_calls == 0


@pytest.mark.parametrize("fault", ["certificate", "proxy"])
def test_trouble_of_this_machine_is_no_reason_to_issue_alone(
    chain: Chain, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    """If a certificate or a proxy blocks the store, the caller does not issue; a cached token is used."""
    _, context = make_certificate(chain.folder)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"https://127.0.0.1:{listener.getsockname()[1]}"
    if fault == "proxy":
        monkeypatch.setenv("HTTPS_PROXY", "socks5://127.0.0.1:9")
        url = "https://example.supabase.co"
    with LoopbackServer(lambda _: Response(200, []), tls=context) as server:
        where = server.url if fault == "certificate" else url
        clock = chain.clock()
        with pytest.raises(StoreOutage) as caught:
            chain.resolve(clock, supabase_url=where)
        assert (chain.issue_calls, clock.slept) == (0, [])
        assert caught.value.code == ("store-tls" if fault == "certificate" else "proxy-unusable")
        chain.cache_token(make_token())
        assert chain.resolve(supabase_url=where).source == "cache"


def test_a_read_only_key_never_issues_alone(chain: Chain) -> None:
    """In an outage, a caller with a read-only key does not issue, even if app key and secret are given."""
    chain.supabase.stop()
    claims = {"role": "kis_token_reader", "iat": 1, "exp": 9999999999}
    middle = base64.urlsafe_b64encode(json.dumps(claims).encode()).rstrip(b"=").decode()
    with pytest.raises(StoreOutage):
        chain.resolve(supabase_key=f"{ANON_KEY}\neyJhbGciOiJIUzI1NiJ9.{middle}.c2lnbmF0dXJl")
    assert chain.issue_calls == 0


def test_a_client_whose_store_goes_away_after_a_read_issues_nothing(chain: Chain) -> None:
    """If the store answers the read for a rejected token and then fails, the client does not issue.

    One timeout covers the read and the renewal.
    """
    held = chain.resolve(cache_path="off").token
    chain.pass_time(7 * 3600)
    chain.supabase.server.forget()
    clock = chain.clock()
    with KISClient(chain.settings(cache_path="off", timeout="60s"), clock=clock) as client:
        assert client.token_expires_at == held.expires_at
        chain.kis.kill_token(held.value)
        chain.supabase.server.add_fault(Fault("reset", BEGIN, 9999))
        started = clock.monotonic()
        with pytest.raises(StoreOutage):
            client.request("GET", PRICE_PATH, tr_id=PRICE_TR_ID)
    assert chain.issue_calls == 1
    assert clock.monotonic() - started < 61
    assert chain.store_calls.count("read") == 2


def test_a_silent_proxy_is_no_reason_to_issue_alone(chain: Chain, monkeypatch: pytest.MonkeyPatch) -> None:
    """A proxy that does not answer is a fault of this machine: the caller gets the outage and does not issue."""
    with black_hole() as url:
        monkeypatch.setenv("HTTPS_PROXY", url)
        with pytest.raises(StoreOutage) as caught:
            chain.resolve(supabase_url="https://example.supabase.co", timeout="22s")
    assert (caught.value.doubtful, chain.issue_calls) == (True, 0)


@pytest.mark.parametrize(
    "inputs", [{"mode": "rotate"}, {"app_key": "", "app_secret": ""}], ids=["rotate", "keys-stored"]
)
def test_a_store_that_is_back_serves_callers_that_issue_nothing_alone(chain: Chain, inputs: dict[str, str]) -> None:
    """If the first read meets an outage, a caller that never issues without the store also reads the store again."""
    chain.database.put_keys()
    token = make_token(left=24 * HOUR - MINUTE, age=MINUTE)
    chain.database.put_token(token)
    chain.supabase.stop()
    resolver = chain.resolver(**inputs)
    view = resolver.look()
    chain.supabase.start()

    assert resolver.resolve(view).token.token_id == token.token_id


def test_a_check_without_the_store_names_the_outage(chain: Chain) -> None:
    """If the store does not answer and no token is cached, the error of `check` is the outage."""
    chain.supabase.stop()
    with pytest.raises(StoreOutage):
        chain.resolve(mode="check")
