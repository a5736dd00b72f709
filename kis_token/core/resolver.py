"""The chain: store → cache → a turn to issue. Policy alone; its parts are the protocols of ``ports``.

Who resolves wants a token: one that lives is never withheld because its renewal failed, but handed out with a warning.
Who rotates or forces wants a renewal: when it fails, that is an error, and the token that lives stays where it is.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING

from kis_token.core.issuance import Flight, hand_out_issued, issue
from kis_token.core.lease import MINUTE
from kis_token.core.lookup import enough, look, look_at_cache, may_issue_alone, not_due
from kis_token.core.resolution import Resolution, View, remember
from kis_token.core.retry import Retry
from kis_token.core.slot import check_owner
from kis_token.core.waiting import token_repeated
from kis_token.deadline import ISSUE_BUDGET
from kis_token.errors import (
    AppKeyChanged,
    EnvironmentFault,
    IssuanceError,
    IssuerOutage,
    IssuerRateLimited,
    KisTokenError,
    StoreError,
    StoreMisconfigured,
    StoreOutage,
    TokenError,
)
from kis_token.token import LEAST_USEFUL, AppKey, fingerprint

if TYPE_CHECKING:
    from collections.abc import Callable

    from kis_token.clock import Clock
    from kis_token.config import Settings
    from kis_token.core.ports import Cache, Issuer, Machine, Store, Vault
    from kis_token.core.resolution import Source
    from kis_token.core.slot import Slot
    from kis_token.token import Token

#: How long past its end a token may be handed out where the caller allows it: KIS accepts such now and then.
LONGEST_EXPIRED = timedelta(hours=1)

#: A note of this machine that holds its callers back for longer is none.
LONGEST_NOTE = timedelta(minutes=5)

#: How often a slot is read anew because its keys have changed.
KEY_TRIES = 3


class Resolver:
    """Finds or issues the one token.

    ``deadline`` is a reading of the clock's monotonic counter; ``tell`` gets the lines for people who wait.
    """

    def __init__(  # noqa: PLR0917 - a resolver is made in one place
        self,
        settings: Settings,
        store: Store,
        cache: Cache | None,
        machine: Machine,
        issuer: Issuer,
        vault: Vault,
        clock: Clock,
        deadline: float,
        tell: Callable[[str], None],
    ) -> None:
        self._settings = settings
        self._store = store
        self._cache = cache
        self._machine = machine
        self._issuer = issuer
        self._vault = vault
        self._clock = clock
        self._flight = Flight(settings, store, machine, issuer, vault, clock, deadline, tell)
        self._retry = Retry(clock, self._flight.left, tell)

    def look(
        self, refused_id: str | None = None, *, held: Token | None = None, read: Callable[[], Slot] | None = None
    ) -> View:
        """What store and cache hold now; a token with the fingerprint ``refused_id`` counts as none.

        ``held`` is a token that the caller has in memory, ``read`` another way to the slot than reading it. Raises
        StoreMisconfigured and TokenError.
        """
        return look(
            self._settings,
            read or self._read,
            self._cache,
            self._vault,
            self._clock,
            retry=self._retry,
            refused_id=refused_id,
            held=held,
        )

    def replace(self, refused: str) -> Resolution:
        """Another token than ``refused``, which KIS does not accept any more (EGW00121, EGW00122, EGW00123).

        One that somebody stored meanwhile is used as it is; only when there is none, KIS is asked, once among all who
        were refused. Raises KisTokenError; ``token-repeated`` when KIS gives the refused one again.
        """
        return self.resolve(self.look(fingerprint(refused)))

    def resolve(self, view: View | None = None) -> Resolution:
        """The token as the settings' mode asks for it; ``view`` is what a look has just shown. Raises KisTokenError."""
        view = self.look() if view is None else self._look_again(view)
        try:
            resolution = self._find(view)
        except KisTokenError as error:
            resolution = self._expired(view, error)
        rejected_ids = view.rejected_ids | ({view.refused_id} if view.refused_id is not None else set())
        resolution = remember(self._cache, resolution, rejected_ids)
        if resolution.unstored is not None and self._settings.mode != "resolve":
            # A renewal is for everybody; the next run stores what is cached. One of the warnings is the error itself.
            resolution.unstored.warn(text for text in resolution.warnings if f"{resolution.unstored}" not in text)
            raise resolution.unstored
        return resolution

    def _look_again(self, view: View) -> View:
        """Where ``view`` shows an outage that leaves the caller without a token: what the store answers by now."""
        is_served = self._settings.mode in ("resolve", "check") and view.at_hand() is not None
        if view.outage is None or is_served:
            return view
        try:
            slot = self._read_once()
        except StoreOutage as outage:
            return replace(view, outage=outage)
        return view if slot is None else self.look(view.refused_id, read=lambda: slot)

    def _find(self, view: View, tries: int = KEY_TRIES) -> Resolution:
        try:
            return self._search(view, tries)
        except KisTokenError as error:
            error.warn(self._flight.present(view).warnings)
            raise

    def _search(self, view: View, tries: int) -> Resolution:
        if view.outage is not None:
            return enough(view, self._settings) or self._without_store(view, view.outage)
        later = view.homecoming()
        if later is not None and self._settings.mode != "check" and not self._settings.reads_only:
            brought = self._bring_home(view, later)
            if isinstance(brought, Resolution):
                return brought
            view = brought
        answer = enough(view, self._settings)
        if answer is not None:
            return answer
        try:
            return self._renew(view)
        except AppKeyChanged as change:
            # Another account's token must not get into the slot: from the start, with the keys that are there now.
            return self._find_again(view, tries - 1) if tries > 1 else self._fall_back(view, change)
        except KisTokenError as error:
            return self._fall_back(view, error)

    def _read(self) -> Slot:
        return self._store.read(self._settings.service_name)

    def _find_again(self, view: View, tries: int = KEY_TRIES, *, slot: Slot | None = None) -> Resolution:
        """From the start, in a call in which the store has answered before: it is not out, so none is issued alone.

        ``slot`` is what it has just answered.
        """
        again = self.look(view.refused_id, read=None if slot is None else lambda: slot)
        return self._find(again, tries) if again.outage is None else self._fall_back(again, again.outage)

    def _bring_home(self, view: View, token: Token) -> View | Resolution:
        """Store a token that was issued without the store; how things stand then, or the token if that failed."""
        try:
            self._flight.bring_home(view, token)
        except StoreError as error:
            if self._settings.mode == "force":
                return view  # its renewal replaces both
            if self._settings.mode == "rotate":
                raise  # whether it is due cannot be judged by the older one
            warning = f"The cached token is newer than the stored one, and could not be stored for others: {error}"
            return replace(view.resolution(token, "cache", warning=warning), unstored=error)
        home = self.look(view.refused_id)
        if self._settings.mode != "resolve":
            return view if home.outage is not None else home
        if home.outage is not None:
            return view.resolution(token, "cache")
        answer = enough(home, self._settings)
        is_that = answer is not None and answer.token.token_id == token.token_id
        return replace(answer, source="cache") if answer is not None and is_that else home

    def _renew(self, view: View) -> Resolution:
        if self._settings.reads_only:
            raise StoreMisconfigured("store-read-only", "A token has to be issued, but this supabase-key may only read")
        app_key, mode, stored = self._require_app_key(view), self._settings.mode, view.stored
        if stored is None or mode == "resolve":
            return self._flight.run(view, app_key)
        if mode == "force" or view.is_surely_fresh(stored, LEAST_USEFUL):
            return self._flight.run(view, app_key, replaces=stored.version)
        # A rotation that is not sure of the time: what comes back was judged by the database, which tells its own.
        judged = self._flight.run(view, app_key)
        if judged.token.version != stored.version:
            return judged
        answer = not_due(replace(view, now=judged.now), judged.token, self._settings)
        return answer or self._flight.run(view, app_key, replaces=stored.version)

    def _fall_back(self, view: View, error: KisTokenError) -> Resolution:
        """A token that still lives, with a warning, for those who want a token; else the error."""
        if self._settings.mode != "resolve":
            raise error
        view = self._flight.present(view)
        at_hand = view.at_hand()
        if at_hand is None:
            raise error
        return view.resolution(*at_hand, warning=f"The token was not renewed: {error}. {error.hint}")

    def _expired(self, view: View, error: KisTokenError) -> Resolution:
        """A token that has just died, for those who want a token and allow it; else the error."""
        view = self._flight.present(view)
        if self._settings.allow_expired and self._settings.mode in ("resolve", "check"):
            found: tuple[tuple[Token | None, Source], ...] = ((view.stored, "supabase"), (view.cached, "cache"))
            for token, source in found:
                if token is None or token.lives(view.now) or token.remaining(view.now) <= -LONGEST_EXPIRED:
                    continue
                with suppress(TokenError):
                    check_owner(token, view.app_key, self._settings, "The token")
                    dead = view.resolution(token, source, warning=f"An expired token is handed out: {error}")
                    return replace(dead, expired=True)
        raise error

    def _without_store(self, view: View, outage: StoreOutage) -> Resolution:
        """A valid token or, as the last resort, one that is issued alone: single flight then ends at this machine.

        Only in a call in which the store has answered nothing at all, and not where this machine's certificates or
        proxy keep it from answering, or a gateway works and has refused the request (3xx, 4xx).
        """
        try:
            return self._fall_back(view, outage)
        except StoreOutage:
            if view.app_key is None or outage.doubtful or not may_issue_alone(view, self._settings):
                raise
        left = self._flight.left() - ISSUE_BUDGET
        if left < 0:
            raise IssuanceError(
                "wait-too-long", f"{outage.args[0]}, and there is too little time left to issue", retryable=True
            ) from outage
        try:
            with self._machine.lock(view.app_key.key_id, left):
                # The store may be back after the time that building the runtime and the lock have taken.
                slot = self._read_once()
                if slot is None:
                    return self._issue_alone(view, view.app_key, outage)
        except EnvironmentFault as fault:
            raise EnvironmentFault(fault.code, f"{outage.args[0]}, and no token is issued: {fault.args[0]}") from outage
        return self._find_again(view, slot=slot)

    def _read_once(self) -> Slot | None:
        """The slot, or None when the store does not answer. Raises StoreOutage where that is doubtful."""
        try:
            return self._read()
        except StoreOutage as outage:
            if outage.doubtful:
                raise
            return None

    def _issue_alone(self, view: View, app_key: AppKey, outage: StoreOutage) -> Resolution:
        """A token that another of this machine's callers has just cached, else one tokenP call. Under the lock."""
        view = self._flight.present(view)
        if self._cache is not None:
            view = look_at_cache(view, self._cache, self._settings)
            if view.cached is not None and view.cached.lives(view.now):
                return view.resolution(view.cached, "cache", warning=f"{outage}; the cached token is used.")
            if view.cache_fault is not None:
                raise view.cache_fault from outage
        key_id, noted = app_key.key_id, self._machine.not_before(app_key.key_id)
        wait = noted - self._clock.now() if noted is not None else timedelta()
        # A note that lies further ahead was made by a clock that was wrong.
        if timedelta() < wait < LONGEST_NOTE:
            said = (
                f"because of a call or a lease of a moment ago nobody on this machine asks KIS for {wait.seconds + 1} s"
            )
            raise IssuerRateLimited("kis-rate-limited", f"{outage.args[0]}, and {said}")

        def may_send() -> bool:
            self._machine.hold_back(key_id, self._clock.now() + MINUTE)
            return True

        may_send()  # before the connection as well: a call that cannot be noted is not made
        try:
            token = issue(self._issuer, app_key, view.now, may_send)
        except IssuerOutage as error:
            if not error.sent:
                self._machine.hold_back(key_id, noted or self._clock.now())
            raise
        except IssuerRateLimited as error:
            raise IssuerRateLimited(error.code, f"{outage.args[0]}, and {error.args[0]}") from error
        if view.rejects(token):
            raise token_repeated(token) from outage
        what = (
            "a token was issued that other machines do not see"
            if token.is_new(view.now)
            else "KIS gave its token again"
        )
        resolution = hand_out_issued(view, token, warning=f"{outage}; {what}.")
        return remember(self._cache, resolution)  # while the lock is held

    def _require_app_key(self, view: View) -> AppKey:
        if view.app_key is None:
            service = self._settings.service_name
            raise IssuanceError(
                "missing-app-key", f"A token has to be issued, but {service} has no app key", retryable=False
            )
        return view.app_key
