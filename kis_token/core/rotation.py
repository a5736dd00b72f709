"""The time when the nightly rotation renews a token. Callers outside of the rotation renew a token once it is stale."""

from __future__ import annotations

from datetime import datetime, time, timedelta

from kis_token.token import KST, REISSUE_WINDOW

TYPE_CHECKING = False
if TYPE_CHECKING:
    from kis_token.token import Token

#: The end of the Korean trading day. A token must be valid until the end of the trading day, or be renewed the night
#: before.
EVENING = time(20, 0)


def due_at(token: Token, refresh_after: timedelta) -> datetime:
    """The time from which a rotation renews ``token``, in UTC.

    If one of these conditions is true, a rotation renews the token:

    - The token is older than ``refresh_after``.
    - The token is older than 6 hours and expires before the next 20:00 Korea time. For a token of less than 6 hours, a
      renewal gives the same token again.

    Without the condition about 20:00, a token that is issued at 10:30 would expire in market hours every day.
    """
    end = token.expires_at.astimezone(KST)
    evening = datetime.combine(end.date(), EVENING, KST)
    last_evening = evening if evening <= end else evening - timedelta(days=1)
    lapses = max(token.issued_at + REISSUE_WINDOW, last_evening)
    return min(token.issued_at + refresh_after, lapses).astimezone(token.expires_at.tzinfo)
