"""Spoilt copies of the project: each copy lacks one guard, and a chaos run with the copy must find errors.

A copy is made by patches, in the process from which the callers are forked.
"""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

import kis_token.core.lease
import kis_token.core.lookup
from kis_token.core.resolver import Resolver
from kis_token.core.retry import Retry
from kis_token.errors import StoreOutage
from kis_token.local.machine_lock import LocalMachine

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

    from kis_token.core.resolution import Resolution, View
    from kis_token.core.retry import RetryTime


def _no_retry() -> AbstractContextManager[object]:
    """Call the store only once, even if the call fails."""

    def run(_: Retry, ask: Callable[[], Any], __: Callable[[], RetryTime]) -> Any:  # noqa: ANN401 - as the original
        return ask()

    return patch.object(Retry, "run", run)


def _no_retry_time_for_a_read() -> AbstractContextManager[object]:
    """Treat one failed read as an outage, so that a caller without a valid token issues without the store."""
    return patch.object(kis_token.core.lookup, "patiently", _at_once)


@contextmanager
def _no_wait_for_a_lease() -> Iterator[None]:
    """Let a caller issue without the store although it knows that another caller holds the lease."""
    fall_back = Resolver._fall_back  # noqa: SLF001 - the copy needs the private method

    def issue_beside(self: Resolver, view: View, error: Exception) -> Resolution:
        if isinstance(error, StoreOutage) and view.outage is None:
            return self._without_store(replace(view, outage=error), error)
        return fall_back(self, view, error)  # type: ignore[arg-type]  # the original's own errors

    with ExitStack() as stack:
        stack.enter_context(patch.object(kis_token.core.lease, "to_the_end", _at_once))
        stack.enter_context(patch.object(kis_token.core.lease, "LONGEST_UNKNOWN", 0.0))
        stack.enter_context(patch.object(kis_token.core.lease, "LAPSE", 1000.0))
        stack.enter_context(patch.object(Resolver, "_fall_back", issue_beside))
        stack.enter_context(_no_minute())  # the machine also remembers leases
        yield


def _no_minute() -> AbstractContextManager[object]:
    """Let a machine forget its last call to KIS without the store."""
    return patch.object(LocalMachine, "not_before", lambda *_: None)


def _at_once(_: float, __: float) -> float:
    return -1.0


SPOILT: dict[str, Callable[[], AbstractContextManager[object]]] = {
    "no-retry": _no_retry,
    "no-retry-time-for-a-read": _no_retry_time_for_a_read,
    "no-wait-for-a-lease": _no_wait_for_a_lease,
    "no-minute": _no_minute,
}
