"""The state that a fork must not copy: connections, locks, and unfinished imports.

A forked child has a copy of all memory, but only one thread. A forked child shares each connection with the parent, and
would read the parent's answers. If another thread held a lock at the fork, the lock stays locked in the child. If
OpenSSL held a lock in a handshake at the fork, that lock stays locked in the child, too. If another thread was
importing a module at the fork, that module stays unfinished in the child.
"""

from __future__ import annotations

import os
import threading
from contextlib import contextmanager

from kis_token.deadline import await_ends

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

#: The longest time, in seconds, for which a fork waits until all `no_fork` blocks have ended.
LONGEST_WAIT = 5.0


class _Gate:
    """Counts the threads that are in `no_fork` blocks. A fork waits until no thread is in a `no_fork` block."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._inside = 0

    def enter(self) -> None:
        with self._changed:
            self._inside += 1

    def leave(self) -> None:
        with self._changed:
            # In a child that was forked within a `no_fork` block, `_inside` is 0 already.
            self._inside = max(self._inside - 1, 0)
            self._changed.notify_all()

    def before_fork(self) -> None:
        self._changed.acquire()
        self._changed.wait_for(lambda: not self._inside, LONGEST_WAIT)
        await_ends()

    def after_in_parent(self) -> None:
        self._changed.release()

    def after_in_child(self) -> None:
        self.__init__()  # type: ignore[misc]  # a child begins with one thread, which is in no `no_fork` block


_GATE = _Gate()  # Each process has its own object, because a fork copies the process.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_GATE.before_fork, after_in_parent=_GATE.after_in_parent, after_in_child=_GATE.after_in_child
    )


@contextmanager
def no_fork() -> Iterator[None]:
    """If another thread forks, make the fork wait for the end of the block. The block must be short.

    Several threads can be in `no_fork` blocks at the same time. If another thread may fork during an import, the import
    must be in a `no_fork` block. A call in which OpenSSL holds locks (to make an SSL context, or for a TLS handshake)
    must also be in a `no_fork` block.
    """
    _GATE.enter()
    try:
        yield
    finally:
        _GATE.leave()
