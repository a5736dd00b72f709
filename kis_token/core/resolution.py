"""A token for the caller and how it was found, and the view of store and cache that leads to it."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import TYPE_CHECKING, Literal

from kis_token.errors import CacheError, KisTokenError, StoreOutage, TokenError
from kis_token.pasted_values import parse_claims
from kis_token.token import AppKey, State, Token, claimed_time

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import datetime

    from kis_token.core.ports import Cache
    from kis_token.errors import StoreError

#: A machine whose clock is further off than this is told so.
TOLERATED_SKEW = timedelta(minutes=2)

#: Where a token came from.
Source = Literal["supabase", "cache", "oauth"]


@dataclass(frozen=True, slots=True)
class TraceEntry:
    """One source of the chain and its finding, for people."""

    source: str
    text: str


@dataclass(frozen=True, slots=True)
class Resolution:
    """A token for the caller, and how it was come by.

    ``source`` is supabase, cache or oauth; ``refreshed`` says that KIS was asked and gave a new token; ``expired`` that
    the token is past its end (only where the caller allowed it); ``now`` is the time at which it was judged;
    ``unstored`` is why others cannot see it yet.
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

    ``stored`` and ``cached`` are tokens that can be used or were once; None where there is none. ``unusable_version``
    is the version of a token row that nobody can use. ``cache_fault`` is why the cached token is not this caller's: of
    another account, or sealed otherwise. ``keys_version`` is the version of the row with the app key, 0 when there is
    none. ``rejected_id`` is the fingerprint of the token that KIS has rejected for this caller, ``rejected_ids`` are
    those that the store remembers: wherever such a token is found, it counts as none. ``outage`` is why the store could
    not be asked. ``certain`` says that ``now`` is the store's time, ``skew`` how far it is ahead of this machine's.
    """

    now: datetime
    trace: tuple[TraceEntry, ...]
    app_key: AppKey | None = None
    stored: Token | None = None
    cached: Token | None = None
    unusable_version: int | None = None
    cache_fault: TokenError | None = None
    keys_version: int = 0
    rejected_id: str | None = None
    rejected_ids: frozenset[str] = frozenset()
    outage: StoreOutage | None = None
    skew: timedelta = timedelta()
    certain: bool = False
    warnings: tuple[str, ...] = ()

    def answer(self, min_validity: timedelta) -> Resolution | None:
        """A fresh stored token or, in an outage, any valid cached one; None when there is neither."""
        if self.stored is not None and self.is_surely_fresh(self.stored, min_validity):
            return self.resolution(self.stored, "supabase")
        if self.outage is not None and self.cached is not None and self.cached.is_valid(self.now):
            return self.resolution(self.cached, "cache", warning=f"{self.outage}; the cached token is used.")
        return None

    def is_surely_fresh(self, token: Token, min_validity: timedelta) -> bool:
        """Whether ``token`` is fresh by the store's time, and by this machine's as well.

        One of the two may be wrong: a machine's clock, or the Date of an answer that a proxy kept. Where they disagree
        on the token, the database has to be asked.
        """
        times = (self.now, self.now - self.skew)
        return self.certain and all(token.state(time, min_validity) is State.FRESH for time in times)

    def resolution(self, token: Token, source: Source, *, refreshed: bool = False, warning: str = "") -> Resolution:
        """Hand out ``token``, with the answers of all sources."""
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
        """Whether ``token`` is known to be rejected by KIS, or revoked."""
        return token.token_id == self.rejected_id or token.token_id in self.rejected_ids

    def at_hand(self) -> tuple[Token, Source] | None:
        """The longest-lived token that can still be used, and where it is from."""
        found: tuple[tuple[Token | None, Source], ...] = ((self.stored, "supabase"), (self.cached, "cache"))
        tokens = [(token, source) for token, source in found if token]
        best = max(tokens, key=lambda pair: pair[0].expires_at, default=None)
        return best if best is not None and best[0].is_valid(self.now) else None

    def unshared_token(self) -> Token | None:
        """The cached token, when it was issued after the stored one for the same app key: it may have ended that one.

        A machine that issued while the store did not answer has such a token, and the others do not. Only times that
        the tokens themselves claim count: the others may be nine hours off.
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
        """The same when this machine's clock shows ``machine_time``."""
        return replace(self, now=machine_time + self.skew)

    def with_time(self, server_now: datetime, machine_time: datetime) -> View:
        """The same with the store's time known, and a warning, once, when this machine's is far from it."""
        skew = server_now - machine_time
        view = replace(self, now=server_now, skew=skew, certain=True)
        if self.certain or abs(skew) <= TOLERATED_SKEW:
            return view
        direction = "behind" if skew > timedelta() else "ahead"
        return view.with_warning(f"This machine's clock is {int(abs(skew).total_seconds())} s {direction}.")

    def with_rejected(self, ids: frozenset[str]) -> View:
        """The same when the store remembers ``ids`` as well: a token that is among them counts as none from here on."""
        view = replace(self, rejected_ids=self.rejected_ids | ids)
        if view.cached is not None and view.rejects(view.cached):
            view = replace(view, cached=None)
        if view.stored is not None and view.rejects(view.stored):
            view = replace(view, stored=None, unusable_version=view.stored.version)
        return view

    def with_entry(self, source: str, text: str) -> View:
        """The same view with one more source's answer."""
        return replace(self, trace=(*self.trace, TraceEntry(source, text)))

    def with_warning(self, warning: str) -> View:
        """The same, with one more thing to warn of."""
        return replace(self, warnings=(*self.warnings, warning))


@contextmanager
def telling(view: View) -> Iterator[None]:
    """Have an error from the block bring the warnings of ``view`` with it."""
    try:
        yield
    except KisTokenError as error:
        error.warn(view.warnings)
        raise


def remember(cache: Cache | None, resolution: Resolution, rejected_ids: frozenset[str] = frozenset()) -> Resolution:
    """Keep a valid token for when the store is down. That it cannot be kept is a warning: there is a token.

    A cached token whose fingerprint is among ``rejected_ids`` gives way to any other.
    """
    if cache is None or resolution.expired:
        return resolution
    try:
        cache.write(resolution.token, rejected_ids=rejected_ids)
    except CacheError as error:
        warnings = dict.fromkeys((*resolution.warnings, f"{error}. {error.hint}"))  # once, however often it is tried
        return replace(resolution, warnings=tuple(warnings))
    return resolution
