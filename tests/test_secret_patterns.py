"""The patterns of secrets find every form of a secret, and no other text."""

from __future__ import annotations

import base64
import json
import re
from typing import TYPE_CHECKING
from urllib.parse import quote, quote_plus

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.conftest import SECRETS
from tests.resolver_harness import ENCRYPTION_KEY
from tests.secret_patterns import SecretPatterns, without_masks
from tests.support import ACCOUNT, SERVICE_KEY, make_token
from tools.step import CHECKOUT

if TYPE_CHECKING:
    from collections.abc import Callable

    from kis_token.sandbox.emulator import KISEmulator

ENCODINGS: dict[str, Callable[[str], str]] = {
    "plain": str,
    "JSON": json.dumps,
    "JSON with escaped slashes": lambda text: json.dumps(text).replace("/", "\\/"),
    "URL": quote,
    "URL without slashes": lambda text: quote(text, safe=""),
    "form": quote_plus,
    "URL in small letters": lambda text: re.sub("%..", lambda match: match[0].lower(), quote(text, safe="")),
    "base64": lambda text: base64.b64encode(text.encode()).decode(),
    "base64 for URLs": lambda text: base64.urlsafe_b64encode(text.encode()).decode(),
}

secret_texts = st.text(st.characters(codec="ascii", categories=["L", "N", "P", "S"]), min_size=24, max_size=60)
other_texts = st.text(st.characters(codec="utf-8"), max_size=9)


@pytest.mark.parametrize("encoding", ENCODINGS)
@given(secret=secret_texts, before=other_texts, behind=other_texts)
def test_every_form_is_found(encoding: str, secret: str, before: str, behind: str) -> None:
    """Until a secret is forgotten, the search finds it in every encoding and at every position of the encoded text."""
    patterns = SecretPatterns()
    data = ENCODINGS[encoding](before + secret + behind).encode()
    assert not patterns.are_in(data)
    patterns.add(secret, lasting=False)
    assert patterns.are_in(data)
    patterns.forget()
    assert not patterns.are_in(data)


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_made_up_secrets_are_known(kis: KISEmulator, encoding: str) -> None:
    """Tokens of the emulator and of the tests, all secret keys of Supabase and an encryption key are found."""
    token = kis._rules["production"].issue(ACCOUNT.app_key, ACCOUNT.app_secret).value
    patterns = SecretPatterns()
    patterns.add(ENCRYPTION_KEY, lasting=True)
    patterns.add_bytes(base64.b64decode(ENCRYPTION_KEY))
    for secret in (token, make_token().value, "opaque.token-of-a-test_0", SERVICE_KEY, "sb_secret_x", ENCRYPTION_KEY):
        found = patterns.are_in(ENCODINGS[encoding](f"so: {secret}").encode())
        assert found
    shown = patterns.are_in(repr((base64.b64decode(ENCRYPTION_KEY),)).encode())
    assert shown


@pytest.mark.parametrize(
    "part", ["kis_token", "docs", "sql", "README.md", "README.ko.md", "action.yml", "entrypoint.py"]
)
def test_other_text_is_no_finding(part: str) -> None:
    """No part of the shipped project looks like one of the secrets."""
    patterns = SecretPatterns()
    for secret in SECRETS:
        patterns.add(secret, lasting=True)
    path = CHECKOUT / part
    # Bytecode is left out, because it is not shipped, and can have any byte after the beginning of a secret's form.
    files = [path] if path.is_file() else [each for each in path.rglob("*") if each.suffix not in ("", ".pyc")]

    assert files
    assert [file.name for file in files if patterns.are_in(file.read_bytes())] == []


def test_only_whole_mask_commands_are_taken_out() -> None:
    """Text before a mask command, or on another line, is searched for secrets."""
    assert without_masks(b"::add-mask::one\ntwo\n three ::add-mask::four\n") == b"\ntwo\n three ::add-mask::four\n"
