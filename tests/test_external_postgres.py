"""If a PostgreSQL and a PostgREST are given, the tests use only these two."""

from __future__ import annotations

import os
import subprocess
from typing import TYPE_CHECKING

import psycopg
import pytest

from kis_token.sandbox.database import prepare_database
from kis_token.sandbox.postgres import EmbeddedPostgres
from kis_token.sandbox.postgrest import PostgRESTStandIn
from tests.command import PYTEST
from tests.external_postgres import sign
from tools.step import CHECKOUT

if TYPE_CHECKING:
    from pathlib import Path

JWT_SECRET = "made-up-for-the-tests-at-least-32-characters"

#: Some of the tests that run with a real PostgREST. Together, the tests in this list make each kind of request, also on
#: a separate database.
TESTS = [
    "tests/integration/test_sql.py::test_migrations_need_no_superuser",
    "tests/store/test_supabase.py::test_a_lease_is_two_requests",
    "tests/store/test_supabase.py::test_reads_of_other_rows",
    "tests/store/test_supabase.py::test_values_may_hold_anything",
    "tests/store/test_supabase.py::test_wrong_keys",
    "tests/store/test_supabase.py::test_missing_parts_of_the_database",
]


@pytest.mark.usefixtures("child_processes")
def test_given_servers_are_used(tmp_path: Path) -> None:
    """Migrations and rows are in the given database, and requests reach the given server with a JWT of the role.

    The stand-in takes the place of the given PostgREST. The stand-in accepts only two tokens, which are signed with the
    given secret.
    """
    service, anon = (sign({"role": role}, JWT_SECRET) for role in ("service_role", "anon"))
    with EmbeddedPostgres() as postgres:
        project = prepare_database(postgres.dsn)
        with PostgRESTStandIn(project.api, service_key=service, anon_key=anon) as server:
            given = {
                "KIS_TESTS_DSN": postgres.dsn,
                "KIS_TESTS_POSTGREST_URL": f"{server.url}/rest/v1",
                "KIS_TESTS_JWT_SECRET": JWT_SECRET,
            }
            done = subprocess.run(
                [*PYTEST, "-q", f"--basetemp={tmp_path / 'inner'}", *TESTS],
                cwd=CHECKOUT,
                env=os.environ | given,
                capture_output=True,
                text=True,
                timeout=120,
                check=False,
            )
            seen = [(request.method, request.path) for request in server.server.seen]
        with psycopg.connect(project.owner) as connection:
            tables = connection.execute("select to_regclass('public.api_credentials') is not null").fetchone()

    assert done.returncode == 0, done.stdout[-3000:]
    assert tables == (True,)
    assert seen[0] == ("POST", "/rest/v1/rpc/check_setup")
    assert {("GET", "/rest/v1/api_credentials"), ("POST", "/rest/v1/rpc/commit_issuance")} < set(seen)
