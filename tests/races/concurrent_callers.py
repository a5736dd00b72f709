"""Many concurrent callers in one process: a common start, a shared clock, an answer that is held back."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from itertools import count
from threading import Barrier, Condition, Event
from typing import TYPE_CHECKING
from unittest.mock import patch

from kis_token.core.resolution import Resolution
from kis_token.errors import KisTokenError
from kis_token.sandbox.emulator import KISEmulator
from tests.races.caller_processes import SECONDS
from tests.support import ACCOUNT, utc_now

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from datetime import datetime

    from kis_token.sandbox.loopback import Fault, LoopbackServer, Request, Response
    from tests.resolver_harness import Chain

    Outcome = Resolution | KisTokenError

BEGIN = "/rest/v1/rpc/begin_issuance"
COMMIT = "/rest/v1/rpc/commit_issuance"


class SharedClock:
    """The clock of several callers. Time stands still while a caller works, and jumps when all callers sleep.

    With this clock, callers wait for the right time even on a slow machine, and no lease ends during a call.
    """

    def __init__(self, callers: int, pass_time: Callable[[float], object]) -> None:
        self._awake = callers
        self._pass_time = pass_time
        self._passed = 0.0
        self._alarms: list[float] = []
        self._jumped = Condition()

    def now(self) -> datetime:
        """Return the present time, which is the same for all callers."""
        return utc_now() + timedelta(seconds=self._passed)

    def monotonic(self) -> float:
        """Return a number of seconds that never decreases."""
        return time.monotonic() + self._passed

    def sleep(self, seconds: float) -> None:
        """Return when all other callers sleep or are done, and no other caller wakes up earlier."""
        with self._jumped:
            alarm = self._passed + seconds
            self._alarms.append(alarm)
            self._rest()
            assert self._jumped.wait_for(lambda: self._passed >= alarm, SECONDS)

    def jitter(self, low: float, high: float) -> float:
        """Return the middle, so that all callers wake up at the same moment."""
        return (low + high) / 2

    def leave(self) -> None:
        """Remove a caller that is done."""
        with self._jumped:
            self._rest()

    def _rest(self) -> None:
        self._awake -= 1
        if self._awake or not self._alarms:
            return
        alarm = min(self._alarms)
        self._pass_time(alarm - self._passed)
        self._passed = alarm
        self._awake = self._alarms.count(alarm)
        self._alarms = [later for later in self._alarms if later > alarm]
        self._jumped.notify_all()


def at_once(calls: Sequence[Callable[[], Resolution]], clock: SharedClock | None = None) -> list[Outcome]:
    """Make all calls at the same moment, and return their results and errors. ``clock`` is the calls' shared clock."""
    barrier = Barrier(len(calls))

    def run(call: Callable[[], Resolution]) -> Outcome:
        barrier.wait(SECONDS)
        try:
            return call()
        except KisTokenError as error:
            return error
        finally:
            if clock is not None:
                clock.leave()

    with ThreadPoolExecutor(len(calls)) as pool:
        return list(pool.map(run, calls))


def resolutions(got: Sequence[Outcome]) -> list[Resolution]:
    """Assert that no caller got an error, and return all results."""
    assert [each for each in got if not isinstance(each, Resolution)] == []
    return [each for each in got if isinstance(each, Resolution)]


@contextmanager
def new_round(chain: Chain) -> Iterator[Chain]:
    """Yield the chain with an empty slot and a KIS that has issued nothing yet."""
    chain.database.clear()
    with KISEmulator(production=ACCOUNT) as kis:
        kis.configure(lockout_after=0)
        yield replace(chain, kis=kis)


@contextmanager
def gathered(server: LoopbackServer, path: str, callers: int) -> Iterator[None]:
    """Let the first ``callers`` requests to ``path`` wait for each other, so that the server handles them together."""
    answer = server.answer
    arrivals, barrier = count(), Barrier(callers)

    def gather(request: Request) -> tuple[Response, Fault | None]:
        if request.path.startswith(path) and next(arrivals) < callers:
            barrier.wait(SECONDS)
        return answer(request)

    with patch.object(server, "answer", gather):
        yield


@contextmanager
def held(server: LoopbackServer, path: str, *, before: bool = False) -> Iterator[Event]:
    """During the block, hold the next answer to ``path``.

    With ``before``, hold the request before the request has an effect.

    The yielded event is set when the request has arrived. When the block ends, the request has had its effect.
    """
    answer = server.answer
    arrived, opened, done = Event(), Event(), Event()

    def hold(request: Request) -> tuple[Response, Fault | None]:
        if not request.path.startswith(path) or arrived.is_set():
            return answer(request)
        answered = None if before else answer(request)
        arrived.set()
        opened.wait(SECONDS)
        try:
            return answered or answer(request)
        finally:
            done.set()

    with patch.object(server, "answer", hold):
        try:
            yield arrived
        finally:
            opened.set()
            assert not arrived.is_set() or done.wait(SECONDS)
