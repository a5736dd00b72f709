"""A forked child process that does some work for a test. The test gets the result, or an error if the child hangs."""

from __future__ import annotations

import json
import os
import select
import signal
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

SECONDS = 30.0

#: The mark that ignores the warning of Python 3.12 and newer about a fork in a process with threads.
forks = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")


class Child:
    """A child process that does ``work`` and ends. The result must be JSON. An error is reported by its type's name."""

    def __init__(self, work: Callable[[], object]) -> None:
        self._reader, writer = os.pipe()
        self._process = os.fork()
        if self._process == 0:
            said: object = None
            try:
                said = work()
            except BaseException as error:  # noqa: BLE001 - reported to the parent
                said = f"{type(error).__name__}: {error}"
            finally:
                os.write(writer, json.dumps(said).encode())
                os._exit(0)
        os.close(writer)

    def result(self) -> Any:  # noqa: ANN401 - any JSON
        """Return the result of the child's work."""
        try:
            is_done = select.select([self._reader], [], [], SECONDS)[0]
            said = os.read(self._reader, 65536) if is_done else b""
        finally:
            with suppress(ProcessLookupError):
                os.kill(self._process, signal.SIGKILL)
            os.waitpid(self._process, 0)
            os.close(self._reader)
        assert said, "the child hangs"
        return json.loads(said)


def in_child(work: Callable[[], object]) -> Any:  # noqa: ANN401 - any JSON
    """Return the result of ``work`` in a child."""
    return Child(work).result()
