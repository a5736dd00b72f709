"""The command kis-token, as a child process."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

from kis_token.errors import REMEDIES
from kis_token.token import looks_like_token

if TYPE_CHECKING:
    from pathlib import Path

    from kis_token.sandbox import Sandbox


def kis_token(env: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the command with no settings but ``env``."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("KIS_", "SUPABASE_", "INPUT_"))}
    return subprocess.run(
        [sys.executable, "-m", "kis_token", *arguments],
        env=kept | env,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_get_prints_the_token_alone(sandbox: Sandbox) -> None:
    """``get`` prints the token and nothing else on standard output, and again the same without a new issue."""
    first = kis_token(sandbox.variables, "get")
    second = kis_token(sandbox.variables, "get")

    assert first.returncode == second.returncode == 0
    assert looks_like_token(first.stdout.removesuffix("\n"))
    same = first.stdout == second.stdout
    assert same
    assert sandbox.kis.counts("production").calls == 1


def test_get_explains_what_is_missing() -> None:
    """Without settings each fault is one line with its code and remedy on standard error; the status is 1."""
    ended = kis_token({}, "get")

    assert ended.returncode == 1
    assert ended.stdout == ""
    assert ended.stderr.splitlines() == [
        "error: supabase-url (or SUPABASE_URL) is not set [missing-supabase-url]. " + REMEDIES["missing-supabase-url"],
        "error: supabase-key (or SUPABASE_SERVICE_ROLE_KEY) is not set [missing-supabase-key]. "
        + REMEDIES["missing-supabase-key"],
    ]


def test_get_uses_the_user_s_cache_folder(sandbox: Sandbox, tmp_path: Path) -> None:
    """Outside of a job the token is cached in the user's cache folder, and serves from there without Supabase."""
    env = {name: value for name, value in sandbox.variables.items() if name != "KIS_TOKEN_CACHE"}
    env |= {"XDG_CACHE_HOME": str(tmp_path), "HOME": str(tmp_path), "RUNNER_TEMP": ""}
    first = kis_token(env, "get")
    sandbox.supabase.stop()
    second = kis_token(env, "get")

    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == [".kis_token_cache.json"]
    assert second.returncode == 0
    same = first.stdout == second.stdout
    assert same
    assert "warning: " in second.stderr


def test_unknown_command_is_refused() -> None:
    """A command that does not exist ends with status 2 and the usage."""
    ended = kis_token({}, "fetch")

    assert ended.returncode == 2
    assert "usage: kis-token" in ended.stderr
