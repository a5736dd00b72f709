"""``kis-token sandbox``: a command inside finds all services.

At the end of the sandbox, all its processes and files are removed.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING

import pytest

from kis_token.sandbox.database import migrations_folder
from tests.support import first_of

if TYPE_CHECKING:
    from collections.abc import Iterator

SANDBOX = [sys.executable, "-m", "kis_token", "sandbox"]
LONGEST_SECONDS = 60.0

posix_only = pytest.mark.skipif(not Path("/proc/self/cmdline").exists(), reason="processes are looked up in /proc")


@contextmanager
def start(folder: Path, *command: str) -> Iterator[subprocess.Popen[str]]:
    """Run the sandbox in its own process group, with its own temporary folder, for the time of the block."""
    with subprocess.Popen(
        [*SANDBOX, *command],
        env=os.environ | {"TMPDIR": str(folder)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def assert_nothing_is_left(folder: Path) -> None:
    """Wait until no server and no file of the sandbox remains."""
    deadline = time.monotonic() + LONGEST_SECONDS
    while (left := [*folder.iterdir(), *_processes_of(folder)]) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert left == []


def _processes_of(folder: Path) -> list[str]:
    """Return the command lines of this machine's processes that contain the folder."""
    lines = []
    for process in Path("/proc").iterdir():
        with suppress(OSError):  # this folder of /proc belongs to no process, or its process has ended
            lines.append((process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace"))
    return [line for line in lines if str(folder) in line]


def read_until(stream: IO[str], text: str) -> str:
    """Return the stream's text up to the line that has ``text``."""
    lines = []
    for line in stream:
        lines.append(line)
        if text in line:
            break
    return "".join(lines)


@pytest.fixture
def folder(child_processes: None) -> Iterator[Path]:  # noqa: ARG001 - the sandbox is a child process
    """A folder for temporary files that PostgreSQL's user can reach. pytest's own folders are closed to that user."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o777)
        yield folder


@posix_only
@pytest.mark.parametrize("script", first_of(2, ["exit 7", "kill -SEGV $$", "exit 0", "kill -KILL $$"]))
def test_ends_with_the_status_of_its_command(folder: Path, script: str) -> None:
    """The sandbox ends with the command's status, also after a crash, and removes all processes and files."""
    expected = {"exit 0": 0, "exit 7": 7, "kill -KILL $$": 128 + 9, "kill -SEGV $$": 128 + 11}

    with start(folder, "--", "sh", "-c", script) as process:
        assert process.wait(LONGEST_SECONDS) == expected[script]
    assert_nothing_is_left(folder)


@posix_only
def test_command_that_does_not_exist(folder: Path) -> None:
    """A command that does not exist gives status 127, as in a shell."""
    with start(folder, "--", "no-such-command-here") as process:
        assert process.wait(LONGEST_SECONDS) == 127
    assert_nothing_is_left(folder)


@posix_only
def test_command_finds_everything(folder: Path) -> None:
    """By the variables of the sandbox, ``kis-token get`` finds a working KIS and a working Supabase."""
    script = f"'{sys.executable}' -m kis_token get | wc -c"

    with start(folder, "--", "sh", "-c", script) as process:
        output, _ = process.communicate(timeout=LONGEST_SECONDS)
    assert process.returncode == 0
    assert int(output) > 100
    assert_nothing_is_left(folder)


@posix_only
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_stays_until_it_is_stopped(folder: Path, number: signal.Signals) -> None:
    """Without a command the sandbox prints the variables to export and runs until Ctrl-C or SIGTERM."""
    with start(folder) as process:
        assert process.stdout is not None
        printed = read_until(process.stdout, "until Ctrl-C")
        assert process.poll() is None
        process.send_signal(number)
        assert process.wait(LONGEST_SECONDS) == 0
    for name in ("SUPABASE_URL", "SUPABASE_SERVICE_ROLE_KEY", "KIS_BASE_URL", "KIS_SANDBOX_CONTROL_URL"):
        assert f"export {name}=" in printed
    assert_nothing_is_left(folder)


@posix_only
def test_signal_reaches_the_command(folder: Path) -> None:
    """After a SIGTERM, the command ends first. After the command, the sandbox ends with the command's status."""
    with start(folder, "--", "sh", "-c", "trap 'exit 5' TERM; echo ready; while :; do sleep 0.05; done") as process:
        assert process.stdout is not None
        read_until(process.stdout, "ready")
        process.send_signal(signal.SIGTERM)
        assert process.wait(LONGEST_SECONDS) == 5
    assert_nothing_is_left(folder)


STOPPED_WHILE_MAKING = """
import os, signal, subprocess, sys
from kis_token.sandbox.command import run
made = subprocess.Popen
def make(command, **kwargs):
    child = made(command, **kwargs)
    if command[0] == "sh":
        os.kill(os.getpid(), signal.SIGTERM)
    return child
subprocess.Popen = make
sys.exit(run(["sh", "-c", "while :; do sleep 0.05; done"]))
"""


@posix_only
def test_signal_while_the_command_is_started(folder: Path) -> None:
    """A SIGTERM that arrives before the sandbox knows the command's process still ends the command."""
    env = os.environ | {"TMPDIR": str(folder)}
    ended = subprocess.run([sys.executable, "-c", STOPPED_WHILE_MAKING], env=env, timeout=LONGEST_SECONDS, check=False)
    assert ended.returncode == 128 + signal.SIGTERM
    assert_nothing_is_left(folder)


@posix_only
def test_killed_sandbox_leaves_no_server(folder: Path) -> None:
    """Even after kill -9 of the sandbox, PostgreSQL ends and its data is removed."""
    with start(folder) as process:
        assert process.stdout is not None
        read_until(process.stdout, "until Ctrl-C")
        process.kill()
        process.wait(LONGEST_SECONDS)
    deadline = time.monotonic() + LONGEST_SECONDS
    while _processes_of(folder) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert _processes_of(folder) == []


def test_migrations_are_found_in_a_checkout() -> None:
    """In a checkout, the migrations are the files of the top folder's sql/."""
    assert [path.name for path in sorted(migrations_folder().glob("*.sql"))] == [
        "001_api_credentials.sql",
        "002_issuance.sql",
        "003_keys_and_seals.sql",
        "004_token_reader.sql",
        "005_check.sql",
        "006_rs256.sql",
        "007_keyless.sql",
    ]
