"""When a call of the store is repeated, and for how long."""

from __future__ import annotations

import random
from datetime import datetime, timedelta, timezone
from itertools import pairwise

import pytest

from kis_token.errors import StoreOutage
from kis_token.retry import BRIEFLY, Patience, Retry, at_most, briefly, patiently, to_the_end

NOON = datetime(2027, 1, 4, 12, tzinfo=timezone.utc)


class CountedClock:
    """Time passes only in sleep."""

    def __init__(self, seed: int) -> None:
        self.counter = 0.0
        self._random = random.Random(seed)  # noqa: S311 - spreads load

    def now(self) -> datetime:
        """Noon, and what was slept since."""
        return NOON + timedelta(seconds=self.counter)

    def monotonic(self) -> float:
        """What was slept."""
        return self.counter

    def sleep(self, seconds: float) -> None:
        """Let time pass."""
        self.counter += seconds

    def jitter(self, low: float, high: float) -> float:
        """A random number of seconds between the two."""
        return self._random.uniform(low, high)


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize(
    ("patience", "timeout", "end"),
    [
        (patiently, 179.0, 79.5),
        (patiently, 39.0, 9.5),
        (patiently, 19.0, 9.5),
        (briefly, 179.0, BRIEFLY),
        (to_the_end, 60.0, 59.0),
        (at_most(45.0, to_the_end), 179.0, 45.0),
    ],
)
def test_last_try_is_at_the_end_of_the_patience(patience: Patience, timeout: float, end: float, seed: int) -> None:
    """A store that comes back a moment before the patience is over is found, however the pauses fall."""
    clock = CountedClock(seed)
    tries = []

    def ask() -> None:
        tries.append(clock.monotonic())
        raise StoreOutage("store-unreachable", "Supabase is out")

    with pytest.raises(StoreOutage):
        Retry(clock, lambda: timeout - clock.monotonic(), print).run(ask, lambda: patience)

    assert end - 0.06 <= tries[-1] <= end + 0.001
    assert all(later - earlier <= 7.5 for earlier, later in pairwise(tries))


def test_certificate_or_proxy_is_no_hiccup() -> None:
    """Trouble that may be this machine's own is told at once."""
    clock, tries = CountedClock(1), []

    def ask() -> None:
        tries.append(clock.monotonic())
        raise StoreOutage("store-tls", "Supabase's certificate cannot be checked", doubtful=True)

    with pytest.raises(StoreOutage):
        Retry(clock, lambda: 179.0, print).run(ask, lambda: patiently)

    assert tries == [0.0]
