"""What people see on standard error while a command works, and how. Standard output is for results alone."""

from __future__ import annotations

import os
import threading
import time
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from typing import TextIO

    from typing_extensions import Self

#: What takes less is not worth a line.
_QUIET_SECONDS = 1.0
_CLEAR = "\r\x1b[K"


def say(text: str) -> None:
    """A line on standard error."""
    click.echo(text, err=True)


class Progress:
    """What is waited for: on a terminal one line that counts the seconds and goes away, elsewhere plain lines.

    ``is_plain`` is for a terminal that can take nothing back. A context manager. Whatever else goes to ``stream`` comes
    after it, or by way of ``tell``.
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
        """Something is waited for."""
        if self._is_live:
            self._what = "".join(filter(str.isprintable, text))  # names of other machines are in it
            self._show()
        else:
            self._write(f"{text}\n")

    def _count(self) -> None:
        while not self._ended.wait(_QUIET_SECONDS):
            self._show()

    def _show(self) -> None:
        seconds = f" {int(time.monotonic() - self._began)} s"
        # Cut short, since a line that wraps could not be taken back. A terminal that knows no width says 0.
        width = (os.get_terminal_size(self._stream.fileno()).columns or 80) - 1
        self._write(f"{_CLEAR}{self._what[: max(width - len(seconds), 0)]}{seconds}")

    def _write(self, text: str) -> None:
        with self._writing:
            self._stream.write(text)
            self._stream.flush()
