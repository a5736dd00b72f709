"""`Resolution`, the token for the caller, and `View`, the contents of store and cache at one moment."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta

from kis_token.errors import CacheError, KisTokenError, StoreOutage, TokenError
from kis_token.settings.pasted_values import parse_claims
from kis_token.token import AppKey, State, Token, claimed_time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import datetime
    from typing import Literal

    from kis_token.core.ports import Cache
    from kis_token.errors import StoreError

    #: The source of a token.
    Source = Literal["supabase", "cache", "oauth"]

#: The largest difference between the clocks of machine and store that causes no warning.
TOLERATED_SKEW = timedelta(minutes=2)


@dataclass(frozen=True, slots=True)
class TraceEntry:
    """One source of the chain and the result of asking it, as text for logs."""

    source: str
    text: str


@dataclass(frozen=True, slots=True)
class Resolution:
    """A token for the caller, and how it was found.

    ``refreshed`` is True if KIS was called and gave a new token. ``expired`` is True if the token has expired; only a
    caller that allows expired tokens gets such a token. The state of the token (fresh, stale or expired) is its state
    at the time ``now``. If the token could not be stored for other callers, ``unstored`` is the error.
    """

    token: Token
    source: Source
    app_key: AppKey | None
    trace: tuple[TraceEntry, ...]
    now: datetime
    refreshed: bool = False
    expired: bool = False
    warnings: tuple[str, ...] = ()
    unstored: StoreError | None = None


@dataclass(frozen=True, slots=True)
class View:
    """The contents of store and cache at one moment.

    A `View` never contains a rejected token.

    Attributes:
        now: the time of the contents, by the store's clock if ``certain`` is True.
        trace: the sources that were asked, and the result of asking each.
        app_key: the app key and secret that the caller uses.
        stored: the token of the store, valid or expired; None if the store has no token.
        cached: the token of the cache, valid or expired; None if the cache has no token.
        unusable_version: the version of the store's token row, if no caller can use the token in that row.
        cache_fault: the reason why this caller may not use the cached token: the token belongs to another account, or
            the settings do not allow this caller to unseal the token.
        keys_version: the version of the app_key row; 0 if the slot has no app_key row.
        hides_keys: True if the store does not let this caller read the app_key row.
        rejected_id: the fingerprint of the token that KIS has rejected for this caller.
        rejected_ids: the fingerprints of the tokens that the store remembers as rejected.
        outage: the reason why the store could not be read.
        skew: the time by which the store's clock is ahead of this machine's clock.
        certain: True if the attribute ``now`` is the store's time.
        warnings: the texts that the caller shows to the user.
    """

    now: datetime
    trace: tuple[TraceEntry, ...]
    app_key: AppKey | None = None
    stored: Token | None = None
    cached: Token | None = None
    unusable_version: int | None = None
    cache_fault: TokenError | None = None
    keys_version: int = 0
    hides_keys: bool = False
    rejected_id: str | None = None
    rejected_ids: frozenset[str] = frozenset()
    outage: StoreOutage | None = None
    skew: timedelta = timedelta()
    certain: bool = False
    warnings: tuple[str, ...] = ()

    def answer(self, min_validity: timedelta) -> Resolution | None:
        """A fresh stored token or, in an outage of the store, a valid cached token; None without such a token."""
        if self.stored is not None and self.is_surely_fresh(self.stored, min_validity):
            return self.resolution(self.stored, "supabase")
        if self.outage is not None and self.cached is not None and self.cached.is_valid(self.now):
            return self.resolution(self.cached, "cache", warning=f"{self.outage.brief}; the cached token is used.")
        return None

    def is_surely_fresh(self, token: Token, min_validity: timedelta) -> bool:
        """Whether ``token`` is fresh both by the store's time and by this machine's time.

        The machine's clock may be wrong, or a proxy may have cached the store's Date header. If the token is fresh by
        the store's time but not by this machine's time, or the reverse, the caller must ask the database.
        """
        times = (self.now, self.now - self.skew)
        return self.certain and all(token.state(time, min_validity) is State.FRESH for time in times)

    def resolution(self, token: Token, source: Source, *, refreshed: bool = False, warning: str = "") -> Resolution:
        """Return ``token`` as the caller's result, with the trace and the warnings of this `View`."""
        return Resolution(
            token=token,
            source=source,
            app_key=self.app_key,
            trace=self.trace,
            now=self.now,
            refreshed=refreshed,
            warnings=(*self.warnings, *([warning] if warning else [])),
        )

    def rejects(self, token: Token) -> bool:
        """Whether KIS has rejected ``token``, or the store remembers it as rejected or revoked."""
        return token.token_id == self.rejected_id or token.token_id in self.rejected_ids

    def at_hand(self) -> tuple[Token, Source] | None:
        """The valid token that expires last, and its source; None without a valid token."""
        found: tuple[tuple[Token | None, Source], ...] = ((self.stored, "supabase"), (self.cached, "cache"))
        tokens = [(token, source) for token, source in found if token]
        best = max(tokens, key=lambda pair: pair[0].expires_at, default=None)
        return best if best is not None and best[0].is_valid(self.now) else None

    def unshared_token(self) -> Token | None:
        """The cached token, if it was issued after the stored token for the same app key; None otherwise.

        When KIS issued the cached token, KIS possibly made the stored token invalid. A machine that issued a token
        during an outage of the store has a cached token that is newer than the stored token. The times of
        issue are read only from the claims of the two tokens, and not from a column of the table. If the type of a
        column has no time zone, a time in the column may be wrong by nine hours.
        """
        cached, stored = self.cached, self.stored
        if cached is None or stored is None or not cached.is_valid(self.now):
            return None
        issued, before = (claimed_time(parse_claims(each.value), "iat") for each in (cached, stored))
        if issued is None or before is None or issued <= before or cached.expires_at <= stored.expires_at:
            return None
        owner = stored.app_key_id or (self.app_key.key_id if self.app_key is not None else None)
        return cached if cached.app_key_id is not None and cached.app_key_id == owner else None

    def as_of(self, machine_time: datetime) -> View:
        """Return a copy of this `View` for the moment when this machine's clock shows ``machine_time``."""
        return replace(self, now=machine_time + self.skew)

    def with_time(self, server_now: datetime, machine_time: datetime) -> View:
        """Return a copy of this `View` with the store's time, and a warning if the clocks differ by over 2 minutes."""
        skew = server_now - machine_time
        view = replace(self, now=server_now, skew=skew, certain=True)
        if self.certain or abs(skew) <= TOLERATED_SKEW:
            return view
        direction = "behind" if skew > timedelta() else "ahead"
        return view.with_warning(f"This machine's clock is {int(abs(skew).total_seconds())} s {direction}.")

    def with_rejected(self, ids: frozenset[str]) -> View:
        """Return a copy of this `View` without the rejected tokens, which have the fingerprints ``ids``."""
        view = replace(self, rejected_ids=self.rejected_ids | ids)
        if view.cached is not None and view.rejects(view.cached):
            view = replace(view, cached=None)
        if view.stored is not None and view.rejects(view.stored):
            view = replace(view, stored=None, unusable_version=view.stored.version)
        return view

    def with_entry(self, source: str, text: str) -> View:
        """Return a copy of this `View` with one more entry in its trace."""
        return replace(self, trace=(*self.trace, TraceEntry(source, text)))

    def with_warning(self, warning: str) -> View:
        """Return a copy of this `View` with one more warning."""
        return replace(self, warnings=(*self.warnings, warning))


@contextmanager
def telling(view: View) -> Iterator[None]:
    """If the ``with`` block raises a KisTokenError, add the warnings of the `View` to the error."""
    try:
        yield
    except KisTokenError as error:
        error.warn(view.warnings)
        raise


def remember(cache: Cache | None, resolution: Resolution, rejected_ids: frozenset[str] = frozenset()) -> Resolution:
    """Cache a valid token for the next outage. If the token cannot be cached, add a warning; no error is raised.

    A cached token whose fingerprint is among ``rejected_ids`` is replaced by any other token.
    """
    if cache is None or resolution.expired:
        return resolution
    try:
        cache.write(resolution.token, rejected_ids=rejected_ids)
    except CacheError as error:
        warnings = dict.fromkeys((*resolution.warnings, error.advice))  # if two writes fail, the warning appears once
        return replace(resolution, warnings=tuple(warnings))
    return resolution
