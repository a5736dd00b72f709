"""An ID token begins only one attempt.

Only the run that has begun an attempt can end the attempt. In all tests of this module, the slot has no token.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import psycopg

from kis_token.sandbox.database import list_caller
from tests.keyless import PROJECT, Job, refusal
from tests.support import Database, make_token

if TYPE_CHECKING:
    from kis_token.sandbox.github_issuer import GitHubIssuer


def test_replayed_token(database: Database, job: Job, github: GitHubIssuer) -> None:
    """An ID token that has begun an attempt cannot begin another one, for another holder or for another slot."""
    list_caller(database.owner, github, PROJECT, service_name="kis-second", access="issue")
    token = job.token()
    assert job.begin(token)["status"] == "granted"

    holder, job.holder = job.holder, "9d2bd9a6-64cb-4f4c-8f52-0d1f3a5e7c11"
    assert refusal(job.begin, token).code == "KTA06"
    assert refusal(job.begin, token, service="kis-second").code == "KTA06"
    job.holder = holder
    assert refusal(job.begin, token, service="kis-second").code == "KTA06"
    assert job.begin(token)["status"] == "granted"


def test_run_that_has_not_begun(database: Database, job: Job, github: GitHubIssuer) -> None:
    """A job of another run, run attempt or repository cannot commit, abort or take over, even with the holder's id."""
    list_caller(database.owner, github, PROJECT, repository_id="75", access="issue")
    job.begin()
    token = make_token()

    others: tuple[dict[str, object], ...] = ({"run_id": "7000000002"}, {"run_attempt": "2"}, {"repository_id": "75"})
    for other in others:
        assert refusal(job.commit, token, job.token(**other)).code == "KTA06"
        assert refusal(job.abort, job.token(**other)).code == "KTA06"
        assert refusal(job.begin, job.token(**other)).code == "KTA06"
    assert job.commit(token)["status"] == "committed"


def test_holder_that_waits_for_the_lease(job: Job, github: GitHubIssuer, database: Database) -> None:
    """Another run cannot begin with the holder id of a job that waits for the lease."""
    with database.connect_as("anon") as connection:
        waiting = Job(connection, github, **job.claims)
        job.begin()
        assert waiting.begin()["status"] == "busy"
        assert refusal(waiting.begin, waiting.token(run_id="7000000002")).code == "KTA06"
        assert waiting.begin()["status"] == "busy"


def test_twelve_holders_with_one_token(database: Database, job: Job, github: GitHubIssuer) -> None:
    """If twelve callers begin at the same time with one ID token, one is granted the lease, and eleven are refused."""
    token = job.token()

    def begin(_: int) -> str | None:
        with database.connect_as("anon") as connection:
            try:
                return str(Job(connection, github).begin(token)["status"])
            except psycopg.Error as error:
                return error.sqlstate

    with ThreadPoolExecutor(12) as pool:
        answers = list(pool.map(begin, range(12)))

    assert sorted(map(str, answers)) == ["KTA06"] * 11 + ["granted"]
    assert database.outcomes() == ["granted"]
