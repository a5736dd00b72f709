"""Read the lines that a user types or pastes at a terminal, without losing a pasted line or showing a secret.

While a `LineReader` is open, the terminal does not echo any input, even between two questions. So the user can paste
several lines at any time. The pasted lines answer the present question and the next ones, and a pasted secret does not
appear on the screen. The `LineReader` itself writes the user's answers to the screen, but no secret.
"""

from __future__ import annotations

import codecs
import os
import re
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

import click

if sys.platform == "win32":
    import msvcrt
else:
    import termios

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import TextIO

#: Keys of a terminal: Enter, Ctrl-C, Ctrl-D, backspace, Ctrl-U.
_ENTER, _INTERRUPT, _END, _BACKSPACES, _CLEAR_LINE = "\r\n", "\x03", "\x04", "\x7f\b", "\x15"
#: The escape sequences that a terminal sends for an arrow key, and before and after pasted text.
_SEQUENCE = re.compile(r"\x1b(?:\[[0-9;?]*[@-~]|O.|[^\[O])")
_UNFINISHED_SEQUENCE = re.compile(r"\x1b(?:\[[0-9;?]*|O)?\Z")

#: An answer that looks like a secret is not shown, even if the question does not ask for a secret: the user may have
#: pasted a wrong value.
_SECRET = re.compile(r"sb_secret_|sbp_|eyJ|[A-Za-z0-9+/=]{30,}", re.ASCII)


class LineReader:
    """Reads lines from a terminal on standard input, and writes prompts to ``out``. Opened by `open_line_reader`."""

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._read = ""

    def read(self, prompt: str, *, is_hidden: bool = False) -> str:
        """Show the prompt, and return the next line without its line break.

        Raises click.Abort for Ctrl-C and Ctrl-D.
        """
        self._write(prompt)
        line, shown = "", ""
        while True:
            text, is_complete = self._take_line(line)
            line = text
            if not is_hidden:
                shown = self._show(line, shown)
            if is_complete:
                self._write(f" ({len(line.strip())} characters)\n" if is_hidden and line.strip() else "\n")
                return line
            self._read += self._more()

    def drop(self) -> bool:
        """Drop the pasted lines that `read` has not returned yet. Returns whether a line was dropped."""
        self._read += self._pending()
        had_any, self._read = bool(self._read.strip()), ""
        return had_any

    def _take_line(self, line: str) -> tuple[str, bool]:
        """Apply the typed characters to ``line``, up to Enter. Returns the line, and whether Enter has ended it."""
        if _UNFINISHED_SEQUENCE.search(self._read):
            return line, False
        keys, self._read = _SEQUENCE.sub("", self._read), ""
        for place, key in enumerate(keys):
            if key in _ENTER:
                rest = keys[place + 1 :]
                self._read = rest[1:] if key == "\r" and rest.startswith("\n") else rest
                return line, True
            if key == _INTERRUPT or (key == _END and not line):
                raise click.Abort
            if key in _BACKSPACES:
                line = line[:-1]
            elif key == _CLEAR_LINE:
                line = ""
            elif key.isprintable() or key == "\t":
                line += key
        return line, False

    def _show(self, line: str, shown: str) -> str:
        """Replace ``shown`` on the screen by ``line``, or by bullets for a secret. Returns the text on the screen."""
        visible = "\u2022" * len(line) if _SECRET.search(line) and "://" not in line else line
        visible = "".join(filter(str.isprintable, visible))
        same = min(len(visible), len(shown))
        while visible[:same] != shown[:same]:
            same -= 1
        self._write("\b \b" * (len(shown) - same) + visible[same:])
        return visible

    def _write(self, text: str) -> None:
        try:
            self._out.write(text)
        except UnicodeEncodeError:
            self._out.write(text.encode("ascii", "replace").decode())
        self._out.flush()

    def _more(self) -> str:
        raise NotImplementedError

    def _pending(self) -> str:
        raise NotImplementedError


if sys.platform == "win32":

    class _WindowsReader(LineReader):
        def _more(self) -> str:
            return msvcrt.getwch() + self._pending()

        def _pending(self) -> str:
            text = ""
            while msvcrt.kbhit():
                text += msvcrt.getwch()
            return text

    @contextmanager
    def open_line_reader(out: TextIO) -> Iterator[LineReader]:
        """Open a `LineReader` for a ``with`` block. In the block, the console does not show typed text."""
        yield _WindowsReader(out)

else:

    class _TerminalReader(LineReader):
        def __init__(self, out: TextIO, handle: int) -> None:
            super().__init__(out)
            self._handle = handle
            self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

        def _more(self) -> str:
            data = os.read(self._handle, 4096)
            if not data:
                raise click.Abort
            return self._decoder.decode(data)

        def _pending(self) -> str:
            import select

            text = ""
            while select.select([self._handle], [], [], 0)[0]:
                text += self._more()
            return text

    @contextmanager
    def open_line_reader(out: TextIO) -> Iterator[LineReader]:
        """Open a `LineReader` for a ``with`` block. In the block, the terminal does not show typed text."""
        handle = sys.stdin.fileno()
        before = termios.tcgetattr(handle)
        mode = termios.tcgetattr(handle)
        mode[3] &= ~(termios.ECHO | termios.ICANON)
        mode[6][termios.VMIN], mode[6][termios.VTIME] = 1, 0
        # TCSADRAIN keeps the input that has already arrived.
        termios.tcsetattr(handle, termios.TCSADRAIN, mode)
        try:
            yield _TerminalReader(out, handle)
        finally:
            # Unread input could be a secret, and must not reach the shell.
            termios.tcsetattr(handle, termios.TCSAFLUSH, before)
