"""The token that a program holds: one thread renews it in time for all threads. The tests simulate time."""

from __future__ import annotations

import logging
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest

from kis_token.errors import StoreMisconfigured
from kis_token.sandbox.kis_http import TOKEN_PATH, error_response
from kis_token.sandbox.loopback import Fault, Response
from kis_token.token import fingerprint
from tests.simulated_environment import ask_price, open_environment

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from kis_token.client.kis_client import KISClient
    from kis_token.sandbox.postgres import EmbeddedPostgres
    from tests.simulated_environment import SimulatedEnvironment


@pytest.fixture
def environment(postgres: EmbeddedPostgres, tmp_path: Path) -> Iterator[SimulatedEnvironment]:
    """An empty slot in an environment whose time is simulated."""
    with open_environment(postgres, tmp_path) as opened:
        yield opened


@dataclass
class WatchedLock:
    """A lock that sets an event when a thread has to wait for it."""

    waited_for: threading.Event = field(default_factory=threading.Event)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def acquire(self, *, blocking: bool = True) -> bool:
        """Acquire it."""
        if self.lock.acquire(blocking=False):
            return True
        self.waited_for.set()
        return blocking and self.lock.acquire()

    def release(self) -> None:
        """Release it."""
        self.lock.release()


def let_it_go_stale(environment: SimulatedEnvironment, client: KISClient) -> str:
    """Let a client hold a token that has 9 minutes left. Returns the token."""
    old = client.access_token
    environment.clock.jump(24 * 3600 - 9 * 60)
    environment.supabase.server.forget()
    return old


def store_calls(environment: SimulatedEnvironment) -> list[str]:
    """The paths of the calls to Supabase."""
    return [seen.path.rpartition("/")[2] for seen in environment.supabase.server.seen]


def test_failure_is_shared_by_all_that_waited(
    environment: SimulatedEnvironment, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If a renewal fails, all threads that wait for it get its error; a later thread tries another renewal."""
    client, lock, tries = environment.client(), WatchedLock(), []
    monkeypatch.setattr(client._token_holder._renewals.get(), "lock", lock)

    def fail(_: object) -> object:
        tries.append(threading.get_ident())
        assert len(tries) > 1 or lock.waited_for.wait(30)
        raise StoreMisconfigured("store-table-missing", "x")

    monkeypatch.setattr(client._token_holder, "_resolve", fail)
    with ThreadPoolExecutor(2) as pool:
        results = [pool.submit(ask_price, client) for _ in range(2)]
    assert [type(each.exception()) for each in results] == [StoreMisconfigured] * 2
    assert len(tries) == 1

    with pytest.raises(StoreMisconfigured):
        ask_price(client)
    assert len(tries) == 2


def test_token_is_renewed_before_its_end(environment: SimulatedEnvironment) -> None:
    """A request that finds a stale token renews it before the call, so KIS does not reject a token."""
    client = environment.client()
    old = let_it_go_stale(environment, client)

    assert ask_price(client)

    is_other = client.access_token != old
    assert is_other
    assert (environment.quotes(), environment.issue_calls) == (1, 2)
    assert environment.database.stored_id() == fingerprint(client.access_token)


def test_others_go_on_while_one_renews(environment: SimulatedEnvironment, monkeypatch: pytest.MonkeyPatch) -> None:
    """While one thread renews, the other threads use the stale token and do not wait."""
    client = environment.client()
    old = let_it_go_stale(environment, client)
    lock = WatchedLock()
    monkeypatch.setattr(client._token_holder._renewals.get(), "lock", lock)
    assert lock.acquire()

    is_same = client.access_token == old
    assert is_same


def test_renewal_that_fails_is_not_tried_at_once(environment: SimulatedEnvironment) -> None:
    """After a failed renewal, the stale token is still used, and the next try comes only half a minute later."""
    client = environment.client()
    old = let_it_go_stale(environment, client)
    environment.kis.production.add_fault(Fault("answer", TOKEN_PATH, response=error_response("EGW00105", TOKEN_PATH)))

    are_same = [client.access_token == old for _ in range(5)]
    assert are_same == [True] * 5
    assert store_calls(environment) == ["api_credentials", "begin_issuance", "abort_issuance"]

    environment.clock.jump(31)
    environment.supabase.server.forget()
    is_same = client.access_token == old
    assert is_same
    assert store_calls(environment) == ["api_credentials", "begin_issuance"]


def test_refused_while_another_tried_to_renew(environment: SimulatedEnvironment) -> None:
    """If a renewal failed and kept its token, a later rejection of that token still leads to a new token."""
    client = environment.client()
    let_it_go_stale(environment, client)
    refused = client._token_holder._held
    assert refused is not None
    environment.kis.production.add_fault(Fault("answer", TOKEN_PATH, response=error_response("EGW00133", TOKEN_PATH)))
    is_same = client._token_holder.ready().token == refused.token
    environment.clock.jump(61)
    environment.kis.kill_token(refused.token.value)

    other = client._token_holder.replace(refused)

    assert (is_same, other.token.token_id == refused.token.token_id) == (True, False)


def test_configuration_error_does_not_stop_a_valid_token(
    environment: SimulatedEnvironment, caplog: pytest.LogCaptureFixture
) -> None:
    """If a configuration error occurs while a program runs, the valid token is used, with a warning.

    When the token has expired, a call raises the error.
    """
    client = environment.client()
    old = let_it_go_stale(environment, client)
    gone = Response(404, {"code": "PGRST205", "message": "x", "details": None, "hint": None})
    environment.supabase.server.add_fault(Fault("answer", times=9, response=gone))

    with caplog.at_level(logging.WARNING, "kis_token"):
        is_same = client.access_token == old
    assert is_same
    assert "store-table-missing" in caplog.text

    environment.clock.jump(9 * 60)
    with pytest.raises(StoreMisconfigured):
        ask_price(client)


def test_token_of_an_outage_is_shared_afterwards(environment: SimulatedEnvironment) -> None:
    """A token that was issued in an outage is stored within minutes after Supabase answers again."""
    client = environment.client()
    assert ask_price(client)
    environment.clock.jump(7 * 3600)
    environment.kis.kill_token(client.access_token)
    environment.supabase.stop()
    assert ask_price(client)
    environment.supabase.start()
    environment.supabase.server.forget()

    environment.clock.jump(60)
    assert ask_price(client)
    assert store_calls(environment) == []
    environment.clock.jump(300)
    assert ask_price(client)

    assert environment.database.stored_id() == fingerprint(client.access_token)
    assert environment.issue_calls == 2
    environment.supabase.server.forget()
    environment.clock.jump(3600)
    assert ask_price(client)
    assert (store_calls(environment), environment.quotes()) == ([], 6)


def test_refresh_of_an_old_token(environment: SimulatedEnvironment) -> None:
    """A token older than 23 h is renewed on request. If another caller has renewed the token, the new one is used."""
    client, other = environment.client(), environment.client("another")
    old = client.access_token
    is_same = other.access_token == old
    environment.clock.jump(23.1 * 3600)
    client.refresh_token()
    is_other = client.access_token != old
    assert (is_same, is_other, environment.issue_calls) == (True, True, 2)

    other.refresh_token()
    is_theirs = other.access_token == client.access_token
    assert (is_theirs, environment.issue_calls) == (True, 2)


def test_pause_after_a_failed_renewal_ends_with_the_token(environment: SimulatedEnvironment) -> None:
    """While renewals fail, a client pauses between them. A pause ends when the token is no longer valid."""
    client = environment.client()
    old = client.access_token
    environment.clock.jump(24 * 3600 - 40)
    environment.supabase.stop()
    environment.kis.production.stop()
    is_kept = client.access_token == old
    environment.kis.production.start()
    environment.supabase.start()
    new = environment.client().access_token
    is_paused = client.access_token == old
    environment.clock.jump(15)  # the token has 25 s left, and a failed renewal is repeated after 30 s

    is_renewed = client.access_token == new

    assert (is_kept, is_paused, is_renewed) == (True, True, True)
    assert environment.issue_calls == 2
