"""If the table does not accept a value, the value does not appear in the error or in the server's log."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import psycopg
import pytest
from psycopg import sql

from tests import external_postgres
from tests.support import Caller, Database, make_token

if TYPE_CHECKING:
    from collections.abc import Callable

    from kis_token.sandbox.postgres import EmbeddedPostgres

APP_KEY, APP_SECRET = "PSa-made-up-key-of-this-test-0123456", "YS1tYWRlLXVwLXNlY3JldC1vZi10aGlzLXRlc3Q="
SEALED = "enc:v1:0a1b2c3d:YS1tYWRlLXVwLWVudmVsb3BlLW9mLXRoaXMtdGVzdA=="

TELLS_THE_ROW = """
create function public.tell() returns trigger language plpgsql as $$
begin raise exception 'not this: %', new using detail = new.credential_value, hint = new.credential_value; end $$;
create trigger tell before insert or update on public.api_credentials for each row execute function public.tell()
"""

#: Changes of the table by a project, each with the SQLSTATE and the name in the resulting error.
OBSTACLES = {
    "a further column": ("alter table api_credentials add column owner text not null", "23502", "column owner"),
    "a constraint": (
        "alter table api_credentials add constraint short check (length(credential_value) < 9) not valid",
        "23514",
        "constraint short",
    ),
    "a shorter column": ("alter table api_credentials alter credential_value type varchar(9)", "22001", None),
    "a trigger": (TELLS_THE_ROW, "P0001", None),
    "a deferred trigger": (
        TELLS_THE_ROW.replace("create trigger", "create constraint trigger")
        .replace("before insert", "after insert")
        .replace("for each row", "deferrable initially deferred for each row"),
        "P0001",
        None,
    ),
    "a trigger that casts": (
        TELLS_THE_ROW.replace("raise exception 'not this: %', new", "perform new.credential_value::uuid; raise ''"),
        "22P02",
        None,
    ),
    "a unique value": (
        (
            "create unique index one_value on api_credentials ((left(credential_value, 2)));"
            " insert into api_credentials (service_name, credential_type, credential_value)"
            """ values ('x', '1', 'PS'), ('x', '2', 'en'), ('x', '3', '{"')"""
        ),
        "23505",
        "constraint one_value",
    ),
}

TOKEN = make_token()


def begin_and_commit(database: Database) -> None:
    """Begin a lease, and commit a token."""
    caller = Caller(database)
    caller.begin()
    caller.commit(TOKEN)


def set_app_key(database: Database) -> None:
    """Store a key and a secret."""
    values = {"app_key": APP_KEY, "app_secret": APP_SECRET, "environment": "production", "keeps_token": True}
    database.call("set_app_key", service="kis", **values)


def save_token(database: Database) -> None:
    """Store a token without a lease."""
    database.call("save_token", service="kis", value=TOKEN.to_json(), expires_at=TOKEN.expires_at)


def reseal(database: Database) -> None:
    """Seal the existing row."""
    version = database.row()["version"]
    database.call("reseal", service="kis", credential_type="access_token", value=SEALED, replaces_version=version)


def revoke_token(database: Database) -> None:
    """Remember a token as rejected."""
    database.call("revoke_token", service="kis", version=0, token_id=TOKEN.token_id, label="an owner")


WRITES: list[Callable[[Database], None]] = [set_app_key, save_token, begin_and_commit, reseal, revoke_token]


@pytest.mark.parametrize(
    ("write", "obstacle"),
    [
        pytest.param(write, obstacle, id=f"{write.__name__}-{obstacle}")
        for write in WRITES
        for obstacle in OBSTACLES
        if (write, obstacle) != (reseal, "a further column")  # reseal never sets the further column
    ],
)
def test_a_refused_row_is_not_shown(
    make_database: Callable[[], Database],
    postgres: EmbeddedPostgres,
    write: Callable[[Database], None],
    obstacle: str,
) -> None:
    """The error has PostgreSQL's code and the name of the column or constraint. No part of the error shows a value."""
    statement, code, named = OBSTACLES[obstacle]
    database = make_database()
    if write is reseal:
        database.put("access_token", "{}")
    database.owner.execute(sql.SQL(statement))

    with pytest.raises(psycopg.Error) as caught:
        write(database)

    diag = caught.value.diag
    assert diag.sqlstate == code
    assert named is None or named in (diag.message_primary or "")
    with psycopg.connect(postgres.dsn) as superuser:
        (data,) = superuser.execute("show data_directory").fetchone() or ("",)
    log = "" if external_postgres.DSN else Path(data).with_name("log").read_text(encoding="utf-8", errors="replace")
    parts = (diag.message_primary, diag.message_detail, diag.message_hint, diag.context, diag.internal_query, log)
    shown = [
        secret in (part or "") for part in parts for secret in (APP_KEY, APP_SECRET, SEALED, TOKEN.value, "not this")
    ]
    assert not any(shown), "a value is shown"
    assert log == "" or "api_credentials does not take the row" in log, "the server's log was not found"


def test_nothing_of_a_refused_write_stays(make_database: Callable[[], Database]) -> None:
    """If the table does not accept the app secret, the app key is not stored."""
    database = make_database()
    database.owner.execute("alter table api_credentials add check (credential_type <> 'app_secret')")
    with pytest.raises(psycopg.errors.CheckViolation):
        set_app_key(database)

    assert database.owner.execute("select from api_credentials").fetchall() == []
