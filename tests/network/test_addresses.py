"""TCP connections to hosts with several addresses, of which some do not answer. On loopback."""

from __future__ import annotations

import socket
import threading
import time
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import pytest

from kis_token.deadline import Attempt, GivenUp
from kis_token.network.addresses import connect
from tests.faults.helpers import black_hole

if TYPE_CHECKING:
    from collections.abc import Iterator

PORT = 443
Found = list[tuple[int, int, int, str, Any]]


@contextmanager
def listener() -> Iterator[tuple[str, int]]:
    """The address of a server that takes connections."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[:2]


@contextmanager
def silent_address() -> Iterator[tuple[str, int]]:
    """An address that neither takes nor refuses a connection."""
    with black_hole() as url:
        host, _, port = url.removeprefix("http://").partition(":")
        yield host, int(port)


@pytest.fixture
def attempt() -> Iterator[Attempt]:
    """An attempt that nobody gives up, and that ends with its test."""
    attempt = Attempt()
    yield attempt
    attempt.finish()


def refusing_address() -> tuple[str, int]:
    """An address at which nobody listens any more."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        host, port = server.getsockname()[:2]
    return host, port


def resolve_to(monkeypatch: pytest.MonkeyPatch, *addresses: tuple[str, int], family: int = socket.AF_INET) -> None:
    """Let every name have these addresses, in this order."""
    found: Found = [(family, socket.SOCK_STREAM, 6, "", address) for address in addresses]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)


def test_an_address_that_does_not_answer_keeps_nobody_waiting(
    monkeypatch: pytest.MonkeyPatch, attempt: Attempt
) -> None:
    """With a black hole in the first place the second address is used after a quarter of a second, not after 5 s."""
    with silent_address() as silent, listener() as good, ExitStack() as stack:
        resolve_to(monkeypatch, silent, good)
        started = time.monotonic()
        connection = stack.enter_context(connect("supabase.test", PORT, 5, attempt))
        assert connection.getpeername() == good
        assert time.monotonic() - started < 4


def test_an_address_that_refuses_is_passed_at_once(monkeypatch: pytest.MonkeyPatch, attempt: Attempt) -> None:
    """The next address does not wait for its turn when the one before it has failed."""
    with listener() as good, ExitStack() as stack:
        resolve_to(monkeypatch, *[refusing_address() for _ in range(20)], good)
        connection = stack.enter_context(connect("supabase.test", PORT, 4, attempt))
        assert connection.getpeername() == good


def test_a_family_that_the_machine_does_not_have_is_passed(monkeypatch: pytest.MonkeyPatch, attempt: Attempt) -> None:
    """Addresses that no socket can be made for do not matter while one works."""
    with listener() as good, ExitStack() as stack:
        odd: Found = [(9999, socket.SOCK_STREAM, 6, "", ("::", 1, 0, 0))]
        usual: Found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", good)]
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: odd + usual)
        connection = stack.enter_context(connect("supabase.test", PORT, 5, attempt))
        assert connection.getpeername() == good


def test_an_unreachable_network_is_passed(monkeypatch: pytest.MonkeyPatch, attempt: Attempt) -> None:
    """An address for which the system has no route at all fails at once and is not taken for a connection."""
    with listener() as good, ExitStack() as stack:
        resolve_to(monkeypatch, ("255.255.255.255", 443), good)
        connection = stack.enter_context(connect("supabase.test", PORT, 5, attempt))
        assert connection.getpeername() == good


def test_families_take_turns(monkeypatch: pytest.MonkeyPatch, attempt: Attempt) -> None:
    """With several silent addresses of one family, one of the other family is the second to be tried."""
    with silent_address() as silent, listener() as good, ExitStack() as stack:
        silent6 = (f"::ffff:{silent[0]}", silent[1], 0, 0)
        silent_ones: Found = [(socket.AF_INET6, socket.SOCK_STREAM, 6, "", silent6)] * 30
        good_one: Found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", good)]
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: silent_ones + good_one)
        connection = stack.enter_context(connect("supabase.test", PORT, 3, attempt))
        assert connection.getpeername() == good


def test_no_address_answers_in_time(monkeypatch: pytest.MonkeyPatch, attempt: Attempt) -> None:
    """The bound holds for all addresses together."""
    with silent_address() as silent:
        resolve_to(monkeypatch, silent, silent)
        with pytest.raises(TimeoutError):
            connect("supabase.test", PORT, 0.05, attempt)


def test_every_address_refuses(monkeypatch: pytest.MonkeyPatch, attempt: Attempt) -> None:
    """The error is the system's own."""
    resolve_to(monkeypatch, refusing_address(), refusing_address())
    with pytest.raises(ConnectionRefusedError):
        connect("supabase.test", PORT, 5, attempt)


def test_nobody_connects_for_a_caller_who_has_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """A name that is resolved too late leads to no connection."""
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
