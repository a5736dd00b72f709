"""Time as something that is passed in: now, a steady counter, sleep and jitter. So no test sleeps."""

from __future__ import annotations

import time
from datetime import datetime, timezone
from typing import Protocol

from kis_token.deadline import SLICE


class Clock(Protocol):
    """Where time comes from."""

    def now(self) -> datetime:
        """The machine's idea of the present, aware, in UTC."""

    def monotonic(self) -> float:
        """Seconds that never go back; only differences mean something."""

    def sleep(self, seconds: float) -> None:
        """Let that much time pass."""

    def jitter(self, low: float, high: float) -> float:
        """A random number of seconds between the two, so that contenders do not march in step."""


class SystemClock:
    """The machine's own clock."""

    def now(self) -> datetime:
        """The machine's idea of the present, aware, in UTC."""
        return datetime.now(timezone.utc)

    def monotonic(self) -> float:
        """Seconds that never go back."""
        return time.monotonic()

    def sleep(self, seconds: float) -> None:
        """Let that much time pass."""
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            time.sleep(min(left, SLICE))

    def jitter(self, low: float, high: float) -> float:
        """A random number of seconds between the two."""
        import random

        return random.uniform(low, high)  # noqa: S311 - spreads load, guards nothing
