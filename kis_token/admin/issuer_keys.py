"""The public keys with which an issuer signs ID tokens, from the issuer's discovery document and its JWKS.

Only keys that the database can store are used: RSA, 2048 to 4096 bits, exponent 65537. This module needs the standard
library alone, because a step of the rotation uses this module without any package.
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

#: The form of a key's name, as the constraint credential_issuer_keys_kid in sql/006 has it.
_KID = re.compile(r"[!-~]{1,200}", re.ASCII)
_EXPONENT = "AQAB"  # 65537


@dataclass(frozen=True, slots=True)
class IssuerKey:
    """A public key with its name. The bytes of ``modulus`` begin with the most significant one."""

    kid: str
    modulus: bytes

    @property
    def digest(self) -> str:
        """The SHA-256 of the modulus in hex, as ``modulus_sha256`` of ``credential_callers_status`` has it."""
        return hashlib.sha256(self.modulus).hexdigest()


@dataclass(frozen=True, slots=True)
class PublishedKeys:
    """The keys of one issuer by name, and the number of the issuer's keys that the database cannot store."""

    issuer: str
    keys: tuple[IssuerKey, ...]
    unusable: int = 0

    def missing_from(self, kids: Collection[str]) -> tuple[str, ...]:
        """The names of the published keys that are not among ``kids``."""
        return tuple(key.kid for key in self.keys if key.kid not in kids)


def fetch_keys(issuer: str) -> PublishedKeys:
    """The keys that ``issuer`` publishes now, in two requests. Raises GitHubError."""
    peer = f"The issuer {issuer}"
    document = members_of(ask(f"{issuer}/.well-known/openid-configuration", {}), peer)
    if document.get("issuer") != issuer:
        raise GitHubError("github-unreachable", f"{peer} answers with the configuration of another issuer")
    address = document.get("jwks_uri")
    if not isinstance(address, str) or not _is_trusted(address, issuer):
        raise GitHubError("github-unreachable", f"{peer} names an address of its keys that is not its own")
    found = members_of(ask(address, {}), peer).get("keys")
    entries = found if isinstance(found, list) else []
    keys = {key.kid: key for key in map(_parse, entries) if key is not None}
    if not keys:
        raise GitHubError("github-unreachable", f"{peer} publishes no key that the database can store")
    return PublishedKeys(issuer, tuple(keys[kid] for kid in sorted(keys)), len(entries) - len(keys))


def _is_trusted(address: str, issuer: str) -> bool:
    """Whether the address of the keys is on the issuer's host or GitHub's, with TLS if the issuer's address has TLS."""
    try:
        parts = urlsplit(address)
    except ValueError:
        return False
    return parts[:2] in {urlsplit(each)[:2] for each in (issuer, GITHUB_ISSUER)}


def _parse(entry: object) -> IssuerKey | None:
    """The key of an entry of a JWKS; None if the database cannot store that key."""
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
