"""Output on standard error while a command works. Standard output is only for results."""

from __future__ import annotations

import os
import threading
import time
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from typing import TextIO

    from typing_extensions import Self

#: The number of seconds after which a wait is shown.
_QUIET_SECONDS = 1.0
_CLEAR = "\r\x1b[K"


def say(text: str) -> None:
    """Print a line on standard error."""
    click.echo(text, err=True)


def width_of(stream: TextIO) -> int | None:
    """Return the number of columns of a terminal (80 if unknown). Return None for a pipe or a file."""
    return (os.get_terminal_size(stream.fileno()).columns or 80) if stream.isatty() else None


class Progress:
    """Shows why and how long the command waits.

    On a terminal, one line counts the seconds, and is cleared at the end. In a pipe, a file or a plain terminal, the
    class writes one line for each reason to wait.

    ``is_plain`` is True for a terminal that cannot clear a line. This class is a context manager. In the ``with`` block
    of a `Progress`, only ``tell`` may write to ``stream``.
    """

    def __init__(self, stream: TextIO, *, is_plain: bool = False) -> None:
        self._stream = stream
        self._is_live = stream.isatty() and not is_plain
        self._what = "looking for the token"
        self._began = time.monotonic()
        self._ended = threading.Event()
        self._writing = threading.Lock()
        self._thread = threading.Thread(target=self._count, daemon=True)

    def __enter__(self) -> Self:
        if self._is_live:
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        if self._is_live:
            self._thread.join()
            self._write(_CLEAR)

    def tell(self, text: str) -> None:
        """Show ``text`` as the reason for the present wait."""
        if self._is_live:
            self._what = "".join(filter(str.isprintable, text))  # a name from another machine can have any character
            self._show()
        else:
            self._write(f"{text}\n")

    def _count(self) -> None:
        while not self._ended.wait(_QUIET_SECONDS):
            self._show()

    def _show(self) -> None:
        seconds = f" {int(time.monotonic() - self._began)} s"
        # A wrapped line could not be cleared, so the line is cut. A terminal whose width is unknown reports 0.
        width = (os.get_terminal_size(self._stream.fileno()).columns or 80) - 1
        self._write(f"{_CLEAR}{self._what[: max(width - len(seconds), 0)]}{seconds}")

    def _write(self, text: str) -> None:
        with self._writing:
            self._stream.write(text)
            self._stream.flush()
