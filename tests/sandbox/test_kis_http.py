"""The wire form of the KIS emulator, over HTTP on loopback, on a clock that only the test moves."""

from __future__ import annotations

import base64
import json
import uuid
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING

import pytest
import requests

from kis_token.sandbox.kis_http import APPROVAL_PATH, PRICE_PATH, PRICE_TR_ID, REVOKE_PATH, TOKEN_PATH, KISWire
from kis_token.sandbox.kis_rules import Account, KISRules, Settings
from kis_token.sandbox.loopback import LoopbackServer

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

START = datetime(2025, 3, 3, 22, 30, 15, 600_000, tzinfo=timezone.utc)
ACCOUNT = Account()
PARAMETERS = {"FID_COND_MRKT_DIV_CODE": "J", "FID_INPUT_ISCD": "005930"}


class KIS:
    """One environment on its own port, and the calls of a client."""

    def __init__(self) -> None:
        self.time = START
        self.rules = KISRules([ACCOUNT], self, Settings())
        self.server = LoopbackServer(KISWire(self.rules).handle)

    def now(self) -> datetime:
        """Return the time last set."""
        return self.time

    def post(self, path: str, body: object) -> requests.Response:
        """Send a JSON body."""
        return requests.post(self.server.url + path, json=body, timeout=5)

    def ask_token(self, **changes: object) -> requests.Response:
        """Call tokenP, with changes to the correct body."""
        return self.post(TOKEN_PATH, {**_body(), **changes})

    def token(self) -> str:
        """Return a token from tokenP."""
        return str(self.ask_token().json()["access_token"])

    def price(
        self, token: str, parameters: Mapping[str, str] = PARAMETERS, /, **headers: str | None
    ) -> requests.Response:
        """Ask for a price, with changes to the correct headers; None omits a header."""
        usual = {
            "authorization": f"Bearer {token}",
            "appkey": ACCOUNT.app_key,
            "appsecret": ACCOUNT.app_secret,
            "tr_id": PRICE_TR_ID,
        }
        return requests.get(self.server.url + PRICE_PATH, parameters, headers={**usual, **headers}, timeout=5)


@pytest.fixture
def kis() -> Iterator[KIS]:
    """An environment with one account."""
    kis = KIS()
    with kis.server:
        yield kis


def _body() -> dict[str, object]:
    return {"grant_type": "client_credentials", "appkey": ACCOUNT.app_key, "appsecret": ACCOUNT.app_secret}


def _decoded(part: str) -> dict[str, object]:
    decoded: dict[str, object] = json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))
    return decoded


def _refusal(response: requests.Response) -> tuple[int, str]:
    """Return status and code of an error, and assert that its body has the form of its address and a text."""
    body = response.json()
    if "/oauth2/" in response.url:
        assert body.keys() == {"error_code", "error_description"}
        assert body["error_description"]
        return response.status_code, body["error_code"]
    assert body.keys() == {"rt_cd", "msg_cd", "msg1"}
    assert body["rt_cd"] == "1"
    assert body["msg1"]
    return response.status_code, body["msg_cd"]


def test_token_answer_has_the_form_of_kis(kis: KIS) -> None:
    """The expiry is a string in Korea time without an offset, nine hours ahead of UTC. expires_in is a number."""
    answer = kis.ask_token()
    assert answer.status_code == 200
    body = answer.json()
    assert body.keys() == {"access_token", "access_token_token_expired", "token_type", "expires_in"}
    assert body["access_token_token_expired"] == "2025-03-05 07:30:15"
    assert body["token_type"] == "Bearer"
    assert body["expires_in"] == 86400


def test_token_is_a_jwt_that_names_its_app_key(kis: KIS) -> None:
    """The token is three base64url parts of at most 350 characters, and its claims agree with the answer."""
    token = kis.token()
    header, claims, signature = token.split(".")
    assert len(token) <= 350
    assert _decoded(header) == {"typ": "JWT", "alg": "HS512"}
    assert len(base64.urlsafe_b64decode(signature + "==")) == 64
    decoded = _decoded(claims)
    uuid.UUID(str(decoded.pop("aud")))
    issued = int(START.timestamp())
    assert decoded == {
        "sub": "token",
        "iss": "unogw",
        "iat": issued,
        "exp": issued + 86400,
        "jti": ACCOUNT.app_key,
    }


def test_same_token_is_answered_with_the_same_words(kis: KIS) -> None:
    """Hours later KIS returns exactly the same answer, also the same expires_in, although less time is left."""
    first = kis.ask_token().json()
    kis.time += timedelta(hours=5)
    assert kis.ask_token().json() == first


def test_second_token_call_in_a_minute_is_refused(kis: KIS) -> None:
    """A second tokenP call within a minute gets 403 EGW00133."""
    kis.token()
    assert _refusal(kis.ask_token()) == (403, "EGW00133")


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"appkey": "PS" + "x" * 34}, "EGW00103"),
        ({"appsecret": ACCOUNT.app_secret + "\n"}, "EGW00105"),
        ({"grant_type": "password"}, "EGW00002"),
        ({"grant_type": None}, "EGW00002"),
        ({"appkey": ""}, "EGW00002"),
        ({"appsecret": 1}, "EGW00002"),
    ],
)
def test_wrong_keys_are_refused_with_403(kis: KIS, changes: dict[str, object], code: str) -> None:
    """Each error in the body has its own code, and all have status 403."""
    assert _refusal(kis.ask_token(**changes)) == (403, code)


@pytest.mark.parametrize("body", [b"", b"grant_type=client_credentials", b"[]", b"\xff"])
def test_body_that_is_not_a_json_object_is_refused(kis: KIS, body: bytes) -> None:
    """A call whose body is not a JSON object gets 403 EGW00002."""
    assert _refusal(requests.post(kis.server.url + TOKEN_PATH, data=body, timeout=5)) == (403, "EGW00002")


def test_revoked_token_is_invalid(kis: KIS) -> None:
    """The answer to a revocation also has code 200 in its body. After the revocation, the token gets EGW00121."""
    token = kis.token()
    answer = kis.post(REVOKE_PATH, {**_body(), "token": token})
    assert (answer.status_code, answer.json()) == (200, {"code": 200, "message": "접근토큰 폐기에 성공하였습니다"})
    assert _refusal(kis.price(token)) == (500, "EGW00121")
    assert _refusal(kis.post(REVOKE_PATH, {**_body(), "token": "made-up"})) == (403, "EGW00121")
    assert _refusal(kis.post(REVOKE_PATH, _body())) == (403, "EGW00002")


def test_approval_calls_the_secret_by_another_name(kis: KIS) -> None:
    """The secret's field is secretkey; under its usual name the secret counts as missing."""
    body = {"grant_type": "client_credentials", "appkey": ACCOUNT.app_key}
    answer = kis.post(APPROVAL_PATH, {**body, "secretkey": ACCOUNT.app_secret})
    assert answer.json().keys() == {"approval_key"}
    uuid.UUID(answer.json()["approval_key"])
    assert _refusal(kis.post(APPROVAL_PATH, {**body, "appsecret": ACCOUNT.app_secret})) == (403, "EGW00002")


def test_price_is_answered_to_a_valid_token(kis: KIS) -> None:
    """A call with token, keys, tr_id and parameters gets a price. All numbers in the answer are strings."""
    answer = kis.price(kis.token())
    body = answer.json()
    assert answer.status_code == 200
    assert (body["rt_cd"], body["msg_cd"], body["msg1"]) == ("0", "MCA00000", "정상처리 되었습니다.")
    assert int(body["output"]["stck_prpr"]) > 0
    assert {type(value) for value in body["output"].values()} == {str}


def test_header_names_have_no_case(kis: KIS) -> None:
    """Header names match in upper and lower case."""
    headers = {
        "AUTHORIZATION": f"Bearer {kis.token()}",
        "AppKey": ACCOUNT.app_key,
        "APPSECRET": ACCOUNT.app_secret,
        "Tr_Id": PRICE_TR_ID,
    }
    assert requests.get(kis.server.url + PRICE_PATH, PARAMETERS, headers=headers, timeout=5).status_code == 200


@pytest.mark.parametrize(
    ("headers", "code"),
    [
        ({"authorization": None}, "EGW00122"),
        ({"authorization": "Basic abc"}, "EGW00122"),
        ({"authorization": "Bearer"}, "EGW00122"),
        ({"authorization": "Bearer made-up"}, "EGW00121"),
        ({"appkey": None}, "EGW00121"),
        ({"appkey": "PS" + "x" * 34}, "EGW00121"),
        ({"appsecret": None}, "EGW00304"),
        ({"appsecret": "wrong"}, "EGW00304"),
    ],
)
def test_call_with_wrong_headers_is_refused_with_500(kis: KIS, headers: dict[str, str | None], code: str) -> None:
    """Each error in the headers has its own code, and all have status 500."""
    assert _refusal(kis.price(kis.token(), **headers)) == (500, code)


@pytest.mark.parametrize("status", [500, 200])
def test_expired_token_is_refused_with_the_set_status(kis: KIS, status: int) -> None:
    """EGW00123 has status 500 or, if the setting is 200, status 200."""
    kis.rules.settings = replace(kis.rules.settings, expired_status=status)
    token = kis.token()
    kis.time += timedelta(days=1)
    assert _refusal(kis.price(token)) == (status, "EGW00123")


def test_calls_above_the_rate_are_refused(kis: KIS) -> None:
    """A call above the rate gets 500 EGW00201."""
    kis.rules.settings = replace(kis.rules.settings, calls_per_second=1)
    token = kis.token()
    assert kis.price(token).status_code == 200
    assert _refusal(kis.price(token)) == (500, "EGW00201")


@pytest.mark.parametrize(
    ("parameters", "tr_id", "code"),
    [
        (PARAMETERS, None, "OPSQ9999"),
        (PARAMETERS, "FHKST00000000", "OPSQ0002"),
        ({"FID_COND_MRKT_DIV_CODE": "J"}, PRICE_TR_ID, "OPSQ2001"),
        ({"FID_INPUT_ISCD": "005930"}, PRICE_TR_ID, "OPSQ2001"),
        ({**PARAMETERS, "FID_COND_MRKT_DIV_CODE": "?"}, PRICE_TR_ID, "OPSQ2001"),
    ],
)
def test_wrong_parameters_are_refused_by_the_service(
    kis: KIS, parameters: dict[str, str], tr_id: str | None, code: str
) -> None:
    """An error that does not concern the token has an OPSQ code and status 200."""
    assert _refusal(kis.price(kis.token(), parameters, tr_id=tr_id)) == (200, code)


@pytest.mark.parametrize(("method", "path"), [("GET", TOKEN_PATH), ("POST", PRICE_PATH), ("GET", "/")])
def test_other_addresses_do_not_exist(kis: KIS, method: str, path: str) -> None:
    """An address that is not emulated gets 404."""
    assert requests.request(method, kis.server.url + path, timeout=5).status_code == 404
