"""What the chain needs of the world: a store, a cache, an issuer. Anything that keeps these promises will do."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager
    from datetime import datetime, timedelta

    from kis_token.core.slot import Slot
    from kis_token.token import AppKey, Token


#: The answers to begin and to commit, as the functions of sql/ give them.
BeginStatus = Literal["granted", "fresh", "busy", "conflict", "changed"]
CommitStatus = Literal["committed", "unchanged", "fenced"]


@dataclass(frozen=True, slots=True)
class Begun:
    """The answer to asking for a turn to issue.

    ``status`` is granted (call tokenP once, then commit or abort with ``fence``), fresh (``value`` is a token to use),
    busy (``holder_label`` has the turn; or nobody may have it before ``retry_at``), conflict (the slot ``holder_label``
    issues with the same app key) or changed (the slot has other keys than the caller's). ``rejected_token_ids`` are the
    fingerprints of the tokens that the slot remembers as rejected. Times are the store's.
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

    ``status`` is committed, unchanged (that very token was stored already, or is a rejected one: nothing was written)
    or fenced (nothing was stored; ``value`` is what is there). ``is_rejected`` says that the token is known to be
    rejected, also when the caller has not heard of it before.
    """

    status: CommitStatus
    version: int | None = None
    value: str | None = field(default=None, repr=False)
    expires_at: str | None = None
    is_rejected: bool = False


class Store(Protocol):
    """The shared store. Every call raises StoreOutage and StoreMisconfigured."""

    def read(self, service_name: str) -> Slot:
        """All active rows of a slot and the tokens that it remembers as rejected, in one request."""

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
        """Ask for a turn. ``holder`` is a fresh UUID for each attempt.

        With the turn, the slot remembers the token ``rejected_token_id`` as rejected, until it ends.
        ``keys_version`` is the version of the app_key row the caller has seen, 0 when there was none.
        """

    def commit(
        self, service_name: str, holder: str, fence: int, token: Token, stored_form: str, *, rejected: bool
    ) -> Committed:
        """Store the token of a turn and end it. May be repeated with the same arguments.

        ``rejected`` says that KIS refused the token that was to be replaced.
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
        """Store a token outside of any turn, unless one that lives longer and is not that version is there.

        Nothing is stored either when the app_key row is not of ``keys_version`` any more. A token that the slot
        remembers as rejected is not stored, and the answer is False.
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
        """End a turn without a token; nobody gets one for ``cooldown``, nor that credential for 15 minutes."""


class Vault(Protocol):
    """Turns stored text into a value and back."""

    def open(self, text: str, service_name: str, credential_type: str) -> str:
        """The value. Raises TokenError when it may not or cannot be read."""

    def seal(self, value: str, service_name: str, credential_type: str) -> str:
        """The text to store."""


class CacheReader(Protocol):
    """The local file, for those who only look."""

    def read(self) -> Token:
        """The cached token, whatever its age. Raises TokenError with the reason when there is none."""


class Cache(CacheReader, Protocol):
    """The local file."""

    def write(self, token: Token, *, rejected_ids: frozenset[str] = frozenset()) -> None:
        """Keep a token, also in the place of a longer-lived one that is rejected. Raises CacheError."""


class Machine(Protocol):
    """This user's processes on one machine, for one app key. Every call may raise EnvironmentFault."""

    def lock(self, app_key_id: str, seconds: float) -> AbstractContextManager[None]:
        """Keep out the others that want to issue without the store. Raises IssuanceError after ``seconds``."""

    def not_before(self, app_key_id: str) -> datetime | None:
        """Before when nobody here asks KIS without the store; None when nothing is noted."""

    def hold_back(self, app_key_id: str, until: datetime) -> None:
        """Note that."""


class TooLate(Exception):
    """The issuer was ready to send when `may_send` said no. Nothing was sent."""


class Issuer(Protocol):
    """KIS."""

    def issue(self, app_key: AppKey, now: datetime, may_send: Callable[[], bool] | None = None) -> Token:
        """One tokenP call. Raises IssuerRefused, IssuerRateLimited and IssuerOutage.

        ``may_send`` is asked right before the call leaves, after all that takes time, such as connecting. When it says
        no, raises TooLate. The connection is kept, so that the next call leaves at once.
        """

    def verify(self, token: Token, app_key: AppKey) -> str | None:
        """The code that speaks against the token, if any. Raises IssuerOutage when the try did not work."""
