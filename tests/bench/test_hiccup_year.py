"""The year of hiccups meets its targets. A copy of the project without a guard misses a target."""

from __future__ import annotations

from datetime import time, timedelta
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

import pytest

from bench.year import hiccups as hiccup_year
from bench.year.hiccup_parts import BOX, OUTAGE, Result, Year
from bench.year.hiccups import SPARE, close_calls, find_misses, main, simulate
from bench.year.simulation import FIRST_DAY, dice, moment
from bench.year.timeline import Timeline
from kis_token.core.resolution import View
from kis_token.core.resolver import Resolver
from kis_token.core.retry import Retry
from kis_token.local.machine_lock import LocalMachine

if TYPE_CHECKING:
    from collections.abc import Callable

DAYS = 42
#: With these days and this rate of hiccups, a copy that lacks a guard misses a target.
SPOILT_DAYS, MANY = 14, 1 / 10

#: One outage every fourth day, at a time at which callers run.
BUSY = [moment(4 * number, clock) for number, clock in enumerate([time(8), time(12), time(15), time(22, 38)])]
BUSY_DAYS = 14


def missed(year: Year, result: Result) -> list[str]:
    """Return the targets that the year missed."""
    return [target for target, misses in find_misses([(year, result)]).items() if misses]


@pytest.mark.parametrize(
    ("keys", "days"),
    [
        ("both", BUSY_DAYS),
        *(pytest.param(keys, DAYS, marks=pytest.mark.matrix) for keys in ("given", "stored", "both")),
    ],
)
def test_weeks_of_hiccups_cost_one_token_a_day(keys: str, days: int) -> None:
    """In spite of hiccups and outages, KIS issues one token a day.

    A rejected token is never used beside a good token.
    """
    year = Year("weeks", keys, days, seed=2, outages=BUSY)

    result = simulate(year)

    assert missed(year, result) == []
    assert result.hiccups > 0
    assert result.jobs["in an outage"] >= len(BUSY)
    assert result.issued.total() <= days + 5


@pytest.mark.matrix
@pytest.mark.parametrize(
    ("keys", "target"),
    [("given", f"at most {SPOILT_DAYS + SPARE} new tokens"), ("stored", "no job without a token except in an outage")],
)
def test_copy_that_asks_once_misses_a_target(keys: str, target: str) -> None:
    """A runner that asks Supabase only once issues at its first hiccup or, if it has no keys, fails."""

    def run(_: Retry, ask: Callable[[], Any], __: object) -> Any:  # noqa: ANN401 - as the original
        return ask()

    year = Year("asks once", keys, SPOILT_DAYS, seed=2, hiccup=MANY)
    assert missed(year, simulate(year)) == []
    with patch.object(Retry, "run", run), patch.object(Resolver, "_read_once", lambda _: None):
        result = simulate(year)

    assert target in missed(year, result)


def outage_at(clock: time, *, keys: str = "given") -> Year:
    """Return a week without hiccups, and with an outage of Supabase on the third day, at ``clock``."""
    return Year("a week", keys, 7, hiccup=0.0, outages=[moment(2, clock)])


def test_outage_while_four_runners_begin_costs_one_token(monkeypatch: pytest.MonkeyPatch) -> None:
    """If four machines call KIS without the store, KIS issues one token, and the token is stored once."""
    monkeypatch.setattr(hiccup_year, "PARALLEL_JOBS_AT", time(15))
    year = outage_at(time(14, 59))

    result = simulate(year)

    assert missed(year, result) == []
    assert result.jobs["alone"] == 1
    assert result.issued[2] == 2
    assert close_calls(result) == 3  # KIS refused these calls: a known limit of the design
    assert result.jobs["none in an outage"] == 3
    assert result.jobs["rejected"] > 0


def test_outage_with_keys_in_the_store_alone_costs_none() -> None:
    """Without keys no caller can issue, so KIS does not end the stored token.

    Machines with a cache use the cached token.
    """
    result = simulate(outage_at(time(8, 54), keys="stored"))

    assert result.issued.total() == 7
    assert result.jobs["alone"] == result.jobs["rejected"] == 0
    assert result.jobs["none in an outage"] >= 4


def test_outage_that_is_over_in_time_costs_none() -> None:
    """An outage that ends within a caller's retry time is only a short failure."""
    year = outage_at((moment(0, time(8, 55)) - OUTAGE + timedelta(seconds=30)).time())

    result = simulate(year)

    assert result.issued.total() == 7
    assert result.jobs["in an outage"] >= 4
    assert result.jobs["none in an outage"] == result.jobs["rejected"] == 0


def test_callers_of_one_machine_make_one_call(monkeypatch: pytest.MonkeyPatch) -> None:
    """Four callers of one machine without a cache make one call to KIS, because the machine keeps a note of a call."""
    monkeypatch.setattr(hiccup_year._Simulation, "_new_runner", lambda _: BOX)
    year = outage_at(time(8, 54))

    assert close_calls(simulate(year)) == 0
    with patch.object(LocalMachine, "not_before", lambda *_: None):
        assert close_calls(simulate(year)) > 0


def test_token_of_a_machine_with_a_cache_comes_home(monkeypatch: pytest.MonkeyPatch) -> None:
    """The server issues without the store, as its cache has no valid token.

    The server's next call stores the server's token for all.
    """
    monkeypatch.setattr(hiccup_year, "PARALLEL_JOBS", 0)
    monkeypatch.setattr(hiccup_year, "CONTAINER", (hiccup_year.FIRST_JOB,))
    year = Year("two days", "given", 2, hiccup=0.0, outages=[moment(1, time(15, 59))])

    def forget(simulation: Any) -> None:  # noqa: ANN401 - private to its module
        (simulation._folder / "server" / "cache" / "token.json").unlink()

    def run(simulation: Any) -> Result:  # noqa: ANN401 - as above
        simulation._clock.at(moment(1, time(15, 58)), lambda: forget(simulation))
        return original(simulation)

    original = hiccup_year._Simulation.run
    monkeypatch.setattr(hiccup_year._Simulation, "run", run)

    home = simulate(year)
    with patch.object(View, "unshared_token", lambda _: None):
        away = simulate(year)

    assert home.jobs["alone"] == away.jobs["alone"] == 1
    assert home.jobs["rejected"] < away.jobs["rejected"]


def test_same_seed_gives_the_same_year() -> None:
    """Threads run one at a time, so that a year is repeatable."""
    first, again, other = (simulate(Year("three days", "both", 3, seed)) for seed in (1, 1, 2))

    assert (first.calls, first.jobs, first.hiccups) == (again.calls, again.jobs, again.hiccups)
    assert first.calls != other.calls


def test_misses_are_named() -> None:
    """Each missed target has a line for each case."""
    result = Result(beside=["01-03 08:00 server got a token that KIS rejects"], failures=["01-04 09:00 laptop: x"])
    result.issued[0] = 9

    misses = list(find_misses([(Year("bad", "given", 3), result)]).values())

    assert misses == [
        ["bad: 9"],
        ["bad: 01-03 08:00 server got a token that KIS rejects"],
        ["bad: 01-04 09:00 laptop: x"],
    ]


def test_timeline_runs_sleepers_in_order() -> None:
    """Two sleeping threads wake at the right times, and time passes only by sleep."""
    clock, told = Timeline(FIRST_DAY, dice("test")), []

    def act(name: str, pause: float) -> None:
        for _ in range(2):
            clock.sleep(pause)
            told.append((name, clock.monotonic()))

    clock.at(FIRST_DAY, lambda: act("a", 2.0))
    clock.at(FIRST_DAY + timedelta(seconds=1), lambda: act("b", 2.0))
    clock.run()

    assert told == [("a", 2.0), ("b", 3.0), ("a", 4.0), ("b", 5.0)]


def test_error_in_a_timeline_is_raised() -> None:
    """An error in a simulated thread ends the simulation, and is raised."""
    clock = Timeline(FIRST_DAY, dice("test"))
    clock.at(FIRST_DAY, lambda: 1 / 0)

    with pytest.raises(ZeroDivisionError):
        clock.run()


def test_table_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    """The command prints the years and the targets, and returns 0 if all are met."""
    assert main(["--days", "3"]) == 0

    printed = capsys.readouterr().out
    assert printed.count("\nkeys ") == 5
    assert printed.count("Holds.") == 3
