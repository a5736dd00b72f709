"""Issues a token while the store does not answer, for one caller at a time on this machine.

Other machines do not see a token that was issued without the store, so each of them may issue a token as well.
"""

from __future__ import annotations

from contextlib import suppress
from datetime import timedelta
from typing import TYPE_CHECKING

from kis_token.core.lease import CALL_INTERVAL
from kis_token.core.lookup import look_at_cache
from kis_token.core.resolution import remember
from kis_token.core.token_call import check_sealing, hand_out_issued, issue, token_repeated
from kis_token.errors import EnvironmentFault, IssuerOutage, IssuerRateLimited

if TYPE_CHECKING:
    from datetime import datetime

    from kis_token.core.context import Context
    from kis_token.core.resolution import Resolution, View
    from kis_token.errors import StoreOutage
    from kis_token.token import AppKey, Token

#: The note is a file on this machine with the time before which no caller issues a token without the store. If the time
#: in the note is more than LONGEST_NOTE in the future, the note is ignored, because only a caller with a wrong clock
#: writes a time so far in the future.
LONGEST_NOTE = timedelta(minutes=5)


def issue_locally(context: Context, view: View, app_key: AppKey, outage: StoreOutage) -> Resolution:
    """Return the token that another caller on this machine has just cached. If no token is cached, call tokenP once.

    The caller must hold the machine's lock for ``app_key``. Raises IssuerError, EnvironmentFault, TokenError and
    IssuanceError.
    """
    if context.cache is not None:
        view = look_at_cache(view, context.cache, context.settings)
        if view.cached is not None and view.cached.is_valid(view.now):
            return view.resolution(view.cached, "cache", warning=f"{outage.brief}; the cached token is used.")
        if view.cache_fault is not None:
            raise view.cache_fault from outage
    check_sealing(context)
    token = _call(context, view.now, app_key, outage)
    if view.rejects(token):
        raise token_repeated(token) from outage
    what = "a token was issued that other machines do not see" if token.is_new(view.now) else "KIS gave its token again"
    resolution = hand_out_issued(view, token, warning=f"{outage.brief}; {what}.")
    return remember(context.cache, resolution)  # the token is cached before the next caller gets the lock


def hold_back(context: Context, app_key: AppKey, time: timedelta) -> None:
    """For ``time``, forbid all callers on this machine to issue a token without the store."""
    until = context.clock.now() + time
    # The fault is ignored: if `_call` cannot write a note for this app key, `_call` issues no token.
    with suppress(EnvironmentFault):
        noted = context.machine.not_before(app_key.key_id)
        if noted is None or noted < until:
            context.machine.hold_back(app_key.key_id, until)


def _call(context: Context, now: datetime, app_key: AppKey, outage: StoreOutage) -> Token:
    """Write a note of the tokenP call on this machine, then call tokenP once."""
    machine, clock, key_id = context.machine, context.clock, app_key.key_id
    noted = machine.not_before(key_id)
    wait = noted - clock.now() if noted is not None else timedelta()
    if timedelta() < wait < LONGEST_NOTE:
        said = f"no caller on this machine may call KIS for {wait.seconds + 1} s, because of a recent call or lease"
        raise IssuerRateLimited("kis-rate-limited", f"{outage.args[0]}, and {said}")

    def may_send() -> bool:
        machine.hold_back(key_id, clock.now() + CALL_INTERVAL)
        return True

    # `may_send` writes the note of the tokenP call twice: here, before the connection to KIS begins, and again
    # immediately before the request is sent. If `may_send` cannot write the note, KIS is not called.
    may_send()
    try:
        return issue(context.issuer, app_key, now, may_send)
    except IssuerOutage as error:
        if not error.sent:
            machine.hold_back(key_id, noted or clock.now())
        raise
    except IssuerRateLimited as error:
        raise IssuerRateLimited(error.code, f"{outage.args[0]}, and {error.args[0]}") from error
