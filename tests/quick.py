"""Which tests are quick: those without PostgreSQL, without the emulated KIS and without child processes.

A pytest plugin. The fixtures say it, a test's own and those that these use. A test whose fixtures say too little is
found: it fails.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import pytest

from kis_token.sandbox.emulator import KISEmulator

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence

#: The fixtures that take time. Whatever starts a child process, a test or a fixture, uses the first.
SLOW = frozenset({"child_processes", "postgres", "kis"})

#: What Python tells of itself before it starts a child process.
STARTS = frozenset({"subprocess.Popen", "os.fork", "os.forkpty", "os.posix_spawn"})

_patch = pytest.MonkeyPatch()
_running: list[pytest.Item] = []


@pytest.fixture(scope="session")
def child_processes() -> None:
    """Has no effect: it stands for the child processes that a test or a fixture starts."""


def is_quick(item: pytest.Item) -> bool:
    """Whether none of the test's fixtures takes time, and it is no mere combination either."""
    return SLOW.isdisjoint(getattr(item, "fixturenames", ())) and item.get_closest_marker("matrix") is None


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: Sequence[pytest.Item]) -> None:
    """Mark the quick ones, before ``-m quick`` chooses."""
    for item in items:
        if is_quick(item):
            item.add_marker("quick")


def pytest_configure() -> None:
    """Begin to watch."""
    start = KISEmulator.start

    def start_unless_quick(emulator: KISEmulator) -> None:
        _refuse("the emulated KIS", "kis")
        start(emulator)

    _patch.setattr(KISEmulator, "start", start_unless_quick)
    sys.addaudithook(_on_event)


def pytest_unconfigure() -> None:
    """Watch no longer."""
    _patch.undo()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, Any, Any]:
    """Know the test that runs."""
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
