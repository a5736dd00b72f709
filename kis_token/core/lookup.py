"""The first two links of the chain, judged: what the store has, what the cache has, and whether that is enough.

Reads and decides; writes nothing. The fast path is this alone, the resolver starts with it.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import TYPE_CHECKING

from kis_token.core.app_keys import given_app_key, origin, stored_app_key
from kis_token.core.retry import LONGEST_PATIENCE, at_most, briefly, patiently, to_the_end
from kis_token.errors import IssuanceError, KisTokenError, StoreOutage, TokenError
from kis_token.token import (
    LEAST_USEFUL,
    AppKey,
    State,
    Token,
    claimed_time,
    in_both_zones,
    in_hours,
    parse_stored,
)
from kis_token.values import parse_claims

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from datetime import datetime

    from kis_token.clock import Clock
    from kis_token.config import Settings
    from kis_token.core.ports import CacheReader
    from kis_token.core.retry import Patience, Retry
    from kis_token.errors import StoreError
    from kis_token.store.rest import Slot
    from kis_token.store.sealing import Vault

#: A machine whose clock is further off than this is told so.
TOLERATED_SKEW = timedelta(minutes=2)

#: A token so much older than the rotation's due age tells that the rotation has not run.
ROTATION_GRACE = timedelta(hours=2)

_REJECTED = "its token is one that KIS rejects"


@dataclass(frozen=True, slots=True)
class Link:
    """What one link of the chain said, for people."""

    name: str
    said: str


@dataclass(frozen=True, slots=True)
class Resolution:
    """A token for the caller, and how it was come by.

    ``source`` is supabase, cache or oauth; ``refreshed`` says that KIS was asked and gave a new token; ``expired`` that
    the token is past its end (only where the caller allowed it); ``now`` is the time at which it was judged;
    ``unstored`` is why others cannot see it yet.
    """

    token: Token
    source: str
    app_key: AppKey | None
    links: tuple[Link, ...]
    now: datetime
    refreshed: bool = False
    expired: bool = False
    warnings: tuple[str, ...] = ()
    unstored: StoreError | None = None


@dataclass(frozen=True, slots=True)
class View:
    """What store and cache hold at one moment.

    ``stored`` and ``cached`` are tokens that can be used or were once; None where there is none. ``unusable_version``
    is the version of a token row that nobody can use. ``cache_fault`` is why the cached token is not this caller's: of
    another account, or sealed otherwise. ``keys_version`` is the version of the row with the app key, 0 when there is
    none. ``refused_id`` is the fingerprint of the token that KIS has rejected for this caller, ``rejected_ids`` are
    those that the store remembers: wherever such a token is found, it counts as none. ``outage`` is why the store could
    not be asked. ``certain`` says that ``now`` is the store's time, ``skew`` how far it is ahead of this machine's.
    """

    now: datetime
    links: tuple[Link, ...]
    app_key: AppKey | None = None
    stored: Token | None = None
    cached: Token | None = None
    unusable_version: int | None = None
    cache_fault: TokenError | None = None
    keys_version: int = 0
    refused_id: str | None = None
    rejected_ids: frozenset[str] = frozenset()
    outage: StoreOutage | None = None
    skew: timedelta = timedelta()
    certain: bool = False
    warnings: tuple[str, ...] = ()

    def answer(self, min_validity: timedelta) -> Resolution | None:
        """What can be handed out as things stand: a fresh stored token or, in an outage, any cached one that lives."""
        if self.stored is not None and self.is_surely_fresh(self.stored, min_validity):
            return self.resolution(self.stored, "supabase")
        if self.outage is not None and self.cached is not None and self.cached.lives(self.now):
            return self.resolution(self.cached, "cache", warning=f"{self.outage}; the cached token is used.")
        return None

    def is_surely_fresh(self, token: Token, min_validity: timedelta) -> bool:
        """Whether ``token`` is fresh by the store's time, and by this machine's as well.

        One of the two may be wrong: a machine's clock, or the Date of an answer that a proxy kept. Where they disagree
        on the token, the database has to be asked.
        """
        times = (self.now, self.now - self.skew)
        return self.certain and all(token.state(time, min_validity) is State.FRESH for time in times)

    def resolution(self, token: Token, source: str, *, refreshed: bool = False, warning: str = "") -> Resolution:
        """Hand out ``token``, with what the links said."""
        return Resolution(
            token=token,
            source=source,
            app_key=self.app_key,
            links=self.links,
            now=self.now,
            refreshed=refreshed,
            warnings=(*self.warnings, *([warning] if warning else [])),
        )

    def rejects(self, token: Token) -> bool:
        """Whether ``token`` is known to be rejected by KIS, or revoked."""
        return token.token_id == self.refused_id or token.token_id in self.rejected_ids

    def at_hand(self) -> tuple[Token, str] | None:
        """The longest-lived token that can still be used, and where it is from."""
        tokens = [(token, source) for token, source in ((self.stored, "supabase"), (self.cached, "cache")) if token]
        best = max(tokens, key=lambda pair: pair[0].expires_at, default=None)
        return best if best is not None and best[0].lives(self.now) else None

    def homecoming(self) -> Token | None:
        """The cached token, when it was issued after the stored one for the same app key: it may have ended that one.

        A machine that issued while the store did not answer has such a token, and the others do not. Only times that
        the tokens themselves claim count: the others may be nine hours off.
        """
        cached, stored = self.cached, self.stored
        if cached is None or stored is None or not cached.lives(self.now):
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

    def with_link(self, name: str, said: str) -> View:
        """The same, and what a further link said."""
        return replace(self, links=(*self.links, Link(name, said)))

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


def look(
    settings: Settings,
    read: Callable[[], Slot],
    cache: CacheReader | None,
    vault: Vault,
    clock: Clock,
    *,
    retry: Retry,
    refused_id: str | None = None,
    held: Token | None = None,
) -> View:
    """Ask store and cache. ``refused_id`` is the fingerprint of a token that KIS has refused.

    ``held`` is a token that the caller has in memory: it stands in for the cached one where the cache has none. A read
    that fails is repeated, briefly when there is a valid token at hand that would do, and patiently otherwise.

    Raises StoreMisconfigured, and TokenError for values that are sealed, not sealed or of another account against what
    the settings say. A token row that is merely broken is not an error: it is replaced.
    """
    given = given_app_key(settings)
    view = View(now=clock.now(), links=(), app_key=given, refused_id=refused_id, warnings=settings.notes)

    present = view  # what patience has seen last: a caller that gives up for a cached token gets that very one

    def patience() -> Patience:
        nonlocal present
        present = _with_cached(view.as_of(clock.now()), cache, settings, held)
        would_do = settings.mode in ("resolve", "check")  # a renewal needs the store
        if would_do and present.at_hand() is not None:
            return briefly
        return patiently if may_issue_alone(present, settings) else at_most(LONGEST_PATIENCE, to_the_end)

    try:
        slot = retry.run(read, patience)
    except StoreOutage as outage:
        return replace(present, outage=outage, links=(Link("supabase", f"{outage}"), *present.links))
    return _with_cached(_judge_slot(view.as_of(clock.now()), slot, settings, vault), cache, settings, held)


def _with_cached(view: View, cache: CacheReader | None, settings: Settings, held: Token | None) -> View:
    view = view.with_link("cache", "turned off") if cache is None else look_at_cache(view, cache, settings)
    if held is None or view.cached is not None or view.rejects(held):
        return view
    return replace(view, cached=held).with_link("memory", describe(held, view.now, settings.min_validity))


def may_issue_alone(view: View, settings: Settings) -> bool:
    """Whether this caller may issue a token where the store does not answer at all."""
    is_told_to = settings.on_store_outage == "issue" and settings.mode == "resolve"
    # Without keys: they may well be where nobody can read them now. A read-only key could never store the token.
    return is_told_to and view.app_key is not None and not settings.reads_only


def look_at_cache(view: View, cache: CacheReader, settings: Settings) -> View:
    """The same with what the cache holds now, if it is of use."""
    view = replace(view, cached=None, cache_fault=None)
    try:
        cached = cache.read()
        if view.rejects(cached):
            return view.with_link("cache", _REJECTED)
        if cached.lives(view.now):
            check_owner(cached, view.app_key, settings, "The cached token")
    except TokenError as error:
        fault = None if error.code == "token-unusable" else error
        return replace(view, cache_fault=fault).with_link("cache", f"{error.args[0]}")
    return replace(view, cached=cached).with_link("cache", describe(cached, view.now, settings.min_validity))


def enough(view: View, settings: Settings) -> Resolution | None:
    """What can be handed out without issuing or storing anything; None when there is more to do.

    For resolve a fresh token, for rotate one that is not due yet, for check any that lives: check never issues, and
    raises IssuanceError ``no-valid-token`` instead.
    """
    later = view.homecoming()
    if later is not None and settings.mode == "resolve" and settings.reads_only:
        return view.resolution(later, "cache", warning="The cached token is newer than the stored one.")
    if later is not None and settings.mode != "check":
        return None  # it has to get into the store first
    if settings.mode == "resolve":
        return view.answer(settings.min_validity)
    if settings.mode == "check":
        at_hand = view.at_hand()
        if at_hand is None and view.outage is not None:
            raise view.outage
        if at_hand is None:
            said = "; ".join(f"{link.name}: {link.said}" for link in view.links)
            message = f"Neither Supabase nor the cache has a valid token ({said})"
            raise IssuanceError("no-valid-token", message, retryable=False)
        warning = "" if view.certain else "Supabase did not say what time it is; this machine's clock was believed."
        return view.resolution(*at_hand, warning=warning)
    if settings.mode != "rotate" or view.stored is None or not view.is_surely_fresh(view.stored, LEAST_USEFUL):
        return None
    return not_due(view, view.stored, settings)


def not_due(view: View, token: Token, settings: Settings) -> Resolution | None:
    """The token, when a rotation has nothing to do yet; None when it has."""
    from kis_token.core.rotation import due_at

    due = due_at(token, settings.refresh_after)
    if view.now >= due:
        return None
    return view.with_link("rotation", f"not due before {in_both_zones(due)}").resolution(token, "supabase")


def judge_row(view: View, slot: Slot, settings: Settings, vault: Vault) -> tuple[Token | None, int | None, str]:
    """The slot's token, or the version of a row that cannot be used, or neither; and that in words.

    Raises TokenError for what a new token would not mend.
    """
    row = slot.rows.get("access_token")
    if row is None:
        return None, None, "no token is stored"
    if row.is_empty:
        return None, row.version, "the stored token is empty"
    text = vault.open(row.value, settings.service_name, "access_token")
    try:
        token = parse_stored(text, column=row.expires_at, version=row.version)
    except TokenError as error:
        return None, row.version, f"{error.args[0]}"
    if view.with_rejected(slot.rejected).rejects(token):
        return None, row.version, _REJECTED
    if token.lives(view.now):
        check_owner(token, view.app_key, settings, f"The token of {settings.service_name}")
    return token, None, describe(token, view.now, settings.min_validity)


def describe(token: Token, now: datetime, min_validity: timedelta) -> str:
    """A token's state in words."""
    state = token.state(now, min_validity)
    if state is State.EXPIRED:
        return "its token has expired"
    life = f"{in_hours(token.remaining(now))} left"
    return f"its token is fresh, {life}" if state is State.FRESH else f"its token is valid, but only {life}"


def check_owner(token: Token, app_key: AppKey | None, settings: Settings, what: str) -> None:
    """Raise TokenError for another account's token.

    It must not be replaced by a new one as if there were none: two fleets would replace each other's for ever.
    """
    if app_key is not None and token.app_key_id not in (None, app_key.key_id):
        raise TokenError("token-of-another-key", f"{what} belongs to another app key than the one {origin(app_key)}")
    if token.environment not in (None, settings.environment):
        raise TokenError("token-of-another-environment", f"{what} is not one for {settings.environment}")


def _judge_slot(view: View, slot: Slot, settings: Settings, vault: Vault) -> View:
    if slot.server_now is not None:
        # Freshness is judged by the store's clock: this machine's may be hours off.
        view = view.with_time(slot.server_now, view.now)
    view = view.with_rejected(slot.rejected)
    if "app_key" in slot.rows:
        view = replace(view, keys_version=slot.rows["app_key"].version)
    with telling(view):
        stored = stored_app_key(slot, settings, vault)
    if stored is not None:
        if view.app_key not in (None, stored) and settings.keys_slot is None:
            view = view.with_warning(
                f"app-key and app-secret are not those stored for {settings.service_name}, which count. If they are "
                "the newer ones, store them with kis-token set-keys."
            )
        view = replace(view, app_key=stored)
    with telling(view):
        token, unusable_version, said = judge_row(view, slot, settings, vault)
    view = replace(view, stored=token, unusable_version=unusable_version).with_link("supabase", said)
    return _warn_of_rotation(view, token, settings) if token is not None else view


def _warn_of_rotation(view: View, token: Token, settings: Settings) -> View:
    age = view.now - token.issued_at
    if settings.mode != "resolve" or not view.certain or age <= settings.refresh_after + ROTATION_GRACE:
        return view
    hours = int(age / timedelta(hours=1))
    return view.with_warning(f"The stored token is {hours} h old: the nightly rotation has evidently not run.")
