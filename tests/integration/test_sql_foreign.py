"""The files of sql/ correct a table of another program if no value changes. check_setup() reports later changes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from psycopg import sql

from tests.integration.foreign_tables import (
    KEYS,
    PAIR,
    STORED,
    UNIQUE,
    assert_works,
    insert,
    migrate,
    prepare,
    refusal,
    table,
    values,
)

if TYPE_CHECKING:
    from tests.support import Database


MENDED = {
    "varchar(255)": [table(UNIQUE, credential_value="varchar(255) not null"), KEYS],
    "varchar everywhere": [
        table(
            UNIQUE,
            service_name="varchar(20) not null",
            credential_type="varchar(12) not null",
            credential_value="varchar(300) not null",
            environment="varchar(10) default 'production'",
            description="varchar(30)",
        ),
        KEYS,
    ],
    "char": [table(UNIQUE, service_name="char(20) not null", credential_value="char(300) not null"), KEYS],
    "enums": [
        (
            "create type kind as enum ('app_key', 'app_secret', 'access_token');"
            " create type stage as enum ('production', 'development')"
        ),
        table(UNIQUE, credential_type="kind not null", environment="stage default 'production'"),
        KEYS,
    ],
    "a domain": [
        "create domain secret as varchar(255) not null",
        table(UNIQUE, credential_value="secret"),
        KEYS,
    ],
    "no id": [table(UNIQUE, without=("id",)), KEYS],
    "no id, another primary key": [table("primary key (service_name, credential_type)", without=("id",)), KEYS],
    "three columns": [
        table(without=("id", "expires_at", "is_active", "environment", "description", "updated_at", "created_at")),
        KEYS,
    ],
    "an id that its program makes": [table(UNIQUE, id="uuid primary key"), insert(*PAIR, id="gen_random_uuid()")],
    "an id of text": [table(UNIQUE, id="text primary key"), insert(*PAIR, id="gen_random_uuid()::text")],
    "an id that is always generated": [table(UNIQUE, id="integer generated always as identity primary key"), KEYS],
    "an end as text, and none stored": [table(UNIQUE, expires_at="text default 'x'"), insert(*PAIR, expires_at="null")],
    "an end without a zone, and none stored": [table(UNIQUE, expires_at="timestamp"), KEYS],
    "a version of its own": [table(UNIQUE, version="bigint"), KEYS, "update api_credentials set version = 7"],
    "a version that some rows lack": [table(UNIQUE, version="bigint"), KEYS],
    "other times without a zone": [
        table(UNIQUE, updated_at="timestamp default now()", created_at="timestamp default now()"),
        KEYS,
    ],
    "unique while active": [
        table(),
        "create unique index on api_credentials (service_name, credential_type) where is_active",
        KEYS,
    ],
    "an index of that name": [table(), "create index idx_api_cred_service_type on api_credentials (id)", KEYS],
    "unique by environment": [table("unique (service_name, credential_type, environment)"), KEYS],
}


@pytest.mark.parametrize("case", MENDED)
def test_a_difference_that_loses_nothing_is_corrected(bare: Database, case: str) -> None:
    """Two runs of the files change no stored value, and after the runs a token can be stored."""
    database = prepare(bare, *MENDED[case])
    migrate(database)
    migrate(database)

    assert values(database) == STORED
    rows = database.owner.execute("select version from api_credentials where version is null").fetchall()
    assert rows == []
    assert_works(database)


def test_an_empty_table_of_any_types_is_corrected(bare: Database) -> None:
    """An empty table gets the right types, because no value can be lost."""
    ddl = table(
        UNIQUE, credential_value="jsonb not null default '{}'", expires_at="bigint", is_active="integer default 1"
    )
    database = prepare(bare, ddl)
    migrate(database)
    assert_works(database)
    row = database.owner.execute(
        "insert into api_credentials (service_name, credential_type, credential_value)"
        " values ('x', 'y', 'z') returning is_active"
    )
    assert row.fetchall() == [{"is_active": True}]


@pytest.mark.parametrize(
    "dependent",
    [
        "create view shown as select service_name, credential_value from api_credentials",
        "create policy own on api_credentials using (credential_value <> '')",
        """create function f() returns trigger language plpgsql as 'begin return new; end';
        create trigger t before update of credential_value on api_credentials for each row execute function f()""",
    ],
    ids=["a view", "a policy", "a trigger"],
)
def test_an_object_that_depends_on_a_column_is_named(bare: Database, dependent: str) -> None:
    """If another object uses a column, PostgreSQL does not change the column's type. The message quotes PostgreSQL."""
    database = prepare(bare, table(UNIQUE, credential_value="varchar(255) not null"), KEYS, dependent)
    message = refusal(database)

    assert "credential_value is character varying(255), not text" in message
    assert "PostgreSQL refuses" in message
    assert "credential_value" in message.partition("PostgreSQL refuses")[2]


def test_a_view_on_a_long_enough_column_is_no_obstacle(bare: Database) -> None:
    """If a column's length limit exceeds all values, but a view uses the column, the limit stays and the files run."""
    view = "create view shown as select environment from api_credentials"
    database = prepare(bare, table(UNIQUE, environment="varchar(100) default 'production'"), KEYS, view)
    migrate(database)
    assert_works(database)


#: Changes of a migrated table, each with the message of check_setup().
CHANGED = [
    (
        "alter table api_credentials alter credential_value type varchar(255)",
        (
            "api_credentials: credential_value is character varying(255), not text."
            " alter table public.api_credentials alter column credential_value type text using credential_value::text;"
        ),
    ),
    ("alter table api_credentials alter expires_at type text", "api_credentials: expires_at is text"),
    ("alter table api_credentials add column owner text not null", "api_credentials: owner is not null"),
    ("alter table api_credentials add check (length(credential_value) < 300)", "the slot kis cannot store a token: "),
    (
        (
            "alter table api_credentials drop constraint api_credentials_service_name_credential_type_key,"
            " add unique (service_name, credential_type) deferrable"
        ),
        "is deferrable",
    ),
    (
        """create function f() returns trigger language plpgsql as 'begin return null; end';
        create trigger t before insert on api_credentials for each row execute function f()""",
        "the slot kis cannot store a token: api_credentials does not keep the row as it is written",
    ),
]


@pytest.mark.parametrize(("change", "said"), CHANGED)
def test_check_reports_a_table_that_was_changed_since(bare: Database, change: str, said: str) -> None:
    """check_setup() names each change that would stop the files or prevent a token from being stored."""
    database = prepare(bare)
    migrate(database)
    database.owner.execute(sql.SQL(change))
    faults = database.call("check_setup")

    assert [fault["what"] for fault in faults if said in fault["said"]] == ["tables"]
    assert database.owner.execute("select from api_credentials").fetchall() == []


def test_the_database_has_a_version(database: Database) -> None:
    """credential_schema_version() returns an integer, and begin returns the same version."""
    version = database.call("credential_schema_version")

    assert isinstance(version, int)
    begun = database.call(
        "begin_issuance",
        service="kis",
        holder="00000000-0000-0000-0000-000000000001",
        label="x",
        app_key_id="0" * 16,
        credential_id="0" * 16,
        min_remaining="10 minutes",
    )
    assert begun["schema_version"] == version
