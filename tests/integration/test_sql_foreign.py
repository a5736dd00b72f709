"""Tables that others have made: what loses nothing is mended, the rest is listed with the statement that mends it."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from psycopg import sql

from kis_token.sandbox.database import apply_migrations, migrations_folder, prepare_database
from tests.support import Database, issue_by_functions, make_token

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kis_token.sandbox.postgres import EmbeddedPostgres

KEY, SECRET, DEVELOPMENT_KEY = (
    "PSa1b2c3d4e5f6g7h8i9j0k1l2m3n4o5p6q7",
    "c2VjcmV0+/=",
    "PVz9y8x7w6v5u4t3s2r1q0p9o8n7m6l5k4j3",
)

#: The guide's columns. A test replaces some of them.
COLUMNS = {
    "id": "bigserial primary key",
    "service_name": "text not null",
    "credential_type": "text not null",
    "credential_value": "text not null",
    "expires_at": "timestamptz",
    "is_active": "boolean default true",
    "environment": "text default 'production'",
    "description": "text",
    "updated_at": "timestamptz default now()",
    "created_at": "timestamptz default now()",
}


def insert(*rows: str, **more: str) -> str:
    """Rows for the slot kis: type and value as SQL. All of them get ``more`` columns, as SQL as well."""
    columns = ", ".join(["service_name", "credential_type", "credential_value", *more])
    tails = "".join(f", {value}" for value in more.values())
    whole = ", ".join(f"('kis', {row}{tails})" for row in rows)
    return f"insert into api_credentials ({columns}) values {whole}"  # noqa: S608 - of this file's own words


PAIR = (f"'app_key', '{KEY}'", f"'app_secret', '{SECRET}'")
KEYS = insert(*PAIR)


def token(expires_at: str) -> str:
    """A token's row that ends then."""
    return insert("'access_token', '{}'", expires_at=f"'{expires_at}'")


def table(*constraints: str, without: tuple[str, ...] = (), **columns: str) -> str:
    """The guide's table with other columns, and without some."""
    wanted = {name: kind for name, kind in {**COLUMNS, **columns}.items() if name not in without}
    return f"create table api_credentials ({', '.join([*(f'{n} {k}' for n, k in wanted.items()), *constraints])})"


RESET = """
drop schema public cascade;
create schema public;
grant usage on schema public to anon, authenticated, service_role;
"""


@pytest.fixture(scope="module")
def bare(postgres: EmbeddedPostgres) -> Iterator[Database]:
    """A project without tables, for one test after the other."""
    dsn = postgres.create_database()
    with Database(prepare_database(dsn)) as database:
        yield database
    postgres.drop_database(dsn)


def prepare(bare: Database, *statements: str) -> Database:
    """The project when somebody has run these statements in it, and nothing else."""
    for statement in (RESET, *statements):
        bare.owner.execute(statement.encode())
    return bare


def migrate(database: Database) -> None:
    """Run the files of sql/."""
    apply_migrations(database.project.owner, migrations_folder())


def refusal(database: Database) -> str:
    """The message in which the files stop. Nothing has changed by then."""
    before = database.owner.execute("select to_jsonb(c) as row from api_credentials c order by c::text").fetchall()
    with pytest.raises(psycopg.Error) as caught:
        apply_migrations(database.project.owner, migrations_folder())
    assert database.owner.execute("select to_regclass('credential_leases')").fetchall() == [{"to_regclass": None}]
    after = database.owner.execute("select to_jsonb(c) as row from api_credentials c order by c::text").fetchall()
    assert after == before
    diag = caught.value.diag
    shown = "\n".join(filter(None, (diag.message_primary, diag.message_detail, diag.message_hint)))
    assert not any(secret in shown for secret in (KEY, SECRET, DEVELOPMENT_KEY))
    assert "delete" not in shown.lower().replace("no row has to be deleted", "")
    return diag.message_primary or ""


def statements_of(message: str) -> list[str]:
    """The statements that a message gives."""
    return re.findall(r"^   (.+);$", message, re.MULTILINE)


def values(database: Database) -> dict[tuple[str, str], Any]:
    """The stored values by service and type."""
    rows = database.owner.execute("select service_name, credential_type, credential_value from api_credentials")
    return {(row["service_name"], row["credential_type"]): row["credential_value"] for row in rows}


def assert_works(database: Database) -> None:
    """Nothing is found, and a turn stores its token."""
    assert database.call("check_setup") == []
    token = make_token()
    issue_by_functions(database, token)
    assert database.stored_id() == token.token_id


STORED = {("kis", "app_key"): KEY, ("kis", "app_secret"): SECRET}
UNIQUE = "unique (service_name, credential_type)"

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
def test_what_loses_nothing_is_mended(bare: Database, case: str) -> None:
    """The files run, twice over, no stored value changes, and a token can be stored."""
    database = prepare(bare, *MENDED[case])
    migrate(database)
    migrate(database)

    assert values(database) == STORED
    rows = database.owner.execute("select version from api_credentials where version is null").fetchall()
    assert rows == []
    assert_works(database)


def test_an_empty_table_is_mended_whatever_its_types(bare: Database) -> None:
    """Without a row nothing can be lost."""
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


#: The statements that make a table, and what the message says of it.
REFUSED = {
    "an end as text": (
        [table(UNIQUE, expires_at="text"), KEYS, token("2026-02-01T23:15:47")],
        ["expires_at is text, not timestamp with time zone"],
    ),
    "an end without a zone": (
        [table(UNIQUE, expires_at="timestamp"), KEYS, token("2026-02-01 23:15:47")],
        ["expires_at is timestamp without time zone, not timestamp with time zone", "UTC"],
    ),
    "an end in seconds": (
        [table(UNIQUE, expires_at="bigint"), KEYS, token("1769955347")],
        ["expires_at is bigint"],
    ),
    "an end in milliseconds": (
        [table(UNIQUE, expires_at="numeric"), KEYS, token("1769955347000")],
        ["expires_at is numeric"],
    ),
    "a day": (
        [table(UNIQUE, expires_at="date"), KEYS, token("2026-02-01")],
        ["expires_at is date"],
    ),
    "jsonb": (
        [
            table(UNIQUE, credential_value="jsonb not null"),
            insert(f"""'app_key', '"{KEY}"'""", f"""'app_secret', '"{SECRET}"'"""),
        ],
        ["credential_value is jsonb, not text"],
    ),
    "bytea": (
        [table(UNIQUE, credential_value="bytea not null"), KEYS],
        ["credential_value is bytea, not text"],
    ),
    "a number for true": (
        [table(UNIQUE, is_active="smallint default 1"), KEYS],
        ["is_active is smallint, not boolean"],
    ),
    "a letter for true": (
        [table(UNIQUE, is_active="char(1) default 'Y'"), KEYS],
        ["is_active is character(1), not boolean"],
    ),
    "a column that must be filled": (
        [table(UNIQUE, user_id="uuid not null"), insert(*PAIR, user_id="gen_random_uuid()")],
        ["user_id is not null and has no default"],
    ),
    "an end that must be filled": (
        [table(UNIQUE, expires_at="timestamptz not null"), insert(*PAIR, expires_at="now()")],
        ["expires_at is not null and has no default"],
    ),
    "an id that must be filled": (
        [table("primary key (id, credential_type)", UNIQUE, id="integer"), insert(*PAIR, id="7")],
        ["id is not null and has no default"],
    ),
    "one row for a service": (
        [table(UNIQUE, "constraint one_each unique (service_name, environment)"), insert(PAIR[0])],
        ["one_each allows one row for each service_name, environment"],
    ),
    "deferrable": (
        [table("constraint later unique (service_name, credential_type) deferrable"), KEYS],
        ["the unique constraint later is deferrable"],
    ),
    "a rule": (
        [table(UNIQUE), KEYS, "create rule quiet as on insert to api_credentials do instead nothing"],
        ["the rule quiet takes the place of what is written"],
    ),
    "generated": (
        [table(UNIQUE, is_active="boolean generated always as (environment = 'production') stored"), KEYS],
        ["is_active is a generated column"],
    ),
    "a version of another kind": (
        [table(UNIQUE, version="text"), KEYS],
        ["version is a column of others"],
    ),
    "twice in one environment": (
        [table(), KEYS, insert(f"'app_key', '{DEVELOPMENT_KEY}'", is_active="false")],
        ["holds a credential twice", "(kis, app_key)", "id 3", "inactive"],
    ),
    "several at once": (
        [
            table(UNIQUE, expires_at="text", is_active="integer default 1", user_id="integer not null"),
            insert(*PAIR, user_id="1", expires_at="''"),
        ],
        ["1. expires_at is text", "2. is_active is integer", "3. user_id is not null"],
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_the_rest_is_one_message_with_the_statements(bare: Database, case: str) -> None:
    """The first file stops and lists every difference; after the statements that it gives, the files run."""
    statements, said = REFUSED[case]
    database = prepare(bare, *statements)
    message = refusal(database)

    assert [words for words in said if words not in message] == []
    for statement in statements_of(message):
        database.owner.execute(statement.encode())
    migrate(database)
    kept = values(database)
    assert {name: kept[name] for name in STORED if name in kept}.items() <= STORED.items()
    assert_works(database)


def test_text_becomes_the_time_that_it_means(bare: Database) -> None:
    """The statement reads a time without an offset as Korea time, one with an offset by it, and blanks as null."""
    ends = {
        "2026-02-01T23:15:47": "2026-02-01T14:15:47+00:00",
        "2026-02-01 23:15": "2026-02-01T14:15:00+00:00",
        "2026-02-01": "2026-01-31T15:00:00+00:00",
        "2026-02-01T23:15:47+09:00": "2026-02-01T14:15:47+00:00",
        "2026-02-01T14:15:47.25Z": "2026-02-01T14:15:47.25+00:00",
        "2026-02-01 14:15:47+00": "2026-02-01T14:15:47+00:00",
        " ": None,
    }
    database = prepare(bare, table(UNIQUE, expires_at="text"))
    for number, end in enumerate(ends):
        database.owner.execute(
            "insert into api_credentials (service_name, credential_type, credential_value, expires_at)"
            " values (%s, 'access_token', '{}', %s)",
            (f"slot-{number}", end),
        )
    (statement,) = statements_of(refusal(database))
    database.owner.execute(statement.encode())
    database.owner.execute("set timezone = 'UTC'")
    rows = database.owner.execute("select to_jsonb(c) ->> 'expires_at' as ends from api_credentials c order by id")

    assert [row["ends"] for row in rows] == list(ends.values())


def environments(*names: str | None) -> list[str]:
    """The table as a known project has deployed it: the environment is a part of its key."""
    rows = [
        insert(f"'{kind}', '{kind} of {name}'", environment="null" if name is None else f"'{name}'")
        for name in names
        for kind in ("app_key", "app_secret", "access_token")
    ]
    return [table("unique (service_name, credential_type, environment)"), *rows]


@pytest.mark.parametrize("other", ["development", "paper", "dev", "vts"])
def test_production_and_development_under_one_service(bare: Database, other: str) -> None:
    """Both are named, the statement moves the other one to the slot kis-paper, and no row is lost."""
    database = prepare(bare, *environments("production", other))
    message = refusal(database)
    assert f"one row is for the environment production, one for {other}" in message
    assert "upsert on conflict of (service_name, credential_type, environment)" in message
    (statement,) = statements_of(message)
    database.owner.execute(statement.encode())
    migrate(database)

    stored = values(database)
    assert stored["kis", "app_key"] == "app_key of production"
    assert stored["kis-paper", "app_key"] == f"app_key of {other}"
    assert len(stored) == 6
    rows = database.owner.execute("select distinct environment from api_credentials where service_name = 'kis-paper'")
    assert rows.fetchall() == [{"environment": "paper"}]
    assert_works(database)


def test_more_environments_than_two(bare: Database) -> None:
    """Each of the others gets a slot of its own, and none of them a name that is taken."""
    statements = environments("production", "development", "Test 1", None)
    taken = (
        "insert into api_credentials (service_name, credential_type, credential_value) values ('kis-paper', 'x', 'y')"
    )
    database = prepare(bare, *statements, taken)
    for statement in statements_of(refusal(database)):
        database.owner.execute(statement.encode())
    migrate(database)

    services = {service for service, _ in values(database)}
    assert services == {"kis", "kis-paper", "kis-development", "kis-Test-1", "kis-other"}


def test_another_product_s_table(bare: Database) -> None:
    """A table of that name that is made for something else stays as it is; the message says how both can live."""
    ddl = "create table api_credentials (id uuid primary key, provider text not null, token jsonb)"
    database = prepare(bare, ddl)
    message = refusal(database)
    assert "it lacks the columns service_name, credential_type, credential_value" in message
    (statement,) = statements_of(message)
    database.owner.execute(statement.encode())
    migrate(database)

    assert_works(database)
    assert database.owner.execute("select from other_credentials").fetchall() == []


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
def test_what_keeps_a_column_from_being_widened_is_named(bare: Database, dependent: str) -> None:
    """PostgreSQL does not change the type of a column that something else uses; its words are in the message."""
    database = prepare(bare, table(UNIQUE, credential_value="varchar(255) not null"), KEYS, dependent)
    message = refusal(database)

    assert "credential_value is character varying(255), not text" in message
    assert "PostgreSQL refuses" in message
    assert "credential_value" in message.partition("PostgreSQL refuses")[2]


def test_a_view_on_a_column_that_is_long_enough_is_no_obstacle(bare: Database) -> None:
    """A limit that stands in nobody's way stays where PostgreSQL does not take it away."""
    view = "create view shown as select environment from api_credentials"
    database = prepare(bare, table(UNIQUE, environment="varchar(100) default 'production'"), KEYS, view)
    migrate(database)
    assert_works(database)


#: A change of a migrated table, and the words of check_setup().
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
    """check_setup() names what would stop the files, or a token from being stored, and changes nothing."""
    database = prepare(bare)
    migrate(database)
    database.owner.execute(sql.SQL(change))
    faults = database.call("check_setup")

    assert [fault["what"] for fault in faults if said in fault["said"]] == ["tables"]
    assert database.owner.execute("select from api_credentials").fetchall() == []


def test_the_database_has_a_version(database: Database) -> None:
    """It is an integer, the same that begin answers."""
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
