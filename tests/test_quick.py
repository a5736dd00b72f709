"""A test's fixtures decide whether the test is quick. A test that starts more than its fixtures allow fails."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from kis_token.sandbox.emulator import KISEmulator

if TYPE_CHECKING:
    from collections.abc import Callable


def fork() -> None:
    """Fork a child, and end the child at once."""
    if os.fork() == 0:
        os._exit(0)


STARTS: dict[str, Callable[[], object]] = {
    "program": lambda: subprocess.run([sys.executable, "-c", ""], check=True),
    "fork": fork,
    "emulator": lambda: KISEmulator().start(),
}


@pytest.mark.parametrize("name", [name for name in STARTS if hasattr(os, "fork") or name != "fork"])
def test_a_quick_test_starts_nothing(name: str, request: pytest.FixtureRequest) -> None:
    """A test without a slow fixture is quick, and must not start child processes or the emulated KIS."""
    assert request.node.get_closest_marker("quick") is not None
    with pytest.raises(RuntimeError, match="a quick test starts"):
        STARTS[name]()


@pytest.mark.usefixtures("child_processes")
def test_a_test_that_says_so_may(request: pytest.FixtureRequest) -> None:
    """A test with the fixture ``child_processes`` may start child processes, and is not quick."""
    assert request.node.get_closest_marker("quick") is None
    STARTS["program"]()


@pytest.mark.usefixtures("chain")
def test_fixtures_of_fixtures_count(request: pytest.FixtureRequest) -> None:
    """A test whose fixtures need PostgreSQL and the emulated KIS is not quick."""
    assert request.node.get_closest_marker("quick") is None


@pytest.mark.matrix
def test_a_combination_is_not_quick(request: pytest.FixtureRequest) -> None:
    """A test with the mark ``matrix`` is not quick, whatever its fixtures are."""
    assert request.node.get_closest_marker("quick") is None
