"""The warm read against a real server on loopback that answers, misbehaves, or is not there."""

from __future__ import annotations

import gc
import socket
import ssl
import threading
import time
from contextlib import contextmanager
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from hypothesis import given
from hypothesis import strategies as st

from kis_token.core.slot import Row
from kis_token.errors import StoreError, StoreMisconfigured, StoreOutage
from kis_token.sandbox.loopback import Fault, LoopbackServer, Request, Response
from kis_token.store.http_exchange import LARGEST_ANSWER, Wire
from kis_token.store.slot_query import LARGEST_VALUE, parse_http_date, parse_slot, read_slot, store_error
from kis_token.token import fingerprint
from tests.support import SERVICE_KEY, make_token, utc_now

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

#: The time limit of a read if the server does not answer, and the seconds after which a read counts as hanging.
SHORT = 0.4
SOON = 10.0

TOKEN = make_token()
ROWS: list[dict[str, Any]] = [
    {
        "credential_type": "access_token",
        "credential_value": TOKEN.to_json(),
        "expires_at": TOKEN.expires_at.isoformat(),
        "version": 7,
    },
    {
        "credential_type": "app_key",
        "credential_value": "PSabcdefghijklmnopqrstuvwxyz01234567",
        "expires_at": None,
        "version": 3,
    },
]


class Supabase(LoopbackServer):
    """A server that returns the rows, records the requests, and does not show them in its repr."""

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        super().__init__(self.answer_rows, tls=tls)
        self.asked: list[Request] = []

    def answer_rows(self, request: Request) -> Response:
        """Record the request and return the rows."""
        self.asked.append(request)
        return Response(200, ROWS)


pytestmark = pytest.mark.usefixtures("plain_network")


@pytest.fixture
def supabase() -> Iterator[Supabase]:
    """A running server with the rows."""
    with Supabase() as server:
        yield server


def outage(url: str, seconds: float = SHORT) -> StoreOutage:
    """Assert that a read soon raises an outage that does not show the key; return the outage."""
    started = time.monotonic()
    with pytest.raises(StoreOutage) as caught:
        read_slot(Wire(url), SERVICE_KEY, "kis", seconds=seconds)
    assert time.monotonic() - started < SOON
    assert SERVICE_KEY not in f"{caught.value}", "the key is shown"
    return caught.value


@contextmanager
def raw_server(talk: Callable[[socket.socket], None]) -> Iterator[str]:
    """A server that gives each connection to ``talk``, for behaviour that no HTTP server has."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                with connection:
                    try:
                        talk(connection)
                    except OSError:
                        continue

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        listener.shutdown(socket.SHUT_RDWR)
    thread.join(SOON)


def test_rows_come_in_one_request(supabase: Supabase) -> None:
    """One GET returns every active row of the slot, by type, and the server's time."""
    slot = read_slot(Wire(supabase.url), SERVICE_KEY, "kis")
    assert set(slot.rows) == {"access_token", "app_key"}
    row = slot.rows["access_token"]
    assert fingerprint(row.value) == fingerprint(TOKEN.to_json())
    assert (row.expires_at, row.version) == (TOKEN.expires_at.isoformat(), 7)
    assert slot.server_now is not None
    assert abs(slot.server_now - utc_now()) < timedelta(minutes=1)
    assert len(supabase.seen) == 1


def test_only_needed_rows_are_asked_for(supabase: Supabase) -> None:
    """A read requests only the needed columns, and only the active rows of one slot with one of four types."""
    read_slot(Wire(supabase.url), SERVICE_KEY, "kis-paper.2")
    request = supabase.asked[0]
    assert (request.method, request.path) == ("GET", "/rest/v1/api_credentials")
    assert dict(request.query) == {
        "select": "credential_type,credential_value,expires_at,version",
        "service_name": "eq.kis-paper.2",
        "credential_type": "in.(app_key,app_secret,access_token,rejected_tokens)",
        "is_active": "is.true",
    }
    sent = (request.headers["apikey"] == SERVICE_KEY, request.headers["Authorization"] == f"Bearer {SERVICE_KEY}")
    assert sent == (True, True)


def test_no_rows_are_a_slot_without_rows(supabase: Supabase) -> None:
    """An empty table is not an error."""
    supabase.add_fault(Fault("answer", response=Response(200, [])))
    assert read_slot(Wire(supabase.url), SERVICE_KEY, "kis").rows == {}


def test_answer_without_date_has_no_time(supabase: Supabase) -> None:
    """If the server sends no time, the slot has no time."""
    supabase.send_date = False
    assert read_slot(Wire(supabase.url), SERVICE_KEY, "kis").server_now is None


OUTAGES = {
    "stalls": Fault("stall", seconds=2 * SHORT),
    "resets": Fault("reset"),
    "breaks off": Fault("truncate"),
    "page": Fault("answer", response=Response(200, b"<html>maintenance</html>", {"Content-Type": "text/html"})),
    "nothing": Fault("answer", response=Response(200, b"")),
    "object": Fault("answer", response=Response(200, {"message": "hello"})),
    "other rows": Fault("answer", response=Response(200, [{"id": 1}])),
    "list of text": Fault("answer", response=Response(200, ["a"])),
    "no version": Fault("answer", response=Response(200, [ROWS[0] | {"version": None}])),
    "endless version": Fault("answer", response=Response(200, [ROWS[0] | {"version": float("inf")}])),
    "binary": Fault("answer", response=Response(200, bytes(range(128, 256)))),
    "deep": Fault("answer", response=Response(200, b"[" * 200_000)),
    "large page": Fault("answer", response=Response(200, b" " * (LARGEST_ANSWER + 1), {"Content-Type": "text/html"})),
    "500": Fault("answer", response=Response(500, {"message": "oops"})),
    "503 page": Fault("answer", response=Response(503, b"<html>busy</html>")),
    "520": Fault("answer", response=Response(520)),
    "no connection to the database": Fault("answer", response=Response(503, {"code": "PGRST002"})),
    "statement timeout": Fault("answer", response=Response(500, {"code": "57014"})),
    "too many connections": Fault("answer", response=Response(503, {"code": "53300"})),
    "part of it": Fault("answer", response=Response(206, ROWS)),
}


@pytest.mark.parametrize("case", OUTAGES)
def test_unusable_answer_is_an_outage(supabase: Supabase, case: str) -> None:
    """A server that is silent, or that gives an unusable answer, causes an outage that is not doubtful."""
    supabase.add_fault(OUTAGES[case])
    error = outage(supabase.url, SHORT if case == "stalls" else SOON)
    assert (error.code, error.doubtful) == ("store-unreachable", False)
    assert len(supabase.seen) == 1


CONFIGURATION_ERRORS = {
    "401": (Response(401, {"message": "Invalid API key"}), "store-key-rejected"),
    "bad JWT": (Response(401, {"code": "PGRST301"}), "store-key-rejected"),
    "no such table": (Response(404, {"code": "PGRST205"}), "store-table-missing"),
    "no such relation": (Response(404, {"code": "42P01"}), "store-table-missing"),
    "not allowed": (Response(403, {"code": "42501"}), "store-permission-denied"),
    "not allowed to anon": (Response(401, {"code": "42501"}), "store-permission-denied"),
    "no such column": (Response(400, {"code": "42703"}), "store-column-missing"),
    "no such schema": (Response(406, {"code": "PGRST106"}), "store-rejected"),
    "400": (Response(400, {"code": "PGRST100"}), "store-rejected"),
}


@pytest.mark.parametrize("case", CONFIGURATION_ERRORS)
def test_configuration_error_is_no_outage(supabase: Supabase, case: str) -> None:
    """A wrong key or a missing table is a configuration error, and the request is not repeated."""
    response, code = CONFIGURATION_ERRORS[case]
    supabase.add_fault(Fault("answer", response=response))
    with pytest.raises(StoreMisconfigured) as caught:
        read_slot(Wire(supabase.url), SERVICE_KEY, "kis")
    assert caught.value.code == code
    assert len(supabase.seen) == 1


def test_redirect_is_not_followed(supabase: Supabase) -> None:
    """The key is not sent to the target of a redirect."""
    with Supabase() as elsewhere:
        away = Response(302, b"", {"Location": f"{elsewhere.url}/rest/v1/api_credentials"})
        supabase.add_fault(Fault("answer", response=away))
        with pytest.raises(StoreOutage):
            read_slot(Wire(supabase.url), SERVICE_KEY, "kis")
        assert elsewhere.seen == ()


def test_text_of_the_answer_is_in_no_error(supabase: Supabase) -> None:
    """An error answer may quote values, so its text is not in the error."""
    quoted = {"code": "22P02", "message": f"invalid input: {TOKEN.value}", "details": SERVICE_KEY}
    supabase.add_fault(Fault("answer", response=Response(400, quoted)))
    with pytest.raises(StoreError) as caught:
        read_slot(Wire(supabase.url), SERVICE_KEY, "kis")
    shown = f"{caught.value!r} {caught.value}"
    assert TOKEN.value not in shown, "the token is shown"
    assert SERVICE_KEY not in shown, "the key is shown"


def test_refused_connection_is_an_outage(supabase: Supabase) -> None:
    """If no program listens at the address, the read ends with an outage at once."""
    supabase.stop()
    error = outage(supabase.url, SOON)
    assert (error.code, error.doubtful) == ("store-unreachable", False)


@pytest.mark.parametrize("head", [b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n", b"HTTP/1.1 200 OK\r\nA: "])
def test_dripping_answer_is_given_up(head: bytes) -> None:
    """If a head or a body arrives byte by byte, the read ends at the time limit of the whole answer."""
    done = threading.Event()

    def drip(connection: socket.socket) -> None:
        connection.recv(65536)
        connection.sendall(head)
        while not done.wait(0.05):
            connection.sendall(b" ")

    with raw_server(drip) as url:
        error = outage(url)
        done.set()
    assert error.code == "store-unreachable"


@pytest.mark.parametrize(
    "sent", [b"", b"SSH-2.0-OpenSSH_9.6\r\n", b"HTTP/1.1 \xff OK\r\n\r\n", b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * 500]
)
def test_server_that_speaks_no_http_is_an_outage(sent: bytes) -> None:
    """If the server uses another protocol or sends a broken head, the read ends with an outage."""

    def talk(connection: socket.socket) -> None:
        connection.recv(65536)
        connection.sendall(sent)
        connection.shutdown(socket.SHUT_WR)
        connection.recv(65536)

    with raw_server(talk) as url:
        assert outage(url, SOON).code == "store-unreachable"


@pytest.mark.parametrize("length", [LARGEST_VALUE + 1, LARGEST_ANSWER], ids=["a long value", "a large answer"])
def test_value_that_is_too_long_is_a_configuration_error(supabase: Supabase, length: int) -> None:
    """A value that is too long is a configuration error, not an outage after which a token would be issued."""
    row = {"credential_type": "access_token", "credential_value": "x" * length, "expires_at": None, "version": 1}
    supabase.add_fault(Fault("answer", response=Response(200, [row])))
    with pytest.raises(StoreMisconfigured) as caught:
        read_slot(Wire(supabase.url), SERVICE_KEY, "kis")
    assert caught.value.code == "store-value-too-large"


@pytest.mark.parametrize(
    "proxy",
    ["socks5://127.0.0.1:9", "https://127.0.0.1:9", "http://user:word@127.0.0.1:9", "http://127.0.0.1:x", "[::"],
)
def test_rare_proxy_is_doubtful(monkeypatch: pytest.MonkeyPatch, proxy: str) -> None:
    """If the proxy is of an unusual kind, has a password or cannot be parsed, the outage is doubtful."""
    monkeypatch.setenv("HTTPS_PROXY", proxy)
    assert outage("https://example.supabase.co").doubtful is True


def test_proxy_that_is_not_there_is_doubtful(monkeypatch: pytest.MonkeyPatch) -> None:
    """If the proxy cannot be reached, the outage is doubtful, because Supabase may work."""
    monkeypatch.setenv("https_proxy", "127.0.0.1:9")
    assert outage("https://example.supabase.co").doubtful is True


# Before Python 3.11.4, http.client does not close a refused tunnel, and pytest would warn in the next test.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_proxy_that_refuses_is_doubtful(monkeypatch: pytest.MonkeyPatch) -> None:
    """If the proxy refuses the tunnel, the outage is doubtful. The request for the tunnel does not contain the key."""
    asked: list[bytes] = []

    def refuse(connection: socket.socket) -> None:
        asked.append(connection.recv(65536))
        connection.sendall(b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n")

    with raw_server(refuse) as url:
        monkeypatch.setenv("ALL_PROXY", url)
        doubtful = outage("https://example.supabase.co", SOON).doubtful
    gc.collect()
    assert doubtful is True
    assert asked[0].startswith(b"CONNECT example.supabase.co:443 ")
    assert SERVICE_KEY.encode() not in asked[0], "the key is shown to the proxy"


@pytest.mark.parametrize("exempt", ["127.0.0.1", "*", "example.com,127.0.0.1"])
def test_no_proxy_is_respected(supabase: Supabase, monkeypatch: pytest.MonkeyPatch, exempt: str) -> None:
    """If no_proxy exempts a host, requests to that host do not use the proxy."""
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.setenv("no_proxy", exempt)
    assert "access_token" in read_slot(Wire(supabase.url), SERVICE_KEY, "kis").rows


def test_empty_proxy_is_no_proxy(supabase: Supabase, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty variable names no proxy."""
    monkeypatch.setenv("http_proxy", "")
    assert "access_token" in read_slot(Wire(supabase.url), SERVICE_KEY, "kis").rows


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A self-signed certificate for 127.0.0.1 and its key, in one file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.now(timezone.utc)
    signed = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    path = tmp_path_factory.mktemp("tls") / "certificate.pem"
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    path.write_bytes(signed.public_bytes(serialization.Encoding.PEM) + private)
    return path


def test_certificate_that_is_not_trusted_is_doubtful(certificate: Path) -> None:
    """If the certificate is not trusted, the outage is doubtful, and the key is not sent."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    with Supabase(tls=context) as server:
        error = outage(server.url, SOON)
        assert (error.code, error.doubtful) == ("store-tls", True)
        assert server.seen == ()


def test_plain_server_behind_https_is_doubtful(supabase: Supabase) -> None:
    """If a server at an https address does not use TLS, the outage is doubtful."""
    assert outage(supabase.url.replace("http:", "https:"), SOON).doubtful is True


DATES = {
    "Mon, 02 Mar 2026 12:00:00 GMT": datetime(2026, 3, 2, 12, tzinfo=timezone.utc),
    "Mon, 02 Mar 2026 21:00:00 +0900": datetime(2026, 3, 2, 12, tzinfo=timezone.utc),
    "Mon, 02 Mar 2026 12:00:00 -0000": datetime(2026, 3, 2, 12, tzinfo=timezone.utc),
    "Fri, 31 Dec 9999 23:59:59 -1200": None,
    "yesterday": None,
    "": None,
    None: None,
}


@pytest.mark.parametrize(("text", "date"), DATES.items(), ids=repr)
def test_date_header_is_read(text: str | None, date: datetime | None) -> None:
    """A Date header of any zone is converted to UTC; an unreadable header gives None."""
    assert parse_http_date(text) == date


@given(st.text())
def test_any_date_header_is_a_date_or_none(text: str) -> None:
    """Any text of a Date header gives None or a date in UTC, and raises no error."""
    date = parse_http_date(text)
    assert date is None or date.tzinfo is timezone.utc


@given(st.none() | st.integers(100, 599), st.none() | st.text())
def test_every_refusal_is_an_outage_or_a_configuration_error(status: int | None, code: str | None) -> None:
    """Any status with any code is an outage or a configuration error."""
    assert isinstance(store_error(status, code), StoreOutage | StoreMisconfigured)


@given(st.text(min_size=20))
def test_code_is_shown_only_when_it_is_one(code: str) -> None:
    """A text that is not a code may contain a secret, so it is not repeated."""
    assert code not in f"{store_error(400, code)}"


@pytest.mark.parametrize(
    ("value", "rejected"),
    [
        ('{"0123456789abcdef": "2026-01-01T00:00:00+00:00", "fedcba9876543210": null}', 2),
        ("{}", 0),
        ("[]", 0),
        ("1", 0),
        ("", 0),
        ("[" * 100_000, 0),
        (None, 0),
        ({"0123456789abcdef": "x"}, 0),
    ],
)
def test_rejected_tokens_are_read_leniently(value: object, rejected: int) -> None:
    """The row of the rejected tokens is not one of the slot's rows; an unreadable row of this type counts as empty."""
    row = {"credential_type": "rejected_tokens", "credential_value": value, "expires_at": None, "version": None}
    slot = parse_slot([*ROWS, row], None)

    assert len(slot.rejected) == rejected
    assert slot.rows == parse_slot(ROWS, None).rows


def test_repr_of_a_row_shows_no_value() -> None:
    """The repr of a row, which may be logged, shows only its version and expiry."""
    assert TOKEN.value not in repr(Row(TOKEN.value, None, 1)), "the token is shown"
    assert TOKEN.value not in repr(parse_slot(ROWS, None)), "the token is shown"
