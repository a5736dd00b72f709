"""Replace this process by another program, or run the program as a child process on Windows."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

from kis_token.cli.terminal import say
from kis_token.process.interrupts import restore

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

#: A shell's exit status for a command that does not exist, and for a command that cannot be started.
NOT_FOUND, NOT_STARTED = 127, 126
_ABSENT = (FileNotFoundError, NotADirectoryError)


def become(command: Sequence[str], env: Mapping[str, str]) -> int:
    """Replace this process by ``command``. Return 126 or 127 if ``command`` cannot be started.

    The started program gets all signals. On Windows, run ``command`` as a child, and return the child's status.
    """
    if os.name == "nt":
        return run_child(command, env)
    sys.stdout.flush()
    sys.stderr.flush()
    restore()
    # Python ignores SIGPIPE and SIGXFSZ. A program that exec starts would also ignore SIGPIPE and SIGXFSZ, so the
    # defaults are restored.
    for name in ("SIGPIPE", "SIGXFSZ"):
        signal.signal(getattr(signal, name), signal.SIG_DFL)
    try:
        os.execvpe(command[0], list(command), dict(env))  # noqa: S606 - the user's own command, without a shell
    except (OSError, ValueError) as error:
        return _not_started(error)


def run_child(command: Sequence[str], env: Mapping[str, str]) -> int:
    """Run ``command`` as a child and return its status. If a signal ended the child, return 128 plus the signal number.

    The console sends Ctrl-C to the child. This process ignores Ctrl-C and waits until the child ends.
    """
    before = signal.signal(signal.SIGINT, lambda *_: None)
    try:
        status = subprocess.run(command, env=dict(env), check=False).returncode  # noqa: S603 - the user's own command
    except (OSError, ValueError) as error:
        return _not_started(error)
    finally:
        signal.signal(signal.SIGINT, before)
    return status if status >= 0 else 128 - status


def _not_started(error: OSError | ValueError) -> int:
    # The message does not repeat the command, which may contain a key. A command with an empty name raises ValueError.
    said = error.strerror if isinstance(error, OSError) else "it has no name"
    say(f"error: the command cannot be started: {said}")
    return NOT_STARTED if isinstance(error, OSError) and not isinstance(error, _ABSENT) else NOT_FOUND
