"""Signals that end a program. The program gives its lease back before it ends."""

from __future__ import annotations

import signal
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

#: SIGBREAK is Ctrl-Break on Windows: a runner sends it when Ctrl-C had no effect.
_NAMES = ("SIGINT", "SIGTERM", "SIGBREAK")

#: The previous handlers, by signal. Handlers belong to the process, so this does too.
_BEFORE: dict[int, Any] = {}


@contextmanager
def interruptible(handler: Callable[..., object] = signal.default_int_handler) -> Iterator[None]:
    """Call ``handler`` on SIGINT, SIGTERM and SIGBREAK in the block; the default handler raises KeyboardInterrupt.

    By itself, Python raises KeyboardInterrupt on SIGINT alone, and not if SIGINT is ignored. A runner that was started
    by ``nohup ./run.sh &`` ignores it, and so do its children. The end of the block restores the previous handlers. A
    call in any thread but the main one has no effect, because only the main thread can set handlers.
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
    """Restore the previous handlers. A process that is about to become another program by exec calls this too."""
    while _BEFORE:
        signal.signal(*_BEFORE.popitem())
