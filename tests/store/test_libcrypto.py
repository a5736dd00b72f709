"""Decryption by Python's own OpenSSL, which is used only if it gives the right results."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from ctypes import CDLL
from typing import Any

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given
from hypothesis import strategies as st

from kis_token.store import libcrypto

if libcrypto.load() is None:
    pytest.skip("this Python's OpenSSL does not show its names", allow_module_level=True)

KEY = bytes(range(32))


def decrypt(nonce: bytes, sealed: bytes, data: bytes) -> bytes:
    """Decrypt with the test's key."""
    found = libcrypto.load()
    assert found is not None
    return found(KEY, nonce, sealed, data)


@given(st.binary(max_size=200), st.binary(max_size=60), st.binary(min_size=12, max_size=12))
def test_it_reads_what_the_package_seals(plain: bytes, data: bytes, nonce: bytes) -> None:
    """Any text that the package has sealed can be decrypted, with any authenticated data."""
    assert decrypt(nonce, AESGCM(KEY).encrypt(nonce, plain, data), data) == plain


@given(st.binary(min_size=1, max_size=80), st.binary(max_size=20), st.data())
def test_one_changed_bit_is_noticed(plain: bytes, data: bytes, draw: st.DataObject) -> None:
    """With one changed bit in nonce, ciphertext, tag or authenticated data, no text is returned."""
    parts = [bytes(range(12)), AESGCM(KEY).encrypt(bytes(range(12)), plain, data), data]
    which = draw.draw(st.sampled_from([index for index, part in enumerate(parts) if part]))
    bit = draw.draw(st.integers(0, 8 * len(parts[which]) - 1))
    changed = bytearray(parts[which])
    changed[bit // 8] ^= 1 << bit % 8
    parts[which] = bytes(changed)
    with pytest.raises(libcrypto.InvalidTag):
        decrypt(*parts)


@pytest.mark.parametrize("length", [0, 1, 15])
def test_a_text_shorter_than_a_tag_is_refused(length: int) -> None:
    """A text that is shorter than a tag is refused, because OpenSSL would read past its end."""
    with pytest.raises(libcrypto.InvalidTag):
        decrypt(bytes(12), bytes(length), b"")


@pytest.mark.parametrize("length", [0, 11, 13])
def test_a_nonce_of_another_length_is_refused(length: int) -> None:
    """A nonce that does not have 12 bytes is refused, because OpenSSL would always read 12 bytes."""
    with pytest.raises(libcrypto.InvalidTag):
        decrypt(bytes(length), bytes(32), b"")


class Wrong:
    """An OpenSSL in which the function ``name`` always returns ``answer``."""

    def __init__(self, name: str, answer: int) -> None:
        self._library = CDLL(sys.modules["_ssl"].__file__)
        self._name = name
        self._answer = answer

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - functions of ctypes
        return getattr(self._library, name) if name != self._name else lambda *_: self._answer


@pytest.mark.parametrize(
    ("name", "answer"),
    [
        ("EVP_DecryptFinal_ex", 1),  # accepts each tag
        ("EVP_DecryptFinal_ex", 0),  # accepts none
        ("EVP_DecryptUpdate", 1),  # decrypts nothing
        ("EVP_CIPHER_CTX_ctrl", 0),
        ("EVP_CIPHER_CTX_new", 0),  # no memory
    ],
)
def test_without_the_known_answer_it_is_not_used(monkeypatch: pytest.MonkeyPatch, name: str, answer: int) -> None:
    """A library that does not reproduce the published result, or accepts a changed text, is not used."""
    wrong = Wrong(name, answer)
    monkeypatch.setattr("ctypes.CDLL", lambda _: wrong)
    libcrypto.load.cache_clear()
    try:
        assert libcrypto.load() is None
    finally:
        libcrypto.load.cache_clear()


def test_the_next_library_is_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    """If a library does not have OpenSSL's functions, the next library is tried."""
    names = [sys.modules["_socket"].__file__, "/nonexistent/library.so", sys.modules["_ssl"].__file__]
    monkeypatch.setattr(libcrypto, "_libraries", lambda: names)
    libcrypto.load.cache_clear()
    try:
        assert libcrypto.load() is not None
    finally:
        libcrypto.load.cache_clear()


#: Code that makes the OpenSSL of this Python unavailable, in several ways.
WITHOUT = {
    "no ctypes": "import sys; sys.modules['ctypes'] = None",
    "no ssl": "import sys; sys.modules['_ssl'] = None",
    "ssl inside of the program": "import _ssl; del _ssl.__file__",
    "a library without the names": "import _ssl, _socket; _ssl.__file__ = _socket.__file__",
    "no file at that path": "import _ssl; _ssl.__file__ = '/nonexistent/_ssl.so'",
}


@pytest.mark.usefixtures("child_processes")
@pytest.mark.parametrize("name", WITHOUT)
def test_a_python_without_it_uses_the_package(name: str) -> None:
    """If OpenSSL is unavailable, `load` returns None, and the package unseals the value."""
    code = (
        f"{WITHOUT[name]}\n"
        "import json\n"
        "from kis_token.store import libcrypto\n"
        "from kis_token.store.sealing import SealingVault\n"
        "vault = SealingVault((bytes(32),))\n"
        "sealed = vault.seal('a value', 'kis', 'access_token')\n"
        "print(json.dumps([libcrypto.load() is None, vault.unseal(sealed, 'kis', 'access_token')]))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=os.environ)
    assert json.loads(done.stdout) == [True, "a value"]
