"""KISClient through the whole chain: what it sends, how it survives a token's end, and what it never sends twice."""

from __future__ import annotations

import http.client
import logging
import socket
import threading
import traceback
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import pytest

from kis_token.client.kis_client import KISClient
from kis_token.errors import (
    IssuanceError,
    IssuerOutage,
    IssuerRefused,
    KisTokenError,
    SettingsError,
    TokenRefreshLimitError,
)
from kis_token.kis.api import TOKEN_CODES
from kis_token.sandbox.kis_http import APPROVAL_PATH, PRICE_PATH, PRICE_TR_ID, TOKEN_PATH, error_response
from kis_token.sandbox.loopback import Fault, LoopbackServer, Request, Response
from kis_token.token import fingerprint
from tests.resolver_harness import Chain, dead_token, stale_token
from tests.support import ACCOUNT, APP_KEY, HOUR, TurnedClock, make_token

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from kis_token.kis.session import Response as Answer
    from kis_token.sandbox.loopback import FaultKind

SAMSUNG = {"FID_COND_MRKT_DIV_CODE": "J", "FID_INPUT_ISCD": "005930"}
ORDER_PATH = "/uapi/domestic-stock/v1/trading/order-cash"
ACCEPTED = Response(200, {"rt_cd": "0", "msg_cd": "APBK0013", "output": {"ODNO": "1"}})


@dataclass
class Bot:
    """A client, its clock, and everything it meets."""

    chain: Chain
    clock: TurnedClock
    client: KISClient

    def quote(self, *, timeout: float = 10.0) -> Answer:
        """Ask for a price."""
        return self.client.request("GET", PRICE_PATH, tr_id=PRICE_TR_ID, params=SAMSUNG, timeout=timeout)

    def order(self, *, timeout: float = 10.0) -> Answer:
        """Buy."""
        return self.client.request("POST", ORDER_PATH, tr_id="TTTC0802U", json={"PDNO": "005930"}, timeout=timeout)

    def answer(self, path: str, response: Response, times: int = 1) -> None:
        """Let KIS answer the next calls of a path so."""
        self.chain.kis.production.add_fault(Fault("answer", path, times, response))

    def sent(self, path: str) -> int:
        """How often a path was called."""
        return sum(seen.path == path for seen in self.chain.kis.production.seen)

    @property
    def token_id(self) -> str:
        """The fingerprint of the token in use."""
        return fingerprint(self.client.access_token)


@pytest.fixture
def make_bot(chain: Chain) -> Iterator[Callable[..., Bot]]:
    """Makes clients of the slot kis; their settings are inputs of the action."""
    made: list[Bot] = []

    def make(clock: TurnedClock | None = None, /, **inputs: str) -> Bot:
        clock = clock or chain.clock()
        made.append(Bot(chain, clock, KISClient(chain.settings(**inputs), clock=clock)))
        return made[-1]

    yield make
    for bot in made:
        bot.client.close()


@pytest.fixture
def bot(make_bot: Callable[..., Bot]) -> Bot:
    """A client of an empty slot."""
    return make_bot()


def is_quote(answer: Answer) -> bool:
    """Whether KIS answered with a price."""
    return answer.status_code == 200 and answer.json()["output"]["stck_prpr"] == "71500"


def let_hours_pass(bot: Bot, hours: float) -> None:
    """For KIS, the lease and the bot alike."""
    bot.clock.sleep(hours * 3600)


def test_first_request_issues_and_later_ones_do_not(bot: Bot) -> None:
    """On an empty slot one token is issued; then neither KIS nor the store is asked for one again."""
    assert is_quote(bot.quote())
    asked = len(bot.chain.store_calls)

    assert all(is_quote(bot.quote()) for _ in range(5))

    assert bot.chain.issue_calls == 1
    assert len(bot.chain.store_calls) == asked


def test_stored_token_is_used(bot: Bot) -> None:
    """What another machine has issued costs one read."""
    bot.chain.resolve(cache_path="off")
    bot.chain.supabase.server.forget()

    assert is_quote(bot.quote())

    assert bot.chain.issue_calls == 1
    assert bot.chain.store_calls == ["read"]


class RecordingKIS(LoopbackServer):
    """A KIS that answers what it is told, and remembers what it was asked. Never shown: it knows secrets."""

    def __init__(self) -> None:
        super().__init__(self.take)
        self.response = ACCEPTED
        self.asked: list[Request] = []

    def take(self, request: Request) -> Response:
        """The answer."""
        self.asked.append(request)
        return self.response


@pytest.fixture
def recording() -> Iterator[RecordingKIS]:
    """A server that shows what a client sends."""
    with RecordingKIS() as server:
        yield server


def test_headers_are_filled_in(recording: RecordingKIS, make_bot: Callable[..., Bot]) -> None:
    """Token, key, secret, tr_id and custtype; parameters and JSON as they were given."""
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
    """Others may be added and custtype changed; the token's are the client's own."""
    bot, token = make_bot(base_url=recording.url), make_token()
    bot.chain.database.put_token(token)

    headers = {"TR_CONT": "N", "CustType": "B", "Authorization": "Bearer another", "tr_id": "another"}
    bot.client.request("GET", PRICE_PATH, tr_id=PRICE_TR_ID, headers=headers)

    sent = recording.asked[0].headers
    assert (sent.get_all("tr_cont"), sent.get_all("custtype"), sent.get_all("tr_id")) == (["N"], ["B"], [PRICE_TR_ID])
    is_right = sent.get_all("authorization") == [f"Bearer {token.value}"]
    assert is_right


def test_redirect_is_not_followed(recording: RecordingKIS, make_bot: Callable[..., Bot]) -> None:
    """Token and secret go to KIS's host alone; the caller gets the redirect."""
    with LoopbackServer(lambda _: ACCEPTED) as elsewhere:
        bot = make_bot(base_url=recording.url)
        bot.chain.database.put_token(make_token())
        recording.response = Response(307, b"", {"Location": elsewhere.url + ORDER_PATH})

        answers = bot.quote(), bot.order()

    assert [answer.status_code for answer in answers] == [307, 307]
    assert elsewhere.seen == ()


def test_cookies_are_not_kept(recording: RecordingKIS, make_bot: Callable[..., Bot]) -> None:
    """No call depends on the one before it."""
    bot = make_bot(base_url=recording.url)
    bot.chain.database.put_token(make_token())
    recording.response = Response(200, {}, {"Set-Cookie": "JSESSIONID=1; Path=/"})

    bot.quote()
    bot.quote()

    assert recording.asked[1].headers["cookie"] is None


def test_netrc_and_debugging_play_no_part(
    bot: Bot, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What a program has http.client print, and what the user's .netrc says of the host, is not for these calls."""
    netrc = bot.chain.folder / "netrc"
    netrc.touch(mode=0o600)
    netrc.write_text("machine 127.0.0.1 login somebody password else\n")
    monkeypatch.setenv("NETRC", str(netrc))
    monkeypatch.setattr(http.client.HTTPConnection, "debuglevel", 1)

    assert is_quote(bot.quote())
    bot.answer(ORDER_PATH, ACCEPTED)
    assert bot.order().ok

    assert "appsecret" not in capsys.readouterr().out.lower()


ODD_PATHS = ["uapi/x", "@example.com/x", ".example.com/x", "https://example.com/x", ""]
ODD_PATHS += ["//example.com/x", "/a//b", "/x#y", "/x?y=1#z", "/a@b", "/a b", "/a\r\nb", "/a\\b", "/\x00", "/x?a b"]


@pytest.mark.parametrize("path", ODD_PATHS)
def test_path_stays_on_kis_s_host(bot: Bot, path: str) -> None:
    """A path that could become a part of the host's name, or be cut off, is refused before anything is sent."""
    with pytest.raises(ValueError, match=r"path is not .* slash"):
        bot.client.request("GET", path, tr_id=PRICE_TR_ID)
    assert bot.chain.store_calls == []


@pytest.mark.parametrize(
    ("path", "sent"),
    [("/x?a=1&b=2@3", "/x?a=1&b=2@3"), ("/x/", "/x/"), ("/", "/"), ("/%41?u=//h", "/A?u=//h"), ("/가", "/%EA%B0%80")],
)
def test_other_paths_go_out(recording: RecordingKIS, make_bot: Callable[..., Bot], path: str, sent: str) -> None:
    """A path may have a query; letters outside ASCII are quoted."""
    bot = make_bot(base_url=recording.url)
    bot.chain.database.put_token(make_token())
    bot.client.request("GET", path, tr_id=PRICE_TR_ID)
    query = "&".join(f"{name}={value}" for name, value in recording.asked[0].query)
    assert recording.asked[0].path + ("?" + query if query else "") == sent


NESTED: list[object] = []
for _ in range(100_000):
    NESTED = [NESTED]

MISTAKES: dict[str, tuple[str, type[Exception], dict[str, Any]]] = {
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


@pytest.mark.parametrize("mistake", MISTAKES)
def test_caller_s_own_mistake(bot: Bot, mistake: str) -> None:
    """A ValueError or TypeError that names the argument and quotes no value, also in its traceback; nothing is sent."""
    argument, kind, given = MISTAKES[mistake]
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
    """Its host is resolved slowly: the error says that nothing was sent, and nothing is sent afterwards."""
    bot, names, threads = make_bot(base_url=recording.url), threading.Event(), set(threading.enumerate())
    bot.chain.database.put_token(make_token())
    bot.client.access_token  # noqa: B018 - reads it, while names are resolved
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


@pytest.mark.parametrize("status", [200, 401, 403, 500])
@pytest.mark.parametrize("code", sorted(TOKEN_CODES))
def test_newer_stored_token_is_taken(bot: Bot, code: str, status: int) -> None:
    """Refused at whatever status, and somebody else has renewed the token: theirs is used, and KIS not asked."""
    assert is_quote(bot.quote())
    let_hours_pass(bot, 7)
    newer = bot.chain.resolve(bot.clock, mode="force", cache_path="off").token
    before = bot.sent(PRICE_PATH)
    bot.answer(PRICE_PATH, error_response(code, PRICE_PATH, status=status))

    assert is_quote(bot.quote())

    assert bot.sent(PRICE_PATH) - before == 2
    assert bot.token_id == newer.token_id
    assert bot.chain.issue_calls == 2, "the bot has asked as well"


def test_dead_token_is_replaced_by_force(bot: Bot, caplog: pytest.LogCaptureFixture) -> None:
    """Dead 7 h after its issue, and nobody has another: one is issued, for which the log warns, and all use it."""
    assert is_quote(bot.quote())
    let_hours_pass(bot, 7)
    bot.chain.kis.kill_token(bot.client.access_token)

    with caplog.at_level(logging.WARNING, "kis_token"):
        assert is_quote(bot.quote())

    assert bot.chain.issue_calls == 2
    assert bot.chain.database.stored_id() == bot.token_id
    said = [record.getMessage() for record in caplog.records if "force" in record.getMessage()]
    assert len(said) == 1
    assert said[0].startswith("KIS rejects the token. The token was issued less than 23 h ago, at ")


def test_old_token_is_replaced_without_ado(bot: Bot, caplog: pytest.LogCaptureFixture) -> None:
    """23 h after its issue a token may be renewed: nothing is forced."""
    bot.chain.kis.configure(expires_in=90 * 86400)
    assert is_quote(bot.quote())
    let_hours_pass(bot, 23.1)
    bot.chain.kis.kill_token(bot.client.access_token)

    with caplog.at_level(logging.WARNING, "kis_token"):
        assert is_quote(bot.quote())

    assert bot.chain.issue_calls == 2
    assert "force" not in caplog.text


def test_token_that_kis_repeats_is_an_error(bot: Bot) -> None:
    """Within 6 h of an issue KIS gives the dead token again: the error says until when; KIS is not asked twice."""
    assert is_quote(bot.quote())
    let_hours_pass(bot, 1)
    bot.chain.kis.kill_token(bot.client.access_token)
    issued_at = bot.client.token_issued_at

    for _ in range(2):
        with pytest.raises(IssuanceError) as caught:
            bot.quote()
        assert caught.value.code == "token-repeated"
        assert f"{issued_at + 6 * HOUR:%H:%M:%S} UTC" in f"{caught.value}"

    assert bot.chain.issue_calls == 2
    assert bot.sent(PRICE_PATH) == 3


def test_refusal_in_euc_kr(bot: Bot) -> None:
    """A body whose message is in EUC-KR, labelled or not, has its code in ASCII: it is found."""
    assert is_quote(bot.quote())
    let_hours_pass(bot, 7)
    body = '{"rt_cd":"1","msg_cd":"EGW00123","msg1":"기간이 만료된 token 입니다."}'.encode("cp949")
    bot.answer(PRICE_PATH, Response(500, body))

    assert is_quote(bot.quote())

    assert (bot.sent(PRICE_PATH), bot.chain.issue_calls) == (3, 2)


def test_second_refusal_is_the_answer(bot: Bot) -> None:
    """A request is sent again once; what KIS says then is handed on."""
    assert is_quote(bot.quote())
    let_hours_pass(bot, 7)
    bot.answer(PRICE_PATH, error_response("EGW00121", PRICE_PATH), times=5)

    answer = bot.quote()

    assert answer.json()["msg_cd"] == "EGW00121"
    assert bot.sent(PRICE_PATH) == 3
    assert bot.chain.issue_calls == 2


@pytest.mark.parametrize(
    "response",
    [
        Response(401, b""),
        Response(500, b"EGW00121, but no JSON"),
        Response(500, b"[" * 100_000 + b"EGW00121"),
        Response(200, ["EGW00121"]),
        Response(200, {"rt_cd": "0", "msg_cd": "EGW00121"}),
        Response(200, {"rt_cd": "1", "msg_cd": "APBK0919", "msg1": "EGW00121"}),
        error_response("EGW00304", PRICE_PATH),
    ],
    ids=["401", "text", "deep", "list", "success", "elsewhere", "EGW00304"],
)
def test_what_says_nothing_of_the_token(bot: Bot, response: Response) -> None:
    """Only KIS's three codes, where KIS has its code, speak against a token: all else is the caller's to see."""
    bot.answer(PRICE_PATH, response)
    assert bot.quote().status_code == response.status
    assert (bot.sent(PRICE_PATH), bot.chain.issue_calls) == (1, 1)


def test_refused_order_is_sent_again(bot: Bot) -> None:
    """KIS refused it for its token, and so did not execute it."""
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
    """It may have been executed, which the error says."""
    bot = make_bot(base_url=recording.url)
    bot.chain.database.put_token(make_token())
    recording.add_fault(Fault(kind, after=True))
    with pytest.raises(IssuerOutage) as caught:
        bot.order(timeout=0.5)
    assert (caught.value.code, caught.value.sent) == ("kis-unreachable", True)
    assert len(recording.asked) == 1


def test_order_that_never_left(bot: Bot) -> None:
    """Where nobody listens nothing can have been executed, which the error says as well."""
    assert is_quote(bot.quote())
    bot.chain.kis.production.stop()
    with pytest.raises(IssuerOutage) as caught:
        bot.order()
    assert caught.value.sent is False


def test_order_that_came_too_soon_is_the_caller_s(bot: Bot) -> None:
    """An order is sent again for its token alone."""
    bot.answer(ORDER_PATH, error_response("EGW00201", ORDER_PATH))
    assert bot.order().json()["msg_cd"] == "EGW00201"
    assert bot.sent(ORDER_PATH) == 1


@pytest.mark.parametrize("status", [200, 500])
def test_quote_that_came_too_soon_is_sent_again(bot: Bot, status: int) -> None:
    """After pauses that grow; the token is not renewed for it."""
    bot.answer(PRICE_PATH, error_response("EGW00201", PRICE_PATH, status=status), times=3)
    bot.client.access_token  # noqa: B018 - issues it, so that the clock's naps below are the pauses
    bot.clock.slept.clear()

    assert is_quote(bot.quote())

    assert bot.clock.slept == [0.5, 1.0, 2.0]
    assert (bot.sent(PRICE_PATH), bot.chain.issue_calls) == (4, 1)


@pytest.mark.parametrize(("timeout", "calls"), [(30.0, 5), (3.0, 3), (0.4, 1)])
def test_rate_limit_that_stays_is_the_answer(bot: Bot, timeout: float, calls: int) -> None:
    """A few times, and within the timeout: then the caller gets KIS's answer."""
    bot.answer(PRICE_PATH, error_response("EGW00201", PRICE_PATH), times=9)
    assert bot.quote(timeout=timeout).json()["msg_cd"] == "EGW00201"
    assert bot.sent(PRICE_PATH) == calls


def test_emulated_rate_limit_is_kept(bot: Bot) -> None:
    """More calls than a paper account may make in a second all succeed."""
    bot.chain.kis.configure(calls_per_second=2)
    assert all(is_quote(bot.quote()) for _ in range(7))
    assert bot.chain.issue_calls == 1


THREADS = 16


def in_threads(work: Callable[[], object]) -> list[object]:
    """What ``work`` gives in so many threads that begin together; an error of ours instead of a result."""
    barrier = threading.Barrier(THREADS)

    def run() -> object:
        barrier.wait()
        try:
            return work()
        except KisTokenError as error:
            return error.code

    with ThreadPoolExecutor(THREADS) as pool:
        return [each.result() for each in [pool.submit(run) for _ in range(THREADS)]]


def test_threads_start_with_one_issue(bot: Bot) -> None:
    """On an empty slot all get a price, by one tokenP call and one look at the store."""
    bot.chain.kis.configure(calls_per_second=100)

    assert in_threads(lambda: is_quote(bot.quote())) == [True] * THREADS

    assert bot.chain.issue_calls == 1
    assert bot.chain.store_calls == ["read", "begin_issuance", "commit_issuance"]


def test_threads_refused_at_once_make_one_refresh(bot: Bot) -> None:
    """All get a price by one tokenP call; of the store they ask no more than one thread would."""
    bot.chain.kis.configure(calls_per_second=100)
    assert is_quote(bot.quote())
    let_hours_pass(bot, 7)
    bot.chain.kis.kill_token(bot.client.access_token)
    bot.chain.supabase.server.forget()

    assert in_threads(lambda: is_quote(bot.quote())) == [True] * THREADS

    assert bot.chain.issue_calls == 2
    assert bot.chain.store_calls.count("begin_issuance") == 1


def test_two_programs_refused_at_once_make_one_refresh(bot: Bot, make_bot: Callable[..., Bot]) -> None:
    """The lease keeps other machines from issuing as well: the second finds the first one's token."""
    other = make_bot(bot.clock, cache_path="off")
    assert is_quote(bot.quote())
    assert is_quote(other.quote())
    let_hours_pass(bot, 7)
    bot.chain.kis.kill_token(bot.client.access_token)

    assert is_quote(bot.quote())
    assert is_quote(other.quote())

    assert bot.chain.issue_calls == 2
    assert bot.token_id == other.token_id


def test_token_that_has_just_ended_is_tried(bot: Bot) -> None:
    """When no other can be had, KIS decides: it accepts such now and then."""
    token = dead_token()
    bot.chain.database.put_token(token)
    bot.chain.refuse_issue("EGW00105")
    bot.answer(PRICE_PATH, ACCEPTED)

    assert bot.quote().ok

    assert (bot.token_id, bot.chain.issue_calls) == (token.token_id, 1)


def test_outage_with_a_living_token(bot: Bot) -> None:
    """While the token lives, Supabase is not needed at all."""
    assert is_quote(bot.quote())
    bot.chain.supabase.stop()
    assert is_quote(bot.quote())


def test_outage_when_the_token_dies(make_bot: Callable[..., Bot]) -> None:
    """Keys that are only stored in Supabase were read before: with them one token is issued for this machine."""
    bot = make_bot(app_key="", app_secret="")
    bot.chain.database.put_keys()
    assert is_quote(bot.quote())
    let_hours_pass(bot, 7)
    bot.chain.kis.kill_token(bot.client.access_token)
    bot.chain.supabase.stop()

    assert is_quote(bot.quote())

    assert bot.chain.issue_calls == 2
    assert bot.chain.cached_id() == bot.token_id


@pytest.mark.parametrize("hours", [-3, 3])
def test_wrong_clock_renews_nothing(chain: Chain, make_bot: Callable[..., Bot], hours: int) -> None:
    """The store's time counts, also between its answers: a machine hours off goes on with the token."""
    clock = TurnedClock(wrong_by=hours * HOUR)
    clock.on_sleep = chain.pass_time
    bot, token = make_bot(clock), make_token(left=2 * HOUR, age=22 * HOUR)
    chain.database.put_token(token)
    assert bot.token_id == token.token_id
    chain.supabase.server.forget()

    assert bot.token_id == token.token_id

    assert (chain.store_calls, chain.issue_calls) == ([], 0)


def test_stale_token_at_the_start(bot: Bot) -> None:
    """A new program that finds a stale token has it renewed."""
    bot.chain.database.put_token(stale_token())
    assert is_quote(bot.quote())
    assert bot.chain.issue_calls == 1


def test_calls_need_keys(make_bot: Callable[..., Bot]) -> None:
    """A stored token alone calls nothing: the error says what is missing."""
    bot = make_bot(app_key="", app_secret="")
    bot.chain.database.put_token(make_token())
    for use in (bot.quote, bot.client.approval_key, lambda: bot.client.app_key):
        with pytest.raises(IssuanceError) as caught:
            use()
        assert caught.value.code == "missing-app-key"


def test_stored_keys_win(make_bot: Callable[..., Bot]) -> None:
    """What is stored counts; the environment's keys are for when nothing is."""
    bot = make_bot(app_key="PSabcdefghijklmnopqrstuvwxyz01234567", app_secret="c2VjcmV0LW9mLWEtdGVzdA==")
    bot.chain.database.put_keys()
    matches = (bot.client.app_key, bot.client.app_secret) == (APP_KEY.key, APP_KEY.secret)
    assert matches
    assert bot.chain.issue_calls == 0
    assert is_quote(bot.quote())


def test_approval_key_needs_no_token(bot: Bot) -> None:
    """For a WebSocket session: another key for each call, and no token is issued for it."""
    first, second = bot.client.approval_key(), bot.client.approval_key()
    assert len(first) == 36
    assert first != second
    assert bot.chain.issue_calls == 0


@pytest.mark.parametrize("response", [Response(200, {}), Response(200, {"approval_key": " "})])
def test_answer_without_an_approval_key(bot: Bot, response: Response) -> None:
    """What is no key is an outage."""
    bot.answer(APPROVAL_PATH, response)
    with pytest.raises(IssuerOutage) as caught:
        bot.client.approval_key()
    assert caught.value.code == "kis-answer-unusable"


def test_attributes_of_the_guide(chain: Chain) -> None:
    """What code written against the guide reads of a client; nothing is asked before it is needed."""
    with KISClient.from_env(chain.variables | {"KIS_ACCOUNT_NO": "12345678-01"}) as client:
        assert (client.account_no, client.base_url, client.environment) == (
            "12345678-01",
            chain.kis.production_url,
            "production",
        )
        assert chain.store_calls == []
        assert client.token_expires_at - client.token_issued_at == 24 * HOUR
        assert fingerprint(client.access_token) == chain.database.stored_id()
        matches = (client.app_key, client.app_secret) == (APP_KEY.key, APP_KEY.secret)
        assert matches
        shown = repr(client)
        assert shown == f"KISClient({chain.kis.production_url!r}, 'kis')"


def test_client_of_os_environ(chain: Chain, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without arguments, as the guide's: the program's environment."""
    for name, value in chain.variables.items():
        monkeypatch.setenv(name, value)
    for client in (KISClient(), KISClient.from_env()):
        with client:
            assert client.base_url == chain.kis.production_url
            assert client.account_no is None


def test_client_without_settings() -> None:
    """Everything that is missing is told at once."""
    with pytest.raises(SettingsError) as caught:
        KISClient.from_env({})
    assert {fault.code for fault in caught.value.faults} == {"missing-supabase-url", "missing-supabase-key"}


def test_paper_account(chain: Chain) -> None:
    """The environment chooses slot and host."""
    account = chain.kis.accounts["paper"][0]
    env = chain.variables | {
        "KIS_ENVIRONMENT": "paper",
        "KIS_BASE_URL": chain.kis.paper_url,
        "KIS_APP_KEY": account.app_key,
        "KIS_APP_SECRET": account.app_secret,
    }
    with KISClient.from_env(env) as client:
        assert is_quote(client.request("GET", PRICE_PATH, tr_id=PRICE_TR_ID, params=SAMSUNG))
        assert client.environment == "paper"
    assert (chain.issue_calls, chain.kis.counts("paper").calls) == (0, 1)
    assert chain.database.row("kis-paper")


def test_young_token_is_not_refreshed(bot: Bot) -> None:
    """One a day: the error has its own name, and KIS is not asked."""
    assert is_quote(bot.quote())
    let_hours_pass(bot, 22)
    with pytest.raises(TokenRefreshLimitError) as caught:
        bot.client.refresh_token()
    assert (caught.value.code, bot.chain.issue_calls) == ("token-too-young", 1)


def test_refresh_by_force(bot: Bot) -> None:
    """7 h after an issue KIS gives another token, to who insists."""
    old = bot.token_id
    let_hours_pass(bot, 7)
    bot.client.refresh_token(force=True)
    assert (bot.token_id != old, bot.chain.issue_calls) == (True, 2)
    assert bot.chain.database.stored_id() == bot.token_id


def test_refresh_by_force_that_fails(bot: Bot) -> None:
    """Who insists is told that there is no new token; the old one, which lives, goes on being used."""
    old = bot.token_id
    let_hours_pass(bot, 7)
    bot.chain.refuse_issue("EGW00105")
    with pytest.raises(IssuerRefused):
        bot.client.refresh_token(force=True)
    assert bot.token_id == old


def test_settings_may_be_given(chain: Chain) -> None:
    """A program may have settings of its own making; their mode does not matter to a client."""
    with KISClient(replace(chain.settings(), mode="check")) as client:
        assert fingerprint(client.access_token) == chain.database.stored_id()
    assert chain.kis.production.seen[0].path == TOKEN_PATH
