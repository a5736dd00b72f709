"""The data of ``kis-token status``: the slots, their tokens, and the callers that issued the tokens."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from kis_token.core.rotation import due_at
from kis_token.core.slot import TOKEN_TYPE, read_token
from kis_token.errors import TokenError
from kis_token.store.function_call import foreign
from kis_token.store.http_exchange import one_line
from kis_token.store.slot_query import parse_slot
from kis_token.token import Token, instant_or_none, parse_instant

if TYPE_CHECKING:
    from datetime import datetime

    from kis_token.config import Settings
    from kis_token.core.ports import Vault
    from kis_token.core.slot import Row
    from kis_token.store.supabase import SupabaseStore

#: The number of log rows in which `collect` looks for the caller that issued a slot's token.
_LOG_ROWS = 500

#: The number of characters after which a name or a note is cut for display.
LONGEST_WORD = 80

#: The outcomes that end a lease.
_ENDS = frozenset({"committed", "unchanged", "fenced", "aborted"})


@dataclass(frozen=True, slots=True)
class SlotStatus:
    """One slot. Unknown values are None.

    Attributes:
        token: the token's state: fresh, stale, expired, rejected, inactive, unreadable or none.
        issued_by: the caller that issued the token.
        rotation_due_at: the time from which a rotation renews the token.
        issuing: the present holder of the lease.
        last_error: the error code of the last attempt to issue.
        app_key_expires_at: the end of the stored app key, as its owner has stored it.
    """

    service: str
    environment: str | None = None
    token: str = "none"  # noqa: S105 - the name of a state, and not a password
    issued_at: datetime | None = None
    expires_at: datetime | None = None
    issued_by: str | None = None
    rotation_due_at: datetime | None = None
    issuing: str | None = None
    last_error: str | None = None
    app_key_expires_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Event:
    """One attempt to issue, and its outcome."""

    happened_at: datetime
    service: str
    outcome: str
    by: str | None = None
    error_code: str | None = None


@dataclass(frozen=True, slots=True)
class Status:
    """The slots, sorted by name, and the last events, newest first. ``now`` is the database's time."""

    now: datetime
    slots: tuple[SlotStatus, ...]
    events: tuple[Event, ...]


def collect(
    settings: Settings, store: SupabaseStore, vault: Vault, *, only: str | None = None, events: int = 10
) -> Status:
    """Read all slots, or the one slot that ``only`` names, with one request.

    Only the token in the slot of the settings is unsealed. For all slots except the slot of the settings, the data come
    from the columns of the slots' rows. Raises StoreError.
    """
    log = store.issuance_status(only, _LOG_ROWS, token_of=settings.service_name)
    rows, own_slot = log["rows"], parse_slot(log["token_rows"], None)
    own = own_slot.rows.get(TOKEN_TYPE)
    try:
        now = parse_instant(log["server_now"])
        leases = {lease["service_name"]: lease for lease in log["leases"]}
        tokens = {row["service_name"]: row for row in rows if row["credential_type"] == TOKEN_TYPE}
        key_ends = {
            row["service_name"]: instant_or_none(row["expires_at"])
            for row in rows
            if row["credential_type"] == "app_key" and row["is_active"]
        }
        environments = {row["service_name"]: word(row["environment"]) for row in rows}
        services = [only] if only else sorted({row["service_name"] for row in rows} | leases.keys())
        slots = []
        for name in services:
            slot = replace(
                _slot(name, leases.get(name, {}), now),
                environment=environments.get(name),
                app_key_expires_at=key_ends.get(name),
            )
            if name in tokens:
                opened = _opened(own, settings, vault) if own is not None and name == settings.service_name else None
                slot = _with_token(slot, tokens[name], leases.get(name, {}), opened, now=now, settings=settings)
                if isinstance(opened, Token) and opened.token_id in own_slot.rejected:
                    slot = replace(slot, token="rejected", rotation_due_at=None)  # noqa: S106 - the name of a state, and not a password
                slot = replace(slot, issued_by=_issuer(name, tokens[name], leases.get(name, {}), log["issuances"]))
            slots.append(slot)
        ended = {(row["service_name"], row["fence"]) for row in log["issuances"] if row["outcome"] in _ENDS}
        shown = [
            _event(row)
            for row in log["issuances"]
            if row["outcome"] != "granted" or (row["service_name"], row["fence"]) not in ended
        ]
    except (KeyError, TypeError, ValueError) as error:
        raise foreign("issuance_status") from error
    return Status(now, tuple(slots), tuple(shown[:events]))


def _slot(name: str, lease: dict[str, Any], now: datetime) -> SlotStatus:
    """Return the status of a slot from the row of its lease."""
    lease_until = instant_or_none(lease.get("lease_until"))
    is_held = lease.get("holder_label") is not None and lease_until is not None and lease_until > now
    return SlotStatus(
        word(name) or "",
        issuing=word(lease["holder_label"]) if is_held else None,
        last_error=word(lease.get("last_error")),
    )


def _with_token(
    slot: SlotStatus,
    row: dict[str, Any],
    lease: dict[str, Any],
    opened: Token | str | None,
    *,
    now: datetime,
    settings: Settings,
) -> SlotStatus:
    """Return ``slot`` with the data of its token.

    The data come from ``opened`` if ``opened`` is a Token, and otherwise from the rows of token and lease.
    """
    slot = replace(slot, environment=word(row["environment"]))
    issued_at = instant_or_none(lease.get("issued_at")) if _is_known(row, lease) else None
    expires_at = instant_or_none(row["expires_at"])
    if isinstance(opened, Token):
        issued_at, expires_at = opened.issued_at, opened.expires_at
    slot = replace(slot, issued_at=issued_at, expires_at=expires_at)
    if not row["is_active"]:
        return replace(slot, token="inactive", expires_at=None)  # noqa: S106 - the name of a state, and not a password
    if expires_at is None or isinstance(opened, str):
        return replace(slot, token="unreadable")  # noqa: S106 - the name of a state, and not a password
    # The object `times` needs only the times of a token, and not its text.
    times = Token("", expires_at=expires_at, issued_at=issued_at or expires_at)
    return replace(
        slot,
        token=times.state(now, settings.min_validity).value,
        rotation_due_at=due_at(times, settings.refresh_after) if issued_at is not None else None,
    )


def _issuer(name: str, row: dict[str, Any], lease: dict[str, Any], log: list[dict[str, Any]]) -> str | None:
    """Return the caller that issued the stored token, or None if the log does not name this caller."""
    if _is_known(row, lease):
        for event in log:
            same = (event["service_name"], event["token_id"]) == (name, lease["token_id"])
            if same and event["outcome"] == "committed":
                return word(event["holder_label"])
    return None


def _is_known(row: dict[str, Any], lease: dict[str, Any]) -> bool:
    """Whether the row of the lease has the data (issue time and token ID) of the stored token.

    If the row of the lease has the data of another token, the stored token was stored without a lease.
    """
    return bool(row["version"] == lease.get("token_version"))


def _opened(row: Row, settings: Settings, vault: Vault) -> Token | str:
    """Return the token in the slot's row, or the error code if the token cannot be read."""
    try:
        return read_token(row, settings.service_name, vault)
    except TokenError as error:
        return error.code


def _event(row: dict[str, Any]) -> Event:
    return Event(
        happened_at=parse_instant(row["happened_at"]),
        service=word(row["service_name"]) or "",
        outcome=str(row["outcome"]),
        # The outcome "saved" means that a token was stored without a lease. A log row with the outcome "saved" has the
        # label of the previous lease's holder. This holder did not store the token.
        by=None if row["outcome"] == "saved" else word(row["holder_label"]),
        error_code=word(row["error_code"]),
    )


def word(text: object) -> str | None:
    """Return a text from another machine in a form that is safe for a terminal. Return None for None."""
    return None if text is None else one_line(f"{text}", LONGEST_WORD)
