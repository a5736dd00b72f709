"""Lines that a user types or pastes at a terminal, read so that a paste arrives whole and no secret is shown.

The terminal shows nothing by itself while a reader is open: not between two questions either. So a paste of several
lines can arrive at any time. Its lines are the answers to this question and the next ones, and a secret among them
does not appear on the screen. The reader shows visible answers itself, up to the end of their line.
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
#: Sequences that a terminal sends for arrow keys and around a paste.
_SEQUENCE = re.compile(r"\x1b(?:\[[0-9;?]*[@-~]|O.|[^\[O])")
_UNFINISHED_SEQUENCE = re.compile(r"\x1b(?:\[[0-9;?]*|O)?\Z")

#: An answer in a visible question that looks like a secret is not shown: the user may have pasted the wrong value.
_SECRET = re.compile(r"sb_secret_|sbp_|eyJ|[A-Za-z0-9+/=]{30,}", re.ASCII)


class LineReader:
    """Reads lines from the terminal of standard input, and writes prompts to ``out``. Opened by `open_line_reader`."""

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._read = ""

    def read(self, prompt: str, *, is_hidden: bool = False) -> str:
        """Show the prompt, and return the next line without its end. Raises click.Abort for Ctrl-C and Ctrl-D."""
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
        """Drop the lines that have been pasted and not read yet. Returns whether there were any."""
        self._read += self._pending()
        had_any, self._read = bool(self._read.strip()), ""
        return had_any

    def _take_line(self, line: str) -> tuple[str, bool]:
        """Apply the keys read so far to ``line``, up to the end of a line. Returns the line, and whether it ended."""
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
        """Bring the screen from ``shown`` to the line, with bullets for a secret. Returns the text on the screen."""
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
        """Open a reader for the block. The console shows nothing that is typed meanwhile."""
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
        """Open a reader for the block. The terminal of standard input shows nothing meanwhile, and is restored."""
        handle = sys.stdin.fileno()
        before = termios.tcgetattr(handle)
        mode = termios.tcgetattr(handle)
        mode[3] &= ~(termios.ECHO | termios.ICANON)
        mode[6][termios.VMIN], mode[6][termios.VTIME] = 1, 0
        # TCSADRAIN keeps the input that has arrived already.
        termios.tcsetattr(handle, termios.TCSADRAIN, mode)
        try:
            yield _TerminalReader(out, handle)
        finally:
            # Input that no question has read could be a secret, and must not reach the shell.
            termios.tcsetattr(handle, termios.TCSAFLUSH, before)
