"""The proxy for a host: one rule for Supabase and for KIS.

A request over http, without TLS, goes only to this machine and uses no proxy.

HTTPS_PROXY takes precedence over ALL_PROXY. A variable in lower case takes precedence over the same variable in upper
case. A host that NO_PROXY names is reached directly. An entry of NO_PROXY has one of these forms:

- a name, with or without ``.`` or ``*.`` before the name: the entry covers the named host and all its subdomains.
- an address or a range of addresses, such as 10.0.0.0/8: the entry covers each of these addresses.
- a name or an address with a port: the entry covers only this port.
- ``*``: the entry covers every host.

If the environment has no variable whose name ends with _PROXY, the proxy settings of Windows or macOS are used.
"""

from __future__ import annotations

import base64
import os
import re
import sys
from http.client import HTTPException
from urllib.parse import unquote, urlsplit

from kis_token.network.connection import FinalResponse, connect

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket
    from collections.abc import Mapping

    from kis_token.deadline import Attempt

#: The value of ``Proxy.source`` for a proxy from the settings of Windows or macOS.
SYSTEM = "the system's settings"

#: A regular expression for an entry of NO_PROXY, and a regular expression for an IP address.
_ENTRY = r"(?P<host>\[[^]]*\]|[^:]*)(:(?P<port>\d+))?"
_ADDRESS = r"[\d.]+|[\da-f.]*:[\da-f:.]*"


class Proxy:
    """A proxy that opens tunnels. ``credentials`` are encoded for HTTP's basic authentication; None without a user.

    ``source`` is the variable that names the proxy, or ``SYSTEM``. The class is not a dataclass, because defining a
    dataclass costs time at each start.
    """

    __slots__ = ("credentials", "host", "port", "source")

    def __init__(self, source: str, host: str, port: int, credentials: str | None) -> None:
        self.source = source
        self.host = host
        self.port = port
        self.credentials = credentials

    def __str__(self) -> str:
        return f"the proxy in {self.source}"


class ProxyFault(OSError):
    """The proxy cannot be used. The text contains the variable's name, but no part of its value.

    ``is_lasting`` is True if repeating the request does not help.
    """

    def __init__(self, said: str, *, is_lasting: bool = False) -> None:
        super().__init__(said)
        self.is_lasting = is_lasting


def find_proxy(host: str, port: int) -> Proxy | None:
    """Return the proxy for https to this host; None without a proxy. Raises ProxyFault if the proxy is not usable."""
    names = {name.lower() for name in os.environ if name.lower().endswith("_proxy")}
    if names:
        source = next((name for name in ("https_proxy", "all_proxy") if _setting(os.environ, name)), None)
        if source is None or _is_exempt(host, port, _setting(os.environ, "no_proxy")):
            return None
        return _parse(source.upper(), _setting(os.environ, source))
    value = _of_the_system(host) if sys.platform in ("win32", "darwin") else None
    return _parse(SYSTEM, value) if value else None


def reach(host: str, port: int, proxy: Proxy | None, seconds: float, attempt: Attempt) -> socket.socket:
    """Return a connection to the host, through ``proxy`` if there is one.

    Raises ProxyFault, and the errors of `connect`.
    """
    if proxy is None:
        return connect(host, port, seconds, attempt)
    try:
        connection = connect(proxy.host, proxy.port, seconds, attempt)
    except TimeoutError:  # includes GivenUp
        raise
    except (OSError, ValueError) as error:
        raise ProxyFault(f"{proxy} cannot be reached ({type(error).__name__})") from None
    try:
        _open_tunnel(connection, host, port, proxy)
    except BaseException:
        connection.close()
        raise
    return connection


def _open_tunnel(connection: socket.socket, host: str, port: int, proxy: Proxy) -> None:
    """Ask the proxy for a connection to the host. Raises ProxyFault and TimeoutError."""
    address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    head = f"CONNECT {address} HTTP/1.1\r\nHost: {address}\r\n"
    if proxy.credentials is not None:
        head += f"Proxy-Authorization: Basic {proxy.credentials}\r\n"
    try:
        connection.sendall(f"{head}\r\n".encode("ascii"))
        with FinalResponse(connection, method="CONNECT") as response:
            response.begin()
            status = response.status
    except TimeoutError:
        raise
    except OSError as error:
        raise ProxyFault(f"{proxy} broke off the connection ({type(error).__name__})") from None
    except (ValueError, HTTPException) as error:  # the error may quote the answer
        raise ProxyFault(f"{proxy} does not answer in HTTP ({type(error).__name__})") from None
    if status == 200:
        return
    if status == 407:
        said = "does not accept its user and password" if proxy.credentials else "asks for a user and a password"
    else:
        said = f"opens no connection to {address}"
    raise ProxyFault(f"{proxy} {said} (HTTP {status})", is_lasting=400 <= status < 500)


def _parse(source: str, value: str) -> Proxy:
    """Return the proxy that a variable's value names. Raises ProxyFault."""
    value = value.strip()
    kind = value.partition("://")[0].lower() if "://" in value else "http"
    if kind != "http":
        raise ProxyFault(f"the proxy in {source} is not supported: use an http:// proxy", is_lasting=True)
    try:
        parts = urlsplit(value if "://" in value else f"http://{value}")
        host, port = parts.hostname, parts.port
    except ValueError:
        parts, host, port = urlsplit(""), None, 0
    if not host or port == 0:
        raise ProxyFault(f"the address of the proxy in {source} is not http://host:port", is_lasting=True)
    user = f"{unquote(parts.username or '')}:{unquote(parts.password or '')}"
    return Proxy(source, host, port or 80, base64.b64encode(user.encode()).decode() if user != ":" else None)


def _setting(env: Mapping[str, str], name: str) -> str:
    """Return the variable's value, or "" if it is not set.

    ``name`` is in lower case. The variable in lower case takes precedence over the variable in upper case.
    """
    named = {each: value for each, value in env.items() if each.lower() == name}
    return named.get(name, next(iter(named.values()), ""))


def _is_exempt(host: str, port: int, no_proxy: str) -> bool:
    host = host.lower().rstrip(".")
    return any(_covers(entry, host, port) for entry in re.split(r"[,\s]+", no_proxy.lower()) if entry)


def _covers(entry: str, host: str, port: int) -> bool:
    """Whether an entry of NO_PROXY covers this host and port."""
    if entry == "*":
        return True
    parts = re.fullmatch(_ENTRY, entry)
    name, wanted = (parts["host"], parts["port"]) if parts else (entry, None)  # an IPv6 address without brackets
    if wanted is not None and int(wanted) != port:
        return False
    name = name.strip("[]")
    if re.fullmatch(_ADDRESS, host):
        return _holds(name, host)
    name = name.removeprefix("*").strip(".")
    return name != "" and (host == name or host.endswith(f".{name}"))


def _holds(range_: str, address: str) -> bool:
    from ipaddress import ip_address, ip_network

    try:
        return ip_address(address) in ip_network(range_, strict=False)
    except ValueError:
        return False


def _of_the_system(host: str) -> str | None:
    from urllib.request import getproxies, proxy_bypass

    return None if proxy_bypass(host) else getproxies().get("https")
