"""A table that cannot store a token: callers get an error before a tokenP call, and do not wait for a token."""

from __future__ import annotations

import uuid
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg
import pytest

from kis_token.errors import StoreMisconfigured
from kis_token.sandbox.database import prepare_database
from kis_token.sandbox.loopback import Fault, Response
from kis_token.sandbox.postgrest import PostgRESTStandIn
from kis_token.store.supabase import SupabaseStore
from tests.faults.helpers import BEGIN, COMMIT, assert_warned, error_of, stored_stays
from tests.resolver_harness import WatchedIssuer, expired_token, stale_token
from tests.support import ANON_KEY, APP_KEY, MINUTE, SERVICE_KEY, Caller, Database

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kis_token.core.ports import Begun
    from kis_token.sandbox.database import MigratedDatabases
    from kis_token.sandbox.postgres import EmbeddedPostgres
    from tests.resolver_harness import Chain

OLD_FILES = Path(__file__).parents[1] / "integration" / "sql_of_1_0_0.sql"
#: The error code with which the functions report that the table cannot store a row.
DETAIL = "store-cannot-store"

TRIGGER = """
create function obstacle() returns trigger language plpgsql as $$ begin {} end $$;
create trigger obstacle before insert or update on api_credentials for each row execute function obstacle()
"""
AFTER = """
create function obstacle() returns trigger language plpgsql as $$ begin {} end $$;
create constraint trigger obstacle after insert or update on api_credentials deferrable initially deferred
    for each row execute function obstacle()
"""

#: A change of the table, the statement that undoes it, and a part of the database's text in the error.
OBSTACLES = {
    "varchar(255)": (
        "alter table api_credentials alter credential_value type varchar(255) using left(credential_value, 255)",
        "alter table api_credentials alter credential_value type text",
        "22001: value too long for type character varying(255)",
    ),
    "a check of the length": (
        "alter table api_credentials add constraint short check (length(credential_value) < 300) not valid",
        "alter table api_credentials drop constraint short",
        "constraint short",
    ),
    "a short description": (
        "alter table api_credentials alter description type varchar(10) using left(description, 10)",
        "alter table api_credentials alter description type text",
        "22001: value too long for type character varying(10)",
    ),
    "a column that must be filled": (
        """alter table api_credentials add column owner text not null default 'x';
        alter table api_credentials alter column owner drop default""",
        "alter table api_credentials drop column owner",
        "column owner",
    ),
    "a trigger that refuses": (
        TRIGGER.format("raise exception 'quota of %', new using errcode = 'P0002';"),
        "drop function obstacle cascade",
        "P0002, function public.obstacle",
    ),
    "a trigger that refuses at the end": (
        AFTER.format("raise exception 'not %', new;"),
        "drop function obstacle cascade",
        "P0001, function public.obstacle",
    ),
    "a trigger that answers for HTTP": (
        TRIGGER.format("raise sqlstate 'PT200' using message = new.credential_value;"),
        "drop function obstacle cascade",
        "PT200, function public.obstacle",
    ),
    "a trigger that drops the row": (
        TRIGGER.format("return null;"),
        "drop function obstacle cascade",
        "does not keep the row as it is written",
    ),
    "a trigger that cuts": (
        TRIGGER.format("new.credential_value := left(new.credential_value, 100); return new;"),
        "drop function obstacle cascade",
        "does not keep the row as it is written (column credential_value)",
    ),
    "a trigger that forgets the end": (
        TRIGGER.format("new.expires_at := null; return new;"),
        "drop function obstacle cascade",
        "does not keep the row as it is written (column expires_at)",
    ),
    "an end of another type": (
        "alter table api_credentials alter expires_at type text",
        "alter table api_credentials alter expires_at type timestamptz using expires_at::timestamptz",
        "does not keep the row as it is written (column expires_at is text)",
    ),
    "a value of another type": (
        "alter table api_credentials alter credential_value type jsonb using to_jsonb(credential_value)",
        "alter table api_credentials alter credential_value type text using credential_value #>> '{}'",
        '42804: column "credential_value" is of type jsonb but expression is of type text',
    ),
    "no unique index": (
        "alter table api_credentials drop constraint api_credentials_service_name_credential_type_key",
        "alter table api_credentials add unique (service_name, credential_type)",
        "42P10",
    ),
    "a reference": (
        """create table services (name text primary key); alter table api_credentials
        add constraint known foreign key (service_name) references services (name) not valid""",
        "drop table services cascade",
        "constraint known",
    ),
    "a publication without a key": (
        """alter table api_credentials drop constraint api_credentials_pkey;
        create publication changes for table api_credentials""",
        """drop publication changes; alter table api_credentials add primary key (id)""",
        "55000: cannot update table",
    ),
    "a trigger with a slip": (
        TRIGGER.format("new.modified_at := now(); return new;"),
        "drop function obstacle cascade",
        "42703, function public.obstacle",
    ),
    "a trigger that seals by itself": (
        TRIGGER.format("new.credential_value := encode(sha256(new.credential_value::bytea), 'hex'); return new;"),
        "drop function obstacle cascade",
        "does not keep the row as it is written (column credential_value)",
    ),
}

#: An update of a row does not check the foreign key of its service again.
CASES = [
    (name, is_stored) for name in OBSTACLES for is_stored in (False, True) if (name, is_stored) != ("a reference", True)
]


@pytest.fixture(scope="module")
def changeable(databases: MigratedDatabases) -> Iterator[Database]:
    """A project whose schema these tests change and restore."""
    with databases.borrow() as project, Database(project) as database:
        database.owner.prepare_threshold = None  # a prepared statement fails after a change of its columns
        yield database


@pytest.fixture(scope="module")
def stand_in(changeable: Database) -> Iterator[PostgRESTStandIn]:
    """Supabase for the project of `changeable`."""
    with PostgRESTStandIn(changeable.project.api, service_key=SERVICE_KEY, anon_key=ANON_KEY) as supabase:
        yield supabase


@pytest.fixture
def own(chain: Chain, changeable: Database, stand_in: PostgRESTStandIn) -> Iterator[Chain]:
    """A chain on the project of `changeable`, with empty tables."""
    changeable.clear()
    stand_in.server.clear_faults()
    stand_in.server.forget()
    own = replace(chain, supabase=stand_in, database=changeable, stores=[])
    yield own
    for store in own.stores:
        store.close()


@contextmanager
def blocked(own: Chain, name: str) -> Iterator[None]:
    """Change the table by the obstacle ``name`` inside the block."""
    statement, undo, _ = OBSTACLES[name]
    own.database.owner.execute(statement.encode())
    try:
        yield
    finally:
        own.database.owner.execute(undo.encode())


@pytest.mark.parametrize(("name", "is_stored"), CASES, ids=[f"{name}-{is_stored}" for name, is_stored in CASES])
def test_kis_is_not_asked_where_no_token_can_be_stored(own: Chain, name: str, *, is_stored: bool) -> None:
    """If the table cannot store a token, all callers get the database's text as the error, and KIS is not called.

    When the table can store a token again, a caller issues at once.
    """
    if is_stored:
        own.database.put_token(expired_token())
    with blocked(own, name):
        with stored_stays(own):
            errors = [error_of(own, cache_path="off") for _ in range(3)]
        assert {(error.code, type(error)) for error in errors} == {("store-cannot-store", StoreMisconfigured)}
        assert OBSTACLES[name][2] in errors[0].args[0]
        assert "eyJ" not in errors[0].args[0]
        assert (own.issue_calls, own.database.outcomes()) == (0, [])

    clock = own.clock()
    assert (own.resolve(clock).source, own.issue_calls, clock.slept) == ("oauth", 1, [])


@pytest.mark.parametrize("mode", ["resolve", "rotate", "force"])
def test_a_valid_token_is_not_withheld(own: Chain, mode: str) -> None:
    """If the table cannot store a token, `resolve` uses a stale token with a warning; `rotate` and `force` fail."""
    token = stale_token()
    own.database.put_token(token)
    with blocked(own, "a check of the length"), stored_stays(own):
        if mode == "resolve":
            got = own.resolve()
            assert (got.token.token_id, got.source) == (token.token_id, "supabase")
            assert_warned(got, "[store-cannot-store]", "constraint short")
        else:
            assert error_of(own, mode=mode).code == "store-cannot-store"
    assert own.issue_calls == 0


def test_a_database_that_is_read_only(own: Chain) -> None:
    """If the database accepts no write, a caller gets no lease and does not call KIS."""
    name = own.database.owner.info.dbname
    own.database.owner.execute(f"alter database {name} set default_transaction_read_only = on".encode())
    own.supabase.stop()  # the stand-in's connections are older than the setting
    own.supabase.start()
    try:
        with stored_stays(own):
            error_of(own, cache_path="off")
    finally:
        own.database.owner.execute(f"alter database {name} reset default_transaction_read_only".encode())
        own.supabase.stop()
        own.supabase.start()
    assert own.issue_calls == 0


@pytest.mark.parametrize("code", ["23514", "P0002", "42501"])
def test_a_commit_that_fails_for_good_ends_the_lease(own: Chain, code: str) -> None:
    """If the table refuses the row at commit, the caller uses its token with a warning, and ends the lease.

    The lease has the reason, so the next caller gets the same error and does not wait.
    """
    refusal = Response(400, {"code": code, "message": "api_credentials does not take the row", "details": DETAIL})
    own.supabase.server.add_fault(Fault("answer", COMMIT, 9, refusal))
    got = own.resolve()
    assert_warned(got, "could not be stored", "[store-cannot-store]")
    assert own.database.outcomes() == ["granted", "aborted"]
    lease = own.database.lease()
    assert (lease["holder"], lease["last_error"]) == (None, "store-cannot-store")

    clock = own.clock()
    with pytest.raises(StoreMisconfigured) as caught:
        own.resolve(clock, cache_path="off")
    assert (caught.value.code, clock.slept, own.issue_calls) == ("store-cannot-store", [], 1)

    own.supabase.server.clear_faults()
    own.pass_time(62)
    assert own.resolve().token.token_id == own.database.stored_id()
    assert own.issue_calls == 1


def test_a_table_that_changes_while_kis_is_asked(own: Chain) -> None:
    """If the table changes during the tokenP call, commit fails with the database's text, and the lease still ends."""
    with blocked_after_begin(own, "a check of the length") as issuer:
        got = own.resolve(None, issuer, cache_path="off")

    assert_warned(got, "could not be stored", "constraint short", "[store-cannot-store]")
    assert (own.database.lease()["holder"], own.database.outcomes()) == (None, ["granted", "aborted"])


@contextmanager
def blocked_after_begin(own: Chain, name: str) -> Iterator[WatchedIssuer]:
    """Yield an issuer whose call first changes the table by the obstacle ``name``."""
    with ExitStack() as stack:
        yield WatchedIssuer(own, before=lambda: stack.enter_context(blocked(own, name)))


def test_a_waiting_caller_ends_with_the_holder(own: Chain) -> None:
    """If the holder ends the lease because nothing can be stored, a waiting caller gets that error within seconds."""
    holder = Caller(own.database)
    holder.begin()
    clock = own.clock()
    clock.on_sleep = lambda _: holder.abort("store-cannot-store")

    with pytest.raises(StoreMisconfigured) as caught:
        own.resolve(clock)

    assert (caught.value.code, own.issue_calls) == ("store-cannot-store", 0)
    assert sum(clock.slept) < 10


@pytest.mark.parametrize(("version", "is_old"), [(None, True), (1, True), (2, False), (99, False)])
def test_an_older_database_is_a_configuration_error(own: Chain, version: int | None, *, is_old: bool) -> None:
    """If the SQL functions are too old, the lease is given back, and the error names the files to run.

    Newer functions are accepted.
    """
    granted = {"status": "granted", "fence": 1, "server_now": "2026-01-01T00:00Z", "schema_version": version}
    own.supabase.server.add_fault(Fault("answer", BEGIN, response=Response(200, granted)))
    store = SupabaseStore(own.supabase.url, SERVICE_KEY)
    own.stores.append(store)

    def begin() -> Begun:
        return store.begin("kis", str(uuid.uuid4()), "a laptop", APP_KEY, min_remaining=MINUTE)

    if not is_old:
        assert begin().status == "granted"
        return
    with pytest.raises(StoreMisconfigured, match=r"run 001_api_credentials\.sql, 002_issuance\.sql") as caught:
        begin()
    assert (caught.value.code, own.store_calls[-1]) == ("store-schema-outdated", "abort_issuance")


def test_the_functions_of_version_1_0_0(chain: Chain, postgres: EmbeddedPostgres) -> None:
    """With the SQL files of version 1.0.0, callers get store-schema-outdated, and the second caller does not wait."""
    project = prepare_database(postgres.create_database())
    with psycopg.connect(project.owner, autocommit=True) as connection:
        connection.execute(OLD_FILES.read_bytes())
    with (
        Database(project) as database,
        PostgRESTStandIn(project.api, service_key=SERVICE_KEY, anon_key=ANON_KEY) as supabase,
    ):
        old = replace(chain, supabase=supabase, database=database, stores=[])
        clock = old.clock()
        for _ in range(2):
            with pytest.raises(StoreMisconfigured) as caught:
                old.resolve(clock, cache_path="off")
            assert caught.value.code == "store-schema-outdated"
        assert (old.issue_calls, clock.slept) == (0, [])
        for store in old.stores:
            store.close()
