"""A pytest plugin that finds the quick tests: those without PostgreSQL, the emulated KIS and child processes.

The fixtures of a test, and the fixtures that these fixtures use, decide whether the test is quick. A test fails if it
starts a child process and has no fixture that declares child processes.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import pytest

from kis_token.sandbox.emulator import KISEmulator

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence

#: The fixtures that take time. Each test or fixture that starts a child process uses ``child_processes``.
SLOW = frozenset({"child_processes", "postgres", "kis"})

#: Python's audit events before the start of a child process.
STARTS = frozenset({"subprocess.Popen", "os.fork", "os.forkpty", "os.posix_spawn"})

_patch = pytest.MonkeyPatch()
_running: list[pytest.Item] = []


@pytest.fixture(scope="session")
def child_processes() -> None:
    """Declare that a test or a fixture starts child processes. The fixture itself does nothing."""


def is_quick(item: pytest.Item) -> bool:
    """Whether the test uses no slow fixture and does not have the mark ``matrix``."""
    return SLOW.isdisjoint(getattr(item, "fixturenames", ())) and item.get_closest_marker("matrix") is None


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: Sequence[pytest.Item]) -> None:
    """Mark the quick tests, before ``-m quick`` selects them."""
    for item in items:
        if is_quick(item):
            item.add_marker("quick")


def pytest_configure() -> None:
    """Begin to watch for the start of the emulated KIS and of child processes."""
    start = KISEmulator.start

    def start_unless_quick(emulator: KISEmulator) -> None:
        _refuse("the emulated KIS", "kis")
        start(emulator)

    _patch.setattr(KISEmulator, "start", start_unless_quick)
    sys.addaudithook(_on_event)


def pytest_unconfigure() -> None:
    """Stop the watch."""
    _patch.undo()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, Any, Any]:
    """Record the test that runs."""
    _running.append(item)
    try:
        return (yield)
    finally:
        _running.pop()


def _on_event(event: str, _: tuple[object, ...]) -> None:
    if event in STARTS:
        _refuse("a child process", "child_processes")


def _refuse(started: str, fixture: str) -> None:
    if any(map(is_quick, _running)):
        raise RuntimeError(f"a quick test starts {started}: it, or the fixture that does so, has to use {fixture}")
