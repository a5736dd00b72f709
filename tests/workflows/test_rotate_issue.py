"""A failed rotation opens an issue, and only proof of a renewal closes the issue.

The tests run the workflow's own scripts, with the action's real outputs as inputs.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg
import pytest

from kis_token.sandbox.kis_http import TOKEN_PATH, error_response
from kis_token.sandbox.loopback import Fault
from tests.support import HOUR, MINUTE, first_of, make_token
from tests.workflows.conftest import add_command, find_step, needs_scripts, run_script
from tests.workflows.test_rotate import WORKFLOW, due_token, store
from tools.step import read_pairs, run_step

if TYPE_CHECKING:
    from kis_token.sandbox import Sandbox
    from tools.step import Ended

pytestmark = needs_scripts

PLAN = find_step(WORKFLOW.name, "Choose what to do")
TOKEN = find_step(WORKFLOW.name, "Renew the token")
REPORT = find_step(WORKFLOW.name, "Report it in an issue")
TITLE = "The KIS token is not renewed (production)"
NOWHERE = "http://127.0.0.1:9"
MORNING, EVENING = 21 * 3600 + 13 * 60, 11 * 3600 + 17 * 60


@dataclass
class Rotation:
    """The rotation's job without a runner: the job's three steps, and the repository's issues."""

    folder: Path
    sandbox: Sandbox
    tool_cache: Path
    keys: dict[str, str] = field(default_factory=dict)
    timeout: str = ""

    def open_issue(self) -> None:
        """Open the issue of an earlier failure."""
        issue = {"number": 1, "title": TITLE, "label": "kis-token-rotation", "texts": ["opened"], "open": True}
        (self.folder / "github.json").write_text(json.dumps({"issues": [issue], "asked": []}))

    @property
    def issue(self) -> tuple[bool, int]:
        """Whether the only issue is open, and the number of its texts."""
        (issue,) = json.loads((self.folder / "github.json").read_text())["issues"]
        return issue["open"], len(issue["texts"])

    def run(self, seconds: int = MORNING, *, force: bool = False) -> Ended:
        """Run the rotation's job as a tick ``seconds`` after midnight UTC."""
        add_command(self.folder, "date", f"echo {seconds}\n", "/bin/sh")
        chosen = self.folder / "chosen"
        chosen.write_text("")
        env = {"EVENT": "schedule", "FORCE": str(force).lower(), "GITHUB_OUTPUT": str(chosen)}
        assert PLAN["env"].keys() < env.keys()
        assert run_script(PLAN["run"], self.folder, env).returncode == 0
        plan = read_pairs(chosen)

        given = {
            "supabase-url": self.sandbox.supabase.url,
            "supabase-key": self.sandbox.service_key,
            "environment": "production",
            "base-url": self.sandbox.kis.production_url,
            **plan,
            **self.keys,
        }
        fixed = {name: text for name, text in TOKEN["with"].items() if "${{" not in str(text)}
        inputs = {name: str(value).lower() for name, value in fixed.items()}
        inputs |= {name: given.get(name, "") for name in TOKEN["with"].keys() - fixed.keys()}
        ended = run_step(
            inputs | {"timeout": self.timeout}, self.folder / "job", {"RUNNER_TOOL_CACHE": str(self.tool_cache)}
        )
        self.tell(plan["mode"], "failure" if ended.status else "success", ended.outputs)
        return ended

    def tell(self, mode: str, outcome: str, outputs: dict[str, str]) -> str:
        """Run the step that updates the issue, and return its log."""
        env = {
            "MODE": mode,
            "OUTCOME": outcome,
            "REFRESHED": outputs.get("refreshed", ""),
            "SOURCE": outputs.get("source", ""),
            "CODE": outputs.get("error-code", "unknown"),
            "HINT": outputs.get("error-hint", "See the log of the run."),
            "TITLE": TITLE,
            "RUN": "https://github.com/someone/bot/actions/runs/1",
            "LABEL": REPORT["env"]["LABEL"],
            "GH_TOKEN": "a",
            "GH_ENTERPRISE_TOKEN": "a",
            "GH_REPO": "someone/bot",
        }
        assert env.keys() == REPORT["env"].keys()
        runner = {"GITHUB_SERVER_URL": "https://github.com", "GITHUB_REPOSITORY": "someone/bot"}
        done = run_script(REPORT["run"], self.folder, env | runner)
        assert done.returncode == 0, done.stdout
        return done.stdout


@pytest.fixture
def rotation(tmp_path: Path, sandbox: Sandbox, tool_cache: Path) -> Rotation:
    """The rotation of a repository whose issue is open."""
    add_command(tmp_path, "gh", Path(__file__).with_name("gh.py").read_text())
    made = Rotation(tmp_path, sandbox, tool_cache)
    made.open_issue()
    return made


def token_of(sandbox: Sandbox, *, hours_left: int) -> None:
    """Store a token that ends in ``hours_left`` hours."""
    app_key = sandbox.kis.accounts["production"][0].app_key
    store(sandbox, make_token(app_key, left=hours_left * HOUR, age=(24 - hours_left) * HOUR))


def answer(code: str) -> Fault:
    """Return a fault: KIS answers one tokenP call with ``code``."""
    return Fault("answer", TOKEN_PATH, 1, error_response(code, TOKEN_PATH))


# The issue is closed by a renewal, and by a rotation that finds no token due.


def test_rotation_that_renews_closes_the_issue(rotation: Rotation) -> None:
    """A rotation that renews the due token adds a text to the issue and closes it."""
    store(rotation.sandbox, due_token(rotation.sandbox))

    assert rotation.run().outputs["refreshed"] == "true"
    assert rotation.issue == (False, 2)


def test_evening_tick_that_renews_closes_the_issue(rotation: Rotation) -> None:
    """An evening tick that renews a token, because the old token ends before the morning, closes the issue."""
    token_of(rotation.sandbox, hours_left=5)

    assert rotation.run(EVENING).outputs["refreshed"] == "true"
    assert rotation.issue == (False, 2)


def test_forced_renewal_closes_the_issue(rotation: Rotation) -> None:
    """A run that renews a valid token by force closes the issue."""
    token_of(rotation.sandbox, hours_left=17)

    assert rotation.run(force=True).outputs["refreshed"] == "true"
    assert rotation.issue == (False, 2)


def test_rotation_that_finds_nothing_due_closes_the_issue(rotation: Rotation) -> None:
    """If another job has renewed the token, the rotation finds no token due.

    If no token is due, the rotation does not call KIS, and closes the issue.
    """
    store(rotation.sandbox, make_token(rotation.sandbox.kis.accounts["production"][0].app_key, left=24 * HOUR - MINUTE))

    assert rotation.run().public["source"] == "supabase"
    assert rotation.issue == (False, 2)
    assert rotation.sandbox.kis.requests == ()


# The issue stays open after a success that does not prove a renewal.


@pytest.mark.parametrize(
    "fault",
    first_of(
        2, [answer("EGW00103"), Fault("reset", TOKEN_PATH, 1), answer("EGW00133"), Fault("truncate", TOKEN_PATH, 1)]
    ),
    ids=["the key is refused", "KIS is down", "the minute is not over", "KIS breaks off"],
)
def test_evening_tick_that_cannot_renew_leaves_the_issue_open(rotation: Rotation, fault: Fault) -> None:
    """If the token cannot be renewed, the step outputs the stale token, and the issue gets no text."""
    token_of(rotation.sandbox, hours_left=5)
    rotation.sandbox.kis.production.add_fault(fault)

    ended = rotation.run(EVENING)

    assert (ended.status, ended.outputs["refreshed"], ended.outputs["source"]) == (0, "false", "supabase")
    assert rotation.issue == (True, 1)


def test_evening_tick_with_nothing_to_do_leaves_the_issue_open(rotation: Rotation) -> None:
    """A token that lasts until the morning is not renewed, so the tick does not prove a renewal."""
    token_of(rotation.sandbox, hours_left=17)

    assert rotation.run(EVENING).status == 0
    assert rotation.issue == (True, 1)


def test_force_within_the_minute_of_an_issue_leaves_the_issue_open(rotation: Rotation) -> None:
    """Within a minute of an issue, KIS cannot be called.

    During the minute after an issue, a forced run outputs the stored token with a warning.
    """
    rotation.run(force=True)
    rotation.open_issue()

    ended = rotation.run(force=True)

    assert (ended.status, ended.outputs["refreshed"]) == (0, "false")
    assert "The token was not renewed" in ended.log
    assert rotation.issue == (True, 1)


def test_force_that_gets_the_same_token_again_leaves_the_issue_open(rotation: Rotation) -> None:
    """Within 6 hours of an issue, KIS gives the same token again. A forced run with the same token is no renewal."""
    rotation.run(force=True)
    rotation.open_issue()
    with psycopg.connect(rotation.sandbox.owner_dsn) as connection:
        connection.execute("update credential_leases set not_before = clock_timestamp()")
    rotation.sandbox.kis.advance(61)

    ended = rotation.run(force=True)

    assert (ended.status, ended.outputs["refreshed"], ended.outputs["source"]) == (0, "false", "oauth")
    assert rotation.issue == (True, 1)


# After a failure the issue stays open and gets a text.


@pytest.mark.parametrize(("seconds", "force"), [(MORNING, False), (MORNING, True)], ids=["rotate", "force"])
def test_failed_run_adds_to_the_open_issue(rotation: Rotation, seconds: int, force: bool) -> None:  # noqa: FBT001 - a case
    """If KIS refuses the key, the run fails, and the issue gets the code."""
    store(rotation.sandbox, due_token(rotation.sandbox))
    rotation.sandbox.kis.production.add_fault(answer("EGW00103"))

    assert rotation.run(seconds, force=force).outputs["error-code"] == "kis-key-refused"
    assert rotation.issue == (True, 2)


def test_evening_tick_without_supabase_issues_nothing_for_itself(rotation: Rotation) -> None:
    """If Supabase is down, the tick fails and does not call KIS: a token of one runner would look like a renewal."""
    rotation.run(force=True)  # this run builds the runtime, because a timeout of 15 s is too short for a build
    rotation.open_issue()
    shutil.rmtree(rotation.folder / "job")  # without this folder, the runner has no cached token, like another machine
    before = rotation.sandbox.kis.requests
    account = rotation.sandbox.kis.accounts["production"][0]
    rotation.keys = {"supabase-url": NOWHERE, "app-key": account.app_key, "app-secret": account.app_secret}
    rotation.timeout = "15s"

    ended = rotation.run(EVENING)

    assert (ended.status, ended.outputs["error-code"]) == (1, "store-unreachable")
    assert rotation.issue == (True, 2)
    assert rotation.sandbox.kis.requests == before


# The step that updates the issue, for every combination of its inputs.


PROOF = [("rotate", "true", "oauth"), ("force", "true", "oauth"), ("resolve", "true", "oauth")]
PROOF += [("rotate", "false", "supabase")]
NO_PROOF = [("rotate", "false", "cache"), ("rotate", "false", "oauth")]
NO_PROOF += [(mode, "false", source) for mode in ("force", "resolve") for source in ("supabase", "cache", "oauth")]


@pytest.mark.parametrize(("mode", "refreshed", "source"), PROOF + NO_PROOF)
def test_success_closes_the_issue_only_on_proof(rotation: Rotation, mode: str, refreshed: str, source: str) -> None:
    """If a success does not prove a renewal, the issue stays open, and only the log reports the success."""
    log = rotation.tell(mode, "success", {"refreshed": refreshed, "source": source})

    is_proof = (mode, refreshed, source) in PROOF
    assert rotation.issue == ((False, 2) if is_proof else (True, 1))
    assert ("Issue 1 stays open" in log) is not is_proof


@pytest.mark.parametrize("mode", ["rotate", "force", "resolve", ""])
@pytest.mark.parametrize("outcome", ["failure", "skipped"])
def test_run_without_a_token_adds_to_the_issue(rotation: Rotation, mode: str, outcome: str) -> None:
    """If the step failed, or was skipped because the action could not be fetched, the issue gets a text."""
    rotation.tell(mode, outcome, {})

    assert rotation.issue == (True, 2)


def test_success_without_an_issue_opens_none(rotation: Rotation) -> None:
    """If no issue is open, a success makes one request to GitHub and changes nothing."""
    (rotation.folder / "github.json").unlink()

    rotation.tell("resolve", "success", {"refreshed": "false", "source": "supabase"})

    state: dict[str, Any] = json.loads((rotation.folder / "github.json").read_text())
    assert (state["issues"], len(state["asked"])) == ([], 1)
