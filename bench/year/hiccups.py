"""``python -m bench.year.hiccups``: a year in which calls of Supabase fail, with an outage of five minutes each week.

Each call of Supabase fails with a probability of 1/50. Half of the failed calls take effect, and only their answer is
lost. At a random time of each week, Supabase does not answer for five minutes: it refuses connections, or lets callers
wait. Where KIS's rules are unclear, the simulated KIS follows the stricter reading: a new token ends the previous
token. For 6 hours after an issue, KIS gives the same token again.

The callers are the following. All times are times in Korea.

- Jobs on runners: each job has a new machine without a cache. A Korean session has 6 jobs on average, and a US session
  has 4. Four more jobs start at the same time, at 08:55.
- The rotation, also on runners. The rotation's ticks are late, as in bench.year.rotation.
- A server with a cache, every hour of both sessions.
- A laptop with a cache, at 08:30, 12:00 and 22:40.
- A container without a cache, always on the same machine, at 07:55 and 22:25.

A caller uses its token at once. If KIS rejects the token, the caller replaces it. Callers can overlap. The chain, its
waiting times and the machine's lock are the project's own code, on a simulated clock.
"""

from __future__ import annotations

import argparse
import sys
from contextlib import suppress
from datetime import datetime, time, timedelta
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from bench.year.hiccup_parts import (
    BOX,
    NOTEBOOK,
    SERVER,
    HiccupingStore,
    Machine,
    Result,
    SimulatedMachine,
    SlowIssuer,
    Year,
)
from bench.year.memory_store import MemoryStore
from bench.year.rotation import MINUTES, WORKFLOW, make_ticks, read_schedule
from bench.year.simulation import MARKETS, MINUTE, SECOND, Market, dice, moment, plan
from bench.year.timeline import Timeline
from kis_token.config import Settings
from kis_token.core.context import Context
from kis_token.core.resolver import Resolver
from kis_token.core.slot import PlainVault
from kis_token.deadline import Deadline, usable
from kis_token.errors import IssuanceError, KisTokenError
from kis_token.local.cache import make_cache
from kis_token.sandbox.kis_rules import Account, KISRules, RefusedError
from kis_token.sandbox.kis_rules import Settings as KISSettings
from kis_token.token import KST, AppKey, parse_stored

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from kis_token.core.resolution import Resolution
    from kis_token.token import Token


#: A year may take this many tokens more than one a day.
SPARE = 5
FIRST_JOB = time(7, 55)
LAPTOP, CONTAINER = (time(8, 30), time(12), time(22, 40)), (FIRST_JOB, time(22, 25))
PARALLEL_JOBS_AT, PARALLEL_JOBS = time(8, 55), 4
SERVER_PAUSE = timedelta(hours=1)
LEGEND = """\
new tokens       in the year, and on the day with the most; KIS sends the owner a message for each of them
tokenP           all calls of tokenP; close: calls of tokenP within a minute of another call
failed           calls of Supabase that failed outside an outage
jobs             all jobs; jobs that began in an outage; alone: jobs that issued without Supabase
rejected         all jobs that got a token that KIS rejects; beside: of these, the jobs that got it while Supabase had
                 a good token and answered; outage: of these, the jobs that got it while Supabase had a good token and
                 had an outage
none             jobs that got no token: in an outage, and at other times
"""


def simulate(year: Year) -> Result:
    """Simulate one year."""
    with TemporaryDirectory(prefix="hiccup-year-") as folder:
        return _Simulation(year, Path(folder)).run()


class _Simulation:
    """The events of one year."""

    def __init__(self, year: Year, folder: Path) -> None:
        self._year = year
        self._folder = folder
        self._result = Result()
        self._begin = moment(0, FIRST_JOB)
        self._clock = Timeline(self._begin, dice(year.seed, "jitter"))
        account = Account()
        self._app_key = AppKey(account.app_key, account.app_secret)
        self._rules = KISRules([account], self._clock, KISSettings(reissue_kills_previous=True, calls_per_second=1000))
        self._slot = MemoryStore(self._clock)
        if year.keys != "given":
            self._slot.put("kis", "app_key", self._app_key.key)
            self._slot.put("kis", "app_secret", self._app_key.secret)
        self._store = HiccupingStore(self._slot, self._clock, year, self._result)
        self._issuer = SlowIssuer(self._rules, self._clock, self._result)
        self._runners = 0

    def run(self) -> Result:
        """Run the whole year."""
        end = moment(self._year.days, time())
        for start, act in self._plan():
            if self._begin <= start < end:
                self._clock.at(start, act)
        self._clock.run()
        return self._result

    def _plan(self) -> Iterator[tuple[datetime, Callable[[], object]]]:
        year = self._year
        for tick in make_ticks(read_schedule(WORKFLOW), MINUTES, days=year.days, seed=year.seed):
            yield tick.start, self._rotate
        for market in MARKETS:
            for start in _jobs(year, market):
                yield start, self._runner
            for day in range(-1, year.days):
                start, end = market.hours(day)
                while start < end:
                    yield start, lambda: self._job(SERVER)
                    start += SERVER_PAUSE
        for day in range(year.days):
            for clock in LAPTOP:
                yield moment(day, clock), lambda: self._job(NOTEBOOK)
            for clock in CONTAINER:
                yield moment(day, clock), lambda: self._job(BOX)
            for _ in range(PARALLEL_JOBS):
                yield moment(day, PARALLEL_JOBS_AT), self._runner

    def _new_runner(self) -> Machine:
        self._runners += 1
        return Machine(f"runner {self._runners}")

    def _rotate(self) -> None:
        with suppress(KisTokenError):  # after a failed rotation, the next tick or job renews
            self._resolver(self._new_runner(), **plan(self._clock.now().astimezone(KST))).resolve()

    def _runner(self) -> None:
        self._job(self._new_runner())

    def _job(self, machine: Machine) -> None:
        """Run a caller that uses its token at once."""
        jobs, was_out = self._result.jobs, self._store.is_out()
        jobs["all"] += 1
        jobs["in an outage"] += was_out
        try:
            resolution = self._resolver(machine).resolve()
            token = resolution.token
            jobs["alone"] += resolution.source == "oauth" and token.version is None
            if not self._is_accepted(token.value):
                self._note_rejected(machine, token)
                replaced = self._replace(machine, token).token
                if not self._is_accepted(replaced.value):
                    raise IssuanceError("token-repeated", "KIS rejects the token that took its place", retryable=True)
        except KisTokenError as error:
            during = was_out or self._store.is_out()
            jobs["none in an outage" if during else "none"] += 1
            if not during:
                self._result.failures.append(f"{self._told(machine)}: {error}")

    def _replace(self, machine: Machine, rejected: Token) -> Resolution:
        """Return the token that replaces the rejected token on this machine."""
        resolver = self._resolver(machine)
        return resolver.resolve(resolver.look(rejected.token_id))

    def _note_rejected(self, machine: Machine, token: Token) -> None:
        jobs, row = self._result.jobs, self._slot.read("kis").rows.get("access_token")
        jobs["rejected"] += 1
        stored = parse_stored(row.value).value if row is not None else token.value
        if stored == token.value or not self._is_accepted(stored):
            return
        jobs["beside in an outage" if self._store.is_out() else "beside"] += 1
        if not self._store.is_out():
            self._result.beside.append(f"{self._told(machine)} got a token that KIS rejects")

    def _told(self, machine: Machine) -> str:
        return f"{self._clock.now().astimezone(KST):%m-%d %H:%M:%S} {machine.name}"

    def _is_accepted(self, token: str) -> bool:
        """Whether KIS accepts the token in an ordinary call."""
        try:
            self._rules.admit(self._app_key.key, self._app_key.secret, token)
        except RefusedError:
            return False
        return True

    def _resolver(self, machine: Machine, **inputs: str) -> Resolver:
        """Return a resolver for one call of the chain on that machine."""
        folder = self._folder / machine.name
        given = {
            "supabase_url": "https://example.supabase.co",
            "supabase_key": "sb_secret_make-believe",
            "cache_path": f"{folder / 'cache' / 'token.json'}" if machine.has_cache else "off",
            **inputs,
        }
        if self._year.keys != "stored":
            given |= {"app_key": self._app_key.key, "app_secret": self._app_key.secret}
        settings, vault = Settings.from_env({f"INPUT_{name.upper()}": given[name] for name in given}), PlainVault()
        return Resolver(
            Context(
                settings,
                store=self._store,
                cache=make_cache(settings, vault),
                machine=SimulatedMachine(folder / "private", self._clock),
                issuer=self._issuer,
                vault=vault,
                clock=self._clock,
                deadline=Deadline(self._clock.monotonic, self._clock.monotonic() + usable(settings.timeout / SECOND)),
                tell=lambda _: None,
            )
        )


def _jobs(year: Year, market: Market) -> Iterator[datetime]:
    """Yield random times of jobs, with the session's average number of jobs."""
    for day in range(-1, year.days):
        chance, (start, end) = dice(year.seed, market.name, day), market.hours(day)
        pause = (end - start) / market.jobs
        while (start := start + chance.expovariate(1) * pause) < end:
            yield start


def make_years(days: int, seed: int) -> list[Year]:
    """Return the years of the table. If only the store has the keys, no caller can issue during an outage."""
    return [
        *(Year(f"keys as inputs, seed {each}", "given", days, each) for each in range(seed, seed + 3)),
        Year("keys in the store", "stored", days, seed),
        Year("keys in both", "both", days, seed),
    ]


def close_calls(result: Result) -> int:
    """Return the number of tokenP calls within a minute of the previous call."""
    return sum(second - first < MINUTE for first, second in pairwise(sorted(result.calls)))


def find_misses(results: Sequence[tuple[Year, Result]]) -> dict[str, list[str]]:
    """Return the targets, each with the years that missed it."""
    days = results[0][0].days
    return {
        f"at most {days + SPARE} new tokens": [
            f"{year.title}: {result.issued.total()}" for year, result in results if result.issued.total() > days + SPARE
        ],
        "no token that KIS rejects, while a good one is in the store and the store answers": [
            f"{year.title}: {each}" for year, result in results for each in result.beside
        ],
        "no job without a token except in an outage": [
            f"{year.title}: {each}" for year, result in results for each in result.failures
        ],
    }


def print_table(results: Sequence[tuple[Year, Result]]) -> None:
    """Print one line for each year."""
    print(f"{'':30} new tokens -- tokenP --         -------- jobs -------  ---- rejected ----  --- none ---")
    print(f"{'':30}  year  day   all close  failed    all outage alone   all beside outage  outage other")
    for year, result in results:
        jobs = result.jobs
        print(
            f"{year.title:30}{result.issued.total():6}{max(result.issued.values()):5}"
            f"{len(result.calls):6}{close_calls(result):6}{result.hiccups:8}"
            f"{jobs['all']:7}{jobs['in an outage']:7}{jobs['alone']:6}"
            f"{jobs['rejected']:6}{jobs['beside']:7}{jobs['beside in an outage']:7}"
            f"{jobs['none in an outage']:8}{jobs['none']:6}"
        )


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table. Returns 1 if a target is missed."""
    parser = argparse.ArgumentParser(prog="python -m bench.year.hiccups", description=__doc__)
    parser.add_argument("--days", type=int, default=365)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args(arguments)
    print(LEGEND)
    print(f"{options.days} days, seed {options.seed} unless a line names another", flush=True)
    results = [(year, simulate(year)) for year in make_years(options.days, options.seed)]
    print_table(results)
    missed = 0
    for target, misses in find_misses(results).items():
        print(f"Target: {target}. {'Missed:' if misses else 'Holds.'}")
        print("".join(f"  {each}\n" for each in misses), end="")
        missed += len(misses)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
