"""The privileges: service_role and read-only keys have only the access that they need, and no other role has access."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from psycopg import sql

from kis_token.sandbox.database import apply_migrations, migrations_folder, prepare_database
from tests.support import Database, make_token

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator

    from kis_token.sandbox.postgres import EmbeddedPostgres

STRANGERS = ("anon", "authenticated")
PUBLIC_FUNCTIONS = {
    "begin_issuance",
    "commit_issuance",
    "abort_issuance",
    "save_token",
    "revoke_token",
    "issuance_status",
    "prune_issuances",
    "set_app_key",
    "reseal",
    "check_setup",
    "credential_schema_version",
    "credential_callers_status",
}
#: The functions that check an ID token. With the public key, a caller may call only these functions.
KEYLESS_FUNCTIONS = {"keyless_read", "keyless_begin", "keyless_commit", "keyless_abort"}
READER = "kis_token_reader"
#: The columns that a read-only key may read in the rows of tokens.
READABLE = ("service_name", "credential_type", "credential_value", "expires_at", "is_active", "version")

TABLE_RIGHTS = ("select", "insert", "update", "delete", "truncate", "references", "trigger")

_TABLES = """
select oid::regclass::text as name, relrowsecurity,
       (select attname from pg_attribute where attrelid = c.oid and attnum > 0 and atttypid = 'text'::regtype
        order by attnum limit 1) as text_column
from pg_class c
where relnamespace = 'public'::regnamespace and relkind in ('r', 'v', 'm', 'p', 'f') order by 1
"""
_SEQUENCES = (
    "select oid::regclass::text as name from pg_class where relnamespace = 'public'::regnamespace and relkind = 'S'"
)
_FUNCTIONS = """
select oid::regprocedure::text as signature, proname as name, prosecdef, proconfig,
       prorettype = 'trigger'::regtype as is_trigger,
       array(select format_type(t, null) from unnest(proargtypes) t) as types
from pg_proc where pronamespace = 'public'::regnamespace order by 1
"""


@pytest.fixture
def superuser(postgres: EmbeddedPostgres) -> Iterator[psycopg.Connection[Any]]:
    """A superuser's connection, which may change roles of the whole server."""
    with psycopg.connect(postgres.create_database(), autocommit=True) as connection:
        yield connection


@pytest.fixture(scope="module", params=[False, True], ids=["today", "legacy"])
def project(postgres: EmbeddedPostgres, request: pytest.FixtureRequest) -> Iterator[Database]:
    """Two migrated projects: one with the default privileges of new projects, one with those of older projects."""
    project = prepare_database(postgres.create_database(), legacy_grants=request.param)
    apply_migrations(project.owner, migrations_folder())
    with Database(project) as database:
        yield database


def may(database: Database, role: str, kind: str, name: str, right: str) -> bool:
    """Return whether a role has a privilege."""
    query = sql.SQL("select {}(%s, %s, %s) as may").format(sql.Identifier(f"has_{kind}_privilege"))
    return bool(database.owner.execute(query, (role, name, right)).fetchall()[0]["may"])


def everything(database: Database) -> list[tuple[str, str, str]]:
    """Return each possible privilege on the migrations' objects, as a tuple of kind, name and right."""
    tables = [row["name"] for row in database.owner.execute(_TABLES)]
    sequences = [row["name"] for row in database.owner.execute(_SEQUENCES)]
    functions = [row["signature"] for row in database.owner.execute(_FUNCTIONS)]
    return [
        *(("table", name, right) for name in tables for right in TABLE_RIGHTS),
        *(("any_column", name, right) for name in tables for right in ("select", "insert", "update", "references")),
        *(("sequence", name, right) for name in sequences for right in ("usage", "select", "update")),
        *(("function", name, "execute") for name in functions),
    ]


def attempts(database: Database, *, besides: Collection[str] = ()) -> list[sql.Composed]:
    """Return a statement for each possible read, write and call, except calls of the functions ``besides``."""
    statements = []
    for row in database.owner.execute(_TABLES):
        table = sql.Identifier(row["name"])
        statements += [
            sql.SQL("select 1 from {}").format(table),
            sql.SQL("insert into {} default values").format(table),
            sql.SQL("update {} set {} = 'kis'").format(table, sql.Identifier(row["text_column"])),
            sql.SQL("delete from {}").format(table),
            sql.SQL("truncate {}").format(table),
        ]
    for row in database.owner.execute(_SEQUENCES):
        statements += [
            sql.SQL("select nextval({})").format(row["name"]),
            sql.SQL("select * from {}").format(sql.Identifier(row["name"])),
        ]
    for row in database.owner.execute(_FUNCTIONS):
        if row["is_trigger"] or row["name"] in besides:  # no caller can call a trigger function
            continue
        arguments = sql.SQL(", ").join(sql.SQL("null::" + kind) for kind in row["types"])
        statements.append(sql.SQL("select public.{}({})").format(sql.Identifier(row["name"]), arguments))
    return statements


def was_refused(connection: psycopg.Connection[tuple[Any, ...]], statement: sql.Composed) -> bool:
    """Whether the statement failed because the role lacks a privilege; False also for any other error."""
    try:
        connection.execute(statement)
    except psycopg.errors.InsufficientPrivilege:
        return True
    except psycopg.Error:
        return False
    return False


def error_of(connection: psycopg.Connection[tuple[Any, ...]], statement: sql.Composed) -> str | None:
    """The SQLSTATE of the error that a statement raises; None if it raises no error."""
    try:
        connection.execute(statement)
    except psycopg.Error as error:
        return error.sqlstate
    return None


def test_what_the_migrations_made(project: Database) -> None:
    """The tests below look at six tables, four sequences and all functions."""
    kinds = [kind for kind, _, right in everything(project) if right in ("select", "execute")]

    assert (kinds.count("table"), kinds.count("sequence")) == (6, 4)
    assert kinds.count("function") > len(PUBLIC_FUNCTIONS)


@pytest.mark.parametrize("role", STRANGERS)
def test_strangers_have_no_privilege(project: Database, role: str) -> None:
    """The strangers (anon and authenticated) may call the keyless functions, and have no other privilege."""
    held = [what for what in everything(project) if may(project, role, *what)]

    assert {(kind, name.partition("(")[0], right) for kind, name, right in held} == {
        ("function", name, "execute") for name in KEYLESS_FUNCTIONS
    }
    assert len(held) == len(KEYLESS_FUNCTIONS)


@pytest.mark.parametrize("role", STRANGERS)
def test_strangers_are_refused_whatever_they_try(project: Database, role: str) -> None:
    """Each read, write or call by a stranger raises 42501. A keyless function without an ID token raises KTA01."""
    tried = attempts(project, besides=KEYLESS_FUNCTIONS)
    with project.connect_as(role) as connection:
        allowed = [statement.as_string() for statement in tried if not was_refused(connection, statement)]
        errors = [error_of(connection, statement) for statement in attempts(project) if statement not in tried]

    assert allowed == []
    assert errors == ["KTA01"] * len(KEYLESS_FUNCTIONS)


def test_service_role_uses_the_table_and_the_functions(project: Database) -> None:
    """service_role may read and write api_credentials, and call the public functions."""
    wanted = {("table", "api_credentials", right) for right in ("select", "insert", "update", "delete")} | {
        ("function", row["signature"], "execute")
        for row in project.owner.execute(_FUNCTIONS)
        if row["name"] in PUBLIC_FUNCTIONS
    }

    assert {what for what in wanted if not may(project, "service_role", *what)} == set()
    assert len(wanted) == 4 + len(PUBLIC_FUNCTIONS)


def test_service_role_reaches_nothing_else(project: Database) -> None:
    """service_role can use leases, log and helpers only through the functions."""
    held = [what for what in everything(project) if may(project, "service_role", *what)]

    assert {name for kind, name, _ in held if kind in ("table", "any_column")} == {"api_credentials"}
    assert {name.partition("(")[0] for kind, name, _ in held if kind == "function"} <= PUBLIC_FUNCTIONS
    assert "credential_issuances_id_seq" not in {name for _, name, _ in held}


@pytest.mark.parametrize("table", ["credential_leases", "credential_issuances"])
@pytest.mark.parametrize(
    "statement", ["select 1 from {}", "insert into {} default values", "update {} set fence = 9", "delete from {}"]
)
def test_service_role_is_refused_at_leases_and_log(project: Database, table: str, statement: str) -> None:
    """A caller with the service key cannot forge a lease or an event of the log."""
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        project.service.execute(sql.SQL(statement).format(sql.Identifier(table)))


@pytest.mark.parametrize("table", ["credential_callers", "credential_issuer_keys", "credential_attempts"])
@pytest.mark.parametrize("role", ["service_role", READER])
def test_only_the_owner_writes_callers_and_keys(project: Database, table: str, role: str) -> None:
    """The service key and the read-only key cannot read or write the list of callers and the issuers' keys."""
    rights = ("select", "insert", "update", "delete", "truncate", "references", "trigger")
    tried = [statement for statement in attempts(project) if f'"{table}"' in statement.as_string()]
    with project.connect_as(role) as connection:
        allowed = [statement.as_string() for statement in tried if not was_refused(connection, statement)]

    assert [right for right in rights if may(project, role, "table", table, right)] == []
    assert (len(tried), allowed) == (5, [])


def test_row_level_security_is_on_everywhere(project: Database) -> None:
    """Each table has row level security, so that a role with an accidental grant sees no row."""
    assert {row["name"]: row["relrowsecurity"] for row in project.owner.execute(_TABLES)} == {
        "api_credentials": True,
        "credential_attempts": True,
        "credential_callers": True,
        "credential_issuances": True,
        "credential_issuer_keys": True,
        "credential_leases": True,
    }


def test_an_accidental_grant_shows_nothing(project: Database) -> None:
    """If the owner grants the table to anon, anon still sees no row and changes no row."""
    project.put("app_key", "PSa1")
    with project.owner.transaction(force_rollback=True):
        project.owner.execute("grant all on api_credentials to anon; set local role anon")

        assert project.owner.execute("select * from api_credentials").fetchall() == []
        assert project.owner.execute("update api_credentials set credential_value = 'x' returning 1").fetchall() == []


def test_functions_find_nothing_by_search_path(project: Database) -> None:
    """Every function has a fixed search_path, so that no caller can replace a table, an operator or a type.

    With an empty search_path, PostgreSQL would look for types in the caller's temporary schema first.
    """
    settings = {row["name"]: row["proconfig"] or () for row in project.owner.execute(_FUNCTIONS)}

    assert settings
    assert [name for name, its in settings.items() if "search_path=pg_catalog, pg_temp" not in its] == []


@pytest.mark.parametrize("kind", ["text", "jsonb", "bytea", "timestamptz"])
def test_types_of_the_caller_are_not_used(project: Database, kind: str) -> None:
    """A function never uses a caller's temporary type, because the type's check would run with the owner's rights."""
    spy = sql.SQL("""
        create function pg_temp.spy(pg_catalog.{kind}) returns pg_catalog.bool language plpgsql as $$
        begin raise exception 'the check runs as %', current_user using errcode = 'KTSPY'; end $$;
        create domain pg_temp.{kind} as pg_catalog.{kind} check (pg_temp.spy(value));
    """)
    calls = (
        ("anon", "select public.keyless_read('kis', 'eyJhbGciOiJSUzI1NiJ9.e30.AAAA')", "KTA01"),
        ("service_role", "select public.begin_issuance('kis', null, 'spy', null, null, null)", "22023"),
    )
    for role, query, code in calls:
        with project.connect_as(role) as connection:
            connection.execute(spy.format(kind=sql.Identifier(kind)))
            with pytest.raises(psycopg.Error) as raised:
                connection.execute(query.encode())
            assert raised.value.sqlstate == code


def test_only_the_public_functions_run_as_their_owner(project: Database) -> None:
    """Only the functions for service_role and the keyless functions are SECURITY DEFINER."""
    definers = {row["name"] for row in project.owner.execute(_FUNCTIONS) if row["prosecdef"]}

    assert definers == PUBLIC_FUNCTIONS | KEYLESS_FUNCTIONS


def test_every_table_has_a_policy(project: Database) -> None:
    """Each table has a policy, which gives one role access or denies access to all roles."""
    policies = project.owner.execute(
        "select tablename, roles::text[] as roles, qual, permissive, cmd from pg_policies where schemaname = 'public'"
    ).fetchall()

    assert {(row["tablename"], *row["roles"], row["qual"]) for row in policies if row["qual"] in ("true", "false")} == {
        ("api_credentials", "service_role", "true"),
        ("credential_leases", "public", "false"),
        ("credential_issuances", "public", "false"),
        ("credential_issuer_keys", "public", "false"),
        ("credential_callers", "public", "false"),
        ("credential_attempts", "public", "false"),
    }
    others = sorted(
        (*row["roles"], row["permissive"], row["cmd"]) for row in policies if row["qual"] not in ("true", "false")
    )
    assert others == [(READER, "PERMISSIVE", "SELECT"), (READER, "RESTRICTIVE", "ALL")]


def test_nothing_runs_with_more_than_its_callers_rights_unseen(project: Database) -> None:
    """The schema has no views and no foreign tables. Only the intended roles may call a SECURITY DEFINER function."""
    kinds = project.owner.execute(
        "select distinct relkind from pg_class"
        " where relnamespace = 'public'::regnamespace and relkind not in ('i', 'S')"
    ).fetchall()
    assert [row["relkind"] for row in kinds] == ["r"]

    definers = project.owner.execute(
        "select proname as name, proacl::text[] as rights from pg_proc"
        " where prosecdef and pronamespace = 'public'::regnamespace"
    ).fetchall()
    assert len(definers) == len(PUBLIC_FUNCTIONS) + len(KEYLESS_FUNCTIONS)
    for row in definers:
        roles = set(STRANGERS) if row["name"] in KEYLESS_FUNCTIONS else {"service_role"}
        assert {right.partition("=")[0] for right in row["rights"]} == {"postgres"} | roles, row["name"]


def test_reader_has_the_columns_of_a_token_and_nothing_else(project: Database) -> None:
    """The only privilege of a read-only key is to select the columns that a client needs to use a token."""
    held = {what for what in everything(project) if may(project, READER, *what)}
    columns = project.owner.execute(
        "select column_name from information_schema.column_privileges"
        " where grantee = %s and table_name = 'api_credentials' and privilege_type = 'SELECT'",
        (READER,),
    ).fetchall()

    assert held == {("any_column", "api_credentials", "select")}
    assert {row["column_name"] for row in columns} == set(READABLE)


def test_reader_sees_active_tokens_alone(project: Database) -> None:
    """A read-only key sees only active tokens: no app key, no app secret, no inactive token."""
    project.clear()
    project.put_keys()
    project.put_token(make_token())
    project.put_token(make_token(), service="kis-paper", active=False)

    with project.connect_as(READER) as connection:
        seen = connection.execute("select service_name, credential_type from api_credentials").fetchall()

    assert seen == [("kis", "access_token")]


def test_reader_is_refused_whatever_else_it_tries(project: Database) -> None:
    """With a read-only key, every write, every call, and every read of another column raises 42501."""
    with project.connect_as(READER) as connection:
        allowed = [statement.as_string() for statement in attempts(project) if not was_refused(connection, statement)]
        assert was_refused(connection, sql.SQL("select {} from api_credentials").format(sql.Identifier("id")))

    assert allowed == ['select 1 from "api_credentials"']


def test_policy_for_everybody_opens_no_key_to_the_reader(project: Database) -> None:
    """If a project's own policy lets all roles read, a read-only key still sees no app key, and anon sees no row."""
    project.clear()
    project.put_keys()
    project.put_token(make_token())
    project.owner.execute("create policy everybody on api_credentials for select using (true)")
    try:
        with project.connect_as(READER) as connection:
            seen = connection.execute("select credential_type from api_credentials").fetchall()
        with project.connect_as("anon") as connection, pytest.raises(psycopg.errors.InsufficientPrivilege):
            connection.execute("select 1 from api_credentials")
    finally:
        project.owner.execute("drop policy everybody on api_credentials")

    assert seen == [("access_token",)]


def test_readers_that_were_ended_stay_ended(make_database: Callable[[], Database]) -> None:
    """If the owner revokes kis_token_reader from the API, no read-only key works, even after the files run again."""
    project = make_database()
    project.owner.execute("revoke kis_token_reader from authenticator")
    try:
        apply_migrations(project.project.owner, migrations_folder())
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            project.connect_as(READER)
    finally:
        project.owner.execute("grant kis_token_reader to authenticator")


def test_an_owner_without_the_right_to_create_roles_has_no_reader(
    postgres: EmbeddedPostgres, superuser: psycopg.Connection[Any]
) -> None:
    """If the owner may not create roles, the files run without kis_token_reader, and a warning names this role."""
    project = prepare_database(postgres.create_database())
    warnings: list[str] = []
    superuser.execute("alter role kis_token_reader rename to kis_token_reader_elsewhere")
    superuser.execute("alter role postgres nocreaterole")
    try:
        with psycopg.connect(project.owner, autocommit=True) as connection:
            connection.add_notice_handler(
                lambda notice: warnings.append(f"{notice.severity}: {notice.message_primary}")
            )
            for path in sorted(migrations_folder().glob("*.sql")):
                connection.execute(path.read_bytes())
            policies = connection.execute("select policyname from pg_policies where tablename = 'api_credentials'")
            assert policies.fetchall() == [("api_credentials_service_role",)]
    finally:
        superuser.execute("alter role postgres createrole")
        superuser.execute("alter role kis_token_reader_elsewhere rename to kis_token_reader")
    assert [each.partition(":")[0] for each in warnings].count("WARNING") == 1
    assert len([each for each in warnings if each.startswith("WARNING: the role kis_token_reader is not set up")]) == 1


def test_a_role_that_bypasses_row_level_security_is_refused(
    postgres: EmbeddedPostgres, superuser: psycopg.Connection[Any]
) -> None:
    """If kis_token_reader bypasses row level security, the file stops, because the role would read all rows."""
    project = prepare_database(postgres.create_database())
    superuser.execute("alter role kis_token_reader bypassrls")
    try:
        with pytest.raises(psycopg.errors.RaiseException, match="bypasses row level security"):
            apply_migrations(project.owner, migrations_folder())
    finally:
        superuser.execute("alter role kis_token_reader nobypassrls")
