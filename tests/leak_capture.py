"""Collects texts that no test report has: children's output, captured output, expected errors and command lines."""

from __future__ import annotations

import os
import re
import subprocess
import threading
import traceback
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from kis_token.sandbox.kis_rules import Account

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

#: The seconds between two looks at the process list, and the number of looks at each process. The command line of a
#: process may change.
TICK, LOOKS = 0.05, 20

PROCESSES = Path("/proc")

#: The longest text, in characters, that counts as an ordinary word. All made-up keys are longer.
LONGEST_WORD = 20


#: Variables with a secret. The public keys of a project are left out, because they are no secrets.
_SECRET_VARIABLE = re.compile(r"(INPUT|KIS|SUPABASE)_(?!PUBLISHABLE|ANON)\w*(KEY|SECRET|TOKEN)", re.ASCII)


#: The process that owns a PostgreSQL runs as long as the tests, and starts nothing but PostgreSQL's programs.
SERVER = "postgres_guard.py"


class ProcessList:
    """Examines the command lines of all descendants of this process while a child process runs.

    On a system without /proc, the class does nothing.
    """

    def __init__(self, judge: Callable[[list[str]], None]) -> None:
        self._judge = judge
        self._done = threading.Event()
        self._started = threading.Event()
        self._children: list[subprocess.Popen[Any]] = []
        self._has_forked = False
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._parents: dict[int, int] = {}
        self._looks: dict[int, int] = {}

    def start(self) -> None:
        """Start the thread that examines the process list."""
        if (PROCESSES / "self" / "cmdline").exists():
            self._parents = dict.fromkeys(self._pids(), 0)
            self._thread.start()

    def add(self, child: subprocess.Popen[Any]) -> None:
        """Examine the process list while ``child`` runs."""
        if not any(word.endswith(SERVER) for word in words_of(child.args)):
            self._children.append(child)
            self._started.set()

    def add_fork(self) -> None:
        """Examine the process list until `forget_forks`, because no object shows when a forked child ends."""
        self._has_forked = True
        self._started.set()

    def forget_forks(self) -> None:
        """End the effect of `add_fork`: the forked children of a test end with the test."""
        self._has_forked = False

    def stop(self) -> None:
        """Stop the looks."""
        self._done.set()
        self._started.set()
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        while not self._done.wait(TICK):
            self._look()
            self._started.clear()
            for child in [each for each in self._children if each.returncode is not None]:
                self._children.remove(child)
            # stop() may have set both events before clear().
            if not (self._children or self._has_forked or self._done.is_set()):
                self._started.wait()

    def _look(self) -> None:
        pids = set(self._pids())
        for pid in self._parents.keys() - pids:
            del self._parents[pid]
            self._looks.pop(pid, None)
        for pid in sorted(pids):  # parents before their children
            with suppress(OSError, IndexError, ValueError):  # the process has ended
                if pid not in self._parents:
                    status = (PROCESSES / str(pid) / "stat").read_text()
                    self._parents[pid] = int(status.rpartition(")")[2].split()[1])
                    self._looks[pid] = LOOKS if self._is_ours(pid) else 0
                if self._looks.get(pid):
                    self._looks[pid] -= 1
                    line = (PROCESSES / str(pid) / "cmdline").read_bytes().decode(errors="replace")
                    self._judge(line.rstrip("\0").split("\0"))

    def _is_ours(self, pid: int) -> bool:
        while pid not in (0, os.getpid()):
            pid = self._parents.get(pid, 0)
        return pid != 0

    @staticmethod
    def _pids() -> Iterator[int]:
        return (int(name) for name in os.listdir(PROCESSES) if name.isdigit())  # noqa: PTH208 - fast, because it runs twenty times a second


class HeardStream:
    """A child's pipe. All text that a test reads from the pipe is also collected."""

    def __init__(self, stream: Any, hear: Callable[[Any], None]) -> None:  # noqa: ANN401 - of text or of bytes
        self._stream = stream
        self._hear = hear

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - the stream's
        return getattr(self._stream, name)

    def __iter__(self) -> HeardStream:
        return self

    def __next__(self) -> Any:  # noqa: ANN401 - the stream's
        return self._heard(next(self._stream))

    def read(self, *size: int) -> Any:  # noqa: ANN401 - the stream's
        """Read from the stream, and collect the text."""
        return self._heard(self._stream.read(*size))

    def readline(self, *size: int) -> Any:  # noqa: ANN401 - the stream's
        """Read a line from the stream, and collect the line."""
        return self._heard(self._stream.readline(*size))

    def _heard(self, said: Any) -> Any:  # noqa: ANN401 - the stream's
        self._hear(said)
        return said


def listen(
    patch: pytest.MonkeyPatch,
    hear: Callable[[str, str | bytes], None],
    add: Callable[[str], None],
    says_secrets: Callable[[list[str]], bool],
    on_start: Callable[[subprocess.Popen[Any]], None],
) -> None:
    """Collect texts that a test sees and no report has, and register every made-up account as a secret.

    The wrapped functions keep their behaviour. If ``says_secrets`` is True for a command, only its stderr is collected.
    ``on_start`` gets each child process.
    """
    listen_to_children(patch, hear, says_secrets, on_start)
    read, leave, make = pytest.CaptureFixture.readouterr, pytest.RaisesExc.__exit__, Account.__init__

    def read_and_hear(captured: pytest.CaptureFixture[Any]) -> Any:  # noqa: ANN401 - the fixture's
        told = read(captured)
        hear("its captured output", told.out)
        hear("its captured errors", told.err)
        return told

    def leave_and_hear(expected: pytest.RaisesExc[Any], kind: Any, error: Any, trace: Any) -> bool:  # noqa: ANN401 - as raises
        for each in chain_of(error):
            text = traceback.TracebackException(type(each), each, None).format_exception_only()
            hear(f"the text of {type(each).__name__}, which it expects", "".join([*text, repr(each)]))
        return leave(expected, kind, error, trace)

    def make_and_add(account: Account, *keys: str, **named: str) -> None:
        make(account, *keys, **named)
        for secret in (account.app_key, account.app_secret):
            if len(secret) > LONGEST_WORD:
                add(secret)

    patch.setattr(pytest.CaptureFixture, "readouterr", read_and_hear)
    patch.setattr(pytest.RaisesExc, "__exit__", leave_and_hear)
    patch.setattr(Account, "__init__", make_and_add)


def listen_to_children(
    patch: pytest.MonkeyPatch,
    hear: Callable[[str, str | bytes], None],
    says_secrets: Callable[[list[str]], bool],
    on_start: Callable[[subprocess.Popen[Any]], None],
) -> None:
    """Collect the output of children that comes through pipes of this process."""
    start, communicate = subprocess.Popen.__init__, subprocess.Popen.communicate

    def hear_child(child: subprocess.Popen[Any], name: str, said: Any) -> None:  # noqa: ANN401 - text or bytes
        words = words_of(child.args)
        if said and not (name == "stdout" and says_secrets(words)):
            hear(f"the {name} of {' '.join(words)}", said)

    def start_and_hear(child: subprocess.Popen[Any], *arguments: Any, **named: Any) -> None:  # noqa: ANN401 - as Popen
        start(child, *arguments, **named)
        on_start(child)
        for name in ("stdout", "stderr"):
            stream = getattr(child, name)
            if stream is not None:
                setattr(child, name, HeardStream(stream, partial(hear_child, child, name)))

    def communicate_and_hear(child: subprocess.Popen[Any], *arguments: Any, **named: Any) -> Any:  # noqa: ANN401 - the same
        told = communicate(child, *arguments, **named)
        for name, said in zip(("stdout", "stderr"), told, strict=True):
            hear_child(child, name, said)
        return told

    patch.setattr(subprocess.Popen, "__init__", start_and_hear)
    patch.setattr(subprocess.Popen, "communicate", communicate_and_hear)


def words_of(command: Any) -> list[str]:  # noqa: ANN401 - as in subprocess
    """Return the words of a command in any form that subprocess takes."""
    if isinstance(command, (str, bytes, os.PathLike)):
        return [os.fsdecode(command)]
    return [*map(os.fsdecode, command)]


def secrets_of(env: Mapping[str, str] | None) -> Iterator[str]:
    """Yield the keys in a child's environment, so that a test need not register its made-up keys."""
    for name, value in (env or {}).items():
        if _SECRET_VARIABLE.fullmatch(str(name)):
            yield from (word for word in str(value).split() if len(word) > LONGEST_WORD)


def chain_of(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an error, and those of its causes and contexts that a traceback shows."""
    seen: set[int] = set()
    waiting = [error]
    while waiting:
        each = waiting.pop()
        if each is not None and id(each) not in seen:
            seen.add(id(each))
            yield each
            waiting += [each.__cause__, None if each.__suppress_context__ else each.__context__]
