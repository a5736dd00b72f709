"""Commands whose ``--help`` ends with examples."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


class _Taught(click.Command):
    """A command with ``examples``. The help shows one example a line."""

    def __init__(self, *arguments: Any, examples: Sequence[str] = (), **named: Any) -> None:  # noqa: ANN401 - click's
        super().__init__(*arguments, **named)
        self.examples = tuple(examples)

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002 - click's
        """Write the examples line by line. Click would wrap the lines of an epilog like prose."""
        if self.examples:
            with formatter.section("Examples"):
                for example in self.examples:
                    formatter.write(f"{'':{formatter.current_indent}}{example}\n")


class TaughtCommand(_Taught):
    """A command with examples."""


class TaughtGroup(_Taught, click.Group):
    """A group with examples. ``places`` maps each command's name to its ``module:function``.

    A command's module is loaded when the command is used. ``--help`` lists the commands in the order of the entries in
    ``places``.
    """

    def __init__(self, *arguments: Any, places: Mapping[str, str], **named: Any) -> None:  # noqa: ANN401 - click's
        super().__init__(*arguments, **named)
        self._places = places

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's
        """Return the names of the commands."""
        return list(self._places)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002 - click's
        """Return the command with this name, or None if no command has this name."""
        if cmd_name not in self._places:
            return None
        module, _, function = self._places[cmd_name].partition(":")
        command: click.Command = getattr(import_module(module), function)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Return the command and its arguments. For an unknown name, the error lists similar names."""
        try:
            return super().resolve_command(ctx, args)
        except click.exceptions.NoSuchCommand as error:
            raise click.exceptions.NoSuchCommand(error.command_name, possibilities=self._places, ctx=ctx) from None
