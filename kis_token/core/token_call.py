"""Calls tokenP once, checks the token's owner, verifies the token at the KIS API, and makes the `Resolution`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kis_token.core.slot import TOKEN_TYPE
from kis_token.errors import IssuanceError, IssuerOutage
from kis_token.token import REISSUE_WINDOW, in_both_zones

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

    from kis_token.core.context import Context
    from kis_token.core.ports import Issuer
    from kis_token.core.resolution import Resolution, View
    from kis_token.token import AppKey, Token


def check_sealing(context: Context) -> None:
    """Seal an empty value, so that a missing or damaged package is found before KIS issues a token."""
    context.vault.seal("", context.settings.service_name, TOKEN_TYPE)


def issue(issuer: Issuer, app_key: AppKey, now: datetime, may_send: Callable[[], bool] | None = None) -> Token:
    """Call tokenP once, and check that the token belongs to ``app_key``.

    Raises IssuerError. Raises TooLate if ``may_send`` returned False.
    """
    token = issuer.issue(app_key, now, may_send)
    if token.app_key_id != app_key.key_id:
        raise IssuerOutage("kis-answer-unusable", "KIS issued a token of another app key", sent=True)
    return token


def verify(issuer: Issuer, view: View, token: Token, app_key: AppKey) -> View:
    """Call the KIS API with a new token, because a rejected token must not replace a token that works.

    Returns ``view``. If the call failed, the returned `View` has a warning. Raises IssuerOutage if the API rejects the
    token.
    """
    try:
        code = issuer.verify(token, app_key)
    except IssuerOutage as error:
        return view.with_warning(f"The new token could not be verified: {error.brief}")
    if code is not None:
        raise IssuerOutage("kis-answer-unusable", f"KIS rejects the token it just issued ({code})", sent=True)
    return view


def hand_out_issued(view: View, token: Token, *, warning: str = "") -> Resolution:
    """Hand out the token that tokenP returned at ``view.now``.

    For 6 hours after an issue, tokenP returns the same token again. After 6 hours, tokenP returns a new token.
    """
    refreshed = token.is_new(view.now)
    said = "issued a token" if refreshed else "gave an earlier token again"
    return view.with_entry("oauth", said).resolution(token, "oauth", refreshed=refreshed, warning=warning)


def token_repeated(token: Token) -> IssuanceError:
    """The error for a tokenP call that returned the rejected token again."""
    return repeated_until(token.issued_at + REISSUE_WINDOW)


def repeated_until(end: datetime) -> IssuanceError:
    """The error for a rejected token that tokenP returns again until ``end``."""
    message = f"KIS gives the rejected token again until {in_both_zones(end)}"
    return IssuanceError("token-repeated", message, retryable=False)
