"""Values that each process has for itself, because a forked child must not use the parent's connections."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

_Value = TypeVar("_Value")


class PerProcess(Generic[_Value]):
    """A value that each process makes for itself at the first use. All threads of a process share the value.

    If several threads call `get` before the value exists, ``make`` may run in each of the threads, and one value is
    kept. The class has no lock, because another thread could hold the lock at the moment of a fork.
    """

    def __init__(self, make: Callable[[], _Value]) -> None:
        self._make = make
        self._values: dict[int, _Value] = {}

    def get(self) -> _Value:
        """Return this process's value."""
        process = os.getpid()
        value = self._values.get(process)
        if value is None:
            value = self._values.setdefault(process, self._make())
            for other in set(self._values) - {process}:
                # A value that the fork copied from the parent process refers to the parent's connections.
                self._values.pop(other, None)
        return value
