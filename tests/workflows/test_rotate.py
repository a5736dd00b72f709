"""The rotation workflow, run by act: by schedule, by hand, and called by another repository's workflow."""

from __future__ import annotations

import json
import re
import shutil
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
import yaml

from kis_token.sandbox.kis_http import PRICE_PATH, TOKEN_PATH, error_response
from kis_token.sandbox.loopback import Fault
from kis_token.token import KST, parse_stored
from tests.support import HOUR, MINUTE, make_token
from tests.workflows.conftest import (
    CHECKOUT_ACTION,
    Project,
    add_command,
    find_step,
    needs_scripts,
    readable,
    run_script,
)
from tools.step import CHECKOUT

if TYPE_CHECKING:
    from kis_token.sandbox import Sandbox
    from kis_token.token import Token

README = CHECKOUT / "README.md"
WORKFLOW = CHECKOUT / ".github" / "workflows" / "rotate-token.yml"
COMMIT = "0123456789abcdef0123456789abcdef01234567"
UNPINNED = "The action is taken from the tag v1."


@pytest.fixture
def project(project: Project) -> Project:
    """A repository with the rotation's workflow, and a stand-in for gh that stores issues."""
    project.add_workflow(WORKFLOW)
    add_command(project.commands, "gh", Path(__file__).with_name("gh.py").read_text())
    return project


def github(project: Project) -> dict[str, Any]:
    """Return the issues and calls that the stand-in for gh has stored."""
    state: dict[str, Any] = json.loads((project.commands / "github.json").read_text())
    return state


def ticks_of(workflow: str) -> list[str]:
    """Return the cron expressions of a workflow. YAML reads the key ``on`` as true."""
    return [each["cron"] for each in yaml.safe_load(workflow)[True]["schedule"]]


def store(sandbox: Sandbox, token: Token, service: str = "kis") -> None:
    """Insert a token into api_credentials."""
    with psycopg.connect(sandbox.owner_dsn) as connection:
        connection.execute(
            "insert into api_credentials (service_name, credential_type, credential_value, expires_at)"
            " values (%s, 'access_token', %s, %s)",
            (service, token.to_json(), token.expires_at),
        )


def stored(sandbox: Sandbox, service: str = "kis") -> Token:
    """Return the token in api_credentials."""
    with psycopg.connect(sandbox.owner_dsn) as connection:
        row = connection.execute(
            "select credential_value from api_credentials where credential_type = 'access_token' and service_name = %s",
            (service,),
        ).fetchone()
    assert row is not None
    return parse_stored(row[0])


def due_token(sandbox: Sandbox, environment: str = "production") -> Token:
    """Return an expired token, which a rotation renews at any time.

    A tick shortly before 06:00 in Korea keeps a stale token.
    """
    account = sandbox.kis.accounts["production" if environment == "production" else "paper"][0]
    return make_token(account.app_key, left=-MINUTE, age=24 * HOUR + MINUTE)


def test_schedule_renews_once_a_night(project: Project, sandbox: Sandbox) -> None:
    """The first tick issues a token, verifies it and stores it. The next tick finds no token due.

    Each tick keeps the workflow's schedule enabled. The log has no secret, and no issue is opened.
    """
    old = due_token(sandbox)
    store(sandbox, old)

    ref = "--env=GITHUB_WORKFLOW_REF=someone/bot/.github/workflows/nightly.yml@refs/heads/main"  # act has none

    add_command(project.commands, "date", "echo $((21 * 3600 + 13 * 60))\n", "/bin/sh")  # 06:13 in Korea
    first = project.run(sandbox, WORKFLOW.name, "schedule", ref)
    second = project.run(sandbox, WORKFLOW.name, "schedule", ref)

    assert (first.returncode, second.returncode) == (0, 0), readable(first.stdout + second.stdout)
    token = stored(sandbox)
    assert token.token_id != old.token_id
    assert sandbox.kis.counts("production").calls == 1
    assert [seen.path for seen in sandbox.kis.requests] == [TOKEN_PATH, PRICE_PATH]
    assert token.value not in first.stdout + second.stdout
    asked = [call["arguments"] for call in github(project)["asked"]]
    assert [call[0] for call in asked] == ["api"] * 6
    assert all(call["token"] and call["host"] == "github.com" for call in github(project)["asked"])
    assert asked[2] == asked[5]
    assert asked[5][-1].endswith("/actions/workflows/nightly.yml/enable")


def test_by_hand_with_force(project: Project, sandbox: Sandbox) -> None:
    """If a token is valid for hours, a run with force renews the token, and a run without force keeps it."""
    account = sandbox.kis.accounts["production"][0]
    good = make_token(account.app_key, left=24 * HOUR - MINUTE, age=MINUTE)
    store(sandbox, good)

    usual = project.run(sandbox, WORKFLOW.name, "workflow_dispatch")
    assert (usual.returncode, sandbox.kis.counts("production").calls) == (0, 0), readable(usual.stdout)
    assert "not due before" in usual.stdout

    forced = project.run(sandbox, WORKFLOW.name, "workflow_dispatch", "--input=force=true")
    assert forced.returncode == 0, readable(forced.stdout)
    assert sandbox.kis.counts("production").calls == 1
    assert stored(sandbox).token_id != good.token_id


def test_both_environments(project: Project, sandbox: Sandbox) -> None:
    """With ``environment: both``, a real and a paper token are renewed, each in its own slot and at its own host."""
    done = project.run(sandbox, WORKFLOW.name, "workflow_dispatch", "--input=environment=both")

    assert done.returncode == 0, readable(done.stdout)
    assert (sandbox.kis.counts("production").calls, sandbox.kis.counts("paper").calls) == (1, 1)
    assert stored(sandbox, "kis").environment == "production"
    assert stored(sandbox, "kis-paper").environment == "paper"


def test_failures_are_told_in_one_issue(project: Project, sandbox: Sandbox) -> None:
    """The first failure opens an issue with code and remedy.

    The next failure adds a comment to the issue. A success closes the issue.
    """
    store(sandbox, due_token(sandbox))
    before = stored(sandbox)
    refusal = error_response("EGW00103", TOKEN_PATH)
    sandbox.kis.production.add_fault(Fault("answer", TOKEN_PATH, 1, refusal))

    failed = project.run(sandbox, WORKFLOW.name, "workflow_dispatch", "--input=force=true")
    again = project.run(sandbox, WORKFLOW.name, "workflow_dispatch", "--input=force=true")

    assert (failed.returncode, again.returncode) == (1, 1), readable(failed.stdout + again.stdout)
    assert stored(sandbox).token_id == before.token_id
    (issue,) = github(project)["issues"]
    assert (issue["open"], len(issue["texts"])) == (True, 2)
    assert "production" in issue["title"]
    for text in issue["texts"]:
        assert "`kis-key-refused`" in text
        assert "Compare key and secret with the KIS developers' site" in text
        assert "/actions/runs/" in text

    with psycopg.connect(sandbox.owner_dsn) as connection:
        connection.execute("update credential_leases set refused_until = clock_timestamp()")
    worked = project.run(sandbox, WORKFLOW.name, "workflow_dispatch", "--input=force=true")

    assert worked.returncode == 0, readable(worked.stdout)
    (issue,) = github(project)["issues"]
    assert (issue["open"], len(issue["texts"])) == (False, 3)


def test_evening_tick_with_a_refused_key_leaves_the_issue_open(project: Project, sandbox: Sandbox) -> None:
    """If a tick outputs a stale token with a warning, the issue stays open. A rotation with no token due closes it."""
    account = sandbox.kis.accounts["production"][0]
    store(sandbox, make_token(account.app_key, left=5 * HOUR, age=19 * HOUR))
    sandbox.kis.production.add_fault(Fault("answer", TOKEN_PATH, 1, error_response("EGW00103", TOKEN_PATH)))
    issue = {"number": 1, "title": "The KIS token is not renewed (production)", "label": "kis-token-rotation"}
    state = {"issues": [{**issue, "texts": ["opened"], "open": True}], "asked": []}
    (project.commands / "github.json").write_text(json.dumps(state))
    add_command(project.commands, "date", "echo $((11 * 3600 + 17 * 60))\n", "/bin/sh")

    evening = project.run(sandbox, WORKFLOW.name, "schedule", "--env=GITHUB_WORKFLOW_REF=o/r/x.yml@refs/heads/main")

    assert evening.returncode == 0, readable(evening.stdout)
    assert "The token was not renewed" in evening.stdout
    assert "Issue 1 stays open" in evening.stdout
    assert github(project)["issues"] == state["issues"]

    with psycopg.connect(sandbox.owner_dsn) as connection:
        connection.execute("delete from api_credentials where credential_type = 'access_token'")
    store(sandbox, make_token(account.app_key, left=24 * HOUR - MINUTE, age=MINUTE))
    later = project.run(sandbox, WORKFLOW.name, "workflow_dispatch")

    assert later.returncode == 0, readable(later.stdout)
    (closed,) = github(project)["issues"]
    assert (closed["open"], len(closed["texts"])) == (False, 2)
    assert sandbox.kis.counts("production").calls == 1


def caller_workflow() -> str:
    """Return README.md's workflow that calls the rotation, with ``secrets: inherit`` for a stored key."""
    (caller,) = re.findall(r"```yaml\n(# \.github/workflows/rotate-token\.yml\n.*?)```", README.read_text(), re.DOTALL)
    return f"{caller}    secrets: inherit\n"


def test_called_by_another_repository(project: Project, sandbox: Sandbox) -> None:
    """README.md's workflow renews the token, and has the same ticks as the rotation.

    act and GitHub Enterprise Server do not provide the workflow's commit. If the workflow's commit is unknown, the job
    takes the action from v1, and the log reports this.
    """
    store(sandbox, due_token(sandbox))
    caller = caller_workflow()
    (project.repository / ".github" / "workflows" / "call.yml").write_text(caller)

    done = project.run(sandbox, "call.yml", "schedule")

    assert done.returncode == 0, readable(done.stdout)
    assert sandbox.kis.counts("production").calls == 1
    assert ticks_of(caller) == ticks_of(WORKFLOW.read_text())
    assert "checkout: org/kis-token-action at v1" in done.stdout
    assert UNPINNED in done.stdout


def test_pinned_caller_gets_the_action_of_the_same_commit(project: Project, sandbox: Sandbox) -> None:
    """If a user's workflow pins the rotation to a commit, that commit's action runs, whatever commit the tag v1 has."""
    commit = project.add_commit(COMMIT)
    shutil.copytree(project.folder / "action", commit, dirs_exist_ok=True)
    # act has no job.workflow_sha and no job.workflow_repository, so two variables replace these values.
    rotation = commit / ".github" / "workflows" / WORKFLOW.name
    rotation.write_text(rotation.read_text().replace("job.workflow_", "vars.workflow_"))
    moved = "name: moved\nruns:\n  using: composite\n  steps: [{ shell: bash, run: exit 1 }]\n"
    (project.folder / "action" / "action.yml").write_text(moved)
    caller = caller_workflow().replace("rotate-token.yml@v1", f"rotate-token.yml@{COMMIT}")
    (project.repository / ".github" / "workflows" / "call.yml").write_text(caller)

    done = project.run(
        sandbox,
        "call.yml",
        "schedule",
        f"--local-repository=org/kis-token-action@{COMMIT}={commit}",
        f"--var=workflow_sha={COMMIT}",
        "--var=workflow_repository=org/kis-token-action",
    )

    assert done.returncode == 0, readable(done.stdout)
    assert sandbox.kis.counts("production").calls == 1
    assert f"checkout: org/kis-token-action at {COMMIT}" in done.stdout
    assert UNPINNED not in done.stdout


def test_no_step_names_the_action_by_a_tag() -> None:
    """The job uses the pinned actions/checkout, and the action in the fetched folder, where no secret stays."""
    (job,) = yaml.safe_load(WORKFLOW.read_text())["jobs"].values()
    used = [step for step in job["steps"] if "uses" in step]

    assert [step["uses"] for step in used] == [CHECKOUT_ACTION, "./.kis-token-action"]
    assert used[0]["with"] == {
        "repository": "${{ job.workflow_repository || 'org/kis-token-action' }}",
        "ref": "${{ job.workflow_sha || 'v1' }}",
        "token": "${{ secrets.ACTION_READ_TOKEN || github.token }}",
        "path": ".kis-token-action",
        "persist-credentials": False,
    }


@pytest.mark.usefixtures("child_processes")
@needs_scripts
@pytest.mark.parametrize(
    ("reference", "file"),
    [
        ("nightly.yml@refs/heads/main", "nightly.yml"),
        ("nightly.yml@refs/heads/fix@home", "nightly.yml"),
        ("nightly.yml@refs/heads/a/b@1.0", "nightly.yml"),
        ("nightly.yml@refs/heads/x@refs/heads/y", "nightly.yml"),
        ("night@home.yml@refs/heads/main", "night@home.yml"),
        ("nightly.yml@refs/tags/v1", "nightly.yml"),
    ],
)
def test_schedule_is_kept_enabled_from_a_branch_with_an_at_sign(tmp_path: Path, reference: str, file: str) -> None:
    """The workflow's file name is the part before the first ``@refs/``, even if the branch's name has an at sign."""
    add_command(tmp_path, "gh", Path(__file__).with_name("gh.py").read_text())
    env = {
        "GITHUB_SERVER_URL": "https://github.com",
        "GITHUB_REPOSITORY": "someone/bot",
        "GITHUB_WORKFLOW_REF": f"someone/bot/.github/workflows/{reference}",
    }

    done = run_script(find_step(WORKFLOW.name, "Keep the schedule enabled")["run"], tmp_path, env)

    assert done.returncode == 0, done.stdout
    (asked,) = json.loads((tmp_path / "github.json").read_text())["asked"]
    assert asked["arguments"][-1] == f"repos/someone/bot/actions/workflows/{file}/enable"


def test_ticks_are_outside_of_trading_sessions() -> None:
    """Ticks are from 06:13 to 07:43 in Korea, and in the evening between two sessions. No tick is at a full hour."""
    ticks = [tick.split() for tick in ticks_of(WORKFLOW.read_text())]
    in_korea = sorted(
        f"{datetime(2026, 3, 2, int(hour), int(minute), tzinfo=KST) + timedelta(hours=9):%H:%M}"
        for minute, hour, *_ in ticks
    )
    assert [tick for tick in in_korea if tick < "12:00"] == ["06:13", "06:43", "07:13", "07:43"]
    assert all("20:00" < tick < "22:00" for tick in in_korea if tick > "12:00")
    assert all(int(tick[-2:]) % 2 for tick in in_korea)
    assert all(days == ["*", "*", "*"] for _, _, *days in ticks)
