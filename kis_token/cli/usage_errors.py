"""Messages for an invalid command line. They do not repeat any part of it, because it may contain a key."""

from __future__ import annotations

import click


def explain(error: click.UsageError) -> str:
    """Return the usage and the fault in our own words. Click's own message would quote the command line."""
    context = error.ctx
    usage = ""
    if context is not None:
        usage = f"{context.get_usage()}\nTry '{context.command_path} --help' for help.\n\n"
    return f"{usage}error: {_fault(error)}"


def _fault(error: click.UsageError) -> str:
    if isinstance(error, click.NoSuchOption):
        return "this command does not have one of the options"
    if isinstance(error, click.MissingParameter) and error.param is not None:
        return f"{error.param.get_error_hint(_context(error))} is missing"
    if isinstance(error, click.BadParameter) and error.param is not None:
        return f"{error.param.opts[0]} does not take this value"
    if isinstance(error, click.BadOptionUsage):
        return "an option lacks its value, or takes no value"
    if error.ctx is not None and isinstance(error.ctx.command, click.Group):
        return "the command is missing or unknown"
    return "this command does not take these arguments"


def _context(error: click.UsageError) -> click.Context:
    return error.ctx or click.Context(click.Command("kis-token"))
