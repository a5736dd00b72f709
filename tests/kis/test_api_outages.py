"""KIS's answer is unusable or missing: the outage shows whether the request was sent, and the call ends in time."""

from __future__ import annotations

import socket
import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest

from kis_token.sandbox.kis_http import TOKEN_PATH, html_response
from kis_token.sandbox.loopback import Fault, Response
from tests.kis.scripted_kis import OPAQUE, ScriptedKIS, failure, outage

if TYPE_CHECKING:
    from pathlib import Path

    from kis_token.sandbox.emulator import KISEmulator

pytestmark = pytest.mark.usefixtures("plain_network")

NONSENSE = {
    "page": html_response(200),
    "page of a gateway": html_response(503),
    "nothing": Response(200),
    "text": Response(200, b"OK"),
    "a list": Response(200, [OPAQUE]),
    "deep": Response(200, b"[" * 60_000),
    "binary": Response(200, bytes(range(128, 256))),
    "no token": Response(200, {"token_type": "Bearer"}),
    "null": Response(200, {"access_token": None}),
    "a number": Response(200, {"access_token": 1}),
    "short": Response(200, {"access_token": "1", "expires_in": 86400}),
    "no end": Response(200, {"access_token": OPAQUE}),
    "two words": Response(200, {"access_token": f"{OPAQUE} {OPAQUE}", "expires_in": 86400}),
    "too large": Response(200, {"access_token": "x" * 70_000, "expires_in": 86400}),
    "redirect": Response(302, b"", {"Location": "https://example.com/"}),
}


@pytest.mark.parametrize("case", NONSENSE)
def test_nonsense_is_an_outage_after_sending(scripted: ScriptedKIS, case: str) -> None:
    """If an answer is unusable, the call counts as sent and is not repeated, because KIS may have issued a token."""
    scripted.response = NONSENSE[case]
    error = outage(scripted.url)
    assert (error.code, error.sent) == ("kis-answer-unusable", True)
    assert len(scripted.asked) == 1


def test_refused_connection_was_not_sent(kis: KISEmulator) -> None:
    """If KIS refuses the connection, the call was not sent, so another call is safe."""
    url = kis.production_url
    kis.stop()
    error = outage(url)
    assert (error.code, error.sent) == ("kis-unreachable", False)


def test_unknown_host_was_not_sent() -> None:
    """A request to a host whose name cannot be resolved was not sent."""
    assert outage("http://no-such-host.invalid:9443").sent is False


def test_proxy_that_is_not_there_was_not_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    """A request through a proxy that cannot be reached was not sent."""
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    assert outage("https://openapi.example.com:9443").sent is False


def test_server_without_tls_got_nothing(scripted: ScriptedKIS) -> None:
    """A server that does not speak TLS gets no key."""
    outage(scripted.url.replace("http:", "https:"))
    assert scripted.asked == []


@pytest.mark.parametrize("kind", ["reset", "truncate"])
def test_broken_answer_was_sent(kis: KISEmulator, kind: Any) -> None:  # noqa: ANN401 - a fault's kind
    """If the connection breaks after the request, the call counts as sent: KIS has issued a token, which is lost."""
    kis.production.add_fault(Fault(kind, TOKEN_PATH, after=True))
    assert outage(kis.production_url).sent is True
    assert kis.counts("production") == type(kis.counts("production"))(calls=1, accepted=1, issues=1)


@pytest.mark.usefixtures("quick")
def test_silence_was_sent_and_is_bounded(scripted: ScriptedKIS) -> None:
    """If KIS does not answer, the call ends at its limit and counts as sent."""
    scripted.add_fault(Fault("stall", seconds=2))
    started = time.monotonic()
    error = outage(scripted.url)
    assert (error.code, error.sent) == ("kis-unreachable", True)
    assert time.monotonic() - started < 10


@pytest.mark.usefixtures("quick")
def test_dripping_answer_is_given_up() -> None:
    """An answer that arrives byte by byte is given up at the limit of the whole call."""
    done = threading.Event()

    def drip(listener: socket.socket) -> None:
        connection, _ = listener.accept()
        with connection, suppress(OSError):
            connection.recv(65536)
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
            while not done.wait(0.05):
                connection.sendall(b" ")

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=drip, args=(listener,), daemon=True)
        thread.start()
        error = outage(f"http://127.0.0.1:{listener.getsockname()[1]}")
        done.set()
        thread.join(10)
    assert (error.code, error.sent) == ("kis-unreachable", True)


def test_redirect_is_not_followed(scripted: ScriptedKIS, kis: KISEmulator) -> None:
    """Key and secret are not sent to the target of a redirect."""
    scripted.response = Response(307, b"", {"Location": kis.production_url + TOKEN_PATH})
    assert outage(scripted.url).sent is True
    assert kis.requests == ()


def test_netrc_is_not_used(scripted: ScriptedKIS, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If the user's .netrc has a password for KIS's host, that password is not sent."""
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login kim password hunter2-hunter2\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    failure(scripted.url)
    assert scripted.asked[0].headers["Authorization"] is None
