"""Tests of the counts in the stampede's table. The times in the stampede's table are not tested."""

from __future__ import annotations

import os

import pytest

from bench.stampede import __main__ as stampede


@pytest.mark.usefixtures("child_processes")
def test_table(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """One of this project's three callers calls KIS, and all three get the token.

    The guide's early callers get an error.
    """
    monkeypatch.setattr(stampede, "MOST_PROCESSES", 1)  # three callers then run as threads in one process for each core
    monkeypatch.setattr(os, "cpu_count", lambda: 1)

    assert stampede.main(["--callers", "3", "--rounds", "1"]) == 0

    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("|")]
    titles, _, *rows = ([cell.strip() for cell in line.strip("|").split("|")] for line in lines)
    ours, guide = (dict(zip(titles, row, strict=True)) for row in rows)
    counts = ("algorithm", "callers", "tokenP", "EGW00133", "failed", "tokens")
    assert [ours[name] for name in counts] == ["ours", "3", "1", "0", "0", "1"]
    too_early = guide["EGW00133"]
    assert [guide[name] for name in counts] == ["guide", "3", str(int(too_early) + 1), too_early, too_early, "1"]
