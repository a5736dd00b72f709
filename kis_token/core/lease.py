"""A caller's side of the lease: ask for the lease, store a token with the lease, or end the lease without storing one.

Each attempt has its own holder id. `begin` and `commit` are idempotent: after a lost response the caller repeats the
call with the same arguments.
"""

from __future__ import annotations

import uuid
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

from kis_token.core.retry import Retry, RetryTime, at_most, briefly, to_the_end
from kis_token.core.slot import TOKEN_TYPE
from kis_token.errors import KisTokenError, StoreMisconfigured, StoreOutage

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

    from kis_token.core.context import Context
    from kis_token.core.ports import Begun, Committed
    from kis_token.token import AppKey, Token

#: The least time between two tokenP calls. KIS allows one call a minute; one second is added because KIS's clock may
#: differ.
CALL_INTERVAL = timedelta(seconds=61)

#: The longest time from the request for the lease to the tokenP call. The store grants the next lease at the earliest
#: 70 s after the previous grant. If the holder aborts its lease, the store grants the next lease at the earliest
#: ``cooldown`` (an argument of `Store.abort`) after the abort. Therefore, two tokenP calls with one app key are more
#: than a minute apart.
LONGEST_START = timedelta(seconds=5)

#: If a response was lost, the caller may hold a lease without knowing it. After a lost response, the caller repeats the
#: request for LONGEST_UNKNOWN seconds, and waits LAPSE seconds before it asks for a new lease. LONGEST_UNKNOWN plus
#: LAPSE is a little longer than a lease, which lasts 60 s by the database's clock.
LONGEST_UNKNOWN, LAPSE = 50.0, 12.0

#: For this many seconds, a caller tries to store a token that KIS has just issued. The lease lasts 60 s.
COMMIT_RETRY_TIME = 45.0

#: For this many seconds, a rotation tries to store a token that was issued without the store.
SAVE_RETRY_TIME = 20.0

#: For this many seconds, a caller tries to end its lease. A lease that the caller cannot end lapses later.
ABORT_RETRY_TIME = 3.0


@dataclass(frozen=True, slots=True)
class Lease:
    """A granted lease, and the time when the caller asked for it: by the wall clock and by the monotonic counter."""

    holder: str
    fence: int
    asked_at: datetime
    asked_counter: float


class Leases:
    """Asks for leases of one slot, and ends them, for one caller."""

    def __init__(self, context: Context) -> None:
        self._settings = context.settings
        self._service = context.settings.service_name
        self._store = context.store
        self._vault = context.vault
        self._clock = context.clock
        self._deadline = context.deadline
        self._tell = context.tell
        self._retry = Retry(context.clock, context.deadline.left, context.tell)

    def begin(
        self,
        app_key: AppKey,
        *,
        keys_version: int,
        rejected_version: int | None,
        rejected_token_id: str | None,
        has_token: Callable[[], bool],
    ) -> tuple[Begun, Lease | None]:
        """Ask for the lease. Returns the answer, and the lease if the store granted a lease. Raises StoreError.

        If a request got no answer but may have reached the store, the same request is repeated until an answer comes.
        If no answer comes within the time that a lease lasts, and the deadline is not near, a new lease is requested.
        If ``has_token`` returns True, the request is repeated for less than a second.
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
                if not outage.retryable or has_token() or self._deadline.left() < LAPSE:
                    raise
            self._clock.sleep(LAPSE)

    def _begin(self, send: Callable[[str], Begun], has_token: Callable[[], bool]) -> tuple[Begun, Lease | None]:
        """Do one attempt of `begin`, with its own holder id."""
        holder = str(uuid.uuid4())
        asked: list[tuple[datetime, float]] = []  # the start times of the requests that may have reached the store

        def ask() -> Begun:
            asked.append((self._clock.now(), self._clock.monotonic()))
            try:
                return send(holder)
            except StoreMisconfigured:
                asked.pop()  # the store answered with an error, so it granted no lease
                raise
            except StoreOutage as outage:
                if not outage.sent:
                    asked.pop()
                raise

        def retry_time() -> RetryTime:
            if has_token():
                return briefly
            if not asked:
                return to_the_end
            unknown_since = asked[0][1]
            return lambda _, left: min(unknown_since + LONGEST_UNKNOWN - self._clock.monotonic(), to_the_end(0.0, left))

        try:
            begun = self._retry.run(ask, retry_time)
        except StoreOutage as outage:
            outage.sent = bool(asked)
            raise
        if begun.status != "granted" or begun.fence is None:
            return begun, None
        return begun, Lease(holder, begun.fence, *asked[0])

    def is_late(self, lease: Lease) -> bool:
        """Whether the caller requested this lease more than ``LONGEST_START`` ago, and so must not call tokenP.

        The time is measured with the wall clock and with the monotonic counter, and the longer of the two times is
        used. On some systems, the counter stops while the machine is suspended.
        """
        passed = timedelta(seconds=self._clock.monotonic() - lease.asked_counter)
        return max(self._clock.now() - lease.asked_at, passed) > LONGEST_START

    def commit(self, lease: Lease, token: Token, *, rejected: bool) -> Committed:
        """Store ``token`` and end the lease. In an outage, the request is repeated. Raises StoreError.

        If the store cannot store the token, the lease ends with the code of this error, so that no other caller waits
        for the token.
        """
        stored_form = self._sealed(token)  # sealing twice gives two texts, but repeated requests must be equal

        def send() -> Committed:
            return self._store.commit(self._service, lease.holder, lease.fence, token, stored_form, rejected=rejected)

        try:
            return self._retry.run(send, lambda: at_most(COMMIT_RETRY_TIME, to_the_end))
        except StoreMisconfigured as error:
            self.abort(lease, error.code, CALL_INTERVAL)
            raise

    def abort(self, lease: Lease, code: str, cooldown: timedelta = timedelta(), *, refused: str | None = None) -> None:
        """End the lease without storing a token. For ``cooldown``, no caller gets a lease. A failure is only logged.

        ``refused`` is the id of an app key and secret that KIS has refused.
        """

        def send() -> None:
            self._store.abort(
                self._service,
                lease.holder,
                lease.fence,
                cooldown=cooldown,
                error_code=code,
                refused_credential_id=refused,
            )

        try:
            self._retry.run(send, lambda: at_most(ABORT_RETRY_TIME, to_the_end))
        except KisTokenError as error:
            self._tell(f"The lease could not be ended and lapses by itself: {error.brief}")

    def offer(self, token: Token, *, keys_version: int, replaces_version: int | None = None) -> None:
        """Store ``token`` without a lease, for other callers.

        A failure raises no error, because this caller already has the token.
        """
        with suppress(KisTokenError):
            self.save(token, keys_version=keys_version, replaces_version=replaces_version)

    def save(self, token: Token, *, keys_version: int, replaces_version: int | None = None) -> None:
        """Store ``token`` without a lease. Raises StoreError.

        A stored token with the version ``replaces_version`` is replaced even if it expires later than ``token``.
        """
        stored_form = self._sealed(token)

        def send() -> None:
            self._store.save(
                self._service, token, stored_form, replaces_version=replaces_version, keys_version=keys_version
            )

        # In the mode `resolve`, the caller already has the token. A rotation must get the token into the store.
        self._retry.run(
            send, lambda: briefly if self._settings.mode == "resolve" else at_most(SAVE_RETRY_TIME, to_the_end)
        )

    def _sealed(self, token: Token) -> str:
        return self._vault.seal(token.to_json(), self._service, TOKEN_TYPE)
