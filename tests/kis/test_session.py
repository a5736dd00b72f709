"""One request to KIS: a late or abandoned request is not sent, and an answer has limits of time and size."""

from __future__ import annotations

import gzip
import logging
import socket
import threading
import time
import traceback
from contextlib import closing, contextmanager, suppress
from typing import TYPE_CHECKING, Any

import pytest

from kis_token.core.ports import TooLate
from kis_token.errors import IssuerOutage
from kis_token.kis.session import LARGEST_ANSWER, Credentials, Session, prepare
from kis_token.sandbox.loopback import LoopbackServer, Request, Response
from tests.faults.helpers import black_hole
from tests.support import ACCOUNT, APP_KEY, make_token
from tests.tunnel_proxy import TunnelProxy
from tools.certificate import make_certificate

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

SECONDS = 30.0


class Recorder(LoopbackServer):
    """A KIS that gives a set answer, records the requests, and does not show them in its repr."""

    def __init__(self, **named: Any) -> None:  # noqa: ANN401 - LoopbackServer's
        super().__init__(self.take, **named)
        self.response = Response(200, {"rt_cd": "0"})
        self.asked: list[Request] = []

    def take(self, request: Request) -> Response:
        """Record the request and return the answer."""
        self.asked.append(request)
        return self.response


@pytest.fixture
def kis_server() -> Iterator[Recorder]:
    """KIS, without TLS."""
    with Recorder() as server:
        yield server


@pytest.fixture
def tls_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Recorder]:
    """KIS with TLS and a trusted certificate."""
    certificate, context = make_certificate(tmp_path)
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", certificate)
    with Recorder(tls=context) as server:
        yield server


pytestmark = pytest.mark.usefixtures("plain_network")


class Names:
    """A resolver that answers only after ``opened`` is set. ``asked`` counts the lookups."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, slow: bool = True) -> None:
        self.asked, self.opened = 0, threading.Event()
        self._resolve = socket.getaddrinfo
        if not slow:
            self.opened.set()
        monkeypatch.setattr(socket, "getaddrinfo", self.resolve)

    def resolve(self, *arguments: Any, **named: Any) -> Any:  # noqa: ANN401 - getaddrinfo's
        """Replace socket.getaddrinfo."""
        self.asked += 1
        assert self.opened.wait(SECONDS)
        return self._resolve(*arguments, **named)


@contextmanager
def no_thread_left() -> Iterator[None]:
    """Check that all threads that the block starts end soon after the block."""
    before = set(threading.enumerate())
    yield
    ending = time.monotonic() + 5
    for thread in set(threading.enumerate()) - before:
        thread.join(max(ending - time.monotonic(), 0))
        assert not thread.is_alive(), thread


@contextmanager
def raw_server(answer: Callable[[socket.socket, bytes], object]) -> Iterator[str]:
    """Yield the address of a server that runs ``answer`` for each connection, with the request that was read."""

    def serve(connection: socket.socket) -> None:
        with connection, suppress(OSError):
            connection.settimeout(SECONDS)
            answer(connection, connection.recv(65536))

    def accept() -> None:
        with suppress(OSError):
            while True:
                threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=accept, daemon=True).start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        listener.shutdown(socket.SHUT_RDWR)


def order(url: str, seconds: float = SECONDS, **arguments: Any) -> Any:  # noqa: ANN401 - call's
    """Send an order with all secrets, and return the answer."""
    request = prepare("POST", f"{url}/order", {"tr_id": "TTTC0802U"}, json={"PDNO": "005930"})
    with closing(Session(url)) as session:
        return session.call(Credentials(make_token(), APP_KEY).added_to(request), seconds, **arguments)


def outage(url: str, seconds: float = SECONDS) -> IssuerOutage:
    """Send an order, and return the outage."""
    with pytest.raises(IssuerOutage) as caught:
        order(url, seconds)
    return caught.value


# given up


def test_an_order_given_up_while_its_host_is_resolved_is_never_sent(
    kis_server: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If an order is given up during name resolution, nothing is sent, not even after the name is resolved."""
    names = Names(monkeypatch)
    with no_thread_left():
        error = outage(kis_server.url, 0.2)
        names.opened.set()
    assert (error.code, error.sent, names.asked, kis_server.asked) == ("kis-unreachable", False, 1, [])


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_an_order_given_up_while_connecting_was_not_sent(scheme: str) -> None:
    """An order to a machine that accepts no connection was not sent."""
    with black_hole() as url, no_thread_left():
        assert outage(url.replace("http", scheme), 0.2).sent is False


def test_an_order_given_up_during_the_handshake_was_not_sent() -> None:
    """A server that accepts the connection but makes no TLS handshake gets no order."""
    with raw_server(lambda connection, _: connection.recv(1)) as url, no_thread_left():
        assert outage(url.replace("http", "https"), 0.3).sent is False


def test_an_order_given_up_behind_a_proxy_was_not_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    """If the host behind a proxy does not answer, the order was not sent, because CONNECT is not the order."""
    with raw_server(lambda connection, _: connection.recv(1)) as silent, TunnelProxy() as proxy, no_thread_left():
        monkeypatch.setenv("https_proxy", proxy.url)
        error = outage(silent.replace("http", "https"), 0.3)
        assert len(proxy.asked) == 1
    assert error.sent is False


def test_an_order_without_an_answer_was_sent() -> None:
    """An order without an answer was sent, so KIS may have executed it."""
    done = threading.Event()
    with raw_server(lambda *_: done.wait(SECONDS)) as url, no_thread_left():
        assert outage(url, 0.3).sent is True
        done.set()


def test_through_a_proxy_orders_arrive(tls_server: Recorder, monkeypatch: pytest.MonkeyPatch) -> None:
    """Orders arrive through a CONNECT proxy."""
    with TunnelProxy() as proxy:
        monkeypatch.setenv("https_proxy", proxy.url)
        assert order(tls_server.url).json() == {"rt_cd": "0"}
        assert len(proxy.asked) == len(tls_server.asked) == 1


def test_no_time_is_no_request(kis_server: Recorder) -> None:
    """With no seconds left, no connection is made."""
    assert outage(kis_server.url, 0).sent is False
    assert kis_server.asked == []


# late


@pytest.mark.parametrize("way", ["plain", "tls", "proxy"])
def test_a_late_request_is_not_sent_and_its_connection_is_used_next(
    way: str, tls_server: Recorder, kis_server: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A late call leaves its connection to the next call, which needs no name lookup and no handshake.

    Over TLS, the connection is kept although the server's session tickets have arrived on it.
    """
    server = kis_server if way == "plain" else tls_server
    with TunnelProxy() as proxy:
        if way == "proxy":
            monkeypatch.setenv("https_proxy", proxy.url)
        names, looks = Names(monkeypatch, slow=False), [False, False, True]
        once = 2 if way == "proxy" else 1  # the proxy is a part of this process and resolves the name too

        def may_send() -> bool:
            assert names.asked == once
            time.sleep(0.05)  # the tickets arrive
            return looks.pop(0)

        with closing(Session(server.url)) as session:
            for _ in range(2):
                with pytest.raises(TooLate):
                    session.call(prepare("POST", f"{server.url}/t", {}, json={}), SECONDS, may_send=may_send)
                assert server.asked == []
            answer = session.call(prepare("POST", f"{server.url}/t", {}, json={}), SECONDS, may_send=may_send)

        assert (answer.status_code, len(server.asked), names.asked) == (200, 1, once)
        assert len(proxy.asked) == (way == "proxy")


def test_a_kept_connection_that_was_closed_is_made_anew(kis_server: Recorder, monkeypatch: pytest.MonkeyPatch) -> None:
    """If KIS closes the kept connection before the next call, that call opens another connection."""
    names = Names(monkeypatch, slow=False)
    with closing(Session(kis_server.url)) as session:
        request = prepare("POST", f"{kis_server.url}/t", {}, json={})
        with pytest.raises(TooLate):
            session.call(request, SECONDS, may_send=lambda: False)
        kis_server.stop()
        kis_server.start()
        assert session.call(request, SECONDS).status_code == 200
    assert names.asked == 2


# addresses


def test_an_address_that_is_a_black_hole_does_not_keep_kis_from_being_reached(
    kis_server: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If the first address does not answer, as with a broken IPv6, the next one is tried in parallel."""
    with black_hole() as silent:
        port = int(silent.rpartition(":")[2])
        good = ("127.0.0.1", int(kis_server.url.rpartition(":")[2]))
        found: list[Any] = [
            (socket.AF_INET6, socket.SOCK_STREAM, 6, "", ("::ffff:127.0.0.1", port, 0, 0)),
            (socket.AF_INET, socket.SOCK_STREAM, 6, "", good),
        ]
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)
        started = time.monotonic()
        assert order(kis_server.url).status_code == 200
    assert time.monotonic() - started < 2.5


# answers


HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
DONE = b'Content-Length: 13\r\nConnection: close\r\n\r\n{"rt_cd":"0"}'


@pytest.mark.parametrize("limit", [0.5, SECONDS], ids=["time", "size"])
@pytest.mark.parametrize("framing", [b"\r\n", b"Transfer-Encoding: chunked\r\n\r\n"], ids=["until-closed", "chunked"])
def test_an_answer_that_does_not_end_ends_with_the_call(framing: bytes, limit: float) -> None:
    """An endless answer ends at the limit of time or size. The call fails, and its thread and connection end."""
    block = b"x" * 1024 if framing == b"\r\n" else b"400\r\n" + b"x" * 1024 + b"\r\n"
    is_fast, ended = limit == SECONDS, threading.Event()

    def stream(connection: socket.socket, _: bytes) -> None:
        try:
            connection.sendall(HEAD + framing)
            while True:
                connection.sendall(block * 64 if is_fast else block)
                if not is_fast:
                    time.sleep(0.02)
        finally:
            ended.set()

    with raw_server(stream) as url, no_thread_left():
        error = outage(url, limit)
        assert ended.wait(5)
    assert error.sent is True
    assert error.code == ("kis-answer-unusable" if is_fast else "kis-unreachable")


def test_a_gzip_bomb_is_counted_unpacked(kis_server: Recorder) -> None:
    """An answer of 64 KB that unpacks to 64 MiB is too large."""
    packed = gzip.compress(bytes(4 * LARGEST_ANSWER))
    kis_server.response = Response(200, packed, {"Content-Encoding": "gzip"})
    error = outage(kis_server.url)
    assert (error.code, error.sent, len(packed) < 100_000) == ("kis-answer-unusable", True, True)


@pytest.mark.parametrize("packing", ["", "gzip"])
def test_a_long_answer_is_whole(kis_server: Recorder, packing: str) -> None:
    """An answer of 5 MB arrives complete, compressed or not, and has the usual attributes of an answer of requests."""
    text = '{"rt_cd": "0", "output": "' + "가" * 1_600_000 + '"}'
    body = gzip.compress(text.encode()) if packing else text.encode()
    kis_server.response = Response(200, body, {"Content-Encoding": packing} if packing else {})
    answer = order(kis_server.url)
    assert (answer.content == text.encode(), answer.text == text, answer.ok) == (True, True, True)
    assert answer.json()["rt_cd"] == "0"
    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/json; charset=utf-8")
    assert b"".join(answer.iter_content(65536)) == answer.content


@pytest.mark.parametrize("statuses", [[100], [102], [103], [103, 102, 100, 103], [199]], ids=str)
def test_informational_answers_are_passed_over(statuses: list[int]) -> None:
    """Answers 100, 102 and 103 with headers of their own may come before the final answer."""
    before = b"".join(b"HTTP/1.1 %d Early\r\nLink: </x>; rel=preload\r\n\r\n" % status for status in statuses)
    with raw_server(lambda connection, _: connection.sendall(before + HEAD + DONE)) as url:
        answer = order(url)
    assert (answer.status_code, answer.json(), "link" in answer.headers) == (200, {"rt_cd": "0"}, False)


def test_informational_answers_without_end_are_given_up() -> None:
    """A call that gets interim answers without end fails, and counts as sent."""

    def chatter(connection: socket.socket, _: bytes) -> None:
        while True:
            connection.sendall(b"HTTP/1.1 102 Processing\r\n\r\n")
            time.sleep(0.01)

    with raw_server(chatter) as url, no_thread_left():
        assert outage(url, 0.3).sent is True


ECHOES: dict[str, Callable[[bytes], bytes]] = {
    "status line": lambda sent: sent.replace(b"\r\n", b" ") + b"\r\n\r\n",
    "status": lambda sent: b"HTTP/1.1 " + sent.replace(b"\r\n", b" ") + b"\r\n\r\n",
    "length": lambda sent: HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + sent.replace(b"\r\n", b" ") + b"\r\n",
    "broken headers": lambda sent: b"HTTP/1.1 200 OK\r\n" + sent.replace(b": ", b" ") + b"\r\n\r\n{}",
    "encoding": lambda sent: HEAD + b"Content-Encoding: gzip\r\n\r\n" + sent,
}


@pytest.mark.parametrize("place", ECHOES)
def test_an_echo_of_the_request_shows_nothing(place: str, caplog: pytest.LogCaptureFixture) -> None:
    """No error, traceback or log line contains an echo of the request, even if a program logs everything."""
    caplog.set_level(logging.DEBUG)
    errors: list[IssuerOutage] = []  # stays empty if the echo is a valid answer
    with raw_server(lambda connection, sent: connection.sendall(ECHOES[place](sent))) as url:
        try:
            order(url)
        except IssuerOutage as error:
            logging.getLogger("a-program").exception("no order")
            errors.append(error)
    assert [each for each in errors if each.__context__ or each.__cause__ or not each.sent] == []
    shown = caplog.text + "".join(line for each in errors for line in traceback.format_exception(each))
    secrets = (ACCOUNT.app_key, ACCOUNT.app_secret, "Bearer")
    assert [place for secret in secrets if secret in shown] == [], "a secret is shown"


# this machine


@pytest.mark.parametrize("variable", ["REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE"])
def test_a_variable_that_names_no_certificates(
    variable: str, tls_server: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If a certificate check fails, the error names the unusable variable and is lasting; nothing was sent."""
    monkeypatch.delenv("REQUESTS_CA_BUNDLE")
    monkeypatch.setenv(variable, "/no/such/file.pem")
    error = outage(tls_server.url)
    assert (error.code, error.sent, error.lasting, tls_server.asked) == ("kis-tls", False, True, [])
    assert f"{variable} names a file that does not exist" in f"{error}"


@pytest.mark.parametrize("proxy", ["http://[", "http://:0", "socks5://127.0.0.1:1", "nonsense://x", "http://a b:1"])
def test_a_proxy_variable_that_names_no_proxy(
    proxy: str, tls_server: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If a proxy variable has an unusable value, the error names the variable, and nothing is sent."""
    monkeypatch.setenv("https_proxy", proxy)
    error = outage(tls_server.url)
    assert (error.code, error.sent, tls_server.asked) == ("proxy-unusable", False, [])
    assert "the proxy in HTTPS_PROXY" in f"{error}"
