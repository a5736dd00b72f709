"""One HTTP exchange with the standard library: limited in time and size. After the time limit, no request is sent.

The module `slot_query`, the module `function_call` and the client of the package supabase use this module. Therefore,
all requests to Supabase have the same trusted certificates, the same rule for proxies and the same classification of
outages. No redirect is followed. No error contains text of the answer, because an answer may repeat the key.
"""

from __future__ import annotations

import http.client
import json
import ssl
from urllib.parse import urlsplit

from kis_token.deadline import GivenUp, within
from kis_token.errors import StoreOutage
from kis_token.network.connection import FinalResponse, connect, may_have_proxy
from kis_token.network.tls_trust import NoTrust, forget, has_more, trusted

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket
    from collections.abc import Mapping
    from email.message import Message

    from kis_token.deadline import Attempt
    from kis_token.network.proxies import Proxy, ProxyFault

#: The largest answer in bytes, after decompression. A slot's rows take a few thousand bytes.
LARGEST_ANSWER = 1024 * 1024


def one_line(text: str, longest: int) -> str:
    """A text from another machine, made safe for a log or a terminal: one line, at most ``longest`` characters."""
    return "".join(filter(str.isprintable, " ".join(text.split())))[:longest]


class Answer:
    """An HTTP answer. If ``is_cut`` is True, the body was longer than ``LARGEST_ANSWER``, and its rest is missing.

    The class is not a dataclass, because defining a dataclass costs more than half a millisecond at each start.
    """

    __slots__ = ("body", "headers", "is_cut", "status")

    def __init__(self, status: int, headers: Message, body: bytes) -> None:
        self.status = status
        self.headers = headers
        self.body = body[:LARGEST_ANSWER]
        self.is_cut = len(body) > LARGEST_ANSWER

    def json(self) -> object:
        """The body as JSON; None if the body is not JSON."""
        try:
            return json.loads(self.body)
        except (ValueError, RecursionError):
            return None


class Wire:
    """Sends requests to one host. ``peer`` is the name of this host in error messages.

    Threads and forked processes may share a `Wire`, because a `Wire` keeps no connection.
    """

    def __init__(self, url: str, peer: str = "Supabase") -> None:
        parts = urlsplit(url)
        self._peer = peer
        self._is_tls = parts.scheme == "https"
        self._host = parts.hostname or ""
        self._port = parts.port or (443 if self._is_tls else 80)
        self._netloc = parts.netloc

    def exchange(
        self, method: str, path: str, headers: Mapping[str, str], *, seconds: float, body: bytes | None = None
    ) -> Answer:
        """Send one request. Returns the answer, with any status.

        Raises StoreOutage, with all its attributes set.
        """
        # A request over plain http goes only to this machine, and uses no proxy: a proxy would see the key.
        proxy = self._find_proxy() if self._is_tls else None
        # The Host header has the port, except for port 443 over TLS. The request asks for an uncompressed answer.
        headers = {"Host": self._netloc, **headers, "Accept-Encoding": "identity"}

        def exchange(attempt: Attempt) -> Answer:
            try:
                with self._connect(proxy, seconds, attempt) as connection:
                    attempt.sending()
                    return self._ask(connection, method, path, headers, body)
            except TimeoutError:
                # The socket's timeout ends at the same moment as the limit of the exchange, so both raise GivenUp.
                raise GivenUp(sent=attempt.sent) from None
            except (OSError, ValueError, http.client.HTTPException) as error:
                outage = self._outage(error, proxy, sent=attempt.sent)
            # This line is after the except block, so that a traceback does not show the caught error with its request.
            raise outage

        try:
            return within(seconds, exchange)
        except GivenUp as error:
            message = f"{self._peer} did not answer within {max(seconds, 0):.2g} s{_way(proxy)}"
            raise StoreOutage("store-unreachable", message, sent=error.sent, doubtful=proxy is not None) from None

    def _ask(
        self, connection: socket.socket, method: str, path: str, headers: Mapping[str, str], body: bytes | None
    ) -> Answer:
        exchange = http.client.HTTPConnection(self._host, self._port)
        exchange.set_debuglevel(0)  # a program that turns on http.client's debug output must not print the key
        exchange.response_class = FinalResponse
        exchange.sock = connection
        exchange.request(method, path, body, headers)
        with exchange.getresponse() as response:
            return _read(response)

    def _find_proxy(self) -> Proxy | None:
        if not may_have_proxy():
            return None
        from kis_token.network.proxies import (  # most machines have no proxy, and this import takes time
            ProxyFault,
            find_proxy,
        )

        try:
            return find_proxy(self._host, self._port)
        except ProxyFault as fault:
            raise self._unusable(fault) from None

    def _connect(self, proxy: Proxy | None, seconds: float, attempt: Attempt) -> socket.socket:
        """Connect to Supabase, over TLS if the URL is https.

        If the check of the certificate fails, connect once more with all trusted certificates.
        """
        if not self._is_tls:
            return self._reach(proxy, seconds, attempt)
        try:
            return self._open_tls(self._reach(proxy, seconds, attempt), quick=True)
        except ssl.SSLCertVerificationError:
            if not has_more():
                raise
        return self._open_tls(self._reach(proxy, seconds, attempt), quick=False)

    def _open_tls(self, connection: socket.socket, *, quick: bool) -> socket.socket:
        try:
            from kis_token.process.forks import no_fork  # imported here, because plain http does not need the module

            with no_fork():
                return trusted(quick=quick).wrap_socket(connection, server_hostname=self._host)
        except BaseException:
            connection.close()
            raise

    def _reach(self, proxy: Proxy | None, seconds: float, attempt: Attempt) -> socket.socket:
        if proxy is None:
            return connect(self._host, self._port, seconds, attempt)
        from kis_token.network.proxies import reach

        return reach(self._host, self._port, proxy, seconds, attempt)

    def _outage(self, error: Exception, proxy: Proxy | None, *, sent: bool) -> StoreOutage:
        """The outage for ``error``. The outage's message names the kind of error.

        The text of ``error`` is shown only if this package wrote that text.
        """
        if proxy is not None:
            from kis_token.network.proxies import ProxyFault

            if isinstance(error, ProxyFault):
                return self._unusable(error)
        # A connection that breaks off during the TLS handshake is an ordinary outage, not a problem of certificates.
        is_tls = isinstance(error, ssl.SSLError) and not isinstance(error, (ssl.SSLEOFError, ssl.SSLZeroReturnError))
        seen = type(error).__name__.lstrip("_")
        if isinstance(error, ssl.SSLError) and is_tls:
            from kis_token.network.trusted_certificates import describe  # only a failed handshake needs this import

            seen = describe(error)
        if isinstance(error, (ssl.SSLCertVerificationError, NoTrust)):
            forget()
            why = seen if is_tls else f"{error}"
            message = f"{self._peer}'s certificate cannot be checked: {why}{_way(proxy)}"
            return StoreOutage("store-tls", message, doubtful=True, lasting=True, sent=False)
        message = f"{self._peer} does not answer ({seen}){_way(proxy)}"
        return StoreOutage(
            "store-unreachable",
            message,
            doubtful=proxy is not None or is_tls,
            sent=sent,
            refused=isinstance(error, ConnectionRefusedError),
        )

    def _unusable(self, fault: ProxyFault) -> StoreOutage:
        message = f"{self._peer} cannot be asked: {fault}"
        return StoreOutage("proxy-unusable", message, doubtful=True, lasting=fault.is_lasting, sent=False)


class _BrokenAnswer(http.client.HTTPException):
    """A compressed answer that cannot be unpacked."""


def _read(response: http.client.HTTPResponse) -> Answer:
    packed = response.read(LARGEST_ANSWER + 1)
    if response.length and len(packed) <= LARGEST_ANSWER:
        raise http.client.IncompleteRead(b"")
    body = packed
    if response.getheader("Content-Encoding", "identity").lower() not in ("", "identity"):
        # Some proxies compress an answer although the request asked for an uncompressed one.
        import zlib

        unpacking = zlib.decompressobj(wbits=47)  # with wbits=47, zlib accepts the header of zlib and of gzip
        try:
            body = unpacking.decompress(packed, LARGEST_ANSWER + 1)
        except zlib.error:
            raise _BrokenAnswer from None
        if not unpacking.eof and len(body) <= LARGEST_ANSWER:
            raise _BrokenAnswer
    return Answer(response.status, response.headers, body)


def _way(proxy: Proxy | None) -> str:
    return f", through {proxy}" if proxy is not None else ""
