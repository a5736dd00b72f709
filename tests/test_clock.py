"""The machine's own clock."""

from __future__ import annotations

import time
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kis_token.clock import SystemClock
from tests.support import TurnedClock

if TYPE_CHECKING:
    from kis_token.core.ports import Clock


def test_now_is_aware_and_in_utc() -> None:
    """The clock returns no naive time, in any zone of the machine."""
    now = SystemClock().now()
    assert now.tzinfo is timezone.utc
    assert abs(now - datetime.now(timezone.utc)) < timedelta(minutes=1)


def test_counter_never_goes_back() -> None:
    """Readings are in order, and comparable with the process's own counter."""
    clock = SystemClock()
    readings = [clock.monotonic() for _ in range(100)]
    assert readings == sorted(readings)
    assert readings[-1] <= time.monotonic()


@given(st.floats(0, 100), st.floats(0, 100))
def test_jitter_stays_between_its_bounds(low: float, more: float) -> None:
    """The random pause is within the given bounds."""
    assert low <= SystemClock().jitter(low, low + more) <= low + more + 1e-9


def test_jitter_differs() -> None:
    """Two callers get different pauses."""
    assert len({SystemClock().jitter(0, 1) for _ in range(20)}) > 1


def test_sleep_returns() -> None:
    """A sleep of no time returns at once."""
    SystemClock().sleep(0)


@pytest.mark.parametrize("clock", [SystemClock(), TurnedClock()], ids=lambda clock: type(clock).__name__)
def test_clock_of_the_tests_keeps_the_same_promises(clock: Clock) -> None:
    """The clock of the tests is aware, steady and bounded like the real one."""
    assert clock.now().tzinfo is timezone.utc
    assert clock.monotonic() <= clock.monotonic()
    assert 1 <= clock.jitter(1, 2) <= 2
