"""KISClient with the whole chain: the requests that it sends to KIS, and those that it never sends twice."""

from __future__ import annotations

import http.client
import socket
import threading
import traceback
from typing import TYPE_CHECKING, Any

import pytest

from kis_token.errors import (
    IssuerOutage,
)
from kis_token.sandbox.kis_http import PRICE_PATH, PRICE_TR_ID, error_response
from kis_token.sandbox.loopback import Fault, LoopbackServer, Request, Response
from tests.client.bots import ACCEPTED, ORDER_PATH, SAMSUNG, Bot, is_quote, let_hours_pass
from tests.support import ACCOUNT, make_token

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from kis_token.sandbox.loopback import FaultKind


class RecordingKIS(LoopbackServer):
    """A KIS that gives a set answer, records the requests, and does not show them in its repr."""

    def __init__(self) -> None:
        super().__init__(self.take)
        self.response = ACCEPTED
        self.asked: list[Request] = []

    def take(self, request: Request) -> Response:
        """Record the request and answer it."""
        self.asked.append(request)
        return self.response


@pytest.fixture
def recording() -> Iterator[RecordingKIS]:
    """A server that records the client's requests."""
    with RecordingKIS() as server:
        yield server


def test_headers_are_filled_in(recording: RecordingKIS, make_bot: Callable[..., Bot]) -> None:
    """The client adds token, key, secret, tr_id and custtype, and sends parameters and JSON as given."""
    bot, token = make_bot(base_url=recording.url), make_token()
    bot.chain.database.put_token(token)

    bot.client.request("GET", PRICE_PATH, tr_id=PRICE_TR_ID, params=SAMSUNG)
    bot.client.request("post", ORDER_PATH, tr_id="TTTC0802U", json={"PDNO": "005930"})

    quote, order = recording.asked
    assert (quote.method, quote.path, dict(quote.query), quote.body) == ("GET", PRICE_PATH, SAMSUNG, b"")
    assert (order.method, order.path, order.json()) == ("POST", ORDER_PATH, {"PDNO": "005930"})
    for asked, tr_id in ((quote, PRICE_TR_ID), (order, "TTTC0802U")):
        shown = [asked.headers[name] for name in ("appkey", "appsecret", "authorization")]
        is_right = shown == [ACCOUNT.app_key, ACCOUNT.app_secret, f"Bearer {token.value}"]
        assert is_right
        assert (asked.headers["tr_id"], asked.headers["custtype"]) == (tr_id, "P")
        assert asked.headers["content-type"] == "application/json; charset=utf-8"


def test_further_headers(recording: RecordingKIS, make_bot: Callable[..., Bot]) -> None:
    """A caller may add headers and change custtype, but cannot replace the token or tr_id by a header."""
    bot, token = make_bot(base_url=recording.url), make_token()
    bot.chain.database.put_token(token)

    headers = {"TR_CONT": "N", "CustType": "B", "Authorization": "Bearer another", "tr_id": "another"}
    bot.client.request("GET", PRICE_PATH, tr_id=PRICE_TR_ID, headers=headers)

    sent = recording.asked[0].headers
    assert (sent.get_all("tr_cont"), sent.get_all("custtype"), sent.get_all("tr_id")) == (["N"], ["B"], [PRICE_TR_ID])
    is_right = sent.get_all("authorization") == [f"Bearer {token.value}"]
    assert is_right


def test_redirect_is_not_followed(recording: RecordingKIS, make_bot: Callable[..., Bot]) -> None:
    """Token and secret are sent only to KIS's host; the caller gets the redirect."""
    with LoopbackServer(lambda _: ACCEPTED) as elsewhere:
        bot = make_bot(base_url=recording.url)
        bot.chain.database.put_token(make_token())
        recording.response = Response(307, b"", {"Location": elsewhere.url + ORDER_PATH})

        answers = bot.quote(), bot.order()

    assert [answer.status_code for answer in answers] == [307, 307]
    assert elsewhere.seen == ()


def test_cookies_are_not_kept(recording: RecordingKIS, make_bot: Callable[..., Bot]) -> None:
    """The client does not send a cookie that an earlier answer has set."""
    bot = make_bot(base_url=recording.url)
    bot.chain.database.put_token(make_token())
    recording.response = Response(200, {}, {"Set-Cookie": "JSESSIONID=1; Path=/"})

    bot.quote()
    bot.quote()

    assert recording.asked[1].headers["cookie"] is None


def test_netrc_and_debugging_play_no_part(
    bot: Bot, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The client does not use the user's .netrc, and its secrets are not in the debug output of http.client."""
    netrc = bot.chain.folder / "netrc"
    netrc.touch(mode=0o600)
    netrc.write_text("machine 127.0.0.1 login somebody password else\n")
    monkeypatch.setenv("NETRC", str(netrc))
    monkeypatch.setattr(http.client.HTTPConnection, "debuglevel", 1)

    assert is_quote(bot.quote())
    bot.answer(ORDER_PATH, ACCEPTED)
    assert bot.order().ok

    assert "appsecret" not in capsys.readouterr().out.lower()


REFUSED_PATHS = ["uapi/x", "@example.com/x", ".example.com/x", "https://example.com/x", ""]
REFUSED_PATHS += ["//example.com/x", "/a//b", "/x#y", "/x?y=1#z", "/a@b", "/a b", "/a\r\nb", "/a\\b", "/\x00", "/x?a b"]


@pytest.mark.parametrize("path", REFUSED_PATHS)
def test_path_stays_on_kis_s_host(bot: Bot, path: str) -> None:
    """A path that could change the host, or that could be cut off, is refused before anything is sent."""
    with pytest.raises(ValueError, match=r"path is not .* slash"):
        bot.client.request("GET", path, tr_id=PRICE_TR_ID)
    assert bot.chain.store_calls == []


@pytest.mark.parametrize(
    ("path", "sent"),
    [("/x?a=1&b=2@3", "/x?a=1&b=2@3"), ("/x/", "/x/"), ("/", "/"), ("/%41?u=//h", "/A?u=//h"), ("/가", "/%EA%B0%80")],
)
def test_other_paths_go_out(recording: RecordingKIS, make_bot: Callable[..., Bot], path: str, sent: str) -> None:
    """A path may have a query. Letters outside ASCII are percent-encoded."""
    bot = make_bot(base_url=recording.url)
    bot.chain.database.put_token(make_token())
    bot.client.request("GET", path, tr_id=PRICE_TR_ID)
    query = "&".join(f"{name}={value}" for name, value in recording.asked[0].query)
    assert recording.asked[0].path + ("?" + query if query else "") == sent


NESTED: list[object] = []
for _ in range(100_000):
    NESTED = [NESTED]
INVALID_ARGUMENTS: dict[str, tuple[str, type[Exception], dict[str, Any]]] = {
    "NaN": ("json", ValueError, {"json": {"ORD_UNPR": float("nan")}}),
    "infinity": ("json", ValueError, {"json": {"ORD_UNPR": [float("-inf")]}}),
    "no JSON": ("json", TypeError, {"json": {"x": object()}}),
    "bytes in JSON": ("json", TypeError, {"json": {"x": b"hunter2"}}),
    "a deep order": ("json", ValueError, {"json": {"x": NESTED}}),
    "a number as tr_id": ("tr_id", TypeError, {"tr_id": 802}),
    "no tr_id": ("tr_id", TypeError, {"tr_id": None}),
    "a line break in tr_id": ("tr_id", ValueError, {"tr_id": "hunter2\r\nX-Evil: 1"}),
    "Korean in tr_id": ("tr_id", ValueError, {"tr_id": "hunter2가"}),
    "a blank before tr_id": ("tr_id", ValueError, {"tr_id": " hunter2"}),
    "NUL in tr_id": ("tr_id", ValueError, {"tr_id": "hunter2\x00"}),
    "a number in a header": ("x-n", TypeError, {"headers": {"x-n": 5}}),
    "bytes in a header": ("x-n", TypeError, {"headers": {"x-n": b"hunter2"}}),
    "a line break in a header": ("x-n", ValueError, {"headers": {"x-n": "a\nhunter2"}}),
    "a folded header": ("x-n", ValueError, {"headers": {"x-n": "a\r\n hunter2"}}),
    "a colon in a header's name": ("header", ValueError, {"headers": {"hunter2: x": "1"}}),
    "no name of a header": ("header", ValueError, {"headers": {"": "hunter2"}}),
    "a number as a header's name": ("header", TypeError, {"headers": {5: "hunter2"}}),
    "half a surrogate in params": ("params", ValueError, {"params": {"a": "hunter2\ud800"}}),
    "a number as params": ("params", TypeError, {"params": 5}),
    "params of no pairs": ("params", ValueError, {"params": ["hunter2-and-more"]}),
    "a method with a blank": ("method", ValueError, {"method": "GET /hunter2"}),
    "a method with a line break": ("method", ValueError, {"method": "GET\r\nhunter2"}),
    "no method": ("method", ValueError, {"method": ""}),
    "a number as method": ("method", TypeError, {"method": 1}),
    "no path": ("path", TypeError, {"path": None}),
    "bytes as path": ("path", TypeError, {"path": b"/hunter2"}),
    "no time": ("timeout", ValueError, {"timeout": 0}),
    "NaN seconds": ("timeout", ValueError, {"timeout": float("nan")}),
    "seconds without end": ("timeout", ValueError, {"timeout": float("inf")}),
    "text as seconds": ("timeout", TypeError, {"timeout": "3"}),
}


@pytest.mark.parametrize("case", INVALID_ARGUMENTS)
def test_invalid_arguments_of_a_call(bot: Bot, case: str) -> None:
    """An invalid argument raises an error that names the argument and does not show its value. Nothing is sent."""
    argument, kind, given = INVALID_ARGUMENTS[case]
    arguments: dict[str, Any] = {"method": "POST", "path": ORDER_PATH, "tr_id": "TTTC0802U", **given}
    with pytest.raises(kind, match=argument) as caught:
        bot.client.request(arguments.pop("method"), arguments.pop("path"), **arguments)
    assert type(caught.value) is kind
    assert "hunter2" not in "".join(traceback.format_exception_only(caught.value))
    assert (caught.value.__context__, caught.value.__cause__) == (None, None)
    assert (bot.chain.store_calls, bot.chain.kis.requests) == ([], ())


def test_order_that_is_given_up_is_never_sent(
    recording: RecordingKIS, make_bot: Callable[..., Bot], monkeypatch: pytest.MonkeyPatch
) -> None:
    """If the host is resolved too slowly, the error says that nothing was sent, and nothing is sent afterwards."""
    bot, names, threads = make_bot(base_url=recording.url), threading.Event(), set(threading.enumerate())
    bot.chain.database.put_token(make_token())
    bot.client.access_token  # noqa: B018 - reads the token before the lookup of names is slow
    resolve = socket.getaddrinfo

    def slow(*arguments: Any, **named: Any) -> Any:  # noqa: ANN401 - getaddrinfo's
        assert names.wait(30)
        return resolve(*arguments, **named)

    monkeypatch.setattr(socket, "getaddrinfo", slow)
    with pytest.raises(IssuerOutage) as caught:
        bot.order(timeout=0.2)
    names.set()
    for thread in set(threading.enumerate()) - threads:
        thread.join(1)

    assert (caught.value.code, caught.value.sent, recording.asked) == ("kis-unreachable", False, [])


def test_refused_order_is_sent_again(bot: Bot) -> None:
    """If KIS rejects the token of an order, the order is sent again, because KIS has not executed it."""
    assert is_quote(bot.quote())
    let_hours_pass(bot, 7)
    bot.answer(ORDER_PATH, error_response("EGW00123", ORDER_PATH, status=200))
    bot.answer(ORDER_PATH, ACCEPTED)

    assert bot.order().json()["output"] == {"ODNO": "1"}

    assert bot.sent(ORDER_PATH) == 2
    assert bot.chain.issue_calls == 2


@pytest.mark.parametrize("kind", ["reset", "truncate", "stall"])
def test_order_without_an_answer_is_never_repeated(
    recording: RecordingKIS, make_bot: Callable[..., Bot], kind: FaultKind
) -> None:
    """If an order gets no answer, it is not repeated, and the error counts it as sent."""
    bot = make_bot(base_url=recording.url)
    bot.chain.database.put_token(make_token())
    recording.add_fault(Fault(kind, after=True))
    with pytest.raises(IssuerOutage) as caught:
        bot.order(timeout=0.5)
    assert (caught.value.code, caught.value.sent) == ("kis-unreachable", True)
    assert len(recording.asked) == 1


def test_order_that_never_left(bot: Bot) -> None:
    """If no program listens at the address, the error counts the order as not sent."""
    assert is_quote(bot.quote())
    bot.chain.kis.production.stop()
    with pytest.raises(IssuerOutage) as caught:
        bot.order()
    assert caught.value.sent is False


def test_order_that_came_too_soon_is_the_caller_s(bot: Bot) -> None:
    """After a rate limit, an order is not sent again; the caller gets KIS's answer."""
    bot.answer(ORDER_PATH, error_response("EGW00201", ORDER_PATH))
    assert bot.order().json()["msg_cd"] == "EGW00201"
    assert bot.sent(ORDER_PATH) == 1


@pytest.mark.parametrize("status", [200, 500])
def test_quote_that_came_too_soon_is_sent_again(bot: Bot, status: int) -> None:
    """After a rate limit, a request for a price is sent again, with growing pauses; the token is not renewed."""
    bot.answer(PRICE_PATH, error_response("EGW00201", PRICE_PATH, status=status), times=3)
    bot.client.access_token  # noqa: B018 - issues the token, so that the clock then records only the pauses
    bot.clock.slept.clear()

    assert is_quote(bot.quote())

    assert bot.clock.slept == [0.5, 1.0, 2.0]
    assert (bot.sent(PRICE_PATH), bot.chain.issue_calls) == (4, 1)


@pytest.mark.parametrize(("timeout", "calls"), [(30.0, 5), (3.0, 3), (0.4, 1)])
def test_rate_limit_that_stays_is_the_answer(bot: Bot, timeout: float, calls: int) -> None:
    """If KIS repeats the rate limit, the caller gets KIS's answer after a few tries within the timeout."""
    bot.answer(PRICE_PATH, error_response("EGW00201", PRICE_PATH), times=9)
    assert bot.quote(timeout=timeout).json()["msg_cd"] == "EGW00201"
    assert bot.sent(PRICE_PATH) == calls


def test_emulated_rate_limit_is_kept(bot: Bot) -> None:
    """If a program makes more calls than KIS allows in a second, all of them succeed."""
    bot.chain.kis.configure(calls_per_second=2)
    assert all(is_quote(bot.quote()) for _ in range(7))
    assert bot.chain.issue_calls == 1
