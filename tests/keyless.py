"""A GitHub job that has the public key and an ID token, and the errors that the keyless functions raise."""

from __future__ import annotations

import hashlib
import uuid
from typing import TYPE_CHECKING, Any, NamedTuple

import psycopg

from kis_token.sandbox.database import list_caller, store_issuer_keys
from tests.support import APP_KEY, MINUTE, call

if TYPE_CHECKING:
    from collections.abc import Callable

    from kis_token.sandbox.github_issuer import GitHubIssuer
    from kis_token.token import Token
    from tests.support import Database

#: The URL of the Supabase project, which is the audience of the ID tokens.
PROJECT = "https://abcdefghijklmnopqrst.supabase.co"


class Refusal(NamedTuple):
    """An error of the database, as a client sees it."""

    code: str | None
    message: str
    detail: str
    hint: str


def refusal(attempt: Callable[..., object], *arguments: object, **named: object) -> Refusal:
    """Return the error that a call raises. If the call raises no error, the test fails."""
    try:
        answer = attempt(*arguments, **named)
    except psycopg.Error as error:
        diag = error.diag
        return Refusal(error.sqlstate, diag.message_primary or "", diag.message_detail or "", diag.message_hint or "")
    raise AssertionError(f"the call succeeded: {answer}")


def trust(database: Database, issuer: GitHubIssuer, /, **columns: object) -> None:
    """Store the issuer's keys, and list its usual job. ``columns`` replace values of the usual row."""
    store_issuer_keys(database.owner, issuer)
    list_caller(database.owner, issuer, PROJECT, **columns)


def claims_of(database: Database, token: object) -> Any:  # noqa: ANN401 - whatever the function answers
    """Return the claims that the database reads from an ID token.

    Raises psycopg.Error if the database refuses the ID token.
    """
    rows = database.owner.execute("select public.issuance_id_token_claims(%s) as answer", (token,)).fetchall()
    return rows[0]["answer"]


class Job:
    """A job of GitHub Actions. ``claims`` are the claims by which the job differs from the issuer's usual job.

    Each call uses a new ID token, or the argument ``id_token`` if it is given.
    """

    def __init__(self, connection: psycopg.Connection[tuple[Any, ...]], issuer: GitHubIssuer, **claims: object) -> None:
        self.holder = str(uuid.uuid4())
        self.fence = 0
        self._connection = connection
        self._issuer = issuer
        self.claims = claims

    def token(self, audience: object = PROJECT, **changes: object) -> str:
        """A new ID token of the job."""
        return self._issuer.id_token(audience, **self.claims | changes)

    def read(self, id_token: str | None = None, *, service: str = "kis") -> dict[str, Any]:
        """Return the answer of keyless_read."""
        return self._call("keyless_read", id_token, service=service)

    def types(self, id_token: str | None = None) -> set[str]:
        """Return the types of the rows that the job may read."""
        return {row["credential_type"] for row in self.read(id_token)["rows"]}

    def begin(self, id_token: str | None = None, **changes: object) -> dict[str, Any]:
        """Ask for the lease, and keep its fence."""
        arguments: dict[str, object] = {
            "service": "kis",
            "holder": self.holder,
            "app_key_id": APP_KEY.key_id,
            "credential_id": APP_KEY.credential_id,
            "min_remaining": 10 * MINUTE,
        }
        answer = self._call("keyless_begin", id_token, **arguments | changes)
        self.fence = answer["fence"] or self.fence
        return answer

    def commit(self, token: Token, id_token: str | None = None, **changes: object) -> dict[str, Any]:
        """Store a token and give the lease back."""
        arguments: dict[str, object] = {
            "service": "kis",
            "holder": self.holder,
            "fence": self.fence,
            "value": token.to_json(),
            "expires_at": token.expires_at,
            "issued_at": token.issued_at,
            "token_id": token.token_id,
        }
        return self._call("keyless_commit", id_token, **arguments | changes)

    def abort(self, id_token: str | None = None, **changes: object) -> dict[str, Any]:
        """Give the lease back without a token."""
        arguments: dict[str, object] = {
            "service": "kis",
            "holder": self.holder,
            "fence": self.fence,
            "cooldown": MINUTE,
            "error_code": "EGW00133",
        }
        return self._call("keyless_abort", id_token, **arguments | changes)

    def _call(self, function: str, id_token: str | None, **arguments: object) -> dict[str, Any]:
        token = self.token() if id_token is None else id_token
        answer: dict[str, Any] = call(self._connection, function, **arguments, id_token=token)
        return answer


def sign_block(private: Any, block: bytes) -> bytes:  # noqa: ANN401 - cryptography's key, which few tests load
    """Sign ``block`` by RSA without padding, and return the signature."""
    numbers = private.private_numbers()
    signature: int = pow(int.from_bytes(block, "big"), numbers.d, numbers.public_numbers.n)
    return signature.to_bytes(len(block), "big")


def block_of(message: bytes, size: int) -> bytes:
    """The only block that RFC 8017, section 9.2, allows for SHA-256 and a modulus of ``size`` bytes."""
    info = bytes.fromhex("3031300d060960864801650304020105000420") + hashlib.sha256(message).digest()
    return b"\0\1" + b"\xff" * (size - len(info) - 3) + b"\0" + info
