"""A machine whose pip and uv are stand-ins, for the tests of the runtime.

Each stand-in records its call. After the record, the stand-in makes a folder or fails, as the test chooses.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from kis_token.github.installer import PACKAGES
from kis_token.github.runtime import ensure_runtime

if TYPE_CHECKING:
    from collections.abc import Mapping
    from contextlib import ExitStack


CHECKOUT = Path(__file__).resolve().parents[2]
PYTHON = sys.executable  # this constant keeps the real Python, because some tests change sys.executable
NOTHING: Mapping[str, str] = MappingProxyType({})
#: The program of a stand-in. The program records its call, makes the target, and then succeeds, fails or waits, as the
#: test chooses.
INSTALLER = """#!{python} -IS
import json, os, signal, sys
from pathlib import Path
if "-c" in sys.argv:
    sys.exit(0)  # the question whether Python has a pip
here = Path({folder!r})
with open(here / "calls", "a") as calls:
    calls.write(json.dumps({{"name": {name!r}, "argv": sys.argv[1:], "cwd": os.getcwd(), "env": dict(os.environ),
                            "pid": os.getpid(), "lock": Path(sys.argv[sys.argv.index("-r") + 1]).read_text()}}) + "\\n")
target = Path(sys.argv[sys.argv.index("--target") + 1])
target.mkdir(parents=True)
(target / "half").write_text("half")
{then}
(target / "half").rename(target / "whole")
for package in (*{packages!r}, "cryptography/hazmat/bindings/_rust"):
    (target / package).mkdir(parents=True, exist_ok=True)
    (target / package / "__init__.py").touch()
"""
WAIT = "signal.pause()"
ENSURE = """
import os, sys, time
from pathlib import Path
from kis_token.github.runtime import ensure_runtime
folder = Path(sys.argv[1])
print(ensure_runtime(folder / "requirements.txt", os.environ, time.monotonic() + 90))
"""


def fail(words: str) -> str:
    """Return the program text of an installer that prints ``words`` and fails."""
    return f"sys.exit({words!r})"


@dataclass(frozen=True)
class Machine:
    """A machine whose PATH has only the programs of a test."""

    folder: Path

    @property
    def env(self) -> dict[str, str]:
        """A job's environment."""
        return {"PATH": str(self.folder / "bin"), "RUNNER_TOOL_CACHE": str(self.folder / "tools")}

    @property
    def root(self) -> Path:
        """The folder of the runtimes."""
        return self.folder / "tools" / "kis-token-action"

    def script(self, name: str, then: str = "") -> str:
        """Return the text of an installer."""
        return INSTALLER.format(python=PYTHON, folder=str(self.folder), name=name, then=then, packages=PACKAGES)

    def put(self, name: str, then: str = "") -> Path:
        """Put an installer into the machine's folder of programs, which is on PATH."""
        path = self.folder / "bin" / name
        path.write_text(self.script(name, then))
        path.chmod(0o755)
        return path

    def calls(self, *member: str) -> list[Any]:
        """Return one member of each recorded call; by default ``name``, the installer's name."""
        noted = self.folder / "calls"
        lines = noted.read_text().splitlines() if noted.exists() else []
        return [json.loads(line)[member[0] if member else "name"] for line in lines]

    def ensure(
        self,
        seconds: float = 90,
        env: Mapping[str, str] = NOTHING,
        end: ExitStack | None = None,
        *,
        seals: bool = True,
    ) -> Path:
        """Find or build the runtime, with ``env`` added to the environment. ``end`` permits a runtime for one run."""
        at_end = end.callback if end is not None else None
        lock = self.folder / "requirements.txt"
        return ensure_runtime(lock, {**self.env, **env}, time.monotonic() + seconds, at_end, seals=seals)

    def start(self, before: str = "") -> subprocess.Popen[str]:
        """Find or build the runtime in another process, which first runs the code ``before``."""
        command = [PYTHON, "-c", before + ENSURE, str(self.folder)]
        return subprocess.Popen(command, cwd=CHECKOUT, env=self.env, stdout=subprocess.PIPE, text=True)

    def wait_for_calls(self, count: int) -> None:
        """Wait until ``count`` installers have started; fail after 20 s."""
        deadline = time.monotonic() + 20
        while len(self.calls()) < count:
            assert time.monotonic() < deadline, "no installer was started"

    def folders(self) -> list[str]:
        """Return the names of all runtimes, complete or not."""
        return sorted(path.name for path in self.root.iterdir() if path.is_dir())
