"""Tables that other programs have made, and functions that run the files of sql/ on such tables."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest

from kis_token.sandbox.database import apply_migrations, migrations_folder
from tests.support import Database, issue_by_functions, make_token

KEY, SECRET, DEVELOPMENT_KEY = (
    "PSa1b2c3d4e5f6g7h8i9j0k1l2m3n4o5p6q7",
    "c2VjcmV0+/=",
    "PVz9y8x7w6v5u4t3s2r1q0p9o8n7m6l5k4j3",
)
#: The columns of the table in the guide. A test replaces some of the columns.
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
    """Return SQL that inserts ``rows`` (type and value, as SQL), each with the columns ``more``, into the slot kis."""
    columns = ", ".join(["service_name", "credential_type", "credential_value", *more])
    tails = "".join(f", {value}" for value in more.values())
    values = ", ".join(f"('kis', {row}{tails})" for row in rows)
    return f"insert into api_credentials ({columns}) values {values}"  # noqa: S608 - only strings of the tests


PAIR = (f"'app_key', '{KEY}'", f"'app_secret', '{SECRET}'")
KEYS = insert(*PAIR)


def token(expires_at: str) -> str:
    """Return SQL that inserts the row of a token with the end ``expires_at``."""
    return insert("'access_token', '{}'", expires_at=f"'{expires_at}'")


def table(*constraints: str, without: tuple[str, ...] = (), **columns: str) -> str:
    """Return the DDL of the guide's table, with the types in ``columns`` and without the columns in ``without``."""
    wanted = {name: kind for name, kind in {**COLUMNS, **columns}.items() if name not in without}
    return f"create table api_credentials ({', '.join([*(f'{n} {k}' for n, k in wanted.items()), *constraints])})"


RESET = """
drop schema public cascade;
create schema public;
grant usage on schema public to anon, authenticated, service_role;
"""


def prepare(bare: Database, *statements: str) -> Database:
    """Empty the database, run ``statements`` in it, and return the database."""
    for statement in (RESET, *statements):
        bare.owner.execute(statement.encode())
    return bare


def migrate(database: Database) -> None:
    """Run the files of sql/."""
    apply_migrations(database.project.owner, migrations_folder())


def refusal(database: Database) -> str:
    """Run the files of sql/, check that they stop and change nothing, and return the message. Return the message."""
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


def values(database: Database) -> dict[tuple[str, str], Any]:
    """Return the stored values by service and type."""
    rows = database.owner.execute("select service_name, credential_type, credential_value from api_credentials")
    return {(row["service_name"], row["credential_type"]): row["credential_value"] for row in rows}


def assert_works(database: Database) -> None:
    """Assert that check_setup finds no difference and that a lease stores its token."""
    assert database.call("check_setup") == []
    token = make_token()
    issue_by_functions(database, token)
    assert database.stored_id() == token.token_id


STORED = {("kis", "app_key"): KEY, ("kis", "app_secret"): SECRET}
UNIQUE = "unique (service_name, credential_type)"
