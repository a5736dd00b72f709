"""Tests of the counts in the growth tables. The times in the growth tables are not tested."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from bench.growth import __main__ as growth
from bench.growth import slots as growth_slots
from bench.growth.samples import Sample, growth_table, in_turns
from bench.stampede.__main__ import Arrival, Outcome, Round

if TYPE_CHECKING:
    from collections.abc import Callable


def printed(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> dict[str, list[list[str]]]:
    """Return the rows of each table by its title."""
    assert growth.main(arguments) == 0
    tables = capsys.readouterr().out.split("\n### ")[1:]
    return {
        table.splitlines()[0]: [
            [cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines() if line.startswith("|")
        ][2:]
        for table in tables
    }


@pytest.mark.usefixtures("child_processes")
def test_counts(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """With any number of slots, an issue takes 3 requests, a read 1 and a status 1; a lease reads no log row."""
    monkeypatch.setattr(growth, "_LEAST_ROUNDS", 1)
    monkeypatch.setattr(growth_slots, "_LEAST_ROUNDS", 1)
    callers, one, every, log = printed(
        ["--callers", "2", "--slots", "3,1", "--events", "0,600", "--calls", "1"], capsys
    ).values()

    assert [row[:2] for row in callers] == [["2", "1.00"], ["ratio", "1.00"]]
    assert {row[0]: row[-1] for row in one} == {
        "begin_issuance, SQL": "0",
        "commit_issuance, SQL": "0",
        "begin_issuance, HTTP": "-",
        "commit_issuance, HTTP": "-",
        "resolve, which issues": "3",
        "resolve, warm": "1",
        "kis-token status": "1",
    }
    assert [(row[0], *row[-2:]) for row in every] == [
        ("1", "3.0", "1.0"),
        ("3", "3.0", "1.0"),
        ("ratio", "1.00", "1.00"),
    ]
    read = {row[0]: row[-1] for row in log}
    assert [read[f"{name}, SQL"] for name in ("begin_issuance", "commit_issuance")] == ["0", "0"]
    assert read["issuance_status of all slots, SQL"] == "500"


def test_rounds_that_were_run_are_not_run_again() -> None:
    """The first table has the rounds of a stampede by the number of callers, and only those of this project."""
    rounds = [
        Round(
            callers,
            algorithm,
            go=10.0,
            outcomes=[Outcome(10.0 + second, "id") for second in range(1, callers + 1)],
            store=[Arrival(10.0, "/")] * callers * 3,
            token_calls=[10.0],
            too_early=0,
        )
        for callers in (4, 1)
        for algorithm in ("ours", "guide")
    ]

    table = next(growth.tables(rounds=rounds))

    assert table.rows == (
        ("1", "1.00", "3.00", "3.00", "1.00", "1.00"),
        ("4", "1.00", "12.00", "3.00", "2.50", "4.00"),
        ("ratio", "1.00", "4.00", "1.00", "2.50", "4.00"),
    )


def test_sizes_alternate() -> None:
    """The work runs equally often at each size, in alternating order. The first run at each size does not count."""
    called: list[int] = []

    def work(size: int) -> Callable[[], dict[str, Sample]]:
        def call() -> dict[str, Sample]:
            called.append(size)
            return {"call": Sample(float(len(called)))}

        return call

    found = in_turns({1: work(1), 10: work(10)}, 2)

    assert called == [1, 10, 10, 1, 1, 10]
    assert {size: [each.milliseconds for each in samples] for size, samples in found["call"].items()} == {
        1: [4.0, 5.0],
        10: [3.0, 6.0],
    }


def test_a_table_in_markdown() -> None:
    """The table has medians by size, the ratios of the largest size, and the highest count."""
    found = {
        "call": {0: [Sample(1.0)] * 3, 10: [Sample(2.0)] * 3, 1000: [Sample(3.0, 1), Sample(4.0, 7), Sample(9.0, 2)]}
    }

    lines = str(growth_table("Calls", found, "rows", "Why.", base=10)).splitlines()

    assert lines == [
        "### Calls",
        "",
        "Why.",
        "",
        "| median ms |    0 |   10 | 1,000 | 1,000 / 0 | 1,000 / 10 | rows |",
        "| --------- | ---: | ---: | ----: | --------: | ---------: | ---: |",
        "| call      | 1.00 | 2.00 |  4.00 |      4.00 |       2.00 |    7 |",
    ]
