"""A step ends at its timeout, and ends if it is cancelled."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from typing import TYPE_CHECKING

import psycopg
import pytest

from kis_token.sandbox.loopback import Fault
from tests.github.entrypoint_steps import errors, failure, inputs_of
from tests.support import first_of, wait_until
from tools.step import CHECKOUT, run_step, step_command, step_environment

if TYPE_CHECKING:
    from pathlib import Path

    from kis_token.sandbox import Sandbox


def test_nothing_outlasts_the_timeout(sandbox: Sandbox, tmp_path: Path) -> None:
    """A step that hangs ends at its timeout, with one error line and its code."""
    sandbox.supabase.server.add_fault(Fault("stall"))
    started = time.monotonic()

    ended = run_step(inputs_of(sandbox, timeout="2s"), tmp_path)

    assert ended.public == failure("timed-out")
    assert len(errors(ended)) == 1
    assert time.monotonic() - started < 10


#: A step that ends at its timeout, with a runner that reads the output slowly.
ENDS_AT_ITS_TIMEOUT = """
import os, threading, time
from datetime import timedelta
from types import SimpleNamespace
import entrypoint
from kis_token.github.workflow_commands import FileWorkflow

reports = threading.Event()

class Long(FileWorkflow):
    def error(self, message):
        reports.set()
        super().error(message + " " * 1_000_000)

def find_token(workflow, end):
    settings = SimpleNamespace(timeout=timedelta(seconds=time.monotonic() - entrypoint.STARTED + 0.05))
    entrypoint.start_watch(settings, Long(os.environ), end)
    reports.wait()
    return 0

entrypoint.find_token = find_token
raise SystemExit(entrypoint.run_step())
"""


@pytest.mark.usefixtures("child_processes")
def test_a_step_that_ends_at_its_timeout_is_not_aborted() -> None:
    """If a step ends while its watch prints the error, the step waits for the watch, so that Python does not abort."""
    command = [sys.executable, "-c", ENDS_AT_ITS_TIMEOUT]
    environment = os.environ | {"PYTHONPATH": str(CHECKOUT)}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as step:
        with suppress(subprocess.TimeoutExpired):
            step.wait(
                1
            )  # the pipe cannot hold the whole output, so the step ends before the output is read only if Python aborts
        assert step.stdout is not None
        said = step.stdout.read()

    assert (step.returncode, said.count(b"[timed-out]"), b"Fatal" in said) == (1, 1, False)


@pytest.mark.skipif(os.name != "posix", reason="a runner cancels by signals on POSIX alone")
@pytest.mark.parametrize(
    ("number", "ignored"),
    first_of(
        2, [(signal.SIGTERM, False), (signal.SIGINT, True), (signal.SIGINT, False), (signal.SIGTERM, True)]
    ),  # ``ignored``: whether the runner ignores SIGINT, as a runner in the background does
)
def test_cancelled_step_gives_its_lease_back(
    sandbox: Sandbox, tool_cache: Path, tmp_path: Path, number: signal.Signals, *, ignored: bool
) -> None:
    """A step that is cancelled while KIS is slow ends without a traceback, and its lease is free.

    A runner that was started by ``nohup ./run.sh &`` ignores SIGINT. A runner's children also ignore SIGINT, until they
    install their own handler.
    """
    sandbox.kis.production.add_fault(Fault("stall", "/oauth2/tokenP"))
    environment = step_environment(inputs_of(sandbox), {"RUNNER_TOOL_CACHE": str(tool_cache)}, tmp_path)
    output = tmp_path / "log"
    before = signal.signal(signal.SIGINT, signal.SIG_IGN) if ignored else None
    try:
        log = output.open("w")
        process = subprocess.Popen(step_command(tmp_path), env=environment, stdout=log, stderr=subprocess.STDOUT)
    finally:
        if ignored:
            signal.signal(signal.SIGINT, before)
    with log, process, psycopg.connect(sandbox.owner_dsn, autocommit=True) as connection:
        wait_until(lambda: sandbox.kis.production.seen or process.poll() is not None)
        process.send_signal(number)
        status = process.wait(30)
        lease = connection.execute("select holder, last_error from credential_leases").fetchone()

    assert status == 130
    assert lease == (None, "interrupted")
    assert "Traceback" not in output.read_text()
