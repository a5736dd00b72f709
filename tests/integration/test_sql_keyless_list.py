"""The list of keyless callers: rows that can be stored, rows that fit, and the INSERT that an error prints."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from kis_token.sandbox.database import list_caller, store_issuer_keys
from kis_token.sandbox.github_issuer import GitHubIssuer, SigningKey
from tests.keyless import PROJECT, Job, refusal, trust
from tests.support import Database, call, make_token

if TYPE_CHECKING:
    import psycopg


def test_insert_that_the_error_prints(database: Database, job: Job) -> None:
    """The INSERT in the error caller-not-listed lists the job with the access that the refused call needed."""
    database.owner.execute("delete from public.credential_callers")
    for ref, event, runner in (
        ("refs/heads/main", "push", "github-hosted"),
        ("refs/heads/it's", "release", "self-hosted"),
        ("refs/tags/자동매매", "repository_dispatch", "github-hosted"),
    ):
        claims = {"ref": ref, "event_name": event, "runner_environment": runner}
        token = job.token(**claims)
        found = refusal(job.read, token)
        assert (found.code, "SQL editor" in found.hint) == ("KTA04", True)
        database.owner.execute(found.detail.encode())
        assert job.read(token)["access"] == "token"
        assert refusal(job.begin, job.token(**claims)).code == "KTA05"
    database.owner.execute("delete from public.credential_callers")
    database.owner.execute(refusal(job.begin).detail.encode())
    assert job.begin()["status"] == "granted"


def test_insert_of_hostile_claims(database: Database, job: Job) -> None:
    """SQL in a branch name is not executed. Claims that cannot be stored in a row are not printed."""
    hostile = "refs/heads/x');drop/table/public.api_credentials;--"
    found = refusal(job.read, job.token(ref=hostile, repository="a'b/c\\d", repository_id="99"))
    database.owner.execute(found.detail.encode())
    assert database.owner.execute(
        "select ref, note from public.credential_callers where repository_id = '99'"
    ).fetchall() == [{"ref": hostile, "note": None}]

    for change in (
        {"ref": "refs/heads/a\nb"},
        {"ref": "refs/heads/a\\'b"},
        {"ref": "refs/heads/a\u202eb"},
        {"ref": "refs/heads/" + "x" * 245},
        {"ref": "refs/pull/7/merge"},
        {"repository_id": "74; drop"},
        {"event_name": "pull_request"},
        {"runner_environment": "'"},
    ):
        found = refusal(job.read, job.token(**{"repository_owner_id": "1"} | change))
        assert (found.code, found.detail) == ("KTA04", ""), change
        assert "x" * 30 not in found.message + found.hint


def test_error_names_the_columns_that_differ(job: Job) -> None:
    """If the repository is listed, the error names the columns that differ.

    For a repository that is not listed, the error names no columns.
    """
    found = refusal(job.read, job.token(ref="refs/heads/next", event_name="pull_request"))
    assert "differs in: ref, events" in found.message
    assert "differs" not in refusal(job.read, job.token(repository_id="75")).message


def test_highest_access_of_the_rows_that_fit(database: Database, github: GitHubIssuer, job: Job) -> None:
    """If several rows fit a job, the highest access counts. A row that does not fit has no effect."""
    database.owner.execute("update public.credential_callers set access = 'token'")
    list_caller(database.owner, github, PROJECT, access="issue", environment="production")

    assert job.read()["access"] == "token"
    assert job.read(job.token(environment="production"))["access"] == "issue"


def test_one_row_for_a_slot_a_repository_and_a_ref(database: Database, github: GitHubIssuer, job: Job) -> None:  # noqa: ARG001 - its row
    """A job cannot have two rows for one slot: if the owner lowered one row's access, the other row would count."""
    for change in ({"access": "token"}, {"events": ["push"]}, {"note": "again"}):
        assert refusal(list_caller, database.owner, github, PROJECT, **change).code == "23505"
    list_caller(database.owner, github, PROJECT, service_name="kis-second")


@pytest.mark.parametrize(
    "change",
    [
        {"access": "admin"},
        {"access": "Issue"},
        {"audience": "https://github.com/acme"},
        {"audience": "https://github.com"},
        {"audience": "https://ghes.example.com/acme"},
        {"audience": "https://*.supabase.co"},
        {"audience": f"{PROJECT}/"},
        {"audience": "http://abcdefghijklmnopqrst.supabase.co"},
        {"audience": ""},
        {"repository_id": "*"},
        {"repository_id": ""},
        {"repository_id": "acme/bot"},
        {"repository_owner_id": "%"},
        {"ref": "main"},
        {"ref": "*"},
        {"ref": "refs/heads/*"},
        {"ref": "refs/heads/release/?"},
        {"ref": "refs/heads/[a-z]"},
        {"ref": "refs/heads/"},
        {"ref": "refs/heads/a b"},
        {"ref": "refs/heads/a\u200bb"},
        *({"ref": f"refs/heads/ma{unseen}in"} for unseen in "\u00ad\u034f\u061c\u115f\u180e\u3164\ufe0f\U000e0041"),
        {"ref": "refs/pull/7/merge"},
        {"ref": "refs/heads/dependabot/pip/requests-3"},
        {"events": []},
        {"events": ["*"]},
        {"events": ["push", None]},
        {"events": ["push", "pull_request"]},
        {"events": ["pull_request_target"]},
        {"events": ["pull_request_review"]},
        {"events": ["workflow_run"]},
        {"events": ["issue_comment"]},
        {"events": ["issues"]},
        {"runner_environment": "*"},
        {"environment": ""},
        {"environment": "prod*"},
        {"workflow": "trade"},
        {"workflow": ".github/workflows/*.yml"},
        {"job_workflow_ref": "acme/*/.github/workflows/a.yml@refs/heads/main"},
        {"job_workflow_ref": "acme/bot/.github/workflows/a.yml@*"},
        {"issuer": "https://evil.example"},
        {"issuer": "https://token.actions.githubusercontent.com/*"},
        {"service_name": "*"},
    ],
    ids=str,
)
def test_rows_that_cannot_be_stored(database: Database, github: GitHubIssuer, change: dict[str, Any]) -> None:
    """A wildcard, GitHub's default audience, and events that people without write access cause cannot be listed."""
    assert refusal(list_caller, database.owner, github, PROJECT, **change).code == "23514"


def test_rows_that_can_be_stored(database: Database, github: GitHubIssuer) -> None:
    """A branch name in any alphabet, a tag, each kind of issuer, and a project on this machine can be listed."""
    changes: list[dict[str, object]] = [
        {"ref": "refs/heads/자동매매/v1.2+rc@3"},
        {"ref": "refs/tags/v1"},
        {"ref": "refs/heads/" + "x" * 244},
        {"events": ["release", "repository_dispatch"]},
        {"environment": "운영 1"},
        {"workflow": ".github/workflows/trade.yaml"},
        {"job_workflow_ref": "acme/shared/.github/workflows/a.yml@refs/tags/v1"},
        {"issuer": "https://token.actions.githubusercontent.com/acme-corp"},
        {"issuer": "https://token.actions.acme.ghe.com"},
        {"issuer": "https://github.acme.example/_services/token"},
        {"issuer": "http://127.0.0.1:8080"},
    ]
    for change in changes:
        list_caller(database.owner, github, PROJECT, **change)
    for audience in ("http://127.0.0.1:54321", "http://[::1]:8000", "https://supabase.acme.example:8443"):
        list_caller(database.owner, github, audience)

    rows = database.owner.execute("select from public.credential_callers").fetchall()
    assert len(rows) == len(changes) + 3


def test_workflow_and_reusable_workflow(database: Database, job: Job) -> None:
    """A row can require a workflow's file and a reusable workflow.

    The columns workflow and job_workflow_ref are compared as whole texts.
    """
    database.owner.execute(
        "update public.credential_callers set workflow = '.github/workflows/trade.yml',"
        " job_workflow_ref = 'acme/shared/.github/workflows/run.yml@refs/tags/v1'"
    )
    assert refusal(job.read).code == "KTA04"
    assert (
        job.read(job.token(job_workflow_ref="acme/shared/.github/workflows/run.yml@refs/tags/v1"))["access"] == "issue"
    )


def test_issuer_of_an_enterprise(database: Database, anon: psycopg.Connection[tuple[Any, ...]]) -> None:
    """An ID token of a GitHub Enterprise Server fits only rows with this server's issuer."""
    server = GitHubIssuer(issuer="https://github.acme.example/_services/token")
    server.publish(SigningKey.make("shared-kid"))
    trust(database, server)

    assert Job(anon, server).read()["access"] == "token"
    stranger = GitHubIssuer()
    stranger.publish(server.keys[-1])
    assert refusal(Job(anon, stranger).read).code == "KTA01"
    store_issuer_keys(database.owner, stranger)
    assert refusal(Job(anon, stranger).read).code == "KTA04"


def test_rows_end_by_their_date(database: Database, job: Job) -> None:
    """A row of the list gives access until its valid_until."""
    database.owner.execute("update public.credential_callers set valid_until = now() + interval '1 minute'")
    assert job.read()["access"] == "issue"
    database.owner.execute("update public.credential_callers set valid_until = now()")
    found = refusal(job.read)
    assert (found.code, "valid_until" in found.message) == ("KTA04", True)


def test_job_that_is_taken_off_the_list(database: Database, job: Job) -> None:
    """If a row is deleted, the job's access ends at once, even during an attempt that has begun."""
    job.begin()
    database.owner.execute("delete from public.credential_callers")
    assert [refusal(attempt).code for attempt in (job.read, job.begin, job.abort)] == ["KTA04"] * 3
    assert refusal(job.commit, make_token()).code == "KTA04"


def test_callers_status(database: Database, github: GitHubIssuer, job: Job) -> None:  # noqa: ARG001 - its row
    """The service key can read all rows of the list, and the issuers' keys without their moduli."""
    list_caller(database.owner, github, PROJECT, service_name="kis-second", note="acme/bot")

    status = database.call("credential_callers_status")

    assert [(row["service_name"], row["access"], row["note"]) for row in status["callers"]] == [
        ("kis", "issue", None),
        ("kis-second", "token", "acme/bot"),
    ]
    (key,) = status["keys"]
    assert (key["issuer"], key["kid"], key["bits"]) == (github.issuer, github.keys[-1].kid, 2048)
    assert set(key) == {"issuer", "kid", "bits", "modulus_sha256", "added_at"}
    one = database.call("credential_callers_status", service="kis-second")
    assert [row["service_name"] for row in one["callers"]] == ["kis-second"]


def test_callers_status_is_closed_to_the_public_key(anon: psycopg.Connection[tuple[Any, ...]]) -> None:
    """The public key cannot list callers and keys."""
    assert refusal(call, anon, "credential_callers_status").code == "42501"
