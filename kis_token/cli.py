"""The way in to the command ``kis-token``. Like the action, it catches everything: a traceback may quote secrets."""

from __future__ import annotations

import os

import click

from kis_token.commands.caller import Caller
from kis_token.commands.group import kis_token
from kis_token.commands.terminal import say
from kis_token.commands.usage import explain
from kis_token.errors import KisTokenError, SettingsError
from kis_token.publish import describe_defect


def main(arguments: list[str] | None = None) -> int:
    """Run the command; its exit status.

    0 done; 1 an error, explained on standard error; 2 the command line makes no sense; 130 interrupted. That of the
    program where a command runs one.
    """
    try:
        return kis_token.main(arguments, "kis-token", standalone_mode=False, obj=Caller(dict(os.environ))) or 0
    except click.UsageError as error:
        say(explain(error))
        return 2
    except KisTokenError as error:
        for fault in error.faults if isinstance(error, SettingsError) else [error]:
            say(f"error: {fault}. {fault.hint}")
    except (click.Abort, KeyboardInterrupt):
        return 130
    except Exception as error:  # noqa: BLE001 - the last line of defence for secrets
        defect = describe_defect(error)
        say(f"error: {defect}. {defect.hint}")
    return 1
