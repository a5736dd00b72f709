"""Signals that end the command: the command gives its lease back, even if the process ignored the signal before."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING

import pytest

from kis_token import deadline as limits
from kis_token.clock import SystemClock
from kis_token.process.interrupts import interruptible, restore
from kis_token.sandbox.loopback import Fault
from tests.command import LOADED_PROGRAM, PROGRAM, clean
from tests.support import make_token, wait_until

if TYPE_CHECKING:
    from tests.resolver_harness import Chain

posix = pytest.mark.skipif(os.name != "posix", reason="signals as POSIX has them")
SIGNALS = [signal.SIGINT, signal.SIGTERM]


@pytest.mark.parametrize("number", SIGNALS)
def test_signal_interrupts(number: signal.Signals) -> None:
    """In the block, a signal raises KeyboardInterrupt, even if the signal was ignored before.

    After the block, the old handler is back.
    """
    before = signal.signal(number, signal.SIG_IGN)
    try:
        with pytest.raises(KeyboardInterrupt), interruptible():
            signal.raise_signal(number)
        assert signal.getsignal(number) is signal.SIG_IGN
    finally:
        signal.signal(number, before)


def test_break_of_windows_interrupts(monkeypatch: pytest.MonkeyPatch) -> None:
    """If the system has the signal SIGBREAK, this signal also gets a handler."""
    number = getattr(signal, "SIGBREAK", None) or signal.SIGURG
    monkeypatch.setattr(signal, "SIGBREAK", number, raising=False)
    with pytest.raises(KeyboardInterrupt), interruptible():
        signal.raise_signal(number)


def test_handlers_of_before_return_early_for_another_program() -> None:
    """Before exec replaces a process's program, the process restores the previous handlers."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with interruptible():
            restore()
            assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


def test_other_threads_are_left_alone() -> None:
    """In another thread, which cannot set handlers, the block runs and changes nothing."""
    ran = []

    def run() -> None:
        with interruptible():
            ran.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert ran == [signal.getsignal(signal.SIGTERM)]


@posix
@pytest.mark.parametrize("number", SIGNALS)
@pytest.mark.usefixtures("child_processes")
def test_stopped_command_gives_its_lease_back(chain: Chain, number: signal.Signals) -> None:
    """If a signal stops ``kis-token get`` while KIS is slow, the command ends with 130, and its lease is free.

    The command is started with SIGINT ignored, as in a background job of a shell.
    """
    chain.database.put_keys()
    chain.kis.production.add_fault(Fault("stall", "/oauth2/tokenP"))
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        command = subprocess.Popen(
            [*LOADED_PROGRAM, "get"],
            env=clean(chain.variables),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
    finally:
        signal.signal(signal.SIGINT, before)
    with command:
        wait_until(lambda: chain.kis.production.seen or command.poll() is not None)
        command.send_signal(number)
        _, told = command.communicate(timeout=30)

    assert (command.returncode, "Traceback" in told) == (130, False), told
    assert chain.database.outcomes() == ["granted", "aborted"]


@posix
@pytest.mark.usefixtures("child_processes")
def test_program_of_exec_ignores_what_was_ignored(chain: Chain) -> None:
    """The program of a background ``kis-token exec`` ignores SIGINT, as it would without kis-token."""
    chain.database.put_token(make_token())
    show = "import signal; print(signal.getsignal(signal.SIGINT) is signal.SIG_IGN, signal.getsignal(signal.SIGTERM))"
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        ended = subprocess.run(
            [*PROGRAM, "exec", "--", sys.executable, "-c", show],
            env=clean(chain.variables),
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    finally:
        signal.signal(signal.SIGINT, before)

    assert ended.stdout.split() == ["True", str(int(signal.SIG_DFL))] or ended.stdout == "True Handlers.SIG_DFL\n"


def test_waits_are_cut_into_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    """No wait for a thread or for time is longer than a slice, because Windows handles signals between slices."""
    waits: list[float] = []
    join, sleep = threading.Thread.join, time.sleep

    def join_shortly(thread: threading.Thread, limit: float) -> None:
        waits.append(limit)
        join(thread, 0.001)

    def sleep_shortly(seconds: float) -> None:
        waits.append(seconds)
        sleep(0.001)

    monkeypatch.setattr(threading.Thread, "join", join_shortly)
    monkeypatch.setattr(time, "sleep", sleep_shortly)
    never = threading.Event()

    with pytest.raises(limits.GivenUp):
        limits.within(0.4, lambda _: never.wait())
    SystemClock().sleep(0.4)
    never.set()

    assert len(waits) > 2
    assert max(waits) <= limits.SLICE
