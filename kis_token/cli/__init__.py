"""The way in to the command ``kis-token``. Like the action, it catches everything: a traceback may quote secrets."""

from __future__ import annotations

import os
import sys
from contextlib import suppress


def main(arguments: list[str] | None = None) -> int:
    """Run the command; its exit status.

    0 done; 1 an error, explained on standard error; 2 the command line makes no sense; 130 interrupted. That of the
    program where a command runs one.
    """
    try:
        from kis_token.process.interrupts import interruptible

        with interruptible():
            return _run(arguments)
    except KeyboardInterrupt:  # also while the first modules are imported
        return 130


def _run(arguments: list[str] | None) -> int:
    import click

    from kis_token.cli.context import Caller
    from kis_token.cli.group import kis_token
    from kis_token.cli.terminal import say
    from kis_token.cli.usage_errors import explain
    from kis_token.errors import KisTokenError, SettingsError
    from kis_token.github.outputs import describe_defect

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
            say(f"error: {fault}. {fault.hint}")
    except click.Abort:
        return 130
    except OSError as error:
        say(f"error: the system refuses: {error.strerror}")
        _drop_output()
    except Exception as error:  # noqa: BLE001 - the last line of defence for secrets
        defect = describe_defect(error)
        say(f"error: {defect}. {defect.hint}")
    return 1


def _drop_output() -> None:
    """Let a result that could not be written go: Python would try again at its end, and exit with 120."""
    with suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)


def _make_streams_safe() -> None:
    """Streams that the caller has closed lead nowhere; letters that a stream cannot show are spelled out."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: PTH123, SIM115 - open to the end
        elif mode == "w" and hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
