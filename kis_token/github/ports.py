"""The interface between the program and GitHub's runner. A test may replace the runner by a class of its own."""

from __future__ import annotations

from typing import Protocol


class Workflow(Protocol):
    """The commands that the program can give to GitHub's runner."""

    def mask(self, secret: str) -> None:
        """Mask ``secret`` in all output that follows."""

    def output(self, name: str, value: str) -> None:
        """Set an output of the step."""

    def export(self, name: str, value: str) -> None:
        """Set a variable for the steps that follow."""

    def summarize(self, markdown: str) -> None:
        """Add ``markdown`` to the job's summary."""

    def error(self, message: str) -> None:
        """Annotate the run with an error."""

    def warning(self, message: str) -> None:
        """Annotate the run with a warning."""

    def info(self, message: str) -> None:
        """Add a line to the log."""
