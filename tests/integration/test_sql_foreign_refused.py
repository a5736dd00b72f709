"""Tables of other programs: the files of sql/ stop and list each difference, with the statement that corrects it."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from tests.integration.foreign_tables import (
    DEVELOPMENT_KEY,
    KEY,
    KEYS,
    PAIR,
    SECRET,
    STORED,
    UNIQUE,
    assert_works,
    insert,
    migrate,
    prepare,
    refusal,
    table,
    token,
    values,
)

if TYPE_CHECKING:
    from tests.support import Database


def statements_of(message: str) -> list[str]:
    """Return the SQL statements in a message."""
    return re.findall(r"^   (.+);$", message, re.MULTILINE)


#: The statements that make a table, and the words of the message about this table.
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
        ["the rule quiet replaces each write"],
    ),
    "generated": (
        [table(UNIQUE, is_active="boolean generated always as (environment = 'production') stored"), KEYS],
        ["is_active is a generated column"],
    ),
    "a version of another kind": (
        [table(UNIQUE, version="text"), KEYS],
        ["the column version belongs to another program"],
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
    """The first file stops and lists every difference. After the listed statements have run, the files succeed."""
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
    """The statement for a text column reads times without an offset as Korea time, and turns blanks into null."""
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
    """Return the statements of a table whose unique key includes the environment, as in a known project."""
    rows = [
        insert(f"'{kind}', '{kind} of {name}'", environment="null" if name is None else f"'{name}'")
        for name in names
        for kind in ("app_key", "app_secret", "access_token")
    ]
    return [table("unique (service_name, credential_type, environment)"), *rows]


@pytest.mark.parametrize("other", ["development", "paper", "dev", "vts"])
def test_production_and_development_under_one_service(bare: Database, other: str) -> None:
    """If a service has two environments, the message names both.

    The statement in the message moves the second environment to kis-paper.
    """
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
    """If a service has more than two environments, each one except production gets a slot with an unused name."""
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
    """If api_credentials is another product's table, the files do not change the table.

    The message has the statement that renames the other product's table.
    """
    ddl = "create table api_credentials (id uuid primary key, provider text not null, token jsonb)"
    database = prepare(bare, ddl)
    message = refusal(database)
    assert "it lacks the columns service_name, credential_type, credential_value" in message
    (statement,) = statements_of(message)
    database.owner.execute(statement.encode())
    migrate(database)

    assert_works(database)
    assert database.owner.execute("select from other_credentials").fetchall() == []
