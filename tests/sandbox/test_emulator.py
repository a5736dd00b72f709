"""The Python interface of the KIS emulator."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING

import pytest
import requests

from kis_token.sandbox.emulator import Counts, KISEmulator
from kis_token.sandbox.kis_http import PRICE_PATH, PRICE_TR_ID, TOKEN_PATH, error_response, html_response
from kis_token.sandbox.kis_rules import Account
from kis_token.sandbox.loopback import Fault
from tools.certificate import make_certificate

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

REAL, OTHER, PAPER = Account(), Account(), Account()


@pytest.fixture
def kis() -> Iterator[KISEmulator]:
    """An emulator with two real accounts and a paper account."""
    with KISEmulator(production=[REAL, OTHER], paper=PAPER) as kis:
        yield kis


def ask_token(url: str, account: Account) -> requests.Response:
    """Call tokenP once."""
    body = {"grant_type": "client_credentials", "appkey": account.app_key, "appsecret": account.app_secret}
    return requests.post(url + TOKEN_PATH, json=body, timeout=5)


def token_of(url: str, account: Account) -> str:
    """Return a token for the account."""
    return str(ask_token(url, account).json()["access_token"])


def code_of_call(url: str, account: Account, token: str) -> str:
    """Return the code of an ordinary call's answer."""
    headers = {
        "authorization": f"Bearer {token}",
        "appkey": account.app_key,
        "appsecret": account.app_secret,
        "tr_id": PRICE_TR_ID,
    }
    parameters = {"FID_COND_MRKT_DIV_CODE": "J", "FID_INPUT_ISCD": "005930"}
    return str(requests.get(url + PRICE_PATH, parameters, headers=headers, timeout=5).json()["msg_cd"])


@pytest.mark.usefixtures("child_processes")
def test_time_can_come_from_another_clock() -> None:
    """With a given clock, the emulated time and the tokens' times follow that clock, plus the advance."""

    class Stopped:
        def now(self) -> datetime:
            return datetime(2030, 1, 2, 3, 4, 5, tzinfo=timezone.utc)

    with KISEmulator(production=REAL, clock=Stopped()) as kis:
        kis.advance(60)
        answer = ask_token(kis.production_url, REAL).json()

    assert kis.now() == Stopped().now() + timedelta(minutes=1)
    assert answer["access_token_token_expired"] == "2030-01-03 12:05:05"


def test_accounts_are_made_up_where_none_are_given() -> None:
    """By default each environment has one account, which the other environment does not know."""
    kis = KISEmulator()
    assert [len(accounts) for accounts in kis.accounts.values()] == [1, 1]
    assert kis.accounts["production"] != kis.accounts["paper"]


def test_an_app_key_has_one_owner() -> None:
    """Two accounts with the same app key, even in different environments, are a ValueError."""
    with pytest.raises(ValueError, match="app key"):
        KISEmulator(production=REAL, paper=REAL)


def test_real_and_paper_have_separate_keys_and_tokens(kis: KISEmulator) -> None:
    """The keys of one environment get EGW00103 in the other, and its tokens get EGW00121."""
    assert ask_token(kis.production_url, PAPER).json()["error_code"] == "EGW00103"
    assert ask_token(kis.paper_url, REAL).json()["error_code"] == "EGW00103"
    token = token_of(kis.paper_url, PAPER)
    assert code_of_call(kis.paper_url, PAPER, token) == "MCA00000"
    assert code_of_call(kis.production_url, PAPER, token) == "EGW00121"


def test_paper_answers_fewer_calls_in_a_second(kis: KISEmulator) -> None:
    """By default 20 calls a second are answered for a real account, and 2 for a paper account."""
    assert kis.settings("production").calls_per_second == 20
    assert kis.settings("paper").calls_per_second == 2


def test_of_200_concurrent_calls_one_is_accepted(kis: KISEmulator) -> None:
    """One of 200 concurrent tokenP calls gets the token, and all other calls get EGW00133."""
    kis.configure(lockout_after=0)
    gate = threading.Barrier(200)

    def call() -> str:
        gate.wait(10)
        return str(ask_token(kis.production_url, REAL).json().get("error_code", "token"))

    with ThreadPoolExecutor(200) as pool:
        answers = [each.result() for each in [pool.submit(call) for _ in range(200)]]
    assert sorted(answers) == ["EGW00133"] * 199 + ["token"]
    assert kis.counts("production") == Counts(calls=200, accepted=1, issues=1)


def test_clock_can_be_set_forward(kis: KISEmulator) -> None:
    """After an advance all rules use the later time, and a new token is issued without waiting."""
    before = kis.now()
    first = token_of(kis.production_url, REAL)
    kis.advance(7 * 3600)
    assert timedelta(hours=7) <= kis.now() - before < timedelta(hours=7, minutes=1)
    assert token_of(kis.production_url, REAL) != first
    kis.advance(18 * 3600)
    assert code_of_call(kis.production_url, REAL, first) == "EGW00123"


@pytest.mark.parametrize("seconds", [-1, float("nan"), float("inf"), 1e300, 9e11])
def test_clock_goes_only_forward_and_within_the_calendar(kis: KISEmulator, seconds: float) -> None:
    """An advance backwards, or beyond the calendar's last year, is a ValueError and does not change the clock."""
    with pytest.raises(ValueError, match=r"forward|calendar"):
        kis.advance(seconds)
    assert kis.now() - datetime.now(timezone.utc) < timedelta(minutes=1)


def test_settings_of_one_environment_or_of_both(kis: KISEmulator) -> None:
    """A change of settings affects only the named settings in the named environments."""
    kis.configure("paper", expires_in=7776000)
    assert kis.settings("paper").expires_in == 7776000
    assert kis.settings("production").expires_in == 86400
    kis.configure(reissue_kills_previous=True)
    assert kis.settings("production").reissue_kills_previous
    assert kis.settings("paper").reissue_kills_previous
    assert kis.settings("paper").calls_per_second == 2


@pytest.mark.parametrize("changes", [{"speed": 1}, {"self": 1}, {"expires_in": "86400"}])
def test_settings_that_do_not_exist_change_nothing(kis: KISEmulator, changes: dict[str, object]) -> None:
    """An unknown setting or an invalid value is a ValueError, and valid settings in the same call are not applied."""
    before = kis.settings("production")
    with pytest.raises(ValueError, match=next(iter(changes))):
        kis.configure("production", lockout_after=5, **changes)
    assert kis.settings("production") == before


def test_one_token_can_be_ended(kis: KISEmulator) -> None:
    """A killed token gets EGW00121, an expired one EGW00123; tokens of other accounts stay valid."""
    real, other = token_of(kis.production_url, REAL), token_of(kis.production_url, OTHER)
    kis.expire_token(real)
    assert code_of_call(kis.production_url, REAL, real) == "EGW00123"
    kis.kill_token(real)
    assert code_of_call(kis.production_url, REAL, real) == "EGW00121"
    assert code_of_call(kis.production_url, OTHER, other) == "MCA00000"


def test_all_tokens_of_an_app_key_can_be_ended(kis: KISEmulator) -> None:
    """All earlier tokens of the app key are rejected; its next token and the tokens of other app keys are accepted."""
    first, other = token_of(kis.production_url, REAL), token_of(kis.production_url, OTHER)
    kis.advance(7 * 3600)
    second = token_of(kis.production_url, REAL)
    kis.expire_tokens(REAL.app_key)
    assert {code_of_call(kis.production_url, REAL, token) for token in (first, second)} == {"EGW00123"}
    kis.kill_tokens(REAL.app_key)
    assert {code_of_call(kis.production_url, REAL, token) for token in (first, second)} == {"EGW00121"}
    kis.advance(7 * 3600)
    assert code_of_call(kis.production_url, REAL, token_of(kis.production_url, REAL)) == "MCA00000"
    assert code_of_call(kis.production_url, OTHER, other) == "MCA00000"


def test_only_issued_tokens_can_be_ended(kis: KISEmulator) -> None:
    """A token or app key that the emulator does not know is a ValueError, whose text does not contain the value."""
    for end in (kis.kill_token, kis.kill_tokens, kis.expire_token, kis.expire_tokens):
        with pytest.raises(ValueError, match="no ") as error:
            end("unknown-value")
        assert "unknown-value" not in str(error.value)


def test_lost_answer_still_issues(kis: KISEmulator) -> None:
    """If a fault loses only the answer, the token is issued, and the next call within a minute gets EGW00133."""
    kis.production.add_fault(Fault("reset", TOKEN_PATH, after=True))
    with pytest.raises(requests.ConnectionError):
        ask_token(kis.production_url, REAL)
    assert ask_token(kis.production_url, REAL).json()["error_code"] == "EGW00133"
    assert kis.counts("production") == Counts(calls=2, accepted=1, issues=1)


def test_fault_before_the_work_leaves_no_trace(kis: KISEmulator) -> None:
    """If a fault replaces the work, no token is issued: the call is recorded, and the next call is accepted."""
    kis.production.add_fault(Fault("answer", TOKEN_PATH, response=html_response(200)))
    assert "<html>" in ask_token(kis.production_url, REAL).text
    assert kis.counts("production") == Counts(calls=1, accepted=0, issues=0)
    assert ask_token(kis.production_url, REAL).status_code == 200


def test_calls_can_be_refused_with_any_code(kis: KISEmulator) -> None:
    """The next calls of one address in one environment get KIS's error; later calls are answered normally."""
    kis.refuse("EGW00201", PRICE_PATH, times=2, status=200)
    kis.refuse("EGW00105", TOKEN_PATH, environment="paper")

    token = token_of(kis.production_url, REAL)

    assert [code_of_call(kis.production_url, REAL, token) for _ in range(3)] == ["EGW00201", "EGW00201", "MCA00000"]
    assert ask_token(kis.paper_url, PAPER).json()["error_code"] == "EGW00105"
    assert [seen.status for seen in kis.requests] == [200, 200, 200, 200, 403]


def test_requests_are_recorded_without_secrets(kis: KISEmulator) -> None:
    """The record has each request with its status, code and emulated time.

    Without an answer, status and code are None.
    """
    kis.advance(3600)
    before = kis.now()
    token_of(kis.paper_url, PAPER)
    ask_token(kis.paper_url, PAPER)
    kis.production.add_fault(Fault("answer", TOKEN_PATH, response=error_response("EGW00105", TOKEN_PATH)))
    kis.production.add_fault(Fault("stall", TOKEN_PATH, seconds=0))
    ask_token(kis.production_url, REAL)
    with pytest.raises(requests.ConnectionError):
        ask_token(kis.production_url, REAL)
    assert [(seen.environment, seen.method, seen.path, seen.status, seen.code) for seen in kis.requests] == [
        ("paper", "POST", TOKEN_PATH, 200, None),
        ("paper", "POST", TOKEN_PATH, 403, "EGW00133"),
        ("production", "POST", TOKEN_PATH, 403, "EGW00105"),
        ("production", "POST", TOKEN_PATH, None, None),
    ]
    times = [before, *(seen.at for seen in kis.requests), kis.now()]
    assert times == sorted(times)


def test_state_and_addresses_outlive_a_stop(kis: KISEmulator) -> None:
    """A stopped emulator refuses connections; a restart keeps its state and addresses."""
    addresses = (kis.production_url, kis.paper_url, kis.control_url)
    token = token_of(kis.production_url, REAL)
    kis.stop()
    with pytest.raises(requests.ConnectionError):
        ask_token(kis.production_url, REAL)
    kis.start()
    assert (kis.production_url, kis.paper_url, kis.control_url) == addresses
    assert code_of_call(kis.production_url, REAL, token) == "MCA00000"


@pytest.mark.usefixtures("child_processes")
def test_environments_can_be_served_over_https(tmp_path: Path) -> None:
    """With a TLS context both environments have https addresses that a client can verify; the control keeps http."""
    certificate, context = make_certificate(tmp_path)
    with KISEmulator(production=REAL, paper=PAPER, tls=context) as kis:
        assert kis.production_url.startswith("https://")
        assert kis.paper_url.startswith("https://")
        assert kis.control_url.startswith("http://")
        answer = requests.get(kis.production_url + PRICE_PATH, verify=certificate, timeout=5)
        assert answer.json()["msg_cd"] == "EGW00122"
        with pytest.raises(requests.exceptions.SSLError):
            requests.get(kis.paper_url, timeout=5)
