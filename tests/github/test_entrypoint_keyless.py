"""A keyless step has the public key and the permission id-token, and the database lists the step's job."""

from __future__ import annotations

from typing import TYPE_CHECKING

import psycopg
import pytest

from kis_token.sandbox.database import list_caller, store_issuer_keys
from kis_token.sandbox.loopback import Fault, Response
from tests.github.entrypoint_steps import UNREACHABLE_INDEX, assert_succeeded, errors, inputs_of
from tests.resolver_harness import issue_token
from tests.support import HOUR, MINUTE, make_token
from tools.step import Ended, run_step

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from kis_token.sandbox import Sandbox
    from kis_token.sandbox.github_issuer import GitHubIssuer


@pytest.fixture
def github(sandbox: Sandbox) -> GitHubIssuer:
    """GitHub's issuer of ID tokens."""
    return sandbox.github


def trust(sandbox: Sandbox, github: GitHubIssuer, **columns: object) -> None:
    """Store the issuer's keys, and list the issuer's usual job as a caller."""
    with psycopg.connect(sandbox.owner_dsn) as connection:
        store_issuer_keys(connection, github)
        list_caller(connection, github, sandbox.supabase.url, **columns)


def keyless_step(sandbox: Sandbox, folder: Path, env: Mapping[str, str] = UNREACHABLE_INDEX, /, **inputs: str) -> Ended:
    """Run a step with the public key and the permission id-token. By default, the package index cannot be reached."""
    given = inputs_of(sandbox, supabase_key=sandbox.anon_key, **inputs)
    return run_step(given, folder, {**sandbox.github.variables(), **env})


def test_warm_step_makes_two_requests(sandbox: Sandbox, github: GitHubIssuer, tmp_path: Path) -> None:
    """A fresh token costs one request to GitHub and one to Supabase. The step installs nothing."""
    token = issue_token(sandbox)
    trust(sandbox, github)
    sandbox.supabase.server.forget()

    ended = keyless_step(sandbox, tmp_path)

    assert_succeeded(ended, "supabase")
    assert [seen.path for seen in sandbox.supabase.server.seen] == ["/rest/v1/rpc/keyless_read"]
    assert [seen.method for seen in github.server.seen] == ["GET"]
    assert list((tmp_path / "tools").iterdir()) == []
    assert ended.outputs["access-token"] == token.value


def test_id_token_is_masked_before_it_is_used(sandbox: Sandbox, github: GitHubIssuer, tmp_path: Path) -> None:
    """The log masks the ID token once, and masks the secret that requests the ID token once."""
    issue_token(sandbox)
    trust(sandbox, github)

    variables = github.variables()
    ended = keyless_step(sandbox, tmp_path, UNREACHABLE_INDEX | variables)

    masked = [line.removeprefix("::add-mask::") for line in ended.log.splitlines() if line.startswith("::add-mask::")]
    assert masked.count(variables["ACTIONS_ID_TOKEN_REQUEST_TOKEN"]) == 1
    assert len([each for each in masked if each.count(".") == 2 and each.startswith("eyJ")]) == 2  # KIS's and GitHub's


def test_keyless_job_issues_with_fresh_id_tokens(
    sandbox: Sandbox, github: GitHubIssuer, tool_cache: Path, tmp_path: Path
) -> None:
    """If no token is stored, the job issues and stores a token, with one ID token for begin and one for commit."""
    trust(sandbox, github, access="issue")
    sandbox.supabase.server.forget()

    ended = keyless_step(sandbox, tmp_path, {"RUNNER_TOOL_CACHE": str(tool_cache)})

    assert_succeeded(ended, "oauth")
    functions = [seen.path.rpartition("/")[2] for seen in sandbox.supabase.server.seen]
    assert functions == ["keyless_read", "keyless_begin", "keyless_commit"]
    assert sandbox.kis.counts("production").calls == 1
    assert keyless_step(sandbox, tmp_path / "next").outputs["source"] == "supabase"


def test_job_that_is_not_listed_learns_its_statement(sandbox: Sandbox, github: GitHubIssuer, tmp_path: Path) -> None:
    """The error has the INSERT that lists this job. After the INSERT, the step succeeds."""
    issue_token(sandbox)
    with psycopg.connect(sandbox.owner_dsn) as connection:
        store_issuer_keys(connection, github)

    ended = keyless_step(sandbox, tmp_path / "before")

    (error,) = errors(ended)
    assert ended.public["error-code"] == "caller-not-listed"
    statement = error[error.index("insert into ") : error.index(");") + 2]
    assert f"```sql\n{statement}\n```" in ended.summary
    with psycopg.connect(sandbox.owner_dsn) as connection:
        connection.execute(statement.encode())
    assert_succeeded(keyless_step(sandbox, tmp_path / "after"), "supabase")


@pytest.mark.usefixtures("runtime")  # the runtime is built before the step, whose timeout is short
@pytest.mark.parametrize(
    ("fault", "code"),
    [
        (Fault("answer", times=9, response=Response(403, {"message": "no"})), "id-token-refused"),
        (Fault("answer", times=99, response=Response(500, {})), "id-token-unavailable"),
        (Fault("reset", times=99), "id-token-unavailable"),
    ],
    ids=["403", "500", "reset"],
)
def test_github_gives_no_id_token(sandbox: Sandbox, tool_cache: Path, tmp_path: Path, fault: Fault, code: str) -> None:
    """If GitHub refuses an ID token or its endpoint does not work, the step fails and does not call KIS."""
    account = sandbox.kis.accounts["production"][0]
    trust(sandbox, sandbox.github)
    sandbox.github.server.add_fault(fault)

    ended = keyless_step(
        sandbox,
        tmp_path,
        {"RUNNER_TOOL_CACHE": str(tool_cache)},
        timeout="28s",  # 20 s are reserved for KIS; the rest covers a slow start on a busy machine
        app_key=account.app_key,
        app_secret=account.app_secret,
    )

    assert (ended.status, ended.public["error-code"]) == (1, code)
    assert sandbox.kis.counts("production").calls == 0


def test_one_failure_of_github_costs_a_moment(sandbox: Sandbox, github: GitHubIssuer, tmp_path: Path) -> None:
    """If one request to GitHub's endpoint fails, the step repeats the request and succeeds."""
    issue_token(sandbox)
    trust(sandbox, github)
    github.server.add_fault(Fault("answer", times=1, response=Response(503, {})))

    assert_succeeded(keyless_step(sandbox, tmp_path), "supabase")


def test_without_github_the_cached_token_is_used(sandbox: Sandbox, github: GitHubIssuer, tmp_path: Path) -> None:
    """While GitHub's endpoint does not answer, a cached token is used, with a warning."""
    token = issue_token(sandbox)
    trust(sandbox, github)
    cache = {"cache_path": str(tmp_path / "cache.json")}
    assert_succeeded(keyless_step(sandbox, tmp_path / "first", **cache), "supabase")
    variables = UNREACHABLE_INDEX | github.variables()
    github.stop()

    ended = keyless_step(sandbox, tmp_path / "second", variables, **cache)

    assert_succeeded(ended, "cache")
    assert ended.outputs["access-token"] == token.value
    assert "GitHub's ID token endpoint does not answer" in ended.log


def test_public_key_without_the_permission_is_an_error(sandbox: Sandbox, tmp_path: Path) -> None:
    """The error names the permission ``id-token: write``."""
    ended = run_step(inputs_of(sandbox) | {"supabase-key": sandbox.anon_key}, tmp_path, UNREACHABLE_INDEX)

    assert (ended.status, ended.public["error-code"]) == (1, "anon-supabase-key")
    assert "permissions: id-token: write" in ended.outputs["error-hint"]


def test_lower_access_does_not_issue(sandbox: Sandbox, github: GitHubIssuer, tool_cache: Path, tmp_path: Path) -> None:
    """A job with the access ``keys`` gets an error with the statement that grants ``issue``, and does not call KIS."""
    trust(sandbox, github, access="keys")

    ended = keyless_step(sandbox, tmp_path, {"RUNNER_TOOL_CACHE": str(tool_cache)})

    assert (ended.status, ended.public["error-code"]) == (1, "caller-may-not")
    assert "update public.credential_callers set access = 'issue'" in errors(ended)[0]
    assert sandbox.kis.counts("production").calls == 0


def test_job_that_may_not_see_the_keys(
    sandbox: Sandbox, github: GitHubIssuer, tool_cache: Path, tmp_path: Path
) -> None:
    """If no token is stored, a job with the access ``token`` fails with caller-may-not, although keys are stored."""
    trust(sandbox, github, access="token")

    ended = keyless_step(sandbox, tmp_path, {"RUNNER_TOOL_CACHE": str(tool_cache)})

    assert (ended.status, ended.public["error-code"]) == (1, "caller-may-not")
    assert sandbox.kis.counts("production").calls == 0


@pytest.mark.parametrize("access", ["token", "keys"])
def test_lower_access_does_not_withhold_a_stale_token(
    sandbox: Sandbox, github: GitHubIssuer, tool_cache: Path, tmp_path: Path, access: str
) -> None:
    """A job that may not issue outputs the stale token with a warning, and does not call KIS."""
    token = make_token(sandbox.kis.accounts["production"][0].app_key, left=5 * MINUTE, age=23 * HOUR)
    with psycopg.connect(sandbox.owner_dsn) as connection:
        connection.execute(
            "insert into public.api_credentials (service_name, credential_type, credential_value, expires_at)"
            " values ('kis', 'access_token', %s, %s)",
            (token.to_json(), token.expires_at),
        )
    trust(sandbox, github, access=access)

    ended = keyless_step(sandbox, tmp_path, {"RUNNER_TOOL_CACHE": str(tool_cache)})

    assert_succeeded(ended, "supabase")
    assert ended.outputs["access-token"] == token.value
    (warning,) = [line for line in ended.log.splitlines() if line.startswith("::warning")]
    assert "was not renewed" in warning
    assert access == "token" or "update public.credential_callers set access = 'issue'" in warning
    assert sandbox.kis.counts("production").calls == 0
