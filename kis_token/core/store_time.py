"""Keeps the store's time and the store's list of rejected tokens, during one search for a token."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from datetime import datetime

    from kis_token.core.ports import Begun, Clock
    from kis_token.core.resolution import View


class StoreTime:
    """Remembers the store's time, and the tokens that the store reports as rejected.

    The time and the rejected tokens come from the store's answers. `update` adds the time and the rejected tokens to a
    `View`.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._times: tuple[datetime, datetime] | None = None
        self._rejected_ids: frozenset[str] = frozenset()

    def note(self, begun: Begun) -> None:
        """Remember the store's time and the rejected tokens that an answer of this moment contains."""
        self._times = begun.server_now, self._clock.now()
        self._rejected_ids |= begun.rejected_token_ids

    def note_rejected(self, token_id: str) -> None:
        """Add the fingerprint of a token that the store reports as rejected."""
        self._rejected_ids |= {token_id}

    def update(self, view: View) -> View:
        """Return ``view`` with the store's present time, without the tokens that the store reports as rejected."""
        view = view.with_rejected(self._rejected_ids)
        if self._times is not None and not view.certain:
            view = view.with_time(*self._times)
        return view.as_of(self._clock.now())
