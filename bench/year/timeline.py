"""Simulated time for concurrent actions. Each action has a thread, and only one thread runs at a time.

When a thread sleeps, the thread with the next wake-up time continues. Time passes only when all threads sleep, so a
simulated year takes seconds. The same seed gives the same year.
"""

from __future__ import annotations

import heapq
import threading
from datetime import datetime, timedelta, timezone
from itertools import count
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import random
    from collections.abc import Callable


class Timeline:
    """A `kis_token.clock.Clock`, and a plan of actions with their times."""

    def __init__(self, begin: datetime, jitter: random.Random) -> None:
        self._begin = self._now = begin.astimezone(timezone.utc)
        self._jitter = jitter
        self._planned: list[tuple[datetime, int, Callable[[], object]]] = []
        self._numbers = count()
        self._turn = threading.Semaphore(0)
        self._errors: list[BaseException] = []

    def now(self) -> datetime:
        """Return the simulated time, timezone-aware, in UTC."""
        return self._now

    def monotonic(self) -> float:
        """Return the simulated seconds since the beginning."""
        return (self._now - self._begin).total_seconds()

    def sleep(self, seconds: float) -> None:
        """Let the other actions run for ``seconds`` of simulated time. Only a thread of the plan may sleep."""
        awake = threading.Semaphore(0)
        self._plan(self._now + timedelta(seconds=seconds), awake.release)
        self._turn.release()
        awake.acquire()

    def jitter(self, low: float, high: float) -> float:
        """Return a random number of seconds between ``low`` and ``high``."""
        return self._jitter.uniform(low, high)

    def at(self, moment: datetime, act: Callable[[], object]) -> None:
        """Plan the action ``act`` for ``moment``."""

        def run() -> None:
            try:
                act()
            except BaseException as error:  # noqa: BLE001 - raised again by ``run``
                self._errors.append(error)
            finally:
                self._turn.release()

        self._plan(moment, lambda: threading.Thread(target=run, daemon=True).start())

    def run(self) -> None:
        """Run all planned actions. Raises the first error of an action."""
        while self._planned and not self._errors:
            self._now, _, go_on = heapq.heappop(self._planned)
            go_on()
            self._turn.acquire()
        if self._errors:
            raise self._errors[0]

    def _plan(self, moment: datetime, go_on: Callable[[], object]) -> None:
        heapq.heappush(self._planned, (max(moment, self._now), next(self._numbers), go_on))
