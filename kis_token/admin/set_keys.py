"""What an account's owner does with keys: store app key and secret, seal what is stored, make a key to seal with."""

from __future__ import annotations

import base64
import secrets
from contextlib import suppress
from typing import TYPE_CHECKING

from kis_token.core.slot import read_token
from kis_token.errors import KisTokenError, StoreOutage, TokenError
from kis_token.pasted_values import pasted
from kis_token.store.sealing import SealedWithoutKey, SealingVault, TolerantVault
from kis_token.token import AppKey

if TYPE_CHECKING:
    from kis_token.config import Settings
    from kis_token.core.ports import Vault
    from kis_token.core.slot import Row, Slot
    from kis_token.store.supabase import SupabaseStore

#: How often rows that others change meanwhile are looked at again.
_PASSES = 5


def make_encryption_key() -> str:
    """A new key to seal with: 32 random bytes in URL-safe base64. Git's bash on Windows never takes it for a path."""
    return base64.urlsafe_b64encode(secrets.token_bytes(32)).decode()


def set_app_key(settings: Settings, store: SupabaseStore, vault: Vault) -> bool:
    """Store the settings' app key and secret, sealed where they hold an encryption key.

    Whether that ended the slot's token: one of another app key, or whose key nobody can tell, is set to inactive, so
    that the next who asks issues one for the new key. Raises KisTokenError ``missing-app-key``, TokenError
    ``sealed-without-key`` where the slot is sealed and no encryption key is given, and StoreError.
    """
    if not settings.app_key or not settings.app_secret:
        raise KisTokenError("missing-app-key", "No app key and secret are given")
    app_key, service = AppKey(settings.app_key, settings.app_secret), settings.service_name
    keeps_token = _belongs_to(store.read(service), app_key, service, vault)
    return store.set_app_key(
        service,
        vault.seal(app_key.key, service, "app_key"),
        vault.seal(app_key.secret, service, "app_secret"),
        settings.environment,
        keeps_token=keeps_token,
    )


def seal(settings: Settings, store: SupabaseStore) -> list[str]:
    """Seal the slot's rows with the first encryption key; the types that were not sealed so before.

    Safe to interrupt and to repeat: each row is replaced by itself, and only where nobody has changed it meanwhile.
    Raises KisTokenError ``missing-encryption-key``, StoreError and, for a value that no given key opens, TokenError
    ``seal-broken``; but an inactive row of that kind, which nobody reads, stays as it is.
    """
    if not settings.encryption_keys:
        raise KisTokenError("missing-encryption-key", "encryption-key (or KIS_TOKEN_ENCRYPTION_KEY) is not set")
    vault, service, sealed = SealingVault(settings.encryption_keys), settings.service_name, dict[str, None]()
    opener = TolerantVault(vault)
    for _ in range(_PASSES):
        is_done, active = True, store.read(service).rows
        for name, row in sorted(store.read_all(service).rows.items()):
            # Also what needs no other seal is opened: this is the time to learn that it cannot be.
            try:
                value = opener.unseal(row.value, service, name)
            except TokenError:
                if name in active:
                    raise
                continue
            if vault.is_current(row.value) or row.is_empty:
                continue
            if value.strip().lower().startswith("enc:"):
                raise TokenError("seal-broken", f"{name} of {service} is sealed in a form that is not known")
            is_done = False
            if store.reseal(service, name, vault.seal(value, service, name), replaces_version=row.version):
                sealed[name] = None
        if is_done:
            return list(sealed)
    raise StoreOutage("store-unreachable", "The rows were changed by others all the time")


def _belongs_to(slot: Slot, app_key: AppKey, service: str, vault: Vault) -> bool:
    """Whether the slot's token is surely one of ``app_key``. Raises TokenError ``sealed-without-key``."""
    opener = TolerantVault(vault)
    values = {name: _value_of(row, service, name, opener) for name, row in slot.rows.items()}
    if slot.token_row is not None:
        with suppress(TokenError):
            owner = read_token(slot.token_row, service, opener).app_key_id
            if owner is not None:
                return owner == app_key.key_id
    return pasted(values.get("app_key") or "") == app_key.key


def _value_of(row: Row, service: str, name: str, vault: Vault) -> str | None:
    """The row's value; None for one that no given key opens."""
    try:
        return vault.unseal(row.value, service, name)
    except SealedWithoutKey:
        raise  # what is sealed must not be replaced by something plain by mistake
    except TokenError:
        return None
