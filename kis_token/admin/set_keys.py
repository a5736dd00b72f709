"""The owner's work with keys: store app key and secret, seal the stored rows, make an encryption key."""

from __future__ import annotations

import base64
import secrets
from contextlib import suppress
from typing import TYPE_CHECKING

from kis_token.clock import SystemClock
from kis_token.core.app_key_expiry import default_last_day, end_of
from kis_token.core.slot import SealedWithoutKey, read_token
from kis_token.errors import KisTokenError, StoreOutage, TokenError
from kis_token.settings.pasted_values import pasted
from kis_token.store.sealing import SealingVault, TolerantVault
from kis_token.token import AppKey, instant_or_none

if TYPE_CHECKING:
    from datetime import datetime

    from kis_token.config import Settings
    from kis_token.core.ports import Clock, Vault
    from kis_token.core.slot import Row, Slot
    from kis_token.store.supabase import SupabaseStore

#: In one pass, `seal` reads and seals all rows of the slot. `seal` makes at most this many passes. If another caller
#: changes a row while `seal` makes a pass, `seal` must make one more pass.
_PASSES = 5

_CLOCK = SystemClock()


def make_encryption_key() -> str:
    """Make an encryption key: 32 random bytes in URL-safe base64.

    In standard base64, a key can contain "/". Git's bash on Windows could treat a key with "/" as a path, and change
    the key.
    """
    return base64.urlsafe_b64encode(secrets.token_bytes(32)).decode()


def set_app_key(
    settings: Settings, store: SupabaseStore, vault: Vault, *, expires_at: datetime | None = None, clock: Clock = _CLOCK
) -> bool:
    """Store the settings' app key and secret, sealed if the settings have an encryption key.

    ``expires_at`` is the time at which app key and secret expire at KIS. If ``expires_at`` is None and the same app key
    is already stored, the row keeps its ``expires_at``. If ``expires_at`` is None and the app key is new, the function
    stores the time one year from now, as if KIS had issued the key today. This function does not check the keys;
    `app_key_check` does.

    If the stored token belongs to another or an unknown app key, this function deactivates the token: the next caller
    then issues a token for the new key. Returns True if a token was deactivated. Raises KisTokenError
    ``missing-app-key`` and StoreError. If the slot is sealed and no encryption key is given, raises TokenError
    ``sealed-without-key``.
    """
    if not settings.app_key or not settings.app_secret:
        raise KisTokenError("missing-app-key", "No app key and secret are given")
    app_key, service = AppKey(settings.app_key, settings.app_secret), settings.service_name
    slot = store.read(service)
    values = _values_in(slot, service, vault)
    if expires_at is None and _has_key(values, app_key):
        expires_at = instant_or_none(slot.rows["app_key"].expires_at)
    elif expires_at is None:
        expires_at = end_of(default_last_day(slot.server_now or clock.now()))
    return store.set_app_key(
        service,
        vault.seal(app_key.key, service, "app_key"),
        vault.seal(app_key.secret, service, "app_secret"),
        settings.environment,
        keeps_token=_belongs_to(slot, values, app_key, service, vault),
        expires_at=expires_at,
    )


def seal(settings: Settings, store: SupabaseStore) -> list[str]:
    """Seal the slot's rows with the first encryption key. Returns the types of the rows that this call sealed.

    The call can be interrupted and repeated. Each row is replaced separately, and only if no other caller has changed
    the row. If no given key unseals an inactive row, the function skips the row, because no caller reads inactive rows.
    If no given key unseals an active row, raises TokenError ``seal-broken``. Also raises StoreError and KisTokenError
    ``missing-encryption-key``.
    """
    if not settings.encryption_keys:
        raise KisTokenError("missing-encryption-key", "encryption-key (or KIS_TOKEN_ENCRYPTION_KEY) is not set")
    vault, service, sealed = SealingVault(settings.encryption_keys), settings.service_name, dict[str, None]()
    opener = TolerantVault(vault)
    for _ in range(_PASSES):
        is_done, active = True, store.read(service).rows
        for name, row in sorted(store.read_all(service).rows.items()):
            # `seal` also unseals a value that is already sealed with the first encryption key. If this unsealing fails
            # for an active row, `seal` raises an error.
            try:
                value = opener.unseal(row.value, service, name)
            except TokenError:
                if name in active:
                    raise
                continue
            if vault.is_current(row.value) or row.is_empty:
                continue
            if value.strip().lower().startswith("enc:"):
                raise TokenError("seal-broken", f"{name} of {service} is sealed in an unknown form")
            is_done = False
            if store.reseal(service, name, vault.seal(value, service, name), replaces_version=row.version):
                sealed[name] = None
        if is_done:
            return list(sealed)
    raise StoreOutage("store-unreachable", "Other callers kept changing the slot's rows")


def _values_in(slot: Slot, service: str, vault: Vault) -> dict[str, str | None]:
    """Return the slot's unsealed values by type. A value that no given key unseals is None. Raises SealedWithoutKey."""
    opener = TolerantVault(vault)
    return {name: _value_of(row, service, name, opener) for name, row in slot.rows.items()}


def _has_key(values: dict[str, str | None], app_key: AppKey) -> bool:
    return pasted(values.get("app_key") or "") == app_key.key


def _belongs_to(slot: Slot, values: dict[str, str | None], app_key: AppKey, service: str, vault: Vault) -> bool:
    """Whether the slot's token certainly belongs to ``app_key``."""
    if slot.token_row is not None:
        with suppress(TokenError):
            owner = read_token(slot.token_row, service, TolerantVault(vault)).app_key_id
            if owner is not None:
                return owner == app_key.key_id
    return _has_key(values, app_key)


def _value_of(row: Row, service: str, name: str, vault: Vault) -> str | None:
    """Return the row's value, or None if no given key unseals it. Raises SealedWithoutKey."""
    try:
        return vault.unseal(row.value, service, name)
    except SealedWithoutKey:
        raise  # a plain value must not replace a sealed one by accident
    except TokenError:
        return None
