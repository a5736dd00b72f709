"""A chaos run ends, its records are judged, and the findings are reported."""

from __future__ import annotations

import subprocess
import sys
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg
import pytest

from bench.chaos.judges import JUDGES
from bench.chaos.records import (
    Health,
    Killed,
    Log,
    Read,
    Records,
    Start,
    Stop,
    Tally,
    fingerprint,
    read_log,
    read_write,
)
from bench.chaos.report import report
from bench.chaos.simulated_time import Shared, SimulatedClock, SimulatedDatabase
from tests.bench.chaos_records import (
    BESIDE_STORE,
    DAY,
    ENDED,
    GAVE_UP,
    HICCUP,
    NOW,
    REFUSED,
    TOKENS,
    call_with_lease,
    got,
    noted,
)
from tests.prepared_processes import process
from tests.support import make_token
from tools.step import CHECKOUT

if TYPE_CHECKING:
    from bench.chaos.records import Record
    from kis_token.sandbox.postgres import EmbeddedPostgres


def test_report_has_the_findings() -> None:
    """One finding, or one caller that did not end, fails the run. Known limits are counted, and do not fail the run."""
    hung = noted()
    hung.hung = 1

    lines, is_good = report(noted(got("expired")), DAY)
    assert not is_good
    assert f"{REFUSED:<46} 1" in lines
    assert f"{REFUSED}: 0.1.1 got an expired token" in lines
    assert not report(hung, DAY)[1]
    lines, is_good = report(noted(got("new"), Killed("new", NOW - 1)), DAY)
    assert is_good
    assert f"{ENDED:<46} 1" in lines


def test_log_returns_its_records(tmp_path: Path) -> None:
    """Each kind of record for the judges is written to the log and read back unchanged."""
    others: list[Record] = [got("new"), Read(0, NOW), Killed("new", NOW), Stop(0, NOW, NOW)]
    others += [Start("0.1.1", 0, NOW, 180.0), Health(NOW, is_well=True), Tally("store", "reset")]
    records = [*TOKENS, *call_with_lease("0.1.1", NOW), *others]
    log = Log(tmp_path / "log")

    for record in records:
        log.write(record)

    before, after = Records(), read_log((tmp_path / "log").read_text().splitlines())
    before.add(*records)
    assert after == before


def test_database_has_simulated_time_and_the_writer_of_each_row(postgres: EmbeddedPostgres) -> None:
    """A jump moves both clocks. A write by a function counts as the project's, and an upsert as an outsider's."""
    shared = Shared(10.0)
    clock, database = (
        SimulatedClock(shared),
        SimulatedDatabase(postgres.create_database(), shared, {"app_key": "PSmade-up"}),
    )
    shared.jumped = 5000.0
    database.jump(shared.jumped)
    outsiders, ours = (make_token(now=clock.now() + timedelta(hours=hours)) for hours in (0, 7))

    begin = clock.now().timestamp()
    database.put("access_token", outsiders.to_json(), outsiders.expires_at)
    with psycopg.connect(database.project.owner) as connection:
        connection.execute("select public.save_token('kis', %s, %s)", (ours.to_json(), ours.expires_at))
    end = clock.now().timestamp()
    writes = [read_write(*row) for row in database.writes()]
    database.close()

    assert [(write.outside, write.before.token, write.after.token) for write in writes] == [
        (True, None, fingerprint(outsiders.value)),
        (False, fingerprint(outsiders.value), fingerprint(ours.value)),
    ]
    assert [write.after.ends for write in writes] == [each.expires_at.timestamp() for each in (outsiders, ours)]
    assert begin - 0.01 <= writes[0].at <= writes[1].at <= end + 0.01


@pytest.mark.usefixtures("child_processes")
@pytest.mark.skipif(sys.platform == "win32", reason="the chaos forks its callers, and stops them by signals")
def test_short_run_prints_zeros() -> None:
    """In 8 s with ten callers faults occur, callers get tokens, and each row that must be zero is zero.

    On a slow machine, few faults occur in 8 s. So the test makes up to three chaos runs, until each kind of event has
    occurred.
    """
    happens = {"got a token", "store: faults", "cache: faults", "tokenP calls with a lease"}
    for seed in ("3", "4", "5"):
        command = [sys.executable, "-m", "bench.chaos", "--seconds", "8", "--callers", "10", "--seed", seed]
        done = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, timeout=120, check=False)

        rows = {line[:46].rstrip(): line[46:].strip() for line in done.stdout.splitlines()}
        assert done.returncode == 0, done.stdout + done.stderr
        assert done.stderr == ""
        assert {name: rows[name] for name in JUDGES} == dict.fromkeys(JUDGES, "0")
        happens -= {name for name in happens if int(rows[name].partition(":")[0]) > 0}
        if not happens:
            break
    assert not happens


@pytest.mark.usefixtures("child_processes")
@pytest.mark.skipif(sys.platform == "win32", reason="the chaos forks its callers, and stops them by signals")
@pytest.mark.parametrize(
    ("spoilt", "rows"),
    [
        ("no-retry", {HICCUP, GAVE_UP}),
        ("no-retry-time-for-a-read", {HICCUP}),
        ("no-wait-for-a-lease", {BESIDE_STORE, GAVE_UP}),
    ],
)
def test_spoilt_copy_is_caught(spoilt: str, rows: set[str]) -> None:
    """If a copy of the project lacks a guard, a row of the report rises above zero within 12 s with 20 callers.

    The time of a fault depends on the machine: if the guard was not needed in a run, another run follows.
    """
    arguments = ["--seconds", "12", "--callers", "20", "--gap", "2", "--spoilt", spoilt, "--until", *sorted(rows)]
    printed = []
    for seed in ("1", "2", "3"):
        with process(Path(__file__).with_name("chaos_run.py"), [*arguments, "--seed", seed]) as (_, connection):
            assert connection.poll(120), "the chaos sends nothing"
            status, output = connection.recv()
        found = {line[:46].rstrip(): line[46:].strip() for line in output.splitlines()}
        if status == 1 and any(int(found[row]) > 0 for row in rows):
            return
        printed.append(output)
    pytest.fail("\n".join(printed))
