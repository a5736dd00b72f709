"""Connections to KIS for urllib3, which call ``may_send`` before they send a request, and which print nothing.

A request belongs to an `Exchange`. The connection finds the `Exchange` in the context of the thread that sends the
request.
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

from kis_token.network.connection import FinalResponse
from kis_token.network.proxies import ProxyFault, reach
from kis_token.network.tls_trust import NoTrust, forget, trusted
from kis_token.network.trusted_certificates import describe
from kis_token.process.forks import no_fork

if TYPE_CHECKING:
    from collections.abc import Callable

    from kis_token.deadline import Attempt
    from kis_token.network.proxies import Proxy

#: The base class of urllib3's errors. The package `requests` does not convert every error of urllib3 into its own
#: class.
TransportError = HTTPError


@dataclass(slots=True)
class Exchange:
    """One request and its answer, through ``proxy`` if there is one.

    ``may_send`` is called immediately before the request is sent, when the connection is ready. If ``may_send`` returns
    False, nothing is sent, ``was_late`` becomes True, and the answer has status 0. If no request was sent over a
    connection, the next request can use the connection. If a connection fails and urllib3's error does not show the
    exact reason, ``trouble`` has this reason.
    """

    attempt: Attempt
    may_send: Callable[[], bool]
    proxy: Proxy | None = None
    was_late: bool = False
    trouble: Trouble | None = None


@dataclass(frozen=True, slots=True)
class Trouble:
    """The reason for a failed connection: the error's ``code``, and ``said``, the text after the host's name.

    ``lasting`` is True if repeating the request does not help.
    """

    code: str
    said: str
    lasting: bool


_EXCHANGE: ContextVar[Exchange] = ContextVar("_EXCHANGE")


def begin(exchange: Exchange) -> None:
    """Use ``exchange`` for the next requests of this thread."""
    _EXCHANGE.set(exchange)


@cache
def guarded(pool: type[Any]) -> type[Any]:
    """Return a subclass of urllib3's class ``pool``. The subclass makes connections of the class `_Guarded`."""
    members = {"ConnectionCls": type("GuardedConnection", (_Guarded, pool.ConnectionCls), {}), "QueueCls": _Kept}
    return type("GuardedPool", (pool,), members)


class _Kept(deque[Any]):
    """The connections that a pool keeps.

    The class has no lock: a forked child would wait forever for a lock that another thread held at the fork.
    """

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
    """A response without its unparsable headers, because urllib3 would log these headers."""

    def begin(self) -> None:
        super().begin()
        # urllib3 logs headers that it cannot parse, and these headers may contain parts of the request.
        self.msg.defects.clear()
        self.msg.set_payload("")


class _Guarded(HTTPConnection):
    """A connection that calls ``may_send`` before it sends a request, and that ignores http.client's debug level."""

    debuglevel = 0
    response_class = _Answer
    _is_unsent = False

    @property
    def is_connected(self) -> bool:
        """Whether the connection can be used again."""
        # If an idle connection has received data that nothing has read, urllib3 treats the connection as closed. But
        # before the first request of a TLS connection, the received data may be only session tickets. A connection with
        # only session tickets can be used.
        return super().is_connected or (self.sock is not None and self._is_unsent and self._is_open())

    def request(self, *arguments: Any, **named: Any) -> None:  # noqa: ANN401 - the parent's
        """Send a request if ``may_send`` returns True. Raises GivenUp if the caller has given up the request."""
        exchange = _EXCHANGE.get()
        if self.sock is None:
            self.connect()
        exchange.attempt.watch(self.sock)
        self._is_unsent = exchange.was_late = not exchange.may_send()
        if not exchange.was_late:
            exchange.attempt.sending()
            super().request(*arguments, **named)

    def getresponse(self) -> HTTPResponse:  # type: ignore[override]  # as in urllib3
        """Return the answer, or an answer with status 0 if the request was not sent."""
        if self._is_unsent:
            return HTTPResponse(status=0, preload_content=False)
        return super().getresponse()

    def _is_open(self) -> bool:
        try:
            self.sock.settimeout(0)
            self.sock.recv(1)  # recv returns only if KIS has closed the connection, or has sent data without a request
        except (BlockingIOError, ssl.SSLWantReadError):
            return True
        except OSError:
            return False
        return False

    def connect(self) -> None:
        """Connect, and make the TLS handshake."""
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
        assert seconds is not None  # noqa: S101 - every call has a time limit
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
    """Return the reason for ``error``. The text of ``error`` is included only if this project wrote the text."""
    if isinstance(error, ProxyFault):
        return Trouble("proxy-unusable", f"cannot be asked: {error}", error.is_lasting)
    if isinstance(error, (ssl.SSLCertVerificationError, NoTrust)):
        forget()
        why = describe(error) if isinstance(error, ssl.SSLError) else f"{error}"
        return Trouble("kis-tls", f"has a certificate that cannot be checked: {why}", lasting=True)
    return Trouble("kis-unreachable", f"does not answer ({describe(error)})", lasting=False)
