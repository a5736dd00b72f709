"""The entry point of the command ``kis-token``.

`main` catches all exceptions, because a traceback may quote secrets.
"""

from __future__ import annotations

import os
import sys
from contextlib import suppress


def main(arguments: list[str] | None = None) -> int:
    """Run the command, and return its exit status.

    The exit status is 0 for success, 1 for an error, 2 for an invalid command line, and 130 for an interrupt. An error
    is explained on standard error. If a command runs a program, the exit status is that of the program.
    """
    try:
        from kis_token.process.interrupts import interruptible

        with interruptible():
            return _run(arguments)
    except KeyboardInterrupt:  # this also catches Ctrl-C during the first imports
        return 130


def _run(arguments: list[str] | None) -> int:
    import click

    from kis_token.cli.context import Caller
    from kis_token.cli.group import kis_token
    from kis_token.cli.terminal import say
    from kis_token.cli.usage_errors import explain
    from kis_token.errors import KisTokenError, SettingsError
    from kis_token.github.failures import describe_defect

    _make_streams_safe()
    env = dict(os.environ)
    color = False if env.get("NO_COLOR") or env.get("TERM") == "dumb" else None
    try:
        return kis_token.main(arguments, "kis-token", standalone_mode=False, obj=Caller(env), color=color) or 0
    except click.UsageError as error:
        say(explain(error))
        return 2
    except KisTokenError as error:
        for warning in error.warnings:
            say(f"warning: {warning}")
        for fault in error.faults if isinstance(error, SettingsError) else [error]:
            say(f"error: {fault}")
    except click.Abort:
        return 130
    except OSError as error:
        say(f"error: the system reports: {error.strerror}")
        _drop_output()
    except Exception as error:  # noqa: BLE001 - a traceback may quote secrets
        defect = describe_defect(error)
        say(f"error: {defect}")
    return 1


def _drop_output() -> None:
    """Discard the output that could not be written.

    Without this function, Python tries at exit to write the output once more, and returns the exit status 120.
    """
    with suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)


def _make_streams_safe() -> None:
    """Replace closed streams by the null device, and make streams escape the characters that they cannot encode."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: PTH123, SIM115 - stays open until exit
        elif mode == "w" and hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
