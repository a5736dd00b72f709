"""How often and how long a call of the store is repeated."""

from __future__ import annotations

import random
from datetime import datetime, timedelta, timezone
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kis_token.core.retry import (
    BRIEFLY,
    LONGEST_RETRY_TIME,
    SETTLING,
    Retry,
    RetryTime,
    at_most,
    briefly,
    patiently,
    to_the_end,
    unless_refused,
)
from kis_token.deadline import ISSUE_BUDGET
from kis_token.errors import StoreMisconfigured, StoreOutage
from tests.support import TurnedClock

NOON = datetime(2027, 1, 4, 12, tzinfo=timezone.utc)
OUTAGE = StoreOutage("store-unreachable", "Supabase does not answer")


class CountedClock:
    """A clock on which only sleep takes time."""

    def __init__(self, seed: int) -> None:
        self.counter = 0.0
        self._random = random.Random(seed)  # noqa: S311 - spreads load

    def now(self) -> datetime:
        """Noon plus the time slept."""
        return NOON + timedelta(seconds=self.counter)

    def monotonic(self) -> float:
        """The time slept."""
        return self.counter

    def sleep(self, seconds: float) -> None:
        """Let time pass."""
        self.counter += seconds

    def jitter(self, low: float, high: float) -> float:
        """A random number of seconds between ``low`` and ``high``."""
        return self._random.uniform(low, high)


class Failing:
    """A call that fails ``times`` times, each after ``seconds``, and then answers."""

    def __init__(self, clock: TurnedClock, times: int, seconds: float = 0.0, error: Exception = OUTAGE) -> None:
        self.asked = 0
        self._clock = clock
        self._times = times
        self._seconds = seconds
        self._error = error

    def __call__(self) -> str:
        """Fail, or answer."""
        self.asked += 1
        if self.asked <= self._times:
            self._clock.jump(self._seconds)
            raise self._error
        return "answer"


def run(failing: Failing, clock: TurnedClock, retry_time: RetryTime, left: float = 180.0) -> tuple[str, list[str]]:
    """Make the call with this retry_time; return its answer and the logged lines."""
    deadline = clock.monotonic() + left
    told: list[str] = []
    retry = Retry(clock, lambda: deadline - clock.monotonic(), told.append)
    return retry.run(failing, lambda: retry_time), told


@pytest.mark.parametrize("retry_time", [briefly, unless_refused, patiently, to_the_end, at_most(1, to_the_end)])
def test_one_failure_costs_less_than_a_second(retry_time: RetryTime) -> None:
    """One failure costs one short pause with any retry_time; a line is logged only if a long wait may follow."""
    clock = TurnedClock()
    answer, told = run(Failing(clock, 1), clock, retry_time)
    assert (answer, len(clock.slept)) == ("answer", 1)
    assert clock.slept[0] < 1
    assert len(told) <= 1


@pytest.mark.parametrize(
    ("retry_time", "left", "shortest", "longest"),
    [
        (briefly, 180, 0.2, BRIEFLY),
        (patiently, 180, 30, LONGEST_RETRY_TIME),
        (patiently, 60, 10, (60 - ISSUE_BUDGET) / 2),
        (patiently, 30, 2, 5),
        (patiently, 10, 8, 9),
        (patiently, 3600, 30, LONGEST_RETRY_TIME),
        (to_the_end, 180, 160, 179),
        (at_most(3, to_the_end), 180, 1, 3),
        (at_most(300, to_the_end), 60, 50, 59),
    ],
)
def test_retry_time_has_an_end(retry_time: RetryTime, left: float, shortest: float, longest: float) -> None:
    """A caller with a token gives up within a second; a caller without one keeps the time that issuing needs."""
    clock = TurnedClock()
    failing = Failing(clock, 10_000)
    with pytest.raises(StoreOutage):
        run(failing, clock, retry_time, left)
    assert shortest <= sum(clock.slept) <= longest
    assert max(clock.slept) <= 7.5
    assert clock.slept[:-1] == sorted(
        clock.slept[:-1]
    )  # the last pause is shorter, because it ends with the retry_time


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize(
    ("retry_time", "timeout", "end"),
    [
        (patiently, 179.0, 45.0),
        (patiently, 39.0, 9.5),
        (patiently, 19.0, 18.0),
        (briefly, 179.0, BRIEFLY),
        (to_the_end, 60.0, 59.0),
        (at_most(45.0, to_the_end), 179.0, 45.0),
    ],
)
def test_last_try_is_at_the_end_of_the_retry_time(retry_time: RetryTime, timeout: float, end: float, seed: int) -> None:
    """The last try is at the end of the retry_time, however long the pauses are."""
    clock = CountedClock(seed)
    tries = []

    def ask() -> None:
        tries.append(clock.monotonic())
        raise StoreOutage("store-unreachable", "Supabase is out")

    with pytest.raises(StoreOutage):
        Retry(clock, lambda: timeout - clock.monotonic(), print).run(ask, lambda: retry_time)

    assert end - 0.06 <= tries[-1] <= end + 0.001
    assert all(later - earlier <= 7.5 for earlier, later in pairwise(tries))


def test_a_slow_failure_is_not_repeated_briefly() -> None:
    """If a try took 5 s, a caller with a token does not try again."""
    clock = TurnedClock()
    failing = Failing(clock, 9, seconds=5)
    with pytest.raises(StoreOutage):
        run(failing, clock, briefly)
    assert failing.asked == 1


@pytest.mark.parametrize(
    "error",
    [
        StoreMisconfigured("store-key-rejected", "no"),
        StoreOutage("store-tls", "no", doubtful=True, lasting=True),
        KeyboardInterrupt(),
    ],
    ids=["configuration", "this machine's", "interrupt"],
)
def test_lasting_error_is_raised_at_once(error: Exception) -> None:
    """A configuration error, a certificate fault and Ctrl-C are raised after one try."""
    clock = TurnedClock()
    failing = Failing(clock, 9, error=error)
    with pytest.raises(type(error)):
        run(failing, clock, to_the_end)
    assert failing.asked == 1


REFUSED = StoreOutage("store-unreachable", "Supabase does not answer (ConnectionRefusedError)", refused=True)


def test_refused_connection_is_not_repeated_with_a_fresh_token() -> None:
    """A caller with a fresh token does not wait for a server that accepts no connection."""
    clock = TurnedClock()
    failing = Failing(clock, 1, error=REFUSED)
    with pytest.raises(StoreOutage):
        run(failing, clock, unless_refused)
    assert (failing.asked, clock.slept) == (1, [])


@pytest.mark.parametrize("retry_time", [briefly, patiently, to_the_end, at_most(1, to_the_end)])
def test_refused_connection_is_repeated_without_a_fresh_token(retry_time: RetryTime) -> None:
    """A caller without a fresh token repeats the call, because the server may be starting."""
    clock = TurnedClock()
    assert run(Failing(clock, 1, error=REFUSED), clock, retry_time)[0] == "answer"


@pytest.mark.parametrize("retry_time", [briefly, patiently, to_the_end])
def test_answer_that_stays_the_same_is_given_up_within_a_second(retry_time: RetryTime) -> None:
    """After a failure that is marked as persistent, the call is repeated too, but not for longer than a second."""
    clock = TurnedClock()
    outage = StoreOutage("store-restricted", "over quota", doubtful=True, persists=True)
    assert run(Failing(clock, 1, error=outage), clock, retry_time)[0] == "answer"
    clock = TurnedClock()
    failing = Failing(clock, 99, error=outage)
    with pytest.raises(StoreOutage):
        run(failing, clock, retry_time)
    assert (failing.asked >= 2, sum(clock.slept) <= BRIEFLY) == (True, True)


MISSING = StoreMisconfigured("store-table-missing", "no table", settles=True)


@pytest.mark.parametrize(("retry_time", "pause"), [(briefly, BRIEFLY), (patiently, SETTLING), (to_the_end, SETTLING)])
def test_schema_that_may_be_newer_is_asked_for_once_more(retry_time: RetryTime, pause: float) -> None:
    """If PostgREST may have an old schema, the call is repeated once, after a pause and with a log line.

    The pause is shorter for a caller with a token. The second answer is final.
    """
    clock = TurnedClock()
    answer, told = run(Failing(clock, 1, error=MISSING), clock, retry_time)
    assert (answer, len(told)) == ("answer", 1)
    assert clock.slept == pytest.approx([pause], abs=0.01)
    assert "[store-table-missing]" in told[0]
    failing = Failing(clock, 9, error=MISSING)
    with pytest.raises(StoreMisconfigured):
        run(failing, clock, retry_time)
    assert failing.asked == 2


def test_schema_is_not_asked_for_without_time() -> None:
    """A caller without time left gets the error at once."""
    clock = TurnedClock()
    failing = Failing(clock, 9, error=MISSING)
    with pytest.raises(StoreMisconfigured):
        run(failing, clock, to_the_end, left=1)
    assert (failing.asked, clock.slept) == (1, [])


def test_one_doubtful_outage_makes_the_last_one_doubtful() -> None:
    """If one try's outage is doubtful, the outage of the whole call is doubtful; the next call is not affected."""
    clock = TurnedClock()
    doubts = [True]

    def ask() -> None:
        raise StoreOutage("store-unreachable", "Supabase does not answer", doubtful=bool(doubts) and doubts.pop())

    retry = Retry(clock, lambda: 60.0, print)
    for is_doubtful in (True, False):
        with pytest.raises(StoreOutage) as caught:
            retry.run(ask, lambda: briefly)
        assert caught.value.doubtful is is_doubtful


@given(st.floats(0, 3600), st.floats(0, 3600))
def test_retry_time_never_takes_the_time_for_issuing(elapsed: float, left: float) -> None:
    """If a caller has enough time to issue at the start, the retry_time always leaves the time for issuing."""
    total = elapsed + left
    more = patiently(elapsed, left)
    assert more <= left
    if total > ISSUE_BUDGET:
        assert elapsed + max(more, 0) <= max(total - ISSUE_BUDGET, elapsed)
