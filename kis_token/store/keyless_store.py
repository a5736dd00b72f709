"""The shared store for a job without a key: the reads and the lease, with an ID token in place of the key."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from kis_token.errors import StoreMisconfigured
from kis_token.store.keyless import read_issuer_keys, read_keyless
from kis_token.store.slot_query import READ_SECONDS
from kis_token.store.supabase import SupabaseStore

if TYPE_CHECKING:
    from collections.abc import Callable

    from kis_token.core.retry import Retry
    from kis_token.core.slot import Slot
    from kis_token.store.function_call import RpcAnswer
    from kis_token.store.id_token import IDTokens


class KeylessStore(SupabaseStore):
    """The shared store for a job that sends ID tokens. ``key`` is the project's public key."""

    def __init__(
        self, url: str, key: str, id_tokens: IDTokens, *, left: Callable[[], float], retry: Retry | None = None
    ) -> None:
        super().__init__(url, key, left=left, retry=retry)
        self._id_tokens = id_tokens

    def read(self, service_name: str) -> Slot:
        """The rows that the list of callers allows this job to read."""
        return self._repeat(
            lambda: read_keyless(self._wire, self._key, self._id_tokens, service_name, self._left), READ_SECONDS
        )

    def issuer_keys(self, service_name: str) -> tuple[str, frozenset[str]]:
        """The issuer of this job's ID tokens, and the names of the issuer's keys that the database has."""
        return self._repeat(
            lambda: read_issuer_keys(self._wire, self._key, self._id_tokens, service_name, self._left), READ_SECONDS
        )

    def _ask_about_lease(self, step: Literal["begin", "commit", "abort"], **arguments: Any) -> RpcAnswer:  # noqa: ANN401 - the arguments are passed on
        arguments.pop("label", None)  # the database takes the caller's label from the claims of the ID token
        # Each call gets a new ID token, because begin accepts an ID token only once and only for 120 s.
        return self._ask(f"keyless_{step}", **arguments, id_token=self._id_tokens.get())

    def save(self, *_: object, **__: object) -> bool:
        """Raises StoreMisconfigured, because a job without a key may store a token only with a lease."""
        raise StoreMisconfigured("store-read-only", "A job without a key can store a token only with a lease")
