"""A connection to one of a host's addresses, and the final HTTP answer over that connection.

Addresses are tried in the resolver's order, alternating between IPv6 and IPv4. The next address is tried when the
previous one has failed or has not answered for a quarter of a second. The first address that answers is used (RFC 8305,
"Happy Eyeballs").
"""

from __future__ import annotations

import errno
import http.client
import os
import selectors
import socket
import sys
import time
from itertools import chain, zip_longest

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from kis_token.deadline import Attempt

    _Address = tuple[int, int, int, Any]

#: If a server sends this many interim answers (HTTP status 100 to 199, except 101) to one request, the request fails.
MOST_INTERIM = 10

#: Seconds until the next address is tried in parallel. RFC 8305 recommends 0.25.
HEAD_START = 0.25

_UNDER_WAY = {0, errno.EINPROGRESS, errno.EWOULDBLOCK}


def may_have_proxy() -> bool:
    """Whether a proxy may be set, by a variable ``*_proxy`` or by the settings of Windows or macOS."""
    return sys.platform in ("win32", "darwin") or any(name.lower().endswith("_proxy") for name in os.environ)


def connect(host: str, port: int, seconds: float, attempt: Attempt) -> socket.socket:
    """Return a connection to ``host``, with the socket timeout ``seconds``.

    After the name is resolved, the connection is made within ``seconds``. The name resolution has no limit of its own.
    If the caller gives up ``attempt``, the connection is shut down. If the caller gives up ``attempt`` during the name
    resolution, GivenUp is raised after the name resolution. Also raises OSError, for example TimeoutError or an error
    of name resolution.
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
    """Return the connection to the first address that answers, and close the other connections."""
    waiting = _alternating(addresses)
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
                    except OSError as error:  # for example, this machine has no IPv6
                        failure = error
                    continue
                for key, _ in selector.select(min(deadline, next_start if waiting else deadline) - now):
                    connection = key.fileobj
                    assert isinstance(connection, socket.socket)  # noqa: S101 - only sockets are registered
                    selector.unregister(connection)
                    code = connection.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
                    if code == 0:
                        return connection
                    connection.close()
                    failure, next_start = OSError(code, os.strerror(code)), 0.0
            raise failure
        finally:
            for key in list(selector.get_map().values()):
                key.fileobj.close()  # type: ignore[union-attr]  # only sockets are registered


def _start(address: _Address) -> socket.socket:
    """Start to connect, without waiting, and return the socket. Raises OSError."""
    family, kind, protocol, where = address
    connection = socket.socket(family, kind, protocol)
    try:
        connection.setblocking(False)  # noqa: FBT003 - the parameter has no name
        code = connection.connect_ex(where)
        if code not in _UNDER_WAY:
            raise OSError(code, os.strerror(code))  # noqa: TRY301 - the handler below closes the socket
    except BaseException:
        connection.close()
        raise
    return connection


def _alternating(addresses: list[_Address]) -> list[_Address]:
    """Return the addresses in the order of ``getaddrinfo``, but alternating between IPv6 and IPv4."""
    first = [each for each in addresses if each[0] == addresses[0][0]]
    others = [each for each in addresses if each[0] != addresses[0][0]]
    return [each for each in chain.from_iterable(zip_longest(first, others)) if each is not None]


class FinalResponse(http.client.HTTPResponse):
    """Skips interim answers (100 to 199, except 101). Raises HTTPException after MOST_INTERIM interim answers."""

    def _read_status(self) -> tuple[str, int, str]:
        for _ in range(MOST_INTERIM):
            version, status, reason = super()._read_status()  # type: ignore[misc]  # not in the published types
            if not 100 <= status < 200 or status == http.HTTPStatus.SWITCHING_PROTOCOLS:
                return version, status, reason
            http.client.parse_headers(self.fp)
        raise http.client.HTTPException("too many interim answers")

    def _safe_read(self, amt: int) -> bytes:
        if amt < 0:  # a chunk of negative length would be read until the connection ends
            raise http.client.IncompleteRead(b"")
        return super()._safe_read(amt)  # type: ignore[misc,no-any-return]  # not in the published types
