"""Processes that start without delay, because each is a fork of a process that has done all slow imports.

The processes share no state with the tests. Signals stop and kill these processes like ordinary processes.
"""

from __future__ import annotations

import multiprocessing
import runpy
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from tests.leaks import LEAKS

if TYPE_CHECKING:
    from collections.abc import Iterator
    from multiprocessing.connection import Connection
    from multiprocessing.process import BaseProcess
    from pathlib import Path

#: The modules that are imported once, in the process from which all other processes fork.
IMPORTED = ["postgrest", "filelock", "kis_token.kis.session", "kis_token.wiring", "entrypoint", "bench.chaos.__main__"]


class HeardConnection:
    """The test's end of a connection to a process. The watch for leaked secrets collects all answers of the process."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self.send, self.poll, self.close = connection.send, connection.poll, connection.close

    def recv(self) -> Any:  # noqa: ANN401 - depends on the program
        """Receive an object from the process."""
        answer = self._connection.recv()
        LEAKS.hear("the answer of a process", repr(answer))
        return answer


@contextmanager
def process(program: Path, *arguments: Any) -> Iterator[tuple[BaseProcess, HeardConnection]]:  # noqa: ANN401 - the program's
    """Yield a process that runs ``program``, and our end of its connection. The process ends with the block.

    The program finds the connection and ``arguments`` in its global variable ``given``. ``program`` is a path, because
    tests/ is not a package. Every process has the environment of the first process. If a program needs another
    environment, the caller passes it as an argument.
    """
    context = multiprocessing.get_context("forkserver")  # not available on Windows
    context.set_forkserver_preload(IMPORTED)
    connection, theirs = context.Pipe()
    ours = HeardConnection(connection)
    started = context.Process(target=runpy.run_path, args=(f"{program}", {"given": (theirs, *arguments)}, "__main__"))
    started.start()
    theirs.close()
    try:
        yield started, ours
    finally:
        started.kill()
        started.join()
        ours.close()
