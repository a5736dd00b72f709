"""A project's database: its grants, its owner, and the files of sql/ in their order."""

from __future__ import annotations

from typing import TYPE_CHECKING

import httpx
import psycopg
import pytest

from kis_token.sandbox.database import Project, apply_migrations, migrations_folder, prepare_database
from kis_token.sandbox.postgrest import PostgRESTStandIn
from tests.sandbox.notes_project import ANON_KEY, SERVICE_KEY, execute

if TYPE_CHECKING:
    from pathlib import Path

    from kis_token.sandbox.postgres import EmbeddedPostgres


@pytest.mark.parametrize(("legacy_grants", "status"), [(False, 403), (True, 200)])
def test_grants_of_new_and_old_projects(postgres: EmbeddedPostgres, legacy_grants: bool, status: int) -> None:  # noqa: FBT001 - a column of the table
    """A new table is closed to service_role in today's projects, and open to service_role in older projects.

    If the database is prepared again, nothing changes.
    """
    dsn = postgres.create_database()
    prepare_database(dsn, legacy_grants=legacy_grants)
    project = prepare_database(dsn)
    execute(project.owner, "create table made_later (id int)")

    with PostgRESTStandIn(project.api, service_key=SERVICE_KEY, anon_key=ANON_KEY) as server:
        answer = httpx.get(f"{server.url}/rest/v1/made_later", headers={"apikey": SERVICE_KEY})

    assert answer.status_code == status


def test_owner_is_not_a_superuser(project: Project) -> None:
    """Migrations run with the same rights as on Supabase: with an owner's rights, and without a superuser's."""
    with psycopg.connect(project.owner) as connection:
        assert connection.execute("show is_superuser").fetchall() == [("off",)]


def test_migrations(postgres: EmbeddedPostgres, tmp_path: Path) -> None:
    """Only *.sql files run, in the order of their names, and a file that fails changes nothing."""
    owner = prepare_database(postgres.create_database()).owner
    (tmp_path / "002_b.sql").write_text(
        "insert into log values ('둘 100%'); do $$ begin insert into log values ('3'); end $$;"
        "notify pgrst, 'reload schema';",
        encoding="utf-8",
    )
    (tmp_path / "001_a.sql").write_text("create table log (entry text);", encoding="utf-8")
    (tmp_path / "README.md").write_text("not SQL", encoding="utf-8")
    (tmp_path / "003_c.sql").write_text("insert into log values ('4'); select 1 / 0;", encoding="utf-8")

    with pytest.raises(psycopg.errors.DivisionByZero):
        apply_migrations(owner, tmp_path)

    with psycopg.connect(owner) as connection:
        assert connection.execute("select entry from log").fetchall() == [("둘 100%",), ("3",)]


def test_migrations_are_found() -> None:
    """In a checkout the project's own migrations are found."""
    assert sorted(migrations_folder().glob("*.sql"))
