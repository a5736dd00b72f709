"""Simulates a year of one KIS token: the real resolver with the store in memory, KIS's rules and a simulated clock.

Every runner is a new machine without a cache. Runs do not overlap: if a run is due while an earlier run waits, the
later run starts after the earlier run. KIS and the store answer at once. Days are counted from 0 and begin at midnight
in Korea. Each day has both sessions, even on weekends and holidays.
"""

from __future__ import annotations

import random
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, time, timedelta, timezone
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, NamedTuple

from bench.year.memory_store import MemoryStore
from kis_token.config import Settings
from kis_token.core.context import Context
from kis_token.core.ports import TooLate
from kis_token.core.resolver import Resolver
from kis_token.core.slot import PlainVault
from kis_token.deadline import Deadline
from kis_token.errors import IssuerRateLimited, IssuerRefused, KisTokenError
from kis_token.kis.api import RATE_LIMITED, parse_issue_answer
from kis_token.local.machine_lock import LocalMachine
from kis_token.sandbox.kis_rules import Account, KISRules, RefusedError
from kis_token.sandbox.kis_rules import Settings as KISSettings
from kis_token.token import KST, LEAST_USEFUL, AppKey, parse_stored

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from kis_token.token import Token

    Span = tuple[datetime, datetime]

FIRST_DAY = datetime(2027, 1, 1, tzinfo=KST)
DAY, MINUTE, SECOND = timedelta(days=1), timedelta(minutes=1), timedelta(seconds=1)

#: Between these two times, the workflow rotates. At night, the workflow renews only a token that would expire before
#: the morning.
MORNING, EVENING = time(6, 0), time(20, 0)


@dataclass(frozen=True, slots=True)
class Market:
    """A market. ``opens`` and ``closes`` are times in Korea; a session may end on the next day.

    ``jobs`` is the average number of jobs in a session. ``ticks`` is the part of the day whose ticks come before a
    session.
    """

    name: str
    opens: time
    closes: time
    jobs: float
    ticks: str

    def hours(self, day: int) -> tuple[datetime, datetime]:
        """Return the hours of the session that begins on ``day``."""
        return moment(day, self.opens), moment(day + (self.closes < self.opens), self.closes)


KOREA = Market("Korea", time(8, 0), time(20, 0), jobs=6.0, ticks="morning")
AMERICA = Market("US", time(22, 30), time(6, 0), jobs=4.0, ticks="evening")
MARKETS = (KOREA, AMERICA)


class Tick(NamedTuple):
    """A run of the rotation: its start, and the day and the part of the day for which it was planned."""

    start: datetime
    day: int
    part: str


@dataclass(frozen=True, slots=True)
class Scenario:
    """A year that starts with a job on an empty slot, at ``begin`` on day 0. Earlier runs are omitted.

    Between the two times of ``outage``, the store does not answer. If ``kills`` is True, KIS ends a token when it
    issues the next token. With the same ``seed``, jobs start at the same times.
    """

    begin: datetime
    ticks: Sequence[Tick]
    days: int = 365
    seed: int = 1
    outage: Span | None = None
    kills: bool = False


@dataclass(frozen=True, slots=True)
class Session:
    """One session, and its parts in which the store held no valid token (``lapses``).

    ``is_lost``: when the session began, none of the ticks that were planned for it had started. ``is_excused``: the
    session is lost, or it began on the day of the outage.
    """

    market: Market
    begin: datetime
    end: datetime
    is_lost: bool
    is_excused: bool
    lapses: list[Span]


@dataclass(slots=True)
class Result:
    """The result of a year.

    ``calls`` is the number of tokenP calls. ``issued`` counts new tokens by day. ``issued_by`` counts new tokens by the
    caller that needed the token: a tick (morning or evening) or a job. ``jobs`` counts jobs: all; asked (the job called
    KIS itself); rejected (KIS rejected the job's token, and the job replaced it); none (the job got no token that KIS
    accepts).
    """

    calls: int = 0
    issued: Counter[int] = field(default_factory=Counter)
    issued_by: Counter[str] = field(default_factory=Counter)
    jobs: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)
    sessions: list[Session] = field(default_factory=list)

    def lapsed(self, market: Market, *, excused: bool) -> float:
        """Return the minutes of a market's sessions in which the store held no valid token."""
        sessions = [each for each in self.sessions if each.market is market and each.is_excused is excused]
        return sum((end - begin) / MINUTE for each in sessions for begin, end in each.lapses)


def moment(day: int, clock: time) -> datetime:
    """Return the time ``clock`` of the day ``day``, in Korea."""
    return datetime.combine(FIRST_DAY + day * DAY, clock, KST)


def part_of_day(clock: time) -> str:
    """Return the part of the day, morning or evening, of a tick at this time in Korea."""
    return "morning" if MORNING <= clock < EVENING else "evening"


def plan(now: datetime) -> dict[str, str]:
    """Return the inputs that the workflow gives to a scheduled run that starts at ``now``, a time in Korea."""
    if part_of_day(now.time()) == "morning":
        return {"mode": "rotate"}
    morning = datetime.combine(now.date() + (now.time() >= EVENING) * DAY, MORNING, KST)
    return {"mode": "resolve", "min_validity": f"{(morning - now) // SECOND}s"}


def dice(*what: object) -> random.Random:
    """Return the random source of a subject. The same subject always has the same random numbers."""
    return random.Random(repr(what))  # noqa: S311 - a simulation must be repeatable


def simulate(scenario: Scenario) -> Result:
    """Simulate one year."""
    runs = [(tick.start, tick.part) for tick in scenario.ticks] + [(start, "job") for start in _jobs(scenario)]
    with TemporaryDirectory(prefix="year-") as folder:
        year = _Year(scenario, Path(folder))
        for start, who in sorted(runs):
            if scenario.begin <= start < moment(scenario.days, time()):
                year.run(start, who)
    year.result.sessions = list(_sessions(scenario, year.held))
    return year.result


def _jobs(scenario: Scenario) -> Iterator[datetime]:
    """Yield the time of the first job, then random times with the session's average number of jobs."""
    yield scenario.begin
    for market in MARKETS:
        for day in range(-1, scenario.days):
            chance, (start, end) = dice(scenario.seed, market.name, day), market.hours(day)
            pause = (end - start) / market.jobs
            while (start := start + chance.expovariate(1) * pause) < end:
                yield start


def _sessions(scenario: Scenario, held: Sequence[Span]) -> Iterator[Session]:
    earliest = {(tick.day, tick.part): tick.start for tick in sorted(scenario.ticks, reverse=True)}
    for market in MARKETS:
        for day in range(scenario.days):
            begin, end = market.hours(day)
            is_lost = earliest.get((day, market.ticks), end) > begin
            is_excused = is_lost or (scenario.outage is not None and scenario.outage[0].date() == begin.date())
            begin, end = max(begin, scenario.begin), min(end, moment(scenario.days, time()))
            if begin < end:
                yield Session(market, begin, end, is_lost, is_excused, list(_gaps(begin, end, held)))


def _gaps(begin: datetime, end: datetime, held: Sequence[Span]) -> Iterator[Span]:
    """Yield the parts of a time span that no span in ``held`` covers. ``held`` must be sorted."""
    for stored, lapses in (*held, (end, end)):
        if begin < min(stored, end):
            yield begin, min(stored, end)
        begin = max(begin, lapses)


class _Clock:
    """Simulated time. If a caller sleeps, the time moves forward at once, also for KIS and the store."""

    def __init__(self, begin: datetime) -> None:
        self._begin = self._now = begin.astimezone(timezone.utc)
        self._dice = dice("jitter")

    def now(self) -> datetime:
        return self._now

    def monotonic(self) -> float:
        return (self._now - self._begin) / SECOND

    def sleep(self, seconds: float) -> None:
        self._now += seconds * SECOND

    def jitter(self, low: float, high: float) -> float:
        return self._dice.uniform(low, high)


class Issuer:
    """KIS without HTTP. This class parses answers and raises errors as `kis_token.kis.api` does."""

    def __init__(self, rules: KISRules) -> None:
        self.calls = 0
        self._rules = rules

    def issue(self, app_key: AppKey, now: datetime, may_send: Callable[[], bool] | None = None) -> Token:
        """Call tokenP once. Raises TooLate, IssuerRateLimited and IssuerRefused."""
        if may_send is not None and not may_send():
            raise TooLate
        self.calls += 1
        try:
            issued = self._rules.issue(app_key.key, app_key.secret)
        except RefusedError as error:
            if error.code == RATE_LIMITED:
                raise IssuerRateLimited("kis-rate-limited", f"KIS issued a moment ago ({error.code})") from None
            raise IssuerRefused(error.code) from None
        expiry = f"{issued.expires_at.astimezone(KST):%Y-%m-%d %H:%M:%S}"
        answer = {"access_token": issued.value, "access_token_token_expired": expiry, "expires_in": issued.expires_in}
        return parse_issue_answer(answer, app_key, "production", now)

    def verify(self, token: Token, app_key: AppKey) -> str | None:
        """Report no problem with a token."""


class _Year:
    """The runs of a year, one after the other. ``held`` has the spans in which the store had a valid token."""

    def __init__(self, scenario: Scenario, folder: Path) -> None:
        self.result = Result()
        self._folders = (folder / f"{number}" for number in count())
        self.held: list[Span] = []
        self._outage = scenario.outage
        self._clock = _Clock(scenario.begin)
        account = Account()
        self._app_key = AppKey(account.app_key, account.app_secret)
        self._rules = KISRules([account], self._clock, KISSettings(reissue_kills_previous=scenario.kills))
        self._issuer = Issuer(self._rules)
        self._store = MemoryStore(self._clock)
        self._version = 0

    def run(self, start: datetime, who: str) -> None:
        """Run one runner, at ``start`` or when the previous runner has ended."""
        self._clock.sleep(max((start - self._clock.now()) / SECOND, 0.0))
        self._store.is_down = self._outage is not None and self._outage[0] <= start < self._outage[1]
        issued = self._rules.issuances.issues
        if who == "job":
            self._job()
        else:
            with suppress(KisTokenError):  # after a failed rotation, the next tick or job renews
                self._resolver(**plan(self._clock.now().astimezone(KST))).resolve()
        issued = self._rules.issuances.issues - issued
        self.result.calls = self._issuer.calls
        self.result.issued[(self._clock.now() - FIRST_DAY) // DAY] += issued
        self.result.issued_by[who] += issued
        row = None if self._store.is_down else self._store.read("kis").rows.get("access_token")
        if row is not None and row.version != self._version:
            self._version, token = row.version, parse_stored(row.value, column=row.expires_at)
            self.held.append((self._clock.now(), token.expires_at - LEAST_USEFUL))

    def _job(self) -> None:
        """Run a job with default settings. The job uses its token at once."""
        jobs = self.result.jobs
        jobs["all"] += 1
        try:
            resolution = self._resolver().resolve()
            try:
                self._use(resolution.token)
            except RefusedError:
                jobs["rejected"] += 1
                resolver = self._resolver()
                resolution = resolver.resolve(resolver.look(resolution.token.token_id))
                self._use(resolution.token)
            jobs["asked"] += resolution.source == "oauth"
        except (KisTokenError, RefusedError) as error:
            jobs["none"] += 1
            self.result.failures.append(f"{self._clock.now().astimezone(KST):%m-%d %H:%M:%S} {error}")

    def _use(self, token: Token) -> None:
        """Call the KIS API with the token. Raises RefusedError if KIS rejects the token."""
        self._rules.admit(self._app_key.key, self._app_key.secret, token.value)

    def _resolver(self, **inputs: str) -> Resolver:
        """Return the resolver of a new machine."""
        given = {
            "supabase_url": "https://example.supabase.co",
            "supabase_key": "sb_secret_make-believe",
            "app_key": self._app_key.key,
            "app_secret": self._app_key.secret,
            "cache_path": "off",
            **inputs,
        }
        settings = Settings.from_env({f"INPUT_{name.upper()}": value for name, value in given.items()})
        folder = next(self._folders)
        parts = (self._store, None, LocalMachine(lambda: [folder]), self._issuer, PlainVault(), self._clock)
        deadline = Deadline(self._clock.monotonic, self._clock.monotonic() + settings.timeout / SECOND)
        return Resolver(Context(settings, *parts, deadline, tell=lambda _: None))
