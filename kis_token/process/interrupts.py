"""Make signals raise an exception, so that a program can give its lease back before a signal ends the program."""

from __future__ import annotations

import signal
from contextlib import contextmanager, suppress

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

#: The signals that end a program. SIGBREAK is Ctrl-Break on Windows; a runner sends SIGBREAK if Ctrl-C has no effect.
_NAMES = ("SIGINT", "SIGTERM", "SIGBREAK")

#: The previous handlers of this process, by signal.
_BEFORE: dict[int, Any] = {}


@contextmanager
def interruptible(handler: Callable[..., object] = signal.default_int_handler) -> Iterator[None]:
    """Call ``handler`` on SIGINT, SIGTERM and SIGBREAK in the block; the default handler raises KeyboardInterrupt.

    Without this function, Python raises KeyboardInterrupt only for SIGINT. If SIGINT is ignored, Python never raises
    KeyboardInterrupt. A runner that was started by ``nohup ./run.sh &`` ignores SIGINT, and so do the runner's
    children. The end of the block restores the previous handlers. Outside of the main thread the block has no effect,
    because only the main thread can set signal handlers.
    """
    for name in filter(lambda name: hasattr(signal, name), _NAMES):
        number = getattr(signal, name)
        with suppress(ValueError):  # only the main thread can set signal handlers
            _BEFORE[number] = signal.signal(number, handler)
    try:
        yield
    finally:
        restore()


def restore() -> None:
    """Restore the previous handlers. A process must also call this function before exec replaces its program."""
    while _BEFORE:
        signal.signal(*_BEFORE.popitem())
