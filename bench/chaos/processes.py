"""Starts, kills, suspends and wakes the callers' processes."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from typing import TYPE_CHECKING

from bench.chaos.caller import Caller
from bench.chaos.records import Stop, Tally
from bench.chaos.simulated_time import AT_KIS, GRANTED, IDLE, RESOLVING, SimulatedClock

if TYPE_CHECKING:
    import random
    from collections.abc import Sequence
    from multiprocessing.context import ForkProcess

    from bench.chaos.caller import Surroundings
    from bench.chaos.machines import Machine

WHEN = {IDLE: "between two attempts", RESOLVING: "while resolving", GRANTED: "with a lease", AT_KIS: "at KIS"}

#: This share of the callers with a lease, or at KIS, is killed. The same share of these callers is suspended.
STRUCK = 0.2

#: The shortest and longest times of suspensions, in the machine's seconds. Long suspensions last longer than a lease.
SHORT, LONG = (0.05, 1.0), (6.5, 8.5)


class Processes:
    """The callers' processes, by the numbers of the callers. ``keys`` are the Supabase keys of the callers."""

    def __init__(
        self, around: Surroundings, rng: random.Random, keys: Sequence[str], machines: Sequence[Machine]
    ) -> None:
        self._around = around
        self._shared = around.shared
        self._random = rng
        self._clock = SimulatedClock(around.shared)
        self._keys = keys
        self._machines = machines
        self._lives = [0] * len(keys)
        self._processes: list[ForkProcess] = []
        self._asleep: dict[int, tuple[float, float]] = {}
        self._marks = [IDLE] * len(keys)

    def start(self) -> None:
        """Start all processes."""
        self._processes = [self._start_caller(number) for number in range(len(self._keys))]

    def tick(self) -> None:
        """Replace ended processes, wake suspended processes, and disturb processes that have just got a lease."""
        for number, process in enumerate(self._processes):
            if process.exitcode is not None:
                self._collect(number, process)
                self._processes[number] = self._start_caller(number)
                continue
            mark, before = self._shared.mark(number), self._marks[number]
            self._marks[number] = mark
            if mark != before and mark in (GRANTED, AT_KIS):
                self._strike(number)
        for number, (until, _) in list(self._asleep.items()):
            if time.monotonic() >= until:
                self._wake(number)

    def kill(self, number: int | None = None) -> None:
        """Kill a process, by default a random one."""
        number = self._random.randrange(len(self._keys)) if number is None else number
        self._around.log.write(Tally("killed", WHEN[self._shared.mark(number)]))
        self._processes[number].kill()

    def kill_all_at_work(self) -> None:
        """Kill the processes that are at work and awake."""
        for number, process in enumerate(self._processes):
            if self._is_at_work(number) and process.is_alive():
                self.kill(number)

    def is_at_work(self) -> bool:
        """Whether any process is at work and awake."""
        return any(self._is_at_work(number) for number in range(len(self._keys)))

    def _is_at_work(self, number: int) -> bool:
        return number not in self._asleep and self._shared.mark(number) != IDLE

    def suspend(self, number: int | None = None, long: float = 0.2) -> None:
        """Suspend a process for a while. ``long`` is the share of suspensions that last longer than a lease."""
        number = self._random.randrange(len(self._keys)) if number is None else number
        pid = self._processes[number].pid
        if number not in self._asleep and pid is not None and self._processes[number].is_alive():
            os.kill(pid, signal.SIGSTOP)
            self._around.log.write(Tally("suspended", WHEN[self._shared.mark(number)]))
            seconds = self._random.uniform(*LONG if self._random.random() < long else SHORT)
            self._asleep[number] = (time.monotonic() + seconds, self._clock.now().timestamp())

    def finish(self, seconds: float) -> int:
        """Give all processes ``seconds`` seconds to finish. Returns the number of processes that did not finish."""
        self.wake()
        limit = time.monotonic() + seconds
        for process in self._processes:
            process.join(max(limit - time.monotonic(), 0.0))
        hung = [process for process in self._processes if process.exitcode is None]
        for number, process in enumerate(self._processes):
            if process.exitcode is not None:
                self._collect(number, process)
        self.end()
        return len(hung)

    def wake(self) -> None:
        """Wake all suspended processes."""
        for number in list(self._asleep):
            self._wake(number)

    def end(self) -> None:
        """Kill the remaining processes."""
        for process in self._processes:
            process.kill()
        for process in self._processes:
            process.join()

    def _start_caller(self, number: int) -> ForkProcess:
        self._lives[number] += 1
        self._shared.set_mark(number, IDLE)
        machine = self._machines[number % len(self._machines)]
        caller = Caller(self._around, number, self._lives[number], self._keys[number], machine)
        process = multiprocessing.get_context("fork").Process(target=caller.run, daemon=True)
        process.start()
        return process

    def _collect(self, number: int, process: ForkProcess) -> None:
        self._asleep.pop(number, None)
        if process.exitcode not in (0, -signal.SIGKILL):
            with self._around.stderr.open("a") as file:
                file.write(f"caller {number} ended with {process.exitcode}\n")

    def _strike(self, number: int) -> None:
        chance = self._random.random()
        if chance < STRUCK:
            self.kill(number)
        elif chance < 2 * STRUCK:
            self.suspend(number, 0.5)

    def _wake(self, number: int) -> None:
        _, since = self._asleep.pop(number)
        pid = self._processes[number].pid
        if pid is not None and self._processes[number].exitcode is None:
            os.kill(pid, signal.SIGCONT)
        self._around.log.write(Stop(number, since, self._clock.now().timestamp()))
