"""Two steps of the rotation that check stored keys: the first step reads the keys, and the second updates an issue."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.workflows.conftest import add_command, run_script
from tools.step import CHECKOUT, read_pairs

if TYPE_CHECKING:
    from collections.abc import Mapping

    from kis_token.sandbox import Sandbox


def github_state(folder: Path) -> dict[str, Any]:
    """Return the issues and the calls that the stand-in for gh has stored."""
    state: dict[str, Any] = json.loads((folder / "github.json").read_text())
    return state


class WatchingSteps:
    """The steps ``look`` and ``tell`` of the workflow, without a runner, in a repository without issues.

    ``key`` is the Supabase key of the job. ``machine`` has further variables for the first step.
    """

    def __init__(
        self,
        folder: Path,
        sandbox: Sandbox,
        look: Mapping[str, Any],
        tell: Mapping[str, Any],
        machine: Mapping[str, str] | None = None,
    ) -> None:
        self.folder = folder
        self.sandbox = sandbox
        self.key = sandbox.service_key
        self._look = look
        self._tell = tell
        self._machine = machine or {}
        add_command(folder, "gh", Path(__file__).with_name("gh.py").read_text())

    def look(self, env: Mapping[str, str] | None = None) -> tuple[dict[str, str], str]:
        """Run the first step, and return the step's outputs and log."""
        outputs = self.folder / "outputs"
        outputs.write_text("")
        given = {
            "PYTHONPATH": str(CHECKOUT),
            "SUPABASE_URL": self.sandbox.supabase.url,
            "SUPABASE_SERVICE_ROLE_KEY": self.key,
            "KIS_ENVIRONMENT": "production",
            "KIS_SERVICE_NAME": "",
        }
        assert given.keys() == self._look["env"].keys()
        runner = {"GITHUB_OUTPUT": str(outputs), "GITHUB_ACTIONS": "true"}
        done = run_script(self._look["run"], self.folder, {**self._machine, **runner, **given, **(env or {})})
        assert done.returncode == 0, done.stdout
        assert "Traceback" not in done.stdout
        return read_pairs(outputs), done.stdout

    def tell(self, **words: str) -> list[tuple[bool, int]]:
        """Run the second step with ``words``. Return for each issue whether it is open, and the number of its texts."""
        env = {
            "LABEL": self._tell["env"]["LABEL"],
            "RUN": "https://github.com/someone/bot/actions/runs/1",
            "GH_TOKEN": "a",
            "GH_ENTERPRISE_TOKEN": "a",
            "GH_REPO": "someone/bot",
            **words,
        }
        assert env.keys() == self._tell["env"].keys()
        runner = {"GITHUB_SERVER_URL": "https://github.com", "GITHUB_REPOSITORY": "someone/bot"}
        done = run_script(self._tell["run"], self.folder, env | runner)
        assert done.returncode == 0, done.stdout
        return [(issue["open"], len(issue["texts"])) for issue in github_state(self.folder)["issues"]]
