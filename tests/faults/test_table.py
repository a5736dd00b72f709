"""The tables of docs/faults.md: each named test exists, and each test of a fault is named."""

from __future__ import annotations

import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

from tests.faults.conftest import COLLECTED
from tools.step import CHECKOUT

PAGE = (CHECKOUT / "docs" / "faults.md").read_text(encoding="utf-8")
ROWS = [
    [cell.strip() for cell in line.strip("|").split("|")]
    for line in PAGE.splitlines()
    if line.startswith("| ") and not line.startswith(("| fault |", "| --- |"))
]
#: The tests that the page names, each as a path below tests/ and a name. In a name, * matches any text.
NAMED = [name for row in ROWS for name in re.findall(r"`([^`]+)`", row[-1])]


@cache
def pattern_of(name: str) -> re.Pattern[str]:
    """Return a pattern for the tests that ``name`` matches.

    A name without parameters matches the test with any parameters.
    """
    pattern = re.escape(name).replace(r"\*", ".*")
    parameters = "" if name.endswith("]") else r"(\[.*\])?"
    return re.compile(f"tests/{pattern}{parameters}")


def matches(name: str, test: str) -> bool:
    """Whether ``name`` matches ``test``."""
    return pattern_of(name).fullmatch(test) is not None


@pytest.fixture(scope="module")
def tests(pytestconfig: pytest.Config, child_processes: None) -> list[str]:  # noqa: ARG001 - it starts a process
    """The ids of all tests of this folder and of the files in the tables, as pytest collects them."""
    if [Path(each).resolve() for each in pytestconfig.args] == [CHECKOUT / "tests"]:
        return pytestconfig.stash[COLLECTED]
    files = sorted({f"tests/{name.partition('::')[0]}" for name in NAMED} | {"tests/faults"})
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-m", "", *files]
    found = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stdout[-2000:]
    return [line for line in found.stdout.splitlines() if "::" in line]


def test_each_row_is_complete() -> None:
    """Each row has a fault, a behaviour and at least one test, and no fault has two rows."""
    assert ROWS
    assert [row for row in ROWS if len(row) != 3 or not all(row) or "`" not in row[2]] == []
    assert len({row[0] for row in ROWS}) == len(ROWS)


def test_each_named_test_is_there(tests: list[str]) -> None:
    """Every test that a row names is a test that pytest collects."""
    assert [name for name in NAMED if not any(matches(name, test) for test in tests)] == []


def test_each_test_is_named(tests: list[str]) -> None:
    """Every test of this folder, with each of its parameters, is in a row."""
    own = [test for test in tests if test.startswith("tests/faults/") and "/test_table.py::" not in test]

    assert own
    assert [test for test in own if not any(matches(name, test) for name in NAMED)] == []
