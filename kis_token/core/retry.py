"""Decides whether a failed call to the store is repeated, or whether the failure is an outage.

A brief failure, such as a reset connection, a 502 or a restart, passes within seconds. Therefore, a failed call is
repeated after growing, jittered pauses. The time in which a call may be repeated is the *retry time*. A failure that
lasts longer than the retry time is an outage.
"""

from __future__ import annotations

from collections.abc import Callable

from kis_token.deadline import ISSUE_BUDGET
from kis_token.errors import StoreMisconfigured, StoreOutage

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import TypeVar

    from kis_token.core.ports import Clock

    _Answer = TypeVar("_Answer")

#: A function that returns the rest of the retry time: the number of seconds in which another try may still start. The
#: function's arguments are the seconds since the first try and the seconds until the deadline.
RetryTime = Callable[[float, float], float]

#: The retry time, in seconds, of a caller that has a valid token.
BRIEFLY = 0.8

#: The longest retry time, in seconds, of a caller that may issue a token without the store afterwards. A Supabase
#: project can restart within 45 s.
LONGEST_RETRY_TIME = 45.0

#: The first pause and the longest pause between two tries, in seconds, without the random jitter. Each pause is twice
#: as long as the previous one.
_FIRST_PAUSE, _LONGEST_PAUSE = 0.2, 5.0

#: Seconds until a call is repeated after PostgREST reported a missing table, column or function. After sql/ has run or
#: a backup was restored, PostgREST uses the previous schema until PostgREST has read the new one.
SETTLING = 2.0

#: If fewer than this many seconds of the retry time are left, the call is not repeated.
_LEAST = 0.05


def briefly(elapsed: float, left: float) -> float:
    """Return the rest of the retry time for a caller with a valid token. The whole retry time is ``BRIEFLY``, 0.8 s."""
    return min(BRIEFLY - elapsed, left)


def unless_refused(elapsed: float, left: float) -> float:
    """Return the rest of the retry time, as `briefly` does.

    If ``retry_time()`` returns `unless_refused`, `Retry.run` does not repeat a call whose connection was refused.
    """
    return briefly(elapsed, left)


def patiently(elapsed: float, left: float) -> float:
    """Return the rest of the retry time for a caller that may issue a token without the store.

    ``ISSUE_BUDGET`` seconds are kept for issuing. The whole retry time is half of the spare time: the time from the
    first try to the deadline, without the ``ISSUE_BUDGET`` seconds. The whole retry time is at most
    ``LONGEST_RETRY_TIME``.
    """
    spare = elapsed + left - ISSUE_BUDGET
    return min(spare / 2, LONGEST_RETRY_TIME) - elapsed if spare > 0 else to_the_end(elapsed, left)


def to_the_end(_: float, left: float) -> float:
    """Return the rest of the retry time for a caller that needs the store.

    The retry time ends one second before the deadline.
    """
    return left - 1


def at_most(seconds: float, retry_time: RetryTime) -> RetryTime:
    """Return a function that calls ``retry_time`` and limits the whole retry time to ``seconds`` from the first try."""
    return lambda elapsed, left: min(seconds - elapsed, retry_time(elapsed, left))


class Retry:
    """Repeats failed calls to the store. ``left`` returns the seconds until the caller's deadline.

    ``tell`` receives one log line if a call may be repeated for more than 1.6 s.
    """

    def __init__(self, clock: Clock, left: Callable[[], float], tell: Callable[[str], None]) -> None:
        self._clock = clock
        self._left = left
        self._tell = tell
        self._told = False

    def run(self, ask: Callable[[], _Answer], retry_time: Callable[[], RetryTime]) -> _Answer:
        """Call ``ask`` until it returns an answer. After a failure, ``retry_time()`` returns the RetryTime.

        When the retry time is over, raises the last StoreOutage. A StoreOutage with ``lasting=True`` is raised at once.
        If ``retry_time()`` returns `unless_refused`, a StoreOutage with ``refused=True`` is raised at once. If one
        StoreOutage of this call has ``doubtful=True``, the raised StoreOutage has ``doubtful=True``. A
        StoreMisconfigured with ``settles=True`` is raised after one more try. A StoreMisconfigured with
        ``settles=False`` is raised at once.
        """
        started, pause, is_doubtful, has_settled = self._clock.monotonic(), _FIRST_PAUSE, False, False
        while True:
            try:
                return ask()
            except StoreMisconfigured as error:
                if not error.settles or has_settled:
                    raise
                more = retry_time()(self._clock.monotonic() - started, self._left())
                if more < _LEAST:
                    raise
                has_settled, wait = True, min(SETTLING, more)
                why = "PostgREST possibly has not read the new tables yet"
                self._tell(f"{error.brief}; {why}: asking once more in {wait:.2g} s")
            except StoreOutage as outage:
                is_doubtful = outage.doubtful = outage.doubtful or is_doubtful
                usual = retry_time()
                limit = at_most(BRIEFLY, usual) if outage.persists else usual
                more = limit(self._clock.monotonic() - started, self._left())
                if outage.lasting or more < _LEAST or (outage.refused and usual is unless_refused):
                    raise
                # The pause is not longer than the rest of the retry time, ``more``. So the last try starts exactly when
                # the retry time ends.
                wait = min(self._clock.jitter(0.5 * pause, 1.5 * pause), more)
                pause = min(2 * pause, _LONGEST_PAUSE)
                self._say(outage, more)
            self._clock.sleep(wait)

    def _say(self, outage: StoreOutage, seconds: float) -> None:
        if not self._told and seconds > 2 * BRIEFLY:
            self._told = True
            self._tell(f"{outage.brief}; trying again, for {seconds:.0f} s at the most")
