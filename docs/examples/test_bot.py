"""Tests of quote.py, which calls KIS. The tests need no account: ``pip install 'kis-token[sandbox]' pytest``.

The fixture ``kis_sandbox`` comes with the package; docs/sandbox.md describes it.
"""

import subprocess

import pytest
from quote import price_of

from kis_token.sandbox import PRICE_PATH, Sandbox


@pytest.fixture(autouse=True)
def _token(kis_sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    """Set the variables that the action would set for the program."""
    done = subprocess.run(["kis-token", "get"], check=True, capture_output=True, text=True)
    account = kis_sandbox.kis.accounts["production"][0]
    monkeypatch.setenv("KIS_ACCESS_TOKEN", done.stdout.strip())
    monkeypatch.setenv("KIS_APP_KEY", account.app_key)
    monkeypatch.setenv("KIS_APP_SECRET", account.app_secret)


def test_price() -> None:
    """The program finds the price."""
    assert price_of("005930") == "71500"


def test_refusal(kis_sandbox: Sandbox) -> None:
    """If KIS refuses a call, the program reports KIS's error code, even if the HTTP status is 200."""
    kis_sandbox.kis.refuse("EGW00201", PRICE_PATH, status=200)

    with pytest.raises(RuntimeError, match="EGW00201"):
        price_of("005930")
