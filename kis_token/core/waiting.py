"""Waiting while another caller holds the lease: how long, and how often the slot is read."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from kis_token.core.slot import refused
from kis_token.core.token_call import repeated_until
from kis_token.deadline import ISSUE_BUDGET
from kis_token.errors import KIS_REFUSALS, IssuanceError, IssuerRefused, KisTokenError, StoreMisconfigured

if TYPE_CHECKING:
    from collections.abc import Callable

    from kis_token.core.context import Context
    from kis_token.core.ports import Begun
    from kis_token.token import AppKey

_Found = TypeVar("_Found")

#: Seconds until a waiting caller calls `begin` again. Reading the token row again and again does not show that a lease
#: has ended without a token.
ASK_AGAIN = 5.0

#: The error code of a lease that ended because the store could not store the token.
_UNSTORED = "store-cannot-store"


class Waiting:
    """All waits of one caller. Only the first wait writes a log line."""

    def __init__(self, context: Context) -> None:
        self._clock = context.clock
        self._deadline = context.deadline
        self._tell = context.tell
        self._told = False

    def wait(
        self, begun: Begun, app_key: AppKey, look: Callable[[], _Found | None], longest_wait: float | None = None
    ) -> _Found | None:
        """Call ``look``, with jittered pauses, until ``look`` finds a token.

        Returns None when the caller should ask for the lease again. A caller that can continue without a new token
        passes ``longest_wait``, in seconds. After ``longest_wait`` seconds, the method returns None.

        If ``longest_wait`` is None and waiting is useless, one of these errors is raised at once:

        - IssuerRefused: KIS has just refused this key and secret.
        - StoreMisconfigured: the store could not store the last token.
        - IssuanceError: the store grants no lease early enough to issue a token before the deadline. The error's text
          names the holder or the last error.
        """
        seconds = (begun.retry_at - begun.server_now).total_seconds() if begun.retry_at else ASK_AGAIN
        has_holder = begun.holder_label is not None
        # If KIS refused the app key, or if the store could not store the token, waiting does not lead to a token.
        is_final = begun.last_error == _UNSTORED or begun.last_error in KIS_REFUSALS
        if not has_holder and (is_final or seconds > self._deadline.left() - ISSUE_BUDGET):
            raise _in_vain(begun, app_key, seconds)
        self._say(begun, seconds)
        # With jitter, callers that got "busy" at the same moment ask again at different moments.
        longest = self._clock.jitter(0.8 * ASK_AGAIN, 1.2 * ASK_AGAIN) if longest_wait is None else longest_wait
        again = self._clock.monotonic() + (min(seconds, longest) if has_holder else seconds)
        while (until_again := again - self._clock.monotonic()) > 0:
            if self._deadline.left() <= 0:
                if longest_wait is not None:
                    return None
                raise _in_vain(begun, app_key, seconds)
            # A holder issues a token within a second or two. A pause that KIS imposes lasts a minute or more.
            pause = self._clock.jitter(0.2, 0.8) if has_holder else self._clock.jitter(5.0, 10.0)
            self._clock.sleep(max(min(pause, until_again, self._deadline.left()), 0.01))
            found = look()
            if found is not None:
                return found
        return None

    def _say(self, begun: Begun, seconds: float) -> None:
        if self._told:
            return
        self._told = True
        if begun.holder_label is not None:
            self._tell(f"{begun.holder_label} is issuing a token; waiting for it, {seconds:.0f} s at the most")
        else:
            reason = f" (last attempt: {begun.last_error})" if begun.last_error else ""
            self._tell(f"KIS must not be called again for {seconds:.0f} s{reason}; waiting")


def _in_vain(begun: Begun, app_key: AppKey, seconds: float) -> KisTokenError:
    if begun.holder_label is not None:
        message = f"{begun.holder_label} is still issuing a token, and the time limit is reached"
        return IssuanceError("wait-too-long", message, retryable=True)
    if begun.last_error == _UNSTORED:
        return StoreMisconfigured("store-cannot-store", "Supabase could not store the token that another job issued")
    if begun.last_error in KIS_REFUSALS:
        return refused_to_another(begun.last_error, app_key)
    if begun.last_error == "token-repeated" and begun.retry_at is not None:
        return repeated_until(begun.retry_at)
    reason = f"; the last attempt ended with {begun.last_error}" if begun.last_error else ""
    message = f"KIS must not be called again for {seconds:.0f} s, and the call's time limit ends earlier{reason}"
    return IssuanceError("wait-too-long", message, retryable=True)


def refused_to_another(kis_code: str, app_key: AppKey) -> IssuerRefused:
    """The error for a key and secret that KIS refused when another caller used them.

    The store grants no lease for a refused key and secret for 15 minutes.
    """
    return refused(kis_code, app_key, ", reported to another job a moment ago")
