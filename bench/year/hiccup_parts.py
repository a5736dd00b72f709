"""The store, KIS and the machines of the year that bench.year.hiccups simulates."""

from __future__ import annotations

from collections import Counter
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import datetime, time, timedelta
from typing import TYPE_CHECKING, Any, TypeVar

from bench.year.simulation import FIRST_DAY, Issuer, dice, moment
from kis_token.errors import IssuanceError, StoreOutage
from kis_token.local.machine_lock import LocalMachine
from kis_token.store.slot_query import READ_SECONDS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path
    from random import Random

    from bench.year.memory_store import MemoryStore
    from bench.year.timeline import Timeline
    from kis_token.core.ports import Begun, Committed
    from kis_token.core.slot import Slot
    from kis_token.sandbox.kis_rules import KISRules
    from kis_token.token import Token


_Answer = TypeVar("_Answer")
#: The share of the store's calls that fail once.
HICCUP = 1 / 50
WEEK, OUTAGE = timedelta(days=7), timedelta(minutes=5)
#: The duration of a store call and of a tokenP call, in seconds.
STORE_SECONDS, TOKEN_SECONDS = 0.1, 0.5


@dataclass(frozen=True, slots=True)
class Year:
    """A year to simulate. ``keys`` is the place of app key and secret: given (as inputs), stored (in the slot) or both.

    ``outages`` are the times at which outages begin. By default, one outage begins at a random time of each week.
    """

    title: str
    keys: str
    days: int = 365
    seed: int = 1
    hiccup: float = HICCUP
    outages: Sequence[datetime] | None = None


@dataclass(slots=True)
class Result:
    """The result of a year. Each line in ``beside`` and in ``failures`` is a case that must not occur."""

    hiccups: int = 0
    issued: Counter[int] = field(default_factory=Counter)
    calls: list[datetime] = field(default_factory=list)
    jobs: Counter[str] = field(default_factory=Counter)
    beside: list[str] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Machine:
    """One machine with its name. Each run on a hosted runner has a new machine."""

    name: str
    has_cache: bool = False


SERVER, NOTEBOOK, BOX = Machine("server", has_cache=True), Machine("laptop", has_cache=True), Machine("container")


class HiccupingStore:
    """The store in memory, with delays, single failures and outages."""

    def __init__(self, store: MemoryStore, clock: Timeline, year: Year, result: Result) -> None:
        self._store = store
        self._clock = clock
        self._hiccup = year.hiccup
        self._result = result
        self._chance = dice(year.seed, "hiccups")
        self._outages = list(_outages(year) if year.outages is None else year.outages)
        self._hangs = {outage: dice(year.seed, outage).random() < 0.5 for outage in self._outages}

    def is_out(self) -> bool:
        """Whether the store has an outage now."""
        return self._outage() is not None

    def read(self, service_name: str) -> Slot:
        """Read the slot."""
        return self._call(lambda: self._store.read(service_name))

    def begin(self, *arguments: object, **named: object) -> Begun:
        """Ask for a lease."""
        return self._call(lambda: self._store.begin(*arguments, **named))  # type: ignore[arg-type]  # passed on

    def commit(self, *arguments: object, **named: object) -> Committed:
        """Store the token and end the lease."""
        return self._call(lambda: self._store.commit(*arguments, **named))  # type: ignore[arg-type]  # passed on

    def abort(self, *arguments: object, **named: object) -> None:
        """End the lease without a token."""
        self._call(lambda: self._store.abort(*arguments, **named))  # type: ignore[arg-type]  # passed on

    def save(self, *arguments: object, **named: object) -> bool:
        """Store a token without a lease."""
        return self._call(lambda: self._store.save(*arguments, **named))  # type: ignore[arg-type]  # passed on

    def _call(self, call: Callable[[], _Answer]) -> _Answer:
        self._clock.sleep(STORE_SECONDS)
        outage = self._outage()
        if outage is not None:
            hangs = self._hangs[outage]
            if hangs:
                self._clock.sleep(READ_SECONDS - STORE_SECONDS)
            raise StoreOutage("store-unreachable", "Supabase is out", sent=hangs)
        fails = self._chance.random() < self._hiccup
        self._result.hiccups += fails
        if fails and self._chance.random() < 0.5:
            raise StoreOutage("store-unreachable", "The request was lost")
        answer = call()
        if fails:
            raise StoreOutage("store-unreachable", "The answer was lost")
        return answer

    def _outage(self) -> datetime | None:
        now = self._clock.now()
        return next((begin for begin in self._outages if begin <= now < begin + OUTAGE), None)


class SlowIssuer(Issuer):
    """KIS with a delay. Every call is recorded."""

    def __init__(self, rules: KISRules, clock: Timeline, result: Result) -> None:
        super().__init__(rules)
        self._clock = clock
        self._result = result

    def issue(self, *arguments: Any) -> Token:  # noqa: ANN401 - as in the base class
        """Call tokenP once."""
        asked_at, before = self._clock.now(), self._rules.issuances.issues
        self._result.calls.append(asked_at)
        token = super().issue(*arguments)
        self._result.issued[(asked_at - FIRST_DAY) // timedelta(days=1)] += self._rules.issuances.issues - before
        self._clock.sleep(TOKEN_SECONDS)
        return token


class SimulatedMachine(LocalMachine):
    """The project's own machine lock, in a folder of the simulation. Waits use the simulated clock."""

    def __init__(self, folder: Path, clock: Timeline) -> None:
        super().__init__(lambda: [folder])
        self._clock = clock

    @contextmanager
    def lock(self, app_key_id: str, seconds: float) -> Iterator[None]:
        """Wait for the lock on the simulated clock."""
        end = self._clock.monotonic() + seconds
        with ExitStack() as stack:
            while True:
                try:
                    stack.enter_context(super().lock(app_key_id, 0))
                    break
                except IssuanceError:
                    if self._clock.monotonic() >= end:
                        raise
                self._clock.sleep(1)
            yield


def _outages(year: Year) -> Iterator[datetime]:
    for week in range(-(-year.days // 7)):
        chance: Random = dice(year.seed, "outage", week)
        yield moment(0, time()) + week * WEEK + chance.random() * (WEEK - OUTAGE)
