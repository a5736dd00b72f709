"""The shared parts of the README's tests: the page's blocks, and a new Supabase project."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg
import pytest

from kis_token.sandbox import Account, KISEmulator, Sandbox
from kis_token.sandbox.database import prepare_database
from kis_token.sandbox.postgrest import PostgRESTStandIn
from tests.github_network import GitHubNetwork
from tests.workflows.conftest import project
from tools.step import CHECKOUT

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kis_token.sandbox.database import MigratedDatabases
    from kis_token.sandbox.postgres import EmbeddedPostgres
    from tests.workflows.conftest import Project

__all__ = ["project"]


@dataclass(frozen=True)
class Block:
    """A fenced block of a page."""

    language: str
    code: str

    @property
    def file(self) -> str | None:
        """The path of a workflow, from its first line."""
        named = re.match(r"# \.github/workflows/([\w-]+\.yml)\n", self.code)
        return named[1] if named else None


def blocks_of(text: str) -> list[Block]:
    """The fenced blocks, in their order."""
    found = re.findall(r"^```(\w+)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return [Block(language, code) for language, code in found]


def read_page(name: str) -> str:
    """A page of the checkout."""
    return (CHECKOUT / name).read_text(encoding="utf-8")


class Newcomer:
    """A user with a new project, a terminal and a repository, who does exactly the steps of the page."""

    def __init__(self, project: Project, sandbox: Sandbox, network: GitHubNetwork) -> None:
        self.project = project
        self.sandbox = sandbox
        self.network = network
        account = sandbox.kis.accounts["production"][0]
        self.keys = (account.app_key, account.app_secret)
        # Stand-ins for programs that this machine lacks, or that would send requests to other machines.
        self._add_command("pip", '#!/bin/sh\ntest "$*" = "install kis-token"\n')
        gh = Path(__file__).with_name("gh.py").read_text(encoding="utf-8")
        self._add_command("gh", f"#!{sys.executable}\n{gh}")

    @property
    def github_secrets(self) -> dict[str, str]:
        """The secrets that gh has stored, or those of the last run."""
        return self._stored("secrets")

    @property
    def github_variables(self) -> dict[str, str]:
        """The variables that gh has stored."""
        return self._stored("variables")

    @property
    def variables(self) -> dict[str, str]:
        """The terminal's environment. A variable replaces KIS's own host by the sandbox's."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("KIS_", "SUPABASE_"))}
        paths = (self.project.commands, Path(sys.executable).parent, os.environ["PATH"])
        return kept | {
            "PATH": os.pathsep.join(map(str, paths)),
            "HOME": str(self.project.folder / "home"),
            "XDG_CACHE_HOME": str(self.project.folder / "home" / ".cache"),
            "KIS_BASE_URL": self.sandbox.kis.production_url,
            "NO_PROXY": "127.0.0.1",
            "no_proxy": "127.0.0.1",
        }

    @property
    def exported(self) -> dict[str, str]:
        """The variables that the set-up has exported."""
        return {"SUPABASE_URL": self.sandbox.supabase.url, "SUPABASE_SERVICE_ROLE_KEY": self.sandbox.service_key}

    def type(self, commands: str, *answers: str, **more: str) -> str:
        """Type commands into a terminal, and answers to the questions of the commands. Return the screen."""
        return self._run(["bash", "-euo", "pipefail", "-c", commands], "".join(f"{each}\n" for each in answers), more)

    def python(self, program: str, **more: str) -> str:
        """Run a program, and return its output."""
        return self._run([sys.executable, "-"], program, more)

    @property
    def way_to_github(self) -> dict[str, str]:
        """The variables by which GitHub's names lead to its stand-in."""
        names = ("HTTPS_PROXY", "https_proxy", "SSL_CERT_FILE")
        return {name: value for name, value in self.network.variables.items() if name in names}

    def run_sql(self, file: str = "kis-token.sql") -> None:
        """Run a file in the SQL editor, whose role is the project's owner."""
        with psycopg.connect(self.sandbox.owner_dsn) as connection:
            connection.execute((self.project.repository / file).read_bytes())

    def real(self, seen: str) -> str:
        """Return ``seen`` with KIS's own host."""
        real = "https://openapi.koreainvestment.com:9443"
        return seen.replace(self.sandbox.kis.production_url, real).replace("(plain http, on this machine)", "(TLS)")

    def _stored(self, kind: str) -> dict[str, str]:
        file = self.project.folder / kind
        lines = file.read_text().splitlines() if file.exists() else []
        return dict(line.split("=", 1) for line in lines)

    def _run(self, command: list[str], given: str, more: dict[str, str]) -> str:
        done = subprocess.run(
            command,
            cwd=self.project.repository,
            env=self.variables | more,
            input=given,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, done.stdout
        return done.stdout

    def _add_command(self, name: str, text: str) -> None:
        file = self.project.commands / name
        file.write_text(text)
        file.chmod(0o755)


@pytest.fixture
def newcomer(
    project: Project, postgres: EmbeddedPostgres, databases: MigratedDatabases, tmp_path: Path
) -> Iterator[Newcomer]:
    """A new user with two real accounts, a paper account, and a project with an empty database."""
    kis = KISEmulator(production=[Account(), Account()])
    dsn = postgres.create_database()
    empty = prepare_database(dsn)
    with (
        databases.borrow() as project_beside,
        Sandbox(project=project_beside, kis=kis) as sandbox,
        GitHubNetwork(tmp_path) as network,
        PostgRESTStandIn(empty.api, service_key=sandbox.service_key, anon_key=sandbox.anon_key) as stand_in,
    ):
        sandbox.owner_dsn, sandbox.supabase = empty.owner, stand_in
        # The jobs ask the sandbox's issuer: a proxy to GitHub's names would keep them from the package index.
        sandbox.github.publish(network.issuer.keys[-1])
        yield Newcomer(project, sandbox, network)
    postgres.drop_database(dsn)
