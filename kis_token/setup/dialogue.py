"""The user of ``kis-token init``: at a terminal, or absent with ``--yes``. The steps print nothing themselves."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

#: ok: it was so before. new: this run did it. kept: something else is there and stays. todo: the user has to do it.
#: would: this run would do it without --dry-run. note: information.
State = Literal["ok", "new", "kept", "todo", "would", "note"]

_Answer = TypeVar("_Answer")


class Unfit(Exception):
    """An answer that cannot be right. The text is for the user, and does not repeat the answer."""


@dataclass(frozen=True, slots=True)
class Question:
    """A question for one line of text. ``is_secret``: the answer is not shown while it is typed."""

    prompt: str
    is_secret: bool = False


class Dialogue(Protocol):
    """The user. ``is_absent``: `ask` must not be called, and `confirm` answers no."""

    @property
    def is_absent(self) -> bool:
        """Whether the user answers no question."""

    def report(self, state: State, what: str, said: str) -> None:
        """Show the result of one step, in one line."""

    def tell(self, text: str) -> None:
        """Show a text that helps with the next step. It may have several lines."""

    def warn(self, text: str) -> None:
        """Show a warning or the progress of a wait."""

    def ask(self, question: Question, check: Callable[[str], _Answer]) -> _Answer:
        """Ask until ``check`` accepts the answer, and return its value.

        ``check`` raises Unfit or KisTokenError for an answer that cannot be right. The user sees that error.
        """

    def confirm(self, question: str, *, default: bool = False) -> bool:
        """Ask for a yes or a no."""
