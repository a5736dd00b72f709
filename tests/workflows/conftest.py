"""Fixtures for the tests of whole workflows: a user's repository, and act, which runs the repository's workflows."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from tools.step import CHECKOUT

if TYPE_CHECKING:
    from collections.abc import Mapping

    from kis_token.sandbox import Sandbox


#: The mark of tests with stand-ins for commands. Windows does not start a script by its interpreter line.
needs_scripts = pytest.mark.skipif(sys.platform == "win32", reason="the stand-ins are scripts with an interpreter line")

#: The actions/checkout that the rotation uses, pinned to a commit.
(CHECKOUT_ACTION,) = re.findall(
    r"uses: (actions/checkout@\S+)",
    (CHECKOUT / ".github" / "workflows" / "rotate-token.yml").read_text(encoding="utf-8"),
)

#: A stand-in for actions/checkout, which act cannot fetch offline. The stand-in copies the folder of a ref: see
#: ``Project.add_commit``.
CHECKOUT_STAND_IN = """
name: checkout
inputs: { repository: {}, ref: {}, token: {}, path: {}, persist-credentials: {} }
runs:
  using: composite
  steps:
    - shell: bash
      env:
        REPOSITORY: ${{ inputs.repository }}
        REF: ${{ inputs.ref }}
        INTO: ${{ inputs.path }}
      run: |
        echo "checkout: $REPOSITORY at $REF"
        rm -rf "${GITHUB_WORKSPACE:?}/${INTO:?}"
        cp -RL "REFS/$REF" "$GITHUB_WORKSPACE/$INTO"
"""


@dataclass(frozen=True)
class Project:
    """A folder with a user's repository, the fetched action, a home for act, and stand-ins for commands."""

    folder: Path

    @property
    def repository(self) -> Path:
        """The user's checkout."""
        return self.folder / "bot"

    @property
    def commands(self) -> Path:
        """The folder with stand-ins for commands. This folder is first on the PATH of the steps."""
        return self.folder / "commands"

    def add_workflow(self, workflow: Path) -> None:
        """Put a workflow into the user's repository."""
        shutil.copy(workflow, self.repository / ".github" / "workflows")

    def add_commit(self, ref: str) -> Path:
        """Return a new folder for the action at ``ref``. The stand-in for actions/checkout copies the folder."""
        folder = self.folder / "refs" / ref
        folder.mkdir(parents=True)
        return folder

    def run(
        self, sandbox: Sandbox, workflow: str, event: str, *arguments: str, secrets: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run a workflow of the repository, with Supabase's URL and key and ``secrets`` as secrets."""
        # The secrets are in a file: unlike GitHub, act passes its own environment to the steps.
        supabase = {"SUPABASE_URL": sandbox.supabase.url, "SUPABASE_SERVICE_ROLE_KEY": sandbox.service_key}
        file = self.folder / "secrets"
        file.write_text("".join(f"{name}={value}\n" for name, value in (supabase | dict(secrets or {})).items()))
        return self.act(
            event,
            workflow,
            "--platform=ubuntu-latest=-self-hosted",
            f"--local-repository=org/kis-token-action@v1={self.folder / 'action'}",
            f"--local-repository={CHECKOUT_ACTION}={self.folder / 'checkout'}",
            f"--secret-file={file}",
            f"--var=KIS_BASE_URL={sandbox.kis.production_url}",
            f"--var=KIS_PAPER_BASE_URL={sandbox.kis.paper_url}",
            *arguments,
        )

    def act(self, event: str, workflow: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run a workflow on this machine, without Docker. ``stdout`` has the standard output and the standard error."""
        home = self.folder / "home"
        env = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("GITHUB_", "RUNNER_", "KIS_", "SUPABASE_"))
        }
        env |= {
            "HOME": str(home),
            "XDG_CACHE_HOME": str(home / ".cache"),
            "PATH": f"{self.commands}{os.pathsep}{os.environ['PATH']}",
        }
        program = Path(sys.executable).with_name("act")
        return subprocess.run(
            [str(program), event, "--workflows", f".github/workflows/{workflow}", "--rm", *arguments],
            cwd=self.repository,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=180,
            check=False,
        )


@pytest.fixture
def project(
    tmp_path: Path,
    tool_cache: Path,
    compiled_action: Path,
    child_processes: None,  # noqa: ARG001 - act is one
) -> Project:
    """A user's empty repository."""
    if sys.platform != "linux":
        pytest.skip("act runs these workflows on this machine itself, and they are written for a runner with Linux")
    cache = tmp_path / "home" / ".cache" / "act"
    cache.mkdir(parents=True)
    (cache / "tool_cache").symlink_to(tool_cache)  # all runs share the tool cache, as on a self-hosted runner
    settings = tmp_path / "home" / ".config" / "act"
    settings.mkdir(parents=True)
    (settings / "actrc").touch()  # without the file actrc, act asks a question and waits
    project = Project(tmp_path)
    (project.repository / ".github" / "workflows").mkdir(parents=True)
    project.commands.mkdir()
    action = tmp_path / "action"
    shutil.copytree(compiled_action, action)
    (tmp_path / "refs").mkdir()
    (tmp_path / "refs" / "v1").symlink_to(action)
    (tmp_path / "checkout").mkdir()
    stand_in = CHECKOUT_STAND_IN.replace("REFS", str(tmp_path / "refs"))
    (tmp_path / "checkout" / "action.yml").write_text(stand_in, encoding="utf-8")
    return project


def find_step(workflow: str, name: str) -> dict[str, Any]:
    """Return the step ``name`` of this project's workflow ``workflow``."""
    jobs = _jobs(workflow)
    step: dict[str, Any]
    (step,) = [step for job in jobs.values() for step in job.get("steps", ()) if step.get("name") == name]
    return step


@cache
def _jobs(workflow: str) -> dict[str, Any]:
    page: dict[str, Any] = yaml.safe_load((CHECKOUT / ".github" / "workflows" / workflow).read_text(encoding="utf-8"))
    jobs: dict[str, Any] = page["jobs"]
    return jobs


def add_command(folder: Path, name: str, program: str, interpreter: str = sys.executable) -> None:
    """Put a stand-in for a command into a folder of commands."""
    file = folder / name
    file.write_text(f"#!{interpreter}\n{program}", encoding="utf-8")
    file.chmod(0o755)


def run_script(script: str, commands: Path, env: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    """Run a step's script as GitHub runs ``shell: bash``, with ``env`` and a PATH that begins with ``commands``."""
    return subprocess.run(
        [shutil.which("bash") or "bash", "--noprofile", "--norc", "-e", "-o", "pipefail", "-c", script],
        cwd=commands,
        env={"PATH": f"{commands}{os.pathsep}{os.environ['PATH']}", **env},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=60,
        check=False,
    )


def readable(log: str) -> str:
    """Return the log for a failed test's message, without tokens and without act's lines about git."""
    lines = [
        line for line in log.splitlines() if "repository does not exist" not in line and "inside a git" not in line
    ]
    return re.sub(r"eyJ[\w-]+\.[\w.-]+", "<token>", "\n".join(lines))
