"""commit_issuance: the columns of row and lease, and SQLSTATEs. tests/store/test_commit.py tests what a caller sees."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

import psycopg
import pytest

from kis_token.token import parse_instant
from tests.support import APP_KEY, HOUR, MINUTE, Caller, issue_by_functions, make_token

if TYPE_CHECKING:
    from datetime import datetime

    from tests.support import Database

SEALED = "enc:v1:0a1b2c3d:bm9uY2VjaXBoZXJ0YWc="
SEALED_AGAIN = "enc:v1:0a1b2c3d:b3RoZXJjaXBoZXJ0YWc="


@pytest.fixture
def caller(database: Database) -> Caller:
    """A caller that holds the lease."""
    caller = Caller(database)
    caller.begin()
    return caller


def seconds_to_the_next(database: Database, answer: dict[str, Any]) -> float:
    """Return the exact seconds from an answer's server_now to the lease's not_before."""
    not_before: datetime = database.lease()["not_before"]
    return (not_before - parse_instant(answer["server_now"])).total_seconds()


def test_a_commit_is_written_into_the_lease(database: Database) -> None:
    """A commit sets the columns of the stored token, and clears the holder, the last error and the last refusal."""
    refused = Caller(database)
    refused.begin()
    refused.abort("EGW00105", timedelta(), refused_credential_id="0123456789abcdef")
    token = make_token()
    version = issue_by_functions(database, token)

    lease = database.lease()
    assert (lease["holder"], lease["lease_until"], lease["last_error"]) == (None, None, None)
    assert (lease["refused_credential_id"], lease["refused_until"]) == (None, None)
    assert (lease["token_id"], lease["token_version"]) == (token.token_id, version)
    assert lease["issued_at"] == token.issued_at


@pytest.mark.parametrize(
    ("service", "environment"), [("kis", "production"), ("kis-paper", "paper"), ("kis-second", "production")]
)
def test_a_new_row_has_its_environment(database: Database, service: str, environment: str) -> None:
    """If the slot has no app_key row, the token's environment is paper in the slot kis-paper, else production."""
    issue_by_functions(database, make_token(), service=service)

    assert database.row(service)["environment"] == environment


def test_a_new_row_has_the_environment_of_its_key(database: Database) -> None:
    """The token's row gets the environment of the slot's app_key row."""
    database.put("app_key", APP_KEY.key, service="second")
    database.owner.execute("update api_credentials set environment = 'paper'")
    issue_by_functions(database, make_token(), service="second")

    assert database.row("second")["environment"] == "paper"


def test_a_commit_keeps_the_id_of_the_row(database: Database) -> None:
    """The new token replaces the old one in the same row: id and created_at do not change."""
    database.put_token(make_token(left=5 * MINUTE))
    before = database.row()
    issue_by_functions(database, make_token())

    after = database.row()
    assert (after["id"], after["created_at"]) == (before["id"], before["created_at"])


def test_a_replayed_commit_changes_no_column(database: Database, caller: Caller) -> None:
    """If the same commit is sent again, row and lease do not change."""
    token = make_token()
    caller.commit(token)
    before = (database.row(), database.lease())

    assert caller.commit(token)["status"] == "committed"
    assert (database.row(), database.lease()) == before


def test_a_commit_of_an_earlier_grant_changes_no_column(database: Database, caller: Caller) -> None:
    """If an earlier holder commits, the current holder's lease does not change, and no row is written."""
    database.age(71)
    Caller(database).begin()
    before = database.lease()

    assert caller.commit(make_token())["status"] == "fenced"
    assert (database.row(), database.lease()) == ({}, before)


@pytest.mark.parametrize(
    "change", [{"fence": 0}, {"fence": 2}, {"fence": None}, {"holder": None}, {"holder": "0" * 32}], ids=str
)
def test_a_fenced_commit_changes_no_column(database: Database, caller: Caller, change: dict[str, object]) -> None:
    """If a commit has a wrong or null fence, or a wrong or null holder, lease and rows do not change."""
    before = database.lease()

    assert caller.commit(make_token(), **change)["status"] == "fenced"
    assert (database.row(), database.lease()) == ({}, before)


def test_nulls_name_no_grant(database: Database) -> None:
    """On a slot without a grant, a commit with fence 0 and a null holder is fenced."""
    assert Caller(database).commit(make_token(), fence=0, holder=None)["status"] == "fenced"
    assert database.row() == {}


def test_a_commit_beside_a_newer_token_ends_the_lease(database: Database, caller: Caller) -> None:
    """If a newer token was stored without a lease, a commit is fenced, and the lease has no holder and no token."""
    database.put_token(make_token(left=24 * HOUR))

    assert caller.commit(make_token(left=23 * HOUR))["status"] == "fenced"
    lease = database.lease()
    assert (lease["holder"], lease["lease_until"], lease["token_id"]) == (None, None, None)


@pytest.mark.parametrize("late", [50, 3600])
def test_a_late_commit_allows_the_next_grant_after_61_s(database: Database, caller: Caller, late: float) -> None:
    """A commit sets not_before to exactly 61 s later, both during the lease and after the end of the lease."""
    database.age(late)

    answer = caller.commit(make_token())

    assert seconds_to_the_next(database, answer) == 61


@pytest.mark.parametrize("sealed", [False, True])
@pytest.mark.parametrize(("rejected", "age"), [(False, HOUR), (True, 7 * HOUR), (True, 2 * HOUR)])
def test_a_repeated_token_sets_the_time_of_the_next_grant(
    database: Database, *, sealed: bool, rejected: bool, age: timedelta
) -> None:
    """If KIS repeats the stored token, not_before is 61 s later. For a rejected token, not_before is 6 h after issue.

    The lease names the token and the unchanged version of its row.
    """
    token = make_token(age=age)
    caller = Caller(database)
    caller.begin()
    version = caller.commit(token, **({"value": SEALED} if sealed else {}))["version"]
    database.age(120)
    caller = Caller(database)
    caller.begin(rejected_version=version)

    answer = caller.commit(token, rejected=rejected, **({"value": SEALED_AGAIN} if sealed else {}))

    lease = database.lease()
    assert (answer["status"], lease["token_id"], lease["token_version"]) == ("unchanged", token.token_id, version)
    if rejected and age < 6 * HOUR:
        assert lease["not_before"] == token.issued_at + 6 * HOUR
    else:
        assert seconds_to_the_next(database, answer) == 61


# invalid arguments


@pytest.mark.parametrize(
    "change",
    [
        {"service": None},
        {"service": "kis/../x"},
        {"token_id": None},
        {"token_id": "abc"},
        {"value": None},
        {"value": ""},
        {"value": "{"},
        {"value": "eyJ0eXAiOiJKV1QifQ.e30.c2ln"},
        {"value": '{"access_token": null}'},
        {"value": '{"access_token": ""}'},
        {"value": '{"access_token": 5}'},
        {"value": '{"access_token": {"a": "b"}}'},
        {"value": '["access_token"]'},
        {"value": "enc:v1:"},
        {"value": "enc:v1:a:b c"},
        {"expires_at": None},
        {"expires_at": "2001-01-01"},
        {"expires_at": "-infinity"},
    ],
    ids=str,
)
def test_invalid_arguments_are_refused(database: Database, caller: Caller, change: dict[str, object]) -> None:
    """A commit of an invalid token raises 22023 and stores nothing. The holder can still commit a valid token."""
    with pytest.raises(psycopg.errors.InvalidParameterValue):
        caller.commit(make_token(), **change)
    assert database.row() == {}
    assert caller.commit(make_token())["status"] == "committed"
