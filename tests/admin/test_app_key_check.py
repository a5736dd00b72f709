"""Before app key and secret are stored, their form is checked, and KIS checks them."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest

from kis_token.admin.app_key_check import check_form, verify
from kis_token.config import ENVIRONMENTS
from kis_token.deadline import Deadline
from kis_token.errors import IssuerOutage, IssuerRateLimited, IssuerRefused, SettingsError
from kis_token.sandbox import Account
from kis_token.sandbox.kis_http import APPROVAL_PATH, error_response
from kis_token.sandbox.loopback import Fault, Response
from tests.support import ACCOUNT

if TYPE_CHECKING:
    from kis_token.config import Environment
    from kis_token.sandbox.emulator import KISEmulator

KEY, SECRET = ACCOUNT.app_key, ACCOUNT.app_secret
NAMES = ("plain", "quoted", "with a name", "key alone", "secret alone")


def faults_of(key: str, secret: str, environment: Environment = "production") -> list[tuple[str, str]]:
    """Return code and message of each fault. Assert that no message shows a secret."""
    with pytest.raises(SettingsError) as caught:
        check_form(key, secret, environment=environment)
    assert not any(value in f"{caught.value}" for value in (key, secret) if value), "a secret is shown"
    return [(fault.code, fault.args[0]) for fault in caught.value.faults]


@pytest.mark.parametrize(
    ("key", "secret"),
    [
        (KEY, SECRET),
        (f'"{KEY}"', f"'{SECRET}'"),
        (f" {KEY}\r\n", f"KIS_APP_SECRET={SECRET}"),
        (KEY, ""),
        ("", SECRET),
    ],
    ids=NAMES,
)
def test_right_form_passes(key: str, secret: str) -> None:
    """A key and a secret of the right form pass, alone or together.

    Quotes, blanks and variable names around key and secret are cut off before the check.
    """
    check_form(key, secret, environment="production")


@pytest.mark.parametrize(
    ("key", "secret", "codes"),
    [
        (SECRET, KEY, ["swapped-app-key"]),
        ("", KEY, ["swapped-app-key"]),
        (KEY[:-1], SECRET, ["invalid-app-key"]),
        (KEY, SECRET[:-1], ["invalid-app-secret"]),
        (KEY[:-1], SECRET[:-1], ["invalid-app-key", "invalid-app-secret"]),
        ("*" * 36, SECRET, ["invalid-app-key"]),
        (KEY, "*" * 180, ["invalid-app-secret"]),
        (KEY, SECRET[:90] + " " + SECRET[91:], ["invalid-app-secret"]),
        (KEY[:18] + '"' + KEY[19:], SECRET, ["invalid-app-key"]),
        ("<your app key>", SECRET, ["invalid-app-key"]),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_wrong_form_is_named(key: str, secret: str, codes: list[str]) -> None:
    """A swapped, truncated, masked or broken value raises an error with its code, even if the other value is right."""
    assert [code for code, _ in faults_of(key, secret)] == codes


def test_message_has_the_environment_and_the_length() -> None:
    """The message names the environment of the key, the length of the key, and the length of KIS's app keys."""
    assert faults_of(KEY[:-1], SECRET, "paper") == [
        ("invalid-app-key", "the app key for paper has 35 characters, and KIS's have 36")
    ]


def url_and_account(kis: KISEmulator, environment: Environment) -> tuple[str, Account]:
    """Return KIS's address for an environment, and an account of the environment."""
    url = kis.production_url if environment == "production" else kis.paper_url
    return url, kis.accounts[environment][0]


@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_accepted_keys_cost_one_call_and_no_token(kis: KISEmulator, environment: Environment) -> None:
    """One Approval call at the environment's host accepts the keys. No token is issued and no message is sent."""
    url, account = url_and_account(kis, environment)

    verify(f'"{account.app_key}"', account.app_secret, environment=environment, base_url=url)

    asked = [(seen.environment, seen.method, seen.path) for seen in kis.requests]
    assert asked == [(environment, "POST", APPROVAL_PATH)]
    assert kis.counts(environment).issues == 0


def assert_refused(kis: KISEmulator, environment: Environment, account: Account, code: str) -> None:
    """Check that KIS refuses the keys after one call, and that the error names both environments and no secret."""
    url, _ = url_and_account(kis, environment)
    with pytest.raises(IssuerRefused) as caught:
        verify(account.app_key, account.app_secret, environment=environment, base_url=url)
    shown = f"{caught.value}"
    assert (caught.value.code, "실전" in shown, "모의" in shown) == (code, True, True)
    assert not any(value in shown for value in (account.app_key, account.app_secret)), "a secret is shown"
    assert [seen.path for seen in kis.requests] == [APPROVAL_PATH]


@pytest.mark.parametrize(("environment", "other"), [ENVIRONMENTS, ENVIRONMENTS[::-1]])
def test_refusal_names_real_and_paper(kis: KISEmulator, environment: Environment, other: Environment) -> None:
    """KIS's real environment refuses the keys of a paper account, and the paper environment refuses real keys."""
    assert_refused(kis, environment, kis.accounts[other][0], "kis-key-refused")


def test_wrong_secret_is_refused(kis: KISEmulator) -> None:
    """If the secret belongs to another account, the error has the code kis-secret-refused."""
    assert_refused(kis, "production", Account(KEY), "kis-secret-refused")


@pytest.mark.parametrize(
    "answer",
    [Response(503), Response(200, {}), error_response("EGW00500", APPROVAL_PATH)],
    ids=["503", "empty", "code"],
)
def test_outage_stays_an_outage(kis: KISEmulator, answer: Response) -> None:
    """If KIS's answer does not accept or refuse the keys, the error is an outage."""
    kis.production.add_fault(Fault("answer", APPROVAL_PATH, response=answer))
    with pytest.raises(IssuerOutage):
        verify(KEY, SECRET, environment="production", base_url=kis.production_url)


def test_limit_on_calls_is_no_refusal(kis: KISEmulator) -> None:
    """If KIS reports too many calls, the error is a rate limit, and not a refusal of the keys."""
    kis.production.add_fault(Fault("answer", APPROVAL_PATH, response=error_response("EGW00133", APPROVAL_PATH)))
    with pytest.raises(IssuerRateLimited):
        verify(KEY, SECRET, environment="production", base_url=kis.production_url)


def test_no_call_after_the_deadline(kis: KISEmulator) -> None:
    """If too little time is left, the check fails as an outage, and KIS gets no request."""
    passed = Deadline(time.monotonic, time.monotonic() - 1)
    with pytest.raises(IssuerOutage):
        verify(KEY, SECRET, environment="production", base_url=kis.production_url, deadline=passed)
    assert kis.requests == ()


def test_host_of_the_environment_is_the_default() -> None:
    """If no base URL is given, the call goes to KIS's own host for the environment."""
    passed = Deadline(time.monotonic, time.monotonic() - 1)
    with pytest.raises(IssuerOutage, match=r"openapi\.koreainvestment\.com"):
        verify(KEY, SECRET, environment="production", deadline=passed)
    with pytest.raises(IssuerOutage, match=r"openapivts\.koreainvestment\.com"):
        verify(KEY, SECRET, environment="paper", deadline=passed)
