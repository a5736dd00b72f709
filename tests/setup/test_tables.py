"""The wait until the SQL has been run."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from kis_token.errors import StoreMisconfigured, StoreOutage
from kis_token.setup.tables import LONGEST_WAIT_SECONDS, LOOK_SECONDS, Lacking, wait_until_complete
from tests.support import TurnedClock

if TYPE_CHECKING:
    from collections.abc import Callable

LACKING = Lacking("the tables", "select 1;")


def looks(*answers: Lacking | StoreOutage | None) -> Callable[[], Lacking | None]:
    """Return a function that returns or raises ``answers``, one at each call."""
    left = list(answers)

    def look() -> Lacking | None:
        answer = left.pop(0)
        if isinstance(answer, StoreOutage):
            raise answer
        return answer

    return look


def test_looks_until_nothing_is_lacking() -> None:
    """The function looks every few seconds, also after an outage, and returns when no part is missing."""
    clock = TurnedClock()
    outage = StoreOutage("store-unreachable", "Supabase does not answer")

    wait_until_complete(looks(LACKING, outage, LACKING, None), clock)

    assert clock.slept == [LOOK_SECONDS] * 3


def test_lasting_outage_ends_the_wait() -> None:
    """A lasting outage, such as a certificate that is not trusted, ends the wait at once."""
    outage = StoreOutage("store-tls", "The certificate is not trusted", lasting=True)

    with pytest.raises(StoreOutage):
        wait_until_complete(looks(outage), TurnedClock())


def test_wait_has_an_end() -> None:
    """After half an hour the wait ends with an error."""
    clock = TurnedClock()

    with pytest.raises(StoreMisconfigured, match="was not run yet"):
        wait_until_complete(lambda: LACKING, clock)

    assert sum(clock.slept) == pytest.approx(LONGEST_WAIT_SECONDS, abs=2 * LOOK_SECONDS)
