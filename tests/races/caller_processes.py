"""Callers in separate processes that a test starts together, stops and kills."""

from __future__ import annotations

import os
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.prepared_processes import process
from tests.support import ACCOUNT, SERVICE_KEY

if TYPE_CHECKING:
    from typing_extensions import Self

    from tests.resolver_harness import Chain

#: The seconds after which an operation counts as stuck.
SECONDS = 60.0


class Child:
    """One process that runs caller_process.py. The end of the ``with`` block ends the process."""

    def __init__(self) -> None:
        self._stack = ExitStack()
        program = Path(__file__).with_name("caller_process.py")
        self._process, self._connection = self._stack.enter_context(process(program))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def prepare(self, chain: Chain, *, rejected: str | None = None, **inputs: str) -> None:
        """Send the task: resolve, or replace a rejected token.

        ``inputs`` are inputs by their names, with underscores.
        """
        given = {
            "supabase_url": chain.supabase.url,
            "supabase_key": SERVICE_KEY,
            "app_key": ACCOUNT.app_key,
            "app_secret": ACCOUNT.app_secret,
            "base_url": chain.kis.production_url,
            "cache_path": "off",
            **inputs,
        }
        env = {f"INPUT_{name.upper()}": value for name, value in given.items()}
        machine = os.environ | {"XDG_CACHE_HOME": str(chain.machine_folder)}
        self._connection.send({"env": env, "rejected": rejected, "machine": machine})

    def wait_until_ready(self) -> None:
        """Wait until the process is ready to start its task."""
        assert self._read() == "ready"

    def go(self) -> None:
        """Start the task."""
        self._connection.send("go")

    def outcome(self) -> dict[str, Any]:
        """Return the result of the task."""
        answer: dict[str, Any] = self._read()
        return answer

    def signal(self, number: int) -> None:
        """Send a signal to the process."""
        assert self._process.pid is not None
        os.kill(self._process.pid, number)

    def end(self, number: int) -> int | None:
        """Send a signal that ends the process, and return the process's status."""
        self.signal(number)
        self._process.join(SECONDS)
        return self._process.exitcode

    def _read(self) -> Any:  # noqa: ANN401 - a word or an outcome
        assert self._connection.poll(SECONDS), "the process sends nothing"
        return self._connection.recv()
