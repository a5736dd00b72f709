"""The keyless rotation, and its steps that compare GitHub's published keys with the stored keys."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import psycopg
import pytest

from kis_token.sandbox.database import list_caller, store_issuer_keys
from kis_token.sandbox.github_issuer import SigningKey
from kis_token.sandbox.loopback import Fault
from tests.command import kis_token_here
from tests.github_network import GitHubNetwork
from tests.workflows.conftest import Project, add_command, find_step, needs_scripts, readable
from tests.workflows.test_rotate import WORKFLOW, due_token, store, stored
from tests.workflows.watching_steps import WatchingSteps, github_state

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kis_token.sandbox import Sandbox

pytestmark = [needs_scripts, pytest.mark.usefixtures("child_processes", "plain_network")]

COMPARE = find_step(WORKFLOW.name, "Compare GitHub's keys with the stored ones")
TELL = find_step(WORKFLOW.name, "Tell of new keys in an issue")


@pytest.fixture
def network(tmp_path: Path) -> Iterator[GitHubNetwork]:
    """A stand-in for GitHub, reached under GitHub's own host names."""
    with GitHubNetwork(tmp_path) as network:
        yield network


def trust(sandbox: Sandbox, network: GitHubNetwork, **columns: object) -> None:
    """Store the issuer's keys, and list the issuer's usual job with the access ``issue``."""
    with psycopg.connect(sandbox.owner_dsn) as connection:
        store_issuer_keys(connection, network.issuer)
        list_caller(connection, network.issuer, sandbox.supabase.url, **{"access": "issue"} | columns)


@pytest.mark.usefixtures("runtime")  # the runtime is built before: the test's proxy leads to no package index
def test_rotation_without_a_key(project: Project, sandbox: Sandbox, network: GitHubNetwork) -> None:
    """With two variables and the permission id-token, the rotation renews a token. A new GitHub key opens one issue."""
    project.add_workflow(WORKFLOW)
    add_command(project.commands, "gh", Path(__file__).with_name("gh.py").read_text())
    trust(sandbox, network)
    old = due_token(sandbox)
    store(sandbox, old)
    network.issuer.announce(SigningKey.make("next-key"))
    machine = network.variables | network.job_variables()
    given = [f"--env={name}={value}" for name, value in machine.items() if value and name not in ("PATH", "GH_TOKEN")]
    given.append(f"--var=SUPABASE_URL={sandbox.supabase.url}")
    given.append(f"--var=SUPABASE_PUBLISHABLE_KEY={sandbox.anon_key}")
    without = {"SUPABASE_URL": "", "SUPABASE_SERVICE_ROLE_KEY": ""}

    done = project.run(sandbox, WORKFLOW.name, "workflow_dispatch", *given, secrets=without)

    assert done.returncode == 0, readable(done.stdout)
    assert stored(sandbox).token_id != old.token_id
    assert sandbox.kis.counts("production").calls == 1
    (issue,) = github_state(project.commands)["issues"]
    assert (issue["title"], issue["open"]) == ("Supabase lacks a key with which GitHub will sign", True), readable(
        done.stdout
    )
    assert "- `next-key` of https://token.actions.githubusercontent.com" in issue["texts"][0]


class Watch(WatchingSteps):
    """The two steps that compare GitHub's keys and report the result in an issue."""

    def run(self) -> list[tuple[bool, int]]:
        """Run both steps. Return for each issue whether it is open, and the number of its texts."""
        outputs, _ = self.look()
        return self.tell(KEYS=outputs["keys"], LIST=outputs["list"], TITLE=TELL["env"]["TITLE"])


@pytest.fixture
def watch(tmp_path: Path, sandbox: Sandbox, network: GitHubNetwork) -> Watch:
    """The two steps for GitHub's keys, in a repository without issues."""
    machine = {name: value for name, value in network.variables.items() if name != "PATH"}
    return Watch(tmp_path, sandbox, COMPARE, TELL, machine)


def test_issue_of_a_new_key(watch: Watch, sandbox: Sandbox, network: GitHubNetwork) -> None:
    """A new key opens one issue, which has no SQL.

    Later nights add nothing to the issue. After the new key is stored, the step closes the issue.
    """
    trust(sandbox, network)
    assert watch.run() == []
    network.issuer.announce(SigningKey.make("next-key"))

    assert (watch.run(), watch.run()) == ([(True, 1)], [(True, 1)])
    (issue,) = github_state(watch.folder)["issues"]
    assert "- `next-key` of " in issue["texts"][0]
    assert "`kis-token trust --keys`" in issue["texts"][0]
    assert "insert into" not in issue["texts"][0]

    text = kis_token_here(network.variables, "trust", "--keys").stdout
    with psycopg.connect(sandbox.owner_dsn) as connection:
        connection.execute(text.encode())
    assert watch.run() == [(False, 2)]


def test_keyless_job_compares_too(watch: Watch, sandbox: Sandbox, network: GitHubNetwork) -> None:
    """In a keyless job, the step reads the names of the stored keys by keyless_read, and masks the ID token."""
    trust(sandbox, network, access="token")
    watch.key = sandbox.anon_key
    network.issuer.announce(SigningKey.make("next-key"))

    outputs, log = watch.look(network.job_variables())

    assert outputs["keys"] == "missing"
    assert outputs["list"] == "- `next-key` of https://token.actions.githubusercontent.com"
    assert "::warning::GitHub publishes keys that the database lacks." in log
    assert len([line for line in log.splitlines() if line.startswith("::add-mask::eyJ")]) == 1


def test_name_of_a_key_is_no_markdown(watch: Watch, sandbox: Sandbox, network: GitHubNetwork) -> None:
    """If the name of a key has characters of Markdown, the issue does not show the name."""
    trust(sandbox, network)
    network.issuer.announce(SigningKey.make("`](https://evil.example.com)"))

    assert watch.look()[0]["list"].startswith("- `a key with an unusual name` of ")


def test_nothing_to_compare(watch: Watch, sandbox: Sandbox, network: GitHubNetwork) -> None:
    """If no caller is listed, or sql/007 was not run, GitHub gets no request, and the step has no output."""
    assert watch.look()[0] == {}
    with psycopg.connect(sandbox.owner_dsn) as connection:
        connection.execute("drop function public.credential_callers_status")
    assert watch.look()[0] == {}
    assert network.asked == []


def test_outage_is_a_warning(watch: Watch, sandbox: Sandbox, network: GitHubNetwork) -> None:
    """If GitHub or Supabase does not answer, the step warns and has no output."""
    trust(sandbox, network)
    network.issuer.server.add_fault(Fault("reset", times=2))
    outputs, log = watch.look()
    sandbox.supabase.stop()
    later, later_log = watch.look()

    assert outputs == later == {}
    assert "::warning::The issuer's keys were not compared with the stored keys: " in log
    assert "[github-unreachable]" in log
    assert "[store-unreachable]" in later_log
