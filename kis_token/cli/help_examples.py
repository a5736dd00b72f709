"""Commands whose ``--help`` ends with examples."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from collections.abc import Sequence


class _Taught(click.Command):
    """A command with ``examples``, one a line."""

    def __init__(self, *arguments: Any, examples: Sequence[str] = (), **named: Any) -> None:  # noqa: ANN401 - click's
        super().__init__(*arguments, **named)
        self.examples = tuple(examples)

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002 - click's
        """Write the examples line by line. As an epilog, click would wrap them like prose."""
        if self.examples:
            with formatter.section("Examples"):
                for example in self.examples:
                    formatter.write(f"{'':{formatter.current_indent}}{example}\n")


class TaughtCommand(_Taught):
    """A command with examples."""


class TaughtGroup(_Taught, click.Group):
    """A group with examples. Lists its commands in the order of their addition."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's
        """Return the names of the commands."""
        return list(self.commands)
