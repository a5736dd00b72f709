"""An external PostgreSQL and PostgREST, which the tests use instead of starting their own.

``KIS_TESTS_DSN`` is a superuser's connection string, with the password, of a database in a PostgreSQL that is used only
for the tests. The superuser must not be called postgres, because postgres is the owner's name, as on Supabase.
``KIS_TESTS_POSTGREST_URL`` is the address of a PostgREST on that database, and ``KIS_TESTS_JWT_SECRET`` is PostgREST's
secret. PostgREST logs in as authenticator with the superuser's password. The tests create the role authenticator. Until
the role exists, PostgREST ends at its start, and must be restarted. CONTRIBUTING.md shows how.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import os
import time
from typing import TYPE_CHECKING

import httpx

from kis_token.sandbox.loopback import Request, Response
from kis_token.sandbox.postgres import EmbeddedPostgres
from kis_token.sandbox.postgrest import PostgRESTStandIn

if TYPE_CHECKING:
    from collections.abc import Mapping

DSN = os.environ.get("KIS_TESTS_DSN")
POSTGREST_URL = os.environ.get("KIS_TESTS_POSTGREST_URL")
JWT_SECRET = os.environ.get("KIS_TESTS_JWT_SECRET", "")

#: The longest wait for PostgREST, in seconds. Docker restarts an ended container after at most a minute.
LONGEST_START = 90

#: The request headers for PostgREST, besides the key.
_FORWARDED = ("Accept", "Accept-Profile", "Content-Profile", "Content-Type", "Prefer", "Range")


class ExternalPostgres(EmbeddedPostgres):
    """A PostgreSQL that runs already. The tests do not start or stop this PostgreSQL."""

    def __init__(self, dsn: str) -> None:
        super().__init__()
        self._dsn = dsn

    def start(self) -> None:
        """Do nothing, because the external PostgreSQL runs already."""

    def stop(self) -> None:
        """Do nothing, because the external PostgreSQL keeps running."""


class Gateway(PostgRESTStandIn):
    """A gateway like that of Supabase.

    The gateway checks the key of a request, and forwards the request with a token of the key's role.

    The gateway takes the place of `PostgRESTStandIn` in the tests, with its log and its faults. The answers to requests
    come from PostgREST.
    """

    def __init__(self, url: str, jwt_secret: str, *, service_key: str, anon_key: str) -> None:
        super().__init__("", service_key=service_key, anon_key=anon_key)
        self._secret = jwt_secret
        self._postgrest = httpx.Client(base_url=url, timeout=20, trust_env=False)

    def wait(self) -> None:
        """Return when PostgREST has loaded the last migration. Raises TimeoutError."""
        deadline = time.monotonic() + LONGEST_START
        while time.monotonic() < deadline:
            try:
                if self._postgrest.post(
                    "/rpc/check_setup", json={}, headers=self._token({"role": "service_role"})
                ).is_success:
                    return
            except httpx.TransportError:
                pass
            time.sleep(0.2)
        raise TimeoutError("PostgREST does not serve the migrated database")

    def __exit__(self, *_: object) -> None:
        super().__exit__()
        self._postgrest.close()

    def _answer(self, request: Request) -> Response:
        sent = {name: request.headers[name] for name in _FORWARDED if name in request.headers}
        answer = self._postgrest.request(
            request.method,
            request.path.removeprefix("/rest/v1"),
            params=request.query,
            content=request.body,
            headers={**sent, **self._token(self._claims(request))},
        )
        kept = {"Content-Type": answer.headers["Content-Type"]} if "Content-Type" in answer.headers else {}
        return Response(answer.status_code, answer.content, kept)

    def _token(self, claims: Mapping[str, object]) -> dict[str, str]:
        token = sign(claims, self._secret)
        return {"apikey": token, "Authorization": f"Bearer {token}"}


def sign(claims: Mapping[str, object], secret: str) -> str:
    """Return a JWT that PostgREST accepts."""
    head = _encoded(json.dumps({"alg": "HS256", "typ": "JWT"}).encode())
    body = f"{head}.{_encoded(json.dumps(claims).encode())}"
    return f"{body}.{_encoded(hmac.digest(secret.encode(), body.encode(), hashlib.sha256))}"


def _encoded(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
