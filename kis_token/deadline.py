"""A bound on how long a call may take, whatever the other side does; nothing is sent after the bound.

A socket's timeout bounds each wait for a byte, not their sum, and does not cover name resolution: a slow peer can hold
a caller for ever. So the call runs in a thread, and its caller gives it up when the time is over.
"""

from __future__ import annotations

import math
import os
import socket
import threading
import time
from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

_Answer = TypeVar("_Answer")

#: The threads of the last calls, by the system's number and when they came to their end, on the monotonic clock.
_ENDED: deque[tuple[int, float]] = deque(maxlen=64)
#: A fork waits no longer than this for such an end, in seconds.
LONGEST_END = 1.0

#: tokenP takes up to 15 s, storing its answer a little more: with fewer seconds than this no call is begun.
ISSUE_BUDGET = 20.0

#: Windows cannot interrupt a wait. So each is cut into slices of so many seconds, and a signal is answered after one.
SLICE = 0.25


def usable(timeout: float) -> float:
    """The seconds of a timeout that may be spent on asking: the rest is for handing out and saying goodbye."""
    return timeout - min(1.0, timeout / 5)


class Deadline:
    """The end of a call: ``at`` is a reading of ``counter``, a clock's monotonic counter in seconds."""

    # A plain class: the warm step pays a millisecond for each dataclass.
    __slots__ = ("_at", "_counter")

    def __init__(self, counter: Callable[[], float], at: float) -> None:
        self._counter = counter
        self._at = at

    def left(self) -> float:
        """Seconds until then; negative after it."""
        return self._at - self._counter()


def no_deadline() -> float:
    """The seconds left to a caller who has all the time there is."""
    return math.inf


class GivenUp(TimeoutError):
    """The caller has given the attempt up. ``sent`` says that a request may have left before."""

    def __init__(self, *, sent: bool) -> None:
        super().__init__("given up")
        self.sent = sent


class Attempt:
    """One exchange over the network. Its caller may give it up from another thread; nothing leaves after that.

    The thread that works on it calls `watch` with its connection and `sending` right before a request leaves.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._is_given_up = False
        self._sent = False
        self._connection: socket.socket | None = None

    @property
    def sent(self) -> bool:
        """Whether a request, or a part of one, may have left."""
        return self._sent

    def check(self) -> None:
        """Raise GivenUp if the caller has given up."""
        with self._lock:
            self._check()

    def watch(self, connection: socket.socket) -> None:
        """Break ``connection`` off when the caller gives up, whatever is built on it meanwhile. Raises GivenUp."""
        with self._lock:
            self._check()
            # A second handle of the same connection: TLS takes the first one over, and a TLS socket has no dup().
            self._release()
            self._connection = socket.fromfd(connection.fileno(), connection.family, connection.type)

    def sending(self) -> None:
        """Note that a request leaves now. Raises GivenUp: then it must not leave."""
        with self._lock:
            self._check()
            self._sent = True

    def give_up(self) -> None:
        """Let nothing leave any more, and end the exchange that is under way."""
        with self._lock:
            self._is_given_up = True
            if self._connection is not None:
                with suppress(OSError):
                    self._connection.shutdown(socket.SHUT_RDWR)
            self._release()

    def finish(self) -> None:
        """The exchange is over: its connection is not watched any more."""
        with self._lock:
            self._release()

    def _check(self) -> None:
        if self._is_given_up:
            raise GivenUp(sent=self._sent)

    def _release(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


def within(seconds: float, call: Callable[[Attempt], _Answer]) -> _Answer:
    """The return value of ``call``, or its error; GivenUp when it has neither after ``seconds``.

    An attempt that is given up ends by itself, in a thread that does not outlive the process: its connection is broken
    off, and it sends nothing any more. With no time left it does not begin.
    """
    if seconds <= 0:
        raise GivenUp(sent=False)
    attempt = Attempt()
    answers: list[_Answer] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            answers.append(call(attempt))
        except BaseException as error:  # noqa: BLE001 - handed over to the caller as it is
            errors.append(error)
        finally:
            attempt.finish()
            _ENDED.append((threading.get_native_id(), time.monotonic()))

    thread = threading.Thread(target=run, daemon=True)
    try:
        thread.start()
        _join(thread, time.monotonic() + seconds)
        if answers:
            return answers[0]
        if errors:
            raise errors[0]
    finally:
        attempt.give_up()  # also after Ctrl-C; an attempt that is over does not mind
    raise GivenUp(sent=attempt.sent)


def _join(thread: threading.Thread, until: float) -> None:
    """Wait for the end of a thread until a reading of time.monotonic, in slices."""
    while thread.is_alive() and (left := until - time.monotonic()) > 0:
        thread.join(min(left, SLICE))


def await_ends() -> None:
    """Return when the system is done with the threads of the last calls; after a second at the most.

    Python takes a thread for ended before OpenSSL has tidied up after it, which it does under a lock. A child that is
    forked meanwhile inherits the lock, and hangs at its first handshake. Only Linux says which threads there are.
    """
    while _ENDED:
        number, ended = _ENDED[0]
        if time.monotonic() - ended < LONGEST_END and os.path.exists(f"/proc/self/task/{number}"):  # noqa: PTH110 - pathlib is slow to import
            time.sleep(0.001)
        else:
            _ENDED.popleft()
