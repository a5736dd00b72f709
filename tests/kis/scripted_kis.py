"""A KIS that gives the same answer to every request, and functions that return the error of a failed issue."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

from kis_token.errors import IssuerError, IssuerOutage
from kis_token.kis.api import KISIssuer
from kis_token.sandbox.loopback import LoopbackServer, Request, Response
from tests.support import APP_KEY, utc_now

if TYPE_CHECKING:
    from kis_token.token import AppKey


OPAQUE = "opaque.token-of-a-test_0123456789"
DAY = timedelta(days=1)


class ScriptedKIS(LoopbackServer):
    """A KIS that gives the same answer to every request, records the requests, and does not show them in its repr."""

    def __init__(self, answer: Response) -> None:
        super().__init__(self.answer_all)
        self.response = answer
        self.asked: list[Request] = []

    def answer_all(self, request: Request) -> Response:
        """Record the request and return the answer."""
        self.asked.append(request)
        return self.response


def failure(url: str, app_key: AppKey = APP_KEY) -> IssuerError:
    """Issue a token, and return the error. Asserts that the error shows neither key nor secret."""
    with pytest.raises(IssuerError) as caught:
        KISIssuer(url, "production").issue(app_key, utc_now())
    shown = f"{caught.value!r} {caught.value}"
    secrets = [secret for secret in (app_key.key, app_key.secret, OPAQUE) if secret]
    assert not any(secret in shown for secret in secrets), "a secret is shown"
    return caught.value


def outage(url: str) -> IssuerOutage:
    """Issue a token, and return the outage."""
    error = failure(url)
    assert isinstance(error, IssuerOutage)
    return error
