"""The proxy rule: the choice of the proxy, the exemptions of NO_PROXY, and the error of a failed proxy."""

from __future__ import annotations

import socket
import sys
import urllib.request
from typing import TYPE_CHECKING

import pytest

from kis_token.errors import IssuerOutage, StoreOutage
from kis_token.network.proxies import SYSTEM, ProxyFault, find_proxy
from kis_token.sandbox.loopback import LoopbackServer
from tests.authority import make_authority
from tests.network.calls import answer, ask_kis, calls
from tests.store.test_slot_query import raw_server

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

SUPABASE = "abcdefgh.supabase.co"
A, B = "http://a.example:3128", "http://b.example:3128"


pytestmark = pytest.mark.usefixtures("plain_network")


def set_all(monkeypatch: pytest.MonkeyPatch, variables: dict[str, str]) -> None:
    """Set all of the variables."""
    for name, value in variables.items():
        monkeypatch.setenv(name, value)


# the choice of the proxy


NAMED: dict[str, tuple[dict[str, str], tuple[str, str, int] | None]] = {
    "none": ({}, None),
    "for http alone": ({"HTTP_PROXY": A, "http_proxy": A}, None),
    "https": ({"HTTPS_PROXY": A, "ALL_PROXY": B}, ("HTTPS_PROXY", "a.example", 3128)),
    "all": ({"ALL_PROXY": B}, ("ALL_PROXY", "b.example", 3128)),
    "small letters first": ({"HTTPS_PROXY": A, "https_proxy": B}, ("HTTPS_PROXY", "b.example", 3128)),
    "small letters of nothing": ({"HTTPS_PROXY": A, "https_proxy": ""}, None),
    "nothing, else all": ({"HTTPS_PROXY": "", "all_proxy": B}, ("ALL_PROXY", "b.example", 3128)),
    "without a scheme": ({"https_proxy": "a.example:8080"}, ("HTTPS_PROXY", "a.example", 8080)),
    "without a port": ({"https_proxy": "http://a.example"}, ("HTTPS_PROXY", "a.example", 80)),
    "capital scheme": ({"https_proxy": "HTTP://A.example:8080/"}, ("HTTPS_PROXY", "a.example", 8080)),
    "blanks around it": ({"https_proxy": f" {A}\n"}, ("HTTPS_PROXY", "a.example", 3128)),
    "IPv6": ({"https_proxy": "http://[::1]:3128"}, ("HTTPS_PROXY", "::1", 3128)),
}


@pytest.mark.parametrize("name", NAMED)
def test_which_proxy_is_on_the_way(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """HTTPS_PROXY has precedence over ALL_PROXY, and a name in lower case over the same name in upper case."""
    variables, expected = NAMED[name]
    set_all(monkeypatch, variables)
    proxy = find_proxy(SUPABASE, 443)
    assert (proxy and (proxy.source, proxy.host, proxy.port)) == expected


EXEMPT: dict[str, tuple[str, str, int, bool]] = {
    "name": (SUPABASE, SUPABASE, 443, True),
    "domain": ("supabase.co", SUPABASE, 443, True),
    "leading dot": (".supabase.co", SUPABASE, 443, True),
    "leading star": ("*.supabase.co", SUPABASE, 443, True),
    "the domain itself, by a dot": (".supabase.co", "supabase.co", 443, True),
    "capitals": ("Supabase.CO", SUPABASE.upper(), 443, True),
    "end of a name": ("base.co", SUPABASE, 443, False),
    "other": ("example.com", SUPABASE, 443, False),
    "one of several": ("localhost, 10.0.0.1 ,supabase.co", SUPABASE, 443, True),
    "blanks between": ("localhost supabase.co", SUPABASE, 443, True),
    "trailing dot of the host": ("supabase.co", f"{SUPABASE}.", 443, True),
    "port": ("openapi.koreainvestment.com:9443", "openapi.koreainvestment.com", 9443, True),
    "another port": ("openapi.koreainvestment.com:443", "openapi.koreainvestment.com", 9443, False),
    "the port of https": (f"{SUPABASE}:443", SUPABASE, 443, True),
    "everything": ("*", SUPABASE, 443, True),
    "everything among others": ("localhost,*", SUPABASE, 443, True),
    "address": ("127.0.0.1", "127.0.0.1", 8443, True),
    "address and port": ("127.0.0.1:8443", "127.0.0.1", 8443, True),
    "range": ("10.0.0.0/8", "10.20.30.40", 443, True),
    "range by a host of it": ("10.1.2.3/8", "10.20.30.40", 443, True),
    "another range": ("10.0.0.0/8", "11.0.0.1", 443, False),
    "range and a name": ("10.0.0.0/8", SUPABASE, 443, False),
    "end of an address": ("0.0.1", "127.0.0.1", 443, False),
    "IPv6": ("::1", "::1", 443, True),
    "IPv6 in brackets": ("[::1]", "::1", 443, True),
    "IPv6 and port": ("[::1]:8443", "::1", 8443, True),
    "IPv6 range": ("fd00::/8", "fd12::1", 443, True),
    "nothing": (" , ,", SUPABASE, 443, False),
    "a dot": (".", SUPABASE, 443, False),
    "nonsense": ("a:b:c/9,[,::::", SUPABASE, 443, False),
}


@pytest.mark.parametrize("variable", ["NO_PROXY", "no_proxy"])
@pytest.mark.parametrize("name", EXEMPT)
def test_hosts_that_no_proxy_exempts(monkeypatch: pytest.MonkeyPatch, name: str, variable: str) -> None:
    """NO_PROXY can name domains (with their subdomains), addresses, address ranges and ports."""
    entries, host, port, is_exempt = EXEMPT[name]
    set_all(monkeypatch, {"https_proxy": A, variable: entries})
    assert (find_proxy(host, port) is None) is is_exempt


@pytest.mark.parametrize("platform", ["win32", "darwin"])
def test_the_system_s_settings_count_where_no_variable_does(monkeypatch: pytest.MonkeyPatch, platform: str) -> None:
    """On Windows and macOS, the system's settings count if no variable names a proxy, as in urllib and requests."""
    monkeypatch.setattr(sys, "platform", platform)
    monkeypatch.setattr(urllib.request, "getproxies", lambda: {"https": A})
    monkeypatch.setattr(urllib.request, "proxy_bypass", lambda host: host == "intern.example")
    proxy = find_proxy(SUPABASE, 443)
    assert proxy is not None
    assert (proxy.source, proxy.host) == (SYSTEM, "a.example")
    assert find_proxy("intern.example", 443) is None
    monkeypatch.setenv("NO_PROXY", SUPABASE)
    assert find_proxy(SUPABASE, 443) is None


UNUSABLE = {
    "socks": ("socks5://user:hunter2@127.0.0.1:9", "is not supported: use an http:// proxy"),
    "socks with names": ("socks5h://127.0.0.1:9", "is not supported: use an http:// proxy"),
    "socks 4": ("socks4://127.0.0.1:9", "is not supported: use an http:// proxy"),
    "TLS": ("https://user:hunter2@127.0.0.1:9", "is not supported: use an http:// proxy"),
    "quoted": ('"http://127.0.0.1:9"', "is not supported: use an http:// proxy"),
    "no host": ("http://", "is not http://host:port"),
    "no host, a port": ("http://:3128", "is not http://host:port"),
    "port of letters": ("http://a.example:port", "is not http://host:port"),
    "port too high": ("http://a.example:99999", "is not http://host:port"),
    "port 0": ("http://a.example:0", "is not http://host:port"),
    "password that is not encoded": ("http://user:hun#ter2@a.example:1", "is not http://host:port"),
    "open bracket": ("http://[::1", "is not http://host:port"),
}


@pytest.mark.parametrize("variable", ["HTTPS_PROXY", "ALL_PROXY"])
@pytest.mark.parametrize("name", UNUSABLE)
def test_a_proxy_that_cannot_be_used_is_named(monkeypatch: pytest.MonkeyPatch, name: str, variable: str) -> None:
    """If a proxy cannot be used, the error names the variable and the fault, and shows no part of the value."""
    value, said = UNUSABLE[name]
    monkeypatch.setenv(variable, value)
    with pytest.raises(ProxyFault) as caught:
        find_proxy(SUPABASE, 443)
    assert f"the proxy in {variable}" in f"{caught.value}"
    assert said in f"{caught.value}"
    assert "hun" not in f"{caught.value!r}"
    assert caught.value.is_lasting


# its effect


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LoopbackServer]:
    """Yield a server that acts as Supabase and as KIS, with TLS and a trusted certificate."""
    authority = make_authority(tmp_path)
    monkeypatch.setenv("SSL_CERT_FILE", str(authority.file))
    with LoopbackServer(answer, tls=authority.server()) as server:
        yield server


@calls
@pytest.mark.parametrize("exempt", ["127.0.0.1", "127.0.0.0/8"])
@pytest.mark.parametrize("variable", ["ALL_PROXY", "HTTPS_PROXY", "HTTP_PROXY"])
def test_a_proxy_that_is_not_on_the_way_plays_no_part(
    server: LoopbackServer,
    monkeypatch: pytest.MonkeyPatch,
    call: Callable[[str], object],
    variable: str,
    exempt: str,
) -> None:
    """If NO_PROXY exempts the host, a variable with a SOCKS proxy has no effect on a call."""
    set_all(monkeypatch, {variable: "socks5://127.0.0.1:9", "NO_PROXY": exempt})
    call(server.url)


#: A proxy's answer to CONNECT, a part of the error, and whether the error is lasting.
ANSWERS: dict[str, tuple[bytes, str, bool]] = {
    "407": (b"HTTP/1.1 407 Hello\r\nContent-Length: 0\r\n\r\n", "asks for a user and a password (HTTP 407)", True),
    "403": (b"HTTP/1.1 403 Hello\r\nContent-Length: 0\r\n\r\n", "opens no connection to 127.0.0.1:", True),
    "405": (b"HTTP/1.0 405 Hello\r\n\r\n", "(HTTP 405)", True),
    "502": (b"HTTP/1.1 502 Hello\r\nContent-Length: 0\r\n\r\n", "(HTTP 502)", False),
    "503 with a page": (b"HTTP/1.1 503 Hello\r\nContent-Length: 5\r\n\r\nhello", "(HTTP 503)", False),
    "redirect": (b"HTTP/1.1 302 Hello\r\nLocation: http://login.example/\r\n\r\n", "(HTTP 302)", False),
    "socks": (b"\x05\xff\r\n", "does not answer in HTTP", False),
    "nothing": (b"", "broke off the connection", False),
}


@calls
@pytest.mark.parametrize("name", ANSWERS)
def test_a_proxy_that_opens_no_tunnel_is_named(
    server: LoopbackServer, monkeypatch: pytest.MonkeyPatch, call: Callable[[str], object], name: str
) -> None:
    """If a proxy opens no tunnel, the error has its variable and the fault, but no text of the answer."""
    sent, said, is_lasting = ANSWERS[name]

    def talk(connection: socket.socket) -> None:
        connection.recv(65536)
        connection.sendall(sent)

    with raw_server(talk) as url:
        monkeypatch.setenv("HTTPS_PROXY", url.replace("://", "://user:hunter2@") if name == "405" else url)
        with pytest.raises((StoreOutage, IssuerOutage)) as caught:
            call(server.url)
    assert_proxy_s(caught.value, said, is_lasting=is_lasting)
    assert server.seen == ()


def assert_proxy_s(error: BaseException, said: str, *, is_lasting: bool) -> None:
    """Check that the error names the proxy, has this text, and does not let a caller issue without the store."""
    assert isinstance(error, (StoreOutage, IssuerOutage))
    assert (error.code, error.sent, error.lasting) == ("proxy-unusable", False, is_lasting)
    assert isinstance(error, IssuerOutage) or error.doubtful
    assert "the proxy in HTTPS_PROXY" in f"{error}"
    assert said in f"{error}"
    assert "ello" not in f"{error!r}"
    assert "hunter2" not in f"{error!r}"


def test_credentials_that_a_proxy_does_not_accept(server: LoopbackServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """If a proxy does not accept its user and password, the error names this fault and does not show them."""

    def talk(connection: socket.socket) -> None:
        connection.recv(65536)
        connection.sendall(b"HTTP/1.1 407 Hello\r\nContent-Length: 0\r\n\r\n")

    with raw_server(talk) as url:
        monkeypatch.setenv("HTTPS_PROXY", url.replace("://", "://user:hunter2@"))
        with pytest.raises(IssuerOutage) as caught:
            ask_kis(server.url)
    assert_proxy_s(caught.value, "does not accept its user and password (HTTP 407)", is_lasting=True)


@calls
def test_a_proxy_that_refuses_the_connection(
    server: LoopbackServer, monkeypatch: pytest.MonkeyPatch, call: Callable[[str], object]
) -> None:
    """If a proxy refuses the connection, the error is a temporary outage."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    monkeypatch.setenv("HTTPS_PROXY", url)
    with pytest.raises((StoreOutage, IssuerOutage)) as caught:
        call(server.url)
    assert_proxy_s(caught.value, "cannot be reached (ConnectionRefusedError)", is_lasting=False)
