"""The action in a real workflow, run by act on this machine, under its published name."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import psycopg
import pytest

from kis_token.token import parse_stored
from tests.workflows.conftest import Project, readable

if TYPE_CHECKING:
    from kis_token.sandbox import Sandbox


@pytest.fixture
def project(project: Project) -> Project:
    """A repository whose workflow uses the action."""
    project.add_workflow(Path(__file__).with_name("use.yml"))
    return project


def test_workflow_gets_a_token_and_uses_it(project: Project, sandbox: Sandbox) -> None:
    """Two jobs of a matrix call KIS with the same token from one issue. The log has no token and no key."""
    done = project.run(sandbox, "use.yml", "push", "--job=quote")

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


def test_failure_reaches_the_workflow(project: Project, sandbox: Sandbox) -> None:
    """A failed step outputs its error codes, and a later step of the workflow can read them."""
    done = project.run(sandbox, "use.yml", "workflow_dispatch", "--job=failure")

    assert done.returncode == 0, done.stdout
    assert "outcome=failure code=missing-supabase-key,invalid-mode" in done.stdout
    assert sandbox.kis.requests == ()
