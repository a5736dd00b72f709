"""The kind of table that api_credentials must be, and a user's own functions that have the names of our functions."""

from __future__ import annotations

from typing import TYPE_CHECKING

import psycopg
import pytest
from psycopg import sql

from kis_token.sandbox.database import apply_migrations, migrations_folder, prepare_database
from tests.support import Database

if TYPE_CHECKING:
    from collections.abc import Callable

    from kis_token.sandbox.postgres import EmbeddedPostgres

_COLUMNS = """
    id bigserial, service_name text not null, credential_type text not null, credential_value text not null,
    expires_at timestamptz, is_active boolean default true, environment text default 'production', description text,
    updated_at timestamptz default now(), created_at timestamptz default now()
"""
_TABLE = f"create table public.api_credentials ({_COLUMNS}, unique (service_name, credential_type))"

#: Kinds of tables whose rows can be read through another table's rights, each with the error message.
OTHER_KINDS = {
    "partitioned": (
        (
            f"create table public.api_credentials ({_COLUMNS}) partition by list (service_name);"
            " create table public.of_kis partition of public.api_credentials for values in ('kis')"
        ),
        "api_credentials is a partitioned table, has the child of_kis",
    ),
    "with children": (
        f"{_TABLE}; create table public.archive () inherits (public.api_credentials)",
        "api_credentials has the child archive",
    ),
    "a child": (
        (
            f"create table public.everything ({_COLUMNS}); create table public.api_credentials ("
            " unique (service_name, credential_type)) inherits (public.everything)"
        ),
        "api_credentials is a child of everything",
    ),
    "a partition": (
        (
            f"create table public.everything ({_COLUMNS}) partition by list (service_name);"
            " create table public.api_credentials partition of public.everything default"
        ),
        "api_credentials is a child of everything",
    ),
    "a view": (
        f"create table public.hidden ({_COLUMNS}); create view public.api_credentials as table public.hidden",
        "api_credentials is a view",
    ),
    "a materialized view": (
        (
            f"create table public.hidden ({_COLUMNS});"
            " create materialized view public.api_credentials as table public.hidden"
        ),
        "api_credentials is a materialized view",
    ),
    "a foreign table": (None, "api_credentials is a foreign table"),
}

FOREIGN = f"""
create foreign data wrapper nowhere; create server nowhere foreign data wrapper nowhere;
create foreign table public.api_credentials ({_COLUMNS.replace("bigserial", "bigint")}) server nowhere
"""


@pytest.mark.parametrize("kind", OTHER_KINDS)
def test_another_kind_of_table_is_refused(postgres: EmbeddedPostgres, kind: str) -> None:
    """If api_credentials is not an ordinary table, the first file stops without a change and names the remedy."""
    statement, said = OTHER_KINDS[kind]
    dsn = postgres.create_database()
    project = prepare_database(dsn)
    with psycopg.connect(dsn if statement is None else project.owner, autocommit=True) as connection:
        connection.execute(sql.SQL(statement or FOREIGN))
    with psycopg.connect(project.owner, autocommit=True) as connection:
        with pytest.raises(psycopg.errors.WrongObjectType) as caught:
            apply_migrations(project.owner, migrations_folder())
        assert caught.value.diag.message_primary == said
        assert "rename to" in (caught.value.diag.message_hint or "")
        assert connection.execute("select to_regclass('credential_leases')").fetchall() == [(None,)]
        columns = (
            "select from information_schema.columns where table_name = 'api_credentials' and column_name = 'version'"
        )
        assert connection.execute(columns).fetchall() == []


def test_the_remedy_of_the_hint_works(postgres: EmbeddedPostgres) -> None:
    """After the hint's steps, an ordinary table has the rows with versions, and check_setup finds no difference."""
    project = prepare_database(postgres.create_database())
    with Database(project) as database:
        database.owner.execute(sql.SQL(OTHER_KINDS["partitioned"][0] or ""))
        database.owner.execute(
            "insert into api_credentials (service_name, credential_type, credential_value)"
            " values ('kis', 'app_key', 'PS')"
        )
        database.owner.execute("alter table public.api_credentials rename to older_credentials")
        apply_migrations(project.owner, migrations_folder())
        database.owner.execute(
            "insert into api_credentials (service_name, credential_type, credential_value, expires_at, is_active)"
            " select service_name, credential_type, credential_value, expires_at, is_active from older_credentials"
        )
        database.owner.execute("drop table older_credentials")

        assert database.call("check_setup") == []
        rows = database.owner.execute("select credential_value, version > 0 as versioned from api_credentials")
        assert rows.fetchall() == [{"credential_value": "PS", "versioned": True}]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            "create table public.archive () inherits (public.api_credentials)",
            "api_credentials has the child public.archive, with rights of its own",
        ),
        (
            (
                "create table public.everything (service_name text not null);"
                " alter table public.api_credentials inherit public.everything"
            ),
            "api_credentials is a child of public.everything, which has rights of its own",
        ),
        (
            (
                "alter table public.api_credentials rename to elsewhere;"
                " create view public.api_credentials as table public.elsewhere"
            ),
            "api_credentials is not an ordinary table: its rights do not cover all its rows",
        ),
    ],
    ids=["a child", "a parent", "a view"],
)
def test_check_reports_a_table_that_became_of_another_kind(
    make_database: Callable[[], Database], change: str, said: str
) -> None:
    """If a migrated table is changed to a kind that the first file refuses, check_setup() reports the kind."""
    database = make_database()
    database.owner.execute(sql.SQL(change))

    assert {"what": "tables", "said": said} in database.call("check_setup")
    with pytest.raises(psycopg.errors.WrongObjectType):
        apply_migrations(database.project.owner, migrations_folder())


#: A user's own functions, which have the names of our functions.
THEIR_OWN = (
    "public.save_token(text)",
    "public.issuance_report(text)",
    "public.issuance_lock(text, text)",
    "public.reseal(integer)",
    "public.prune_issuances()",
)


def test_functions_of_a_project_s_own_are_left_alone(postgres: EmbeddedPostgres) -> None:
    """The files change no rights on a user's own functions, and check_setup() does not report these functions."""
    project = prepare_database(postgres.create_database())
    with Database(project) as database:
        for each in THEIR_OWN:
            database.owner.execute(
                sql.SQL("create function {} returns text language sql as 'select null::text'").format(sql.SQL(each))
            )
            database.owner.execute(sql.SQL("grant execute on function {} to anon").format(sql.SQL(each)))
        for _ in range(2):
            apply_migrations(project.owner, migrations_folder())

        may = [
            row["may"]
            for each in THEIR_OWN
            for row in database.owner.execute("select has_function_privilege('anon', %s, 'execute') as may", (each,))
        ]
        assert may == [True] * len(THEIR_OWN)
        assert database.call("check_setup") == []


def test_all_our_functions_are_looked_at(make_database: Callable[[], Database]) -> None:
    """If anon may call all functions, check_setup() reports each function of the files except the keyless functions.

    If anon and authenticated may not call a keyless function, check_setup() reports the missing right.
    """
    database = make_database()
    keyless = {"keyless_read", "keyless_begin", "keyless_commit", "keyless_abort"}
    database.owner.execute("grant execute on all functions in schema public to anon")
    rows = database.owner.execute(
        "select proname as name from pg_proc where pronamespace = 'public'::regnamespace"
        " and prorettype <> 'trigger'::regtype and proname <> 'check_setup'"
    ).fetchall()

    said = {fault["said"] for fault in database.call("check_setup")}
    assert {f"anon may call {row['name']}" for row in rows} - said == {f"anon may call {name}" for name in keyless}

    database.owner.execute("revoke execute on all functions in schema public from anon, authenticated")
    assert {fault["said"] for fault in database.call("check_setup")} == {
        f"{role} may not call {name}" for role in ("anon", "authenticated") for name in keyless
    }
