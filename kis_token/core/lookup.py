"""The first two sources of the chain, store and cache: what they hold, and whether a token of theirs is enough.

Reads and decides; writes nothing. The fast path is this alone, the resolver starts with it.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING

from kis_token.core.resolution import Resolution, TraceEntry, View, telling
from kis_token.core.retry import LONGEST_PATIENCE, at_most, briefly, patiently, to_the_end
from kis_token.core.slot import TOKEN_TYPE, check_owner, describe, given_app_key, read_token, stored_app_key
from kis_token.errors import IssuanceError, StoreOutage, TokenError, TokenUnusable
from kis_token.token import LEAST_USEFUL, Token, in_both_zones

if TYPE_CHECKING:
    from collections.abc import Callable

    from kis_token.clock import Clock
    from kis_token.config import Settings
    from kis_token.core.ports import CacheReader, Vault
    from kis_token.core.retry import Patience, Retry
    from kis_token.core.slot import Slot

#: A token so much older than the rotation's due age tells that the rotation has not run.
ROTATION_GRACE = timedelta(hours=2)

_REJECTED = "its token is one that KIS rejects"


def look(
    settings: Settings,
    read: Callable[[], Slot],
    cache: CacheReader | None,
    vault: Vault,
    clock: Clock,
    *,
    retry: Retry,
    rejected_id: str | None = None,
    held: Token | None = None,
) -> View:
    """Ask store and cache. ``rejected_id`` is the fingerprint of a token that KIS has refused.

    ``held`` is a token that the caller has in memory: it stands in for the cached one where the cache has none. A read
    that fails is repeated, briefly when there is a valid token at hand that would do, and patiently otherwise.

    Raises StoreMisconfigured, and TokenError for values that are sealed, not sealed or of another account against what
    the settings say. A token row that is merely broken is not an error: it is replaced.
    """
    given = given_app_key(settings)
    view = View(now=clock.now(), trace=(), app_key=given, rejected_id=rejected_id, warnings=settings.notes)

    present = view  # what patience has seen last: a caller that gives up for a cached token gets that very one

    def patience() -> Patience:
        nonlocal present
        present = _with_cached(view.as_of(clock.now()), cache, settings, held)
        would_do = settings.mode in ("resolve", "check")  # a renewal needs the store
        if would_do and present.at_hand() is not None:
            return briefly
        return patiently if may_issue_locally(present, settings) else at_most(LONGEST_PATIENCE, to_the_end)

    try:
        slot = retry.run(read, patience)
    except StoreOutage as outage:
        return replace(present, outage=outage, trace=(TraceEntry("supabase", f"{outage}"), *present.trace))
    return _with_cached(_judge_slot(view.as_of(clock.now()), slot, settings, vault), cache, settings, held)


def _with_cached(view: View, cache: CacheReader | None, settings: Settings, held: Token | None) -> View:
    view = view.with_entry("cache", "turned off") if cache is None else look_at_cache(view, cache, settings)
    if held is None or view.cached is not None or view.rejects(held):
        return view
    return replace(view, cached=held).with_entry("memory", describe(held, view.now, settings.min_validity))


def may_issue_locally(view: View, settings: Settings) -> bool:
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
            return view.with_entry("cache", _REJECTED)
        if cached.is_valid(view.now):
            check_owner(cached, view.app_key, settings, "The cached token")
    except TokenError as error:
        fault = None if isinstance(error, TokenUnusable) else error
        return replace(view, cache_fault=fault).with_entry("cache", f"{error.args[0]}")
    return replace(view, cached=cached).with_entry("cache", describe(cached, view.now, settings.min_validity))


def enough(view: View, settings: Settings) -> Resolution | None:
    """The token that needs neither issuing nor storing; None when there is more to do.

    For resolve a fresh token, for rotate one that is not due yet, for check any that lives: check never issues, and
    raises IssuanceError ``no-valid-token`` instead.
    """
    later = view.unshared_token()
    if later is not None and settings.mode == "resolve" and not settings.saves:
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
            said = "; ".join(f"{entry.source}: {entry.text}" for entry in view.trace)
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
    return view.with_entry("rotation", f"not due before {in_both_zones(due)}").resolution(token, "supabase")


def judge_row(view: View, slot: Slot, settings: Settings, vault: Vault) -> tuple[Token | None, int | None, str]:
    """The slot's token, or the version of a row that cannot be used, or neither; and that in words.

    Raises TokenError for what a new token would not mend.
    """
    row = slot.rows.get(TOKEN_TYPE)
    if row is None:
        return None, None, "no token is stored"
    if row.is_empty:
        return None, row.version, "the stored token is empty"
    try:
        token = read_token(row, settings.service_name, vault)
    except TokenUnusable as error:
        return None, row.version, f"{error.args[0]}"
    if view.with_rejected(slot.rejected).rejects(token):
        return None, row.version, _REJECTED
    if token.is_valid(view.now):
        check_owner(token, view.app_key, settings, f"The token of {settings.service_name}")
    return token, None, describe(token, view.now, settings.min_validity)


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
    view = replace(view, stored=token, unusable_version=unusable_version).with_entry("supabase", said)
    return _warn_of_rotation(view, token, settings) if token is not None else view


def _warn_of_rotation(view: View, token: Token, settings: Settings) -> View:
    age = view.now - token.issued_at
    if settings.mode != "resolve" or not view.certain or age <= settings.refresh_after + ROTATION_GRACE:
        return view
    hours = int(age / timedelta(hours=1))
    return view.with_warning(f"The stored token is {hours} h old: the nightly rotation has evidently not run.")
