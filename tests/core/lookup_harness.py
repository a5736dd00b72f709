"""A store and a cache with given answers, at noon."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING

from kis_token.core.lookup import look
from kis_token.core.retry import Retry
from kis_token.core.slot import PlainVault, Row, Slot
from kis_token.errors import KisTokenError, StoreOutage, TokenUnusable
from tests.support import APP_KEY, make_settings, make_token

if TYPE_CHECKING:
    from collections.abc import Callable

    from kis_token.config import Settings
    from kis_token.core.resolution import View
    from kis_token.token import AppKey, Token


NOON = datetime(2026, 3, 2, 12, 0, tzinfo=timezone.utc)
HOUR = timedelta(hours=1)
TEN_MINUTES = timedelta(minutes=10)
OUTAGE = StoreOutage("store-unreachable", "Supabase does not answer")


class StillClock:
    """A clock that always shows noon plus ``wrong_by``."""

    def __init__(self, wrong_by: timedelta = timedelta()) -> None:
        self.wrong_by = wrong_by

    def now(self) -> datetime:
        """Noon, as this machine's clock shows it."""
        return NOON + self.wrong_by

    def monotonic(self) -> float:
        """A counter that does not change."""
        return 0.0

    def sleep(self, seconds: float) -> None:
        """Return at once."""

    def jitter(self, low: float, high: float) -> float:
        """The middle of the range."""
        return (low + high) / 2


#: The retries of a caller that has no time left: it repeats no call.
NO_RETRY = Retry(StillClock(), lambda: 0.0, print)


class HeldCache:
    """A cache with one token. Without a token, `read` raises TokenUnusable."""

    def __init__(self, token: Token | None = None) -> None:
        self.token = token

    def read(self) -> Token:
        """Return the token."""
        if self.token is None:
            raise TokenUnusable("there is no cache file")
        return self.token


def token_with(left: timedelta, key: AppKey = APP_KEY) -> Token:
    """A token that ends ``left`` after noon."""
    return make_token(key.key, left=left, age=timedelta(hours=24) - left, now=NOON)


def slot_of(token: Token | None, *, keys: AppKey | None = APP_KEY, date: datetime | None = NOON) -> Slot:
    """A slot as the store returns it, with the rows of ``token`` and ``keys``."""
    rows = {}
    if token is not None:
        rows["access_token"] = Row(token.to_json(), token.expires_at.isoformat(), 7)
    if keys is not None:
        rows |= {"app_key": Row(keys.key, None, 1), "app_secret": Row(keys.secret, None, 2)}
    return Slot(rows, date)


def answering(answer: Slot | KisTokenError) -> Callable[[], Slot]:
    """A read function of a store that returns or raises ``answer``."""

    def read() -> Slot:
        if isinstance(answer, KisTokenError):
            raise answer
        return answer

    return read


def seen(
    answer: Slot | KisTokenError,
    cached: Token | None = None,
    settings: Settings | None = None,
    wrong_by: timedelta = timedelta(),
) -> View:
    """The view that results from this answer of the store and this cached token."""
    return look(
        settings or make_settings(),
        answering(answer),
        HeldCache(cached),
        PlainVault(),
        StillClock(wrong_by),
        retry=NO_RETRY,
    )


def said(view: View) -> list[tuple[str, str]]:
    """The source and text of each entry of the trace."""
    return [(entry.source, entry.text) for entry in view.trace]
