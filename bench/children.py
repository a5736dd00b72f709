"""Processes of a benchmark: the two sides exchange lines of JSON."""

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

#: How long anything is waited for.
LONGEST_SECONDS = 120.0


class Child:
    """A process that calls ``part`` of ``module`` with ``argument``. A context manager: it ends with the block.

    It has ``grace`` seconds to do that by itself.
    """

    def __init__(self, module: str, part: str, argument: object, *, grace: float) -> None:
        self._grace = grace
        self._process = subprocess.Popen(  # noqa: S603 - our own code
            [sys.executable, "-c", f"from {module} import {part}; {part}({argument!r})"],
            cwd=CHECKOUT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            encoding="utf-8",
            start_new_session=True,  # so that Ctrl-C is for us, who then end the others
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
        """Send it something."""
        self._input.write(f"{json.dumps(message)}\n")
        self._input.flush()

    def hear(self) -> Any:  # noqa: ANN401 - what it says is up to its part
        """What it says next. Raises TimeoutError when that takes too long, and EOFError when it has died."""
        line = within(LONGEST_SECONDS, lambda _: self._output.readline())
        if not line:
            raise EOFError("A process of the benchmark has died")
        return json.loads(line)

    def ask(self, message: object) -> Any:  # noqa: ANN401 - the same
        """Send it something; its answer."""
        self.tell(message)
        return self.hear()


def heard() -> Any:  # noqa: ANN401 - as the benchmark tells its processes
    """What this process is told next. Raises EOFError when the benchmark has ended."""
    return json.loads(input())


def say(message: object) -> None:
    """Tell the benchmark something."""
    with suppress(BrokenPipeError):  # nobody listens any more; then the input has ended too
        print(json.dumps(message), flush=True)
