"""A cache file that is unusable or belongs to another owner, and a lock that another process holds."""

from __future__ import annotations

import base64
import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from kis_token.errors import StoreOutage
from kis_token.store.sealing import make_vault
from tests.faults.helpers import HOLD_LOCK, error_of, stored_stays
from tests.races.caller_processes import SECONDS
from tests.resolver_harness import ENCRYPTION_KEY, OTHER, expired_token
from tests.support import APP_KEY, make_settings, make_token
from tools.step import CHECKOUT

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from kis_token.token import Token
    from tests.resolver_harness import Chain

posix = pytest.mark.skipif(os.name != "posix", reason="needs POSIX users, file sizes and signals")


def _content(data: bytes) -> Callable[[Path], object]:
    def put(path: Path) -> None:
        path.touch(mode=0o600)
        path.write_bytes(data)

    return put


def _leave_a_half_written_one(path: Path) -> None:
    """Leave a partly written temporary file beside the missing cache file, as a killed process does."""
    part = path.with_name(f"{path.name}.0123456789abcdef.tmp")
    part.touch(mode=0o600)
    part.write_bytes(make_token().to_json().encode()[:100])


TOKEN = make_token().to_json()

#: Unusable states of the cache file. None of them has a valid token.
SPOILT: dict[str, Callable[[Path], object]] = {
    "missing": lambda _: None,
    "empty": _content(b""),
    "half-written": _content(TOKEN.encode()[: len(TOKEN) // 2]),
    "half-written-beside": _leave_a_half_written_one,
    "binary": _content(bytes(range(256))),
    "zeros": _content(bytes(4096)),
    "utf-16": _content(TOKEN.encode("utf-16")),
    "another-version": _content(json.dumps({"version": 2, "tokens": [json.loads(TOKEN)]}).encode()),
    "another-seal": _content(b"enc:v9:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"),
    "no-expiry": _content(b'{"access_token": "opaque.token-of-a-test_0123456789"}'),
    "expired": _content(expired_token().to_json().encode()),
    "too-large": _content(b" " * 100_000),
}

spoilt = pytest.mark.parametrize("name", SPOILT)


@spoilt
def test_with_supabase_it_is_not_in_the_way(chain: Chain, name: str) -> None:
    """With an unusable cache file, a fresh stored token is used after one read, without a warning, and is cached."""
    SPOILT[name](chain.folder / "cache.json")
    token = make_token()
    chain.database.put_token(token)

    with stored_stays(chain):
        got = chain.resolve()

    assert (got.token.token_id, got.source, got.warnings, chain.store_calls) == (
        token.token_id,
        "supabase",
        (),
        ["read"],
    )
    assert chain.cached_id() == token.token_id


@spoilt
def test_without_supabase_it_heals(chain: Chain, name: str) -> None:
    """In an outage, an unusable cache file is a miss, and the trace has a reason.

    With ``on-store-outage: fail``, the caller gets an error. With ``issue``, it makes one call and caches the token.
    """
    SPOILT[name](chain.folder / "cache.json")
    chain.supabase.stop()

    assert isinstance(error_of(chain, on_store_outage="fail"), StoreOutage)
    assert chain.issue_calls == 0
    got = chain.resolve()
    again = chain.resolve()

    assert (got.source, again.source, chain.issue_calls) == ("oauth", "cache", 1)
    assert got.token.token_id == again.token.token_id == chain.cached_id()
    assert got.trace[1].source == "cache"
    assert got.trace[1].text


def _sealed(token: Token) -> str:
    return make_vault(make_settings(KIS_TOKEN_ENCRYPTION_KEY=ENCRYPTION_KEY).encryption_keys).seal(
        token.to_json(), "kis", "access_token"
    )


ANOTHER_KEY = base64.b64encode(bytes(32)).decode()

#: Valid tokens that this caller must not use: the content of the file, the caller's encryption key, and the error code.
FOREIGN_TOKENS = {
    "sealed": (_sealed(make_token()), "", "sealed-without-key"),
    "sealed-with-another-key": (_sealed(make_token()), ANOTHER_KEY, "seal-broken"),
    "of-another-key": (make_token(OTHER.key).to_json(), "", "token-of-another-key"),
    "of-another-environment": (
        replace(make_token(), environment="paper").to_json(),
        "",
        "token-of-another-environment",
    ),
}


@pytest.mark.parametrize("name", FOREIGN_TOKENS)
def test_a_token_of_another_owner(chain: Chain, name: str) -> None:
    """In an outage, a cached token of another owner is an error, and the file stays unchanged.

    With Supabase, the caller issues a token, and the new token replaces the file.
    """
    content, key, code = FOREIGN_TOKENS[name]
    path = chain.folder / "cache.json"
    path.touch(mode=0o600)
    path.write_text(content)
    chain.supabase.stop()

    assert error_of(chain, encryption_key=key).code == code
    is_same = path.read_text() == content
    assert is_same, "the cache file has changed"
    assert chain.issue_calls == 0

    chain.supabase.start()
    got = chain.resolve(encryption_key=key)
    assert (got.source, got.warnings, chain.issue_calls) == ("oauth", (), 1)
    assert chain.cache(encryption_key=key).read().token_id == got.token.token_id


# the lock


@posix
def test_a_lock_of_an_ended_process(chain: Chain) -> None:
    """If a process is killed while it holds the lock, the next caller gets the lock and issues at once."""
    command = [sys.executable, "-c", HOLD_LOCK, str(chain.machine_folder), APP_KEY.key_id]
    with subprocess.Popen(command, cwd=CHECKOUT, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        holder.send_signal(signal.SIGKILL)
        holder.wait(SECONDS)
    assert (chain.machine_folder / f"{APP_KEY.key_id}.lock").exists()
    chain.supabase.stop()

    # 20 of the 21 s are kept for the call, so only one second is left for waiting.
    got = chain.resolve(timeout="21s")

    assert (got.source, chain.issue_calls, chain.cached_id()) == ("oauth", 1, got.token.token_id)


@posix
def test_a_lock_of_a_running_process(chain: Chain) -> None:
    """A caller that has Supabase or a valid cached token does not wait for the lock of another process."""
    command = [sys.executable, "-c", HOLD_LOCK, str(chain.machine_folder), APP_KEY.key_id]
    with subprocess.Popen(command, cwd=CHECKOUT, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        first = chain.resolve(timeout="30s")
        chain.supabase.stop()
        second = chain.resolve(timeout="30s")
        holder.kill()

    assert (first.source, second.source, chain.issue_calls) == ("oauth", "cache", 1)
    assert first.token.token_id == second.token.token_id
