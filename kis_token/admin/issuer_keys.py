"""The public keys with which an issuer signs ID tokens, from the issuer's discovery document and its JWKS.

The database can store only RSA keys of 2048 to 4096 bits with the exponent 65537, so only these keys are used. This
module needs only the standard library, because a step of the rotation runs this module before any package is installed.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from kis_token.admin.github_server import GITHUB_ISSUER, ask, members_of
from kis_token.errors import GitHubError

if TYPE_CHECKING:
    from collections.abc import Collection

#: The form that the constraint credential_issuer_keys_kid in sql/006 requires for a key's name.
_KID = re.compile(r"[!-~]{1,200}", re.ASCII)
_EXPONENT = "AQAB"  # 65537


@dataclass(frozen=True, slots=True)
class IssuerKey:
    """A public key with its name. ``modulus`` begins with its most significant byte."""

    kid: str
    modulus: bytes

    @property
    def digest(self) -> str:
        """The SHA-256 of the modulus in hex, which ``credential_callers_status`` returns as ``modulus_sha256``."""
        return hashlib.sha256(self.modulus).hexdigest()


@dataclass(frozen=True, slots=True)
class PublishedKeys:
    """The keys of one issuer. ``unusable`` is the number of the issuer's keys that the database cannot store."""

    issuer: str
    keys: tuple[IssuerKey, ...]
    unusable: int = 0

    def missing_from(self, kids: Collection[str]) -> tuple[str, ...]:
        """Return the names of the published keys that are not in ``kids``."""
        return tuple(key.kid for key in self.keys if key.kid not in kids)


def fetch_keys(issuer: str) -> PublishedKeys:
    """Ask ``issuer`` in two requests for the keys that it publishes now. Raises GitHubError."""
    peer = f"The issuer {issuer}"
    document = members_of(ask(f"{issuer}/.well-known/openid-configuration", {}), peer)
    if document.get("issuer") != issuer:
        raise GitHubError("github-unreachable", f"{peer} answers with the configuration of another issuer")
    address = document.get("jwks_uri")
    if not isinstance(address, str) or not _is_trusted(address, issuer):
        raise GitHubError("github-unreachable", f"{peer} gives no trusted address for its keys")
    found = members_of(ask(address, {}), peer).get("keys")
    entries = found if isinstance(found, list) else []
    keys = {key.kid: key for key in map(_parse, entries) if key is not None}
    if not keys:
        raise GitHubError("github-unreachable", f"{peer} publishes no key that the database can store")
    return PublishedKeys(issuer, tuple(keys[kid] for kid in sorted(keys)), len(entries) - len(keys))


def _is_trusted(address: str, issuer: str) -> bool:
    """Whether scheme and host of ``address`` are equal to those of ``issuer`` or of github.com's issuer."""
    try:
        parts = urlsplit(address)
    except ValueError:
        return False
    return parts[:2] in {urlsplit(each)[:2] for each in (issuer, GITHUB_ISSUER)}


def _parse(entry: object) -> IssuerKey | None:
    """Return the key in an entry of a JWKS, or None if the database cannot store the key."""
    if not isinstance(entry, dict) or entry.get("kty") != "RSA" or entry.get("e") != _EXPONENT:
        return None
    if entry.get("use", "sig") != "sig" or entry.get("alg", "RS256") != "RS256":
        return None
    kid, text = entry.get("kid"), entry.get("n")
    if not isinstance(kid, str) or _KID.fullmatch(kid) is None or not isinstance(text, str):
        return None
    try:
        modulus = base64.b64decode(text + "=" * (-len(text) % 4), altchars="-_", validate=True)
    except (binascii.Error, ValueError):
        return None
    is_whole = 256 <= len(modulus) <= 512 and modulus[0] >= 128 and modulus[-1] % 2 == 1
    return IssuerKey(kid, modulus) if is_whole else None
