"""A laptop on which ``kis-token init`` runs, and a new Supabase project."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg
import pytest

from kis_token.sandbox import Account, KISEmulator, Sandbox
from kis_token.sandbox.database import apply_migrations, migrations_folder, prepare_database
from kis_token.sandbox.postgrest import PostgRESTStandIn
from tests.command import kis_token_here
from tests.github_network import GitHubNetwork
from tests.workflows.conftest import add_command

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kis_token.sandbox.database import MigratedDatabases
    from kis_token.sandbox.postgres import EmbeddedPostgres


class Laptop:
    """A user's machine. ``repository`` is a folder without git, and ``commands`` has stand-ins for commands."""

    def __init__(self, folder: Path, sandbox: Sandbox) -> None:
        self.folder = folder
        self.sandbox = sandbox
        self.account = sandbox.kis.accounts["production"][0]
        self.repository = folder / "bot"
        self.commands = folder / "commands"
        self.more: dict[str, str] = {}
        for each in (self.repository, self.commands):
            each.mkdir()

    @property
    def empty(self) -> dict[str, str]:
        """The variables of a new terminal. KIS_BASE_URL names the sandbox."""
        home = self.folder / "home"
        return {
            "PATH": f"{self.commands}{os.pathsep}{os.defpath}",
            "HOME": str(home),
            "XDG_CACHE_HOME": str(home / ".cache"),
            "XDG_CONFIG_HOME": str(home / ".config"),
            "KIS_BASE_URL": self.sandbox.kis.production_url,
            "NO_PROXY": "127.0.0.1",
            "no_proxy": "127.0.0.1",
            **self.more,
        }

    @property
    def project(self) -> dict[str, str]:
        """The variables of the project."""
        return {"SUPABASE_URL": self.sandbox.supabase.url, "SUPABASE_SERVICE_ROLE_KEY": self.sandbox.service_key}

    @property
    def keys(self) -> dict[str, str]:
        """The variables of the account."""
        return {"KIS_APP_KEY": self.account.app_key, "KIS_APP_SECRET": self.account.app_secret}

    def run(self, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
        """Run ``kis-token`` in a new terminal with the variables ``env``."""
        return kis_token_here(self.empty | env, *arguments)

    def init(self, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
        """Run ``kis-token init --yes`` for the repository's folder, with the variables of the project and ``env``."""
        given = ("init", "--yes", "--directory", str(self.repository), *arguments)
        return self.run(*given, **{**self.project, **env})

    def workflow(self, name: str) -> Path:
        """The path of a workflow's file."""
        return self.repository / ".github" / "workflows" / name

    @property
    def sql_file(self) -> Path:
        """The file with the SQL to paste."""
        return self.folder / "home" / ".cache" / "kis-token" / "kis-token-init.sql"

    def paste_sql(self) -> None:
        """Run ``sql_file`` as the project's owner, as the SQL editor does."""
        with psycopg.connect(self.sandbox.owner_dsn, autocommit=True) as connection:
            connection.execute(self.sql_file.read_bytes())

    def make_tables(self) -> None:
        """Run the files of sql/."""
        apply_migrations(self.sandbox.owner_dsn, migrations_folder())

    def install_gh(self) -> None:
        """Install a gh that is signed in."""
        add_command(self.commands, "gh", Path(__file__).with_name("gh.py").read_text(encoding="utf-8"))

    def gh_has(self, kind: str) -> dict[str, str]:
        """The repository's variables or secrets."""
        file = self.commands / f"{kind}s"
        return dict(line.split("=", 1) for line in file.read_text().splitlines()) if file.exists() else {}

    def use_git(self, remote: str) -> None:
        """Make the folder a git repository with the remote ``origin``."""
        for words in (["init", "--quiet"], ["remote", "add", "origin", remote]):
            subprocess.run(["git", *words], cwd=self.repository, check=True)

    @property
    def slot(self) -> dict[str, str]:
        """The stored rows of the slot kis, by their type."""
        with psycopg.connect(self.sandbox.owner_dsn) as connection:
            return dict(
                connection.execute(
                    "select credential_type, credential_value from api_credentials where service_name = 'kis'"
                ).fetchall()
            )


@pytest.fixture
def laptop(tmp_path: Path, postgres: EmbeddedPostgres, databases: MigratedDatabases) -> Iterator[Laptop]:
    """A laptop on the first day: the project's database has no tables of this project."""
    dsn = postgres.create_database()
    empty = prepare_database(dsn)
    kis = KISEmulator(production=[Account(), Account()])
    with (
        databases.borrow() as project_beside,
        Sandbox(project=project_beside, kis=kis) as sandbox,
        PostgRESTStandIn(empty.api, service_key=sandbox.service_key, anon_key=sandbox.anon_key) as stand_in,
    ):
        sandbox.owner_dsn, sandbox.supabase = empty.owner, stand_in
        yield Laptop(tmp_path, sandbox)
    postgres.drop_database(dsn)


@pytest.fixture
def ready_laptop(laptop: Laptop) -> Laptop:
    """A laptop whose project has the tables."""
    laptop.make_tables()
    return laptop


@pytest.fixture
def network(tmp_path: Path, laptop: Laptop) -> Iterator[GitHubNetwork]:
    """A stand-in for GitHub, which the laptop reaches under GitHub's own host names."""
    with GitHubNetwork(tmp_path) as network:
        names = ("HTTPS_PROXY", "https_proxy", "SSL_CERT_FILE", "GH_TOKEN", "GITHUB_TOKEN")
        laptop.more = {name: value for name, value in network.variables.items() if name in names}
        yield network
