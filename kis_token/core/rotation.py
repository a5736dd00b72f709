"""When a token is due for renewal by the nightly job. Other callers do not use this: they renew a stale token."""

from __future__ import annotations

from datetime import datetime, time, timedelta
from typing import TYPE_CHECKING

from kis_token.token import KST, REISSUE_WINDOW

if TYPE_CHECKING:
    from kis_token.token import Token

#: The end of the Korean trading day. A token must be valid until then, or be renewed the night before.
EVENING = time(20, 0)


def due_at(token: Token, refresh_after: timedelta) -> datetime:
    """The time from which a rotation renews ``token``, in UTC.

    A token is due when it is older than ``refresh_after``. It is also due when it is older than 6 hours, so that KIS
    gives a new one, and expires before the next 20:00 Korea time. Without the second rule, a token issued at 10:30
    would expire in market hours every day.
    """
    end = token.expires_at.astimezone(KST)
    evening = datetime.combine(end.date(), EVENING, KST)
    last_evening = evening if evening <= end else evening - timedelta(days=1)
    lapses = max(token.issued_at + REISSUE_WINDOW, last_evening)
    return min(token.issued_at + refresh_after, lapses).astimezone(token.expires_at.tzinfo)
