"""The repository's variables or secrets, set with GitHub's command gh. gh reads the values from its standard input."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from kis_token.errors import GitHubError
from kis_token.settings.environment import SECRETS

if TYPE_CHECKING:
    from collections.abc import Mapping

Kind = Literal["variable", "secret"]

#: The time limit of one call of gh, in seconds. gh sends requests to GitHub.
_GH_SECONDS = 30


@dataclass(frozen=True, slots=True)
class GitHubCommand:
    """The command gh, with a sign-in at GitHub. ``env`` is gh's environment, without secrets of this project."""

    program: str
    env: Mapping[str, str] = field(repr=False)

    @staticmethod
    def find(env: Mapping[str, str]) -> GitHubCommand | None:
        """Return gh from the path in ``env``, or None if gh is missing or is not signed in."""
        program = shutil.which("gh", path=env.get("PATH"))
        if program is None:
            return None
        own = {name for names in SECRETS.values() for name in names}
        command = GitHubCommand(program, {name: value for name, value in env.items() if name not in own})
        return command if command._run("auth", "status", "--hostname", "github.com") is not None else None

    def values(self, kind: Kind, repository: str) -> dict[str, str]:
        """Return the repository's variables with their values, or its secrets with empty texts.

        Raises GitHubError ``github-refused`` if gh cannot list the variables or secrets.
        """
        listed = self._run(kind, "list", "--repo", repository)
        if listed is None:
            raise _refused(f"cannot list the {kind}s of {repository}")
        rows = [line.split("\t") for line in listed.splitlines() if line]
        return {row[0]: row[1] if kind == "variable" and len(row) > 1 else "" for row in rows}

    def set(self, kind: Kind, repository: str, name: str, value: str) -> None:
        """Set a variable or a secret. Raises GitHubError ``github-refused``."""
        if self._run(kind, "set", name, "--repo", repository, given=value) is None:
            raise _refused(f"cannot set the {kind} {name} of {repository}")

    def _run(self, *arguments: str, given: str = "") -> str | None:
        """Return gh's output, or None if gh fails. gh's messages are not shown, because they may repeat a value."""
        try:
            done = subprocess.run(  # noqa: S603 - runs gh with checked names
                [self.program, *arguments],
                env=dict(self.env),
                input=given,
                capture_output=True,
                text=True,
                timeout=_GH_SECONDS,
                check=False,
            )
        except (OSError, ValueError, subprocess.SubprocessError):
            return None
        return done.stdout if done.returncode == 0 else None


def _refused(said: str) -> GitHubError:
    return GitHubError("github-refused", f"The command gh {said}")
