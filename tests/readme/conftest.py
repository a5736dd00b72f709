"""Fixtures for the tests of the pages: a user with a new Supabase project and a repository."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from kis_token.sandbox import Account, KISEmulator, Sandbox
from kis_token.sandbox.database import prepare_database
from kis_token.sandbox.postgrest import PostgRESTStandIn
from tests.github_network import GitHubNetwork
from tests.readme.newcomer import Newcomer
from tests.workflows.conftest import project

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from kis_token.sandbox.database import MigratedDatabases
    from kis_token.sandbox.postgres import EmbeddedPostgres
    from tests.workflows.conftest import Project

__all__ = ["project"]


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
        # The jobs use the sandbox's issuer: a proxy for GitHub's host names would prevent access to the package index.
        sandbox.github.publish(network.issuer.keys[-1])
        yield Newcomer(project, sandbox, network)
    postgres.drop_database(dsn)
