"""Decrypts AES-256-GCM with the OpenSSL of Python's module ssl, so that unsealing needs no package.

This module never encrypts. Before `load` returns a function that decrypts, this module checks the function with a
published test case. If this Python's OpenSSL cannot be used, `load` returns None, and the caller needs the package
cryptography. For example, a Python that uv installs contains OpenSSL, but does not export the names of OpenSSL's
functions. Source of the calls: the manual page EVP_EncryptInit(3) of OpenSSL 1.1.1 and 3.
"""

from __future__ import annotations

import sys
from functools import lru_cache

from kis_token.process.forks import no_fork

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    #: A function of key, nonce, the ciphertext with its tag, and the authenticated data. The function raises
    #: InvalidTag.
    Decrypt = Callable[[bytes, bytes, bytes, bytes], bytes]

_TAG_BYTES = 16
_SET_TAG = 0x11  # EVP_CTRL_AEAD_SET_TAG

#: Test case 16 of "The Galois/Counter Mode of Operation (GCM)", McGrew and Viega, 2005.
_KNOWN_KEY = bytes.fromhex("feffe9928665731c6d6a8f9467308308" * 2)
_KNOWN_NONCE = bytes.fromhex("cafebabefacedbaddecaf888")
_KNOWN_DATA = bytes.fromhex("feedfacedeadbeeffeedfacedeadbeefabaddad2")
_KNOWN_PLAIN = bytes.fromhex(
    "d9313225f88406e5a55909c5aff5269a86a7a9531534f7da2e4c303d8a318a72"
    "1c3c0c95956809532fcf0e2449a6b525b16aedf5aa0de657ba637b39"
)
_KNOWN_SEALED = bytes.fromhex(
    "522dc1f099567d07f47f37a32a84427d643a8cdcbfe5c0c97598a2bd2555d1aa"
    "8cb08e48590dbb3da7b08b1056828838c5f61e6393ba7a0abcc9f66276fc6ece0f4e1768cddf8853bb2d551b"
)


class InvalidTag(Exception):
    """The ciphertext or the authenticated data was changed, or the value was sealed with another key."""


@lru_cache(maxsize=1)
def load() -> Decrypt | None:
    """Return the function that decrypts; None if this Python's OpenSSL cannot be used."""
    with no_fork():
        return next(filter(None, map(_try, _libraries())), None)


def _try(name: str) -> Decrypt | None:
    try:
        from ctypes import CDLL

        decrypt = _declare(CDLL(name))
        return decrypt if _is_right(decrypt) else None
    except Exception:  # noqa: BLE001 - after any error, the package cryptography is used
        return None


def _libraries() -> list[str]:
    """Return the files that may contain OpenSSL's functions.

    On Windows, the result contains the files ``libcrypto-*.dll`` in the folder of the module ``_ssl``. On systems other
    than Windows, the result contains the file of the module ``_ssl``.
    """
    try:
        import _ssl

        file = _ssl.__file__
    except (ImportError, AttributeError):  # Python lacks the module, or has it built in
        return []
    if sys.platform != "win32":
        return [file]
    from pathlib import Path

    return [f"{path}" for path in sorted(Path(file).parent.glob("libcrypto-*.dll"))]


def _declare(library: Any) -> Decrypt:  # noqa: ANN401 - ctypes gives each function the type Any
    """Return the function that decrypts. Raises AttributeError if ``library`` lacks one of OpenSSL's functions."""
    from ctypes import POINTER, byref, c_char_p, c_int, c_void_p, create_string_buffer

    def function(name: str, result: Any, *arguments: Any) -> Any:  # noqa: ANN401 - types of ctypes
        found = getattr(library, name)
        found.restype, found.argtypes = result, arguments
        return found

    cipher = function("EVP_aes_256_gcm", c_void_p)
    new = function("EVP_CIPHER_CTX_new", c_void_p)
    free = function("EVP_CIPHER_CTX_free", None, c_void_p)
    begin = function("EVP_DecryptInit_ex", c_int, c_void_p, c_void_p, c_void_p, c_char_p, c_char_p)
    update = function("EVP_DecryptUpdate", c_int, c_void_p, c_void_p, POINTER(c_int), c_char_p, c_int)
    control = function("EVP_CIPHER_CTX_ctrl", c_int, c_void_p, c_int, c_int, c_void_p)
    end = function("EVP_DecryptFinal_ex", c_int, c_void_p, c_void_p, POINTER(c_int))

    def decrypt(key: bytes, nonce: bytes, sealed: bytes, data: bytes) -> bytes:
        # OpenSSL reads 32 bytes of the key and 12 bytes of the nonce, even if key or nonce is shorter.
        if len(key) != 32 or len(nonce) != 12 or len(sealed) < _TAG_BYTES:
            raise InvalidTag
        text, tag = sealed[:-_TAG_BYTES], sealed[-_TAG_BYTES:]
        plain, count = create_string_buffer(len(text) + 1), c_int()
        context = new()
        try:
            is_right = (
                context
                and begin(context, cipher(), None, key, nonce) == 1
                and (not data or update(context, None, byref(count), data, len(data)) == 1)
                and (not text or update(context, plain, byref(count), text, len(text)) == 1)
                and control(context, _SET_TAG, _TAG_BYTES, tag) == 1
                and end(context, plain, byref(count)) == 1
            )
        finally:
            free(context)
        if not is_right:
            raise InvalidTag
        return plain.raw[: len(text)]

    return decrypt


def _is_right(decrypt: Decrypt) -> bool:
    """Whether ``decrypt`` returns the known plaintext, and raises InvalidTag for a changed tag, text or data."""
    if decrypt(_KNOWN_KEY, _KNOWN_NONCE, _KNOWN_SEALED, _KNOWN_DATA) != _KNOWN_PLAIN:
        return False
    changed = bytes([_KNOWN_SEALED[0] ^ 1])
    for sealed, data in (
        (changed + _KNOWN_SEALED[1:], _KNOWN_DATA),
        (_KNOWN_SEALED[:-1] + bytes([_KNOWN_SEALED[-1] ^ 1]), _KNOWN_DATA),
        (_KNOWN_SEALED, _KNOWN_DATA[:-1]),
    ):
        try:
            decrypt(_KNOWN_KEY, _KNOWN_NONCE, sealed, data)
        except InvalidTag:
            continue
        return False
    return True
