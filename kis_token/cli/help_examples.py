"""Commands whose ``--help`` ends in examples, set as they are typed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from collections.abc import Sequence


class _Taught(click.Command):
    """Takes ``examples``, one a line."""

    def __init__(self, *arguments: Any, examples: Sequence[str] = (), **named: Any) -> None:  # noqa: ANN401 - click's
        super().__init__(*arguments, **named)
        self.examples = tuple(examples)

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002 - click's
        """The examples: click would fill their lines up as if they were a text."""
        if self.examples:
            with formatter.section("Examples"):
                for example in self.examples:
                    formatter.write(f"{'':{formatter.current_indent}}{example}\n")


class TaughtCommand(_Taught):
    """A command with examples."""


class TaughtGroup(_Taught, click.Group):
    """A group with examples, that lists its commands in the order in which they were added."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's
        """Their names."""
        return list(self.commands)
