"""A PostgREST stand-in on the database of a separate project, and clients of the stand-in."""

from __future__ import annotations

from typing import TYPE_CHECKING

import httpx
import pytest

from kis_token.sandbox.database import Project, prepare_database
from kis_token.sandbox.postgrest import PostgRESTStandIn
from tests.sandbox.notes_project import ANON_KEY, LEGACY_KEY, SCHEMA, SERVICE_KEY, connect, execute

if TYPE_CHECKING:
    from collections.abc import Iterator

    from supabase import Client

    from kis_token.sandbox.postgres import EmbeddedPostgres


@pytest.fixture(scope="module")
def project(postgres: EmbeddedPostgres) -> Project:
    """A project in the present form of Supabase, with the tables and functions of SCHEMA."""
    project = prepare_database(postgres.create_database())
    execute(project.owner, SCHEMA)
    return project


@pytest.fixture(scope="module")
def server(project: Project) -> Iterator[PostgRESTStandIn]:
    """The stand-in on the fixture ``project``."""
    with PostgRESTStandIn(
        project.api, service_key=SERVICE_KEY, anon_key=ANON_KEY, further_keys={LEGACY_KEY: "service_role"}
    ) as server:
        yield server


@pytest.fixture(scope="module")
def service(server: PostgRESTStandIn) -> Iterator[Client]:
    """A client with the secret key."""
    with connect(server.url, SERVICE_KEY) as client:
        yield client


@pytest.fixture(scope="module")
def http(server: PostgRESTStandIn) -> Iterator[httpx.Client]:
    """A plain HTTP client with the secret key."""
    with httpx.Client(base_url=f"{server.url}/rest/v1/", headers={"apikey": SERVICE_KEY}, timeout=20) as client:
        yield client


@pytest.fixture
def empty_tables(project: Project) -> None:
    """Reset the tables of the project to the state after SCHEMA."""
    execute(
        project.owner,
        """
        truncate notes restart identity;
        truncate public_notes, parents, children;
        insert into public_notes values (1, true), (2, false);
        """,
    )
