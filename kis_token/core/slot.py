"""A slot's rows and their meaning: the app key and secret, the token's owner, and the errors about keys and token."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from kis_token.errors import IssuerRefused, StoreMisconfigured, TokenError
from kis_token.settings.pasted_values import find_key_fault, pasted, unusual_lengths
from kis_token.token import AppKey, State, Token, in_hours, parse_members, parse_stored

TYPE_CHECKING = False
if TYPE_CHECKING:
    from datetime import datetime, timedelta
    from typing import Any

    from kis_token.config import Settings
    from kis_token.core.ports import Vault

#: The types of the rows with an account's key and secret, and of the row with its token.
KEY_TYPES = ("app_key", "app_secret")
TOKEN_TYPE = "access_token"  # noqa: S105 - a type

#: The inputs and variables that contain a refused app key or secret. Each key of the dictionary is KIS's code for the
#: refusal.
_GIVEN_AS = {
    "EGW00103": "input app-key / KIS_APP_KEY",
    "EGW00105": "input app-secret / KIS_APP_SECRET",
    "EGW00002": "inputs app-key and app-secret / KIS_APP_KEY and KIS_APP_SECRET",
}


#: The beginning of a sealed value.
SEALED_PREFIX = "enc:v1:"


@dataclass(frozen=True, slots=True)
class Row:
    """One active row as stored: the value may be sealed, and ``expires_at`` is the column's text."""

    value: str = field(repr=False)
    expires_at: str | None
    version: int

    @property
    def is_empty(self) -> bool:
        """Whether the value is blank. A row with a blank value is treated as missing, like a row with null."""
        return not self.value.strip()


@dataclass(frozen=True, slots=True)
class Slot:
    """All active rows of one slot, by type.

    ``server_now`` is the Date header of the store's answer; None if the answer has no such header. ``rejected`` are the
    fingerprints of the tokens that the slot remembers as rejected or revoked. ``hides_keys`` is True if the caller may
    not read the rows of app key and secret.
    """

    rows: dict[str, Row]
    server_now: datetime | None
    rejected: frozenset[str] = frozenset()
    hides_keys: bool = False

    @property
    def token_row(self) -> Row | None:
        """The row of the token; None if the row is missing or empty."""
        row = self.rows.get(TOKEN_TYPE)
        return None if row is None or row.is_empty else row


class SealedWithoutKey(TokenError):
    """The value is sealed, but no encryption key is given."""

    def __init__(self, what: str) -> None:
        super().__init__("sealed-without-key", f"{what} is sealed and no encryption-key is given")


class PlainVault:
    """The vault without an encryption key.

    Values are stored plain, as the clients of the guide (docs/migrating.md) expect.
    """

    def unseal(self, text: str, service_name: str, credential_type: str) -> str:
        """If ``text`` is plain, return it unchanged. If ``text`` is sealed, raise TokenError ``sealed-without-key``."""
        if text.startswith(SEALED_PREFIX):
            raise SealedWithoutKey(f"{credential_type} of {service_name}")
        return text

    def seal(self, value: str, service_name: str, credential_type: str) -> str:  # noqa: ARG002 - the protocol's
        """Return ``value`` unchanged."""
        return value


def read_stored(
    text: str, service_name: str, vault: Vault, *, column: object = None, version: int | None = None
) -> tuple[Token, dict[str, Any]]:
    """Parse ``text``, a value from the store or the cache. Returns the token, and all members of the value's JSON.

    The text may be sealed or plain. The token may be valid or expired. ``column`` is the value in the row's column
    ``expires_at``, and ``version`` is the row's version. Raises TokenUnusable if the text contains no usable token: a
    new token replaces that text. If the text cannot or must not be unsealed, raises a TokenError that is not
    TokenUnusable, because a new token does not repair the cause.
    """
    plain = vault.unseal(text, service_name, TOKEN_TYPE)
    token = parse_stored(plain, column=column, version=version)
    # ``sealed_form`` must contain the expiry time of the token. If the column ``expires_at`` has an earlier time than
    # the sealed text, ``sealed_form`` stays None.
    if text.startswith(SEALED_PREFIX) and parse_stored(plain).expires_at == token.expires_at:
        token = replace(token, sealed_form=text)
    return token, parse_members(plain)


def read_token(row: Row, service_name: str, vault: Vault) -> Token:
    """Return the token in a slot's row. Raises TokenError as `read_stored` does."""
    return read_stored(row.value, service_name, vault, column=row.expires_at, version=row.version)[0]


def given_app_key(settings: Settings) -> AppKey | None:
    """The app key and secret of the settings; None if one of the two is missing.

    The slot's keys take precedence over the keys of the settings.
    """
    if not settings.app_key or not settings.app_secret:
        return None
    return AppKey(settings.app_key, settings.app_secret, settings.keys_slot)


def stored_app_key(slot: Slot, settings: Settings, vault: Vault) -> AppKey | None:
    """The slot's key and secret; None if one of the two is missing or empty.

    Raises TokenError for a value that cannot be unsealed, and StoreMisconfigured for a value that cannot be a key.
    """
    rows = [slot.rows.get(name) for name in KEY_TYPES]
    if any(row is None or row.is_empty for row in rows):
        return None
    service = settings.service_name
    key, secret = (pasted(vault.unseal(slot.rows[name].value, service, name)) for name in KEY_TYPES)
    if not key or not secret:
        return None
    fault = find_key_fault(key, secret, (f"The app_key stored for {service}", f"The app_secret stored for {service}"))
    if fault is not None:
        raise StoreMisconfigured(*fault)
    return AppKey(key, secret, service)


def origin(app_key: AppKey, given_as: str = _GIVEN_AS["EGW00103"]) -> str:
    """Return the origin of ``app_key`` as text. The caller puts this text after the words "the app key"."""
    return f"given as {given_as}" if app_key.slot is None else f"stored in Supabase for the slot {app_key.slot}"


def refused(kis_code: str, app_key: AppKey, to: str = "") -> IssuerRefused:
    """The error for an ``app_key`` that KIS refused.

    The text of the error names the origin of the key. If the length of key or secret is unusual for KIS, the text names
    the length.
    """
    lengths = unusual_lengths(app_key.key, app_key.secret)
    return IssuerRefused(kis_code, to, f" {origin(app_key, _GIVEN_AS[kis_code])}", f": {lengths}" if lengths else "")


def describe(token: Token, now: datetime, min_validity: timedelta) -> str:
    """A token's state in words."""
    state = token.state(now, min_validity)
    if state is State.EXPIRED:
        return "its token has expired"
    life = f"{in_hours(token.remaining(now))} left"
    return f"its token is fresh, {life}" if state is State.FRESH else f"its token is valid, but has only {life}"


def check_owner(token: Token, app_key: AppKey | None, settings: Settings, what: str) -> None:
    """Raise TokenError if ``token`` belongs to another account than ``app_key`` or to another environment.

    No caller replaces the token of another account: the callers of two accounts would replace each other's tokens
    again and again.
    """
    if app_key is not None and token.app_key_id not in (None, app_key.key_id):
        raise TokenError("token-of-another-key", f"{what} belongs to another app key than the one {origin(app_key)}")
    if token.environment not in (None, settings.environment):
        raise TokenError("token-of-another-environment", f"{what} was not issued for {settings.environment}")
