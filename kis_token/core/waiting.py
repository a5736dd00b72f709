"""Waiting for another's turn to issue: how long, how often to look, and what to say of it, once."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from kis_token.core.slot import refused
from kis_token.deadline import ISSUE_BUDGET
from kis_token.errors import KIS_REFUSALS, IssuanceError, IssuerRefused, KisTokenError, StoreMisconfigured
from kis_token.token import REISSUE_WINDOW, in_both_zones

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

    from kis_token.clock import Clock
    from kis_token.core.ports import Begun
    from kis_token.token import AppKey, Token

_Found = TypeVar("_Found")

#: A turn can end without a token, which looking does not show: after about so many seconds it is asked for again.
ASK_AGAIN = 5.0

#: The last error of a lease whose token the table did not take.
_UNSTORED = "store-cannot-store"


class Waiting:
    """What one caller waits for. ``deadline`` is a reading of the clock's monotonic counter."""

    def __init__(self, clock: Clock, deadline: float, tell: Callable[[str], None]) -> None:
        self._clock = clock
        self._deadline = deadline
        self._tell = tell
        self._told = False

    def wait(
        self, begun: Begun, app_key: AppKey, look: Callable[[], _Found | None], patience: float | None = None
    ) -> _Found | None:
        """Look, with jittered pauses, until ``look`` finds something; None when it is time to ask for a turn again.

        With ``patience``, for those who could do without: for so many seconds at the most, and time that is up is no
        error. Else raises at once IssuerRefused when KIS has just refused this key and secret, StoreMisconfigured when
        the last token could not be stored, and IssuanceError, with the holder or the last error in its text, when
        nobody may have a turn before the deadline is too near.
        """
        seconds = (begun.retry_at - begun.server_now).total_seconds() if begun.retry_at else ASK_AGAIN
        has_holder = begun.holder_label is not None
        # For good: nothing to wait for, however much time there is.
        is_final = begun.last_error == _UNSTORED or begun.last_error in KIS_REFUSALS
        if not has_holder and (is_final or seconds > self._left() - ISSUE_BUDGET):
            raise _in_vain(begun, app_key, seconds)
        self._say(begun, seconds)
        # Jittered, since those who were told busy together would ask together again.
        longest = self._clock.jitter(0.8 * ASK_AGAIN, 1.2 * ASK_AGAIN) if patience is None else patience
        again = self._clock.monotonic() + (min(seconds, longest) if has_holder else seconds)
        while (until_again := again - self._clock.monotonic()) > 0:
            if self._left() <= 0:
                if patience is not None:
                    return None
                raise _in_vain(begun, app_key, seconds)
            # A holder is done within a second or two; a pause that KIS imposes is long.
            pause = self._clock.jitter(0.2, 0.8) if has_holder else self._clock.jitter(5.0, 10.0)
            self._clock.sleep(max(min(pause, until_again, self._left()), 0.01))
            found = look()
            if found is not None:
                return found
        return None

    def _left(self) -> float:
        return self._deadline - self._clock.monotonic()

    def _say(self, begun: Begun, seconds: float) -> None:
        if self._told:
            return
        self._told = True
        if begun.holder_label is not None:
            self._tell(f"{begun.holder_label} is issuing a token; waiting for it, {seconds:.0f} s at the most")
        else:
            reason = f" (last attempt: {begun.last_error})" if begun.last_error else ""
            self._tell(f"KIS may not be asked again for {seconds:.0f} s{reason}; waiting")


def _in_vain(begun: Begun, app_key: AppKey, seconds: float) -> KisTokenError:
    if begun.holder_label is not None:
        return IssuanceError(
            "wait-too-long", f"{begun.holder_label} is still issuing a token, and time is up", retryable=True
        )
    if begun.last_error == _UNSTORED:
        return StoreMisconfigured("store-cannot-store", "Supabase did not take the token that another job has issued")
    if begun.last_error in KIS_REFUSALS:
        return refused_to_another(begun.last_error, app_key)
    if begun.last_error == "token-repeated" and begun.retry_at is not None:
        return _repeated_until(begun.retry_at)
    reason = f"; the last attempt ended with {begun.last_error}" if begun.last_error else ""
    message = f"KIS may not be asked again for {seconds:.0f} s, longer than this may take{reason}"
    return IssuanceError("wait-too-long", message, retryable=True)


def refused_to_another(kis_code: str, app_key: AppKey) -> IssuerRefused:
    """What KIS said for good to someone else with the same key and secret, which are not tried again for a while."""
    return refused(kis_code, app_key, ", said to another job a moment ago")


def token_repeated(token: Token) -> IssuanceError:
    """KIS was asked for another token and gave the refused one again."""
    return _repeated_until(token.issued_at + REISSUE_WINDOW)


def _repeated_until(end: datetime) -> IssuanceError:
    message = f"KIS gives the refused token again until {in_both_zones(end)}"
    return IssuanceError("token-repeated", message, retryable=False)
