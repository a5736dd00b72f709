"""The action in a real workflow, run by act on this machine, by the name under which people use it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg
import pytest

from kis_token.token import parse_stored
from tools.step import CHECKOUT

if TYPE_CHECKING:
    from kis_token.sandbox import Sandbox

WORKFLOW = Path(__file__).with_name("use.yml")


@pytest.fixture
def project(tmp_path: Path, tool_cache: Path) -> Path:
    """A user's repository with the workflow, beside it the action as it would be fetched, and a home for act."""
    cache = tmp_path / "home" / ".cache" / "act"
    cache.mkdir(parents=True)
    (cache / "tool_cache").symlink_to(tool_cache)  # as on a self-hosted runner: built once
    repository = tmp_path / "bot"
    (repository / ".github" / "workflows").mkdir(parents=True)
    shutil.copy(WORKFLOW, repository / ".github" / "workflows")
    action = tmp_path / "action"
    action.mkdir()
    for name in ("action.yml", "entrypoint.py", "requirements.txt", "requirements-uv.txt"):
        shutil.copy(CHECKOUT / name, action)
    shutil.copytree(CHECKOUT / "kis_token", action / "kis_token", ignore=shutil.ignore_patterns("__pycache__"))
    return repository


def run_act(project: Path, sandbox: Sandbox, event: str, job: str) -> subprocess.CompletedProcess[str]:
    """Run one job of the workflow, on this machine itself and without Docker."""
    act = Path(sys.executable).with_name("act")
    home = project.parent / "home"
    (home / ".config" / "act").mkdir(parents=True)
    (home / ".config" / "act" / "actrc").touch()  # without it act asks a question
    env = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("GITHUB_", "RUNNER_", "KIS_", "SUPABASE_"))
    }
    env |= {"HOME": str(home), "XDG_CACHE_HOME": str(home / ".cache")}
    # A file, because the environment of act leaks into the steps, which on GitHub it does not.
    secrets = project.parent / "secrets"
    secrets.write_text(f"SUPABASE_URL={sandbox.supabase.url}\nSUPABASE_SERVICE_ROLE_KEY={sandbox.service_key}\n")
    command = [
        str(act),
        event,
        "--job",
        job,
        "--workflows",
        ".github/workflows/use.yml",
        "--platform=ubuntu-latest=-self-hosted",
        f"--local-repository=org/kis-token-action@v1={project.parent / 'action'}",
        f"--secret-file={secrets}",
        f"--var=KIS_BASE_URL={sandbox.kis.production_url}",
        "--rm",
    ]
    return subprocess.run(
        command,
        cwd=project,
        env=env,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=180,
        check=False,
    )


def readable(log: str) -> str:
    """The log without what looks like a token, to show why a test failed."""
    return re.sub(r"eyJ[\w-]+\.[\w.-]+", "<token>", log)


def test_workflow_gets_a_token_and_uses_it(project: Path, sandbox: Sandbox) -> None:
    """Two jobs of a matrix share one issue, quote with it, and no log line shows token or key."""
    done = run_act(project, sandbox, "push", "quote")

    with psycopg.connect(sandbox.owner_dsn) as connection:
        row = connection.execute(
            "select credential_value from api_credentials where credential_type = 'access_token'"
        ).fetchone()
    assert row is not None, readable(done.stdout)
    token = parse_stored(row[0])
    account = sandbox.kis.accounts["production"][0]
    secrets = {"token": token.value, "app secret": account.app_secret, "app key": account.app_key}
    shown = [name for name, secret in secrets.items() if secret in done.stdout]
    assert shown == []
    assert done.returncode == 0, readable(done.stdout)
    assert done.stdout.count("quotation: 200") == 2
    assert done.stdout.count("The token is <***>, valid until 20") == 2
    assert sandbox.kis.counts("production").calls == 1


def test_failure_reaches_the_workflow(project: Path, sandbox: Sandbox) -> None:
    """A step that fails leaves its error codes as an output that the workflow can branch on."""
    done = run_act(project, sandbox, "workflow_dispatch", "failure")

    assert done.returncode == 0, done.stdout
    assert "outcome=failure code=missing-supabase-key,invalid-mode" in done.stdout
    assert sandbox.kis.requests == ()
