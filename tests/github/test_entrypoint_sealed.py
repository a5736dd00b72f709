"""Steps with sealed values: they are as fast as with plain values, and need no package index for a fresh token."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING

import psycopg
import pytest

from kis_token.core.slot import SEALED_PREFIX
from kis_token.sandbox.database import list_caller, store_issuer_keys
from tests.github.entrypoint_steps import UNREACHABLE_INDEX, assert_succeeded, errors, inputs_of
from tests.resolver_harness import ENCRYPTION_KEY
from tools.step import CHECKOUT, Ended, run_step

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from kis_token.sandbox import Sandbox

OTHER_KEY = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="


@pytest.fixture
def sealed(sandbox: Sandbox, sealing_runtime: Path, tool_cache: Path, tmp_path: Path) -> Sandbox:  # noqa: ARG001 - it is built
    """A sandbox with a sealed token, which a step with the packages has issued."""
    with psycopg.connect(sandbox.owner_dsn) as connection:
        connection.execute("delete from api_credentials")
    ended = sealed_step(sandbox, tmp_path / "first", {"RUNNER_TOOL_CACHE": str(tool_cache)})
    assert_succeeded(ended, "oauth")
    return sandbox


def sealed_step(sandbox: Sandbox, folder: Path, env: dict[str, str] = UNREACHABLE_INDEX, /, **inputs: str) -> Ended:
    """Run a step with the encryption key and the account's keys. By default, the package index cannot be reached."""
    account = sandbox.kis.accounts["production"][0]
    given = {"encryption_key": ENCRYPTION_KEY, "app_key": account.app_key, "app_secret": account.app_secret}
    return run_step(inputs_of(sandbox, **{**given, **inputs}), folder, env)


def stored_token(sandbox: Sandbox) -> str:
    """The stored form of the token."""
    with psycopg.connect(sandbox.owner_dsn) as connection:
        query = "select credential_value from api_credentials where credential_type = 'access_token'"
        ((value,),) = connection.execute(query).fetchall()
    return f"{value}"


@pytest.mark.parametrize("mode", ["resolve", "rotate", "check"])
def test_fresh_token_needs_no_package(sealed: Sandbox, tmp_path: Path, mode: str) -> None:
    """A fresh sealed token costs one request. Nothing is installed, although the package index is out of reach."""
    sealed.supabase.server.forget()

    ended = sealed_step(sealed, tmp_path / "job", mode=mode)

    assert_succeeded(ended, "supabase")
    assert len(sealed.supabase.server.seen) == 1
    assert list((tmp_path / "job" / "tools").iterdir()) == []
    assert sealed.kis.counts("production").calls == 1


def test_the_cache_keeps_the_sealed_form(sealed: Sandbox, tmp_path: Path) -> None:
    """The cache file has the sealed text of the store. During an outage, the step unseals the file without packages."""
    folder = tmp_path / "job"
    first = sealed_step(sealed, folder)
    (cached,) = (folder / "temp").rglob("*.json")
    assert cached.read_text().startswith(SEALED_PREFIX)
    assert cached.read_text() == stored_token(sealed)
    assert cached.stat().st_mode & 0o777 == 0o600
    sealed.supabase.stop()

    ended = sealed_step(sealed, folder)

    assert_succeeded(ended, "cache")
    assert (ended.outputs["access-token"] == first.outputs["access-token"]) is True
    assert list((folder / "tools").iterdir()) == []


def test_a_shortened_end_is_not_lost_in_the_cache(sealed: Sandbox, tool_cache: Path, tmp_path: Path) -> None:
    """If the row's expires_at is earlier than the end in its sealed value, the cache gets the earlier end, sealed."""
    with psycopg.connect(sealed.owner_dsn) as connection:
        connection.execute(
            "update api_credentials set expires_at = now() + interval '5 hours' where credential_type = 'access_token'"
        )
    folder = tmp_path / "job"
    ended = sealed_step(sealed, folder, {"RUNNER_TOOL_CACHE": str(tool_cache)})
    assert_succeeded(ended, "supabase")
    sealed.supabase.stop()

    cached = sealed_step(sealed, folder)

    assert_succeeded(cached, "cache")
    assert cached.outputs["expires-at"] == ended.outputs["expires-at"]


@pytest.mark.parametrize(
    ("spoil", "code"),
    [
        (lambda value: f"{value[:40]}!{value[41:]}", "seal-broken"),
        (lambda value: value[:60], "seal-broken"),
        (lambda _: "eyJ.plain.text", "plain-with-key"),
    ],
)
def test_a_spoilt_value_is_the_same_error_without_packages(
    sealed: Sandbox, tmp_path: Path, spoil: Callable[[str], str], code: str
) -> None:
    """If a value is damaged, truncated or plain, the fast path itself reports an error, and KIS is not called."""
    with psycopg.connect(sealed.owner_dsn) as connection:
        query = "update api_credentials set credential_value = %s where credential_type = 'access_token'"
        connection.execute(query, [spoil(stored_token(sealed))])

    ended = sealed_step(sealed, tmp_path / "job")

    assert ended.public["error-code"] == code
    assert len(errors(ended)) == 1
    assert sealed.kis.counts("production").calls == 1


def test_another_key_opens_nothing(sealed: Sandbox, tmp_path: Path) -> None:
    """With another encryption key the step fails; it installs no package and does not call KIS."""
    ended = sealed_step(sealed, tmp_path / "job", encryption_key=OTHER_KEY)

    assert ended.public["error-code"] == "seal-broken"
    assert sealed.kis.counts("production").calls == 1


def test_a_python_without_reachable_openssl_uses_the_packages(
    sealed: Sandbox, tool_cache: Path, tmp_path: Path
) -> None:
    """If Python's OpenSSL cannot be reached, as in a Python from uv, the step unseals the token with the runtime."""
    action = tmp_path / "action"
    action.mkdir()
    for name in ("action.yml", "requirements.txt"):
        shutil.copy(CHECKOUT / name, action)
    shutil.copytree(CHECKOUT / "kis_token", action / "kis_token", ignore=shutil.ignore_patterns("__pycache__"))
    program = (CHECKOUT / "entrypoint.py").read_text(encoding="utf-8")
    start = 'if __name__ == "__main__":'
    assert program.count(start) == 1
    (action / "entrypoint.py").write_text(program.replace(start, f"import _ssl\ndel _ssl.__file__\n{start}"))
    env = {"GITHUB_ACTION_PATH": str(action), "RUNNER_TOOL_CACHE": str(tool_cache)}

    assert_succeeded(sealed_step(sealed, tmp_path / "job", env), "supabase")
    without = sealed_step(sealed, tmp_path / "without", {**UNREACHABLE_INDEX, "GITHUB_ACTION_PATH": str(action)})
    assert without.public["error-code"] in ("runtime-failed", "pip-missing")


def test_keyless_and_sealed_together(sealed: Sandbox, tool_cache: Path, tmp_path: Path) -> None:
    """A keyless job reads a sealed token with one request to Supabase, and stores its new token sealed."""
    with psycopg.connect(sealed.owner_dsn) as connection:
        store_issuer_keys(connection, sealed.github)
        list_caller(connection, sealed.github, sealed.supabase.url, access="issue")
    keyless = {"supabase_key": sealed.anon_key}
    sealed.supabase.server.forget()

    warm = sealed_step(sealed, tmp_path / "warm", {**UNREACHABLE_INDEX, **sealed.github.variables()}, **keyless)

    assert_succeeded(warm, "supabase")
    assert [seen.path for seen in sealed.supabase.server.seen] == ["/rest/v1/rpc/keyless_read"]
    assert list((tmp_path / "warm" / "tools").iterdir()) == []
    with psycopg.connect(sealed.owner_dsn) as connection:
        connection.execute("delete from api_credentials where credential_type = 'access_token'")
        connection.execute("update credential_leases set not_before = null")
    sealed.kis.advance(3600)
    env = {"RUNNER_TOOL_CACHE": str(tool_cache), **sealed.github.variables()}
    issued = sealed_step(sealed, tmp_path / "issue", env, **keyless)
    assert_succeeded(issued, "oauth")
    assert stored_token(sealed).startswith(SEALED_PREFIX)
    assert json.dumps(issued.public).count(SEALED_PREFIX) == 0
