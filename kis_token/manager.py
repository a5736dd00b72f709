"""The guide's store: ``SupabaseCredentialManager`` and its module functions, with their names and return values.

What is not there, or cannot be had because Supabase does not answer, is None, or False for a save; an outage is also
logged, to the logger ``kis_token``. What somebody has to mend is raised: SettingsError, StoreMisconfigured and, for
values that are sealed or not sealed against what the settings say, TokenError.
"""

from __future__ import annotations

import json
import logging
import os
from datetime import datetime, timedelta
from functools import lru_cache
from typing import TYPE_CHECKING, Any, TypeVar

from kis_token.clock import SystemClock
from kis_token.config import Settings
from kis_token.errors import SettingsError, StoreOutage, TokenError
from kis_token.reader import TYPES
from kis_token.sealing import PREFIX, make_vault
from kis_token.token import build_token, parse_instant, parse_stored
from kis_token.wiring import open_store

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from kis_token.clock import Clock
    from kis_token.reader import Row, Slot
    from kis_token.supabase import SupabaseStore

_LOG = logging.getLogger("kis_token")

#: Without these there is no store, which is no mistake: the guide's clients go on with what they have.
_NO_STORE = {"missing-supabase-url", "missing-supabase-key", "secrets-withheld"}

_Answer = TypeVar("_Answer")


class SupabaseCredentialManager:
    """The credentials of all services in one Supabase project.

    Without arguments url and key are those of the environment. The methods about KIS are for the slot that the
    environment names: kis, kis-paper or ``KIS_SERVICE_NAME``. ``env`` stands in for os.environ. Threads
    and forked processes may share it: no connection is kept between two calls.
    Raises SettingsError for settings that are there and make no sense.
    """

    def __init__(
        self,
        url: str | None = None,
        key: str | None = None,
        *,
        env: Mapping[str, str] | None = None,
        clock: Clock | None = None,
    ) -> None:
        given = {"INPUT_SUPABASE_URL": url, "INPUT_SUPABASE_KEY": key}
        env = os.environ if env is None else env
        self._clock = clock or SystemClock()
        self._settings: Settings | None = None
        try:
            self._settings = Settings.from_env({**env, **{name: value for name, value in given.items() if value}})
        except SettingsError as error:
            if not all(fault.code in _NO_STORE for fault in error.faults):
                raise
        self._vault = make_vault(self._settings.encryption_keys if self._settings else ())

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._settings.supabase_url if self._settings else None!r})"

    def is_available(self) -> bool:
        """Whether url and key are known; asks nobody."""
        return self._settings is not None

    def get_credentials(self, service_name: str) -> dict[str, str] | None:
        """All active values of a service by their types, sealed ones opened; None when there are none.

        Keys and tokens have to be sealed where an encryption key is given; values of other types may be.
        """
        slot = self._ask(lambda store, _: store.read_service(service_name))
        if slot is None:
            return None
        rows = {name: row for name, row in slot.rows.items() if not row.is_empty}
        return {name: self._open(row, service_name, name) for name, row in rows.items()} or None

    def get_kis_credentials(self) -> dict[str, str] | None:
        """``app_key`` and ``app_secret``; None unless both are stored."""
        slot = self._ask(lambda store, settings: store.read(settings.service_name))
        rows = slot.rows if slot is not None else {}
        pair = ("app_key", "app_secret")
        if self._settings is None or any(name not in rows or rows[name].is_empty for name in pair):
            return None
        service = self._settings.service_name
        return {name: self._open(rows[name], service, name).strip() for name in pair}

    def get_kis_token(self) -> dict[str, Any] | None:
        """The stored token, dead or alive: ``access_token``, ``expires_at`` and ``issued_at``; None when unreadable.

        Both times are ISO 8601 in UTC. The column ``expires_at`` wins over the JSON.
        """
        slot = self._ask(lambda store, settings: store.read(settings.service_name))
        return self._token_in(slot)

    def get_kis_valid_token(self) -> dict[str, Any] | None:
        """The same for a token that is alive by the database's clock and not rejected; None for any other."""
        slot = self._ask(lambda store, settings: store.read_living_token(settings.service_name))
        return self._token_in(slot, only_living=True)

    def save_kis_token(self, access_token: str, expires_at: datetime, issued_at: datetime) -> bool:
        """Store a token, unless one that lives longer is there. Whether the store now has one of the two.

        A token that the slot remembers as rejected or revoked is not stored; a line in the log says so.
        Times without a zone are taken as Korea time. Raises TokenError for what is no token or is dead already.
        """
        token = build_token(
            access_token.strip(),
            expiries=[parse_instant(expires_at.isoformat())],
            issued_at=parse_instant(issued_at.isoformat()),
            environment=self._settings.environment if self._settings else None,
        )
        if token.remaining(datetime.now(tz=token.expires_at.tzinfo)) <= timedelta():
            raise TokenError("token-unusable", "The token has expired already")

        def save(store: SupabaseStore, settings: Settings) -> bool:
            service = settings.service_name
            is_saved = store.save(service, token, self._vault.seal(token.to_json(), service, "access_token"))
            if not is_saved:
                _LOG.warning("The token is one that KIS rejects, so it was not stored in %s", service)
            return is_saved

        return self._ask(save) or False

    def _ask(self, question: Callable[[SupabaseStore, Settings], _Answer]) -> _Answer | None:
        """The store's answer; None when there is no store, or it is out."""
        settings = self._settings
        if settings is None:
            return None
        with open_store(settings, self._clock.monotonic(), _LOG.info, self._clock) as store:
            try:
                return question(store, settings)
            except StoreOutage as outage:
                _LOG.warning("%s. %s", outage, outage.hint)
                return None

    def _open(self, row: Row, service_name: str, credential_type: str) -> str:
        if credential_type in TYPES or row.value.startswith(PREFIX):
            return self._vault.open(row.value, service_name, credential_type)
        return row.value

    def _token_in(self, slot: Slot | None, *, only_living: bool = False) -> dict[str, Any] | None:
        row = slot.rows.get("access_token") if slot is not None else None
        if slot is None or row is None or row.is_empty or self._settings is None:
            return None
        text = self._open(row, self._settings.service_name, "access_token")
        try:
            token = parse_stored(text, column=row.expires_at)
        except TokenError:
            return None
        # The column may promise more than the token holds: Korea times have been written into it as if they were UTC.
        if only_living and slot.server_now is not None and token.expires_at <= slot.server_now:
            return None
        if only_living and token.token_id in slot.rejected:
            return None
        stored = json.loads(text)
        end = next((time for time in (row.expires_at, stored.get("expires_at")) if _is_instant(time)), None)
        return {
            **stored,
            "access_token": token.value,
            "expires_at": (parse_instant(end) if end is not None else token.expires_at).isoformat(),
            "issued_at": token.issued_at.isoformat(),
        }


@lru_cache(maxsize=1)
def get_supabase_manager() -> SupabaseCredentialManager:
    """The one manager of this process, made from the environment when it is first asked for."""
    return SupabaseCredentialManager()


def get_kis_credentials_from_supabase() -> dict[str, str] | None:
    """`SupabaseCredentialManager.get_kis_credentials` of the one manager."""
    return get_supabase_manager().get_kis_credentials()


def get_kis_token_from_supabase() -> dict[str, Any] | None:
    """`SupabaseCredentialManager.get_kis_token` of the one manager."""
    return get_supabase_manager().get_kis_token()


def get_kis_valid_token_from_supabase() -> dict[str, Any] | None:
    """`SupabaseCredentialManager.get_kis_valid_token` of the one manager."""
    return get_supabase_manager().get_kis_valid_token()


def save_kis_token_to_supabase(access_token: str, expires_at: datetime, issued_at: datetime) -> bool:
    """`SupabaseCredentialManager.save_kis_token` of the one manager."""
    return get_supabase_manager().save_kis_token(access_token, expires_at, issued_at)


def _is_instant(value: object) -> bool:
    try:
        parse_instant(value)
    except ValueError:
        return False
    return True
