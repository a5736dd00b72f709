"""Contenders in processes of their own, to be started together, stopped and killed."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.support import ACCOUNT, SERVICE_KEY
from tools.step import CHECKOUT

if TYPE_CHECKING:
    from typing_extensions import Self

    from tests.chain import Chain

#: How long anything may take before it counts as stuck.
SECONDS = 60.0


class Child:
    """One process that runs contender.py. A context manager: it does not outlive the block."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("contender.py"))],
            env=os.environ | {"PYTHONPATH": str(CHECKOUT)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.end(signal.SIGKILL)
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            pipe.close()

    def prepare(self, chain: Chain, *, refused: str | None = None, **inputs: str) -> None:
        """Give it its task: to resolve, or to replace a refused token. Inputs by their names with underscores."""
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
        self._write(json.dumps({"env": env, "refused": refused, "machine": str(chain.machine_folder)}))

    def wait_until_ready(self) -> None:
        """Return when all is done that comes before the start."""
        assert self._read() == "ready"

    def go(self) -> None:
        """Let it start."""
        self._write("go")

    def outcome(self) -> dict[str, Any]:
        """What it got."""
        answer: dict[str, Any] = json.loads(self._read())
        return answer

    def signal(self, number: int) -> None:
        """Send it a signal."""
        self._process.send_signal(number)

    def end(self, number: int) -> int:
        """Send it a signal that ends it; its status."""
        self.signal(number)
        return self._process.wait(SECONDS)

    def _write(self, line: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{line}\n")
        self._process.stdin.flush()

    def _read(self) -> str:
        assert self._process.stdout is not None
        readable, _, _ = select.select([self._process.stdout], [], [], SECONDS)
        assert readable, "the process says nothing"
        return self._process.stdout.readline().strip()
