"""State and os.fork(): each process makes its own value, and a child never inherits an unfinished import."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from kis_token.deadline import within
from kis_token.process import forks as forks_module
from kis_token.process.forks import no_fork
from kis_token.process.per_process import PerProcess
from tests.forked_child import forks, in_child, needs_fork

if TYPE_CHECKING:
    from tests.resolver_harness import Chain

pytestmark = [forks, needs_fork]


def test_a_process_keeps_its_value() -> None:
    """A process makes its value once, at the first use."""
    made: list[object] = []

    def make() -> object:
        made.append(object())
        return made[-1]

    value = PerProcess(make)
    assert made == []
    assert value.get() is value.get() is made[0]
    assert len(made) == 1


@pytest.mark.usefixtures("child_processes")
def test_child_and_grandchild_make_their_own() -> None:
    """Parent, child and grandchild have different values, even if the child never used its own value."""
    value = PerProcess(os.getpid)
    first = value.get()

    def child() -> list[int]:
        return [in_child(value.get), value.get(), os.getpid()]

    grandchild, second, process = in_child(child)
    assert len({first, second, grandchild}) == 3
    assert second == process
    assert value.get() == first
    assert in_child(lambda: in_child(value.get) not in {first, os.getpid()}) is True


@pytest.mark.usefixtures("child_processes")
def test_threads_of_a_child_share_one() -> None:
    """If several threads of a child use the value first at the same time, they get the same value."""
    value = PerProcess(object)
    value.get()

    def child() -> int:
        barrier = threading.Barrier(16)

        def run() -> int:
            barrier.wait()
            return id(value.get())

        with ThreadPoolExecutor(16) as pool:
            return len({each.result() for each in [pool.submit(run) for _ in range(16)]})

    assert [in_child(child) for _ in range(10)] == [1] * 10


@pytest.mark.usefixtures("child_processes")
def test_a_fork_waits_for_an_import() -> None:
    """A fork by another thread waits for the end of a block of `no_fork`."""
    is_in, done, state = threading.Event(), threading.Event(), []

    def run() -> None:
        with no_fork():
            is_in.set()
            assert done.wait(30)
            state.append("imported")

    thread = threading.Thread(target=run)
    thread.start()
    assert is_in.wait(30)
    threading.Timer(0.2, done.set).start()
    assert in_child(lambda: list(state)) == ["imported"]
    thread.join(30)


@pytest.mark.usefixtures("child_processes")
def test_a_child_may_import_as_well() -> None:
    """After the fork, both parent and child can enter a new block of `no_fork`."""
    assert in_child(_enter_in_a_thread) == "entered"
    assert _enter_in_a_thread() == "entered"


def _enter_in_a_thread() -> str:
    entered = []

    def run() -> None:
        with no_fork():
            entered.append("entered")

    thread = threading.Thread(target=run)
    thread.start()
    thread.join(10)
    return "".join(entered)


FIRST_RENEWAL = """
import os, signal, sys, threading, time
from kis_token.client.kis_client import KISClient

client, errors = KISClient.from_env(), []
thread = threading.Thread(target=lambda: client.access_token)
thread.start()
while "requests" not in sys.modules:  # it is being imported
    time.sleep(0.001)
child = os.fork()
if child == 0:
    signal.alarm(60)
    print(len(client.access_token) > 100, flush=True)
    os._exit(0)
thread.join()
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


def test_a_child_forked_during_the_first_renewal(chain: Chain) -> None:
    """A child forked during the imports of the parent's first issue gets the token too, and KIS issues once."""
    env = {**os.environ, **chain.variables, "KIS_TOKEN_CACHE": "off"}
    ended = subprocess.run(
        [sys.executable, "-c", FIRST_RENEWAL], env=env, capture_output=True, text=True, timeout=90, check=False
    )
    assert (ended.returncode, ended.stdout) == (0, "True\n"), ended.stderr[-2000:]
    assert chain.issue_calls == 1


@pytest.mark.usefixtures("child_processes")
def test_a_fork_does_not_wait_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    """If a block does not end, a fork waits only for a limited time, and the child is in no block."""
    monkeypatch.setattr(forks_module, "LONGEST_WAIT", 0.1)
    with no_fork():
        assert in_child(lambda: forks_module._GATE._inside) == 0
    assert forks_module._GATE._inside == 0


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux says which threads there are")
@pytest.mark.usefixtures("child_processes")
def test_a_fork_right_after_a_call_waits_for_the_end_of_its_thread() -> None:
    """A fork waits until the system has ended a call's thread, because OpenSSL holds a lock until then."""
    library = ctypes.CDLL(None)
    key = ctypes.c_uint()
    # The system calls usleep with the value of the key when the thread ends.
    assert library.pthread_key_create(ctypes.byref(key), library.usleep) == 0

    def call(_: object) -> int:
        library.pthread_setspecific(key, ctypes.c_void_p(300_000))
        return threading.get_native_id()

    thread = Path(f"/proc/{os.getpid()}/task/{within(5, call)}")
    assert thread.exists()
    assert in_child(thread.exists) is False
