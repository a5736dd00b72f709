"""KIS's answers: tokens, refusals, nonsense and silence, over HTTP on loopback."""

from __future__ import annotations

import json
import socket
import threading
import time
from contextlib import suppress
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kis_token.core.ports import TooLate
from kis_token.errors import IssuerError, IssuerOutage, IssuerRateLimited, IssuerRefused
from kis_token.kis import api as kis_module
from kis_token.kis import session as kis_session
from kis_token.kis.api import KISIssuer, parse_issue_answer
from kis_token.sandbox.kis_http import PRICE_PATH, TOKEN_PATH, error_response, html_response
from kis_token.sandbox.loopback import Fault, LoopbackServer, Request, Response
from kis_token.token import KST, AppKey
from kis_token.values import parse_claims
from tests.support import ACCOUNT, APP_KEY, make_token, utc_now

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from kis_token.sandbox.emulator import KISEmulator

NOON = datetime(2026, 3, 2, 12, 0, tzinfo=timezone.utc)
OPAQUE = "opaque.token-of-a-test_0123456789"
DAY = timedelta(days=1)


pytestmark = pytest.mark.usefixtures("plain_network")


class OddKIS(LoopbackServer):
    """A KIS that gives one answer to everything, and remembers what it was asked. Never shown: it knows secrets."""

    def __init__(self, answer: Response) -> None:
        super().__init__(self.answer_all)
        self.response = answer
        self.asked: list[Request] = []

    def answer_all(self, request: Request) -> Response:
        """The answer."""
        self.asked.append(request)
        return self.response


@pytest.fixture
def odd() -> Iterator[OddKIS]:
    """A server whose answer the test chooses."""
    with OddKIS(Response(200)) as server:
        yield server


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Little time for a call, so that a silent server costs little."""
    monkeypatch.setattr(kis_session, "CONNECT_SECONDS", 0.2)
    monkeypatch.setattr(kis_module, "ISSUE_SECONDS", 0.6)


def failure(url: str, app_key: AppKey = APP_KEY) -> IssuerError:
    """The error that an issue ends in. It shows neither key nor secret."""
    with pytest.raises(IssuerError) as caught:
        KISIssuer(url, "production").issue(app_key, utc_now())
    shown = f"{caught.value!r} {caught.value}"
    secrets = [secret for secret in (app_key.key, app_key.secret, OPAQUE) if secret]
    assert not any(secret in shown for secret in secrets), "a secret is shown"
    return caught.value


def outage(url: str) -> IssuerOutage:
    """The outage that an issue ends in."""
    error = failure(url)
    assert isinstance(error, IssuerOutage)
    return error


def test_token_is_issued(kis: KISEmulator) -> None:
    """One call brings a token that knows its end, its beginning, its app key and its environment."""
    before = utc_now().replace(microsecond=0)
    token = KISIssuer(kis.production_url, "production").issue(APP_KEY, utc_now())
    assert before <= token.issued_at <= utc_now()
    assert token.expires_at - token.issued_at == DAY
    assert (token.app_key_id, token.environment, token.version) == (APP_KEY.key_id, "production", None)
    assert kis.counts("production").calls == 1


def test_older_token_is_known_by_its_age(kis: KISEmulator) -> None:
    """Asked again within six hours KIS hands out the same token; its beginning and end stay what they were."""
    issuer = KISIssuer(kis.production_url, "production")
    first = issuer.issue(APP_KEY, utc_now())
    kis.advance(5 * 3600)
    again = issuer.issue(APP_KEY, kis.now())
    assert again.token_id == first.token_id
    assert (again.issued_at, again.expires_at) == (first.issued_at, first.expires_at)


def test_token_of_three_months(kis: KISEmulator) -> None:
    """A partner company's token lives for 90 days."""
    kis.configure(expires_in=7_776_000)
    token = KISIssuer(kis.production_url, "production").issue(APP_KEY, utc_now())
    assert token.expires_at - token.issued_at == timedelta(days=90)


def test_request_has_kis_s_form(odd: OddKIS) -> None:
    """A POST of JSON with the three members, and the content type as KIS documents it."""
    failure(odd.url)
    request = odd.asked[0]
    assert (request.method, request.path) == ("POST", TOKEN_PATH)
    assert request.headers["content-type"] == "application/json; charset=UTF-8"
    body = request.json()
    assert list(body) == ["grant_type", "appkey", "appsecret"]
    assert (body["appkey"] == ACCOUNT.app_key, body["appsecret"] == ACCOUNT.app_secret) == (True, True)


REFUSALS = {
    "EGW00133": (IssuerRateLimited, "kis-rate-limited"),
    "EGW00103": (IssuerRefused, "kis-key-refused"),
    "EGW00105": (IssuerRefused, "kis-secret-refused"),
    "EGW00002": (IssuerRefused, "kis-keys-refused"),
    "EGW00201": (IssuerOutage, "kis-answer-unusable"),
    "EGW99999": (IssuerOutage, "kis-answer-unusable"),
}


@pytest.mark.parametrize("status", [200, 403, 500])
@pytest.mark.parametrize("code", REFUSALS)
def test_code_decides_and_not_the_status(odd: OddKIS, code: str, status: int) -> None:
    """The code in the body says what is wrong, at any HTTP status, 200 included; nothing is sent twice."""
    odd.response = error_response(code, TOKEN_PATH, status=status)
    error = failure(odd.url)
    assert (type(error), error.code) == REFUSALS[code]
    assert len(odd.asked) == 1


@pytest.mark.parametrize("code", [" EGW00133", "EGW00133 ", "EGW00133\r\n"])
def test_code_with_a_blank_beside_it(odd: OddKIS, code: str) -> None:
    """White space is not a part of it."""
    odd.response = Response(403, {"error_code": code, "error_description": "x"})
    assert isinstance(failure(odd.url), IssuerRateLimited)


@pytest.mark.parametrize("charset", ["cp949", "euc-kr", "utf-8", "utf-8-sig", "utf-16"])
def test_code_in_any_charset(odd: OddKIS, charset: str) -> None:
    """KIS's message may be in EUC-KR, which is no UTF-8: the code is found, and so is a token."""
    body = '{"error_code":"EGW00105","error_description":"유효하지 않은 AppSecret입니다. 똠"}'
    odd.response = Response(403, body.encode(charset, "replace"))
    assert failure(odd.url).code == "kis-secret-refused"
    answer = {"access_token": OPAQUE, "expires_in": 86400, "message": "발급"}
    odd.response = Response(200, json.dumps(answer, ensure_ascii=False).encode(charset))
    is_it = KISIssuer(odd.url, "production").issue(APP_KEY, utc_now()).value == OPAQUE
    assert is_it


def test_call_that_is_too_late_is_not_sent(kis: KISEmulator) -> None:
    """Nothing is sent; the next call leaves, on the connection that was made. It is closed with the issuer."""
    issuer = KISIssuer(kis.production_url, "production")
    for _ in range(2):
        with pytest.raises(TooLate):
            issuer.issue(APP_KEY, utc_now(), lambda: False)
    assert kis.requests == ()
    assert issuer.issue(APP_KEY, utc_now(), lambda: True).app_key_id == APP_KEY.key_id

    with pytest.raises(TooLate):
        issuer.issue(APP_KEY, utc_now(), lambda: False)
    issuer.close()
    assert issuer._unused is None
    assert kis.counts("production").calls == 1


@pytest.mark.usefixtures("quick")
def test_call_that_is_given_up_is_never_sent(odd: OddKIS, monkeypatch: pytest.MonkeyPatch) -> None:
    """KIS's name is resolved slowly: nothing was sent, and nothing is when it is known at last."""
    names, threads, resolve = threading.Event(), set(threading.enumerate()), socket.getaddrinfo

    def slow(*arguments: Any, **named: Any) -> Any:  # noqa: ANN401 - getaddrinfo's
        assert names.wait(30)
        return resolve(*arguments, **named)

    monkeypatch.setattr(socket, "getaddrinfo", slow)
    error = outage(odd.url)
    names.set()
    for thread in set(threading.enumerate()) - threads:
        thread.join(1)
    assert (error.code, error.sent, odd.asked) == ("kis-unreachable", False, [])


def test_other_shape_of_a_refusal_is_understood(odd: OddKIS) -> None:
    """A refusal in the shape of the other addresses is one too."""
    odd.response = error_response("EGW00133", PRICE_PATH)
    assert isinstance(failure(odd.url), IssuerRateLimited)


def test_text_in_the_code_s_place_is_not_repeated(odd: OddKIS) -> None:
    """What is no code stays out of the error: it may be anything."""
    odd.response = Response(403, {"error_code": f"EGW {OPAQUE}"})
    assert outage(odd.url).code == "kis-answer-unusable"


@pytest.mark.parametrize(
    ("changed", "code"),
    [
        (AppKey("PS" + "x" * 34, ACCOUNT.app_secret), "kis-key-refused"),
        (AppKey(ACCOUNT.app_key, ACCOUNT.app_secret[:-1]), "kis-secret-refused"),
        (AppKey(ACCOUNT.app_key, ""), "kis-keys-refused"),
    ],
    ids=["key", "secret cut at its end", "no secret"],
)
def test_wrong_keys_are_refused_for_good(kis: KISEmulator, changed: AppKey, code: str) -> None:
    """A wrong key or secret is told by its code and is not worth trying again."""
    error = failure(kis.production_url, changed)
    assert (error.code, error.retryable) == (code, False)


def test_second_call_in_a_minute_is_a_rate_limit(kis: KISEmulator) -> None:
    """EGW00133 is not a refusal for good."""
    KISIssuer(kis.production_url, "production").issue(APP_KEY, utc_now())
    assert failure(kis.production_url).code == "kis-rate-limited"


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
def test_nonsense_is_an_outage_after_sending(odd: OddKIS, case: str) -> None:
    """An answer that is no token may still have been an issue: nobody calls again at once."""
    odd.response = NONSENSE[case]
    error = outage(odd.url)
    assert (error.code, error.sent) == ("kis-answer-unusable", True)
    assert len(odd.asked) == 1


def test_refused_connection_was_not_sent(kis: KISEmulator) -> None:
    """Where nobody listens nothing had an effect, and another try costs nothing."""
    url = kis.production_url
    kis.stop()
    error = outage(url)
    assert (error.code, error.sent) == ("kis-unreachable", False)


def test_unknown_host_was_not_sent() -> None:
    """The same for a name that cannot be resolved."""
    assert outage("http://no-such-host.invalid:9443").sent is False


def test_proxy_that_is_not_there_was_not_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same for a proxy that cannot be reached."""
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    assert outage("https://openapi.example.com:9443").sent is False


def test_server_without_tls_got_nothing(odd: OddKIS) -> None:
    """A connection that never became a safe one carried no key."""
    outage(odd.url.replace("http:", "https:"))
    assert odd.asked == []


@pytest.mark.parametrize("kind", ["reset", "truncate"])
def test_broken_answer_was_sent(kis: KISEmulator, kind: Any) -> None:  # noqa: ANN401 - a fault's kind
    """A connection that broke after the request may have had its effect: here a token was issued and lost."""
    kis.production.add_fault(Fault(kind, TOKEN_PATH, after=True))
    assert outage(kis.production_url).sent is True
    assert kis.counts("production") == type(kis.counts("production"))(calls=1, accepted=1, issues=1)


@pytest.mark.usefixtures("quick")
def test_silence_was_sent_and_is_bounded(odd: OddKIS) -> None:
    """A silent KIS is given up in time, and may have issued."""
    odd.add_fault(Fault("stall", seconds=2))
    started = time.monotonic()
    error = outage(odd.url)
    assert (error.code, error.sent) == ("kis-unreachable", True)
    assert time.monotonic() - started < 10


@pytest.mark.usefixtures("quick")
def test_dripping_answer_is_given_up() -> None:
    """An answer that comes a byte at a time is given up when the time is up, although each byte is in time."""
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


def test_redirect_is_not_followed(odd: OddKIS, kis: KISEmulator) -> None:
    """Key and secret are not carried to where a redirect points."""
    odd.response = Response(307, b"", {"Location": kis.production_url + TOKEN_PATH})
    assert outage(odd.url).sent is True
    assert kis.requests == ()


def test_netrc_is_not_used(odd: OddKIS, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Passwords that the user keeps for the host are not sent to it."""
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login kim password hunter2-hunter2\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    failure(odd.url)
    assert odd.asked[0].headers["Authorization"] is None


def kis_time(instant: datetime) -> str:
    """As KIS writes it: Korea time, without saying so."""
    return f"{instant.astimezone(KST):%Y-%m-%d %H:%M:%S}"


def answer_of(**members: object) -> dict[str, object]:
    """An answer with an opaque token."""
    return {"access_token": OPAQUE, "token_type": "Bearer", **members}


def test_korea_time_is_read_as_korea_time() -> None:
    """The end is nine hours earlier in UTC than it looks."""
    answer = answer_of(access_token_token_expired="2026-03-03 21:00:00", expires_in=86400)
    token = parse_issue_answer(answer, APP_KEY, "production", NOON)
    assert (token.expires_at, token.issued_at) == (NOON + DAY, NOON)
    assert token.app_key_id == APP_KEY.key_id


def test_earlier_of_two_ends_counts() -> None:
    """Of the JWT's own end and the one beside it the earlier is believed, whichever that is."""
    for shift in (-timedelta(hours=1), timedelta(hours=1)):
        jwt = make_token(left=DAY, now=NOON)
        beside = NOON + DAY + shift
        answer = {"access_token": jwt.value, "access_token_token_expired": kis_time(beside), "expires_in": 86400}
        token = parse_issue_answer(answer, APP_KEY, "production", NOON)
        assert token.expires_at == min(beside, jwt.expires_at)
        assert token.issued_at == jwt.issued_at


def test_expires_in_that_disagrees_moves_no_end() -> None:
    """It has no reference time when KIS hands out an older token: the end stays, the beginning is counted back."""
    answer = answer_of(access_token_token_expired=kis_time(NOON + timedelta(hours=3)), expires_in=86400)
    token = parse_issue_answer(answer, APP_KEY, "production", NOON)
    assert token.expires_at == NOON + timedelta(hours=3)
    assert token.issued_at == NOON - timedelta(hours=21)


@pytest.mark.parametrize("end", [None, "", "soon", 86400, "0001-01-01 00:00:00", "9999-12-31 23:59:59"], ids=repr)
@pytest.mark.parametrize("lifetime", [86400, 86400.0, "86400"], ids=repr)
def test_without_a_readable_end_expires_in_counts_from_now(end: object, lifetime: object) -> None:
    """Only then is the present taken for the beginning."""
    answer = answer_of(access_token_token_expired=end, expires_in=lifetime)
    token = parse_issue_answer(answer, APP_KEY, "production", NOON)
    assert (token.issued_at, token.expires_at) == (NOON, NOON + DAY)


def test_end_of_the_jwt_alone_is_enough() -> None:
    """With a readable claim expires_in is not looked at, and the beginning is never the present."""
    jwt = make_token(left=timedelta(hours=2), age=timedelta(hours=22), now=NOON)
    token = parse_issue_answer({"access_token": jwt.value, "expires_in": 86400}, APP_KEY, "production", NOON)
    assert token.expires_at == NOON + timedelta(hours=2)
    assert token.issued_at == NOON - timedelta(hours=22)


def test_claim_that_cannot_be_read_is_no_end() -> None:
    """A JWT whose exp is no time is treated like one that says nothing."""
    value = "eyJhbGciOiJIUzUxMiJ9.eyJleHAiOiJzb29uIn0.c2lnbmF0dXJl"
    assert parse_claims(value) == {"exp": "soon"}
    token = parse_issue_answer({"access_token": value, "expires_in": 86400}, APP_KEY, "production", NOON)
    assert token.expires_at == NOON + DAY


def test_blanks_around_the_token_are_cut_off() -> None:
    """White space round the token is not a part of it."""
    answer = answer_of(access_token=f" {OPAQUE}\n", expires_in=86400)
    assert parse_issue_answer(answer, APP_KEY, "paper", NOON).value == OPAQUE


@pytest.mark.parametrize("left", [timedelta(seconds=29), timedelta(), -timedelta(hours=1)])
def test_token_that_is_dead_on_arrival_is_a_failure(left: timedelta) -> None:
    """Within six hours KIS hands the same token out even when it has ended: that is no token."""
    answer = answer_of(access_token_token_expired=kis_time(NOON + left), expires_in=86400)
    with pytest.raises(IssuerOutage) as caught:
        parse_issue_answer(answer, APP_KEY, "production", NOON)
    assert (caught.value.code, caught.value.sent) == ("kis-answer-unusable", True)
    assert OPAQUE not in f"{caught.value!r}", "the token is shown"


odd_values = st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.lists(st.none(), max_size=1)


@given(odd_values | st.just(OPAQUE), odd_values, odd_values | st.floats(0, 1e15))
def test_any_answer_is_a_token_or_an_outage(value: object, end: object, lifetime: object) -> None:
    """Whatever KIS answers, nothing but an outage is raised, and a token is alive and older than its end."""
    answer = {"access_token": value, "access_token_token_expired": end, "expires_in": lifetime}
    try:
        token = parse_issue_answer(answer, APP_KEY, "production", NOON)
    except IssuerOutage as error:
        assert error.sent is True  # noqa: PT017 - either outcome is right
        return
    assert token.issued_at < token.expires_at
    assert token.expires_at > NOON


@given(st.integers(30, 90 * 86400))
def test_any_lifetime_is_taken_at_its_word(seconds: int) -> None:
    """A lifetime beside an end that agrees gives both times, whatever it is."""
    end = NOON + timedelta(seconds=seconds)
    answer = answer_of(access_token_token_expired=kis_time(end), expires_in=seconds)
    token = parse_issue_answer(answer, APP_KEY, "production", NOON)
    assert (token.issued_at, token.expires_at) == (NOON, end)


def test_good_token_is_verified(kis: KISEmulator) -> None:
    """Nothing speaks against a token that KIS accepts on a quotation."""
    issuer = KISIssuer(kis.production_url, "production")
    token = issuer.issue(APP_KEY, utc_now())
    assert issuer.verify(token, APP_KEY) is None


@pytest.mark.parametrize("status", [200, 500])
def test_dead_token_is_told_by_its_code(kis: KISEmulator, status: int) -> None:
    """A killed and an expired token are refused with KIS's code, at any status."""
    kis.configure(expired_status=status)
    issuer = KISIssuer(kis.production_url, "production")
    token = issuer.issue(APP_KEY, utc_now())
    kis.expire_token(token.value)
    assert issuer.verify(token, APP_KEY) == "EGW00123"
    kis.kill_token(token.value)
    assert issuer.verify(token, APP_KEY) == "EGW00121"


@pytest.mark.parametrize("response", [error_response("EGW00201", PRICE_PATH), html_response(503), Response(200, {})])
def test_try_that_did_not_work_says_nothing_of_the_token(odd: OddKIS, response: Response) -> None:
    """A rate limit, a page or nonsense is an outage: the token may be good."""
    odd.response = response
    with pytest.raises(IssuerOutage):
        KISIssuer(odd.url, "production").verify(make_token(), APP_KEY)


def test_repr_of_an_issuer_shows_where_and_nothing_else() -> None:
    """An issuer holds no key."""
    assert repr(KISIssuer("https://kis.example.com", "paper")) == (
        "KISIssuer(base_url='https://kis.example.com', environment='paper')"
    )


def test_token_is_revoked(kis: KISEmulator) -> None:
    """A token is ended; one that KIS does not know is dead already, which is no error."""
    issuer = KISIssuer(kis.production_url, "production")
    token = issuer.issue(APP_KEY, utc_now())

    assert issuer.revoke(token, APP_KEY) is True
    assert issuer.verify(token, APP_KEY) == "EGW00121"
    assert issuer.revoke(make_token(), APP_KEY) is False


def test_revocation_has_kis_s_form(odd: OddKIS) -> None:
    """A POST of JSON with key, secret and token; the code of success may be a number or a text."""
    for code in (200, "200"):
        odd.response = Response(200, {"code": code, "message": "x"})
        assert KISIssuer(odd.url, "production").revoke(make_token(), APP_KEY) is True
    request = odd.asked[0]
    assert (request.method, request.path) == ("POST", "/oauth2/revokeP")
    assert list(request.json()) == ["appkey", "appsecret", "token"]


@pytest.mark.parametrize("status", [200, 403, 500])
@pytest.mark.parametrize(
    ("code", "kind"),
    [("EGW00105", IssuerRefused), ("EGW00103", IssuerRefused), ("EGW00002", IssuerRefused), ("EGW00201", IssuerOutage)],
)
def test_revocation_that_kis_refuses(odd: OddKIS, code: str, status: int, kind: type[IssuerError]) -> None:
    """A refusal of the keys is one for good; anything else may be tried again, and is no success."""
    odd.response = error_response(code, "/oauth2/revokeP", status=status)
    with pytest.raises(kind):
        KISIssuer(odd.url, "production").revoke(make_token(), APP_KEY)


def test_answer_that_says_nothing_is_no_revocation(odd: OddKIS) -> None:
    """Only KIS's own word counts."""
    for body in ({}, {"code": 500}, {"message": "ok"}):
        odd.response = Response(200, body)
        with pytest.raises(IssuerOutage):
            KISIssuer(odd.url, "production").revoke(make_token(), APP_KEY)


def test_greeting_asks_for_nothing(odd: OddKIS) -> None:
    """Whatever the host answers, it is there; no token and no key is sent."""
    odd.response = Response(404)
    KISIssuer(odd.url, "production").greet()

    assert [(seen.method, seen.path, seen.body) for seen in odd.asked] == [("HEAD", "/", b"")]
    assert not {"authorization", "appkey", "appsecret"} & {name.lower() for name in odd.asked[0].headers}


def test_greeting_nobody(odd: OddKIS) -> None:
    """A host that does not speak TLS is not there."""
    with pytest.raises(IssuerOutage) as caught:
        KISIssuer(odd.url.replace("http:", "https:"), "production").greet()
    assert caught.value.code == "kis-unreachable"
