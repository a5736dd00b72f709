"""What is said of a command line that cannot be understood. Nothing of it is repeated: it may be a key."""

from __future__ import annotations

import click


def explain(error: click.UsageError) -> str:
    """The usage, and what is wrong, in our own words: click's would quote what was given."""
    context = error.ctx
    usage = ""
    if context is not None:
        usage = f"{context.get_usage()}\nTry '{context.command_path} --help' for help.\n\n"
    return f"{usage}error: {_fault(error)}"


def _fault(error: click.UsageError) -> str:
    if isinstance(error, click.NoSuchOption):
        return "there is an option that this command does not take"
    if isinstance(error, click.MissingParameter) and error.param is not None:
        return f"{error.param.get_error_hint(_context(error))} is missing"
    if isinstance(error, click.BadParameter) and error.param is not None:
        return f"the value of {error.param.opts[0]} is none that it takes"
    if isinstance(error, click.BadOptionUsage):
        return "an option lacks its value, or has one that it does not take"
    if error.ctx is not None and isinstance(error.ctx.command, click.Group):
        return "there is no such command, or none at all"
    return "there are arguments that this command does not take"


def _context(error: click.UsageError) -> click.Context:
    return error.ctx or click.Context(click.Command("kis-token"))
