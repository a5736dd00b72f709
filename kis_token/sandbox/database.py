"""Makes databases like that of a new Supabase project, and runs the files of sql/ on them."""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from kis_token.store.migrations import migrations_folder as migrations_folder  # noqa: PLC0414 - other modules import this function from ``database``

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from kis_token.sandbox.github_issuer import GitHubIssuer
    from kis_token.sandbox.postgres import EmbeddedPostgres

# The roles are those of Supabase. supabase_admin is the only superuser. The API logs in as authenticator, and takes the
# role of the request's key for each request. PostgreSQL cancels a statement of the API after 8 seconds.
_ROLES = {
    "anon": "nologin noinherit",
    "authenticated": "nologin noinherit",
    "service_role": "nologin noinherit bypassrls",
    "authenticator": "login noinherit",
    "postgres": "login createdb createrole bypassrls",
}

_PROJECT = """
grant anon, authenticated, service_role to authenticator, postgres;
grant usage on schema public to anon, authenticated, service_role;
alter role authenticator set statement_timeout = '8s';
"""

_LEGACY_GRANTS = """
alter default privileges for role postgres in schema public
    grant all on tables to anon, authenticated, service_role;
alter default privileges for role postgres in schema public
    grant all on functions to anon, authenticated, service_role;
alter default privileges for role postgres in schema public
    grant all on sequences to anon, authenticated, service_role;
"""

# An event trigger records every change of the schema. The trigger runs with the rights of its owner, the superuser.
_WATCH = """
create schema kis_sandbox;
create table kis_sandbox.schema_changes (command text);
create function kis_sandbox.note_change() returns event_trigger language plpgsql security definer
    set search_path = '' as $$ begin insert into kis_sandbox.schema_changes values (tg_tag); end $$;
create event trigger kis_sandbox on ddl_command_end execute function kis_sandbox.note_change();
"""

_END_OTHERS = """
select pg_catalog.pg_terminate_backend(pid, 10000) from pg_catalog.pg_stat_activity
where datname = pg_catalog.current_database() and pid <> pg_catalog.pg_backend_pid()
"""

#: The statement that empties all tables. For a few rows, delete is 30 times as fast as truncate, because truncate makes
#: new files.
EMPTY_TABLES = """
delete from public.api_credentials;
delete from public.credential_leases;
delete from public.credential_issuances;
delete from public.credential_attempts;
delete from public.credential_callers;
delete from public.credential_issuer_keys;
"""

_RESTART_SEQUENCES = "select pg_catalog.setval(seqrelid, seqstart, false) from pg_catalog.pg_sequence"


@dataclass(frozen=True, slots=True)
class Project:
    """The connection strings of one database."""

    owner: str
    """The connection string of the role ``postgres``.

    This role runs migrations and owns the new tables, but is not a superuser.
    """
    api: str
    """The connection string of the role ``authenticator``.

    This role may only take the roles anon, authenticated and service_role.
    """


def prepare_database(dsn: str, *, legacy_grants: bool = False) -> Project:
    """Set up a database like Supabase's. The call can be repeated.

    ``dsn`` must be the connection string of a superuser, whose password becomes the password of the new roles.
    ``legacy_grants`` sets the default privileges of older Supabase projects: the three roles of the API have all rights
    on new tables, functions and sequences.
    """
    parts = conninfo_to_dict(dsn)
    with psycopg.connect(dsn) as connection:
        existing = {name for (name,) in connection.execute("select rolname from pg_catalog.pg_roles")}
        for name in _ROLES.keys() - existing:
            connection.execute(sql.SQL("create role {}").format(sql.Identifier(name)))
        for name, attributes in _ROLES.items():
            connection.execute(sql.SQL("alter role {} " + attributes).format(sql.Identifier(name)))
        for name in ("authenticator", "postgres"):
            password = sql.Literal(parts["password"])
            connection.execute(sql.SQL("alter role {} password {}").format(sql.Identifier(name), password))
        connection.execute(_PROJECT)
        connection.execute(_own_database(dsn))
        if legacy_grants:
            connection.execute(_LEGACY_GRANTS)
    return _project(dsn)


def _own_database(dsn: str) -> sql.Composed:
    return sql.SQL("alter database {} owner to postgres").format(sql.Identifier(str(conninfo_to_dict(dsn)["dbname"])))


def _project(dsn: str) -> Project:
    return Project(owner=make_conninfo(dsn, user="postgres"), api=make_conninfo(dsn, user="authenticator"))


def apply_migrations(dsn: str, folder: Path) -> None:
    """Run all files ``*.sql`` of ``folder`` in the order of their names, each file in one transaction."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        for path in sorted(folder.glob("*.sql")):
            connection.execute(path.read_bytes())


def make_project(dsn: str) -> Project:
    """Set up an empty database like Supabase's, with the tables of sql/. ``dsn`` is a superuser's connection string."""
    project = prepare_database(dsn)
    apply_migrations(project.owner, migrations_folder())
    return project


def store_issuer_keys(connection: psycopg.Connection[Any], issuer: GitHubIssuer) -> None:
    """Store all keys of an emulated issuer, as a project's owner does with the SQL of ``kis-token trust``."""
    connection.cursor().executemany(
        "insert into public.credential_issuer_keys (issuer, kid, modulus) values (%s, %s, %s) on conflict do nothing",
        [(issuer.issuer, key.kid, key.modulus) for key in issuer.keys],
    )


def list_caller(connection: psycopg.Connection[Any], issuer: GitHubIssuer, audience: str, /, **columns: object) -> None:
    """Add the default job of an emulated issuer to the list of callers. ``columns`` replace values of the new row."""
    job = issuer.claims(audience)
    claimed = {name: job[name] for name in ("repository_owner_id", "repository_id", "ref")}
    row = {"service_name": "kis", "audience": audience, "issuer": issuer.issuer} | claimed | columns
    connection.execute(
        sql.SQL("insert into public.credential_callers ({}) values ({})").format(
            sql.SQL(", ").join(map(sql.Identifier, row)), sql.SQL(", ").join(map(sql.Placeholder, row))
        ),
        row,
    )


class MigratedDatabases:
    """A pool of migrated databases for tests. All databases are on one PostgreSQL server.

    Emptying the tables takes a few milliseconds; making a new database takes many times longer. So the pool empties a
    database after a test, and the next test uses the same database. If a test has changed the schema of a database, the
    pool drops the database. If no database is free, the pool copies a database that no test uses.
    """

    def __init__(self, server: EmbeddedPostgres) -> None:
        self._server = server
        self._original: str | None = None
        self._free: list[tuple[str, Project]] = []

    @contextmanager
    def borrow(self) -> Iterator[Project]:
        """Yield a migrated database with empty tables. The end of the block closes all connections to this database."""
        dsn, project = self._free.pop() if self._free else self._make()
        is_kept = False
        try:
            yield project
            is_kept = _restore(dsn)
        finally:
            if is_kept:
                self._free.append((dsn, project))
            else:
                self._server.drop_database(dsn)

    def _make(self) -> tuple[str, Project]:
        if self._original is None:
            self._original = self._migrate()
        dsn = self._server.create_database(template=self._original)
        with psycopg.connect(dsn) as connection:
            connection.execute(_own_database(dsn))
        return dsn, _project(dsn)

    def _migrate(self) -> str:
        dsn = self._server.create_database()
        with ExitStack() as stack:
            stack.callback(self._server.drop_database, dsn)
            make_project(dsn)
            with psycopg.connect(dsn) as connection:
                connection.execute(_WATCH)
            stack.pop_all()  # the database is complete, so do not drop it
        return dsn


def _restore(dsn: str) -> bool:
    """Close all other connections to the database, and empty its tables.

    Returns False if the database's schema has changed.
    """
    try:
        with psycopg.connect(dsn) as connection:
            connection.execute(_END_OTHERS)
            if connection.execute("select from kis_sandbox.schema_changes").fetchone() is not None:
                return False
            connection.execute(EMPTY_TABLES)
            connection.execute(_RESTART_SEQUENCES)
    except psycopg.Error:
        return False
    return True
