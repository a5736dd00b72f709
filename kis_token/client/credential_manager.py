"""Offers the class `SupabaseCredentialManager` and the functions of the guide that docs/migrating.md describes.

All names and return values are the same as in the guide (docs/migrating.md).

If a value is missing or Supabase does not answer, a read returns None and a save returns False. An outage is also
logged, to the logger ``kis_token``. An error that the user must correct is raised: SettingsError, StoreMisconfigured or
TokenError. For example, TokenError is raised if a stored value is sealed and no encryption key is given.
"""

from __future__ import annotations

import logging
import os
from datetime import datetime, timedelta
from functools import lru_cache
from typing import TYPE_CHECKING, Any, TypeVar

from kis_token.client.user_variables import user_variables
from kis_token.clock import SystemClock
from kis_token.config import Settings
from kis_token.core.slot import KEY_TYPES, TOKEN_TYPE, read_stored, stored_app_key
from kis_token.errors import SettingsError, StoreOutage, TokenUnusable
from kis_token.settings.environment import SECRETS
from kis_token.settings.pasted_values import pasted
from kis_token.store.sealing import TolerantVault, make_vault
from kis_token.store.slot_query import TYPES
from kis_token.store.supabase import SupabaseStore
from kis_token.token import build_token, instant_or_none, parse_instant
from kis_token.wiring import open_store

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from kis_token.core.ports import Clock, Vault
    from kis_token.core.slot import Row, Slot

_LOG = logging.getLogger("kis_token")

#: The codes of a SettingsError for settings that lack the URL or the key of Supabase. A program that follows the guide
#: (docs/migrating.md) can get its keys and token from a source other than Supabase. So `SupabaseCredentialManager` does
#: not raise a SettingsError if the settings lack only the URL or the key of Supabase.
_NO_STORE = {"missing-supabase-url", "missing-supabase-key", "secrets-withheld"}

_Answer = TypeVar("_Answer")


class SupabaseCredentialManager:
    """The credentials of all services in one Supabase project.

    Without arguments, url and key come from the environment or, on a laptop, from the user's profile. The methods with
    "kis" in their names use the slot that ``KIS_SERVICE_NAME`` names; by default, kis or kis-paper. ``env`` replaces
    the environment and the profile. Threads and forked processes may share an object, because no connection is kept
    between two calls. Raises SettingsError for invalid settings. Missing settings raise no error.

    Attributes:
        url: the project's URL; None if the URL is unknown. Subclasses may set url and key at any time.
        key: the project's key; None if the key is unknown.
    """

    # A subclass may set url and key in its own __init__ without a call of this class's __init__. Therefore, the class
    # gives each attribute a default value.
    url: str | None = None
    key: str | None = None
    _client: Any = None
    _env: Mapping[str, str] | None = None
    _clock: Clock = SystemClock()
    _read_settings: tuple[str, str, Settings | None] | None = None

    def __init__(
        self,
        url: str | None = None,
        key: str | None = None,
        *,
        env: Mapping[str, str] | None = None,
        clock: Clock | None = None,
    ) -> None:
        self._env = dict(user_variables() if env is None else env)
        self._clock = clock or self._clock
        self.url = url or pasted(self._env.get("SUPABASE_URL", "")) or None
        self.key = key or next(
            filter(None, (pasted(self._env.get(name, "")) for name in SECRETS["supabase-key"])), None
        )
        settings = self._read(self.url, self.key)
        if settings is not None:
            self.url, self.key = settings.supabase_url, settings.supabase_key

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._settings.supabase_url if self._settings else None!r})"

    def is_available(self) -> bool:
        """Whether url and key are known. Makes no request."""
        return self._settings is not None

    @property
    def _settings(self) -> Settings | None:
        """The settings with the present url and key; None if url or key is missing."""
        if not self.url or not self.key:
            return None
        if self._read_settings is None or self._read_settings[:2] != (self.url, self.key):
            self._read_settings = self.url, self.key, self._read(self.url, self.key)
        return self._read_settings[2]

    def _read(self, url: str | None, key: str | None) -> Settings | None:
        env = os.environ if self._env is None else self._env
        given = {"INPUT_SUPABASE_URL": url, "INPUT_SUPABASE_KEY": key}
        try:
            return Settings.from_env({**env, **{name: value for name, value in given.items() if value}})
        except SettingsError as error:
            if not all(fault.code in _NO_STORE for fault in error.faults):
                raise
        return None

    @property
    def _vault(self) -> Vault:
        return make_vault(self._settings.encryption_keys if self._settings else ())

    def _get_client(self) -> Any:  # noqa: ANN401 - the type Client is in the package supabase, which only store/supabase_calls.py may import
        """A client of the package supabase, for subclasses; None if url or key is missing.

        The first call makes the client. Each call of the client takes at most 8 s. The methods of this class do not use
        the client.
        """
        settings = self._settings
        if self._client is None and settings is not None:
            self._client = SupabaseStore(settings.supabase_url, settings.supabase_key).get_client()
        return self._client

    def get_credentials(self, service_name: str) -> dict[str, str] | None:
        """Return all active values of a service by type, unsealed; None if the service has no active value.

        If an encryption key is given, the values of app_key, app_secret and access_token must be sealed. A value of any
        type other than app_key, app_secret and access_token may be plain or sealed.
        """
        slot = self._ask(lambda store, _: store.read_service(service_name))
        if slot is None:
            return None
        rows = {name: row for name, row in slot.rows.items() if not row.is_empty}
        return {name: self._open(row, service_name, name) for name, row in rows.items()} or None

    def get_kis_credentials(self) -> dict[str, str] | None:
        """Return ``app_key`` and ``app_secret``; None if one of the two is not stored."""
        slot, settings = self._ask(lambda store, settings: store.read(settings.service_name)), self._settings
        app_key = stored_app_key(slot, settings, self._vault) if slot is not None and settings is not None else None
        return {"app_key": app_key.key, "app_secret": app_key.secret} if app_key is not None else None

    def get_kis_token(self) -> dict[str, Any] | None:
        """Return the stored token, valid or expired; None if the token is missing or unreadable.

        The members are ``access_token``, ``expires_at`` and ``issued_at``, and all further members of the stored JSON.
        ``expires_at`` and ``issued_at`` are in ISO 8601 in UTC. The column ``expires_at`` takes precedence over the
        JSON.
        """
        slot = self._ask(lambda store, settings: store.read(settings.service_name))
        return self._token_in(slot)

    def get_kis_valid_token(self) -> dict[str, Any] | None:
        """Return the members of `get_kis_token`; None if the token is expired or rejected.

        For this method, a token is valid up to its last second, by the database's clock.
        """
        slot = self._ask(lambda store, settings: store.read_unexpired_token(settings.service_name))
        return self._token_in(slot, only_unexpired=True)

    def save_kis_token(self, access_token: str, expires_at: datetime, issued_at: datetime) -> bool:
        """Store a token. Returns True if the store then has this token or a token that expires later.

        If the stored token expires later than ``access_token``, the stored token is kept. A token that the slot
        remembers as rejected or revoked is not stored, and a warning is logged. Times without a zone are read as Korea
        time. Raises TokenError for an invalid or expired token.
        """
        token = build_token(
            access_token.strip(),
            expiries=[parse_instant(expires_at.isoformat())],
            issued_at=parse_instant(issued_at.isoformat()),
            environment=self._settings.environment if self._settings else None,
        )
        if token.remaining(datetime.now(tz=token.expires_at.tzinfo)) <= timedelta():
            raise TokenUnusable("The token has expired already")

        def save(store: SupabaseStore, settings: Settings) -> bool:
            service = settings.service_name
            is_saved = store.save(service, token, self._vault.seal(token.to_json(), service, TOKEN_TYPE))
            if not is_saved:
                _LOG.warning("KIS rejects the token, so it was not stored in %s", service)
            return is_saved

        return self._ask(save) or False

    def _ask(self, question: Callable[[SupabaseStore, Settings], _Answer]) -> _Answer | None:
        """Return the store's answer; None if url or key is missing, and None in an outage."""
        settings = self._settings
        if settings is None:
            return None
        with open_store(settings, self._clock.monotonic(), _LOG.info, self._clock) as store:
            try:
                return question(store, settings)
            except StoreOutage as outage:
                _LOG.warning("%s", outage.advice)
                return None

    def _open(self, row: Row, service_name: str, credential_type: str) -> str:
        vault = self._vault if credential_type in TYPES else TolerantVault(self._vault)
        value = vault.unseal(row.value, service_name, credential_type)
        return pasted(value) if credential_type in KEY_TYPES else value

    def _token_in(self, slot: Slot | None, *, only_unexpired: bool = False) -> dict[str, Any] | None:
        row, settings = slot.token_row if slot is not None else None, self._settings
        if slot is None or row is None or settings is None:
            return None
        try:
            token, stored = read_stored(row.value, settings.service_name, self._vault, column=row.expires_at)
        except TokenUnusable:
            return None
        # The expiry time in the column ``expires_at`` may be later than the real expiry time of the token, because some
        # clients write Korea time into the column as UTC.
        if only_unexpired and slot.server_now is not None and token.expires_at <= slot.server_now:
            return None
        if only_unexpired and token.token_id in slot.rejected:
            return None
        end = instant_or_none(row.expires_at) or instant_or_none(stored.get("expires_at")) or token.expires_at
        return {
            **stored,
            "access_token": token.value,
            "expires_at": end.isoformat(),
            "issued_at": token.issued_at.isoformat(),
        }


@lru_cache(maxsize=1)
def get_supabase_manager() -> SupabaseCredentialManager:
    """Return the one manager of this process. The first call makes the manager from the environment."""
    return SupabaseCredentialManager()


def get_kis_credentials_from_supabase() -> dict[str, str] | None:
    """Call `SupabaseCredentialManager.get_kis_credentials` of the manager of this process."""
    return get_supabase_manager().get_kis_credentials()


def get_kis_token_from_supabase() -> dict[str, Any] | None:
    """Call `SupabaseCredentialManager.get_kis_token` of the manager of this process."""
    return get_supabase_manager().get_kis_token()


def get_kis_valid_token_from_supabase() -> dict[str, Any] | None:
    """Call `SupabaseCredentialManager.get_kis_valid_token` of the manager of this process."""
    return get_supabase_manager().get_kis_valid_token()


def save_kis_token_to_supabase(access_token: str, expires_at: datetime, issued_at: datetime) -> bool:
    """Call `SupabaseCredentialManager.save_kis_token` of the manager of this process."""
    return get_supabase_manager().save_kis_token(access_token, expires_at, issued_at)
