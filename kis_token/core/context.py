"""The parts that one call of the chain works with, and its time limit."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from kis_token.clock import Clock
    from kis_token.config import Settings
    from kis_token.core.ports import Cache, Issuer, Machine, Store, Vault
    from kis_token.deadline import Deadline


@dataclass(frozen=True, slots=True)
class Context:
    """The settings and parts of one call. ``cache`` is None where it is turned off.

    ``tell`` gets a line for the people who watch when the call has to wait.
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
