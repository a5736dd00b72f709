"""The command kis-token: as a child process with pipes or with a terminal, or in this process."""

from __future__ import annotations

import os
import struct
import subprocess
import sys
import threading
from contextlib import suppress
from typing import TYPE_CHECKING
from unittest import mock

from click.testing import CliRunner

from kis_token.cli import main
from tests.leak_capture import secrets_of
from tests.leaks import LEAKS, says_secrets

if sys.platform != "win32":  # no test makes a terminal on Windows
    import fcntl
    import pty
    import termios

if TYPE_CHECKING:
    from collections.abc import Mapping

PROGRAM = [sys.executable, "-m", "kis_token"]

#: The program kis-token, with all modules loaded before it begins. On a busy machine, the imports may take the 5 s that
#: a caller has between its lease and tokenP.
LOADED_PROGRAM = [
    sys.executable,
    "-c",
    (
        "import runpy, kis_token.cli, kis_token.kis.session, kis_token.store.supabase, kis_token.wiring;"
        " runpy.run_module('kis_token', run_name='__main__', alter_sys=True)"
    ),
]

#: The command for a separate run of pytest, without the plugins that only this project's tests need.
PYTEST = [
    *(sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-p", "no:anyio", "-p", "no:hypothesispytest"),
    *("-p", "no:xdist", "-p", "no:xdist.looponfail"),
]


def clean(env: Mapping[str, str]) -> dict[str, str]:
    """Return this machine's environment, in which ``env`` are the only settings of kis-token."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("KIS_", "SUPABASE_", "INPUT_"))}
    return {**kept, **env}


def kis_token(env: Mapping[str, str], *arguments: str, standard_input: str = "") -> subprocess.CompletedProcess[str]:
    """Run the command with ``env`` as the only settings."""
    return subprocess.run(
        [*PROGRAM, *arguments],
        env=clean(env),
        input=standard_input,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def kis_token_here(
    env: Mapping[str, str], *arguments: str, standard_input: str = ""
) -> subprocess.CompletedProcess[str]:
    """Run the command in this process, for tests that need no separate process. ``exec`` needs a separate process."""
    for secret in secrets_of(env):
        LEAKS.add(secret)
    with (
        CliRunner().isolation(standard_input) as (out, err, _),
        mock.patch.dict(os.environ, clean(env), clear=True),
    ):
        status = main([*arguments])
        sys.stdout.flush()
        sys.stderr.flush()
        ended = subprocess.CompletedProcess(
            [*PROGRAM, *arguments], status, out.getvalue().decode(), err.getvalue().decode()
        )
    words = " ".join(ended.args)
    LEAKS.hear(f"the stderr of {words}", ended.stderr)
    if not says_secrets(ended.args):
        LEAKS.hear(f"the stdout of {words}", ended.stdout)
    return ended


class Terminal:
    """A terminal for child processes, which get ``inside`` as their terminal.

    A thread reads the child processes' output.
    """

    def __init__(self) -> None:
        self._outside, self.inside = pty.openpty()
        # A thread reads continuously, because a child that fills the system's small buffer would block.
        self._shown = b""
        self._more = threading.Condition()
        threading.Thread(target=self._read, daemon=True).start()

    def close(self) -> None:
        """Close the terminal."""
        os.close(self.inside)  # ends the reading thread, and the thread closes the other end

    def read_until(self, text: bytes) -> bytes:
        """Wait until a child has written ``text``, and return all output up to ``text``."""
        with self._more:
            assert self._more.wait_for(lambda: text in self._shown, 60), f"{text!r} was never written"
            seen, self._shown = self._shown, b""
            return seen

    def read(self) -> bytes:
        """Wait until a child writes, and return the written bytes."""
        with self._more:
            assert self._more.wait_for(lambda: self._shown, 60), "no text was written"
            seen, self._shown = self._shown, b""
            return seen

    def rest(self) -> bytes:
        """Return the rest of the output, after the last output that `read_until` returned.

        The child must have ended.
        """
        os.write(self.inside, b"\0")
        return self.read_until(b"\0")[:-1]

    def _read(self) -> None:
        with suppress(OSError):  # reading fails when no process has ``inside`` open
            while read := os.read(self._outside, 4096):
                with self._more:
                    self._shown += read
                    self._more.notify_all()
        os.close(self._outside)

    def narrow(self, columns: int) -> None:
        """Set the width of the terminal."""
        fcntl.ioctl(self.inside, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))

    def type(self, text: str) -> None:
        """Type a text as a person does."""
        os.write(self._outside, text.encode())
