"""An emulator of GitHub's issuer of ID tokens: keys, ID tokens, and the address at which a job gets an ID token.

An emulated ID token has the same claims as a real ID token, and its ``iss`` is GitHub's real issuer. A database accepts
an emulated ID token only if the emulator's key is stored as a key of GitHub's real issuer. Source: "OpenID Connect
reference" of GitHub's documentation, 2026.
"""

from __future__ import annotations

import base64
import json
import secrets
import threading
import time
import uuid
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from kis_token.sandbox.loopback import LoopbackServer, Request, Response

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Mapping

    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
    from typing_extensions import Self

GITHUB = "https://token.actions.githubusercontent.com"

#: The validity of GitHub's ID tokens in seconds, and the number of seconds from ``nbf`` to ``iat``.
LIFETIME_SECONDS = 300
BEFORE_SECONDS = 300

_DISCOVERY = "/.well-known/openid-configuration"
_KEYS = "/.well-known/jwks"
_TOKEN = "/126/idtoken"  # noqa: S105 - a path


def base64url(data: bytes) -> str:
    """Return ``data`` in base64url without padding. Each part of an ID token has this encoding."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


@dataclass(frozen=True, slots=True)
class SigningKey:
    """An RSA key with the exponent 65537, and its name ``kid``. The repr shows only ``kid``."""

    kid: str
    private: RSAPrivateKey = field(repr=False)

    @classmethod
    def make(cls, kid: str | None = None, *, bits: int = 2048) -> Self:
        """Make a new key. A key of 2048 bits takes a tenth of a second."""
        from cryptography.hazmat.primitives.asymmetric import rsa

        return cls(kid or str(uuid.uuid4()), rsa.generate_private_key(public_exponent=65537, key_size=bits))

    @property
    def modulus(self) -> bytes:
        """The RSA modulus as big-endian bytes, as in the column ``modulus`` of ``credential_issuer_keys``."""
        n = self.private.public_key().public_numbers().n
        return n.to_bytes((n.bit_length() + 7) // 8, "big")

    def jwk(self) -> dict[str, str]:
        """Return the public key as an entry of a JWKS."""
        return {"kty": "RSA", "alg": "RS256", "use": "sig", "kid": self.kid, "n": base64url(self.modulus), "e": "AQAB"}

    def sign(self, header: Mapping[str, Any], claims: Mapping[str, Any]) -> str:
        """Return an ID token with this header and these claims.

        The signature is always RS256, even if the header names another algorithm.
        """
        from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
        from cryptography.hazmat.primitives.hashes import SHA256

        signed = ".".join(base64url(json.dumps(part).encode()) for part in (header, claims))
        return f"{signed}.{base64url(self.private.sign(signed.encode(), PKCS1v15(), SHA256()))}"


class GitHubIssuer:
    """Signs ID tokens and serves them on 127.0.0.1. Use this class in a ``with`` block, or call ``start`` and ``stop``.

    The default job is a scheduled job of the repository acme/bot on the branch main. ``now`` is the clock, in seconds
    since 1970. The issuer makes its key when the key is first used. The attribute ``server`` logs the requests, and
    ``server.add_fault`` adds a fault. If ``tls`` is given, the server uses https. With https, a proxy can redirect
    requests from GitHub's real host to this server, and a client then gets the discovery document and the keys from
    this server.

    Attributes:
        issuer: The claim ``iss``. The default is GitHub's real issuer. A test can set another issuer, such as this
            server's ``url``.
        job: Claims that replace claims of the default job in all ID tokens. The value None removes a claim.
    """

    def __init__(
        self,
        *,
        issuer: str = GITHUB,
        job: Mapping[str, object] | None = None,
        now: Callable[[], float] = time.time,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.server = LoopbackServer(self._answer, tls=tls)
        self.issuer = issuer
        self.job = dict(job or {})
        self._now = now
        self._keys: list[SigningKey] = []
        self._jobs: dict[str, dict[str, object]] = {}
        self._lock = threading.Lock()

    @property
    def url(self) -> str:
        """The base address of the server. Before the first ``start``, the port in the address is 0."""
        return self.server.url

    def start(self) -> None:
        """Listen, unless the server is already listening."""
        self.server.start()

    def stop(self) -> None:
        """Refuse connections until the next ``start``, as in an outage of GitHub."""
        self.server.stop()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def keys(self) -> list[SigningKey]:
        """The published keys. The last key signs."""
        with self._lock:
            if not self._keys:
                self._keys.append(SigningKey.make())
            return list(self._keys)

    def publish(self, key: SigningKey) -> None:
        """Sign with this key from now on. The earlier keys stay published."""
        with self._lock:
            self._keys.append(key)

    def announce(self, key: SigningKey) -> None:
        """Publish this key, but continue to sign with the present key, as GitHub does before it uses a new key."""
        keys = self.keys
        with self._lock:
            self._keys = [key, *keys]

    def jwks(self) -> dict[str, list[dict[str, str]]]:
        """Return the JWKS: the published keys, in the form in which an issuer serves them."""
        return {"keys": [key.jwk() for key in self.keys]}

    def claims(self, audience: object, **changes: object) -> dict[str, object]:
        """Return the claims of a new ID token.

        ``changes`` replace claims of the job. The value None removes a claim.
        """
        now = int(self._now())
        chosen = {"repository": "acme/bot", "ref": "refs/heads/main"} | self.job | changes
        repository, ref = chosen["repository"], chosen["ref"]
        workflow = f"{repository}/.github/workflows/trade.yml@{ref}"
        claims: dict[str, object] = {
            "jti": str(uuid.uuid4()),
            "sub": f"repo:{repository}:ref:{ref}",
            "aud": audience,
            "sha": "1f0d1e2c3b4a59687786a5b4c3d2e1f0a9b8c7d6",
            "repository_owner": str(repository).partition("/")[0],
            "repository_owner_id": "65",
            "repository_id": "74",
            "repository_visibility": "private",
            "run_id": "7000000001",
            "run_number": "10",
            "run_attempt": "1",
            "actor": "octocat",
            "actor_id": "12",
            "workflow": "trade",
            "workflow_ref": workflow,
            "workflow_sha": "1f0d1e2c3b4a59687786a5b4c3d2e1f0a9b8c7d6",
            "job_workflow_ref": workflow,
            "job_workflow_sha": "1f0d1e2c3b4a59687786a5b4c3d2e1f0a9b8c7d6",
            "head_ref": "",
            "base_ref": "",
            "event_name": "schedule",
            "ref_protected": "false",
            "ref_type": "tag" if str(ref).startswith("refs/tags/") else "branch",
            "runner_environment": "github-hosted",
            "iss": self.issuer,
            "nbf": now - BEFORE_SECONDS,
            "exp": now + LIFETIME_SECONDS,
            "iat": now,
        } | chosen
        return {name: value for name, value in claims.items() if value is not None}

    def id_token(self, audience: object, **changes: object) -> str:
        """Return a new ID token. ``changes`` replace claims of the job. The value None removes a claim."""
        return self.sign(self.claims(audience, **changes))

    def sign(self, claims: Mapping[str, object]) -> str:
        """Return an ID token with exactly these claims, and with a header like GitHub's."""
        key = self.keys[-1]
        return key.sign({"alg": "RS256", "typ": "JWT", "kid": key.kid}, claims)

    def variables(self, **changes: object) -> dict[str, str]:
        """Return the variables of a job with the permission ``id-token: write``.

        ``changes`` replace claims of the job.
        """
        request_token = secrets.token_urlsafe(24)
        with self._lock:
            self._jobs[request_token] = changes
        return {
            "ACTIONS_ID_TOKEN_REQUEST_URL": f"{self.url}{_TOKEN}?api-version=2.0",
            "ACTIONS_ID_TOKEN_REQUEST_TOKEN": request_token,
        }

    def _answer(self, request: Request) -> Response:
        if request.method != "GET":
            return Response(405, {"message": "Method not allowed"})
        path = request.path.removeprefix(urlsplit(self.issuer).path)
        if path == _DISCOVERY:
            return Response(200, self._discovery())
        if path == _KEYS:
            return Response(200, self.jwks())
        if request.path == _TOKEN:
            return self._token(request)
        return Response(404, {"message": "Not found"})

    def _discovery(self) -> dict[str, object]:
        return {
            "issuer": self.issuer,
            "jwks_uri": f"{self.issuer}{_KEYS}",
            "subject_types_supported": ["public", "pairwise"],
            "response_types_supported": ["id_token"],
            "id_token_signing_alg_values_supported": ["RS256"],
            "scopes_supported": ["openid"],
        }

    def _token(self, request: Request) -> Response:
        scheme, _, request_token = request.headers.get("Authorization", "").partition(" ")
        with self._lock:
            changes = self._jobs.get(request_token)
        if scheme.lower() != "bearer" or changes is None:
            return Response(401, {"message": "The request token is not valid"})
        audience = dict(request.query).get("audience") or self._default_audience(changes)
        token = self.id_token(audience, **changes)
        return Response(200, {"count": len(token), "value": token})

    def _default_audience(self, changes: Mapping[str, object]) -> str:
        """Return the audience for a request that names no audience: the URL of the repository's owner."""
        owner = self.claims("", **changes)["repository_owner"]
        return f"https://github.com/{owner}"
