"""Connections to KIS, as urllib3 keeps them: they ask before a request leaves, and print nothing.

A request belongs to an `Exchange`, which the connection finds in the context of the thread that works on it.
"""

from __future__ import annotations

import socket
import ssl
import sys
from collections import deque
from contextlib import ExitStack
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cache
from queue import Empty, Full
from typing import TYPE_CHECKING, Any

from urllib3 import HTTPResponse
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.exceptions import ConnectTimeoutError, HTTPError, NameResolutionError, NewConnectionError

from kis_token.network.final_response import FinalResponse
from kis_token.network.proxies import ProxyFault, reach
from kis_token.network.trust import NoTrust, forget, trusted
from kis_token.network.trusted_certificates import describe
from kis_token.process.forks import no_fork

if TYPE_CHECKING:
    from collections.abc import Callable

    from kis_token.deadline import Attempt
    from kis_token.network.proxies import Proxy

#: Errors of this module's connections that requests may pass on as they are.
TransportError = HTTPError


@dataclass(slots=True)
class Exchange:
    """One request and its answer, through ``proxy`` where there is one.

    ``may_send`` is asked right before the request leaves, when the connection is ready. When it says no, nothing
    leaves, ``was_late`` becomes true, and the answer has status 0: after it the connection is as good as new.
    ``trouble`` is why there is no connection, where that is known better than urllib3 passes it on.
    """

    attempt: Attempt
    may_send: Callable[[], bool]
    proxy: Proxy | None = None
    was_late: bool = False
    trouble: Trouble | None = None


@dataclass(frozen=True, slots=True)
class Trouble:
    """Why there is no connection: ``code`` of the error, and ``said`` after the name of the host."""

    code: str
    said: str
    lasting: bool


_EXCHANGE: ContextVar[Exchange] = ContextVar("_EXCHANGE")


def begin(exchange: Exchange) -> None:
    """Let the requests of this thread belong to ``exchange``."""
    _EXCHANGE.set(exchange)


@cache
def guarded(pool: type[Any]) -> type[Any]:
    """One of urllib3's classes of connection pools, with connections of this module."""
    members = {"ConnectionCls": type("GuardedConnection", (_Guarded, pool.ConnectionCls), {}), "QueueCls": _Kept}
    return type("GuardedPool", (pool,), members)


class _Kept(deque[Any]):
    """The connections that a pool keeps. Without a lock, which another thread might hold when a process is forked."""

    def __init__(self, maxsize: int) -> None:
        super().__init__()
        self._most = maxsize

    def get(self, block: bool = True, timeout: float | None = None) -> Any:  # noqa: ANN401, ARG002, FBT001, FBT002 - queue's
        try:
            return self.pop()
        except IndexError:
            raise Empty from None

    def put(self, item: Any, block: bool = True, timeout: float | None = None) -> None:  # noqa: ANN401, ARG002, FBT001, FBT002 - queue's
        if len(self) >= self._most:
            raise Full
        self.append(item)

    def qsize(self) -> int:
        return len(self)


class _Answer(FinalResponse):
    """An answer whose odd headers are not logged."""

    def begin(self) -> None:
        super().begin()
        # urllib3 logs what it could not read of the headers, which may be what was sent.
        self.msg.defects.clear()
        self.msg.set_payload("")


class _Guarded(HTTPConnection):
    """A connection that asks before a request leaves. It prints nothing where a program has http.client do so."""

    debuglevel = 0
    response_class = _Answer
    _is_unsent = False

    @property
    def is_connected(self) -> bool:
        """Whether it can be used again."""
        # TLS servers greet with session tickets, which make a connection readable on which nothing was sent yet.
        return super().is_connected or (self.sock is not None and self._is_unsent and self._is_open())

    def request(self, *arguments: Any, **named: Any) -> None:  # noqa: ANN401 - the parent's
        """Send a request, unless its caller has given it up (GivenUp) or it has become too late."""
        exchange = _EXCHANGE.get()
        if self.sock is None:
            self.connect()
        exchange.attempt.watch(self.sock)
        self._is_unsent = exchange.was_late = not exchange.may_send()
        if not exchange.was_late:
            exchange.attempt.sending()
            super().request(*arguments, **named)

    def getresponse(self) -> HTTPResponse:  # type: ignore[override]  # as in urllib3
        """The answer; one of status 0 to a request that was not sent."""
        if self._is_unsent:
            return HTTPResponse(status=0, preload_content=False)
        return super().getresponse()

    def _is_open(self) -> bool:
        try:
            self.sock.settimeout(0)
            self.sock.recv(1)  # the other side has closed, or says something that nobody has asked for
        except (BlockingIOError, ssl.SSLWantReadError):
            return True
        except OSError:
            return False
        return False

    def connect(self) -> None:
        """Connect, and shake hands with the other side."""
        with ExitStack() as self._handshake:
            try:
                if isinstance(self, HTTPSConnection):
                    with no_fork():
                        self.ssl_context = trusted()
                super().connect()
            except (ssl.SSLError, NoTrust, ProxyFault) as error:
                _EXCHANGE.get().trouble = _trouble(error)
                raise

    def _new_conn(self) -> socket.socket:
        seconds, exchange = self.timeout, _EXCHANGE.get()
        assert seconds is not None  # noqa: S101 - every call has its time
        try:
            connection = reach(self._dns_host, self.port, exchange.proxy, seconds, exchange.attempt)
        except socket.gaierror as error:
            raise NameResolutionError(self.host, self, error) from None
        except TimeoutError:
            raise ConnectTimeoutError(self, "not connected in time") from None
        except ProxyFault:
            raise
        except OSError as error:
            raise NewConnectionError(self, f"not connected: {type(error).__name__}") from None
        sys.audit("http.client.connect", self, self.host, self.port)
        self._handshake.enter_context(no_fork())
        return connection


def _trouble(error: ssl.SSLError | NoTrust | ProxyFault) -> Trouble:
    """The error in words. Its text stays out, unless it is one of ours."""
    if isinstance(error, ProxyFault):
        return Trouble("proxy-unusable", f"cannot be asked: {error}", error.is_lasting)
    if isinstance(error, (ssl.SSLCertVerificationError, NoTrust)):
        forget()
        why = describe(error) if isinstance(error, ssl.SSLError) else f"{error}"
        return Trouble("kis-tls", f"has a certificate that cannot be checked: {why}", lasting=True)
    return Trouble("kis-unreachable", f"does not answer ({describe(error)})", lasting=False)
