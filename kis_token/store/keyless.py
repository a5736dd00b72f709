"""The shared store for a job without a key: the job's ID token from GitHub shows the database what the job may do.

The functions keyless_* of sql/ take the ID token as an argument. Each request to Supabase sends the project's public
key in place of a secret key.
"""

from __future__ import annotations

from dataclasses import replace

from kis_token.store.function_call import RpcAnswer, call_function
from kis_token.store.slot_query import READ_SECONDS, parse_slot

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from kis_token.core.slot import Slot
    from kis_token.store.http_exchange import Wire
    from kis_token.store.id_token import IDTokens

#: If an ID token is at most this many seconds old, a read of the store may use it again. A waiting caller reads often,
#: and should not ask GitHub for an ID token each time. The database accepts an ID token for 330 s.
OLDEST_FOR_READS = 60.0


def read_keyless(wire: Wire, key: str, id_tokens: IDTokens, service_name: str, left: Callable[[], float]) -> Slot:
    """The rows of ``service_name`` that the list of callers allows this job to read.

    The read is one request to Supabase. A new ID token needs one more request, to GitHub. Raises StoreOutage and
    StoreMisconfigured.
    """
    answer = _ask_keyless(wire, key, id_tokens, service_name, left)
    slot = parse_slot(answer.fields.get("rows"), answer.time("server_now"))
    return replace(slot, hides_keys=answer.fields.get("access") == "token")


def read_issuer_keys(
    wire: Wire, key: str, id_tokens: IDTokens, service_name: str, left: Callable[[], float]
) -> tuple[str, frozenset[str]]:
    """The issuer of this job's ID tokens, and the names of the issuer's keys that the database has.

    Raises StoreOutage and StoreMisconfigured.
    """
    answer = _ask_keyless(wire, key, id_tokens, service_name, left)
    issuer, kids = answer.text("issuer"), answer.fields.get("issuer_keys")
    if issuer is None or not isinstance(kids, list):
        raise answer.outage()
    return issuer, frozenset(f"{kid}" for kid in kids)


def _ask_keyless(wire: Wire, key: str, id_tokens: IDTokens, service_name: str, left: Callable[[], float]) -> RpcAnswer:
    arguments = {"service": service_name, "id_token": id_tokens.get(oldest=OLDEST_FOR_READS)}
    answer = call_function(wire, key, "keyless_read", arguments, seconds=min(READ_SECONDS, left()))
    return RpcAnswer("keyless_read", answer, needed=("server_now",))
