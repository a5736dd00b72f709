"""``python -m bench.chaos``: callers ask for the token while the store, KIS and the caches fail and processes end.

Each caller is a process with the real chain. Five callers share a machine, and every second machine has a cache. Some
callers are bots that fork. KIS and the Supabase emulator have a process each. The Supabase emulator uses a real
PostgreSQL. Simulated time runs ten times as fast as the machine's clock. When no caller is at work, the time jumps
forward by minutes or hours, so that tokens age and expire. The seed decides the faults and their rates. The exact times
of the faults depend on the machine. The run ends after the requested time.

Supabase fails for moments, restarts while callers wait, has outages that are longer than any caller waits, and loses
answers to calls of each kind. Where KIS's rules are unclear, the emulated KIS follows the stricter reading: a new token
ends the previous token.

A call of tokenP without a lease breaks a rule in three cases. For each case, a row of the table counts these calls. The
count must be zero, even if the calls are far apart:

- The store had already given a correct answer to the same attempt.
- The caller did not wait long enough for the store, or the store worked for 40 s while the caller waited.
- The same machine had called tokenP without a lease within the last minute.

Machines know of each other only through Supabase. So in a long outage, two machines without a cached token may call KIS
within a minute of each other. The table counts these calls among the limits of the design.
"""

from __future__ import annotations

import argparse
import gc
import math
import multiprocessing
import os
import random
import signal
import ssl
import sys
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

from bench.chaos.caller import Surroundings, child_key
from bench.chaos.judges import JUDGES
from bench.chaos.machines import CACHED, make_machines
from bench.chaos.mischief import CacheMischief, RowMischief
from bench.chaos.processes import Processes
from bench.chaos.records import Log, Records, Tally, read_log, read_write
from bench.chaos.report import report
from bench.chaos.servers import serve_kis, serve_store
from bench.chaos.simulated_time import CHILD, MOST_CALLERS, START, Shared, SimulatedClock, SimulatedDatabase
from bench.chaos.spoilt import SPOILT
from bench.chaos.trouble import KIS_FAULTS, KIS_LENGTHS, STORE_FAULTS, STORE_LENGTHS, plan_spells
from kis_token.sandbox.kis_rules import Account
from kis_token.sandbox.postgres import EmbeddedPostgres
from kis_token.token import AppKey

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

#: The number of callers on a machine.
ON_ONE_MACHINE = 5

#: Callers must finish in this time, in the machine's seconds. It is enough for an attempt of 180 simulated seconds and
#: for a suspension.
FINISH_SECONDS = 30.0

#: The additional seconds for the start and the judges. If the run takes longer than the requested time plus these
#: seconds, the run fails.
LONGEST_SECONDS = 120.0

#: Before a jump of the time, the run waits at most this long for the callers at work, in the machine's seconds.
LONGEST_CALL = 3.0

#: If a run ends at a certain finding, the records are judged at this interval, in the machine's seconds.
JUDGE = 0.5

#: The mean intervals, in the machine's seconds: kill a caller, suspend a caller, damage a cache, damage the stored row.
KILL, SUSPEND, SPOIL, WRITE = 2.0, 2.0, 1.0, 6.0


@dataclass(frozen=True, slots=True)
class Options:
    """The options of the command line."""

    seed: int
    seconds: float
    callers: int
    speed: float
    gap: float
    spoilt: str | None = None
    until: Sequence[str] = ()


def main(arguments: list[str] | None = None) -> int:
    """Print the table. Returns 1 if a row that must be zero is not zero."""
    parser = argparse.ArgumentParser(prog="python -m bench.chaos", description=__doc__)
    parser.add_argument("--seed", type=int, default=1, help="decides the faults; 1 by default")
    parser.add_argument("--seconds", type=float, default=180.0, help="duration; 180 by default")
    parser.add_argument("--callers", type=_number, default=40, help="number of processes; 40 by default")
    parser.add_argument("--speed", type=float, default=10.0, help="simulated time by the machine's; 10 by default")
    parser.add_argument("--gap", type=float, default=6.0, help="seconds between Supabase's faults; 6 by default")
    parser.add_argument("--spoilt", choices=SPOILT, help="with a copy of the project that lacks this guard")
    parser.add_argument("--until", nargs="+", default=(), choices=JUDGES, help="end as soon as a row is not zero")
    options = Options(**vars(parser.parse_args(arguments)))
    for number in (signal.SIGALRM, signal.SIGTERM):
        signal.signal(number, _give_up)  # the error also ends all processes
    signal.alarm(math.ceil(options.seconds + LONGEST_SECONDS))
    copy = "" if options.spoilt is None else f" A spoilt copy: {options.spoilt}."
    print(
        f"Seed {options.seed}: {options.callers} callers, {options.seconds:g} s at {options.speed:g} times the "
        f"speed and with jumps, {os.cpu_count()} cores. Simulated: KIS and Supabase.{copy}\n",
        flush=True,
    )
    records, passed = play(options)
    lines, is_good = report(records, passed)
    print(*lines, sep="\n")
    return 0 if is_good else 1


def _number(text: str) -> int:
    number = int(text)
    if not 1 <= number <= MOST_CALLERS:
        raise ValueError
    return number


def _give_up(*_: object) -> None:
    raise TimeoutError("The chaos got a signal to end, or did not end by itself")


def play(options: Options) -> tuple[Records, float]:
    """Run the chaos. Returns the records, and the seconds of simulated time that passed."""
    os.environ["NO_PROXY"] = os.environ["no_proxy"] = "127.0.0.1"
    # The callers share one TLS context, because loading certificates takes 20 ms for each client.
    context = ssl.create_default_context()
    with ExitStack() as stack:
        stack.enter_context(patch.object(ssl, "create_default_context", return_value=context))
        folder = Path(stack.enter_context(TemporaryDirectory(prefix="chaos-")))
        if options.spoilt is not None:
            stack.enter_context(SPOILT[options.spoilt]())
        dsn = stack.enter_context(EmbeddedPostgres()).create_database()
        shared, account = Shared(options.speed), Account()
        database = SimulatedDatabase(dsn, shared, {"app_key": account.app_key, "app_secret": account.app_secret})
        stack.callback(database.close)
        log, keys = Log(folder / "log"), [f"sb_secret_chaos_{number}" for number in range(options.callers)]
        # All processes are forks of this process, which has no threads yet and has imported all modules.
        gc.freeze()
        rng = random.Random(options.seed)  # noqa: S311 - made-up trouble
        store_spells = plan_spells(rng, options.seconds, STORE_FAULTS, STORE_LENGTHS, options.gap)
        kis_spells = plan_spells(rng, options.seconds, KIS_FAULTS, KIS_LENGTHS, 9.0)
        for_store = (shared, log, store_spells, f"{options.seed} store")
        for_kis = (shared, log, kis_spells, f"{options.seed} kis")
        api, numbers = database.project.api, {key: number for number, key in enumerate(keys)}
        numbers |= {child_key(key): CHILD + number for key, number in numbers.items()}
        supabase_url = _serve(stack, serve_store, *for_store, arguments=(api, numbers))
        base_url = _serve(stack, serve_kis, *for_kis, arguments=(account, Account()))
        around = Surroundings(
            shared,
            log,
            options.seed,
            {"SUPABASE_URL": supabase_url, "KIS_BASE_URL": base_url},
            AppKey(account.app_key, account.app_secret),
            folder / "stderr",
        )
        around.stderr.touch()
        machines = make_machines(folder, -(-options.callers // ON_ONE_MACHINE))
        caches = [machine.cache for machine in machines if machine.kind == CACHED]
        processes = Processes(around, rng, keys, machines)
        stack.callback(processes.end)

        def gather() -> Records:
            records = read_log((folder / "log").read_text().splitlines())
            records.writes = [read_write(*write) for write in database.writes()]
            records.stderr = around.stderr.read_text()
            records.machines = len(machines)
            return records

        hung = _Run(options, around, rng, database, processes, caches, gather).run()
        records = gather()
        records.hung = hung
        return records, (SimulatedClock(shared).now() - START).total_seconds()


def _serve(stack: ExitStack, serve: Callable[..., None], *common: object, arguments: tuple[object, ...]) -> str:
    """Start the process of a server, and return the server's address."""
    fork = multiprocessing.get_context("fork")
    heard, said = fork.Pipe(duplex=False)
    process = fork.Process(target=serve, args=(*common, said, *arguments), daemon=True)
    process.start()
    stack.callback(process.join)
    stack.callback(process.kill)
    if not heard.poll(30):
        raise TimeoutError("A server of the chaos does not start")
    return str(heard.recv())


class _Run:
    """Runs the chaos. This class decides when a caller is killed or suspended, and when the time jumps."""

    def __init__(  # noqa: PLR0917 - only one call makes this object
        self,
        options: Options,
        around: Surroundings,
        rng: random.Random,
        database: SimulatedDatabase,
        processes: Processes,
        caches: list[Path],
        gather: Callable[[], Records],
    ) -> None:
        self._options = options
        self._gather = gather
        self._judge_at = time.monotonic() + JUDGE
        self._around = around
        self._shared = around.shared
        self._random = rng
        self._database = database
        self._processes = processes
        self._caches = CacheMischief(rng, around.log, caches)
        row = RowMischief(rng, around.log, database)
        every = {processes.kill: KILL, processes.suspend: SUSPEND, self._caches.strike: SPOIL, row.strike: WRITE}
        self._planned = [[self._soon(mean), mean, act] for act, mean in every.items()]
        self._jump_at = self._soon(3.0)
        self._closed_at: float | None = None

    def run(self) -> int:
        """Run until the time is over. Returns the number of callers that did not end and were killed."""
        end = time.monotonic() + self._options.seconds
        self._processes.start()
        while time.monotonic() < end:
            self._processes.tick()
            self._caches.mend()
            for plan in self._planned:
                if time.monotonic() >= plan[0]:
                    plan[0] = self._soon(plan[1])
                    plan[2]()
            if time.monotonic() >= self._jump_at:
                self._try_to_jump()
            if self._options.until and time.monotonic() >= self._judge_at and self._is_caught():
                self._processes.end()
                return 0
            time.sleep(0.004)
        self._shared.is_finishing = True
        return self._processes.finish(FINISH_SECONDS)

    def _is_caught(self) -> bool:
        """Whether a row that ends the run is not zero, even after all suspended callers are woken."""
        self._judge_at = time.monotonic() + JUDGE
        if not self._finds():
            return False
        self._processes.wake()
        return self._finds()

    def _finds(self) -> bool:
        records = self._gather()
        return any(JUDGES[row](records) for row in self._options.until)

    def _soon(self, mean: float) -> Any:  # noqa: ANN401 - a time among other things in a plan
        return time.monotonic() + self._random.expovariate(1 / mean)

    def _try_to_jump(self) -> None:
        """Close the gate. If no caller and no server is at work, let the time jump and open the gate.

        A suspended caller stays suspended during the jump, like a sleeping laptop. Most slow callers are killed, so
        that the run does not wait for them.
        """
        if self._closed_at is None:
            self._closed_at = time.monotonic() + (FINISH_SECONDS if self._random.random() < 1 / 8 else LONGEST_CALL)
            self._shared.is_closed = True
        if time.monotonic() > self._closed_at:
            self._processes.kill_all_at_work()
        for _ in range(5):
            if self._processes.is_at_work() or self._shared.busy(0) or self._shared.busy(1):
                return
            time.sleep(0.004)
        self._shared.jumped += self._draw_jump()
        self._database.jump(self._shared.jumped)
        self._around.log.write(Tally("time", "jump"))
        self._closed_at, self._shared.is_closed = None, False
        self._jump_at = time.monotonic() + self._random.uniform(0.5, 3.0)

    def _draw_jump(self) -> float:
        """Return the seconds of a jump: minutes, hours, a day, or the time until the stored token nearly expires."""
        kind = self._random.choices(["minutes", "hours", "a day", "its end"], [20, 35, 20, 25])[0]
        held = self._database.token()
        if kind == "its end" and held is not None and held[1] is not None:
            left = (held[1] - SimulatedClock(self._shared).now()).total_seconds()
            return max(left - self._random.choice([-1, 20, 45, 300, 700]), 60.0)
        bounds = {"minutes": (1, 60), "hours": (60, 420), "a day": (1200, 1560), "its end": (1, 60)}[kind]
        return self._random.uniform(*bounds) * 60


if __name__ == "__main__":
    sys.exit(main())
