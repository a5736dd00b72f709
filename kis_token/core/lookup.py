"""Reads store and cache, the first two sources of the chain, and decides whether the mode accepts one of their tokens.

This module writes nothing. If the mode accepts the stored token, the action does not load the resolver. The resolver
calls this module before it does anything else.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

from kis_token.core.resolution import Resolution, TraceEntry, View, telling
from kis_token.core.retry import LONGEST_RETRY_TIME, at_most, briefly, patiently, to_the_end, unless_refused
from kis_token.core.slot import TOKEN_TYPE, check_owner, describe, given_app_key, read_token, stored_app_key
from kis_token.errors import IssuanceError, StoreOutage, TokenError, TokenUnusable
from kis_token.token import LEAST_USEFUL, State, Token, in_both_zones, in_hours

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from kis_token.config import Settings
    from kis_token.core.ports import CacheReader, Clock, Vault
    from kis_token.core.retry import Retry, RetryTime
    from kis_token.core.slot import Slot

#: If the stored token is older than ``refresh-after`` plus ROTATION_GRACE, a caller warns, because the rotation may
#: have failed.
ROTATION_GRACE = timedelta(hours=2)

_REJECTED = "KIS rejects its token"


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
    """Read store and cache.

    ``rejected_id`` is the fingerprint of a token that KIS has rejected. ``held`` is a token that the caller has in
    memory. If the cache has no token, ``held`` takes the place of a cached token. A failed read of the store is
    repeated. If the caller has a valid token and its mode needs no renewal, the read is repeated for less than a
    second. If the caller has no valid token, or if its mode needs a renewal, the read is repeated for up to 45 s.

    Raises StoreMisconfigured. Raises TokenError if a stored value does not match the settings: the value is sealed but
    no encryption key is given, the value is plain but an encryption key is given, or the value belongs to another
    account. A broken token row raises no error, because a new token replaces the row.
    """
    given = given_app_key(settings)
    view = View(now=clock.now(), trace=(), app_key=given, rejected_id=rejected_id, warnings=settings.notes)

    present = view  # in an outage, `look` returns a copy of ``present``, which `retry_time` updates after each failure

    def retry_time() -> RetryTime:
        nonlocal present
        present = _with_cached(view.as_of(clock.now()), cache, settings, held)
        would_do = settings.mode in ("resolve", "check")  # the modes rotate and force need the store
        at_hand = present.at_hand()
        if would_do and at_hand is not None:
            is_fresh = at_hand[0].state(present.now, settings.min_validity) is State.FRESH
            return unless_refused if is_fresh else briefly
        return patiently if may_issue_locally(present, settings) else at_most(LONGEST_RETRY_TIME, to_the_end)

    try:
        slot = retry.run(read, retry_time)
    except StoreOutage as outage:
        return replace(present, outage=outage, trace=(TraceEntry("supabase", outage.brief), *present.trace))
    return _with_cached(_judge_slot(view.as_of(clock.now()), slot, settings, vault), cache, settings, held)


def _with_cached(view: View, cache: CacheReader | None, settings: Settings, held: Token | None) -> View:
    view = view.with_entry("cache", "turned off") if cache is None else look_at_cache(view, cache, settings)
    if held is None or view.cached is not None or view.rejects(held):
        return view
    return replace(view, cached=held).with_entry("memory", describe(held, view.now, settings.min_validity))


def may_issue_locally(view: View, settings: Settings) -> bool:
    """Whether this caller may issue a token if the store does not answer at all."""
    is_told_to = settings.on_store_outage == "issue" and settings.mode == "resolve"
    # A caller without an app key cannot call tokenP. A caller with a read-only key cannot store the issued token after
    # the outage.
    return is_told_to and view.app_key is not None and not settings.reads_only


def look_at_cache(view: View, cache: CacheReader, settings: Settings) -> View:
    """Return a copy of ``view`` with the cache's current contents.

    If the cached token is rejected, unreadable or of another account, the returned view has no cached token, and its
    attribute ``trace`` has the reason.
    """
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
    """Return a token that the mode accepts; None if the caller must issue or store a token first.

    The mode `resolve` accepts a fresh token. The mode `rotate` accepts a token whose renewal is not due yet. The mode
    `check` accepts every valid token. Because `check` never issues, `check` raises IssuanceError ``no-valid-token`` if
    there is no valid token.
    """
    later = view.unshared_token()
    if later is not None and settings.mode == "resolve" and not settings.saves:
        return view.resolution(later, "cache", warning="The cached token is newer than the stored one.")
    if later is not None and settings.mode != "check":
        return None  # the caller must store the cached token before it gets a token
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
        warning = "" if view.certain else "Supabase sent no time, so this machine's clock was used."
        return view.resolution(*at_hand, warning=warning)
    if settings.mode != "rotate" or view.stored is None or not view.is_surely_fresh(view.stored, LEAST_USEFUL):
        return None
    return not_due(view, view.stored, settings)


def not_due(view: View, token: Token, settings: Settings) -> Resolution | None:
    """Return the token if it is not due for a rotation; None if it is due."""
    from kis_token.core.rotation import due_at

    due = due_at(token, settings.refresh_after)
    if view.now >= due:
        return None
    return view.with_entry("rotation", f"not due before {in_both_zones(due)}").resolution(token, "supabase")


def judge_row(view: View, slot: Slot, settings: Settings, vault: Vault) -> tuple[Token | None, int | None, str]:
    """Check the slot's token row. Returns the token, the version of an unusable row, and the token's state as text.

    If the row is usable, the returned version is None. If the row is unusable, the returned token is None. If no row
    exists, the returned token and version are None. Raises TokenError for a fault that a new token cannot repair.
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
        # The store's clock decides whether a token is fresh, because this machine's clock may be wrong by hours.
        view = view.with_time(slot.server_now, view.now)
    view = replace(view.with_rejected(slot.rejected), hides_keys=slot.hides_keys)
    if "app_key" in slot.rows:
        view = replace(view, keys_version=slot.rows["app_key"].version)
    with telling(view):
        stored = stored_app_key(slot, settings, vault)
    if stored is not None:
        if view.app_key not in (None, stored) and settings.keys_slot is None:
            view = view.with_warning(
                f"app-key and app-secret differ from the keys stored for {settings.service_name}. The stored keys are "
                "used. If app-key and app-secret are newer, store them with kis-token set-keys."
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
    renewed = in_hours(settings.refresh_after)
    return view.with_warning(
        f"The stored token is {hours} h old, although a rotation renews a token after {renewed}. Look at the last runs "
        "of the rotation."
    )
