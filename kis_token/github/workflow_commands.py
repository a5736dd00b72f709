"""Sends a step's masks, outputs, variables, annotations and summary to GitHub's runner. Needs no package.

GitHub's page "Workflow commands for GitHub Actions" describes the forms and rules. The runner executes a command at the
start of a line, so every text is escaped. A mask is flushed at once: with step debugging, the runner logs each output
as soon as it is set.
"""

from __future__ import annotations

import os
import sys
from contextlib import contextmanager

from kis_token.errors import EnvironmentFault

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping


class Masks:
    """The lines that the runner masks in this step. The runner gets each line once. The repr shows no masked line."""

    def __init__(self) -> None:
        self._lines: set[str] = set()

    def add(self, secret: str) -> list[str]:
        """Return the lines of ``secret`` that are not masked yet, without empty lines. The runner masks line by line.

        The caller must give the returned lines to the runner, because a later call does not return the same lines.
        """
        lines = dict.fromkeys(line for line in secret.splitlines() if line.strip() and line not in self._lines)
        self._lines.update(lines)
        return list(lines)


class FileWorkflow:
    """Gives commands to the runner through the log, and through the files that the environment names."""

    def __init__(self, env: Mapping[str, str]) -> None:
        self._env = env
        self.masks = Masks()

    def mask(self, secret: str) -> None:
        """Mask ``secret``, unless ``secret`` is masked already."""
        for line in self.masks.add(secret):
            self._command("add-mask", line)

    def output(self, name: str, value: str) -> None:
        """Set an output of the step. Raises EnvironmentFault outside of a step."""
        self._append("GITHUB_OUTPUT", _pair(name, value))

    def export(self, name: str, value: str) -> None:
        """Set a variable for the steps that follow. Raises EnvironmentFault outside of a step."""
        self._append("GITHUB_ENV", _pair(name, value))

    def summarize(self, markdown: str) -> None:
        """Add ``markdown`` to the job's summary. If the environment names no summary file, nothing is added.

        Raises EnvironmentFault if the summary's file cannot be written.
        """
        if self._env.get("GITHUB_STEP_SUMMARY"):
            self._append("GITHUB_STEP_SUMMARY", markdown)

    def error(self, message: str) -> None:
        """Annotate the run with an error."""
        self._command("error", message)

    def warning(self, message: str) -> None:
        """Annotate the run with a warning."""
        self._command("warning", message)

    def info(self, message: str) -> None:
        """Add a line to the log. If the runner would execute the line as a command, the method changes the line.

        The runner executes a line with ``::`` at its start or after leading blanks, and a line with ``##[`` anywhere.
        """
        for line in message.splitlines():
            before, mark, _ = line.partition("::")
            shown = f"| {line}" if mark and not any(map(str.isalnum, before)) else line
            print(shown.replace("##[", "## ["))  # noqa: T201 - the log
        sys.stdout.flush()

    def _command(self, name: str, text: str) -> None:
        print(f"::{name}::{escape(text)}", flush=True)  # noqa: T201 - the runner reads commands from the log

    def _append(self, variable: str, text: str) -> None:
        with (
            writing(self._env, variable),
            open(self._env[variable], "a", encoding="utf-8", newline="") as file,  # noqa: PTH123 - pathlib takes time to import
        ):
            file.write(text + os.linesep)


def require_file(env: Mapping[str, str], variable: str) -> None:
    """Raise EnvironmentFault if ``variable`` does not name a file that can be written."""
    path = env.get(variable)
    if not path or not os.path.isfile(path) or not os.access(path, os.W_OK):  # noqa: PTH113 - pathlib takes time to import
        raise EnvironmentFault("output-unwritable", f"{variable} does not name a writable file")


@contextmanager
def writing(env: Mapping[str, str], variable: str) -> Iterator[None]:
    """Raise EnvironmentFault if the block cannot write to the file that ``variable`` names."""
    require_file(env, variable)
    try:
        yield
    except OSError as error:
        raise EnvironmentFault("output-unwritable", f"{variable} cannot be written ({type(error).__name__})") from error


def escape(text: str) -> str:
    """Return ``text`` escaped as the value of a workflow command."""
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _pair(name: str, value: str) -> str:
    # The delimiter is random, so that no value can contain the delimiter. A value with the delimiter could set other
    # outputs.
    delimiter = f"ghadelimiter_{os.urandom(16).hex()}"
    return f"{name}<<{delimiter}{os.linesep}{value}{os.linesep}{delimiter}"
