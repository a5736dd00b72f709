"""A simulated year of rotation and jobs: the issued tokens, the time without a token, and the callers that renew.

The ticks, which are the scheduled runs of the rotation, are those of rotate-token.yml. Jobs start at random times,
every day: on average 6 in a Korean session (08:00 to 20:00) and 4 in a US session (22:30 to 06:00), Korea time. The
first job finds an empty slot.

GitHub starts ticks late. Of 659 workflows [1], 298 have a median delay below one hour, and 361 have a median delay of
hours, mostly 6 to 7. Some workflows changed from the first kind to the second kind on 27 August 2026 [2, 3]. This
module simulates both kinds, as log-normal distributions:
  minutes  The median is 45 min, and 5 % of the ticks are later than 3 h. Measured before that day: 10 to 84 min at
           21:30 to 23:00 UTC, and over 3 h in one of 20 runs [2]. Measured at 21:10 and 09:10 UTC: the median is 88
           min, 10 % are later than 177 min, and the longest delay is 410 min [4].
  hours    The median is 4.5 h, and 5 % of the ticks are later than 9 h. Measured after that day: 95 to 326 min, mostly
           2 h, at 21:30 to 23:00 UTC, and 155 to 501 min, mostly 4 to 5 h, at other times [2]; 44 to 732 min, with a
           median of 286 min [5]; 189 to 761 min [6].

The shape of the distributions is an assumption. Their values are assumptions between the values of the sources. The
ticks of one morning or evening share 90 % of the variance, because in [2] ticks that are 10 to 25 min apart start one
after the other. 5 % of the ticks are dropped. In 2 % of the mornings and evenings, all ticks are dropped. GitHub writes
that it drops some ticks [7]. In [5], none of 25 days lost all its ticks. In [8], 1.6 % of the hours lost all their
three ticks.

[1] https://raw.githubusercontent.com/NotAFlightRisk/blog/main/posts/github-cron-two-lanes/medians.json
[2] https://github.com/KCNyu/clawock issues 781 and 921, pull request 1417, and assets/data/schedule-drift.json
[3] https://github.com/onkartalekar/fpl-intelligence/issues/288
[4] https://github.com/hkbus/hk-bus-crawling/pull/70
[5] https://github.com/robhunter/agentdeals/issues/1848
[6] https://github.com/netcanon/netcanon/pull/419
[7] https://docs.github.com/en/actions/using-workflows/events-that-trigger-workflows#schedule
[8] https://github.com/DataBiosphere/azul/issues/8041
"""

from __future__ import annotations

import argparse
import math
import sys
from dataclasses import dataclass, replace
from datetime import datetime, time, timedelta, timezone
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

from bench.year.simulation import FIRST_DAY, MARKETS, Scenario, Tick, dice, moment, part_of_day, simulate
from kis_token.token import KST

if TYPE_CHECKING:
    import random
    from collections.abc import Iterator, Sequence

    from bench.year.simulation import Result

WORKFLOW = Path(__file__).resolve().parents[2] / ".github" / "workflows" / "rotate-token.yml"

FIRST_ISSUES = (time(3, 0), time(10, 30))

#: A year may take this many tokens more than one a day.
SPARE = 5

LEGEND = """\
year, day        new tokens in the year, and on the day with the most; KIS sends the owner a message for each of them
tokenP           calls of tokenP
am, pm, job      new tokens that a scheduled run in the morning, a scheduled run in the evening or a job needed
no run by        sessions that began before any of the scheduled runs planned for them
Korea, US        minutes in which Supabase held no valid token, in the sessions of "no run by" and in the sessions that
                 began on the day without Supabase; other: the same minutes in all other sessions
jobs             all jobs; jobs that asked KIS themselves; jobs whose rejected token was replaced; jobs without a token
*                KIS ends a token when it issues the next token; in the other lines, KIS does not end it
"""

_LATE = 1.645  # the standard normal distribution's 95th percentile


@dataclass(frozen=True, slots=True)
class Delays:
    """The delay of GitHub's ticks: log-normal, with a ``median`` and a 95th percentile ``late``, both in minutes.

    The ticks of one morning, or of one evening, have the share ``shared`` of the variance in common. The share
    ``dropped`` of all ticks never starts. In the share ``lost`` of all mornings and evenings no tick starts.
    """

    name: str
    median: float = 0.0
    late: float = 0.0
    shared: float = 0.9
    dropped: float = 0.0
    lost: float = 0.0

    def starts(self, planned: Sequence[datetime], chance: random.Random) -> Iterator[datetime]:
        """Yield the start times of the ticks of one morning or evening, without dropped ticks."""
        spread = math.log(self.late / self.median) / _LATE if self.median else 0.0
        is_lost, common = chance.random() < self.lost, chance.gauss(0, 1)
        for each in planned:
            is_dropped, own = chance.random() < self.dropped, chance.gauss(0, 1)
            deviation = math.sqrt(self.shared) * common + math.sqrt(1 - self.shared) * own
            if not (is_lost or is_dropped):
                yield each + timedelta(minutes=self.median * math.exp(spread * deviation))


ON_TIME = Delays("on time")
MINUTES = Delays("minutes", median=45, late=180, dropped=0.05, lost=0.02)
HOURS = Delays("hours", median=270, late=540, dropped=0.05, lost=0.02)


def read_schedule(workflow: Path) -> tuple[time, ...]:
    """Return the times of day in Korea of a workflow's schedule. Raises ValueError if an entry is not ``M H * * *``."""
    schedule = []
    for each in yaml.safe_load(workflow.read_text(encoding="utf-8"))[True]["schedule"]:  # YAML reads "on" as true
        minute, hour, *days = each["cron"].split()
        if days != ["*", "*", "*"]:
            raise ValueError(f"Not a daily schedule: {each['cron']}")
        planned = datetime.combine(FIRST_DAY, time(int(hour), int(minute)), timezone.utc)
        schedule.append(planned.astimezone(KST).time())
    return tuple(schedule)


def make_ticks(
    schedule: Sequence[time], delays: Delays, *, days: int, seed: int, silent: Sequence[int] = ()
) -> list[Tick]:
    """Return the ticks of ``days`` days, without dropped ticks. All ticks of the days in ``silent`` are dropped."""
    ticks = []
    for day in range(days):
        for part in ("morning", "evening"):
            planned = [moment(day, each) for each in schedule if part_of_day(each) == part and day not in silent]
            ticks += [Tick(start, day, part) for start in delays.starts(planned, dice(seed, delays.name, part, day))]
    return ticks


@dataclass(frozen=True, slots=True)
class Row:
    """A year of the table. ``is_judged`` is True if the year has the whole rotation, so that the targets apply."""

    title: str
    scenario: Scenario
    is_judged: bool = True


def make_rows(first_issue: time, days: int, seed: int) -> Iterator[Row]:
    """Yield the years with the first issue at ``first_issue``, a time in Korea.

    Failures are in the middle of a year.
    """
    schedule, middle = read_schedule(WORKFLOW), days // 2
    mornings = [each for each in schedule if part_of_day(each) == "morning"]
    week, day = range(middle, middle + 7), (moment(middle, time()), moment(middle + 1, time()))
    two_hours = (moment(middle, time(10)), moment(middle, time(12)))
    no_ticks = Scenario(moment(0, first_issue), (), days, seed)

    def late(delays: Delays, planned: Sequence[time] = schedule, silent: Sequence[int] = ()) -> Scenario:
        return replace(no_ticks, ticks=make_ticks(planned, delays, days=days, seed=seed, silent=silent))

    yield Row("on time", late(ON_TIME))
    for delays in (MINUTES, HOURS):
        name = f"{delays.name} late"
        yield Row(name, late(delays))
        yield Row(f"{name}; none for a week", late(delays, silent=week))
        yield Row(f"{name}; no Supabase 1 day", replace(late(delays), outage=day))
        yield Row(f"{name}; mornings only", late(delays, mornings), is_judged=False)
    yield Row("minutes late; no Supabase 2 h *", replace(late(MINUTES), outage=two_hours, kills=True))
    yield Row("never", no_ticks, is_judged=False)


def print_table(results: Sequence[tuple[Row, Result]]) -> None:
    """Print one line for each year."""
    print(f"{'':32} --- new tokens -------------- no run by   minutes without a token  -------- jobs -------")
    print(f"{'runs start':32}year day tokenP   am  pm job 08:00 22:30  Korea other    US other   all asked rej. none")
    for row, result in results:
        by, jobs = result.issued_by, result.jobs
        lost = [sum(each.market is market and each.is_lost for each in result.sessions) for market in MARKETS]
        lapsed = [result.lapsed(market, excused=excused) for market in MARKETS for excused in (True, False)]
        print(
            f"{row.title:32}{result.issued.total():4}{max(result.issued.values()):4}{result.calls:7}"
            f"{by['morning']:5}{by['evening']:4}{by['job']:4}{lost[0]:6}{lost[1]:6}"
            f"{lapsed[0]:7.0f}{lapsed[1]:6.0f}{lapsed[2]:6.0f}{lapsed[3]:6.0f}"
            f"{jobs['all']:6}{jobs['asked']:6}{jobs['rejected']:5}{jobs['none']:5}"
        )


def find_misses(results: Sequence[tuple[Row, Result]], days: int) -> dict[str, list[str]]:
    """Return the targets, each with the years that missed it."""
    judged = [(row.title, result) for row, result in results if row.is_judged]
    others = [(title, each) for title, result in judged for each in result.sessions if not each.is_excused]
    most = days + SPARE
    return {
        f"at most {most} new tokens": [
            f"{title}: {result.issued.total()}" for title, result in judged if result.issued.total() > most
        ],
        "a valid token in every session after one of its scheduled runs, except on the day without Supabase": [
            f"{title}: {_short(begin)} to {_short(end)}" for title, each in others for begin, end in each.lapses
        ],
        "no job without a token": [f"{title}: {failure}" for title, result in judged for failure in result.failures],
    }


def _short(when: datetime) -> str:
    return f"{when.astimezone(KST):%m-%d %H:%M}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table. Returns 1 if a target is missed."""
    parser = argparse.ArgumentParser(prog="python -m bench.year.rotation", description=__doc__)
    parser.add_argument("--days", type=int, default=365)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args(arguments)
    print(LEGEND)
    missed = 0
    for first_issue in FIRST_ISSUES:
        print(f"{options.days} days, seed {options.seed}, first issue at {first_issue:%H:%M} in Korea", flush=True)
        rows = make_rows(first_issue, options.days, options.seed)
        results = [(row, simulate(row.scenario)) for row in rows]
        print_table(results)
        for target, misses in find_misses(results, options.days).items():
            print(f"Target: {target}. {'Missed:' if misses else 'Holds.'}")
            print("".join(f"  {each}\n" for each in misses), end="")
            missed += len(misses)
        print(flush=True)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
