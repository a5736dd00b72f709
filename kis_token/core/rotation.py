"""When a token is due for renewal by the nightly job. Consumers never ask this: they renew what is stale."""

from __future__ import annotations

from datetime import datetime, time, timedelta
from typing import TYPE_CHECKING

from kis_token.token import KST, REISSUE_WINDOW

if TYPE_CHECKING:
    from kis_token.token import Token

#: The Korean session is over: a token has to last until here, or be renewed the night before.
EVENING = time(20, 0)


def due_at(token: Token, refresh_after: timedelta) -> datetime:
    """From when a rotation renews ``token``, in UTC.

    When it is older than ``refresh_after``; or when KIS would give a new one (it is older than 6 hours) and it will
    have lapsed by the next 20:00 Korea time. A first issue at 10:30 would otherwise lapse in market hours every day.
    """
    end = token.expires_at.astimezone(KST)
    evening = datetime.combine(end.date(), EVENING, KST)
    last_evening = evening if evening <= end else evening - timedelta(days=1)
    lapses = max(token.issued_at + REISSUE_WINDOW, last_evening)
    return min(token.issued_at + refresh_after, lapses).astimezone(token.expires_at.tzinfo)
