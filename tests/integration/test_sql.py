"""The migrations run on each kind of project, can be run again, and always make the same tables."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from psycopg import sql
from psycopg.rows import dict_row

from kis_token.sandbox.database import apply_migrations, migrations_folder, prepare_database
from kis_token.sandbox.postgres import EmbeddedPostgres
from tests.support import MIGRATED_TABLES, Database, issue_by_functions, make_token

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

#: The DDL of the guide.
GUIDE = """
CREATE TABLE api_credentials (
    id          BIGSERIAL PRIMARY KEY,
    service_name    TEXT NOT NULL,
    credential_type TEXT NOT NULL,
    credential_value TEXT NOT NULL,
    expires_at      TIMESTAMPTZ,
    is_active       BOOLEAN DEFAULT TRUE,
    environment     TEXT DEFAULT 'production',
    description     TEXT,
    updated_at      TIMESTAMPTZ DEFAULT NOW(),
    created_at      TIMESTAMPTZ DEFAULT NOW(),

    UNIQUE(service_name, credential_type)
);

CREATE INDEX idx_api_cred_service_active
    ON api_credentials(service_name, is_active);
CREATE INDEX idx_api_cred_expires
    ON api_credentials(expires_at);
"""

#: Rows of real tables: times without an offset, null in place of a default, broken JSON, and other services.
GUIDE_ROWS = """
insert into api_credentials
    (service_name, credential_type, credential_value, expires_at, is_active, environment, updated_at, created_at)
values
    ('kis', 'app_key', 'PSa1b2c3d4e5f6g7h8i9j0k1l2m3n4o5p6q7', null, true, 'production', '2025-01-02 03:04:05', null),
    ('kis', 'app_secret', 'c2VjcmV0+/=', null, null, null, null, null),
    ('kis', 'access_token', '{"access_token":"eyJ0', '2026-02-01 23:15:47', true, 'production', now(), now()),
    ('kis-paper', 'access_token', '{"access_token":"eyJ1","expires_at":"2026-02-01T23:15:47"}', 'infinity', false,
     'paper', '2025-01-02 03:04:05+09', '2025-01-01'),
    ('다른 서비스', 'api key', '값', null, true, '', now(), now())
"""

_SHAPE = {
    "columns": """
        select table_name::text, column_name::text, data_type::text, is_nullable::text, column_default::text
        from information_schema.columns where table_schema = 'public'""",
    "indexes": "select tablename::text, indexdef from pg_indexes where schemaname = 'public'",
    "constraints": """
        select conrelid::regclass::text, pg_get_constraintdef(oid) from pg_constraint
        where connamespace = 'public'::regnamespace and contype <> 'n'""",
    "functions": "select oid::regprocedure::text, prosrc from pg_proc where pronamespace = 'public'::regnamespace",
    "triggers": "select pg_get_triggerdef(oid) from pg_trigger where not tgisinternal",
    "policies": "select tablename::text, policyname::text, roles::text, cmd, qual, with_check from pg_policies",
    "security": """
        select relname::text, relrowsecurity from pg_class
        where relnamespace = 'public'::regnamespace and relkind in ('r', 'S')""",
}

Connection = psycopg.Connection[dict[str, Any]]


def connect(dsn: str) -> Connection:
    """A connection that returns rows as mappings and times in UTC."""
    return psycopg.connect(dsn, autocommit=True, row_factory=dict_row, options="-c TimeZone=UTC")


def shape_of(dsn: str) -> dict[str, list[str]]:
    """Return all objects of the schema public, but not their privileges."""
    with connect(dsn) as connection:
        return {
            name: sorted(str(tuple(row.values())) for row in connection.execute(query))
            for name, query in _SHAPE.items()
        }


def empty_project(postgres: EmbeddedPostgres) -> str:
    """A new project with Supabase's current default privileges."""
    return prepare_database(postgres.create_database()).owner


def legacy_project(postgres: EmbeddedPostgres) -> str:
    """A project that by default grants new tables and functions to all three roles."""
    return prepare_database(postgres.create_database(), legacy_grants=True).owner


def guides_project(postgres: EmbeddedPostgres) -> str:
    """A project in which the guide's table has rows."""
    owner = empty_project(postgres)
    with connect(owner) as connection:
        connection.execute(GUIDE)
        connection.execute(GUIDE_ROWS)
    return owner


@pytest.fixture(scope="module")
def plain(child_processes: None) -> Iterator[EmbeddedPostgres]:  # noqa: ARG001 - this fixture starts processes
    """A plain PostgreSQL server that has Supabase's three roles without attributes, and nothing else of Supabase."""
    with EmbeddedPostgres(max_connections=10) as server:
        with psycopg.connect(server.dsn) as connection:
            connection.execute("create role anon; create role authenticated; create role service_role")
        yield server


@pytest.mark.parametrize("make_project", [empty_project, legacy_project, guides_project])
def test_migrations_lead_to_one_shape(
    postgres: EmbeddedPostgres, database: Database, make_project: Callable[[EmbeddedPostgres], str]
) -> None:
    """On each kind of project, two runs of the files of sql/ lead to the same tables and functions."""
    owner = make_project(postgres)

    apply_migrations(owner, migrations_folder())
    first = shape_of(owner)
    apply_migrations(owner, migrations_folder())

    assert shape_of(owner) == first == shape_of(database.project.owner)


def test_migrations_run_on_a_plain_postgresql(plain: EmbeddedPostgres, database: Database) -> None:
    """On a PostgreSQL that has only the three roles, the files of sql/ lead to the same tables and functions."""
    dsn = plain.create_database()

    apply_migrations(dsn, migrations_folder())
    apply_migrations(dsn, migrations_folder())

    assert shape_of(dsn) == shape_of(database.project.owner)


def test_service_role_works_without_bypassing_row_level_security(plain: EmbeddedPostgres) -> None:
    """If service_role does not bypass row level security, a policy still lets service_role use the table."""
    dsn = plain.create_database()
    apply_migrations(dsn, migrations_folder())
    with connect(dsn) as connection:
        connection.execute("set role service_role")
        connection.execute(
            "insert into api_credentials (service_name, credential_type, credential_value)"
            " values ('kis', 'app_key', 'PSa1')"
        )
        connection.execute("update api_credentials set credential_value = 'PSb2'")

        assert [row["credential_value"] for row in connection.execute("select * from api_credentials")] == ["PSb2"]


def test_migrations_need_no_superuser(database: Database) -> None:
    """The owner runs the files without superuser rights, as on Supabase, and owns all tables that the files make."""
    owners = database.owner.execute(
        "select distinct r.rolname, r.rolsuper from pg_roles r join pg_class c on c.relowner = r.oid"
        " where c.relname = any (%s)",
        (list(MIGRATED_TABLES),),
    ).fetchall()

    assert owners == [{"rolname": "postgres", "rolsuper": False}]


def test_stored_rows_only_get_a_version(postgres: EmbeddedPostgres) -> None:
    """On the guide's table, the files change no stored value. Each row gets a version, which a second run keeps."""
    owner = guides_project(postgres)
    query = "select to_jsonb(c) as row from api_credentials c order by id"
    with connect(owner) as connection:
        before = [each["row"] for each in connection.execute(query)]
        apply_migrations(owner, migrations_folder())
        migrated = [each["row"] for each in connection.execute(query)]
        apply_migrations(owner, migrations_folder())
        again = [each["row"] for each in connection.execute(query)]

    versions = [row["version"] for row in migrated]
    assert [{**row, "version": version} for row, version in zip(before, versions, strict=True)] == migrated == again
    assert len(set(versions)) == len(before) == 5


def test_guides_rows_can_be_written_afterwards(postgres: EmbeddedPostgres) -> None:
    """After the migrations, an update of a row from the guide's table sets a new version and the database's time."""
    owner = guides_project(postgres)
    apply_migrations(owner, migrations_folder())
    with connect(owner) as connection:
        old = connection.execute("select max(version) as version from api_credentials").fetchall()[0]["version"]
        rows = connection.execute(
            "update api_credentials set is_active = true where is_active is null"
            " returning version, updated_at > clock_timestamp() - interval '1 minute' as touched"
        ).fetchall()

    assert [(row["version"] > old, row["touched"]) for row in rows] == [(True, True)]


def test_columns_and_indexes_are_the_guides(database: Database) -> None:
    """The table has the guide's columns and indexes, a column version, and a unique index on service and type."""
    columns = database.owner.execute(
        "select column_name, data_type from information_schema.columns"
        " where table_name = 'api_credentials' order by ordinal_position"
    ).fetchall()
    indexes = database.owner.execute("select indexname from pg_indexes where tablename = 'api_credentials'").fetchall()

    assert {row["column_name"]: row["data_type"] for row in columns} == {
        "id": "bigint",
        "service_name": "text",
        "credential_type": "text",
        "credential_value": "text",
        "expires_at": "timestamp with time zone",
        "is_active": "boolean",
        "environment": "text",
        "description": "text",
        "updated_at": "timestamp with time zone",
        "created_at": "timestamp with time zone",
        "version": "bigint",
    }
    assert {row["indexname"] for row in indexes} == {
        "api_credentials_pkey",
        "api_credentials_service_name_credential_type_key",
        "idx_api_cred_service_active",
        "idx_api_cred_expires",
    }


def test_everything_is_commented(database: Database) -> None:
    """Each table and each of its columns has a comment."""
    silent = database.owner.execute(
        """
        select c.relname, a.attname from pg_class c
        join pg_attribute a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
        where c.relnamespace = 'public'::regnamespace and c.relkind = 'r'
          and (obj_description(c.oid) is null or col_description(c.oid, a.attnum) is null)
        """
    ).fetchall()

    assert silent == []


def test_a_row_with_defaults_is_active_and_of_production(database: Database) -> None:
    """A column that a client does not name gets the guide's default."""
    database.service.execute(
        "insert into api_credentials (service_name, credential_type, credential_value)"
        " values ('kis', 'app_key', 'PSa1')"
    )

    row = database.owner.execute("select * from api_credentials").fetchall()[0]
    assert (row["is_active"], row["environment"], row["expires_at"]) == (True, "production", None)
    assert row["created_at"] is not None


def test_one_row_for_each_service_and_type(database: Database) -> None:
    """A second row with the same service and type raises UniqueViolation."""
    database.put("app_key", "PSa1")
    with pytest.raises(psycopg.errors.UniqueViolation):
        database.service.execute(
            "insert into api_credentials (service_name, credential_type, credential_value)"
            " values ('kis', 'app_key', 'PSb2')"
        )


UNCONSTRAINED = GUIDE.replace(",\n\n    UNIQUE(service_name, credential_type)", "")


def unique_indexes(database: Database) -> list[str]:
    """Return the unique indexes of api_credentials except the primary key's index."""
    rows = database.owner.execute(
        "select indexdef from pg_indexes"
        " where tablename = 'api_credentials' and indexdef ~ 'UNIQUE' and indexdef !~ 'pkey'"
    )
    return [row["indexdef"].partition(" USING ")[2] for row in rows]


def test_table_that_lacks_the_constraint_gets_it(postgres: EmbeddedPostgres) -> None:
    """If a table lacks the unique constraint, the files add one unique index, because all writes need it.

    The guide's table keeps its own constraint.
    """
    for ddl in (UNCONSTRAINED, GUIDE, ""):
        project = prepare_database(postgres.create_database())
        with psycopg.connect(project.owner) as connection:
            connection.execute(ddl.encode())
        apply_migrations(project.owner, migrations_folder())
        apply_migrations(project.owner, migrations_folder())
        with Database(project) as database:
            assert unique_indexes(database) == ["btree (service_name, credential_type)"]
            issue_by_functions(database, make_token())


def test_credential_that_is_there_twice_is_named(postgres: EmbeddedPostgres) -> None:
    """If a credential has two rows, the migration stops without a change and names the credential."""
    project = prepare_database(postgres.create_database())
    with psycopg.connect(project.owner, autocommit=True) as connection:
        connection.execute(UNCONSTRAINED.encode())
        connection.execute(
            "insert into api_credentials (service_name, credential_type, credential_value)"
            " values ('kis', 'app_key', 'PSa1'), ('kis', 'app_key', 'PSb2')"
        )
        with pytest.raises(psycopg.errors.UniqueViolation, match="holds a credential twice") as caught:
            apply_migrations(project.owner, migrations_folder())
        assert "(kis, app_key)" in (caught.value.diag.message_detail or "")
        assert "Delete" not in f"{caught.value}"
        assert "PSa1" not in f"{caught.value}"
        assert connection.execute("select count(*) from api_credentials").fetchall() == [(2,)]
        assert connection.execute("select to_regclass('credential_leases')").fetchall() == [(None,)]


@pytest.mark.parametrize(
    ("change", "matters"),
    [
        ("credential_value = 'other'", True),
        ("expires_at = expires_at + interval '1 second'", True),
        ("expires_at = null", True),
        ("is_active = false", True),
        ("is_active = null", True),
        ("credential_value = credential_value, expires_at = expires_at, is_active = is_active", False),
        ("description = 'of the second account'", False),
        ("environment = 'paper'", False),
        ("version = 1, updated_at = '2001-01-01'", False),
        ("updated_at = now() + interval '1 day', version = version + 5", False),
    ],
)
def test_version_follows_what_matters(database: Database, change: str, matters: bool) -> None:  # noqa: FBT001 - a table
    """The columns version and updated_at change only with value, expires_at or is_active, whatever a client sends."""
    database.put_token(make_token())
    before = database.row()

    database.service.execute(sql.SQL("update api_credentials set {}").format(sql.SQL(change)))

    after = database.row()
    assert (after["version"] > before["version"], after["updated_at"] > before["updated_at"]) == (matters, matters)
    assert matters or (after["version"], after["updated_at"]) == (before["version"], before["updated_at"])


def test_clients_do_not_choose_version_and_time(database: Database) -> None:
    """If a client sends a version or an updated_at, the database ignores the sent value and sets its own value."""
    database.service.execute(
        "insert into api_credentials (service_name, credential_type, credential_value, version, updated_at)"
        " values ('kis', 'access_token', '{}', 1, '2001-01-01')"
    )
    inserted = database.row()
    database.service.execute(
        "update api_credentials set credential_value = '{ }', version = 1, updated_at = '2001-01-01'"
    )
    updated = database.row()

    assert 1 < inserted["version"] < updated["version"]
    assert datetime.now(timezone.utc) - inserted["updated_at"] < timedelta(minutes=1)
    assert inserted["updated_at"] < updated["updated_at"]


def test_a_row_made_again_is_another_version(database: Database) -> None:
    """If a row is deleted and stored again with the same content, the new row gets a new version."""
    token = make_token()
    seen = set()
    for _ in range(3):
        seen.add(database.put_token(token))
        database.service.execute("delete from api_credentials")

    assert len(seen) == 3
