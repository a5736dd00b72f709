"""Sealed values: ``enc:v1:`` envelopes, which can be read only with the encryption key.

The form of an envelope is ``enc:v1:<kid>:<base64url(nonce ‖ ciphertext ‖ tag)>``, with AES-256-GCM. The key is derived
by HKDF-SHA256 from a 32-byte secret. ``kid`` is the fingerprint of the derived key. The encryption
authenticates the service name and the credential type together with the value, so a sealed value cannot be moved to
another row.

Values are sealed with the package cryptography. If `libcrypto` works on this Python, values are unsealed with the
standard library alone.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import os

from kis_token.core.slot import SEALED_PREFIX, PlainVault
from kis_token.errors import TokenError
from kis_token.store.libcrypto import InvalidTag, load

TYPE_CHECKING = False
if TYPE_CHECKING:
    from kis_token.core.ports import Vault
    from kis_token.store.libcrypto import Decrypt


class SealingVault:
    """Seals with the first of ``secrets`` (32 bytes each), and unseals with any of ``secrets``.

    A plain value raises TokenError, so that nobody can replace a sealed value by a plain one. ``decrypt`` is the
    function that decrypts. By default, the function of `libcrypto` decrypts. If `libcrypto` does not work on this
    Python, the package cryptography decrypts.
    """

    def __init__(self, secrets: tuple[bytes, ...], decrypt: Decrypt | None = None) -> None:
        self._decrypt = decrypt
        self._keys = {_kid(key): key for key in map(_derive, secrets)}
        self._first = next(iter(self._keys))

    def unseal(self, text: str, service_name: str, credential_type: str) -> str:
        """Return the sealed value. Raises TokenError ``plain-with-key`` or ``seal-broken``."""
        what = f"{credential_type} of {service_name}"
        if not text.startswith(SEALED_PREFIX):
            raise TokenError("plain-with-key", f"{what} is stored plain although an encryption-key is given")
        kid, _, body = text[len(SEALED_PREFIX) :].partition(":")
        key = self._keys.get(kid)
        if key is None:
            raise TokenError("seal-broken", f"{what} was sealed with a key that is not given")
        try:
            data = base64.b64decode(body, altchars=b"-_", validate=True)
            decrypt = self._decrypt or load() or decrypt_by_package
            return decrypt(key, data[:12], data[12:], _context(service_name, credential_type)).decode()
        except (ValueError, InvalidTag) as error:  # ValueError: not base64url, or not UTF-8
            raise TokenError("seal-broken", f"{what} was damaged, or was sealed as the value of another row") from error

    def is_current(self, text: str) -> bool:
        """Whether ``text`` is sealed with the first of ``secrets``, the key that `seal` uses."""
        return text.startswith(f"{SEALED_PREFIX}{self._first}:")

    def seal(self, value: str, service_name: str, credential_type: str) -> str:
        """Return an envelope with ``value``. Two calls with the same value return different envelopes."""
        from kis_token.process.forks import no_fork

        with no_fork():
            from cryptography.hazmat.primitives.ciphers.aead import AESGCM

        nonce = os.urandom(12)
        sealed = AESGCM(self._keys[self._first]).encrypt(nonce, value.encode(), _context(service_name, credential_type))
        return f"{SEALED_PREFIX}{self._first}:{base64.urlsafe_b64encode(nonce + sealed).decode()}"


class TolerantVault:
    """Seals and unseals with ``vault``. The method `unseal` accepts a sealed value and also a plain value."""

    def __init__(self, vault: Vault) -> None:
        self._vault = vault

    def unseal(self, text: str, service_name: str, credential_type: str) -> str:
        """Return the value of a plain or a sealed text. Raises TokenError if a sealed text cannot be unsealed."""
        return self._vault.unseal(text, service_name, credential_type) if text.startswith(SEALED_PREFIX) else text

    def seal(self, value: str, service_name: str, credential_type: str) -> str:
        """Return the text to store."""
        return self._vault.seal(value, service_name, credential_type)


def make_vault(secrets: tuple[bytes, ...]) -> Vault:
    """The vault for the encryption keys ``secrets``; a `PlainVault` if there is no key."""
    return SealingVault(secrets) if secrets else PlainVault()


def decrypt_by_package(key: bytes, nonce: bytes, sealed: bytes, data: bytes) -> bytes:
    """Decrypt with the package cryptography. Raises InvalidTag."""
    from kis_token.process.forks import no_fork

    with no_fork():
        from cryptography import exceptions
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    try:
        return AESGCM(key).decrypt(nonce, sealed, data)
    except (exceptions.InvalidTag, ValueError):  # ValueError: the nonce is too short
        raise InvalidTag from None


def _derive(secret: bytes) -> bytes:
    """HKDF (RFC 5869) with SHA-256 and without salt, for a key of one block."""
    extracted = hmac.digest(bytes(32), secret, "sha256")
    return hmac.digest(extracted, b"kis-token enc:v1\x01", "sha256")


def _kid(key: bytes) -> str:
    return hashlib.sha256(b"kid" + key).hexdigest()[:8]


def _context(service_name: str, credential_type: str) -> bytes:
    return f"{SEALED_PREFIX}{service_name}:{credential_type}".encode()
