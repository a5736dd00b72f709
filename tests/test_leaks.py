"""The leak capture finds a secret in every place, and reports the place without the secret."""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from tests.leak_capture import ProcessList
from tools.step import CHECKOUT

if TYPE_CHECKING:
    from pathlib import Path


#: The conftest.py of a separate run, which gets one secret from its environment. The file makes this project's package
#: ``tests`` importable, because another package has the same name.
CONFTEST = f"""
import os, sys, types
tests = types.ModuleType("tests")
tests.__path__ = [{str(CHECKOUT / "tests")!r}]
sys.modules["tests"] = tests
from tests import findings, leaks

def pytest_configure(config):
    findings.watch(config)
    leaks.LEAKS.add(os.environ["SECRET"])
"""

IMPORTS = """
import json, logging, os, subprocess, sys, tempfile
from pathlib import Path
import pytest
from tests.leaks import LEAKS

SECRET = os.environ["SECRET"]
SAY = "import os; print(os.environ['SECRET'])"
"""

LEAKING = f"""{IMPORTS}
def test_prints():
    print("it is", SECRET)

def test_complains():
    print(f"<{{SECRET}}>", file=sys.stderr)

def test_logs():
    logging.getLogger("some.library").debug("header %s", SECRET)

def test_captures(capsys):
    print(SECRET)
    capsys.readouterr()

def test_expects():
    with pytest.raises(KeyError):
        try:
            raise ValueError(SECRET)
        except ValueError as error:
            raise KeyError from error

@pytest.fixture
def tidy():
    yield
    print(SECRET)

def test_tidies(tidy):
    pass

@pytest.mark.parametrize("_", [1], ids=[SECRET])
def test_names(_):
    pass

def test_hears_child():
    subprocess.run([sys.executable, "-c", SAY], capture_output=True)

def test_hears_errors():
    subprocess.run(["sh", "-c", 'echo "$SECRET" >&2'], stderr=subprocess.PIPE, text=True)

def test_reads_line():
    with subprocess.Popen([sys.executable, "-c", SAY], stdout=subprocess.PIPE, text=True) as child:
        child.stdout.readline()

def test_reads_lines():
    with subprocess.Popen([sys.executable, "-c", SAY], stdout=subprocess.PIPE) as child:
        for line in child.stdout:
            pass

def test_starts():
    subprocess.run([sys.executable, "-c", "", SECRET])

def test_has_grandchild():
    command = '"$0" -c "input()" "$SECRET"; true'
    with subprocess.Popen(["sh", "-c", command, sys.executable], stdin=subprocess.PIPE) as child:
        while not any("test_has_grandchild" in finding for finding in LEAKS.found):
            try:
                child.wait(0.02)
            except subprocess.TimeoutExpired:
                pass
        child.communicate(b"go")

def test_writes(tmp_path):
    (tmp_path / "summary.md").write_text(f"| token | {{SECRET}} |")

def test_deletes():
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "short-lived").write_text(SECRET)

def test_shows_cache(tmp_path):
    (tmp_path / "cache.json").write_text(json.dumps({{"access_token": SECRET}}))
    (tmp_path / "cache.json").chmod(0o640)

def test_shares(tmp_path_factory):
    (tmp_path_factory.mktemp("shared") / "file").write_text(SECRET)
"""

LEAKING_BESIDE = f"""{IMPORTS}
def test_shares(tmp_path_factory):
    beside = tmp_path_factory.getbasetemp().parent / "tools"
    beside.mkdir(exist_ok=True)
    (beside / "file").write_text(SECRET)
"""

#: The place in which the leak of each test is found.
PLACES = {
    "test_prints": "Captured stdout call",
    "test_complains": "Captured stderr call",
    "test_logs": "Captured log call",
    "test_captures": "its captured output",
    "test_expects": "the text of ValueError, which it expects",
    "test_tidies": "Captured stdout teardown",
    "test_hears_child": "the stdout of ",
    "test_hears_errors": "the stderr of ",
    "test_reads_line": "the stdout of ",
    "test_reads_lines": "the stdout of ",
    "test_starts": "the command line ",
    "test_has_grandchild": "the command line ",
    "test_writes": "the file ",
    "test_deletes": "the file ",
    "test_shows_cache": "the file ",
}
FINDINGS = (*(f"test_some.py::{test}: {place}" for test, place in PLACES.items()), "*** its id", "between the tests: ")

SILENT = f"""{IMPORTS}
def test_masks_before_it_prints():
    print("::add-mask::" + SECRET)
    subprocess.run(["sh", "-c", 'echo "::add-mask::$SECRET"'], capture_output=True)

def test_keeps_files(tmp_path):
    (tmp_path / "GITHUB_OUTPUT").write_text(SECRET)
    (tmp_path / "github_env").write_text(SECRET)
    cache = tmp_path / "cache.json"
    cache.touch(mode=0o600)
    cache.write_text(json.dumps({{"access_token": SECRET}}))

def test_hands_over():
    done = subprocess.run([sys.executable, "-c", "import sys; sys.stdin.read()"], input=SECRET.encode())
    assert done.returncode == 0
"""


HIDDEN = """
import gc, threading, warnings

class Spoilt:
    def __del__(self):
        raise ValueError("in a finalizer")

def test_warns():
    warnings.warn("some day this ends", DeprecationWarning)

def test_starts_a_thread():
    thread = threading.Thread(target=lambda: {}["in a thread"])
    thread.start()
    thread.join()

def test_finalizes():
    Spoilt()

def test_leaves_something():
    gc.disable()
    left = Spoilt()
    left.itself = left
"""

#: The tests run in one process, as in an editor, or in a worker, as in `make test`.
WAYS = {"one process": ("-n0",), "worker": ("-n1",)}
TWO_WORKERS = ("-n2", "--dist=load")
every_way = pytest.mark.parametrize("way", WAYS)


@dataclass(frozen=True)
class Run:
    """A run of tests that has ended."""

    status: int
    leaks: list[str]
    hidden: list[str]
    failed: set[str]
    shows_secret: bool


Runs = Callable[..., Run]


@pytest.fixture
def run(tmp_path: Path, child_processes: None) -> Runs:  # noqa: ARG001 - it starts a child process
    """Run some tests with this project's configuration, and with options."""

    def start(tests: str, *options: str) -> Run:
        # The secret is new, because the outer run of tests would also report a secret that it knows.
        secret = f'{secrets.token_hex(4)}+/"=&{secrets.token_hex(12)}'
        (tmp_path / "conftest.py").write_text(CONFTEST)
        (tmp_path / "test_some.py").write_text(tests)
        project = f"--config-file={CHECKOUT / 'pyproject.toml'}"
        without = [word for each in ("cacheprovider", "anyio", "hypothesispytest") for word in ("-p", f"no:{each}")]
        places = (f"--rootdir={tmp_path}", f"--basetemp={tmp_path / 'base'}")
        done = subprocess.run(
            [sys.executable, "-m", "pytest", *without, project, *places, *options, "test_some.py"],
            cwd=tmp_path,
            env={**os.environ, "SECRET": secret, "PYTEST_ADDOPTS": ""},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        lines = done.stdout.splitlines()
        return Run(
            status=done.returncode,
            leaks=[line.removeprefix("LEAK ") for line in lines if line.startswith("LEAK ")],
            hidden=[line.removeprefix("HIDDEN ") for line in lines if line.startswith("HIDDEN ")],
            failed={line.split()[1].partition("::")[2] for line in lines if line.startswith("FAILED ")},
            shows_secret=secret in done.stdout + done.stderr,
        )

    return start


@every_way
def test_every_place_is_watched(run: Runs, way: str) -> None:
    """If tests leak a secret in any place, the run fails, and names each place and test, but not the secret."""
    ended = run(LEAKING, *WAYS[way])

    assert ended.status == pytest.ExitCode.TESTS_FAILED
    assert (ended.failed, ended.hidden) == (set(), [])
    assert [each for each in FINDINGS if not any(leak.startswith(each) for leak in ended.leaks)] == []
    assert [leak for leak in ended.leaks if not leak.startswith(FINDINGS)] == []
    assert not ended.shows_secret, "the secret is shown"


def test_one_leak_is_enough(run: Runs) -> None:
    """A run of one test is watched like a run of all tests.

    One leak fails the run, and there is exactly one finding.
    """
    ended = run(LEAKING, "-k", "test_logs")

    assert (ended.status, ended.failed) == (pytest.ExitCode.TESTS_FAILED, set())
    assert ended.leaks == ["test_some.py::test_logs: Captured log call"]


def test_files_that_workers_share_are_watched(run: Runs) -> None:
    """A file that all workers share, beside the workers' folders, is also searched."""
    ended = run(LEAKING_BESIDE, *TWO_WORKERS)

    assert (ended.status, ended.failed) == (pytest.ExitCode.TESTS_FAILED, set())
    assert ended.leaks
    assert [leak for leak in ended.leaks if not leak.startswith("between the tests: the file ")] == []


@every_way
def test_hidden_exceptions_fail_the_run(run: Runs, way: str) -> None:
    """A warning, or an exception in a thread or finalizer, fails its test.

    After the last test, the exception fails the run.
    """
    ended = run(HIDDEN, *WAYS[way])

    assert ended.status == pytest.ExitCode.TESTS_FAILED
    assert ended.failed == {"test_warns", "test_starts_a_thread", "test_finalizes"}
    late = run(HIDDEN, "-k", "test_leaves_something", *WAYS[way])
    assert (late.status, late.failed) == (pytest.ExitCode.TESTS_FAILED, set())
    (finding,) = late.hidden
    assert "Spoilt.__del__" in finding


def test_failure_that_shows_a_secret_is_found(run: Runs) -> None:
    """If a test fails and pytest's explanation shows a secret, the leak is reported."""
    ended = run(f"{IMPORTS}\ndef test_compares():\n    assert SECRET == ''\n")

    assert ended.status == pytest.ExitCode.TESTS_FAILED
    assert ended.leaks == ["test_some.py::test_compares: its failure"]


def test_allowed_places_are_no_finding(run: Runs) -> None:
    """Masks, a step's outputs and variables, a private cache, and the contents of a pipe are no findings."""
    ended = run(SILENT, *WAYS["worker"])

    assert ended == Run(pytest.ExitCode.OK, leaks=[], hidden=[], failed=set(), shows_secret=False)


@pytest.mark.usefixtures("child_processes")
def test_a_stop_during_a_look_ends_the_thread() -> None:
    """If the last child ends and the watch is stopped while the thread reads the process list, the thread ends."""
    stopping: list[threading.Thread] = []
    children: list[subprocess.Popen[bytes]] = []

    def judge(_: list[str]) -> None:
        if children and not stopping:
            children[0].kill()
            children[0].wait()
            stopping.append(threading.Thread(target=watch.stop))
            stopping[0].start()
            stopping[0].join(0.2)  # stop() waits for this thread, so the join cannot succeed

    watch = ProcessList(judge)
    watch.start()
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        children.append(child)
        watch.add(child)
        watch._thread.join(10)
    assert stopping
    assert not watch._thread.is_alive()
