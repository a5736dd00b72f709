"""The rotation's warning of the app key's end: an issue opens 30 days before, and closes when a later day is stored."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

import psycopg
import pytest

from kis_token.core.app_key_expiry import RENEWAL
from kis_token.sandbox.database import list_caller, store_issuer_keys
from tests.command import kis_token_here
from tests.github_network import GitHubNetwork
from tests.support import utc_now
from tests.workflows.conftest import find_step, needs_scripts
from tests.workflows.test_rotate import WORKFLOW
from tests.workflows.watching_steps import WatchingSteps, github_state

if TYPE_CHECKING:
    from datetime import datetime
    from pathlib import Path

    from kis_token.sandbox import Sandbox

pytestmark = [needs_scripts, pytest.mark.usefixtures("child_processes", "plain_network")]

LOOK = find_step(WORKFLOW.name, "Look for the end of the app key")
TELL = find_step(WORKFLOW.name, "Warn of the app key's end in an issue")


class Watch(WatchingSteps):
    """The two steps that warn of the end of a slot's app key."""

    def run(self) -> list[tuple[bool, int]]:
        """Run both steps. Return for each issue whether it is open, and the number of its texts."""
        outputs, _ = self.look()
        title = "The KIS app key ends soon (production)"
        return self.tell(ENDS=outputs["ends"], WARNING=outputs["warning"], TITLE=title)

    @property
    def issues(self) -> list[dict[str, Any]]:
        """The repository's issues."""
        issues: list[dict[str, Any]] = github_state(self.folder)["issues"]
        return issues

    def put_end(self, end: datetime | None) -> None:
        """Store the end of the slot's app key."""
        with psycopg.connect(self.sandbox.owner_dsn) as connection:
            connection.execute("update public.api_credentials set expires_at = %s where service_name = 'kis'", [end])


@pytest.fixture
def watch(tmp_path: Path, sandbox: Sandbox) -> Watch:
    """The two steps that warn of the end of a slot's app key."""
    return Watch(tmp_path, sandbox, LOOK, TELL)


def test_issue_of_a_key_that_ends(watch: Watch) -> None:
    """A key that ends within 30 days opens one issue with day and remedy.

    Later nights add nothing to the issue. A new key closes the issue.
    """
    assert watch.run() == []
    watch.put_end(utc_now() + timedelta(days=31))
    assert watch.run() == []
    watch.put_end(utc_now() + timedelta(days=29))

    assert (watch.run(), watch.run()) == ([(True, 1)], [(True, 1)])
    (issue,) = watch.issues
    assert RENEWAL in issue["texts"][0]
    assert "`kis-token set-keys --expires DATE`" in issue["texts"][0]
    account = watch.sandbox.kis.accounts["production"][0]
    keys = {"KIS_APP_KEY": account.app_key, "KIS_APP_SECRET": account.app_secret}
    stored = kis_token_here(watch.sandbox.variables | keys, "set-keys", "--expires", "2999-12-31")
    assert stored.returncode == 0, stored.stderr
    assert watch.run() == [(False, 2)]


def test_job_without_a_key_warns_too(watch: Watch, tmp_path: Path) -> None:
    """A keyless job reads the key's end if the job may issue.

    If the job has only the access ``token``, the step has no output.
    """
    watch.put_end(utc_now() + timedelta(days=5))
    watch.key = watch.sandbox.anon_key
    with GitHubNetwork(tmp_path) as network, psycopg.connect(watch.sandbox.owner_dsn) as connection:
        store_issuer_keys(connection, network.issuer)
        list_caller(connection, network.issuer, watch.sandbox.supabase.url, access="issue")
        connection.commit()
        machine = {name: value for name, value in network.variables.items() if name != "PATH"}
        outputs, log = watch.look(machine | network.job_variables())
        connection.execute("update public.credential_callers set access = 'token'")
        connection.commit()
        hidden, _ = watch.look(machine | network.job_variables())

    assert (outputs["ends"], hidden) == ("soon", {})
    assert "::warning::The app key of kis ends on 20" in log


def test_outage_is_a_warning(watch: Watch) -> None:
    """If Supabase does not answer, the step warns and sets no output."""
    watch.sandbox.supabase.stop()
    outputs, log = watch.look()
    assert outputs == {}
    assert "::warning::The last day of the app key was not read: " in log
    assert "[store-unreachable]" in log
