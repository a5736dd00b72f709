"""The warm read: a slot's keys and token in one GET, with the standard library alone.

Also the one place that tells an outage of Supabase from a mistake in its set-up; ``supabase.py`` asks it too.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import TYPE_CHECKING
from urllib.parse import quote

from kis_token.errors import StoreError, StoreMisconfigured, StoreOutage

if TYPE_CHECKING:
    from kis_token.wire import Answer, Wire

TABLE = "api_credentials"
COLUMNS = "credential_type,credential_value,expires_at,version"
TYPES = ("app_key", "app_secret", "access_token")
#: The row that remembers which of a slot's tokens are rejected. It is no credential, and each read asks for it too.
REJECTED_TOKENS = "rejected_tokens"

#: What PostgreSQL reads as its present where a time is asked for.
DATABASE_NOW = "now"

#: A Date outside of these is ignored: at the edge of the calendar no sum is possible.
_EARLIEST, _LATEST = datetime(1970, 1, 2, tzinfo=timezone.utc), datetime(9000, 1, 1, tzinfo=timezone.utc)

#: The bound for one read, in seconds.
READ_SECONDS = 5.0
#: Characters of one stored value: no key or token is as long, sealed or not.
LARGEST_VALUE = 64 * 1024

_MISCONFIGURED = {
    "42501": ("store-permission-denied", "Supabase does not let this key do that"),
    "42P01": ("store-table-missing", f"Supabase has no table {TABLE}"),
    "42704": ("store-table-missing", f"Supabase has no table {TABLE}"),  # its row type, in a function
    "PGRST205": ("store-table-missing", f"Supabase has no table {TABLE}"),
    "42703": ("store-column-missing", f"the table {TABLE} lacks a column"),
    "PGRST204": ("store-column-missing", f"the table {TABLE} lacks a column"),
    "PGRST202": ("store-function-missing", "Supabase lacks the functions that govern issuing"),
    "42883": ("store-function-missing", "Supabase lacks the functions that govern issuing"),
    "PGRST106": ("store-rejected", "Supabase does not expose the schema public"),
    "PGRST301": ("store-key-rejected", "Supabase does not accept the key"),
    "PGRST303": ("store-key-rejected", "Supabase does not accept the key"),
}


#: The detail with which the functions of sql/ answer that the table cannot store a row; their message says why.
_CANNOT_STORE = "store-cannot-store"

_LONGEST_CODE = len("PGRST000")
#: Codes that pass by themselves: no connection, too busy, a deadlock, a shutdown, an internal error.
_PASSING = ("08", "40", "53", "57", "58", "XX", "PGRST00")


@dataclass(frozen=True, slots=True)
class Row:
    """One active row as it is stored: the value may be sealed, the expiry is the column's text."""

    value: str = field(repr=False)
    expires_at: str | None
    version: int

    @property
    def is_empty(self) -> bool:
        """Whether it holds blanks alone. Such a row counts as absent, as one with null does."""
        return not self.value.strip()


@dataclass(frozen=True, slots=True)
class Slot:
    """All active rows of one service, by type; ``server_now`` is the answer's Date, None when it had none.

    ``rejected`` are the fingerprints of the tokens that the slot remembers as rejected or revoked.
    """

    rows: dict[str, Row]
    server_now: datetime | None
    rejected: frozenset[str] = frozenset()


def parse_slot(rows: object, server_now: datetime | None) -> Slot:
    """A slot from PostgREST's answer. Raises StoreOutage when that is no list of rows: some proxy's page, say."""
    try:
        if not isinstance(rows, list):
            raise TypeError  # noqa: TRY301 - joins the other ways of not being a list of rows
        remembered = [row["credential_value"] for row in rows if row["credential_type"] == REJECTED_TOKENS]
        slot = Slot(
            {
                row["credential_type"]: Row(str(row["credential_value"]), row["expires_at"], int(row["version"]))
                for row in rows
                # A table of the user's own may allow null: it is no value.
                if row["credential_value"] is not None and row["credential_type"] != REJECTED_TOKENS
            },
            server_now,
            frozenset[str]().union(*map(_fingerprints, remembered)),
        )
    except (TypeError, KeyError, ValueError, OverflowError):  # their texts quote the answer
        raise StoreOutage("store-unreachable", "Supabase answered with something that is not the table") from None

    if any(len(row.value) > LARGEST_VALUE for row in slot.rows.values()):
        raise _too_large()
    return slot


def _fingerprints(value: object) -> frozenset[str]:
    """The keys of a JSON object, as sql/002 writes it. Anything else is no error: it names no token."""
    try:
        ends = json.loads(value) if isinstance(value, str) else None
    except (ValueError, RecursionError):
        return frozenset()
    return frozenset(ends) if isinstance(ends, dict) else frozenset()


def _too_large() -> StoreMisconfigured:
    return StoreMisconfigured("store-value-too-large", "A stored value is longer than any key or token")


def store_error(status: int | None, code: str | None) -> StoreError:
    """What a refusing answer means, from PostgREST's error ``code`` and, where that says nothing, the HTTP status.

    Texts of the answer are left out: they may quote values.
    """
    if code in _MISCONFIGURED:
        known, message = _MISCONFIGURED[code]
        return StoreMisconfigured(known, f"{message} ({code})")
    if status in (401, 403):
        return StoreMisconfigured("store-key-rejected", f"Supabase does not accept the key (HTTP {status})")
    # What has not the form of a code is not repeated: it may be any text.
    named = code if code is not None and code.isalnum() and len(code) <= _LONGEST_CODE else ""
    shown = " ".join(part for part in (f"HTTP {status}" if status else "", named) if part) or "no reason given"
    if status is not None and 300 <= status < 400:
        return StoreMisconfigured("store-redirects", f"Supabase answers with a redirect ({shown})")
    if status == 404 and code is None:
        return StoreMisconfigured(
            "store-not-supabase", f"What answers at supabase-url is no Supabase project ({shown})"
        )
    passing = code is not None and code.startswith(_PASSING)
    if status is not None and 400 <= status < 500 and status not in (408, 425, 429) and not passing:
        return StoreMisconfigured("store-rejected", f"Supabase refused the request ({shown})")
    return StoreOutage("store-unreachable", f"Supabase does not work ({shown})")


def _cannot_store(reason: object) -> StoreMisconfigured:
    """The error for a table that cannot store a row. The functions write ``reason``, which holds no value."""
    words = "".join(letter for letter in " ".join(f"{reason}".split()) if letter.isprintable())
    return StoreMisconfigured("store-cannot-store", f"Supabase cannot store the token: {words[:300]}")


def key_headers(key: str) -> dict[str, str]:
    """What shows the key to Supabase's gateway and to PostgREST behind it. A reader's has one word for each."""
    gateway, _, bearer = key.partition(" ")
    return {"apikey": gateway, "Authorization": f"Bearer {bearer or gateway}"}


def read_slot(
    wire: Wire,
    key: str,
    service_name: str,
    *,
    types: tuple[str, ...] = TYPES,
    only_living: bool = False,
    seconds: float = READ_SECONDS,
) -> Slot:
    """The active rows of ``service_name`` that ``key`` may read, in one GET.

    Of these ``types``, or all when there are none; ``only_living``: those that end later, by the database's clock. The
    tokens that the slot remembers as rejected come with any of them. Raises StoreOutage, as `Wire.exchange` does, and
    StoreMisconfigured.
    """
    path = (
        f"/rest/v1/{TABLE}?select={quote(COLUMNS, safe='')}&service_name=eq.{quote(service_name, safe='')}"
        + (f"&credential_type={quote('in.(' + ','.join((*types, REJECTED_TOKENS)) + ')', safe='')}" if types else "")
        + "&is_active=is.true"
        + (f"&expires_at=gt.{DATABASE_NOW}" if only_living else "")
    )
    answer = wire.exchange("GET", path, {**key_headers(key), "Accept": "application/json"}, seconds=seconds)
    check_answer(answer)
    if answer.status != 200:
        raise store_error(answer.status, None)
    return parse_slot(_json(answer), parse_http_date(answer.headers["Date"]))


def check_answer(answer: Answer) -> None:
    """Raise StoreOutage or StoreMisconfigured for an answer that is not one of success, or not whole."""
    if answer.is_cut:
        if answer.status == 200 and "json" in answer.headers.get("Content-Type", ""):
            raise _too_large()  # no outage: waiting does not mend it
        raise StoreOutage("store-unreachable", "Supabase's answer is too large")
    if not 200 <= answer.status < 300:
        body = _json(answer)
        code = body.get("code") if isinstance(body, dict) else None
        if isinstance(body, dict) and body.get("details") == _CANNOT_STORE:
            raise _cannot_store(body.get("message"))
        raise store_error(answer.status, code if isinstance(code, str) else None)


def _json(answer: Answer) -> object:
    """The body, as far as it is JSON; else None."""
    try:
        return json.loads(answer.body)
    except (ValueError, RecursionError):
        return None


def parse_http_date(text: str | None) -> datetime | None:
    """The Date header, in UTC; None when there is none or it cannot be read."""
    from email.utils import parsedate_to_datetime

    try:
        date = parsedate_to_datetime(text or "")
        date = date.replace(tzinfo=date.tzinfo or timezone.utc).astimezone(timezone.utc)
    except (ValueError, OverflowError):
        return None
    return date if _EARLIEST <= date < _LATEST else None
