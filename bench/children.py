"""Child processes of a benchmark. The benchmark and its child processes exchange lines of JSON."""

from __future__ import annotations

import json
import subprocess
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Any, cast

from kis_token.deadline import within
from tools.step import CHECKOUT

if TYPE_CHECKING:
    from typing import IO

    from typing_extensions import Self

#: The longest wait for an answer, in seconds.
LONGEST_SECONDS = 120.0


class Child:
    """A process that calls the function ``part`` of ``module`` with ``argument``.

    The end of the ``with`` block ends the process. The process is killed if it has not ended after ``grace`` seconds.
    """

    def __init__(self, module: str, part: str, argument: object, *, grace: float) -> None:
        self._grace = grace
        self._process = subprocess.Popen(  # noqa: S603 - our own code
            [sys.executable, "-c", f"from {module} import {part}; {part}({argument!r})"],
            cwd=CHECKOUT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            encoding="utf-8",
            start_new_session=True,  # so that Ctrl-C reaches only the parent, which ends its children
        )
        self._input = cast("IO[str]", self._process.stdin)
        self._output = cast("IO[str]", self._process.stdout)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(subprocess.TimeoutExpired, BrokenPipeError):
            self._input.close()
            self._process.wait(self._grace)
        self._process.kill()
        self._process.wait()
        self._output.close()

    def tell(self, message: object) -> None:
        """Send a message to the process."""
        self._input.write(f"{json.dumps(message)}\n")
        self._input.flush()

    def hear(self) -> Any:  # noqa: ANN401 - the type depends on the part
        """Return the process's next message.

        Raises TimeoutError after LONGEST_SECONDS without a message, and EOFError if the process has ended.
        """
        line = within(LONGEST_SECONDS, lambda _: self._output.readline())
        if not line:
            raise EOFError("A process of the benchmark has ended")
        return json.loads(line)

    def ask(self, message: object) -> Any:  # noqa: ANN401 - the type depends on the part
        """Send a message to the process, and return its answer."""
        self.tell(message)
        return self.hear()


def heard() -> Any:  # noqa: ANN401 - the type depends on the benchmark
    """In the child process, return the benchmark's next message. Raises EOFError if the benchmark has ended."""
    return json.loads(input())


def say(message: object) -> None:
    """In the child process, send a message to the benchmark."""
    with suppress(BrokenPipeError):  # the benchmark has ended; the end of the input ends this process
        print(json.dumps(message), flush=True)
