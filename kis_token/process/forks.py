"""State that may not pass into another process with os.fork(): connections, locks, and imports that are under way.

A forked child has a copy of all memory, but one thread alone. A connection is shared with the parent, whose answers the
child would read; a lock that another thread held stays locked for ever, and so do a module that was being imported and
OpenSSL in the middle of a handshake.
"""

from __future__ import annotations

import os
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Generic, TypeVar

from kis_token.deadline import await_ends

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_Value = TypeVar("_Value")

#: A fork waits no longer than this for the blocks of `no_fork`, in seconds.
LONGEST_WAIT = 5.0


class PerProcess(Generic[_Value]):
    """A value that each process makes for itself, at its first use. Threads may share it, in the child as well.

    ``make`` may run once in each of several threads that come first together; one of the values is kept. It has no
    lock: another thread might hold that at the moment of a fork.
    """

    def __init__(self, make: Callable[[], _Value]) -> None:
        self._make = make
        self._values: dict[int, _Value] = {}

    def get(self) -> _Value:
        """This process's value."""
        process = os.getpid()
        value = self._values.get(process)
        if value is None:
            value = self._values.setdefault(process, self._make())
            for other in set(self._values) - {process}:
                self._values.pop(other, None)  # the parent's, and with it the child's hold on its connections
        return value


class _Gate:
    """Counts the threads that are in a block of `no_fork`. A fork waits until there are none."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._inside = 0

    def enter(self) -> None:
        with self._changed:
            self._inside += 1

    def leave(self) -> None:
        with self._changed:
            self._inside = max(self._inside - 1, 0)  # in a child that was forked within its block it is 0 already
            self._changed.notify_all()

    def before_fork(self) -> None:
        self._changed.acquire()
        self._changed.wait_for(lambda: not self._inside, LONGEST_WAIT)
        await_ends()

    def after_in_parent(self) -> None:
        self._changed.release()

    def after_in_child(self) -> None:
        self.__init__()  # type: ignore[misc]  # as new: the threads that were waiting or inside are not in the child


_GATE = _Gate()  # one for the process, as forks are
if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_GATE.before_fork, after_in_parent=_GATE.after_in_parent, after_in_child=_GATE.after_in_child
    )


@contextmanager
def no_fork() -> Iterator[None]:
    """Let forks of other threads wait for the end of the block, which has to be short. Threads do not wait for another.

    For imports, and for what OpenSSL does under locks of its own: making contexts and handshakes.
    """
    _GATE.enter()
    try:
        yield
    finally:
        _GATE.leave()
