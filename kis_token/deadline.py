"""A time limit for a whole call, however slow the peer is. After the time limit, the call sends no data.

The timeout of a socket limits each wait for a byte, but not the sum of all waits, and it does not cover name
resolution. Therefore a call with a time limit runs in a thread, and the caller gives up the call at the time limit.
"""

from __future__ import annotations

import math
import os
import socket
import threading
import time
from collections import deque
from contextlib import suppress

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeVar

    _Answer = TypeVar("_Answer")

#: The most recently ended calls. Each entry is the ID that the system gave to the call's thread, and the time
#: (`time.monotonic`) at which the call ended.
_ENDED: deque[tuple[int, float]] = deque(maxlen=64)
#: Before a fork, `await_ends` waits until the system has ended a call's thread. The wait stops, at the latest, this
#: number of seconds after the end of the call.
LONGEST_END = 1.0

#: The seconds that a tokenP call needs before the deadline. tokenP takes up to 15 s, and storing its answer takes a few
#: more.
ISSUE_BUDGET = 20.0

#: A long wait is divided into short waits of at most this many seconds. Windows cannot interrupt a wait, so a signal
#: takes effect at the end of a short wait.
SLICE = 0.25


def usable(timeout: float) -> float:
    """Return the time, in seconds, in which requests may run: ``timeout`` minus a reserve of at most 1 s.

    In the reserved time, the program outputs the token.
    """
    return timeout - min(1.0, timeout / 5)


class Deadline:
    """The time at which a call must end.

    ``counter`` returns the present value, in seconds, of a monotonic clock. ``at`` is the value at which the call must
    end.
    """

    # The class is not a dataclass, because each dataclass makes the fast path a millisecond slower.
    __slots__ = ("_at", "_counter")

    def __init__(self, counter: Callable[[], float], at: float) -> None:
        self._counter = counter
        self._at = at

    def left(self) -> float:
        """The seconds until the deadline; negative after it."""
        return self._at - self._counter()


def no_deadline() -> float:
    """Return infinity: the seconds left for a caller without a deadline."""
    return math.inf


class GivenUp(TimeoutError):
    """The caller has given up the attempt. ``sent`` is True if the attempt may have sent a part of a request."""

    def __init__(self, *, sent: bool) -> None:
        super().__init__("given up")
        self.sent = sent


class Attempt:
    """One exchange over the network, which the caller may give up from another thread.

    After the caller has given up, the attempt sends no request. The working thread calls `watch` with its connection,
    and calls `sending` immediately before it sends a request.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._is_given_up = False
        self._sent = False
        self._connection: socket.socket | None = None

    @property
    def sent(self) -> bool:
        """Whether the attempt may have sent a request or a part of one."""
        return self._sent

    def check(self) -> None:
        """Raise GivenUp if the caller has given up."""
        with self._lock:
            self._check()

    def watch(self, connection: socket.socket) -> None:
        """Shut down ``connection`` when the caller gives up, even if ``connection`` is a TLS socket.

        Raises GivenUp if the caller has given up already.
        """
        with self._lock:
            self._check()
            # TLS takes over the handle of the connection, and a TLS socket has no dup(). Therefore the attempt makes a
            # second handle of the connection with `fromfd`.
            self._release()
            self._connection = socket.fromfd(connection.fileno(), connection.family, connection.type)

    def sending(self) -> None:
        """Record that the attempt sends a request now.

        Raises GivenUp if the caller has given up, so that the request is not sent.
        """
        with self._lock:
            self._check()
            self._sent = True

    def give_up(self) -> None:
        """Send no further request, and end the HTTP request that is running."""
        with self._lock:
            self._is_given_up = True
            if self._connection is not None:
                with suppress(OSError):
                    self._connection.shutdown(socket.SHUT_RDWR)
            self._release()

    def finish(self) -> None:
        """At the end of the exchange, close the connection's second handle, which `watch` has made."""
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
    """Return the value of ``call`` or raise its error. Raises GivenUp if ``call`` has not ended after ``seconds``.

    If ``seconds`` is not positive, ``call`` does not begin. If the caller gives up, the attempt ends later, in its
    daemon thread. The attempt's connection is shut down, so the attempt sends no more data.
    """
    if seconds <= 0:
        raise GivenUp(sent=False)
    attempt = Attempt()
    answers: list[_Answer] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            answers.append(call(attempt))
        except BaseException as error:  # noqa: BLE001 - the caller raises it
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
        # After Ctrl-C, `give_up` ends the request. If the attempt has finished, `give_up` has no effect.
        attempt.give_up()
    raise GivenUp(sent=attempt.sent)


def _join(thread: threading.Thread, until: float) -> None:
    """Wait for the end of a thread, in several short waits. Stop at ``until``, a value of ``time.monotonic``."""
    while thread.is_alive() and (left := until - time.monotonic()) > 0:
        thread.join(min(left, SLICE))


def await_ends() -> None:
    """Wait, for at most a second, until the system has ended the threads of the last calls.

    After Python has reported the end of a thread, OpenSSL still frees the thread's data, and holds a lock during this
    clean-up. If a child is forked during the clean-up, the child inherits the locked lock, and hangs at its first
    handshake. The function waits only on Linux, because other systems do not list the threads in /proc.
    """
    while _ENDED:
        number, ended = _ENDED[0]
        if time.monotonic() - ended < LONGEST_END and os.path.exists(f"/proc/self/task/{number}"):  # noqa: PTH110 - pathlib is slow to import
            time.sleep(0.001)
        else:
            _ENDED.popleft()
