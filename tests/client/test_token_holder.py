"""The token that a program keeps: renewed in time, by one for all, and shared when it can be; in simulated time."""

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
class KnockingLock:
    """A lock that tells when somebody has to wait for it."""

    knocked: threading.Event = field(default_factory=threading.Event)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def acquire(self, *, blocking: bool = True) -> bool:
        """Take it."""
        if self.lock.acquire(blocking=False):
            return True
        self.knocked.set()
        return blocking and self.lock.acquire()

    def release(self) -> None:
        """Give it back."""
        self.lock.release()


def let_it_go_stale(environment: SimulatedEnvironment, client: KISClient) -> str:
    """Let a client hold a token that has 9 minutes left; the token."""
    old = client.access_token
    environment.clock.jump(24 * 3600 - 9 * 60)
    environment.supabase.server.forget()
    return old


def store_calls(environment: SimulatedEnvironment) -> list[str]:
    """What was asked of Supabase."""
    return [seen.path.rpartition("/")[2] for seen in environment.supabase.server.seen]


def test_failure_is_everybody_s_who_waited(environment: SimulatedEnvironment, monkeypatch: pytest.MonkeyPatch) -> None:
    """One vain try is enough: those who waited for it do not try in turn. Who comes later does."""
    client, lock, tries = environment.client(), KnockingLock(), []
    monkeypatch.setattr(client._token_holder._renewals.get(), "lock", lock)

    def fail(_: object) -> object:
        tries.append(threading.get_ident())
        assert len(tries) > 1 or lock.knocked.wait(30)
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
    """The request that finds less than min-validity left has it renewed first; KIS refuses nothing meanwhile."""
    client = environment.client()
    old = let_it_go_stale(environment, client)

    assert ask_price(client)

    is_other = client.access_token != old
    assert is_other
    assert (environment.quotes(), environment.issue_calls) == (1, 2)
    assert environment.database.stored_id() == fingerprint(client.access_token)


def test_others_go_on_while_one_renews(environment: SimulatedEnvironment, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stale token is good for a request: nobody waits for its renewal but who makes it."""
    client = environment.client()
    old = let_it_go_stale(environment, client)
    lock = KnockingLock()
    monkeypatch.setattr(client._token_holder._renewals.get(), "lock", lock)
    assert lock.acquire()

    is_same = client.access_token == old
    assert is_same


def test_renewal_that_fails_is_not_tried_at_once(environment: SimulatedEnvironment) -> None:
    """A stale token is used on; the next try comes half a minute later, and not with each request."""
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
    """A renewal that brought the same token again, while a request was under way, does not pass for another token."""
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


def test_mistake_in_the_set_up_does_not_stop_a_living_token(
    environment: SimulatedEnvironment, caplog: pytest.LogCaptureFixture
) -> None:
    """Somebody breaks the set-up while a bot runs: what lives is used, with a warning; when it has died, the error."""
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
    """What was issued without Supabase gets there some minutes after Supabase is back, also instead of a dead one."""
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
    """23 h after its issue a token is renewed when asked; what somebody else has renewed meanwhile is taken."""
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
