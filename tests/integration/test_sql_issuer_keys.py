"""Keys of ID token issuers: keys that can be stored, and ID tokens whose key is not stored."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from kis_token.sandbox.database import store_issuer_keys
from kis_token.sandbox.github_issuer import GitHubIssuer, SigningKey
from tests.keyless import claims_of, refusal
from tests.support import call

if TYPE_CHECKING:
    from tests.support import Database


def test_key_that_is_not_stored(database: Database, github: GitHubIssuer) -> None:
    """An unknown key of a known issuer raises KTA07, and an unknown issuer raises KTA01.

    The hint of both errors names the command ``kis-token trust``, which stores keys.
    """
    token = github.id_token("https://example.supabase.co")
    stranger = refusal(claims_of, database, token)
    assert (stranger.code, "kis-token trust" in stranger.hint) == ("KTA01", True)

    store_issuer_keys(database.owner, github)
    header = {"alg": "RS256", "typ": "JWT"}
    new = SigningKey.make("a-new-key")
    claims = github.claims("https://example.supabase.co")
    found = refusal(claims_of, database, new.sign(header | {"kid": new.kid}, claims))
    assert (found.code, found.detail) == ("KTA07", "kid: a-new-key")
    assert "kis-token trust --keys" in found.hint
    for kid in (None, 1, [], "", "it's", "x" * 101, github.keys[-1].kid.upper(), [github.keys[-1].kid]):
        found = refusal(claims_of, database, new.sign(header | {"kid": kid}, claims))
        assert found.code == "KTA07"
        assert re.fullmatch(r"(kid: [A-Za-z0-9._-]{1,100})?", found.detail), kid
    assert refusal(claims_of, database, new.sign(header, claims)).code == "KTA07"


def test_nothing_of_an_unsigned_token_is_shown(database: Database, github: GitHubIssuer) -> None:
    """Before the signature of an ID token is verified, no error quotes a claim or a malformed kid."""
    store_issuer_keys(database.owner, github)
    mark = "q7x9w2mark"
    for key, kid in (
        (SigningKey.make(github.keys[-1].kid), github.keys[-1].kid),
        (SigningKey.make(), f"{mark} {mark}"),
    ):
        claims = github.claims(mark, **dict.fromkeys(("repository", "ref", "repository_id", "jti"), mark))
        for changed in (claims, claims | {"iss": mark}):
            found = refusal(claims_of, database, key.sign({"alg": "RS256", "kid": kid}, changed))
            assert mark not in "".join(map(str, found)), found


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("modulus", b"\xff" * 255),
        ("modulus", b"\xff" * 513),
        ("modulus", b"\x7f" + b"\xff" * 255),
        ("modulus", b"\xff" * 255 + b"\xfe"),
        ("modulus", b""),
        ("kid", ""),
        ("kid", "a b"),
        ("issuer", "https://token.actions.githubusercontent.com.evil.example"),
        ("issuer", "https://token.actions.githubusercontent.com/"),
        ("issuer", "http://token.actions.githubusercontent.com"),
        ("issuer", "https://evil.example"),
        ("issuer", "http://127.0.0.1.evil.example"),
        ("issuer", "https://token-actions.githubusercontent.com"),
    ],
)
def test_keys_that_cannot_be_stored(database: Database, column: str, value: object) -> None:
    """A key with an even modulus, with less than 2048 or more than 4096 bits, or of a foreign issuer is not stored."""
    row = {"issuer": "https://token.actions.githubusercontent.com", "kid": "k", "modulus": b"\xff" * 256} | {
        column: value
    }
    found = refusal(
        database.owner.execute,
        "insert into public.credential_issuer_keys (issuer, kid, modulus) values (%(issuer)s, %(kid)s, %(modulus)s)",
        row,
    )
    assert found.code == "23514"


def test_owner_calls_no_function_of_the_signature_over_the_api(database: Database) -> None:
    """No key of Supabase can call the internal functions that check an ID token."""
    with database.connect_as("anon") as connection:
        assert refusal(call, connection, "issuance_id_token_claims", id_token="x.y.z").code == "42501"
    assert refusal(call, database.service, "issuance_id_token_claims", id_token="x.y.z").code == "42501"
