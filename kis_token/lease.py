"""This caller's side of the lease: asking for a turn to issue and giving it back, also when an answer is lost.

A turn is one attempt, with a holder id of its own. Who repeats begin or commit with the same arguments is told the same
again, so a lost answer costs a second request and nothing else.
"""

from __future__ import annotations

import uuid
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

from kis_token.errors import KisTokenError, StoreOutage

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

    from kis_token.clock import Clock
    from kis_token.config import Settings
    from kis_token.ports import Begun, Committed, Store
    from kis_token.sealing import Vault
    from kis_token.token import AppKey, Token

#: From asking for a turn to sending tokenP. With 70 s between turns, two calls are more than a minute apart.
LONGEST_START = timedelta(seconds=5)

_COMMIT_TRIES = 4


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

    def left(self) -> float:
        """Seconds until the deadline."""
        return self._deadline - self._clock.monotonic()

    def begin(
        self, app_key: AppKey, *, keys_version: int, rejected_version: int | None, rejected_token_id: str | None
    ) -> tuple[Begun, Turn | None]:
        """Ask for a turn: the answer, and the turn when it was granted. Raises StoreError."""
        holder, asked_at, asked_counter = str(uuid.uuid4()), self._clock.now(), self._clock.monotonic()

        def ask() -> Begun:
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

        try:
            begun = ask()
        except StoreOutage:
            # The lost answer may have been a grant, or that another holds it: only the store knows.
            self._pause()
            begun = ask()
        if begun.status != "granted" or begun.fence is None:
            return begun, None
        return begun, Turn(holder, begun.fence, asked_at, asked_counter)

    def is_late(self, turn: Turn) -> bool:
        """Whether tokenP may not be called in this turn any more.

        A suspended machine wakes up with a turn that is over: of wall and counter the larger counts.
        """
        passed = timedelta(seconds=self._clock.monotonic() - turn.asked_counter)
        return max(self._clock.now() - turn.asked_at, passed) > LONGEST_START

    def commit(self, turn: Turn, token: Token, *, rejected: bool) -> Committed:
        """Store ``token`` and end the turn; tried again while the store is out. Raises StoreError."""
        stored_form = self._sealed(token)  # once: no two seals are alike

        def send() -> Committed:
            return self._store.commit(self._service, turn.holder, turn.fence, token, stored_form, rejected=rejected)

        for _ in range(_COMMIT_TRIES - 1):
            with suppress(StoreOutage):
                return send()
            if self.left() < 1:
                break
            self._pause()
        return send()

    def abort(self, turn: Turn, code: str, cooldown: timedelta = timedelta(), *, refused: str | None = None) -> None:
        """End the turn without a token. Never raises: a turn that is not given back lapses."""
        try:
            self._store.abort(
                self._service,
                turn.holder,
                turn.fence,
                cooldown=cooldown,
                error_code=code,
                refused_credential_id=refused,
            )
        except KisTokenError as error:
            self._tell(f"The turn could not be given back and lapses by itself: {error}")

    def offer(self, token: Token, *, keys_version: int, replaces_version: int | None = None) -> None:
        """Store ``token`` outside of any turn where it is of use to others. Never raises: nobody depends on it."""
        with suppress(KisTokenError):
            self._store.save(
                self._service,
                token,
                self._sealed(token),
                replaces_version=replaces_version,
                keys_version=keys_version,
            )

    def _sealed(self, token: Token) -> str:
        return self._vault.seal(token.to_json(), self._service, "access_token")

    def _pause(self) -> None:
        self._clock.sleep(self._clock.jitter(0.2, 1.0))
