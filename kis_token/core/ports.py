"""The interfaces that the chain needs: a store, a cache, an issuer and others.

The chain works with any implementation of the interfaces in this module.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager
    from datetime import datetime, timedelta

    from kis_token.core.slot import Slot
    from kis_token.token import AppKey, Token


class Clock(Protocol):
    """A source of time."""

    def now(self) -> datetime:
        """The present time by the machine's clock, aware, in UTC."""

    def monotonic(self) -> float:
        """A number of seconds that never decreases.

        The number itself has no meaning, but the difference of two readings is a time.
        """

    def sleep(self, seconds: float) -> None:
        """Wait for ``seconds``."""

    def jitter(self, low: float, high: float) -> float:
        """A random number of seconds from ``low`` to ``high``, so that callers do not act at the same moment."""


#: The statuses in the answers of `Store.begin` and `Store.commit`. Each status has one name in Python
#: and in the functions of sql/.
BeginStatus = Literal["granted", "fresh", "busy", "conflict", "changed"]
CommitStatus = Literal["committed", "unchanged", "fenced"]


@dataclass(frozen=True, slots=True)
class Begun:
    """The answer to a request for the lease.

    ``status`` is one of these:

    - granted: call tokenP once, then commit or abort with ``fence``.
    - fresh: ``value`` is a usable token.
    - busy: another caller has the lease, and ``holder_label`` names that caller. If ``holder_label`` is None, no caller
      gets the lease before ``retry_at``.
    - conflict: another slot, which ``holder_label`` names, has a valid token of the same app key.
    - changed: the slot's keys differ from the caller's keys.

    ``rejected_token_ids`` are the fingerprints of the tokens that the slot remembers as rejected. All times are by the
    store's clock.
    """

    status: BeginStatus
    server_now: datetime
    version: int | None = None
    fence: int | None = None
    value: str | None = field(default=None, repr=False)
    expires_at: str | None = None
    retry_at: datetime | None = None
    holder_label: str | None = None
    last_error: str | None = None
    rejected_token_ids: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Committed:
    """The answer to a commit.

    ``status`` is one of these:

    - committed: the token was stored.
    - unchanged: nothing was written, because the token was stored before or is rejected.
    - fenced: nothing was written, because the lease's fence is old. ``value`` is the stored value.

    ``is_rejected`` is True if the slot remembers the token as rejected, even if the caller did not know it.
    """

    status: CommitStatus
    version: int | None = None
    value: str | None = field(default=None, repr=False)
    expires_at: str | None = None
    is_rejected: bool = False


class Store(Protocol):
    """The shared store. Every call may raise StoreOutage and StoreMisconfigured."""

    def read(self, service_name: str) -> Slot:
        """Return all active rows of a slot and its rejected tokens, in one request."""

    def begin(
        self,
        service_name: str,
        holder: str,
        label: str,
        app_key: AppKey,
        *,
        min_remaining: timedelta,
        rejected_version: int | None = None,
        rejected_token_id: str | None = None,
        keys_version: int | None = None,
    ) -> Begun:
        """Ask for the lease. ``holder`` is a new UUID for each attempt.

        If the lease is granted, the slot remembers the token ``rejected_token_id`` as rejected, until that token
        expires. ``keys_version`` is the version of the app_key row that the caller has read; 0 if the slot had no such
        row.
        """

    def commit(
        self, service_name: str, holder: str, fence: int, token: Token, stored_form: str, *, rejected: bool
    ) -> Committed:
        """Store the token of a lease and end the lease. The caller may repeat the call with the same arguments.

        ``rejected`` is True if KIS rejected the token that ``token`` replaces.
        """

    def save(
        self,
        service_name: str,
        token: Token,
        stored_form: str,
        *,
        replaces_version: int | None = None,
        keys_version: int | None = None,
    ) -> bool:
        """Store a token without a lease. Returns False if the slot remembers the token as rejected.

        A rejected token is not stored. If the stored token expires later than ``token``, and its row does not have the
        version ``replaces_version``, the stored token is kept. If the app_key row no longer has the version
        ``keys_version``, nothing is stored.
        """

    def abort(
        self,
        service_name: str,
        holder: str,
        fence: int,
        *,
        cooldown: timedelta,
        error_code: str,
        refused_credential_id: str | None = None,
    ) -> None:
        """End a lease without storing a token. Until the time ``cooldown`` has passed, no caller gets a lease.

        For 15 minutes, no caller gets a lease with the key and secret ``refused_credential_id``.
        """


class Vault(Protocol):
    """Seals values for the store, and unseals them."""

    def unseal(self, text: str, service_name: str, credential_type: str) -> str:
        """Return the value of a stored text. Raises TokenError if the text must not or cannot be unsealed."""

    def seal(self, value: str, service_name: str, credential_type: str) -> str:
        """Return the text to store."""


class CacheReader(Protocol):
    """The cache, as a caller reads it."""

    def read(self) -> Token:
        """Return the cached token, valid or expired. Raises TokenError with the reason if there is no token."""


class Cache(CacheReader, Protocol):
    """The cache, as a caller reads and writes it."""

    def write(self, token: Token, *, rejected_ids: frozenset[str] = frozenset()) -> None:
        """Cache a token. Raises CacheError.

        If the cached token expires later than ``token``, and its fingerprint is not among ``rejected_ids``, the cached
        token is kept.
        """


class Machine(Protocol):
    """Coordinates this user's processes on one machine. Every call may raise EnvironmentFault."""

    def lock(self, app_key_id: str, seconds: float) -> AbstractContextManager[None]:
        """Hold the lock that a caller on this machine needs to issue without the store.

        Raises IssuanceError if another caller still has the lock after ``seconds``.
        """

    def not_before(self, app_key_id: str) -> datetime | None:
        """The time before which no caller on this machine issues without the store; None if no time is stored."""

    def hold_back(self, app_key_id: str, until: datetime) -> None:
        """Store ``until`` on this machine, so that `not_before` returns ``until``."""


class TooLate(Exception):
    """The issuer was ready to send the tokenP request, but ``may_send`` returned False. Nothing was sent."""


class Issuer(Protocol):
    """Issues and verifies tokens of KIS."""

    def issue(self, app_key: AppKey, now: datetime, may_send: Callable[[], bool] | None = None) -> Token:
        """Call tokenP once. Raises IssuerRefused, IssuerRateLimited and IssuerOutage.

        ``may_send`` is called right before the request is sent, after slow steps such as connecting. Raises TooLate if
        ``may_send`` returns False. After TooLate, the connection is kept, so that the next call is sent at once.
        """

    def verify(self, token: Token, app_key: AppKey) -> str | None:
        """KIS's code if the API rejects ``token``; None if the API accepts ``token``.

        Raises IssuerOutage if the call failed.
        """
