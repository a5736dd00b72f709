"""This caller's side of the lease: asking for a turn to issue and giving it back, also when an answer is lost.

A turn is one attempt, with a holder id of its own. `begin` and `commit` are idempotent: after a lost answer the caller
repeats the call with the same arguments and gets the same answer.
"""

from __future__ import annotations

import uuid
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

from kis_token.core.retry import Patience, Retry, at_most, briefly, to_the_end
from kis_token.errors import KisTokenError, StoreMisconfigured, StoreOutage

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

    from kis_token.clock import Clock
    from kis_token.config import Settings
    from kis_token.core.ports import Begun, Committed, Store, Vault
    from kis_token.token import AppKey, Token

#: KIS allows one call a minute; a second more for its clock.
MINUTE = timedelta(seconds=61)

#: From asking for a turn to sending tokenP. With 70 s between turns, two calls are more than a minute apart.
LONGEST_START = timedelta(seconds=5)

#: Seconds for which a caller that may hold a lease without knowing it asks for the answer again, and those that it then
#: waits before it begins anew: together about the 60 s that a lease lasts. The database decides.
LONGEST_UNKNOWN, LAPSE = 50.0, 12.0

#: Seconds for which a token is tried to be stored: about as long as the lease lasts.
COMMIT_PATIENCE = 45.0

#: Seconds for which a rotation tries to store a token that was issued without the store.
SAVE_PATIENCE = 20.0

#: Seconds for which a lease is tried to be given back: it lapses by itself.
ABORT_PATIENCE = 3.0


@dataclass(frozen=True, slots=True)
class Turn:
    """A granted turn, and when it was asked for: by the wall clock and by the monotonic counter."""

    holder: str
    fence: int
    asked_at: datetime
    asked_counter: float


class Lease:
    """One slot's lease, as one caller uses it. ``deadline`` is a reading of the clock's monotonic counter."""

    def __init__(  # noqa: PLR0917 - made in one place
        self,
        settings: Settings,
        store: Store,
        vault: Vault,
        clock: Clock,
        deadline: float,
        tell: Callable[[str], None],
    ) -> None:
        self._settings = settings
        self._service = settings.service_name
        self._store = store
        self._vault = vault
        self._clock = clock
        self._deadline = deadline
        self._tell = tell
        self._retry = Retry(clock, self.left, tell)

    def left(self) -> float:
        """Seconds until the deadline."""
        return self._deadline - self._clock.monotonic()

    def begin(
        self,
        app_key: AppKey,
        *,
        keys_version: int,
        rejected_version: int | None,
        rejected_token_id: str | None,
        has_token: Callable[[], bool],
    ) -> tuple[Begun, Turn | None]:
        """Ask for a turn: the answer, and the turn when it was granted. Raises StoreError.

        A caller whose request may have arrived may hold a lease: it asks again, in the same words, until the answer is
        there. When that takes as long as a lease lasts it lets that one lapse and begins anew, while it has the time. A
        caller that has a token at hand (``has_token``) does not wait for any of this.
        """

        def send(holder: str) -> Begun:
            return self._store.begin(
                self._service,
                holder,
                self._settings.label,
                app_key,
                min_remaining=self._settings.min_validity,
                rejected_version=rejected_version,
                rejected_token_id=rejected_token_id,
                keys_version=keys_version,
            )

        while True:
            try:
                return self._begin(send, has_token)
            except StoreOutage as outage:
                if not outage.retryable or has_token() or self.left() < LAPSE:
                    raise
            self._clock.sleep(LAPSE)

    def _begin(self, send: Callable[[str], Begun], has_token: Callable[[], bool]) -> tuple[Begun, Turn | None]:
        """The same with one holder."""
        holder = str(uuid.uuid4())
        asked: list[tuple[datetime, float]] = []  # when requests began of which one may have been granted

        def ask() -> Begun:
            asked.append((self._clock.now(), self._clock.monotonic()))
            try:
                return send(holder)
            except StoreMisconfigured:
                asked.pop()  # refused, so nothing was granted
                raise
            except StoreOutage as outage:
                if not outage.sent:
                    asked.pop()
                raise

        def patience() -> Patience:
            if has_token():
                return briefly
            if not asked:
                return to_the_end
            unknown_since = asked[0][1]
            return lambda _, left: min(unknown_since + LONGEST_UNKNOWN - self._clock.monotonic(), to_the_end(0.0, left))

        try:
            begun = self._retry.run(ask, patience)
        except StoreOutage as outage:
            outage.sent = bool(asked)
            raise
        if begun.status != "granted" or begun.fence is None:
            return begun, None
        return begun, Turn(holder, begun.fence, *asked[0])

    def is_late(self, turn: Turn) -> bool:
        """Whether tokenP may not be called in this turn any more.

        A suspended machine wakes up with a turn that is over: of wall and counter the larger counts.
        """
        passed = timedelta(seconds=self._clock.monotonic() - turn.asked_counter)
        return max(self._clock.now() - turn.asked_at, passed) > LONGEST_START

    def commit(self, turn: Turn, token: Token, *, rejected: bool) -> Committed:
        """Store ``token`` and end the turn; tried again while the store is out. Raises StoreError.

        Where no repetition helps the turn ends all the same, with the reason: no other caller waits for it any longer.
        """
        stored_form = self._sealed(token)  # once: no two seals are alike

        def send() -> Committed:
            return self._store.commit(self._service, turn.holder, turn.fence, token, stored_form, rejected=rejected)

        try:
            return self._retry.run(send, lambda: at_most(COMMIT_PATIENCE, to_the_end))
        except StoreMisconfigured as error:
            self.abort(turn, error.code, MINUTE)
            raise

    def abort(self, turn: Turn, code: str, cooldown: timedelta = timedelta(), *, refused: str | None = None) -> None:
        """End the turn without a token. Never raises: a turn that is not given back lapses."""

        def send() -> None:
            self._store.abort(
                self._service,
                turn.holder,
                turn.fence,
                cooldown=cooldown,
                error_code=code,
                refused_credential_id=refused,
            )

        try:
            self._retry.run(send, lambda: at_most(ABORT_PATIENCE, to_the_end))
        except KisTokenError as error:
            self._tell(f"The turn could not be given back and lapses by itself: {error}")

    def offer(self, token: Token, *, keys_version: int, replaces_version: int | None = None) -> None:
        """Store ``token`` outside of any turn where it is of use to others. Never raises: nobody depends on it."""
        with suppress(KisTokenError):
            self.save(token, keys_version=keys_version, replaces_version=replaces_version)

    def save(self, token: Token, *, keys_version: int, replaces_version: int | None = None) -> None:
        """The same for those who depend on it. Raises StoreError."""
        stored_form = self._sealed(token)

        def send() -> None:
            self._store.save(
                self._service, token, stored_form, replaces_version=replaces_version, keys_version=keys_version
            )

        # A caller that resolves has the token at hand; a rotation needs it stored.
        self._retry.run(
            send, lambda: briefly if self._settings.mode == "resolve" else at_most(SAVE_PATIENCE, to_the_end)
        )

    def _sealed(self, token: Token) -> str:
        return self._vault.seal(token.to_json(), self._service, "access_token")
