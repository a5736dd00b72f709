"""The settings, the parts of the chain (store, cache, issuer) and the time limit, for one search for a token."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from kis_token.config import Settings
    from kis_token.core.ports import Cache, Clock, Issuer, Machine, Store, Vault
    from kis_token.deadline import Deadline


@dataclass(frozen=True, slots=True)
class Context:
    """The settings and the parts of the chain, for one search for a token. Without a cache, ``cache`` is None.

    ``tell`` receives a log line when the caller has to wait.
    """

    settings: Settings
    store: Store
    cache: Cache | None
    machine: Machine
    issuer: Issuer
    vault: Vault
    clock: Clock
    deadline: Deadline
    tell: Callable[[str], None]
