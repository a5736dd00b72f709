"""The present time on the store's clock, and the tokens that the store reported as rejected during one call."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from datetime import datetime

    from kis_token.core.ports import Begun, Clock
    from kis_token.core.resolution import View


class StoreTime:
    """Keeps the times and the rejected tokens of the store's answers during one call, and updates views."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._times: tuple[datetime, datetime] | None = None
        self._rejected_ids: frozenset[str] = frozenset()

    def note(self, begun: Begun) -> None:
        """Note the time and the rejected tokens of an answer that has just arrived."""
        self._times = begun.server_now, self._clock.now()
        self._rejected_ids |= begun.rejected_token_ids

    def note_rejected(self, token_id: str) -> None:
        """Note that the store reports the token with this fingerprint as rejected."""
        self._rejected_ids |= {token_id}

    def update(self, view: View) -> View:
        """Return ``view`` at the store's present time, without the tokens that the store reports as rejected."""
        view = view.with_rejected(self._rejected_ids)
        if self._times is not None and not view.certain:
            view = view.with_time(*self._times)
        return view.as_of(self._clock.now())
