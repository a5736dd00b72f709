"""commit_issuance: what is stored, what is not, and when the next may ask."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

import psycopg
import pytest

from tests.support import APP_KEY, HOUR, MINUTE, Contender, issue_by_functions, make_token, utc_now

if TYPE_CHECKING:
    from datetime import datetime

    from tests.support import Database

SECOND = timedelta(seconds=1)
SEALED = "enc:v1:0a1b2c3d:bm9uY2VjaXBoZXJ0YWc="
SEALED_AGAIN = "enc:v1:0a1b2c3d:b3RoZXJjaXBoZXJ0YWc="


@pytest.fixture
def contender(database: Database) -> Contender:
    """One that has a turn."""
    contender = Contender(database)
    contender.begin()
    return contender


def seconds_from_now(time: datetime) -> float:
    """How far ahead a time of the database is; it runs on this machine."""
    return (time - utc_now()).total_seconds()


def test_a_commit_stores_the_token(database: Database, contender: Contender) -> None:
    """The row holds the token and is active; the lease is given back and remembers what it stored."""
    token = make_token()

    answer = contender.commit(token)

    row, lease = database.row(), database.lease()
    assert (answer["status"], answer["version"], answer["value"]) == ("committed", row["version"], None)
    assert database.stored_id() == token.token_id
    assert (row["expires_at"], row["is_active"], row["environment"]) == (token.expires_at, True, "production")
    assert (lease["holder"], lease["lease_until"], lease["last_error"]) == (None, None, None)
    assert (lease["token_id"], lease["token_version"]) == (token.token_id, row["version"])
    assert lease["issued_at"] == token.issued_at
    assert database.outcomes() == ["granted", "committed"]


@pytest.mark.parametrize(("service", "environment"), [("kis-paper", "paper"), ("kis-second", "production")])
def test_a_new_row_says_its_environment(database: Database, service: str, environment: str) -> None:
    """Without an app_key row that says it, kis-paper is paper and every other slot production."""
    issue_by_functions(database, make_token(), service=service)

    assert database.row(service)["environment"] == environment


def test_a_new_row_has_the_environment_of_its_key(database: Database) -> None:
    """The environment of the slot's app_key row is the token's as well."""
    database.put("app_key", APP_KEY.key, service="second")
    database.owner.execute("update api_credentials set environment = 'paper'")
    issue_by_functions(database, make_token(), service="second")

    assert database.row("second")["environment"] == "paper"


def test_a_commit_replaces_what_was_there(database: Database) -> None:
    """The stale token's row is the new one's: same id and creation, another version."""
    database.put_token(make_token(left=5 * MINUTE))
    before = database.row()
    token = make_token()
    issue_by_functions(database, token)

    after = database.row()
    assert (after["id"], after["created_at"]) == (before["id"], before["created_at"])
    assert after["version"] > before["version"]
    assert database.stored_id() == token.token_id


def test_a_commit_brings_an_inactive_row_back(database: Database) -> None:
    """A token row that was set to inactive is active again with the new token."""
    database.put_token(make_token(), active=False)
    token = make_token()
    issue_by_functions(database, token)

    assert database.row()["is_active"]
    assert database.stored_id() == token.token_id


def test_a_replayed_commit_is_committed_once(database: Database, contender: Contender) -> None:
    """Sent again because its answer was lost, a commit says the same and changes nothing."""
    token = make_token()
    first = contender.commit(token)
    before = (database.row(), database.lease(), database.outcomes())

    again = contender.commit(token)

    assert (again["status"], again["version"]) == ("committed", first["version"])
    assert (database.row(), database.lease(), database.outcomes()) == before


def test_a_replayed_sealed_commit_is_known_by_its_token(database: Database, contender: Contender) -> None:
    """Sealed values differ each time; the token's fingerprint is what tells a replay."""
    token = make_token()
    contender.commit(token, value=SEALED)

    assert contender.commit(token, value=SEALED_AGAIN)["status"] == "committed"
    assert database.row()["credential_value"] == SEALED
    assert database.outcomes() == ["granted", "committed"]


def test_another_token_is_no_replay(database: Database, contender: Contender) -> None:
    """A second, different token under a fence that is used up is fenced."""
    stored = make_token()
    contender.commit(stored)

    answer = contender.commit(make_token())

    assert (answer["status"], answer["value"]) == ("fenced", stored.to_json())
    assert database.stored_id() == stored.token_id


def test_a_holder_that_slept_through_its_lease_is_fenced(database: Database, contender: Contender) -> None:
    """Once another has been granted, the old fence stores nothing, and takes nothing from the new holder."""
    database.age(71)
    successor = Contender(database)
    successor.begin()
    before = database.lease()

    answer = contender.commit(make_token())

    assert (answer["status"], answer["value"]) == ("fenced", None)
    assert (database.row(), database.lease()) == ({}, before)
    token = make_token()
    assert successor.commit(token)["status"] == "committed"
    assert contender.commit(make_token())["value"] == token.to_json()


@pytest.mark.parametrize(
    "change", [{"fence": 0}, {"fence": 2}, {"fence": None}, {"holder": None}, {"holder": "0" * 32}], ids=str
)
def test_a_wrong_fence_or_holder_is_fenced(database: Database, contender: Contender, change: dict[str, object]) -> None:
    """Who cannot name both fence and holder of the present grant stores nothing."""
    before = database.lease()

    assert contender.commit(make_token(), **change)["status"] == "fenced"
    assert (database.row(), database.lease()) == ({}, before)


def test_without_any_grant_nothing_is_stored(database: Database) -> None:
    """On a slot that nobody has begun, a commit is fenced whatever it names."""
    assert Contender(database).commit(make_token())["status"] == "fenced"
    assert Contender(database).commit(make_token(), fence=0, holder=None)["status"] == "fenced"
    assert database.row() == {}


def test_a_newer_token_of_someone_else_stays(database: Database, contender: Contender) -> None:
    """A token stored meanwhile without a lease, with a later expiry, wins; the grant's holder is cleared."""
    newer = make_token(left=24 * HOUR, age=timedelta())
    database.put_token(newer)

    answer = contender.commit(make_token(left=23 * HOUR))

    assert (answer["status"], answer["value"]) == ("fenced", newer.to_json())
    assert database.stored_id() == newer.token_id
    lease = database.lease()
    assert (lease["holder"], lease["lease_until"], lease["token_id"]) == (None, None, None)
    assert seconds_from_now(lease["not_before"]) > 60
    assert database.outcomes() == ["granted", "fenced"]


def test_an_older_token_of_someone_else_is_replaced(database: Database, contender: Contender) -> None:
    """A token stored meanwhile that ends sooner than the new one does not stay."""
    database.put_token(make_token(left=HOUR))
    token = make_token()

    assert contender.commit(token)["status"] == "committed"
    assert database.stored_id() == token.token_id


def test_a_token_stored_before_the_grant_is_replaced(database: Database) -> None:
    """What was there before the turn has no say, even with a later expiry: its issuer knew of it."""
    version = database.put_token(make_token(left=48 * HOUR))
    contender = Contender(database)
    contender.begin(rejected_version=version)
    token = make_token()

    assert contender.commit(token)["status"] == "committed"
    assert database.stored_id() == token.token_id


def test_an_expired_lease_may_commit_when_nobody_took_over(database: Database, contender: Contender) -> None:
    """Late but alone: the token is as good as any, and storing it spares another call."""
    database.age(3600)
    token = make_token()

    assert contender.commit(token)["status"] == "committed"
    assert database.stored_id() == token.token_id
    assert 60 < seconds_from_now(database.lease()["not_before"]) <= 61


# unchanged: KIS gave the token again that is stored already


def commit_again(database: Database, *, rejected: bool, sealed: bool = False, **token_age: Any) -> dict[str, Any]:  # noqa: ANN401 - make_token's
    """Store a token, then let the next turn end with the same token."""
    token = make_token(**token_age)
    contender = Contender(database)
    contender.begin()
    version = contender.commit(token, **({"value": SEALED} if sealed else {}))["version"]
    database.age(120)
    contender = Contender(database)
    contender.begin(rejected_version=version)
    answer = contender.commit(token, rejected=rejected, **({"value": SEALED_AGAIN} if sealed else {}))
    assert answer["version"] == version
    return answer


@pytest.mark.parametrize("sealed", [False, True])
def test_the_same_token_changes_nothing(database: Database, sealed: bool) -> None:  # noqa: FBT001 - a table
    """The row stays as it was, its version too, sealed or not; after a minute the next may ask."""
    assert commit_again(database, rejected=False, sealed=sealed)["status"] == "unchanged"

    assert 60 < seconds_from_now(database.lease()["not_before"]) <= 61
    assert database.row()["version"] == database.lease()["token_version"]
    assert database.outcomes() == ["granted", "committed", "granted", "unchanged"]
    if sealed:
        assert database.row()["credential_value"] == SEALED


@pytest.mark.parametrize("sealed", [False, True])
def test_a_rejected_token_that_comes_again_stops_all_calls(database: Database, sealed: bool) -> None:  # noqa: FBT001 - a table
    """When the API refuses the token and KIS repeats it, nobody asks until 6 h after its issue."""
    answer = commit_again(database, rejected=True, sealed=sealed, age=2 * HOUR)

    assert answer["status"] == "unchanged"
    assert seconds_from_now(database.lease()["not_before"]) == pytest.approx(4 * 3600, abs=30)
    rejecter = Contender(database)
    assert rejecter.begin(rejected_version=answer["version"])["status"] == "busy"


def test_five_rejecters_of_one_dead_token_make_one_call(database: Database) -> None:
    """Callers that all find the stored token refused do not each make a call, minute after minute."""
    token = make_token(age=HOUR)
    issue_by_functions(database, token)
    granted = 0
    for _ in range(5):
        database.age(61)
        contender = Contender(database)
        if contender.begin(rejected_token_id=token.token_id)["status"] == "granted":
            granted += 1
            assert contender.commit(token, rejected=True)["status"] == "unchanged"

    assert granted <= 1


def test_a_rejected_old_token_does_not_stop_calls_for_long(database: Database) -> None:
    """A repeated token issued more than 6 h ago holds the next call up for a minute only."""
    commit_again(database, rejected=True, age=7 * HOUR)

    assert 60 < seconds_from_now(database.lease()["not_before"]) <= 61


def test_a_token_stored_by_someone_else_is_known_again(database: Database, contender: Contender) -> None:
    """Also a plain row that was written without a lease is recognised as the token KIS gave again."""
    token = make_token()
    version = database.put_token(token)

    answer = contender.commit(token)

    assert (answer["status"], answer["version"]) == ("unchanged", version)
    assert database.lease()["token_id"] == token.token_id


def test_the_same_token_heals_an_unusable_row(database: Database, contender: Contender) -> None:
    """A row without a usable end is written anew even with the same token."""
    token = make_token()
    database.put("access_token", token.to_json())

    assert contender.commit(token)["status"] == "committed"
    assert database.row()["expires_at"] == token.expires_at


def test_a_good_commit_forgets_the_refusal(database: Database) -> None:
    """After a token was issued, no credential is held up and no error is shown any more."""
    contender = Contender(database)
    contender.begin()
    contender.abort("EGW00105", timedelta(), refused_credential_id="0123456789abcdef")
    contender = Contender(database)
    contender.begin()
    contender.commit(make_token())

    lease = database.lease()
    assert (lease["refused_credential_id"], lease["refused_until"], lease["last_error"]) == (None, None, None)


# nonsense


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
def test_nonsense_is_refused(database: Database, contender: Contender, change: dict[str, object]) -> None:
    """What is no living token is 22023; nothing is stored, and the holder may still commit its token."""
    with pytest.raises(psycopg.errors.InvalidParameterValue):
        contender.commit(make_token(), **change)
    assert database.row() == {}
    assert contender.commit(make_token())["status"] == "committed"
