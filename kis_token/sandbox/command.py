"""``kis-token sandbox``: runs the sandbox until the given command ends; without a command, until a signal arrives."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

from kis_token.sandbox.sandbox import Sandbox

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


def run(command: list[str]) -> int:
    """Start the sandbox, run ``command`` with the sandbox's variables, and return the status that a shell would return.

    Without a command, print the variables to export, and run until Ctrl-C or SIGTERM.
    """
    stopped = threading.Event()
    received: list[int] = []
    child: subprocess.Popen[bytes] | None = None

    def stop(number: int) -> None:
        received.append(number)
        stopped.set()
        # If a user presses Ctrl-C in a terminal, the terminal sends SIGINT to the child too. If the terminal has not
        # sent the signal to the child, this process sends it to the child.
        if child is not None and not (number == signal.SIGINT and sys.stdin.isatty()):
            child.send_signal(number)

    with _on_signals(stop), Sandbox() as sandbox:
        if received:
            return 128 + received[0]
        if not command:
            for name, value in sandbox.variables.items():
                print(f"export {name}={shlex.quote(value)}")  # noqa: T201 - the command's output
            print("# For paper trading: export KIS_ENVIRONMENT=paper KIS_BASE_URL=$KIS_SANDBOX_PAPER_URL")  # noqa: T201 - the command's output
            print("# The sandbox runs until Ctrl-C.", flush=True)  # noqa: T201 - the command's output
            while not stopped.wait(1.0):
                pass
            return 0
        try:
            child = subprocess.Popen(command, env=sandbox.environment(os.environ))  # noqa: S603 - the user's own command
        except OSError as error:
            print(f"{command[0]}: {error.strerror}", file=sys.stderr)  # noqa: T201 - a shell's message
            return 127 if isinstance(error, FileNotFoundError) else 126
        if received:
            child.send_signal(received[-1])  # a signal arrived before the child was started
        status = child.wait()
        return status if status >= 0 else 128 - status


@contextmanager
def _on_signals(stop: Callable[[int], None]) -> Iterator[None]:
    """Call ``stop`` if SIGINT, SIGTERM or SIGHUP arrives, so that this process can stop its child processes."""
    numbers = [signal.SIGINT, signal.SIGTERM, *([signal.SIGHUP] if hasattr(signal, "SIGHUP") else [])]
    before = {number: signal.signal(number, lambda number, _: stop(number)) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
