"""What can be seen of a project's tables, functions and grants with a key of its API, without changing anything.

A key of the API cannot ask PostgreSQL what others may do. So each thing is tried: a column by reading no row, a
function with arguments that it refuses before it does anything, what is to be closed by trying to read it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kis_token.errors import REMEDIES, StoreError
from kis_token.reader import TABLE
from kis_token.supabase import SupabaseStore
from kis_token.verdicts import Finding, note, ok, wrong, wrong_as

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from kis_token.config import Settings

_MIGRATE = REMEDIES["store-table-missing"]

_COLUMNS = (
    "id,service_name,credential_type,credential_value,expires_at,is_active,environment,description,updated_at,"
    "created_at,version"
)

#: The functions with the arguments by which the API finds them. No service has the name "": all refuse it at once.
_FUNCTIONS: dict[str, dict[str, object]] = {
    "begin_issuance": {
        "service": "",
        "holder": None,
        "label": None,
        "app_key_id": None,
        "credential_id": None,
        "min_remaining": None,
        "rejected_version": None,
        "rejected_token_id": None,
        "keys_version": None,
    },
    "commit_issuance": {
        "service": "",
        "holder": None,
        "fence": None,
        "value": None,
        "expires_at": None,
        "issued_at": None,
        "token_id": None,
        "rejected": None,
    },
    "abort_issuance": {
        "service": "",
        "holder": None,
        "fence": None,
        "cooldown": None,
        "error_code": None,
        "refused_credential_id": None,
    },
    "save_token": {
        "service": "",
        "value": None,
        "expires_at": None,
        "replaces_version": None,
        "keys_version": None,
    },
    "revoke_token": {"service": "", "version": None, "token_id": None, "label": None},
    "set_app_key": {"service": "", "app_key": None, "app_secret": None, "environment": None, "keeps_token": None},
    "reseal": {"service": "", "credential_type": None, "value": None, "replaces_version": None},
    "prune_issuances": {"keep": "-1 seconds"},
}

#: What nobody but the functions may reach, with the service key neither.
_CLOSED_TABLES = ("credential_leases", "credential_issuances")
_CLOSED_FUNCTION = "issuance_check_service"


def check_schema(store: SupabaseStore, service_name: str) -> Iterator[Finding]:
    """Whether the migrations have been run, all of them, and their grants are as they left them."""
    faults = [_fault(f"table {TABLE}", lambda: store.try_columns(TABLE, _COLUMNS))]
    faults += [_fault(f"function {name}", lambda name=name: _try(store, name)) for name in _FUNCTIONS]  # type: ignore[misc] # mypy knows no defaults of a lambda
    faults.append(_fault("function issuance_status", lambda: store.issuance_status(service_name, 0)))
    found = [fault for fault in faults if fault is not None]
    yield from found
    if not found:
        yield ok("tables", f"{TABLE} and the {len(_FUNCTIONS) + 1} functions are there, and the key may use them")
    closed = [_closed(table, lambda table=table: store.try_columns(table, "service_name")) for table in _CLOSED_TABLES]  # type: ignore[misc] # the same
    closed.append(_closed(_CLOSED_FUNCTION, lambda: store.try_function(_CLOSED_FUNCTION, service="")))
    opened = [finding for finding in closed if finding is not None]
    yield from opened
    if not opened:
        yield ok("grants", "what only the functions may reach is closed to the key")


def check_public_key(settings: Settings, public_key: str | None) -> Iterator[Finding]:
    """Whether the project's public key, which everybody may have, is kept out."""
    if public_key is None:
        yield note(
            "public key",
            "not looked at: whether table and functions are closed to it, and row level security",
            "Set SUPABASE_ANON_KEY to the public key for this command, and it is tried.",
        )
        return
    store = SupabaseStore(settings.supabase_url, public_key)
    try:
        closed = [
            _closed(TABLE, lambda: store.try_columns(TABLE, "service_name")),
            *(_closed(name, lambda name=name: _try(store, name)) for name in _FUNCTIONS),  # type: ignore[misc] # the same
        ]
    finally:
        store.close()
    opened = [finding for finding in closed if finding is not None]
    yield from opened
    if not opened:
        yield ok("public key", "table and functions are closed to it")


def _try(store: SupabaseStore, function: str) -> None:
    store.try_function(function, **_FUNCTIONS[function])


def _fault(what: str, attempt: Callable[[], object]) -> Finding | None:
    """What is wrong with something that the key is to use."""
    try:
        attempt()
    except StoreError as error:
        return wrong_as(what, error)
    return None


def _closed(what: str, attempt: Callable[[], object]) -> Finding | None:
    """What is wrong with something that is to be closed to the key."""
    try:
        attempt()
    except StoreError as error:
        return None if error.code == "store-permission-denied" else wrong_as(f"grants on {what}", error)
    return wrong(f"grants on {what}", "it is open to this key, which somebody has granted", _MIGRATE)
