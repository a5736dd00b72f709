"""The complete sandbox, seen by the programs inside."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from kis_token.sandbox import Account, KISEmulator, Sandbox

if TYPE_CHECKING:
    from kis_token.sandbox.postgres import EmbeddedPostgres


def kis_token(sandbox: Sandbox, *arguments: str, **variables: str) -> str:
    """Run the command kis-token inside the sandbox, and return its output."""
    return subprocess.run(
        [sys.executable, "-m", "kis_token", *arguments],
        env=sandbox.environment(os.environ) | variables,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    ).stdout.strip()


def test_hours_pass_at_once(sandbox: Sandbox) -> None:
    """After an advance of 7 h, a new token is issued at once, because KIS's minute and KIS's six hours are over."""
    first = kis_token(sandbox, "get")
    sandbox.advance(7 * 3600)
    said = kis_token(sandbox, "refresh", "--force")
    second = kis_token(sandbox, "get")

    assert said.startswith("renewed")
    assert first != second
    assert sandbox.kis.counts("production").issues == 2


def test_time_does_not_go_back(sandbox: Sandbox) -> None:
    """An advance by a negative time is a ValueError."""
    with pytest.raises(ValueError, match="forward"):
        sandbox.advance(-1)


def test_environment_has_no_other_settings(sandbox: Sandbox) -> None:
    """Settings of other accounts and proxies are removed; all other variables are kept."""
    outside = {
        "PATH": "/bin",
        "KIS_APP_KEY": "other",
        "SUPABASE_SECRET_KEY": "other",
        "INPUT_MODE": "force",
        "no_proxy": "a",
    }

    assert sandbox.environment(outside) == {
        "PATH": "/bin",
        "NO_PROXY": "a,127.0.0.1",
        "no_proxy": "a,127.0.0.1",
        **sandbox.variables,
    }


def test_a_given_emulator_is_used(postgres: EmbeddedPostgres) -> None:
    """The sandbox uses the accounts of the given emulator. `store_keys` stores a further account in its own slot."""
    main, savings = Account(), Account()
    with Sandbox(dsn=postgres.create_database(), kis=KISEmulator(production=[main, savings], paper=[])) as sandbox:
        sandbox.store_keys("kis-savings", savings)
        tokens = [kis_token(sandbox, "get", KIS_SERVICE_NAME=name) for name in ("kis", "kis-savings")]

        assert tokens[0] != tokens[1]
        assert sandbox.kis.counts("production").issues == 2
