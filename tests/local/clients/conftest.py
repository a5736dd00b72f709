"""The environment of the real clients: an emulated KIS that has issued one token, and a home folder."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from kis_token.config import Settings
from kis_token.kis.api import KISIssuer
from kis_token.local.token_files import export
from kis_token.sandbox.emulator import KISEmulator
from kis_token.sandbox.kis_http import PRICE_PATH
from kis_token.token import AppKey
from tests.support import SERVICE_KEY, utc_now

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from kis_token.sandbox.kis_rules import Environment
    from kis_token.token import Token

HTS_ID = "someone"


@dataclass
class Machine:
    """One user's home folder on a machine whose only network peer is the emulated KIS."""

    kis: KISEmulator
    home: Path

    def app_key(self, environment: Environment) -> AppKey:
        """The account's keys."""
        account = self.kis.accounts[environment][0]
        return AppKey(account.app_key, account.app_secret)

    def issue(self, environment: Environment) -> Token:
        """Make the only expected tokenP call."""
        url = self.kis.server(environment).url
        return KISIssuer(url, environment).issue(self.app_key(environment), utc_now())

    def write(self, client: str, environment: Environment) -> Token:
        """Issue a token and write the file of ``client``."""
        token = self.issue(environment)
        settings = Settings.from_env(
            {
                "SUPABASE_URL": "https://example.supabase.co",
                "SUPABASE_SERVICE_ROLE_KEY": SERVICE_KEY,
                "KIS_ENVIRONMENT": environment,
                "KIS_HTS_ID": HTS_ID,
                "KIS_TOKEN_CACHE": "off",
                "INPUT_TOKEN_FILES": client,
            }
        )
        export(token, self.app_key(environment), settings, {"HOME": str(self.home)}, utc_now())
        return token

    def run(self, program: str, environment: Environment) -> subprocess.CompletedProcess[str]:
        """Run a program with this home folder and the account's keys. ``calls`` and ``quotes`` count the requests."""
        env = {
            "PATH": os.environ["PATH"],
            "HOME": str(self.home),
            "KIS_HTS_ID": HTS_ID,
            "ENVIRONMENT": environment,
            "REAL_URL": self.kis.production_url,
            "PAPER_URL": self.kis.paper_url,
        }
        for prefix, app_key in (("KIS_REAL", self.app_key("production")), ("KIS_PAPER", self.app_key("paper"))):
            env |= {f"{prefix}_APP_KEY": app_key.key, f"{prefix}_APP_SECRET": app_key.secret}
        return subprocess.run(
            [sys.executable, "-c", program],
            env=env,
            cwd=self.home,
            capture_output=True,
            text=True,
            timeout=60,
            umask=0o077,  # with the usual umask, python-kis makes a file that all users can read
            check=False,
        )

    def calls(self) -> int:
        """The number of tokenP calls in both environments."""
        return self.kis.counts("production").calls + self.kis.counts("paper").calls

    def quotes(self, environment: Environment) -> int:
        """The number of answered quotations, each of which needs a valid token."""
        return sum(
            seen.environment == environment and seen.path == PRICE_PATH and (seen.status, seen.code) == (200, None)
            for seen in self.kis.requests
        )


@pytest.fixture
def machine(tmp_path: Path, child_processes: None) -> Iterator[Machine]:  # noqa: ARG001 - it starts processes
    """A home folder and a KIS that knows one real and one paper account."""
    home = tmp_path / "home"
    home.mkdir()
    with KISEmulator() as kis:
        yield Machine(kis, home)
