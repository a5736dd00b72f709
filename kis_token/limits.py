"""A bound on how long a call may take, whatever the other side does.

A socket's timeout bounds each wait for a byte, not their sum, and says nothing of names that are looked up: a peer that
drips can hold a caller for ever.
"""

from __future__ import annotations

import math
import threading
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

_Answer = TypeVar("_Answer")


def usable(timeout: float) -> float:
    """The seconds of a timeout that may be spent on asking: the rest is for handing out and saying goodbye."""
    return timeout - min(1.0, timeout / 5)


def no_deadline() -> float:
    """The seconds left to a caller who has all the time there is."""
    return math.inf


def within(seconds: float, call: Callable[[], _Answer]) -> _Answer:
    """What ``call`` answers or raises; TimeoutError when it has done neither after ``seconds``.

    It is then left to itself in a thread that does not outlive the process. With no time left it is not begun.
    """
    if seconds <= 0:
        raise TimeoutError
    answers: list[_Answer] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            answers.append(call())
        except BaseException as error:  # noqa: BLE001 - handed over to the caller as it is
            errors.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    if errors:
        raise errors[0]
    if not answers:
        raise TimeoutError
    return answers[0]
