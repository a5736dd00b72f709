"""The shared store for a job without a key: it shows GitHub's ID token, and the database decides by the token's claims.

The functions keyless_* of sql/ take the ID token as an argument. The key of the request is the project's public one.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from kis_token.errors import StoreOutage
from kis_token.store.slot_query import READ_SECONDS, check_answer, key_headers, parse_slot
from kis_token.token import instant_or_none

if TYPE_CHECKING:
    from collections.abc import Callable

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
    arguments = {"service": service_name, "id_token": id_tokens.get(oldest=OLDEST_FOR_READS)}
    headers = {**key_headers(key), "Accept": "application/json", "Content-Type": "application/json"}
    answer = wire.exchange(
        "POST",
        "/rest/v1/rpc/keyless_read",
        headers,
        seconds=min(READ_SECONDS, left()),
        body=json.dumps(arguments).encode(),
    )
    check_answer(answer, key)
    try:
        fields = json.loads(answer.body)
    except (ValueError, RecursionError):
        fields = None
    server_now = instant_or_none(fields.get("server_now")) if isinstance(fields, dict) else None
    if server_now is None:
        raise StoreOutage("store-unreachable", "The answer to keyless_read is not Supabase's")
    return parse_slot(fields.get("rows"), server_now)
