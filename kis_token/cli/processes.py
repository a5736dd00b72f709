"""Becoming another program, or running it as a child where a program cannot become another."""

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

#: What a shell answers for a command that is not there, and for one that cannot be started.
NOT_FOUND, NOT_STARTED = 127, 126
_ABSENT = (FileNotFoundError, NotADirectoryError)


def become(command: Sequence[str], env: Mapping[str, str]) -> int:
    """Run ``command`` in place of this process; the status where it cannot be started. Does not return else.

    Signals go to it since it is this process. Where the system cannot do that, it is a child.
    """
    if os.name == "nt":
        return run_child(command, env)
    sys.stdout.flush()
    sys.stderr.flush()
    restore()
    # Python ignores these, and what is ignored stays so in the program that comes after.
    for name in ("SIGPIPE", "SIGXFSZ"):
        signal.signal(getattr(signal, name), signal.SIG_DFL)
    try:
        os.execvpe(command[0], list(command), dict(env))  # noqa: S606 - the user's own command, without a shell
    except (OSError, ValueError) as error:
        return _not_started(error)


def run_child(command: Sequence[str], env: Mapping[str, str]) -> int:
    """Run ``command`` as a child; its status, 128 and the number where a signal ended it.

    Ctrl-C reaches the child from the console; this process waits for what it does about it.
    """
    before = signal.signal(signal.SIGINT, lambda *_: None)
    try:
        status = subprocess.run(command, env=dict(env), check=False).returncode  # noqa: S603 - the same
    except (OSError, ValueError) as error:
        return _not_started(error)
    finally:
        signal.signal(signal.SIGINT, before)
    return status if status >= 0 else 128 - status


def _not_started(error: OSError | ValueError) -> int:
    # The command is not repeated: there may be a key among its words. A ValueError is an empty name.
    said = error.strerror if isinstance(error, OSError) else "it has no name"
    say(f"error: the command cannot be started: {said}")
    return NOT_STARTED if isinstance(error, OSError) and not isinstance(error, _ABSENT) else NOT_FOUND
