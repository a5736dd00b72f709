"""KIS's wire form of the other calls: to verify a token, to revoke one, and to greet the host."""

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
    from tests.kis.odd_kis import OddKIS

pytestmark = pytest.mark.usefixtures("plain_network")


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
