"""Signals that end a program: each gives a lease back on its way out."""

from __future__ import annotations

import signal
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

#: SIGBREAK is Ctrl-Break on Windows: a runner sends it when Ctrl-C had no effect.
_NAMES = ("SIGINT", "SIGTERM", "SIGBREAK")

#: The handlers of before, by signal. Signals belong to the process, and so does this.
_BEFORE: dict[int, Any] = {}


@contextmanager
def interruptible(handler: Callable[..., object] = signal.default_int_handler) -> Iterator[None]:
    """Call ``handler`` on SIGINT, SIGTERM and SIGBREAK in the block; the default one raises KeyboardInterrupt.

    Python by itself raises it on SIGINT alone, and not where SIGINT is ignored: a runner that was started by
    ``nohup ./run.sh &`` ignores it, and so do its children. The handlers of before return at the end of the block. In
    another thread than the main one this has no effect, since only the main thread gets signals.
    """
    for name in filter(lambda name: hasattr(signal, name), _NAMES):
        number = getattr(signal, name)
        with suppress(ValueError):  # another thread
            _BEFORE[number] = signal.signal(number, handler)
    try:
        yield
    finally:
        restore()


def restore() -> None:
    """Put the handlers of before back, also for a program that this process is about to become."""
    while _BEFORE:
        signal.signal(*_BEFORE.popitem())
