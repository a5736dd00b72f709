"""The faults of the chaos's servers: spells of faults that the seed plans, and single faults between the spells."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import random
    from collections.abc import Sequence

    from bench.chaos.simulated_time import Shared


STORE_FAULTS = (
    *("HTTP 500", "HTTP 503", "HTTP 520", "page", "page as 200", "503 after", "reset", "reset after"),
    *("truncate", "stall", "stall after"),
)
KIS_FAULTS = (
    *("HTTP 500", "page", "page as 200", "EGW00999", "EGW00105", "reset", "reset after"),
    *("truncate", "stall", "stall after"),
)
REFUSED = "port closed"
#: The shortest and longest duration of spells, in the machine's seconds, and their weights. The store has short
#: failures, restarts and outages. At ten times the speed, an outage is longer than any caller waits.
STORE_LENGTHS = (((0.05, 0.5), 4), ((0.3, 4.0), 5), ((8.0, 12.0), 1))
KIS_LENGTHS = (((0.3, 4.0), 1),)
#: The shortest and longest duration of a restart, in the machine's seconds.
RESTART_SECONDS = (0.3, 2.0)


@dataclass(frozen=True, slots=True)
class Spell:
    """A period of faults, in the machine's seconds from the start.

    The share ``share`` of the requests gets the fault ``kind``.
    """

    begin: float
    end: float
    kind: str
    share: float


def plan_spells(
    rng: random.Random,
    seconds: float,
    kinds: Sequence[str],
    lengths: Sequence[tuple[tuple[float, float], int]],
    gap: float,
) -> list[Spell]:
    """Plan spells with ``lengths``, and with gaps of ``gap`` on average.

    In a third of the spells, the port is closed.
    """
    bounds, weights = zip(*lengths, strict=True)
    spells: list[Spell] = []
    begin = rng.expovariate(1 / gap)
    while begin < seconds:
        end = begin + rng.uniform(*rng.choices(bounds, weights)[0])
        kind = REFUSED if rng.random() < 1 / 3 else rng.choice(kinds)
        spells.append(Spell(begin, end, kind, rng.choice([0.3, 0.7, 1.0])))
        begin = end + rng.expovariate(1 / gap)
    return spells


class Trouble:
    """The present faults of one server. Between the spells, the share ``share`` of the requests gets a fault."""

    def __init__(
        self, shared: Shared, rng: random.Random, spells: Sequence[Spell], kinds: Sequence[str], share: float
    ) -> None:
        self._shared = shared
        self._random = rng
        self._spells = spells
        self._kinds = kinds
        self._share = share
        self._restart: Spell | None = None

    def restart(self) -> None:
        """Close the port for a while, from now on."""
        now = time.time() - self._shared.epoch
        self._restart = Spell(now, now + self._random.uniform(*RESTART_SECONDS), REFUSED, 1.0)

    @property
    def is_well(self) -> bool:
        """Whether there is no spell of faults now. Single requests may get a fault."""
        return self._spell() is None

    @property
    def is_refused(self) -> bool:
        """Whether the port is closed now."""
        spell = self._spell()
        return spell is not None and spell.kind == REFUSED

    def draw(self) -> str | None:
        """Return the fault of a request that arrives now, or None."""
        spell = self._spell()
        if spell is not None and spell.kind == REFUSED:
            return "reset"  # the connection was accepted just before the port closed
        if spell is not None and self._random.random() < spell.share:
            return spell.kind
        return self._random.choice(self._kinds) if self._random.random() < self._share else None

    def pause(self, bounds: tuple[float, float]) -> None:
        """Wait for a time within ``bounds``."""
        time.sleep(self._random.uniform(*bounds))

    def _spell(self) -> Spell | None:
        passed = time.time() - self._shared.epoch
        spells = self._spells if self._restart is None else [self._restart, *self._spells]
        return next((each for each in spells if each.begin <= passed < each.end), None)
