"""The machine's clock: time, a monotonic counter, sleep and jitter. Tests use other clocks, and so need no sleep."""

from __future__ import annotations

import time
from datetime import datetime, timezone

from kis_token.deadline import SLICE


class SystemClock:
    """The machine's own clock."""

    def now(self) -> datetime:
        """The present time by the machine's clock, aware, in UTC."""
        return datetime.now(timezone.utc)

    def monotonic(self) -> float:
        """A number of seconds that never decreases."""
        return time.monotonic()

    def sleep(self, seconds: float) -> None:
        """Wait for ``seconds``."""
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            time.sleep(min(left, SLICE))

    def jitter(self, low: float, high: float) -> float:
        """A random number of seconds from ``low`` to ``high``."""
        import random

        return random.uniform(low, high)  # noqa: S311 - not for a secret
