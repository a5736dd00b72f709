"""GitHub's issuer of ID tokens, emulated: its keys, its tokens, and the address at which a job asks for one.

A token has the claims of a real one, and the issuer's real name in ``iss``: a database that is to believe it has stored
the emulator's key under that name. Source: "OpenID Connect reference" of GitHub's documentation, 2026.
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

#: Seconds for which GitHub's tokens live, and by which their ``nbf`` lies before ``iat``.
LIFETIME_SECONDS = 300
BEFORE_SECONDS = 300

_DISCOVERY = "/.well-known/openid-configuration"
_KEYS = "/.well-known/jwks"
_TOKEN = "/126/idtoken"  # noqa: S105 - a path


def base64url(data: bytes) -> str:
    """The form that the parts of a token have."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


@dataclass(frozen=True, slots=True)
class SigningKey:
    """An RSA key with exponent 65537 and its name. Its repr shows the name alone."""

    kid: str
    private: RSAPrivateKey = field(repr=False)

    @classmethod
    def make(cls, kid: str | None = None, *, bits: int = 2048) -> Self:
        """A new key; 2048 bits take a tenth of a second."""
        from cryptography.hazmat.primitives.asymmetric import rsa

        return cls(kid or str(uuid.uuid4()), rsa.generate_private_key(public_exponent=65537, key_size=bits))

    @property
    def modulus(self) -> bytes:
        """The number n, the highest byte first: the column ``modulus`` of ``credential_issuer_keys``."""
        n = self.private.public_key().public_numbers().n
        return n.to_bytes((n.bit_length() + 7) // 8, "big")

    def jwk(self) -> dict[str, str]:
        """The public half, as the JWKS has it."""
        return {"kty": "RSA", "alg": "RS256", "use": "sig", "kid": self.kid, "n": base64url(self.modulus), "e": "AQAB"}

    def sign(self, header: Mapping[str, Any], claims: Mapping[str, Any]) -> str:
        """A token with this header and these claims, signed as RS256 whatever its header names."""
        from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
        from cryptography.hazmat.primitives.hashes import SHA256

        signed = ".".join(base64url(json.dumps(part).encode()) for part in (header, claims))
        return f"{signed}.{base64url(self.private.sign(signed.encode(), PKCS1v15(), SHA256()))}"


class GitHubIssuer:
    """Signs ID tokens and serves them on 127.0.0.1. Use as a context manager, or ``start`` and ``stop``.

    ``job`` are claims of all its tokens that differ from those of a scheduled job of acme/bot on main. ``now`` is the
    clock, in seconds since 1970. The key is made when it is first needed. ``server`` has the log and the faults. With
    ``tls``, discovery and keys can be reached under the issuer's own name, by a proxy that leads to this server.

    Attributes:
        issuer: The claim ``iss``: GitHub's name, unless another one is given or set, such as ``url``.
        job: The claims by which a job differs from the usual one; None leaves a claim out.
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
        """Where discovery, keys and tokens are served. Valid once started."""
        return self.server.url

    def start(self) -> None:
        """Listen. Nothing happens when it already does."""
        self.server.start()

    def stop(self) -> None:
        """Refuse connections from now on: an outage of the endpoint."""
        self.server.stop()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def keys(self) -> list[SigningKey]:
        """The published keys. The last one signs."""
        with self._lock:
            if not self._keys:
                self._keys.append(SigningKey.make())
            return list(self._keys)

    def publish(self, key: SigningKey) -> None:
        """Sign with this key from now on; the earlier ones stay published."""
        with self._lock:
            self._keys.append(key)

    def announce(self, key: SigningKey) -> None:
        """Publish this key, and go on signing with the last one: GitHub does so before it uses a new key."""
        keys = self.keys
        with self._lock:
            self._keys = [key, *keys]

    def jwks(self) -> dict[str, list[dict[str, str]]]:
        """The published keys, as the issuer's JWKS has them."""
        return {"keys": [key.jwk() for key in self.keys]}

    def claims(self, audience: object, **changes: object) -> dict[str, object]:
        """The claims of a new token; ``changes`` as in ``job``."""
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
        """A new ID token; ``changes`` as in ``job``."""
        return self.sign(self.claims(audience, **changes))

    def sign(self, claims: Mapping[str, object]) -> str:
        """A token with exactly these claims and a header like GitHub's."""
        key = self.keys[-1]
        return key.sign({"alg": "RS256", "typ": "JWT", "kid": key.kid}, claims)

    def variables(self, **changes: object) -> dict[str, str]:
        """The environment of a job that has the permission ``id-token: write``; ``changes`` as in ``job``."""
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
        """The audience of a job that asks for none: the URL of the repository's owner."""
        owner = self.claims("", **changes)["repository_owner"]
        return f"https://github.com/{owner}"
