"""The token that a program holds while it runs: renewed before it expires, and replaced when KIS rejects it.

One renewal serves all threads that need a new token, and the lease prevents renewals of other machines at the same
time. A renewal happens only during a call of the program; no thread is started. Warnings and waits are logged to the
logger ``kis_token``.
"""

from __future__ import annotations

import logging
import threading
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import TYPE_CHECKING

from kis_token.errors import IssuanceError, KisTokenError, TokenRefreshLimitError
from kis_token.process.per_process import PerProcess
from kis_token.token import LEAST_USEFUL, AppKey, State, Token, in_both_zones
from kis_token.wiring import open_resolver

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

    from kis_token.config import Settings
    from kis_token.core.ports import Clock
    from kis_token.core.resolution import Resolution
    from kis_token.core.resolver import Resolver

_LOG = logging.getLogger("kis_token")

#: The age from which a token may be renewed on request. KIS expects an account to get one token a day. The guide
#: (docs/migrating.md) sets the limit to 23 h, one hour less than a day.
REFRESH_AFTER = timedelta(hours=23)

#: If the renewal of a token that expires soon fails, the next attempt begins after this many seconds.
RENEW_AGAIN = 30.0

#: If only this machine has a token, and storing the token fails, the next attempt to store it begins after this many
#: seconds.
SHARE_AGAIN = 300.0


@dataclass(frozen=True, slots=True)
class Held:
    """The token in use, and its app key.

    ``replaces`` is the fingerprint of the rejected token that this token replaced. ``skew`` is the time by which the
    store's clock is ahead of this machine's clock. ``renew_again`` is the monotonic time from which the store may be
    asked again.
    """

    token: Token
    app_key: AppKey
    replaces: str | None
    skew: timedelta
    renew_again: float

    @property
    def is_shared(self) -> bool:
        """Whether the store has this token; False for a token that was issued during an outage of the store."""
        return self.token.version is not None


@dataclass(slots=True)
class _Renewals:
    """The renewals of one process: the lock of the current renewal, and the error of the last failed renewal."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    failures: list[KisTokenError] = field(default_factory=list)


class TokenHolder:
    """Holds the token of one slot. The constructor makes no request. Every method may raise KisTokenError.

    Threads and forked processes may share a `TokenHolder`. A child process begins with its parent's token, and makes
    its own renewals.
    """

    def __init__(self, settings: Settings, clock: Clock) -> None:
        # The last choice is a token that has just expired, because KIS sometimes accepts an expired token.
        self._settings = replace(settings, mode="resolve", allow_expired=True)
        self._clock = clock
        self._app_key: AppKey | None = None
        self._held: Held | None = None
        self._renewals = PerProcess(_Renewals)

    def ready(self) -> Held:
        """Return the token for the next call. If the token expires soon, `ready` renews the token before it returns."""
        held = self._held
        if held is None:
            return self._once(None, lambda: self._resolve(self._settings))
        if self._is_usable(held):
            return held
        is_valid = held.token.is_valid(self._clock.now() + held.skew)
        # If several threads find a stale token, one thread renews the token. The other threads continue with the stale
        # token.
        return self._once(held, lambda: self._renew(held, is_valid=is_valid), waits=not is_valid)

    def at_hand(self) -> Held | None:
        """Return the token to use now; None if the method `ready` must make a request or wait for another thread."""
        held = self._held
        return held if held is not None and self._is_usable(held) else None

    def replace(self, refused: Held) -> Held:
        """Return a token in place of the rejected token: another caller's token, or a new token."""
        return self._once(refused, lambda: self._refresh(refused), rejected_id=refused.token.token_id)

    def refresh(self, *, force: bool) -> None:
        """Issue a new token although KIS has not rejected the present token.

        Without ``force``, raises TokenRefreshLimitError if the present token is less than 23 h old.
        """
        held = self.ready()
        limit = self._limit(held)
        if limit is not None and not force:
            raise limit
        settings = replace(self._settings, mode="force" if force else "rotate", refresh_after=REFRESH_AFTER)
        self._once(held, lambda: self._resolve(settings))

    def find_limit(self) -> TokenRefreshLimitError | None:
        """The error for a token that is less than 23 h old; None for an older token."""
        return self._limit(self.ready())

    def app_key(self) -> AppKey:
        """The account's app key and secret, from the store or, if the store has none, from the settings."""
        if self._app_key is not None:
            return self._app_key
        with self._open(self._settings) as resolver:
            view = resolver.look()
        if view.app_key is None and view.outage is not None:
            raise view.outage
        return self._remember(view.app_key)

    def _is_usable(self, held: Held) -> bool:
        """Whether the token needs no renewal now."""
        now = self._clock.now() + held.skew
        is_good = held.is_shared and held.token.state(now, self._settings.min_validity) is State.FRESH
        return is_good or self._clock.monotonic() < held.renew_again

    def _renew(self, held: Held, *, is_valid: bool) -> Held:
        try:
            return self._resolve(self._settings, held.replaces, held.token)
        except KisTokenError as error:
            if not is_valid:
                raise
            _LOG.warning("The token was not renewed: %s", error.advice)
            return self._with_pause(held, RENEW_AGAIN)

    def _refresh(self, refused: Held) -> Held:
        """Replace the rejected token ``refused``, with one read of the store and within the settings' timeout.

        If the store still has the rejected token, a new token is issued, even if the rejected token is less than 23 h
        old.
        """
        with self._open(self._settings) as resolver:
            view = resolver.look(refused.token.token_id)
            limit = self._limit(refused)
            if limit is not None and view.answer(self._settings.min_validity) is None:
                _LOG.warning("KIS rejects the token. %s. A new token is issued now.", limit.args[0])
            return self._hold(resolver.resolve(view), refused.token.token_id)

    def _limit(self, held: Held) -> TokenRefreshLimitError | None:
        """The error for a token that is less than 23 h old; None for an older token."""
        if self._clock.now() + held.skew - held.token.issued_at >= REFRESH_AFTER:
            return None
        message = f"The token was issued less than 23 h ago, at {in_both_zones(held.token.issued_at)}"
        return TokenRefreshLimitError("token-too-young", message, retryable=False)

    def _once(
        self, known: Held | None, renew: Callable[[], Held], *, waits: bool = True, rejected_id: str | None = None
    ) -> Held:
        """Return the token that replaces ``known``. All waiting threads share one renewal, and its error if it fails.

        Never returns the token with the fingerprint ``rejected_id``. If another thread is renewing the token and
        ``waits`` is False, returns ``known`` without a wait.
        """
        renewals = self._renewals.get()
        failures = renewals.failures
        if waits or known is None:
            renewals.lock.acquire()
        elif not renewals.lock.acquire(blocking=False):
            return known
        try:
            if self._held is not None and self._held is not known and self._held.token.token_id != rejected_id:
                return self._held
            if renewals.failures is not failures:
                raise renewals.failures[-1]
            try:
                self._held = renew()
            except KisTokenError as error:
                _log(error.warnings)
                renewals.failures = [error]
                raise
            return self._held
        finally:
            renewals.lock.release()

    def _resolve(self, settings: Settings, rejected_id: str | None = None, held: Token | None = None) -> Held:
        with self._open(settings) as resolver:
            return self._hold(resolver.resolve(resolver.look(rejected_id, held=held)), rejected_id)

    def _hold(self, resolution: Resolution, replaces: str | None) -> Held:
        _log(resolution.warnings)
        token, app_key = resolution.token, self._remember(resolution.app_key)
        is_fresh = token.state(resolution.now, self._settings.min_validity) is State.FRESH
        held = Held(token, app_key, replaces, resolution.now - self._clock.now(), self._clock.monotonic())
        if is_fresh and held.is_shared:
            return held
        return self._with_pause(held, SHARE_AGAIN if is_fresh else RENEW_AGAIN)

    def _remember(self, app_key: AppKey | None) -> AppKey:
        """Keep ``app_key`` in memory, because a caller cannot read an app key from Supabase in an outage."""
        app_key = app_key or self._app_key
        if app_key is None:
            message = f"KIS cannot be called: {self._settings.service_name} has no app key"
            raise IssuanceError("missing-app-key", message, retryable=False)
        self._app_key = app_key
        self._settings = replace(self._settings, app_key=app_key.key, app_secret=app_key.secret, keys_slot=app_key.slot)
        return app_key

    def _open(self, settings: Settings) -> AbstractContextManager[Resolver]:
        return open_resolver(settings, self._clock.monotonic(), _LOG.info, self._clock)

    def _with_pause(self, held: Held, seconds: float) -> Held:
        """Return a copy of ``held`` with a new ``renew_again``, about ``seconds`` from now.

        If ``held`` has a valid token, ``renew_again`` is at the latest the time at which this token becomes expired.
        """
        pause = self._clock.jitter(0.5 * seconds, 1.5 * seconds)
        left = held.token.remaining(self._clock.now() + held.skew) - LEAST_USEFUL
        if left > timedelta():
            pause = min(pause, left.total_seconds())
        return replace(held, renew_again=self._clock.monotonic() + pause)


def _log(warnings: tuple[str, ...]) -> None:
    for warning in warnings:
        _LOG.warning("%s", warning)
