"""Revocation of the slot's token: at KIS, in the store and in this machine's cache."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from kis_token.core.slot import TOKEN_TYPE, check_owner, given_app_key, read_token, stored_app_key
from kis_token.errors import KisTokenError, StoreMisconfigured, TokenError
from kis_token.local.cache import make_cache
from kis_token.token import REISSUE_WINDOW, AppKey

if TYPE_CHECKING:
    from datetime import datetime

    from kis_token.config import Settings
    from kis_token.core.ports import Clock, Vault
    from kis_token.core.slot import Slot
    from kis_token.store.supabase import SupabaseStore
    from kis_token.token import Token


class Revoker(Protocol):
    """An object that revokes tokens at KIS."""

    def revoke(self, token: Token, app_key: AppKey) -> bool:
        """Revoke a token. Return False if KIS already rejects the token. Raises IssuerRefused and IssuerOutage."""


@dataclass(frozen=True, slots=True)
class Revoked:
    """The result of a revocation.

    Attributes:
        was_valid: True if KIS accepted the token before the revocation.
        is_inactive: True if the slot now has no active token. False if another caller stored a new token during
            the revocation. The revocation does not change this new token.
        repeated_until: the time until which KIS may answer tokenP with the revoked token, or None if this time is over.
            A caller that gets the revoked token fails.
    """

    was_valid: bool
    is_inactive: bool
    repeated_until: datetime | None


def revoke(settings: Settings, store: SupabaseStore, issuer: Revoker, vault: Vault, clock: Clock) -> Revoked | None:
    """Revoke the slot's token at KIS, then remove the token from store and cache. Returns None if no token is stored.

    An interrupted call can be repeated. The caches of other machines may keep the token, but no caller uses a revoked
    token while the store works. Raises StoreError, TokenError, IssuerError and KisTokenError ``missing-app-key``.
    """
    if settings.reads_only:
        raise StoreMisconfigured("store-read-only", "This supabase-key may only read, so nothing was revoked")
    service = settings.service_name
    slot = store.read(service)
    row = slot.token_row
    if row is None:
        return None
    token = read_token(row, service, vault)
    app_key = _app_key(slot, settings, vault)
    check_owner(token, app_key, settings, f"The token of {service}")
    was_valid = issuer.revoke(token, app_key)
    # If the store's answer is lost, the request is repeated. The first request may have changed the row, so
    # `store.revoke` returns False for the repeated request. After this answer, only a read of the slot shows whether
    # the slot still has a token.
    is_inactive = store.revoke(service, token, settings.label) or TOKEN_TYPE not in store.read(service).rows
    cache = make_cache(settings, vault)
    if cache is not None and settings.cache_path is not None:
        with suppress(TokenError, OSError):
            if cache.read().token_id == token.token_id:
                settings.cache_path.unlink()
    until = token.issued_at + REISSUE_WINDOW
    return Revoked(was_valid, is_inactive, until if until > (slot.server_now or clock.now()) else None)


def _app_key(slot: Slot, settings: Settings, vault: Vault) -> AppKey:
    """Return the slot's stored app key, or that of the settings if none is stored.

    Raises KisTokenError ``missing-app-key``.
    """
    app_key = stored_app_key(slot, settings, vault) or given_app_key(settings)
    if app_key is None:
        raise KisTokenError(
            "missing-app-key", f"To revoke a token, KIS needs its app key, and {settings.service_name} has none"
        )
    return app_key
