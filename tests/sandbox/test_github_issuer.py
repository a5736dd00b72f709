"""The emulated issuer: discovery, keys, and the address at which a job asks for its ID token."""

from __future__ import annotations

import base64
import json
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicNumbers
from cryptography.hazmat.primitives.hashes import SHA256

from kis_token.sandbox.github_issuer import GITHUB, GitHubIssuer, SigningKey
from kis_token.sandbox.loopback import Fault
from kis_token.settings.pasted_values import parse_claims
from kis_token.store.slot_query import key_headers

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kis_token.sandbox import Sandbox

AUDIENCE = "https://abcdefghijklmnopqrst.supabase.co"


@pytest.fixture
def issuer(github: GitHubIssuer) -> Iterator[GitHubIssuer]:
    """An issuer that listens on a port, and that signs with the key that all tests share."""
    with GitHubIssuer() as issuer:
        issuer.publish(github.keys[-1])
        yield issuer


def get(url: str, **headers: str) -> httpx.Response:
    """One GET."""
    return httpx.get(url, headers=headers, trust_env=False, timeout=20)


def ask(variables: dict[str, str], audience: str | None = AUDIENCE) -> httpx.Response:
    """Ask for an ID token as a job does."""
    query = "" if audience is None else f"&audience={audience}"
    bearer = f"bearer {variables['ACTIONS_ID_TOKEN_REQUEST_TOKEN']}"
    return get(variables["ACTIONS_ID_TOKEN_REQUEST_URL"] + query, Authorization=bearer)


def number(text: str) -> int:
    """The number that a JWKS writes as ``text``."""
    return int.from_bytes(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)), "big")


def verify(token: str, keys: dict[str, Any]) -> None:
    """Check a token's signature by a JWKS. Raises InvalidSignature."""
    signed, _, signature = token.rpartition(".")
    head = json.loads(base64.urlsafe_b64decode(signed.partition(".")[0] + "=="))
    (jwk,) = (each for each in keys["keys"] if each["kid"] == head["kid"])
    public = RSAPublicNumbers(number(jwk["e"]), number(jwk["n"])).public_key()
    public.verify(base64.urlsafe_b64decode(signature + "=="), signed.encode(), PKCS1v15(), SHA256())


def test_job_gets_a_token_that_the_published_keys_verify(issuer: GitHubIssuer) -> None:
    """A job asks with its request token and an audience. The answer's token is signed with a key of the JWKS."""
    variables = issuer.variables(run_id="42", environment="production")
    token = ask(variables).json()["value"]
    discovery = get(f"{issuer.url}/.well-known/openid-configuration").json()
    keys = get(f"{issuer.url}/.well-known/jwks").json()

    verify(token, keys)
    with pytest.raises(InvalidSignature):
        verify(token[:-8] + "AAAAAAAA", keys)
    claims = parse_claims(token)
    assert (discovery["issuer"], claims["iss"], claims["aud"]) == (GITHUB, GITHUB, AUDIENCE)
    assert discovery["jwks_uri"] == f"{GITHUB}/.well-known/jwks"
    assert (claims["run_id"], claims["environment"], claims["repository_id"]) == ("42", "production", "74")
    assert parse_claims(ask(variables).json()["value"])["jti"] != claims["jti"]


def test_job_that_names_no_audience(issuer: GitHubIssuer) -> None:
    """Without an audience the token is for GitHub's default one: the URL of the repository's owner."""
    assert parse_claims(ask(issuer.variables(), None).json()["value"])["aud"] == "https://github.com/acme"


def test_requests_that_get_no_token(issuer: GitHubIssuer) -> None:
    """A wrong request token is refused with 401.

    A request to an unknown path gets 404, and a request with a wrong method gets 405.
    """
    variables = issuer.variables() | {"ACTIONS_ID_TOKEN_REQUEST_TOKEN": "another job's"}
    assert ask(variables).status_code == 401
    assert get(variables["ACTIONS_ID_TOKEN_REQUEST_URL"]).status_code == 401
    assert get(f"{issuer.url}/elsewhere").status_code == 404
    assert httpx.post(issuer.url, trust_env=False).status_code == 405


def test_endpoint_that_fails(issuer: GitHubIssuer) -> None:
    """The endpoint fails once if a fault is added, and refuses connections while it is stopped."""
    variables = issuer.variables()
    issuer.server.add_fault(Fault("answer", "/126"))
    assert [ask(variables).status_code for _ in range(2)] == [500, 200]
    issuer.stop()
    with pytest.raises(httpx.ConnectError):
        ask(variables)
    issuer.start()
    assert ask(variables).status_code == 200


def test_new_key(issuer: GitHubIssuer) -> None:
    """After a new key is published, it signs, and the earlier key stays published."""
    before = issuer.id_token(AUDIENCE)
    issuer.publish(SigningKey.make("next"))
    for token in (before, issuer.id_token(AUDIENCE)):
        verify(token, issuer.jwks())
    assert [key["kid"] for key in issuer.jwks()["keys"]][-1] == "next"
    assert "private" not in repr(issuer.keys)


def test_claims_that_are_left_out(issuer: GitHubIssuer) -> None:
    """A claim that is None is left out of the token. The claims of the issuer's job are in all its tokens."""
    other = GitHubIssuer(job={"ref": "refs/tags/v1", "environment": "production"}, now=lambda: 1_800_000_000.5)
    claims = other.claims(AUDIENCE, environment=None)
    assert "environment" not in claims
    assert (claims["ref_type"], claims["iat"], claims["exp"]) == ("tag", 1_800_000_000, 1_800_000_300)
    assert "environment" not in issuer.claims(AUDIENCE)


def test_sandbox_trusts_the_issuer(sandbox: Sandbox) -> None:
    """In a sandbox, a job of the emulated issuer can read its slot with the public key as soon as the job is listed."""
    variables = sandbox.github.variables()
    token = ask(variables, sandbox.supabase.url).json()["value"]

    def read() -> httpx.Response:
        url = f"{sandbox.supabase.url}/rest/v1/rpc/keyless_read"
        body = {"service": "kis", "id_token": token}
        return httpx.post(url, json=body, headers=key_headers(sandbox.anon_key), trust_env=False)

    assert read().json()["code"] == "KTA01"
    sandbox.trust(access="keys")
    assert {row["credential_type"] for row in read().json()["rows"]} == {"app_key", "app_secret"}
    assert sandbox.github is sandbox.github
