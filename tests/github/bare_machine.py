"""A machine without Python, to which the tests of start.sh add usable and unusable Pythons."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from tools.step import CHECKOUT, read_pairs

ACTION = yaml.safe_load((CHECKOUT / "action.yml").read_text(encoding="utf-8"))
START = "kis_token/github/start.sh"
STEP = ACTION["runs"]["steps"][0]
GOOD = Path(sys.executable).resolve()
#: The shells that a runner may have as ``sh``, with the options that the runner gives them.
SHELLS = {
    name: [path, *options, "-e"]
    for name, options in {"dash": [], "bash": [], "busybox": ["sh"]}.items()
    if (path := shutil.which(name))
}
#: The first program name that start.sh looks for.
FIRST = "python3"


@dataclass(frozen=True)
class Ended:
    """The result of start.sh."""

    status: int
    log: str
    outputs: dict[str, str]


class BareMachine:
    """A machine: its PATH has a test's Pythons, and its entrypoint.py prints the path of the Python that runs it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.places = [folder / "first place", folder / "second"]
        for place in (*self.places, folder / "temp", folder / "action" / "kis_token" / "github", folder / "tools"):
            place.mkdir(parents=True)
        (folder / "action" / START).symlink_to(CHECKOUT / START)
        self.program = folder / "action" / "entrypoint.py"
        self.program.write_text("import sys\nprint('runs on', sys.executable, *sys.argv[1:], flush=True)\n")

    def add_script(self, name: str, text: str, place: int = 0) -> Path:
        """Add a program that is a script."""
        path = self.places[place] / name
        path.write_text(text)
        path.chmod(0o755)
        return path

    def add_link(self, name: str, target: Path, place: int = 1) -> Path:
        """Add a symbolic link to a program."""
        path = self.places[place] / name
        path.symlink_to(target)
        return path

    def run(self, shell: str = "dash", *, path: str | None = None, **env: str) -> Ended:
        """Run the script of the action's step as the runner does."""
        script = self.folder / "step.sh"
        script.write_text(STEP["run"])
        output = self.folder / "output"
        output.write_text("")
        done = subprocess.run(
            [*SHELLS.get(shell, ["/bin/sh", "-e"]), str(script)],
            cwd=self.folder,
            env={
                "PATH": os.pathsep.join(map(str, self.places)) + ":/usr/sbin" if path is None else path,
                "GITHUB_ACTION_PATH": str(self.program.parent),
                "GITHUB_OUTPUT": str(output),
                "RUNNER_OS": "Linux",
                "RUNNER_TEMP": str(self.folder / "temp"),
                "RUNNER_TOOL_CACHE": str(self.folder / "tools"),
                **env,
            },
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=60,
            check=False,
        )
        return Ended(done.returncode, done.stdout.decode(errors="replace"), read_pairs(output))


def old_python(version: str) -> Path:
    """Return a real Python of another version on this machine."""
    root = Path(os.environ.get("PYENV_ROOT", "~/.pyenv")).expanduser() / "versions"
    found = sorted(root.glob(f"{version}.*/bin/python"))
    if not found:
        pytest.skip(f"there is no Python {version} on this machine")
    return found[0].resolve()
