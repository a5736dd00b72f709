"""The rule for reads and writes: when a call of the store is repeated, and when its failure is an outage.

A brief failure (a reset, a 502, a restart) passes within seconds, and giving up on it can cost a token. So a failed
call is repeated, with growing, jittered pauses, as long as its `Patience` allows. After that the failure is an outage.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

from kis_token.deadline import ISSUE_BUDGET
from kis_token.errors import StoreMisconfigured, StoreOutage

if TYPE_CHECKING:
    from kis_token.clock import Clock

_Answer = TypeVar("_Answer")

#: Seconds in which another try may start, by the seconds since the first try and the seconds until the deadline.
Patience = Callable[[float, float], float]

#: Seconds of patience of a caller that has a valid token.
BRIEFLY = 0.8

#: The longest patience, in seconds, of a caller that may issue without the store afterwards: a project can restart in
#: this time.
LONGEST_PATIENCE = 45.0

#: The first pause, which doubles each time, and the longest one, in seconds before jitter.
_FIRST_PAUSE, _LONGEST_PAUSE = 0.2, 5.0

#: Seconds until a call is repeated after PostgREST reported a missing table, column or function. PostgREST reads the
#: schema again when sql/ has run or a backup was restored; until then it uses the previous schema.
SETTLING = 2.0

#: With fewer seconds of patience than this there is no further try.
_LEAST = 0.05


def briefly(elapsed: float, left: float) -> float:
    """The patience of a caller that has a valid token: one brief failure, no more."""
    return min(BRIEFLY - elapsed, left)


def patiently(elapsed: float, left: float) -> float:
    """The patience of a caller that may issue without the store.

    It is half of the time that issuing does not need, up to a limit.
    """
    spare = elapsed + left - ISSUE_BUDGET
    return min(spare / 2, LONGEST_PATIENCE) - elapsed if spare > 0 else to_the_end(elapsed, left)


def to_the_end(_: float, left: float) -> float:
    """The patience of a caller without another way to a token: until one second before the deadline."""
    return left - 1


def at_most(seconds: float, patience: Patience) -> Patience:
    """Limit ``patience`` to ``seconds`` from the first try."""
    return lambda elapsed, left: min(seconds - elapsed, patience(elapsed, left))


class Retry:
    """Repeats calls of the store. ``left`` returns the seconds until the caller's deadline.

    ``tell`` receives one log line if a call is repeated for longer than a moment.
    """

    def __init__(self, clock: Clock, left: Callable[[], float], tell: Callable[[str], None]) -> None:
        self._clock = clock
        self._left = left
        self._tell = tell
        self._told = False

    def run(self, ask: Callable[[], _Answer], patience: Callable[[], Patience]) -> _Answer:
        """Return the answer of ``ask``. Calls ``patience`` after each StoreOutage that ``ask`` raises.

        When the patience is over, raises the last StoreOutage; a lasting one is raised at once. The outage is doubtful
        if any failure of this call was doubtful. StoreMisconfigured is raised at once, or after one more try if it
        `settles`.
        """
        started, pause, is_doubtful, has_settled = self._clock.monotonic(), _FIRST_PAUSE, False, False
        while True:
            try:
                return ask()
            except StoreMisconfigured as error:
                if not error.settles or has_settled:
                    raise
                more = patience()(self._clock.monotonic() - started, self._left())
                if more < _LEAST:
                    raise
                has_settled, wait = True, min(SETTLING, more)
                why = "PostgREST may not have read the new tables yet"
                self._tell(f"{error.brief}; {why}: asking once more in {wait:.2g} s")
            except StoreOutage as outage:
                is_doubtful = outage.doubtful = outage.doubtful or is_doubtful
                limit = at_most(BRIEFLY, patience()) if outage.persists else patience()
                more = limit(self._clock.monotonic() - started, self._left())
                if outage.lasting or more < _LEAST:
                    raise
                # Start the last try at the end of the patience, not up to a whole pause before it.
                wait = min(self._clock.jitter(0.5 * pause, 1.5 * pause), more)
                pause = min(2 * pause, _LONGEST_PAUSE)
                self._say(outage, more)
            self._clock.sleep(wait)

    def _say(self, outage: StoreOutage, seconds: float) -> None:
        if not self._told and seconds > 2 * BRIEFLY:
            self._told = True
            self._tell(f"{outage.brief}; trying again, for {seconds:.0f} s at the most")
