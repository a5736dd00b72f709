"""A project without tables, and a job that is listed as a keyless caller."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from kis_token.sandbox.database import prepare_database
from tests.keyless import Job, trust
from tests.support import Database

if TYPE_CHECKING:
    from collections.abc import Iterator

    import psycopg

    from kis_token.sandbox.github_issuer import GitHubIssuer
    from kis_token.sandbox.postgres import EmbeddedPostgres


@pytest.fixture(scope="module")
def bare(postgres: EmbeddedPostgres) -> Iterator[Database]:
    """A project without tables, which is shared by the tests of a module."""
    dsn = postgres.create_database()
    with Database(prepare_database(dsn)) as database:
        yield database
    postgres.drop_database(dsn)


@pytest.fixture(scope="module")
def anon(migrated: Database) -> Iterator[psycopg.Connection[tuple[Any, ...]]]:
    """A connection with the public key's role."""
    with migrated.connect_as("anon") as connection:
        yield connection


@pytest.fixture
def job(database: Database, github: GitHubIssuer, anon: psycopg.Connection[tuple[Any, ...]]) -> Job:
    """A job that is listed with the access ``issue`` for a slot with keys."""
    database.put_keys()
    trust(database, github, access="issue")
    return Job(anon, github)
