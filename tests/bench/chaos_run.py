"""A chaos run in a separate process. `test_chaos` runs this file by its path.

The process answers with the exit status and the output.
"""

from __future__ import annotations

import contextlib
import io
from typing import TYPE_CHECKING

from bench.chaos.__main__ import main

if TYPE_CHECKING:
    from multiprocessing.connection import Connection


def run(connection: Connection, arguments: list[str]) -> None:
    """Run ``bench.chaos`` with these arguments."""
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        status = main(arguments)
    connection.send((status, printed.getvalue()))


if __name__ == "__main__":
    run(*globals()["given"])
