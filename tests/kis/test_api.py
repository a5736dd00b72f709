"""The format of a tokenP request, and the errors for KIS's answers."""

from __future__ import annotations

import json
import socket
import threading
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest

from kis_token.core.ports import TooLate
from kis_token.errors import IssuerOutage, IssuerRateLimited, IssuerRefused
from kis_token.kis.api import KISIssuer
from kis_token.sandbox.kis_http import PRICE_PATH, TOKEN_PATH, error_response
from kis_token.sandbox.loopback import Response
from kis_token.token import AppKey
from tests.kis.scripted_kis import DAY, OPAQUE, ScriptedKIS, failure, outage
from tests.support import ACCOUNT, APP_KEY, utc_now

if TYPE_CHECKING:
    from kis_token.sandbox.emulator import KISEmulator

pytestmark = pytest.mark.usefixtures("plain_network")


def test_token_is_issued(kis: KISEmulator) -> None:
    """One call returns a token with its end, its beginning, its app key and its environment."""
    before = utc_now().replace(microsecond=0)
    token = KISIssuer(kis.production_url, "production").issue(APP_KEY, utc_now())
    assert before <= token.issued_at <= utc_now()
    assert token.expires_at - token.issued_at == DAY
    assert (token.app_key_id, token.environment, token.version) == (APP_KEY.key_id, "production", None)
    assert kis.counts("production").calls == 1


def test_older_token_is_known_by_its_age(kis: KISEmulator) -> None:
    """Within six hours, KIS returns the same token, and its beginning and end stay unchanged."""
    issuer = KISIssuer(kis.production_url, "production")
    first = issuer.issue(APP_KEY, utc_now())
    kis.advance(5 * 3600)
    again = issuer.issue(APP_KEY, kis.now())
    assert again.token_id == first.token_id
    assert (again.issued_at, again.expires_at) == (first.issued_at, first.expires_at)


def test_token_of_three_months(kis: KISEmulator) -> None:
    """A partner company's token is valid for 90 days."""
    kis.configure(expires_in=7_776_000)
    token = KISIssuer(kis.production_url, "production").issue(APP_KEY, utc_now())
    assert token.expires_at - token.issued_at == timedelta(days=90)


def test_request_has_kis_s_form(scripted: ScriptedKIS) -> None:
    """The request is a POST of JSON with three members, and has the content type that KIS documents."""
    failure(scripted.url)
    request = scripted.asked[0]
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
def test_code_decides_and_not_the_status(scripted: ScriptedKIS, code: str, status: int) -> None:
    """The code in the body decides the error, at any HTTP status, even 200. The request is not repeated."""
    scripted.response = error_response(code, TOKEN_PATH, status=status)
    error = failure(scripted.url)
    assert (type(error), error.code) == REFUSALS[code]
    assert len(scripted.asked) == 1


@pytest.mark.parametrize("code", [" EGW00133", "EGW00133 ", "EGW00133\r\n"])
def test_code_with_a_blank_beside_it(scripted: ScriptedKIS, code: str) -> None:
    """White space around a code is ignored."""
    scripted.response = Response(403, {"error_code": code, "error_description": "x"})
    assert isinstance(failure(scripted.url), IssuerRateLimited)


@pytest.mark.parametrize("charset", ["cp949", "euc-kr", "utf-8", "utf-8-sig", "utf-16"])
def test_code_in_any_charset(scripted: ScriptedKIS, charset: str) -> None:
    """The issuer finds the error code or the token in an answer of any charset, such as EUC-KR."""
    body = '{"error_code":"EGW00105","error_description":"유효하지 않은 AppSecret입니다. 똠"}'
    scripted.response = Response(403, body.encode(charset, "replace"))
    assert failure(scripted.url).code == "kis-secret-refused"
    answer = {"access_token": OPAQUE, "expires_in": 86400, "message": "발급"}
    scripted.response = Response(200, json.dumps(answer, ensure_ascii=False).encode(charset))
    is_it = KISIssuer(scripted.url, "production").issue(APP_KEY, utc_now()).value == OPAQUE
    assert is_it


def test_call_that_is_too_late_is_not_sent(kis: KISEmulator) -> None:
    """A late call sends nothing and leaves its connection to the next call. `close` closes the connection."""
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
def test_call_that_is_given_up_is_never_sent(scripted: ScriptedKIS, monkeypatch: pytest.MonkeyPatch) -> None:
    """If KIS's name is resolved after the call was given up, nothing is sent, not even later."""
    names, threads, resolve = threading.Event(), set(threading.enumerate()), socket.getaddrinfo

    def slow(*arguments: Any, **named: Any) -> Any:  # noqa: ANN401 - getaddrinfo's
        assert names.wait(30)
        return resolve(*arguments, **named)

    monkeypatch.setattr(socket, "getaddrinfo", slow)
    error = outage(scripted.url)
    names.set()
    for thread in set(threading.enumerate()) - threads:
        thread.join(1)
    assert (error.code, error.sent, scripted.asked) == ("kis-unreachable", False, [])


def test_other_shape_of_a_refusal_is_understood(scripted: ScriptedKIS) -> None:
    """A refusal in the form that KIS uses for other paths is recognised too."""
    scripted.response = error_response("EGW00133", PRICE_PATH)
    assert isinstance(failure(scripted.url), IssuerRateLimited)


def test_text_in_the_code_s_place_is_not_repeated(scripted: ScriptedKIS) -> None:
    """If the code in an answer has an unusual form, the error does not repeat it, because it may be a secret."""
    scripted.response = Response(403, {"error_code": f"EGW {OPAQUE}"})
    assert outage(scripted.url).code == "kis-answer-unusable"


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
    """KIS refuses a wrong key or secret with its code, and the error is not retryable."""
    error = failure(kis.production_url, changed)
    assert (error.code, error.retryable) == (code, False)


def test_second_call_in_a_minute_is_a_rate_limit(kis: KISEmulator) -> None:
    """A second call within a minute is a rate limit, and not a refusal."""
    KISIssuer(kis.production_url, "production").issue(APP_KEY, utc_now())
    assert failure(kis.production_url).code == "kis-rate-limited"
