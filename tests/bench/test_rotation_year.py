"""The simulated year: its results if nothing is random, and its reports of missed targets."""

from __future__ import annotations

import os
import subprocess
from datetime import datetime, time
from typing import TYPE_CHECKING

import pytest
import yaml

from bench.year.rotation import MINUTES, ON_TIME, WORKFLOW, Delays, Row, find_misses, main, make_ticks, read_schedule
from bench.year.simulation import AMERICA, KOREA, MINUTE, SECOND, Market, Result, Scenario, moment, plan, simulate
from kis_token.core import rotation

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

DAYS = 14
SCHEDULE = read_schedule(WORKFLOW)


def scenario(
    first_issue: str,
    schedule: Sequence[time] = SCHEDULE,
    *,
    silent: Sequence[int] = (),
    outage: tuple[datetime, datetime] | None = None,
    kills: bool = False,
) -> Scenario:
    """Return two weeks in which ticks start on time."""
    ticks = make_ticks(schedule, ON_TIME, days=DAYS, seed=1, silent=silent)
    return Scenario(moment(0, time.fromisoformat(first_issue)), ticks, DAYS, seed=1, outage=outage, kills=kills)


def lapses(result: Result) -> list[tuple[Market, datetime]]:
    """Return the times at which a session was without a token, or began without one."""
    return [(session.market, begin) for session in result.sessions for begin, _ in session.lapses]


def test_token_of_the_day_is_renewed_every_morning() -> None:
    """A token first issued at 10:30 is renewed once a day by the morning's first tick.

    The token never lapses, and no other job must issue a token.
    """
    result = simulate(scenario("10:30"))

    assert result.issued == dict.fromkeys(range(DAYS), 1)
    assert result.issued_by == {"job": 1, "morning": DAYS - 1, "evening": 0}
    assert result.calls == DAYS
    assert lapses(result) == []
    assert result.jobs["asked"] == 1
    assert result.jobs["rejected"] == result.jobs["none"] == 0


def test_token_of_the_night_is_renewed_every_evening() -> None:
    """A token first issued at 03:00 is renewed in the same evening, and then every evening.

    The token lapses in no session.
    """
    result = simulate(scenario("03:00"))

    assert result.issued == {0: 2} | dict.fromkeys(range(1, DAYS), 1)
    assert result.issued_by == {"job": 1, "morning": 0, "evening": DAYS}
    assert lapses(result) == []


def test_without_evening_ticks_a_token_of_the_night_lapses_in_the_next() -> None:
    """Without evening ticks, a token first issued at 03:00 is not renewed in time.

    The token lapses in the next night.
    """
    result = simulate(scenario("03:00", SCHEDULE[:4]))

    assert lapses(result)[0] == (AMERICA, moment(1, time(3)) - 30 * SECOND)


def test_lost_morning_leaves_it_to_a_job() -> None:
    """On a day without ticks, the session begins without a token and a job issues one.

    The tick of the next morning renews that token.
    """
    result = simulate(scenario("10:30", silent=[7]))

    assert lapses(result) == [(KOREA, moment(7, KOREA.opens))]
    assert [session.begin for session in result.sessions if session.is_lost and session.market is KOREA] == [
        moment(7, KOREA.opens)
    ]
    assert result.lapsed(KOREA, excused=True) > 0
    assert result.lapsed(KOREA, excused=False) == result.lapsed(AMERICA, excused=False) == 0
    assert result.issued_by == {"job": 2, "morning": DAYS - 2, "evening": 0}
    assert result.issued == dict.fromkeys(range(DAYS), 1)


def test_day_without_store_costs_tokens_and_fails_no_job() -> None:
    """Without the store every runner calls KIS, which gives a new token at most every 6 hours."""
    result = simulate(scenario("10:30", outage=(moment(7, time()), moment(8, time()))))

    assert 1 < result.issued[7] <= 4
    assert all(result.issued[day] == 1 for day in range(DAYS) if day not in (7, 8))
    assert result.jobs["asked"] > result.issued_by["job"]
    assert result.jobs["none"] == 0
    assert result.lapsed(KOREA, excused=False) == result.lapsed(AMERICA, excused=False) == 0


def test_token_that_an_outage_made_invalid_is_replaced_once() -> None:
    """In an outage of the store a job issues, and KIS ends the stored token.

    The first job after the outage replaces the stored token.
    """
    outage = (moment(7, time(10)), moment(7, time(14)))

    result = simulate(scenario("03:00", outage=outage, kills=True))

    assert result.jobs["rejected"] == 1
    assert result.jobs["none"] == 0


def test_without_rotation_every_token_lapses_first() -> None:
    """Without a rotation, a job renews the token only after a lapse, or in the token's last ten minutes."""
    result = simulate(scenario("10:30", ()))

    assert result.issued_by == {"job": result.issued.total()}
    assert result.issued.total() < DAYS
    assert all(session.is_lost for session in result.sessions)
    assert len(lapses(result)) >= result.issued.total() - 2


def test_same_seed_gives_the_same_year() -> None:
    """The same seed gives the same year, and another seed gives another year."""
    ticks = [make_ticks(SCHEDULE, MINUTES, days=5, seed=seed) for seed in (1, 1, 2)]
    first, again, other = (simulate(Scenario(moment(0, time(9)), each, 5)) for each in ticks)

    assert (first.issued, first.jobs, lapses(first)) == (again.issued, again.jobs, lapses(again))
    assert ticks[0] == ticks[1] != ticks[2]
    assert first.jobs["all"] == other.jobs["all"]


def test_schedule_is_the_workflows() -> None:
    """The times come from the workflow's cron lines, in Korea time."""
    assert [f"{each:%H:%M}" for each in SCHEDULE] == ["06:13", "06:43", "07:13", "07:43", "20:17", "21:07"]


def test_other_schedules_are_refused(tmp_path: Path) -> None:
    """A schedule that is not daily is an error."""
    workflow = tmp_path / "workflow.yml"
    workflow.write_text('on: {schedule: [{cron: "13 21 * * 1-5"}]}')

    with pytest.raises(ValueError, match="13 21"):
        read_schedule(workflow)


@pytest.mark.usefixtures("child_processes")
@pytest.mark.parametrize("clock", ["05:59", "06:00", "07:43", "19:59", "20:00", "20:17", "00:00", "03:30"])
def test_plan_is_the_workflows(clock: str, tmp_path: Path) -> None:
    """At any time of day the simulation gives the action the same inputs as the workflow's own script."""
    steps = yaml.safe_load(WORKFLOW.read_text(encoding="utf-8"))["jobs"]["rotate"]["steps"]
    script = next(each["run"] for each in steps if each.get("id") == "plan")
    now, output = moment(3, time.fromisoformat(clock)), tmp_path / "output"

    subprocess.run(
        ["bash", "-eo", "pipefail", "-c", f"date() {{ echo {int(now.timestamp())}; }}\n{script}"],
        env={"PATH": os.environ["PATH"], "EVENT": "schedule", "FORCE": "", "GITHUB_OUTPUT": str(output)},
        check=True,
    )

    planned = dict(line.split("=") for line in output.read_text().splitlines())
    assert plan(now) == {name.replace("-", "_"): value for name, value in planned.items()}


def test_delays_have_their_numbers() -> None:
    """Half of the ticks start later than the median, and 5 % start later than ``late``.

    The share ``dropped`` never starts.
    """
    delays = Delays("late", median=45, late=180, dropped=0.05, lost=0.02)
    planned = {(day, time(6, 13)): moment(day, time(6, 13)) for day in range(4000)}
    ticks = make_ticks([time(6, 13)], delays, days=4000, seed=1)

    late = sorted((tick.start - planned[tick.day, time(6, 13)]) / MINUTE for tick in ticks)

    assert len(late) / 4000 == pytest.approx(0.98 * 0.95, abs=0.01)
    assert late[len(late) // 2] == pytest.approx(45, rel=0.1)
    assert late[len(late) * 95 // 100] == pytest.approx(180, rel=0.1)


def test_missed_target_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """If the rotation used only a token's age, a token of 10:30 would lapse in market hours.

    The targets report this lapse.
    """
    monkeypatch.setattr(rotation, "due_at", lambda token, refresh_after: token.issued_at + refresh_after)
    year = scenario("10:30")

    issued, lapsed, failed = find_misses([(Row("by age", year), simulate(year))], DAYS).values()

    assert lapsed[0].startswith("by age: 01-02 10:29 to 01-02 ")
    assert issued == failed == []


def test_table_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    """The command prints both tables and the targets, and returns 0 if all are met; its help has sources."""
    assert main(["--days", "4"]) == 0

    printed = capsys.readouterr().out
    assert printed.count("\non time") == 2
    assert printed.count("Holds.") == 6
    with pytest.raises(SystemExit):
        main(["--help"])
    assert "https://github.com/" in capsys.readouterr().out
