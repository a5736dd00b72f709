"""The shared store for a job without a key: it shows GitHub's ID token, and the database decides by the token's claims.

The functions keyless_* of sql/ take the ID token as an argument. The key of the request is the project's public one.
"""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from kis_token.errors import StoreOutage
from kis_token.store.slot_query import READ_SECONDS, check_answer, key_headers, parse_slot
from kis_token.token import instant_or_none

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from kis_token.core.slot import Slot
    from kis_token.store.http_exchange import Wire
    from kis_token.store.id_token import IDTokens

#: A read takes an ID token that is so many seconds old: the database accepts one of 330 s, and a caller that waits for
#: another one reads often.
OLDEST_FOR_READS = 60.0


def read_keyless(wire: Wire, key: str, id_tokens: IDTokens, service_name: str, left: Callable[[], float]) -> Slot:
    """The rows of ``service_name`` that the list of callers allows this job to read, in one request.

    Two requests with the one for the ID token. Raises StoreOutage and StoreMisconfigured.
    """
    fields = ask_keyless(wire, key, id_tokens, service_name, left)
    server_now = instant_or_none(fields.get("server_now"))
    if server_now is None:
        raise _foreign("keyless_read")
    return replace(parse_slot(fields.get("rows"), server_now), hides_keys=fields.get("access") == "token")


def read_issuer_keys(
    wire: Wire, key: str, id_tokens: IDTokens, service_name: str, left: Callable[[], float]
) -> tuple[str, frozenset[str]]:
    """The issuer of this job's ID tokens, and the names of its keys that the database has. Raises as `read_keyless`."""
    fields = ask_keyless(wire, key, id_tokens, service_name, left)
    issuer, kids = fields.get("issuer"), fields.get("issuer_keys")
    if not isinstance(issuer, str) or not isinstance(kids, list):
        raise _foreign("keyless_read")
    return issuer, frozenset(f"{kid}" for kid in kids)


def ask_keyless(
    wire: Wire, key: str, id_tokens: IDTokens, service_name: str, left: Callable[[], float]
) -> dict[str, Any]:
    """The members of the answer to `keyless_read`, which are not checked."""
    arguments = {"service": service_name, "id_token": id_tokens.get(oldest=OLDEST_FOR_READS)}
    return call_function(wire, key, "keyless_read", arguments, left)


def call_function(
    wire: Wire, key: str, function: str, arguments: Mapping[str, object], left: Callable[[], float]
) -> dict[str, Any]:
    """The JSON object that a function answers, in one request with the standard library alone.

    Raises StoreOutage and StoreMisconfigured.
    """
    answer = wire.exchange(
        "POST",
        f"/rest/v1/rpc/{function}",
        {**key_headers(key), "Accept": "application/json", "Content-Type": "application/json"},
        seconds=min(READ_SECONDS, left()),
        body=json.dumps(arguments).encode(),
    )
    check_answer(answer, key)
    try:
        fields = json.loads(answer.body)
    except (ValueError, RecursionError):
        fields = None
    if not isinstance(fields, dict):
        raise _foreign(function)
    return fields


def _foreign(function: str) -> StoreOutage:
    return StoreOutage("store-unreachable", f"The answer to {function} is not Supabase's")
