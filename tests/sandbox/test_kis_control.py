"""The control of the KIS emulator over HTTP."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
import requests

from kis_token.sandbox.emulator import KISEmulator
from kis_token.sandbox.kis_http import PRICE_PATH, TOKEN_PATH

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def kis() -> Iterator[KISEmulator]:
    """An emulator with made-up accounts."""
    with KISEmulator() as kis:
        yield kis


def control(kis: KISEmulator, method: str, path: str, body: object = None) -> Any:  # noqa: ANN401 - JSON
    """Return the answer of the control to a request that it must accept."""
    answer = requests.request(method, kis.control_url + path, json=body, timeout=5)
    assert answer.status_code == 200, answer.text
    return answer.json()


def ask_token(kis: KISEmulator) -> requests.Response:
    """Call tokenP of the real environment once."""
    account = kis.accounts["production"][0]
    body = {"grant_type": "client_credentials", "appkey": account.app_key, "appsecret": account.app_secret}
    return requests.post(kis.production_url + TOKEN_PATH, json=body, timeout=5)


def code_of_call(kis: KISEmulator, token: str) -> str:
    """Return the code of a call without parameters: an OPSQ code if the token is accepted."""
    account = kis.accounts["production"][0]
    headers = {"authorization": f"Bearer {token}", "appkey": account.app_key, "appsecret": account.app_secret}
    return str(requests.get(kis.production_url + PRICE_PATH, headers=headers, timeout=5).json()["msg_cd"])


def test_clock(kis: KISEmulator) -> None:
    """The answer has the emulated time in ISO 8601 with its offset.

    A request with a number of seconds sets the clock forward.
    """
    before = datetime.fromisoformat(control(kis, "GET", "/clock")["now"])
    assert before.utcoffset() == timedelta(0)
    after = datetime.fromisoformat(control(kis, "POST", "/clock", {"advance": 90.5})["now"])
    assert timedelta(seconds=90.5) <= after - before < timedelta(seconds=120)


def test_requests_and_counts(kis: KISEmulator) -> None:
    """The control lists the requests with the codes of their answers, counts the issues, and shows no secret."""
    token = ask_token(kis).json()["access_token"]
    ask_token(kis)
    listed = requests.get(kis.control_url + "/requests", timeout=5)
    first, second = listed.json()["requests"]
    assert datetime.fromisoformat(first.pop("at")).utcoffset() == timedelta(0)
    assert first == {
        "environment": "production",
        "method": "POST",
        "path": TOKEN_PATH,
        "status": 200,
        "code": None,
    }
    assert (second["status"], second["code"]) == (403, "EGW00133")
    account = kis.accounts["production"][0]
    assert not any(secret in listed.text for secret in (token, account.app_key, account.app_secret))
    assert control(kis, "GET", "/counts") == {
        "production": {"calls": 2, "accepted": 1, "issues": 1},
        "paper": {"calls": 0, "accepted": 0, "issues": 0},
    }


def test_settings(kis: KISEmulator) -> None:
    """The settings can be read and changed, for one environment or for both environments."""
    control(kis, "POST", "/settings", {"reissue_kills_previous": True})
    answer = control(kis, "POST", "/settings", {"environment": "paper", "expires_in": 7776000})
    assert answer == control(kis, "GET", "/settings")
    assert [answer[name]["expires_in"] for name in ("production", "paper")] == [86400, 7776000]
    assert [answer[name]["reissue_kills_previous"] for name in ("production", "paper")] == [True, True]


def test_tokens_can_be_ended(kis: KISEmulator) -> None:
    """After a request that ends one token, or all tokens of an app key, KIS rejects these tokens."""
    token = ask_token(kis).json()["access_token"]
    assert code_of_call(kis, token).startswith("OPSQ")
    control(kis, "POST", "/tokens/expire", {"token": token})
    assert code_of_call(kis, token) == "EGW00123"
    control(kis, "POST", "/tokens/kill", {"app_key": kis.accounts["production"][0].app_key})
    assert code_of_call(kis, token) == "EGW00121"


def test_refusal_fault_has_the_form_of_its_address(kis: KISEmulator) -> None:
    """The next calls fail with the given code, as often as requested; later calls succeed."""
    fault = {"environment": "production", "kind": "code"}
    control(kis, "POST", "/faults", {**fault, "code": "EGW00105", "path": "/oauth2", "times": 2})
    control(kis, "POST", "/faults", {**fault, "code": "EGW00201", "path": "/uapi", "status": 200})
    assert [(answer.status_code, answer.json().get("error_code")) for answer in (ask_token(kis), ask_token(kis))] == [
        (403, "EGW00105"),
        (403, "EGW00105"),
    ]
    assert code_of_call(kis, "any") == "EGW00201"
    assert ask_token(kis).status_code == 200


@pytest.mark.parametrize("status", [200, 502])
def test_html_fault(kis: KISEmulator, status: int) -> None:
    """A page with the given status replaces the answer."""
    control(kis, "POST", "/faults", {"environment": "production", "kind": "html", "status": status})
    answer = ask_token(kis)
    assert answer.status_code == status
    assert answer.headers["Content-Type"].startswith("text/html")
    assert answer.text.startswith("<!DOCTYPE html>")


@pytest.mark.parametrize(
    ("fault", "issues"),
    [
        ({"kind": "reset"}, 0),
        ({"kind": "reset", "after": True}, 1),
        ({"kind": "stall", "seconds": 0}, 0),
        ({"kind": "stall", "seconds": 0, "after": True}, 1),
        ({"kind": "truncate"}, 1),
        ({"kind": "html", "after": True}, 1),
    ],
)
def test_broken_answers(kis: KISEmulator, fault: dict[str, object], issues: int) -> None:
    """The answer arrives incomplete or not at all. A token was issued only if the fault came after KIS's work."""
    control(kis, "POST", "/faults", {"environment": "production", **fault})
    with pytest.raises(requests.RequestException):
        ask_token(kis).json()
    assert control(kis, "GET", "/counts")["production"] == {"calls": 1, "accepted": issues, "issues": issues}


def test_faults_befall_their_environment_and_can_be_forgotten(kis: KISEmulator) -> None:
    """A fault of one environment does not affect the other, and DELETE drops the unused faults."""
    for environment in ("paper", "production"):
        control(kis, "POST", "/faults", {"environment": environment, "kind": "html"})
    assert ask_token(kis).status_code == 503
    control(kis, "POST", "/faults", {"environment": "production", "kind": "html"})
    control(kis, "DELETE", "/faults")
    assert ask_token(kis).status_code == 200
    assert requests.get(kis.paper_url, timeout=5).status_code == 404


@pytest.mark.parametrize(
    ("path", "body", "named"),
    [
        ("/clock", {}, "advance"),
        ("/clock", {"advance": "1"}, "advance"),
        ("/clock", {"advance": True}, "advance"),
        ("/clock", {"advance": -1}, "forward"),
        ("/clock", {"advance": 1, "back": 1}, "back"),
        ("/clock", [], "object"),
        ("/settings", {"environment": "moon"}, "environment"),
        ("/settings", {"speed": 1}, "speed"),
        ("/settings", {"self": 1}, "self"),
        ("/settings", {"expires_in": "1"}, "expires_in"),
        ("/tokens/kill", {}, "token"),
        ("/tokens/kill", {"token": "made-up"}, "token"),
        ("/tokens/expire", {"app_key": "made-up"}, "app key"),
        ("/faults", {"kind": "html"}, "environment"),
        ("/faults", {"environment": "paper"}, "kind"),
        ("/faults", {"environment": "paper", "kind": "fire"}, "kind"),
        ("/faults", {"environment": "paper", "kind": "html", "seconds": 1}, "seconds"),
        ("/faults", {"environment": "paper", "kind": "html", "status": 99}, "status"),
        ("/faults", {"environment": "paper", "kind": "html", "times": 0}, "times"),
        ("/faults", {"environment": "paper", "kind": "html", "path": "uapi"}, "path"),
        ("/faults", {"environment": "paper", "kind": "code", "code": "EGW00133"}, "path"),
        ("/faults", {"environment": "paper", "kind": "code", "path": "/uapi"}, "code"),
        ("/faults", {"environment": "paper", "kind": "stall", "seconds": -1}, "seconds"),
    ],
)
def test_invalid_requests_are_explained(kis: KISEmulator, path: str, body: object, named: str) -> None:
    """An invalid request is answered 400 with a text that names the error, and has no effect."""
    before = control(kis, "GET", "/settings")
    answer = requests.post(kis.control_url + path, json=body, timeout=5)
    assert answer.status_code == 400
    assert named in answer.json()["error"]
    assert control(kis, "GET", "/settings") == before
    assert requests.get(kis.paper_url, timeout=5).status_code == 404


def test_body_that_is_not_json_is_refused(kis: KISEmulator) -> None:
    """A body that cannot be read is answered 400."""
    assert requests.post(kis.control_url + "/clock", data=b"{", timeout=5).status_code == 400


def test_unknown_address_names_the_known_ones(kis: KISEmulator) -> None:
    """An unknown address is answered 404 with the list of known addresses."""
    answer = requests.get(kis.control_url + "/help", timeout=5)
    assert answer.status_code == 404
    assert "GET /requests" in answer.json()["error"]
