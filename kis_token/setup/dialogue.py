"""The dialogue of ``kis-token init`` with the user. With ``--yes``, the user is absent and answers no question.

The steps print only through this interface.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

#: ok: no change was needed.
#: new: this run made the change.
#: kept: something different exists, and was not changed.
#: todo: the user has to make the change.
#: would: this run is a dry run; a run without --dry-run makes the change.
#: note: this is only information.
State = Literal["ok", "new", "kept", "todo", "would", "note"]

_Answer = TypeVar("_Answer")


class Unfit(Exception):
    """The error for a wrong answer of the user.

    The error's text is for the user, and does not repeat the answer.
    """


@dataclass(frozen=True, slots=True)
class Question:
    """A question for one line of text. If ``is_secret`` is true, the terminal does not show the answer."""

    prompt: str
    is_secret: bool = False


class Dialogue(Protocol):
    """The dialogue with the user. If ``is_absent`` is true, no step may call `ask`, and `confirm` returns False."""

    @property
    def is_absent(self) -> bool:
        """Whether the user is absent, as with ``--yes``, so that no step may ask a question."""

    def report(self, state: State, what: str, said: str) -> None:
        """Show the result of one step, in one line."""

    def tell(self, text: str) -> None:
        """Show a text that helps with the next step. The text may have several lines."""

    def warn(self, text: str) -> None:
        """Show a warning or the progress of a wait."""

    def ask(self, question: Question, check: Callable[[str], _Answer]) -> _Answer:
        """Ask until ``check`` accepts the answer, and return the value that ``check`` returns.

        If an answer is wrong, ``check`` raises Unfit or KisTokenError. The user sees the error.
        """

    def confirm(self, question: str, *, default: bool = False) -> bool:
        """Ask for a yes or a no."""
