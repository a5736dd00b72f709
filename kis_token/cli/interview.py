"""The dialogues of ``kis-token init``: with a user at a terminal, or without questions if ``--yes`` is given."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import click

from kis_token.cli.terminal import say
from kis_token.errors import KisTokenError, SettingsError
from kis_token.setup.dialogue import Unfit

if TYPE_CHECKING:
    from collections.abc import Callable

    from kis_token.cli.line_reader import LineReader
    from kis_token.setup.dialogue import Question, State

_Answer = TypeVar("_Answer")

_COLOURS = {"ok": "green", "new": "green", "kept": "yellow", "todo": "yellow", "would": "cyan", "note": "yellow"}


class AbsentUser:
    """The dialogue of a run with ``--yes``, which prints results and asks no question."""

    is_absent = True

    def report(self, state: State, what: str, said: str) -> None:
        """Print a result on standard output."""
        click.echo(f"{click.style(f'{state:<5}', fg=_COLOURS[state])}  {what}: {said}")

    def tell(self, text: str) -> None:
        """Print a text on standard error."""
        say(text)

    def warn(self, text: str) -> None:
        """Print a line on standard error."""
        say(text)

    def ask(self, question: Question, check: Callable[[str], _Answer]) -> _Answer:
        """Raise NotImplementedError. With ``--yes``, no step calls this method: ``is_absent`` is true."""
        raise NotImplementedError(question.prompt)

    def confirm(self, question: str, *, default: bool = False) -> bool:  # noqa: ARG002 - of the protocol
        """Return False, so that no step replaces a value without the user's consent."""
        return False


@dataclass
class UserAtTerminal(AbsentUser):
    """Asks the user on the terminal. Each line is one answer, so a paste of several lines answers several questions."""

    reader: LineReader
    is_absent = False

    def ask(self, question: Question, check: Callable[[str], _Answer]) -> _Answer:
        """Ask until ``check`` accepts the answer. After a wrong answer, the remaining pasted lines are dropped."""
        while True:
            answer = self.reader.read(f"{question.prompt}: ", is_hidden=question.is_secret)
            try:
                return check(answer)
            except Unfit as error:
                say(f"error: {error}")
            except KisTokenError as error:
                for fault in error.faults if isinstance(error, SettingsError) else [error]:
                    say(f"error: {fault}")
            if self.reader.drop():
                say("The remaining pasted lines were dropped.")

    def confirm(self, question: str, *, default: bool = False) -> bool:
        """Ask for y or n. Enter gives the default."""
        choices = "Y/n" if default else "y/N"
        while True:
            answer = self.reader.read(f"{question} [{choices}]: ").strip().lower()
            if answer in ("", "y", "yes", "n", "no"):
                return answer.startswith("y") if answer else default
            say("Answer y or n.")
