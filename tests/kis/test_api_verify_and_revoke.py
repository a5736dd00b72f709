"""The other calls to KIS: verify a token, revoke a token, and check that the host is reachable."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from kis_token.errors import IssuerError, IssuerOutage, IssuerRefused
from kis_token.kis.api import KISIssuer
from kis_token.sandbox.kis_http import PRICE_PATH, error_response, html_response
from kis_token.sandbox.loopback import Response
from tests.support import APP_KEY, make_token, utc_now

if TYPE_CHECKING:
    from kis_token.sandbox.emulator import KISEmulator
    from tests.kis.scripted_kis import ScriptedKIS

pytestmark = pytest.mark.usefixtures("plain_network")


def test_good_token_is_verified(kis: KISEmulator) -> None:
    """`verify` returns None for a token that KIS accepts on a quotation."""
    issuer = KISIssuer(kis.production_url, "production")
    token = issuer.issue(APP_KEY, utc_now())
    assert issuer.verify(token, APP_KEY) is None


@pytest.mark.parametrize("status", [200, 500])
def test_rejected_token_is_reported_by_its_code(kis: KISEmulator, status: int) -> None:
    """`verify` returns KIS's code for a revoked and for an expired token, at any HTTP status."""
    kis.configure(expired_status=status)
    issuer = KISIssuer(kis.production_url, "production")
    token = issuer.issue(APP_KEY, utc_now())
    kis.expire_token(token.value)
    assert issuer.verify(token, APP_KEY) == "EGW00123"
    kis.kill_token(token.value)
    assert issuer.verify(token, APP_KEY) == "EGW00121"


@pytest.mark.parametrize("response", [error_response("EGW00201", PRICE_PATH), html_response(503), Response(200, {})])
def test_quotation_that_failed_does_not_reject_the_token(scripted: ScriptedKIS, response: Response) -> None:
    """If `verify` gets a rate limit, a page or nonsense, that is an outage, because the token may be valid."""
    scripted.response = response
    with pytest.raises(IssuerOutage):
        KISIssuer(scripted.url, "production").verify(make_token(), APP_KEY)


def test_repr_of_an_issuer_shows_where_and_nothing_else() -> None:
    """The repr of an issuer shows only its host and environment."""
    assert repr(KISIssuer("https://kis.example.com", "paper")) == (
        "KISIssuer(base_url='https://kis.example.com', environment='paper')"
    )


def test_token_is_revoked(kis: KISEmulator) -> None:
    """`revoke` revokes a token. For a token that KIS does not know, `revoke` returns False and raises no error."""
    issuer = KISIssuer(kis.production_url, "production")
    token = issuer.issue(APP_KEY, utc_now())

    assert issuer.revoke(token, APP_KEY) is True
    assert issuer.verify(token, APP_KEY) == "EGW00121"
    assert issuer.revoke(make_token(), APP_KEY) is False


def test_revocation_has_kis_s_form(scripted: ScriptedKIS) -> None:
    """The request is a POST of JSON with key, secret and token. The code of success may be a number or a text."""
    for code in (200, "200"):
        scripted.response = Response(200, {"code": code, "message": "x"})
        assert KISIssuer(scripted.url, "production").revoke(make_token(), APP_KEY) is True
    request = scripted.asked[0]
    assert (request.method, request.path) == ("POST", "/oauth2/revokeP")
    assert list(request.json()) == ["appkey", "appsecret", "token"]


@pytest.mark.parametrize("status", [200, 403, 500])
@pytest.mark.parametrize(
    ("code", "kind"),
    [("EGW00105", IssuerRefused), ("EGW00103", IssuerRefused), ("EGW00002", IssuerRefused), ("EGW00201", IssuerOutage)],
)
def test_revocation_that_kis_refuses(scripted: ScriptedKIS, code: str, status: int, kind: type[IssuerError]) -> None:
    """If KIS refuses the keys of a revocation, the error is a refusal. Any other code is an outage, not a success."""
    scripted.response = error_response(code, "/oauth2/revokeP", status=status)
    with pytest.raises(kind):
        KISIssuer(scripted.url, "production").revoke(make_token(), APP_KEY)


def test_answer_without_kis_s_success_code_is_no_revocation(scripted: ScriptedKIS) -> None:
    """Only KIS's own code 200 counts as a revocation."""
    for body in ({}, {"code": 500}, {"message": "ok"}):
        scripted.response = Response(200, body)
        with pytest.raises(IssuerOutage):
            KISIssuer(scripted.url, "production").revoke(make_token(), APP_KEY)


def test_greeting_asks_for_nothing(scripted: ScriptedKIS) -> None:
    """A host that gives any answer is reachable. `greet` sends no token and no key."""
    scripted.response = Response(404)
    KISIssuer(scripted.url, "production").greet()

    assert [(seen.method, seen.path, seen.body) for seen in scripted.asked] == [("HEAD", "/", b"")]
    assert not {"authorization", "appkey", "appsecret"} & {name.lower() for name in scripted.asked[0].headers}


def test_greeting_a_host_without_tls(scripted: ScriptedKIS) -> None:
    """A host that does not speak TLS is unreachable."""
    with pytest.raises(IssuerOutage) as caught:
        KISIssuer(scripted.url.replace("http:", "https:"), "production").greet()
    assert caught.value.code == "kis-unreachable"
