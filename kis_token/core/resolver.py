"""The chain: store → cache → issuance. Objects with the protocols of ``ports`` do all input and output.

`resolve` returns any usable token, with a warning if the renewal failed. `rotate` and `force` fail if the renewal
fails; the stored token is kept.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING

from kis_token.core.issuance import Issuance
from kis_token.core.issuance_without_store import issue_locally
from kis_token.core.lease import Leases
from kis_token.core.lookup import enough, look, may_issue_locally, not_due
from kis_token.core.resolution import Resolution, View, remember
from kis_token.core.retry import Retry
from kis_token.core.slot import check_owner
from kis_token.core.store_time import StoreTime
from kis_token.deadline import ISSUE_BUDGET
from kis_token.errors import (
    AppKeyChanged,
    EnvironmentFault,
    IssuanceError,
    KisTokenError,
    StoreError,
    StoreMisconfigured,
    StoreOutage,
    TokenError,
)
from kis_token.token import LEAST_USEFUL, AppKey

if TYPE_CHECKING:
    from collections.abc import Callable

    from kis_token.core.context import Context
    from kis_token.core.resolution import Source
    from kis_token.core.slot import Slot
    from kis_token.token import Token

#: For ``LONGEST_EXPIRED`` after the expiry time of a token, a caller with ``allow-expired`` can get the token. KIS
#: sometimes accepts an expired token.
LONGEST_EXPIRED = timedelta(hours=1)

#: If the slot's app key changes during the call, the slot is read at most this many times.
KEY_TRIES = 3


class Resolver:
    """Finds the one token of the slot, or issues a new token."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._settings = context.settings
        self._store_time = StoreTime(context.clock)
        self._leases = Leases(context)
        self._retry = Retry(context.clock, context.deadline.left, context.tell)

    def look(
        self, rejected_id: str | None = None, *, held: Token | None = None, read: Callable[[], Slot] | None = None
    ) -> View:
        """Read store and cache. The token with the fingerprint ``rejected_id`` is left out.

        ``held`` is a token that the caller has in memory. If ``read`` is given, ``look`` calls it in place of the
        request to the store. Raises StoreMisconfigured and TokenError.
        """
        context = self._context
        return look(
            self._settings,
            read or self._read,
            context.cache,
            context.vault,
            context.clock,
            retry=self._retry,
            rejected_id=rejected_id,
            held=held,
        )

    def resolve(self, view: View | None = None) -> Resolution:
        """Find or issue a token, as the mode of the settings requires. ``view`` is a recent result of `look`.

        Raises KisTokenError.
        """
        view = self.look() if view is None else self._look_again(view)
        try:
            resolution = self._find(view)
        except KisTokenError as error:
            resolution = self._expired(view, error)
        rejected_ids = view.rejected_ids | ({view.rejected_id} if view.rejected_id is not None else set())
        resolution = remember(self._context.cache, resolution, rejected_ids)
        if resolution.unstored is not None and self._settings.mode != "resolve":
            # A renewal is for all callers, so a renewal whose token is not stored fails. The next run stores the cached
            # token. The warning that repeats the raised error is left out.
            resolution.unstored.warn(text for text in resolution.warnings if resolution.unstored.brief not in text)
            raise resolution.unstored
        return resolution

    def _look_again(self, view: View) -> View:
        """If ``view`` shows an outage and has no token that the setting ``mode`` accepts, read the store once more."""
        is_served = self._settings.mode in ("resolve", "check") and view.at_hand() is not None
        if view.outage is None or is_served:
            return view
        try:
            slot = self._read_once()
        except StoreOutage as outage:
            return replace(view, outage=outage)
        return view if slot is None else self.look(view.rejected_id, read=lambda: slot)

    def _find(self, view: View, tries: int = KEY_TRIES) -> Resolution:
        try:
            return self._search(view, tries)
        except KisTokenError as error:
            error.warn(self._store_time.update(view).warnings)
            raise

    def _search(self, view: View, tries: int) -> Resolution:
        if view.outage is not None:
            return enough(view, self._settings) or self._without_store(view, view.outage)
        unshared = view.unshared_token()
        if unshared is not None and self._settings.mode != "check" and self._settings.saves:
            shared = self._share(view, unshared)
            if isinstance(shared, Resolution):
                return shared
            view = shared
        answer = enough(view, self._settings)
        if answer is not None:
            return answer
        try:
            return self._renew(view)
        except AppKeyChanged as change:
            # The call starts again with the slot's present keys, because the slot must not get a token of other keys.
            return self._find_again(view, tries - 1) if tries > 1 else self._fall_back(view, change)
        except KisTokenError as error:
            return self._fall_back(view, error)

    def _read(self) -> Slot:
        return self._context.store.read(self._settings.service_name)

    def _find_again(self, view: View, tries: int = KEY_TRIES, *, slot: Slot | None = None) -> Resolution:
        """Start the search again. If ``slot`` is given, it is used as the store's answer.

        No token is issued without the store, because the store has already answered in this call.
        """
        again = self.look(view.rejected_id, read=None if slot is None else lambda: slot)
        return self._find(again, tries) if again.outage is None else self._fall_back(again, again.outage)

    def _share(self, view: View, token: Token) -> View | Resolution:
        """Store a cached token that was issued without the store, in place of the older stored token.

        If the setting ``mode`` accepts the cached token, returns a `Resolution`. If the setting ``mode`` does not
        accept the cached token, returns the `View` with which `_search` continues.
        """
        replaced = view.stored.version if view.stored is not None else None
        try:
            self._leases.save(token, keys_version=view.keys_version, replaces_version=replaced)
        except StoreError as error:
            if self._settings.mode == "force":
                return view  # the renewal replaces the stored token and the cached one
            if self._settings.mode == "rotate":
                # The stored token is older than the cached token, so the age of the stored token does not show whether
                # a renewal is due.
                raise
            said = "The cached token is newer than the stored one, and could not be stored for other callers"
            return replace(view.resolution(token, "cache", warning=f"{said}: {error.brief}"), unstored=error)
        shared = self.look(view.rejected_id)
        if self._settings.mode != "resolve":
            return view if shared.outage is not None else shared
        if shared.outage is not None:
            return view.resolution(token, "cache")
        answer = enough(shared, self._settings)
        is_that = answer is not None and answer.token.token_id == token.token_id
        return replace(answer, source="cache") if answer is not None and is_that else shared

    def _renew(self, view: View) -> Resolution:
        if self._settings.reads_only:
            raise StoreMisconfigured("store-read-only", "A token has to be issued, but this supabase-key may only read")
        app_key, mode, stored = self._require_app_key(view), self._settings.mode, view.stored

        def issue(*, replaces: int | None = None) -> Resolution:
            return Issuance(self._context, self._store_time, view, app_key, replaces=replaces).run()

        if stored is None or mode == "resolve":
            return issue()
        if mode == "force" or view.is_surely_fresh(stored, LEAST_USEFUL):
            return issue(replaces=stored.version)
        # The store's time is not certain, so the database first checks the token and returns the database's time.
        judged = issue()
        if judged.token.version != stored.version:
            return judged
        answer = not_due(replace(view, now=judged.now), judged.token, self._settings)
        return answer or issue(replaces=stored.version)

    def _fall_back(self, view: View, error: KisTokenError) -> Resolution:
        """If the mode is `resolve` and ``view`` has a valid token, return it with a warning. Else raise ``error``."""
        if self._settings.mode != "resolve":
            raise error
        view = self._store_time.update(view)
        at_hand = view.at_hand()
        if at_hand is None:
            raise error
        return view.resolution(*at_hand, warning=f"The token was not renewed: {error.advice}")

    def _expired(self, view: View, error: KisTokenError) -> Resolution:
        """Return a token that has just expired, if the caller allows expired tokens. Otherwise raise ``error``."""
        view = self._store_time.update(view)
        if self._settings.allow_expired and self._settings.mode in ("resolve", "check"):
            found: tuple[tuple[Token | None, Source], ...] = ((view.stored, "supabase"), (view.cached, "cache"))
            for token, source in found:
                if token is None or token.is_valid(view.now) or token.remaining(view.now) <= -LONGEST_EXPIRED:
                    continue
                with suppress(TokenError):
                    check_owner(token, view.app_key, self._settings, "The token")
                    expired = view.resolution(token, source, warning=f"An expired token is handed out: {error.brief}")
                    return replace(expired, expired=True)
        raise error

    def _without_store(self, view: View, outage: StoreOutage) -> Resolution:
        """Return a valid token. If there is no valid token, issue a token without the store.

        A token is issued without the store only if the store has not answered at all during this call and the attribute
        ``doubtful`` of the outage is False. The attribute ``doubtful`` is True if certificates or a proxy of this
        machine may be the cause, or if a gateway answered with 3xx or 4xx.
        """
        try:
            return self._fall_back(view, outage)
        except StoreOutage:
            if view.app_key is None or outage.doubtful or not may_issue_locally(view, self._settings):
                raise
        left = self._context.deadline.left() - ISSUE_BUDGET
        if left < 0:
            raise IssuanceError(
                "wait-too-long", f"{outage.args[0]}, and there is too little time left to issue", retryable=True
            ) from outage
        try:
            with self._context.machine.lock(view.app_key.key_id, left):
                # The store is asked once more, because an outage can end while this caller installs packages and waits
                # for the machine's lock.
                slot = self._read_once()
                if slot is None:
                    return issue_locally(self._context, self._store_time.update(view), view.app_key, outage)
        except EnvironmentFault as fault:
            raise EnvironmentFault(fault.code, f"{outage.args[0]}, and no token is issued: {fault.args[0]}") from outage
        return self._find_again(view, slot=slot)

    def _read_once(self) -> Slot | None:
        """The slot; None after a StoreOutage with ``doubtful=False``. Raises a StoreOutage with ``doubtful=True``."""
        try:
            return self._read()
        except StoreOutage as outage:
            if outage.doubtful:
                raise
            return None

    def _require_app_key(self, view: View) -> AppKey:
        if view.app_key is None and view.hides_keys:
            message = "A token has to be issued, and the list of callers gives this job only the access token"
            raise StoreMisconfigured("caller-may-not", message)
        if view.app_key is None:
            service = self._settings.service_name
            raise IssuanceError(
                "missing-app-key", f"A token has to be issued, but {service} has no app key", retryable=False
            )
        return view.app_key
