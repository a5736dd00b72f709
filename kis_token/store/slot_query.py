"""Reads a slot's keys and token in one GET request, with the standard library alone.

The module ``error_answers`` makes an error from each error answer. ``slot_query`` imports ``error_answers`` only when
an error answer has come.
"""

from __future__ import annotations

import json
from datetime import datetime, timezone
from urllib.parse import quote

from kis_token.core.slot import KEY_TYPES, TOKEN_TYPE, Row, Slot
from kis_token.errors import StoreError, StoreMisconfigured, StoreOutage
from kis_token.settings.supabase_project import SupabaseKey

TYPE_CHECKING = False
if TYPE_CHECKING:
    from kis_token.store.http_exchange import Answer, Wire

TABLE = "api_credentials"
COLUMNS = "credential_type,credential_value,expires_at,version"
TYPES = (*KEY_TYPES, TOKEN_TYPE)
#: The type of the row with a slot's rejected tokens. Each read of a slot also asks for the row with the rejected
#: tokens, although rejected tokens are not credentials.
REJECTED_TOKENS = "rejected_tokens"

#: If a query has the text "now" as a time, PostgreSQL uses the present time of the database's clock.
DATABASE_NOW = "now"

#: The earliest and the latest accepted time of a Date header. A Date header with a time outside of these two limits is
#: ignored. In a calculation with times near the limits of ``datetime``, an overflow can occur.
_EARLIEST, _LATEST = datetime(1970, 1, 2, tzinfo=timezone.utc), datetime(9000, 1, 1, tzinfo=timezone.utc)

#: A read of the store may take at most this many seconds.
READ_SECONDS = 5.0
#: The longest stored value in characters. Every key and token, sealed or plain, is shorter than this limit.
LARGEST_VALUE = 64 * 1024


def parse_slot(rows: object, server_now: datetime | None) -> Slot:
    """Return the slot in PostgREST's answer.

    Raises StoreOutage if the answer is not a list of rows, for example if it is an HTML page.
    """
    try:
        if not isinstance(rows, list):
            raise TypeError  # noqa: TRY301 - the except clause of this function handles every answer in a wrong format
        remembered = [row["credential_value"] for row in rows if row["credential_type"] == REJECTED_TOKENS]
        slot = Slot(
            {
                row["credential_type"]: Row(str(row["credential_value"]), row["expires_at"], int(row["version"]))
                for row in rows
                # A table that the user created may allow null. A row whose value is null is treated as missing.
                if row["credential_value"] is not None and row["credential_type"] != REJECTED_TOKENS
            },
            server_now,
            frozenset[str]().union(*map(_fingerprints, remembered)),
        )
    except (TypeError, KeyError, ValueError, OverflowError):
        # The caught error is not shown (``from None``), because its text quotes the answer.
        raise StoreOutage("store-unreachable", "Supabase's answer is not a list of rows") from None

    if any(len(row.value) > LARGEST_VALUE for row in slot.rows.values()):
        raise _too_large()
    return slot


def _fingerprints(value: object) -> frozenset[str]:
    """Return the fingerprints that sql/002 wrote into ``value`` as keys of a JSON object.

    If ``value`` is not the text of a JSON object, the result is empty.
    """
    try:
        ends = json.loads(value) if isinstance(value, str) else None
    except (ValueError, RecursionError):
        return frozenset()
    return frozenset(ends) if isinstance(ends, dict) else frozenset()


def _too_large() -> StoreMisconfigured:
    return StoreMisconfigured("store-value-too-large", "A stored value is longer than any key or token")


def store_error(status: int | None, code: str | None) -> StoreError:
    """The error for PostgREST's ``code``, with the HTTP status of the answer."""
    from kis_token.store.error_answers import code_error

    return code_error(status, code or "")


def key_headers(key: str) -> dict[str, str]:
    """The request headers for a value of the setting ``supabase-key``."""
    return SupabaseKey.parse(key).headers()


def read_slot(
    wire: Wire,
    key: str,
    service_name: str,
    *,
    types: tuple[str, ...] = TYPES,
    only_unexpired: bool = False,
    with_inactive: bool = False,
    seconds: float = READ_SECONDS,
) -> Slot:
    """Return the active rows of ``service_name`` that ``key`` may read, in one GET.

    ``types`` limits the result to rows of these types; an empty tuple means all types. ``only_unexpired`` limits the
    result to rows whose ``expires_at`` is in the future by the database's clock. ``with_inactive`` adds the inactive
    rows. The result always has the tokens that the slot remembers as rejected. Raises StoreOutage and
    StoreMisconfigured.
    """
    path = (
        f"/rest/v1/{TABLE}?select={quote(COLUMNS, safe='')}&service_name=eq.{quote(service_name, safe='')}"
        + (f"&credential_type={quote('in.(' + ','.join((*types, REJECTED_TOKENS)) + ')', safe='')}" if types else "")
        + ("" if with_inactive else "&is_active=is.true")
        + (f"&expires_at=gt.{DATABASE_NOW}" if only_unexpired else "")
    )
    answer = wire.exchange("GET", path, {**key_headers(key), "Accept": "application/json"}, seconds=seconds)
    check_answer(answer, key)
    if answer.status != 200:
        raise StoreOutage("store-unreachable", f"Supabase answered with a part of the table (HTTP {answer.status})")
    return parse_slot(answer.json(), parse_http_date(answer.headers["Date"]))


def check_answer(answer: Answer, key: str) -> None:
    """Raise StoreOutage or StoreMisconfigured if the answer is not a success or is too large.

    ``key`` is the key of the request. If Supabase does not accept ``key`` and ``key`` has expired, the error names the
    day on which ``key`` expired.
    """
    if answer.is_cut:
        if answer.status == 200 and "json" in answer.headers.get("Content-Type", ""):
            raise _too_large()  # a configuration error, because a repeated request gets the same answer
        raise StoreOutage("store-unreachable", "Supabase's answer is too large")
    if not 200 <= answer.status < 300:
        from kis_token.store.error_answers import answer_error

        raise answer_error(answer, answer.json(), _ended(key, parse_http_date(answer.headers["Date"])))


def _ended(key: str, now: datetime | None) -> datetime | None:
    """The earliest expiry time of the expired parts of ``key``, from their claims ``exp``; None if no part has expired.

    The parts of a read-only key are `SupabaseKey.gateway` and `SupabaseKey.bearer`. Every other key has one part.
    """
    from kis_token.settings.pasted_values import parse_claims
    from kis_token.token import claimed_time

    now = now or datetime.now(timezone.utc)
    ends = (claimed_time(parse_claims(part), "exp") for part in SupabaseKey.parse(key).parts)
    return min((end for end in ends if end is not None and end <= now), default=None)


def parse_http_date(text: str | None) -> datetime | None:
    """The time in a Date header, in UTC; None if the header is missing or unreadable."""
    from email.utils import parsedate_to_datetime

    try:
        date = parsedate_to_datetime(text or "")
        date = date.replace(tzinfo=date.tzinfo or timezone.utc).astimezone(timezone.utc)
    except (ValueError, OverflowError):
        return None
    return date if _EARLIEST <= date < _LATEST else None
