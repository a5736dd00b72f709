"""The checks of ``kis-token check``: the whole set-up, without issuing, storing or changing anything.

Findings are yielded one by one. A finding shows the kind and the validity of a secret, but never the secret.
"""

from __future__ import annotations

import os
import stat
import tempfile
from datetime import timedelta
from typing import TYPE_CHECKING

from kis_token.admin.callers import examine_callers, examine_issuer
from kis_token.admin.finding import Finding, note, ok, wrong, wrong_as
from kis_token.admin.key_findings import Opened, examine_key_end, examine_keys, examine_other_slots
from kis_token.admin.network_route import examine_route
from kis_token.admin.schema import check_schema
from kis_token.config import Settings
from kis_token.core.lookup import ROTATION_GRACE
from kis_token.core.resolution import TOLERATED_SKEW
from kis_token.core.slot import TOKEN_TYPE, check_owner, describe, read_token
from kis_token.errors import KisTokenError, SettingsError, StoreError, TokenError, TokenUnusable
from kis_token.local.cache import make_cache
from kis_token.local.private_folders import is_on_open_ground
from kis_token.settings.pasted_values import parse_claims
from kis_token.settings.supabase_project import SupabaseKey, is_public_key
from kis_token.store.keyless_store import KeylessStore
from kis_token.store.sealing import SealingVault, make_vault
from kis_token.token import claimed_time, in_hours

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from datetime import datetime
    from pathlib import Path

    from kis_token.core.ports import Clock, Vault
    from kis_token.core.slot import Slot
    from kis_token.kis.api import KISIssuer
    from kis_token.store.supabase import SupabaseStore
    from kis_token.token import Token

#: If a key expires within this time, the check yields a note.
_SOON = timedelta(days=14)


def read_settings(env: Mapping[str, str]) -> tuple[Settings | None, list[Finding]]:
    """Return the settings and the findings on the settings. In place of invalid settings, return None."""
    try:
        settings = Settings.from_env(env)
    except SettingsError as error:
        return None, [wrong_as("settings", fault) for fault in error.faults]
    where = f"{settings.environment}, slot {settings.service_name}, KIS at {settings.base_url}"
    return settings, [ok("settings", where), *(note("settings", text) for text in settings.notes)]


def examine(settings: Settings, store: SupabaseStore, issuer: KISIssuer, clock: Clock) -> Iterator[Finding]:
    """Yield all findings on a set-up."""
    vault = make_vault(settings.encryption_keys)
    yield from examine_route(settings)
    yield _kis_host(issuer)
    yield from _supabase_key(settings.supabase_key, clock.now())
    if settings.homeless:
        yield note("cache", "not used: this user has no home folder, and no cache-path is given")
    else:
        yield from _cache_folder(settings.cache_path)
    try:
        slot = store.read(settings.service_name)
        yield ok("supabase", f"{settings.supabase_url} answers, and gives access to the table")
        yield _clock(slot.server_now, clock.now())
        now = slot.server_now or clock.now()
        opened = Opened()
        if isinstance(store, KeylessStore):
            yield note("tables", "a job without a key cannot look at functions, grants and keys")
            yield from examine_issuer(store, settings.service_name)
        elif settings.reads_only:
            yield note("tables", "a read-only key cannot check functions, grants and keys")
        else:
            yield from check_schema(store)
        yield from _open(slot, settings, vault, opened)
        if settings.saves:
            yield from examine_keys(slot, settings, vault, opened)
            yield from examine_other_slots(store, settings, opened, now)
            yield from examine_callers(store, settings.supabase_url)
        yield from examine_key_end(slot, settings.service_name, opened, now)
    except StoreError as error:
        yield wrong_as("supabase", error)
        yield note("the rest", "the remaining checks were skipped")
        return
    yield from _token(slot, settings, vault, opened, now)
    yield from _cached(slot, settings, vault, opened, now)


def _kis_host(issuer: KISIssuer) -> Finding:
    try:
        issuer.greet()
    except KisTokenError as error:
        return wrong_as("kis", error)
    how = "TLS" if issuer.base_url.startswith("https:") else "plain http, on this machine"
    return ok("kis", f"{issuer.base_url} answers ({how}); no token was issued")


def _supabase_key(key: str, now: datetime) -> Iterator[Finding]:
    shown = SupabaseKey.parse(key)
    claims = parse_claims(shown.bearer)
    role = claims.get("role")
    if shown.reads_only:
        yield note("supabase-key", "a read-only key: it reads tokens and cannot renew them")
    elif shown.bearer.startswith("sb_secret_"):
        yield ok("supabase-key", "a secret key (sb_secret_)")
    elif role == "service_role":
        yield ok("supabase-key", "a service_role key")
    elif is_public_key([key]):
        yield ok("supabase-key", "the public key, with an ID token of GitHub")
    else:
        yield note("supabase-key", "of an unknown kind", "Use the service_role or sb_secret_ key.")
    ends = claimed_time(claims, "exp")
    if ends is not None and ends <= now:
        yield wrong("supabase-key", f"it expired on {ends:%Y-%m-%d}", "Make a new key; see docs/security.md.")
    elif ends is not None and ends - now < _SOON:
        yield note("supabase-key", f"it expires on {ends:%Y-%m-%d}", "Make a new key soon; see docs/security.md.")


def _cache_folder(path: Path | None) -> Iterator[Finding]:
    if path is None:
        yield note("cache", "off: while Supabase is down, there is no cached token")
        return
    remedy = "Set cache-path to a file in a folder of your own, or to off."
    try:
        folder = next(each for each in path.absolute().parents if each.exists())
        with tempfile.TemporaryFile(dir=folder):
            pass
        mode = path.lstat().st_mode if path.exists() or path.is_symlink() else None
    except OSError as error:
        yield wrong("cache", f"its folder cannot be written ({type(error).__name__})", remedy, "cache-unwritable")
        return
    if is_on_open_ground(path.absolute()):
        yield wrong("cache", "other users could replace its folder", remedy)
    elif mode is not None and not stat.S_ISREG(mode):
        yield wrong("cache", "its path is a folder, a link or a pipe", remedy)
    elif mode is not None and mode & 0o077 and hasattr(os, "geteuid"):  # on Windows, file modes show no access rights
        yield wrong("cache", "other users can read the file", "Give the file the mode 0600, or delete the file.")
    else:
        yield ok("cache", "its folder can be written" + (", and other users cannot read the file" if mode else ""))


def _clock(server_now: datetime | None, now: datetime) -> Finding:
    if server_now is None:
        return note("clock", "Supabase's answer has no time")
    skew = now - server_now
    seconds = int(abs(skew).total_seconds())
    if abs(skew) <= TOLERATED_SKEW:
        return ok("clock", f"within {max(seconds, 1)} s of Supabase's")
    direction = "ahead" if skew > timedelta() else "behind"
    return wrong("clock", f"this machine's clock is {seconds} s {direction}", "Synchronize the clock by NTP.")


def _open(slot: Slot, settings: Settings, vault: Vault, opened: Opened) -> Iterator[Finding]:
    older = []
    rows = {name: row for name, row in sorted(slot.rows.items()) if not row.is_empty}
    for name, row in rows.items():
        try:
            opened.values[name] = vault.unseal(row.value, settings.service_name, name)
        except TokenError as error:
            yield wrong_as("sealing", error)
            continue
        if isinstance(vault, SealingVault) and not vault.is_current(row.value):
            older.append(name)
    if older:
        yield note("sealing", f"{', '.join(older)}: not sealed with the first encryption key", "Run kis-token seal.")
    elif opened.values and len(opened.values) == len(rows):
        form = "sealed with the first encryption key" if settings.encryption_keys else "plain, and no key is given"
        yield ok("sealing", f"{', '.join(opened.values)}: {form}")


def _token(slot: Slot, settings: Settings, vault: Vault, opened: Opened, now: datetime) -> Iterator[Finding]:
    row = slot.token_row
    if row is None:
        yield note("token", "not stored; the next caller issues one")
        return
    if TOKEN_TYPE not in opened.values:
        return  # the finding "sealing" reports that the token cannot be unsealed
    try:
        token = read_token(row, settings.service_name, vault)
    except TokenUnusable as error:
        yield note("token", f"{error.args[0]} [{error.code}]", error.hint)
        return
    try:
        if token.is_valid(now):
            check_owner(token, opened.app_key, settings, "It")
    except TokenError as error:
        yield wrong_as("token", error)
        return
    if token.token_id in slot.rejected:
        yield note("token", "KIS rejects the stored token; the next caller issues a new token")
        return
    yield _validity("token", token, settings, now)
    if token.is_valid(now) and now - token.issued_at > settings.refresh_after + ROTATION_GRACE:
        hours = int((now - token.issued_at) / timedelta(hours=1))
        due = in_hours(settings.refresh_after)
        said = f"the token is {hours} h old, although a rotation renews a token after {due}"
        yield note("rotation", said, "Look at the last runs of the rotation (docs/operations.md).")


def _cached(slot: Slot, settings: Settings, vault: Vault, opened: Opened, now: datetime) -> Iterator[Finding]:
    """Check the cached token.

    For a fault, yield a note and not an error, because the next run that reads from Supabase rewrites the file.
    """
    cache = make_cache(settings, vault)
    if cache is None:
        return
    try:
        token = cache.read()
        if token.is_valid(now):
            check_owner(token, opened.app_key, settings, "It")
    except TokenError as error:
        remedy = "" if isinstance(error, TokenUnusable) else "The next run of kis-token get replaces the file."
        yield note("cached token", f"{error.args[0]}", remedy)
        return
    if token.token_id in slot.rejected:
        yield note(
            "cached token",
            "not used, because KIS rejects this token",
            "The next run of kis-token get replaces the file.",
        )
        return
    yield _validity("cached token", token, settings, now)


def _validity(what: str, token: Token, settings: Settings, now: datetime) -> Finding:
    said = describe(token, now, settings.min_validity).removeprefix("its token ")
    return ok(what, said) if token.is_valid(now) else note(what, said)
