"""One HTTP exchange with Supabase, with the standard library: bounded in time and size, silent, nothing sent too late.

The warm read and the supabase client both use it, so that one certificate store, one proxy rule and one idea of an
outage serve both. No redirect is followed. No error holds a text of the other side, which may repeat the key.
"""

from __future__ import annotations

import base64
import http.client
import os
import ssl
from contextlib import suppress
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from kis_token.errors import StoreOutage
from kis_token.final_response import FinalResponse
from kis_token.limits import GivenUp, within
from kis_token.network import connect

if TYPE_CHECKING:
    import socket
    from collections.abc import Mapping
    from email.message import Message

    from kis_token.limits import Attempt

#: Bytes of an answer, unpacked. A slot's rows are a few thousand.
LARGEST_ANSWER = 1024 * 1024

#: Variables that name further certificates to trust, as requests, curl and others read them.
_BUNDLES = ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")


class Answer:
    """An answer. ``is_cut`` says that its body was longer than ``LARGEST_ANSWER`` and is not whole.

    Not a dataclass: making one costs more than half a millisecond at each start.
    """

    __slots__ = ("body", "headers", "is_cut", "status")

    def __init__(self, status: int, headers: Message, body: bytes) -> None:
        self.status = status
        self.headers = headers
        self.body = body[:LARGEST_ANSWER]
        self.is_cut = len(body) > LARGEST_ANSWER


class Wire:
    """The way to one Supabase project. It keeps no connection, so threads and forked processes may share it."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._is_tls = parts.scheme == "https"
        self._host = parts.hostname or ""
        self._port = parts.port or (443 if self._is_tls else 80)
        self._netloc = parts.netloc
        self._context: ssl.SSLContext | None = None

    def exchange(
        self, method: str, path: str, headers: Mapping[str, str], *, seconds: float, body: bytes | None = None
    ) -> Answer:
        """Send one request; the answer, whatever its status.

        Raises StoreOutage, with all that it says.
        """
        # Only this machine is spoken to without TLS: never through a proxy, which would see the key.
        proxy = _proxy(self._netloc) if self._is_tls else None
        # The port is named where it is not TLS's own; nothing packed is asked for.
        headers = {"Host": self._netloc, **headers, "Accept-Encoding": "identity"}

        def exchange(attempt: Attempt) -> Answer:
            try:
                with self._connect(proxy, seconds, attempt) as connection:
                    attempt.sending()
                    return self._ask(connection, method, path, headers, body)
            except TimeoutError:
                # A socket's own timeout ends in the same moment as the caller's patience.
                raise GivenUp(sent=attempt.sent) from None
            except (OSError, ValueError, http.client.HTTPException) as error:
                outage = _outage(error, sent=attempt.sent, is_proxied=proxy is not None)
            raise outage  # outside of the block: the cause's text may repeat what was sent

        try:
            return within(seconds, exchange)
        except GivenUp as error:
            message = f"Supabase did not answer within {max(seconds, 0):.2g} s"
            raise StoreOutage("store-unreachable", message, sent=error.sent, doubtful=proxy is not None) from None

    def _ask(
        self, connection: socket.socket, method: str, path: str, headers: Mapping[str, str], body: bytes | None
    ) -> Answer:
        exchange = http.client.HTTPConnection(self._host, self._port)
        exchange.set_debuglevel(0)  # a program that debugs its own requests would print the key
        exchange.response_class = FinalResponse
        exchange.sock = connection
        exchange.request(method, path, body, headers)
        with exchange.getresponse() as response:
            return _read(response)

    def _connect(self, proxy: _Proxy | None, seconds: float, attempt: Attempt) -> socket.socket:
        """A connection to Supabase, with TLS where it is due."""
        host, port = (self._host, self._port) if proxy is None else (proxy.host, proxy.port)
        connection = connect(host, port, seconds, attempt)
        if not self._is_tls:
            return connection
        try:
            if proxy is not None:
                _open_tunnel(connection, self._host, self._port, proxy)
            from kis_token.forks import no_fork  # here, since its import takes time that plain http does not need

            with no_fork():
                if self._context is None:
                    self._context = _trust()
                return self._context.wrap_socket(connection, server_hostname=self._host)
        except BaseException:
            connection.close()
            raise


class _BrokenAnswer(http.client.HTTPException):
    """A packed answer that cannot be unpacked."""


class _ProxyRefusal(OSError):
    """A proxy answered something else than that the tunnel is open: it wants other credentials, or it is in trouble."""

    def __init__(self, status: int) -> None:
        super().__init__("the proxy opens no tunnel")
        self.is_lasting = 400 <= status < 500


class _NoTrust(OSError):
    """The machine's certificates cannot be loaded."""


class _Proxy:
    """A proxy that opens tunnels. Its ``credentials`` are in the form of HTTP's basic authentication, or None."""

    __slots__ = ("credentials", "host", "port")

    def __init__(self, host: str, port: int, credentials: str | None) -> None:
        self.host = host
        self.port = port
        self.credentials = credentials


def _read(response: http.client.HTTPResponse) -> Answer:
    packed = response.read(LARGEST_ANSWER + 1)
    if response.length and len(packed) <= LARGEST_ANSWER:
        raise http.client.IncompleteRead(b"")
    body = packed
    if response.getheader("Content-Encoding", "identity").lower() not in ("", "identity"):
        # Some proxies pack answers although nobody asked for it.
        import zlib

        unpacking = zlib.decompressobj(wbits=47)  # zlib's and gzip's headers
        try:
            body = unpacking.decompress(packed, LARGEST_ANSWER + 1)
        except zlib.error:
            raise _BrokenAnswer from None
        if not unpacking.eof and len(body) <= LARGEST_ANSWER:
            raise _BrokenAnswer
    return Answer(response.status, response.headers, body)


def _outage(error: Exception, *, sent: bool, is_proxied: bool) -> StoreOutage:
    """The error's kind in words. Its text stays out."""
    if isinstance(error, ssl.SSLCertVerificationError):
        message = "Supabase's certificate cannot be checked"
        return StoreOutage("store-tls", message, doubtful=True, lasting=True, sent=False)
    is_trust = isinstance(error, _NoTrust)
    # A connection that breaks off within the handshake is an outage like any other.
    is_tls = isinstance(error, ssl.SSLError) and not isinstance(error, (ssl.SSLEOFError, ssl.SSLZeroReturnError))
    return StoreOutage(
        "store-unreachable",
        f"Supabase does not answer ({type(error).__name__.lstrip('_')})",
        doubtful=is_proxied or is_tls or is_trust,
        lasting=is_trust or (isinstance(error, _ProxyRefusal) and error.is_lasting),
        sent=sent,
    )


def _open_tunnel(connection: socket.socket, host: str, port: int, proxy: _Proxy) -> None:
    """Ask the proxy for a connection to the host. Raises OSError and HTTPException."""
    address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    head = f"CONNECT {address} HTTP/1.1\r\nHost: {address}\r\n"
    if proxy.credentials is not None:
        head += f"Proxy-Authorization: Basic {proxy.credentials}\r\n"
    connection.sendall(f"{head}\r\n".encode("ascii"))
    with FinalResponse(connection, method="CONNECT") as response:
        response.begin()
        if response.status != 200:
            raise _ProxyRefusal(response.status)


def _proxy(netloc: str) -> _Proxy | None:
    """The proxy that the environment names for this address, looked for only where it names any: that costs time."""
    named = {name.lower() for name, value in os.environ.items() if value} - {"no_proxy"}
    if not any(name.endswith("_proxy") for name in named):
        return None
    from urllib.request import getproxies, proxy_bypass

    if proxy_bypass(netloc):
        return None
    proxies = getproxies()
    kind = next((kind for kind in ("https", "all") if proxies.get(kind)), None)
    if kind is None:
        return None
    named_proxy = proxies[kind]
    try:
        parts = urlsplit(named_proxy if "://" in named_proxy else f"http://{named_proxy}")
        port = parts.port or 80
    except ValueError:
        parts, port = urlsplit(""), 0
    if parts.scheme != "http" or not parts.hostname:
        raise StoreOutage(
            "store-unreachable",
            f"The proxy in {kind.upper()}_PROXY is of a kind that cannot be used: only http:// can",
            doubtful=True,
            lasting=True,
            sent=False,
        )
    user = f"{unquote(parts.username or '')}:{unquote(parts.password or '')}"
    return _Proxy(parts.hostname, port, base64.b64encode(user.encode()).decode() if user != ":" else None)


def _trust() -> ssl.SSLContext:
    """The system's certificates (or SSL_CERT_FILE and SSL_CERT_DIR), those that the environment adds, and certifi's."""
    try:
        context = ssl.create_default_context()
    except OSError:  # such as SSLKEYLOGFILE in a folder that is not there
        raise _NoTrust from None
    context.set_alpn_protocols(["http/1.1"])
    for path in filter(None, map(os.environ.get, _BUNDLES)):
        with suppress(OSError):  # a file that is not there, or no certificate: what else is trusted decides
            context.load_verify_locations(**({"capath": path} if os.path.isdir(path) else {"cafile": path}))  # noqa: PTH112 - pathlib costs time
    with suppress(ImportError, OSError):  # not on the fast path, where there are no packages
        import certifi

        context.load_verify_locations(certifi.where())
    return context
