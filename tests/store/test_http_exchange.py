"""One HTTP exchange on loopback: unusual servers, compressed answers, several addresses, and proxies."""

from __future__ import annotations

import base64
import gzip
import json
import logging
import socket
import threading
import tracemalloc
import uuid
import zlib
from contextlib import closing, contextmanager, suppress
from typing import TYPE_CHECKING, Any

import pytest

from kis_token.errors import StoreError, StoreOutage
from kis_token.sandbox.loopback import Fault, LoopbackServer, Request, Response
from kis_token.store.http_exchange import LARGEST_ANSWER, Wire
from kis_token.store.supabase import SupabaseStore
from tests.faults.helpers import black_hole
from tests.store.test_slot_query import raw_server
from tests.support import APP_KEY, MINUTE, SERVICE_KEY, make_token
from tools.certificate import make_certificate

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

ROWS = b"[]"
GRANTED = {"status": "granted", "fence": 1, "server_now": "2027-03-02T07:00:00+09:00"}


pytestmark = pytest.mark.usefixtures("plain_network")


def read(store: SupabaseStore) -> object:
    """Read a slot."""
    return store.read("kis").rows


def begin(store: SupabaseStore) -> object:
    """Write by begin."""
    return store.begin("kis", str(uuid.uuid4()), "a laptop", APP_KEY, min_remaining=10 * MINUTE).status


CALLS = {"read": (read, ROWS, {}), "write": (begin, GRANTED, "granted")}
calls = pytest.mark.parametrize(("call", "body", "expected"), CALLS.values(), ids=CALLS)


def outage_of(url: str, call: Callable[[SupabaseStore], object], seconds: float = 10) -> StoreOutage:
    """The outage that the call raises."""
    with closing(SupabaseStore(url, SERVICE_KEY, left=lambda: seconds)) as store, pytest.raises(StoreOutage) as caught:
        call(store)
    return caught.value


# answers


@calls
@pytest.mark.parametrize("coding", ["gzip", "deflate"])
def test_a_packed_answer_is_unpacked(
    call: Callable[[SupabaseStore], object], body: object, expected: object, coding: str
) -> None:
    """If a proxy compresses an answer although the request did not allow it, the answer is still read."""
    plain = body if isinstance(body, bytes) else json.dumps(body).encode()
    packed = gzip.compress(plain) if coding == "gzip" else zlib.compress(plain)
    with (
        LoopbackServer(lambda _: Response(200, packed, {"Content-Encoding": coding})) as server,
        closing(SupabaseStore(server.url, SERVICE_KEY)) as store,
    ):
        assert call(store) == expected


@calls
def test_a_gzip_bomb_is_an_outage_of_little_memory(
    call: Callable[[SupabaseStore], object], body: object, expected: object
) -> None:
    """The size limit of an answer counts unpacked bytes, so a gzip bomb is an outage and needs little memory."""
    assert body != expected
    bomb = gzip.compress(b" " * (100 * 1024 * 1024), 9)
    headers = {"Content-Encoding": "gzip", "Content-Type": "text/html"}
    with LoopbackServer(lambda _: Response(200, bomb, headers)) as server:
        tracemalloc.start()
        try:
            assert outage_of(server.url, call).code == "store-unreachable"
            assert tracemalloc.get_traced_memory()[1] < 20 * LARGEST_ANSWER
        finally:
            tracemalloc.stop()


@pytest.mark.parametrize("packed", [b"no gzip at all", gzip.compress(ROWS)[:-9], b""], ids=["other", "cut", "empty"])
def test_an_answer_that_cannot_be_unpacked_is_an_outage(packed: bytes) -> None:
    """A broken or an empty body that is declared as compressed is an outage."""
    with LoopbackServer(lambda _: Response(200, packed, {"Content-Encoding": "gzip"})) as server:
        assert outage_of(server.url, read).code == "store-unreachable"


@pytest.mark.parametrize("status", [100, 102, 103, 199])
def test_interim_answers_are_passed_over(status: int) -> None:
    """Several interim answers may come before the final answer."""
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n[]"

    def talk(connection: socket.socket) -> None:
        connection.recv(65536)
        connection.sendall(b"HTTP/1.1 %d Wait\r\nLink: </x>\r\n\r\n" % status * 3 + answer)

    with raw_server(talk) as url, closing(SupabaseStore(url, SERVICE_KEY)) as store:
        assert read(store) == {}


def test_interim_answers_have_an_end() -> None:
    """If a server sends only interim answers, the call ends with an outage."""

    def talk(connection: socket.socket) -> None:
        connection.recv(65536)
        with suppress(OSError):
            while True:
                connection.sendall(b"HTTP/1.1 103 Early Hints\r\n\r\n")

    with raw_server(talk) as url:
        assert outage_of(url, read).code == "store-unreachable"


@pytest.mark.parametrize("size", [b"-1", b"-5", b"-7fffffff", b"nonsense", b"ffffffffffffffffffff"])
def test_a_chunk_of_an_invalid_size_is_an_outage(size: bytes) -> None:
    """A chunk with a negative or an invalid size is an outage, and few bytes are read."""
    sent: list[int] = [0]

    def talk(connection: socket.socket) -> None:
        connection.recv(65536)
        connection.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + size + b"\r\n")
        with suppress(OSError):
            for _ in range(1000):
                connection.sendall(b" " * 65536)
                sent[0] += 65536

    with raw_server(talk) as url:
        assert outage_of(url, read).code == "store-unreachable"
    assert sent[0] < 16 * LARGEST_ANSWER


@pytest.mark.parametrize("call", [read, begin], ids=["read", "write"])
def test_an_echo_in_the_status_line_is_in_no_traceback(
    call: Callable[[SupabaseStore], object], caplog: pytest.LogCaptureFixture
) -> None:
    """If a server answers with the request that it got, no error and no log of a program contains the key."""

    def talk(connection: socket.socket) -> None:
        got = connection.recv(65536)
        connection.sendall(b"".join(got.split()) + b"\r\n\r\n")
        connection.shutdown(socket.SHUT_WR)
        connection.recv(65536)

    with raw_server(talk) as url, closing(SupabaseStore(url, SERVICE_KEY)) as store:
        try:
            call(store)
        except StoreError as error:
            logging.getLogger("program").exception("it failed")
            chain = error
            while chain is not None:
                assert SERVICE_KEY not in f"{chain!r}", "the key is shown"
                chain = chain.__cause__ or chain.__context__  # type: ignore[assignment]  # any error
    assert "it failed" in caplog.text
    assert SERVICE_KEY not in caplog.text, "the key is shown"


# requests that may have arrived


def test_an_unsent_request_is_known() -> None:
    """``sent`` of an outage is False if no connection was made, and True if the request may have had its effect."""
    with LoopbackServer(lambda _: Response(200, GRANTED)) as server:
        server.add_fault(Fault("reset", after=True))
        assert outage_of(server.url, begin).sent
        server.add_fault(Fault("stall"))
        assert outage_of(server.url, begin, seconds=0.2).sent
        server.add_fault(Fault("answer", response=Response(503)))
        assert outage_of(server.url, begin).sent
        url = server.url
    assert not outage_of(url, begin).sent
    assert not outage_of("https://no-such-project.invalid", begin).sent
    with black_hole() as silent:
        assert not outage_of(silent, begin, seconds=0.2).sent


def test_nothing_is_sent_once_the_caller_has_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """If the name is resolved after the caller's time is over, no request is sent."""
    resolve, given_up, resolved = socket.getaddrinfo, threading.Event(), threading.Event()

    def slow(*arguments: Any, **named: Any) -> Any:  # noqa: ANN401 - as getaddrinfo
        given_up.wait(10)
        try:
            return resolve(*arguments, **named)
        finally:
            resolved.set()

    with LoopbackServer(lambda _: Response(200, GRANTED)) as server:
        monkeypatch.setattr(socket, "getaddrinfo", slow)
        error = outage_of(server.url, begin, seconds=0.05)
        given_up.set()
        assert resolved.wait(10)
        with closing(SupabaseStore(server.url, SERVICE_KEY)) as store:
            assert begin(store) == "granted"  # by now an abandoned request would have arrived
        assert (error.sent, len(server.seen)) == (False, 1)


# addresses


@calls
@pytest.mark.parametrize("silent_ones", [1, 3])
def test_a_silent_address_is_passed(
    monkeypatch: pytest.MonkeyPatch,
    call: Callable[[SupabaseStore], object],
    body: object,
    expected: object,
    silent_ones: int,
) -> None:
    """If the first addresses of Supabase do not answer, reads and writes use the next one, well within their time."""
    resolve = socket.getaddrinfo
    with black_hole() as silent, LoopbackServer(lambda _: Response(200, body)) as server:
        hole = resolve("127.0.0.1", int(silent.rpartition(":")[2]), type=socket.SOCK_STREAM)
        good = resolve("127.0.0.1", int(server.url.rpartition(":")[2]), type=socket.SOCK_STREAM)
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: hole * silent_ones + good)
        with closing(SupabaseStore("http://localhost:1", SERVICE_KEY, left=lambda: 4)) as store:
            assert call(store) == expected


# proxies


class ConnectProxy:
    """A proxy that opens tunnels. A proxy with a password opens tunnels only for clients that send the password."""

    def __init__(self, password: str | None, port: int) -> None:
        self.asked: list[bytes] = []
        self._expected = None if password is None else base64.b64encode(password.encode())
        self._port = port

    def talk(self, connection: socket.socket) -> None:
        """Serve one client."""
        head = connection.recv(65536)
        self.asked.append(head)
        if self._expected is not None and b"Proxy-Authorization: Basic " + self._expected not in head:
            connection.sendall(b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n")
            return
        with socket.create_connection(("127.0.0.1", self._port)) as far:
            connection.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
            back = threading.Thread(target=_relay, args=(far, connection), daemon=True)
            back.start()
            _relay(connection, far)
            back.join(10)


def _relay(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):
        while block := source.recv(65536):
            target.sendall(block)
        target.shutdown(socket.SHUT_WR)


@pytest.fixture
def tls_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LoopbackServer]:
    """A Supabase with TLS whose certificate the environment trusts."""
    path, context = make_certificate(tmp_path)
    monkeypatch.setenv("SSL_CERT_FILE", path)
    with LoopbackServer(lambda _: Response(200, GRANTED), tls=context) as server:
        yield server


@contextmanager
def proxied(server: LoopbackServer, password: str | None = None) -> Iterator[tuple[str, ConnectProxy]]:
    """Yield the address of a proxy to ``server``, without credentials, and the proxy."""
    proxy = ConnectProxy(password, int(server.url.rpartition(":")[2]))
    with raw_server(proxy.talk) as url:
        yield url.removeprefix("http://"), proxy


@pytest.mark.parametrize(("user", "password"), [("", None), ("user:word@", "user:word"), ("u%40x:w%3A@", "u@x:w:")])
def test_a_proxy_is_gone_through(
    tls_server: LoopbackServer, monkeypatch: pytest.MonkeyPatch, user: str, password: str | None
) -> None:
    """Writes go through the environment's proxy, with its password; the proxy never sees the key."""
    with proxied(tls_server, password) as (address, proxy):
        monkeypatch.setenv("HTTPS_PROXY", f"http://{user}{address}")
        with closing(SupabaseStore(tls_server.url, SERVICE_KEY)) as store:
            assert begin(store) == "granted"
    assert proxy.asked[0].startswith(b"CONNECT 127.0.0.1:")
    assert SERVICE_KEY.encode() not in b"".join(proxy.asked), "the key is shown to the proxy"


def test_a_proxy_that_asks_for_a_password(tls_server: LoopbackServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """If the proxy asks for a password, the outage counts as caused by this machine, and Supabase gets no request."""
    with proxied(tls_server, "user:word") as (address, _):
        monkeypatch.setenv("HTTPS_PROXY", f"http://{address}")
        error = outage_of(tls_server.url, begin)
    assert (error.doubtful, error.lasting, error.sent, tls_server.seen) == (True, True, False, ())


@pytest.mark.parametrize("status", [502, 503, 504])
def test_a_proxy_in_trouble_is_a_hiccup(
    tls_server: LoopbackServer, monkeypatch: pytest.MonkeyPatch, status: int
) -> None:
    """A 502, 503 or 504 of a proxy is a temporary outage, in which no caller issues without the store."""

    def talk(connection: socket.socket) -> None:
        connection.recv(65536)
        connection.sendall(b"HTTP/1.1 %d Busy\r\nContent-Length: 0\r\n\r\n" % status)

    with raw_server(talk) as url:
        monkeypatch.setenv("HTTPS_PROXY", url)
        error = outage_of(tls_server.url, begin)
    assert (error.doubtful, error.lasting, error.sent) == (True, False, False)


@pytest.mark.parametrize(
    "proxy", ["http://a..b:3128", f"http://{'x' * 70}.example:3128", "http://no-such-proxy.invalid"]
)
def test_a_proxy_with_an_invalid_name_is_an_outage(monkeypatch: pytest.MonkeyPatch, proxy: str) -> None:
    """If the proxy's name cannot be looked up, the outage counts as caused by this machine."""
    monkeypatch.setenv("HTTPS_PROXY", proxy)
    error = outage_of("https://example.supabase.co", begin)
    assert (error.doubtful, error.sent) == (True, False)


def test_keys_that_cannot_be_logged_are_no_defect(
    tls_server: LoopbackServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """If SSLKEYLOGFILE is in a missing folder, the outage is lasting and counts as caused by this machine."""
    monkeypatch.setenv("SSLKEYLOGFILE", str(tmp_path / "no-such-folder" / "keys"))
    error = outage_of(tls_server.url, begin)
    assert (error.doubtful, error.lasting) == (True, True)


@pytest.mark.parametrize("variable", ["HTTPS_PROXY", "ALL_PROXY", "all_proxy"])
def test_a_proxy_that_cannot_be_used_is_named(monkeypatch: pytest.MonkeyPatch, variable: str) -> None:
    """If a proxy cannot be used, the error names its variable, and shows no part of the variable's value."""
    monkeypatch.setenv(variable, "socks5://user:a-word-that-nobody-sees@127.0.0.1:9")
    error = outage_of("https://example.supabase.co", begin)
    assert variable.upper() in f"{error}"
    assert "a-word" not in f"{error!r}"
    assert (error.doubtful, error.sent) == (True, False)


@pytest.mark.parametrize("variable", ["REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE"])
def test_a_company_s_certificate_counts_for_reads_and_writes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    """If one of the variables names a certificate, reads and writes trust that certificate."""
    path, context = make_certificate(tmp_path)
    for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv(variable, path)

    def answer(request: Request) -> Response:
        return Response(200, [] if request.method == "GET" else GRANTED)

    with LoopbackServer(answer, tls=context) as server, closing(SupabaseStore(server.url, SERVICE_KEY)) as store:
        assert read(store) == {}
        assert begin(store) == "granted"


@pytest.mark.parametrize("variable", ["REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE", "SSL_CERT_DIR"])
def test_a_certificate_variable_that_names_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    """If a variable names a missing file, the server's certificate is not trusted, and the error is store-tls."""
    monkeypatch.setenv(variable, str(tmp_path / "no-such-file.pem"))
    _, context = make_certificate(tmp_path)
    with LoopbackServer(lambda _: Response(200, []), tls=context) as server:
        assert outage_of(server.url, read).code == "store-tls"


def test_the_wire_says_which_host_it_speaks_to() -> None:
    """The request has one Host header, with the URL's host, and asks once for an uncompressed answer."""
    seen: list[Request] = []

    def answer(request: Request) -> Response:
        seen.append(request)
        return Response(200, GRANTED)

    with LoopbackServer(answer) as server, closing(SupabaseStore(server.url, SERVICE_KEY)) as store:
        Wire(server.url).exchange("GET", "/x", {}, seconds=10)
        begin(store)
        host = server.url.removeprefix("http://")
    for request in seen:
        assert request.headers.get_all("Host") == [host]
        assert request.headers.get_all("Accept-Encoding") == ["identity"]


def test_unusable_fields_of_an_answer_are_an_outage() -> None:
    """If an answer to begin or commit has unusable fields, no error except an outage is raised."""
    token = make_token()
    unusable: list[object] = [
        {**GRANTED, "fence": "1"},
        {**GRANTED, "fence": None},
        {**GRANTED, "status": 7},
        {**GRANTED, "status": "perhaps"},
        {"status": "fresh", "server_now": GRANTED["server_now"], "version": "x", "value": 5},
        {"status": "fresh", "server_now": GRANTED["server_now"], "version": 1, "value": {"a": 1}, "expires_at": 3},
        {"status": "committed", "server_now": GRANTED["server_now"], "version": {}},
        {"status": "fenced", "server_now": GRANTED["server_now"], "value": 12, "version": 1},
        {"status": "busy", "server_now": 5, "retry_at": []},
        7,
        None,
        [],
        "text",
    ]
    for body in unusable:
        with (
            LoopbackServer(lambda _, body=body: Response(200, body)) as server,  # type: ignore[misc]  # bound now
            closing(SupabaseStore(server.url, SERVICE_KEY)) as store,
        ):
            with suppress(StoreOutage):
                begin(store)
            with suppress(StoreOutage):
                store.commit("kis", str(uuid.uuid4()), 1, token, token.to_json(), rejected=False)
