"""TCP connections to hosts with several addresses, some of which do not answer. On loopback."""

from __future__ import annotations

import socket
import threading
import time
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import pytest

from kis_token.deadline import Attempt, GivenUp
from kis_token.network.connection import connect
from tests.faults.helpers import black_hole

if TYPE_CHECKING:
    from collections.abc import Iterator

PORT = 443
Found = list[tuple[int, int, int, str, Any]]


@contextmanager
def listener() -> Iterator[tuple[str, int]]:
    """Yield the address of a server that accepts connections."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[:2]


@contextmanager
def silent_address() -> Iterator[tuple[str, int]]:
    """Yield an address that neither accepts nor refuses a connection."""
    with black_hole() as url:
        host, _, port = url.removeprefix("http://").partition(":")
        yield host, int(port)


@pytest.fixture
def attempt() -> Iterator[Attempt]:
    """Yield an attempt that is not given up and that ends with its test."""
    attempt = Attempt()
    yield attempt
    attempt.finish()


def refusing_address() -> tuple[str, int]:
    """Return an address that refuses connections."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        host, port = server.getsockname()[:2]
    return host, port


def resolve_to(monkeypatch: pytest.MonkeyPatch, *addresses: tuple[str, int], family: int = socket.AF_INET) -> None:
    """Make every name resolve to these addresses, in this order."""
    found: Found = [(family, socket.SOCK_STREAM, 6, "", address) for address in addresses]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)


def test_an_address_that_does_not_answer_delays_no_call(monkeypatch: pytest.MonkeyPatch, attempt: Attempt) -> None:
    """If the first address is silent, the second one is used after a quarter of a second, not after 5 s."""
    with silent_address() as silent, listener() as good, ExitStack() as stack:
        resolve_to(monkeypatch, silent, good)
        started = time.monotonic()
        connection = stack.enter_context(connect("supabase.test", PORT, 5, attempt))
        assert connection.getpeername() == good
        assert time.monotonic() - started < 4


def test_an_address_that_refuses_is_passed_at_once(monkeypatch: pytest.MonkeyPatch, attempt: Attempt) -> None:
    """If an address refuses, the next one is tried at once."""
    with listener() as good, ExitStack() as stack:
        resolve_to(monkeypatch, *[refusing_address() for _ in range(20)], good)
        connection = stack.enter_context(connect("supabase.test", PORT, 4, attempt))
        assert connection.getpeername() == good


def test_a_family_that_the_machine_does_not_have_is_passed(monkeypatch: pytest.MonkeyPatch, attempt: Attempt) -> None:
    """Addresses for which no socket can be made are skipped."""
    with listener() as good, ExitStack() as stack:
        unknown: Found = [(9999, socket.SOCK_STREAM, 6, "", ("::", 1, 0, 0))]
        usual: Found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", good)]
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: unknown + usual)
        connection = stack.enter_context(connect("supabase.test", PORT, 5, attempt))
        assert connection.getpeername() == good


def test_an_unreachable_network_is_passed(monkeypatch: pytest.MonkeyPatch, attempt: Attempt) -> None:
    """An address without a route fails at once and does not count as a connection."""
    with listener() as good, ExitStack() as stack:
        resolve_to(monkeypatch, ("255.255.255.255", 443), good)
        connection = stack.enter_context(connect("supabase.test", PORT, 5, attempt))
        assert connection.getpeername() == good


def test_families_alternate(monkeypatch: pytest.MonkeyPatch, attempt: Attempt) -> None:
    """The families alternate: after a silent address of one family, an address of the other family is tried."""
    with silent_address() as silent, listener() as good, ExitStack() as stack:
        silent6 = (f"::ffff:{silent[0]}", silent[1], 0, 0)
        silent_ones: Found = [(socket.AF_INET6, socket.SOCK_STREAM, 6, "", silent6)] * 30
        good_one: Found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", good)]
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: silent_ones + good_one)
        connection = stack.enter_context(connect("supabase.test", PORT, 3, attempt))
        assert connection.getpeername() == good


def test_no_address_answers_in_time(monkeypatch: pytest.MonkeyPatch, attempt: Attempt) -> None:
    """The time limit covers all addresses together."""
    with silent_address() as silent:
        resolve_to(monkeypatch, silent, silent)
        with pytest.raises(TimeoutError):
            connect("supabase.test", PORT, 0.05, attempt)


def test_every_address_refuses(monkeypatch: pytest.MonkeyPatch, attempt: Attempt) -> None:
    """If every address refuses, the error is the system's ConnectionRefusedError."""
    resolve_to(monkeypatch, refusing_address(), refusing_address())
    with pytest.raises(ConnectionRefusedError):
        connect("supabase.test", PORT, 5, attempt)


def test_a_call_that_is_given_up_does_not_connect(monkeypatch: pytest.MonkeyPatch) -> None:
    """If the name is resolved after the call was given up, no connection is made."""
    attempt = Attempt()
    resolved = threading.Event()

    def slow(*_: object, **__: object) -> Found:
        attempt.give_up()
        resolved.set()
        return []

    monkeypatch.setattr(socket, "getaddrinfo", slow)
    with pytest.raises(GivenUp):
        connect("supabase.test", PORT, 5, attempt)
    assert resolved.is_set()
