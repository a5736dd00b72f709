"""The judges of the chaos. Each judge searches the records of KIS, of the database and of the machines.

No judge uses this project's code. KIS's record decides whether a token was valid, and the database's record decides
whether a caller had a lease.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from bench.chaos.judges_of_calls import (
    alone_beside_the_store,
    alone_in_a_hiccup,
    calls_after_sleep,
    close_calls,
    close_calls_alone,
    close_calls_beside_a_lease,
    close_calls_of_one_machine,
    failed_in_a_hiccup,
    issued_twice,
)
from bench.chaos.judges_of_tokens import (
    expired_in_sleep,
    failed_with_cache,
    failed_with_store,
    killed_beside_another,
    killed_beside_cached,
    killed_tokens,
    nonsense_stored,
    older_over_newer,
    rejected_tokens,
)
from bench.chaos.simulated_time import MIXED

if TYPE_CHECKING:
    from collections.abc import Callable

    from bench.chaos.records import Records


def answers_of_another(records: Records) -> list[str]:
    """Return the answers of the API that belonged to another process of the same bot, after a fork."""
    return [each.kind for each in records.tallies if each.where == MIXED]


def tracebacks(records: Records) -> list[str]:
    """Return exceptions of other code, errors ``internal-error`` of this project, and all output on stderr."""
    found = [f"{each.by}: {each.crash}" for each in records.attempts if each.crash is not None]
    found += [f"{each.by}: internal-error" for each in records.attempts if each.code == "internal-error"]
    return found + ([records.stderr] if records.stderr else [])


#: The judges of findings that must not occur. Each key is the row of the table that counts the findings.
JUDGES: dict[str, Callable[[Records], list[str]]] = {
    "tokens handed out that KIS would reject": rejected_tokens,
    "tokenP calls with leases within a minute": close_calls,
    "tokenP without a lease, store answered": alone_beside_the_store,
    "tokenP without a lease, too early": alone_in_a_hiccup,
    "tokenP within a minute, alone on one machine": close_calls_of_one_machine,
    "new tokens within a minute": issued_twice,
    "older tokens stored over newer": older_over_newer,
    "stored values that are not valid tokens": nonsense_stored,
    "tracebacks and other errors": tracebacks,
    "no token, although the cache held one": failed_with_cache,
    "no token, although the store gave one": failed_with_store,
    "no token, given up too early": failed_in_a_hiccup,
    "ended by KIS, with the later one in the cache": killed_beside_cached,
    "answers of another process, after a fork": answers_of_another,
}
#: The judges of findings that no caller can prevent, or that the design allows.
LIMITS: dict[str, Callable[[Records], list[str]]] = {
    "handed out after KIS had ended it early": killed_tokens,
    "  of them with a good one in the store": killed_beside_another,
    "handed out expired after a suspension": expired_in_sleep,
    "tokenP within a minute, one without a lease": close_calls_alone,
    "  of them both from one machine": close_calls_beside_a_lease,
    "tokenP within a minute, after a suspension": calls_after_sleep,
}
