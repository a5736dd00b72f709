"""A pytest plugin that looks for secrets in everything a run prints, logs, raises, writes or starts.

The plugin examines the tests' ids and reports (with all log records down to DEBUG), captured output, expected errors,
the output of child processes, command lines, and remaining files. A finding fails the run. The finding names the place,
but does not show the secret. All exceptions from this rule are in ``may_hold_secrets`` and ``says_secrets``.
"""

from __future__ import annotations

import os
import re
import stat
import sys
import tempfile
from contextlib import suppress
from fnmatch import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests import leak_capture
from tests.secret_patterns import SecretPatterns, without_masks

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator


#: The longest part of a command, in characters, that a finding shows. An argument may be a whole program.
LONGEST_FINDING = 400

#: Python's audit events before the start of a child process without subprocess.Popen.
FORKS = frozenset({"os.fork", "os.forkpty", "os.posix_spawn"})


class Leaks:
    """The findings so far, and the search for further findings."""

    def __init__(self) -> None:
        self.patterns = SecretPatterns()
        self.found: list[str] = []
        self.folder: Path | None = None
        self.shared: Path | None = None
        self.test = ""
        self._heard: dict[str, list[bytes]] = {}
        self._files: set[tuple[str, int, int]] = set()

    def add(self, secret: str) -> None:
        """Search all later texts and files for ``secret``.

        A secret that a test made up is dropped when that test ends.
        """
        self.patterns.add(secret, lasting=not self.test)

    def begin(self, test: str) -> None:
        """Begin a test."""
        self.test = test
        self.judge("its id", test)

    def end(self) -> None:
        """End the test: examine the collected texts, and drop the secrets of the test."""
        while self._heard:
            place, said = self._heard.popitem()
            self.judge(place, b"".join(said))
        self.patterns.forget()
        self.test = ""

    def hear(self, place: str, said: str | bytes) -> None:
        """Collect a text or a part of a text. All collected texts are examined at the end of the test."""
        self._heard.setdefault(place, []).append(said.encode(errors="replace") if isinstance(said, str) else said)

    def judge(self, place: str, said: str | bytes) -> None:
        """Examine a text in the form that a reader sees."""
        data = said.encode(errors="replace") if isinstance(said, str) else said
        if self.patterns.are_in(without_masks(data)):
            self._report(place)

    def judge_command(self, words: list[str]) -> None:
        """Examine a command line."""
        if self.patterns.are_in("\0".join(words).encode(errors="replace")):
            self._report(f"the command line {' '.join(words)}")

    def judge_files(self, folder: Path, *, apart_from: str | None = None) -> None:
        """Examine the files of a folder that have changed since the last call, except in folders ``apart_from``."""
        for parent, folders, names in os.walk(folder):
            folders[:] = [name for name in folders if apart_from is None or not fnmatch(name, apart_from)]
            for name in names:
                with suppress(OSError):  # deleted meanwhile
                    self.judge_file(f"{parent}{os.sep}{name}")

    def judge_file(self, file: str) -> None:
        """Examine a file. Examine a file, unless its purpose is to contain secrets."""
        status = os.lstat(file)
        known = (file, status.st_mtime_ns, status.st_size)
        if not stat.S_ISREG(status.st_mode) or known in self._files:
            return
        self._files.add(known)
        path = Path(file)
        content = path.read_bytes()
        seen = without_masks(content) if path.name == "log" else content
        if self.patterns.are_in(seen) and not may_hold_secrets(path, status.st_mode, content):
            self._report(f"the file {path} (mode {stat.S_IMODE(status.st_mode):o})")

    def _report(self, place: str) -> None:
        # The id of a test and the words of a command may contain the secret.
        words = f"{self.test or 'between the tests'}: {place}".split()
        finding = self.patterns.blotted(words)[:LONGEST_FINDING]
        if finding not in self.found:
            self.found.append(finding)


def may_hold_secrets(path: Path, mode: int, content: bytes) -> bool:
    """Whether the purpose of a file is to contain secrets, or texts that look like secrets."""
    if path.suffix == ".pyc":
        return True  # bytecode, which has a type byte before each text; the source file is examined
    if path.name.lower() in ("github_output", "github_env"):
        return True  # outputs and variables of a step: the runner reads them, and masks its log
    if path.name == "secrets" and content.startswith(b"SUPABASE_URL="):
        return True  # a repository's secrets, as input of act
    # The cache, the profiles of a laptop and the token files of other clients, if no other user can read them.
    if path.parts[-3:-1] in (("KIS", "config"), ("kis-token", "profiles")) or path.name == "tokens.json":
        return not mode & 0o077
    return not mode & 0o077 and content.startswith(b'{"access_token"')


def says_secrets(command: list[str]) -> bool:
    """Whether the purpose of a command's standard output is to show secrets.

    Some commands of ``kis-token`` show secrets: for example, ``sandbox`` prints variables to export. A process of a
    benchmark shows the address of its sandbox through a pipe.
    """
    if command[1:3] == ["-m", "kis_token"]:
        return command[3:] in (["get"], ["get", "--json"], ["get", "--env"], ["keygen"], ["sandbox"])
    return re.match(r"from bench\.[\w.]+ import run_servers;", command[-1]) is not None


LEAKS = Leaks()
_patch = pytest.MonkeyPatch()
_processes = leak_capture.ProcessList(LEAKS.judge_command)


def on_event(event: str, arguments: tuple[Any, ...]) -> None:
    """Handle an audit event of Python: a child process is about to start, or a folder is about to be deleted."""
    if not LEAKS.test:
        return
    if event in FORKS:
        _processes.add_fork()
    elif event == "subprocess.Popen":
        LEAKS.judge_command(leak_capture.words_of(arguments[1]))
        for secret in leak_capture.secrets_of(arguments[3]):
            LEAKS.add(secret)
    elif event == "shutil.rmtree":
        folder = Path(os.fsdecode(arguments[0]))
        # pytest's own folder is examined when the test ends.
        if folder.is_relative_to(tempfile.gettempdir()) and not (LEAKS.folder and folder.is_relative_to(LEAKS.folder)):
            LEAKS.judge_files(folder)


def pytest_configure() -> None:
    """Start the watch."""
    leak_capture.listen(_patch, LEAKS.hear, LEAKS.add, says_secrets, _processes.add)
    sys.addaudithook(on_event)
    _processes.start()


def pytest_unconfigure() -> None:
    """Undo all changes that the plugin made to functions."""
    _processes.stop()
    _patch.undo()


@pytest.fixture(scope="session", autouse=True)
def _watched_folder(tmp_path_factory: pytest.TempPathFactory, pytestconfig: pytest.Config) -> None:
    LEAKS.folder = tmp_path_factory.getbasetemp()
    if hasattr(pytestconfig, "workeroutput"):
        pytestconfig.workeroutput["shared"] = str(shared_folder(tmp_path_factory, pytestconfig))


def pytest_runtest_logstart(nodeid: str) -> None:
    """Begin a test."""
    LEAKS.begin(nodeid)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_teardown(item: pytest.Function) -> Generator[None, None, None]:
    """Examine the test's files after all other teardown."""
    folder = getattr(item, "funcargs", {}).get("tmp_path")
    try:
        return (yield)
    finally:
        if folder is not None:
            LEAKS.judge_files(folder)


@pytest.hookimpl(wrapper=True, trylast=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Collect the report's text: the reason of a failure and, in the last report, all printed and logged text."""
    report = yield
    LEAKS.hear("its failure", report.longreprtext)
    for title, content in report.sections if report.when == "teardown" else ():
        LEAKS.hear(title, content)
    return report


def pytest_runtest_logfinish() -> None:
    """End a test."""
    _processes.forget_forks()
    LEAKS.end()


def last_look(_: pytest.Config) -> Iterator[str]:
    """Yield all findings, after the texts and files that belong to no single test are examined."""
    LEAKS.end()
    if LEAKS.folder is not None:
        LEAKS.judge_files(LEAKS.folder)
    return (f"LEAK {finding}" for finding in LEAKS.found)


def look_at_shared_files(_: pytest.Config) -> Iterator[str]:
    """Yield the findings in the folder of all workers.

    The process that started the workers calls this after their end.
    """
    if LEAKS.shared is not None:
        LEAKS.judge_files(LEAKS.shared, apart_from="popen-*")
    return (f"LEAK {finding}" for finding in LEAKS.found)


def shared_folder(factory: pytest.TempPathFactory, config: pytest.Config) -> Path:
    """Return the temporary folder that all workers of a run share."""
    folder = factory.getbasetemp()
    return folder.parent if hasattr(config, "workerinput") else folder
