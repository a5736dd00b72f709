"""Messages for an invalid command line. No message repeats a part of the command line, which may contain a key."""

from __future__ import annotations

from typing import Any, ClassVar

import click


class FormedType(click.ParamType[Any]):
    """A parameter type of `click`. The error for an invalid value contains ``form``, which describes valid values."""

    form: ClassVar[str]


def explain(error: click.UsageError) -> str:
    """Return the usage and this project's text for the fault. Click's own message would quote the command line.

    If a command needs arguments and got none, return the help of the command.
    """
    context = error.ctx
    if context is not None and isinstance(error, click.exceptions.NoArgsIsHelpError):
        return context.get_help()
    usage = ""
    if context is not None:
        usage = f"{context.get_usage()}\nTry '{context.command_path} --help' for help.\n\n"
    return f"{usage}error: {_fault(error)}"


def _fault(error: click.UsageError) -> str:
    if isinstance(error, click.NoSuchOption):
        return "an option does not belong to this command" + _near(error.possibilities)
    if isinstance(error, click.MissingParameter) and error.param is not None:
        return f"{error.param.get_error_hint(_context(error))} is missing"
    if isinstance(error, click.BadParameter) and error.param is not None:
        return f"{error.param.opts[0]} takes {_form(error.param.type)}"
    if isinstance(error, click.BadOptionUsage):
        return "an option has no value, or has a value that it does not take"
    if error.ctx is not None and isinstance(error.ctx.command, click.Group):
        names = error.possibilities if isinstance(error, click.exceptions.NoSuchCommand) else None
        return "the command is missing or unknown" + _near(names)
    return "this command does not take these arguments"


def _near(names: list[str] | None) -> str:
    """Return a question that suggests ``names``, which resemble the unknown name. If ``names`` is empty, return ""."""
    return f"; did you mean {' or '.join(names)}?" if names else ""


def _form(kind: click.ParamType[Any]) -> str:
    """Return a description of the values that a parameter takes."""
    if isinstance(kind, click.Choice):
        *others, last = (f"{choice}" for choice in kind.choices)
        return f"{', '.join(others)} or {last}" if others else last
    return kind.form if isinstance(kind, FormedType) else "another value"


def _context(error: click.UsageError) -> click.Context:
    return error.ctx or click.Context(click.Command("kis-token"))
