"""TCP connections to a host that has several addresses: one that does not answer does not keep the others waiting.

Addresses are tried in the resolver's order, the families in turn. The next one starts when the one before it has failed
or has not answered for a quarter of a second, and the first that answers is used (RFC 8305, "Happy Eyeballs").
"""

from __future__ import annotations

import errno
import os
import selectors
import socket
import sys
import time
from itertools import chain, zip_longest
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kis_token.deadline import Attempt

#: Seconds that an address has for itself before the next one is tried beside it; RFC 8305 recommends 0.25.
HEAD_START = 0.25

_Address = tuple[int, int, int, Any]

_UNDER_WAY = {0, errno.EINPROGRESS, errno.EWOULDBLOCK}


def may_have_proxy() -> bool:
    """Whether a variable names a proxy, or exceptions, or this is a system with settings of its own for that."""
    return sys.platform in ("win32", "darwin") or any(name.lower().endswith("_proxy") for name in os.environ)


def connect(host: str, port: int, seconds: float, attempt: Attempt) -> socket.socket:
    """A connection to ``host``, watched by ``attempt``; ``seconds`` is its timeout as well.

    It is made within ``seconds`` from when the name is resolved, which nothing but giving up bounds. Raises OSError,
    which includes TimeoutError and the errors of name resolution, and GivenUp.
    """
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    attempt.check()
    deadline = time.monotonic() + seconds
    connection = _first_of(
        [(family, kind, protocol, address) for family, kind, protocol, _, address in found], deadline
    )
    try:
        connection.settimeout(seconds)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        attempt.watch(connection)
    except BaseException:
        connection.close()
        raise
    return connection


def _first_of(addresses: list[_Address], deadline: float) -> socket.socket:
    """The first address to answer. The other connections are closed."""
    waiting = _by_turns(addresses)
    failure = OSError("the host has no address")
    next_start = 0.0
    with selectors.DefaultSelector() as selector:
        try:
            while waiting or selector.get_map():
                now = time.monotonic()
                if now >= deadline:
                    raise TimeoutError("no address answered")
                if waiting and now >= next_start:
                    try:
                        selector.register(_start(waiting.pop(0)), selectors.EVENT_WRITE)
                        next_start = now + HEAD_START
                    except OSError as error:  # such as a family that this machine does not have
                        failure = error
                    continue
                for key, _ in selector.select(min(deadline, next_start if waiting else deadline) - now):
                    connection = key.fileobj
                    assert isinstance(connection, socket.socket)  # noqa: S101 - nothing else is registered
                    selector.unregister(connection)
                    code = connection.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
                    if code == 0:
                        return connection
                    connection.close()
                    failure, next_start = OSError(code, os.strerror(code)), 0.0
            raise failure
        finally:
            for key in list(selector.get_map().values()):
                key.fileobj.close()  # type: ignore[union-attr]  # sockets, as above


def _start(address: _Address) -> socket.socket:
    """A connection that is being made."""
    family, kind, protocol, where = address
    connection = socket.socket(family, kind, protocol)
    try:
        connection.setblocking(False)  # noqa: FBT003 - the parameter has no name
        code = connection.connect_ex(where)
        if code not in _UNDER_WAY:
            raise OSError(code, os.strerror(code))  # noqa: TRY301 - closed below, as after any other error
    except BaseException:
        connection.close()
        raise
    return connection


def _by_turns(addresses: list[_Address]) -> list[_Address]:
    """The addresses in their order, the families in turn, the resolver's first choice first."""
    first = [each for each in addresses if each[0] == addresses[0][0]]
    others = [each for each in addresses if each[0] != addresses[0][0]]
    return [each for each in chain.from_iterable(zip_longest(first, others)) if each is not None]
