"""abort_issuance and save_token: columns, statuses and SQLSTATEs; revoke_token, issuance_status and prune_issuances.

tests/store/test_abort.py and test_save.py test how abort_issuance and save_token behave for a caller.
"""

from __future__ import annotations

import json
from datetime import timedelta
from typing import TYPE_CHECKING

import psycopg
import pytest

from kis_token.token import parse_instant
from tests.support import APP_KEY, HOUR, Caller, issue_by_functions, make_token

if TYPE_CHECKING:
    from kis_token.token import Token
    from tests.support import Database

SECOND = timedelta(seconds=1)


@pytest.fixture
def caller(database: Database) -> Caller:
    """A caller that holds the lease."""
    caller = Caller(database)
    caller.begin()
    return caller


def save(database: Database, token: Token, **changes: object) -> str:
    """Call save_token and return its status."""
    arguments = {"service": "kis", "value": token.to_json(), "expires_at": token.expires_at, **changes}
    return str(database.call("save_token", **arguments)["status"])


# abort_issuance


def test_an_abort_is_written_into_the_lease(database: Database, caller: Caller) -> None:
    """After an abort, the status is aborted, and the lease has the error code and no holder."""
    assert caller.abort("out-of-time", timedelta()) == "aborted"

    lease = database.lease()
    assert (lease["holder"], lease["lease_until"], lease["last_error"]) == (None, None, "out-of-time")


@pytest.mark.parametrize("change", [{"fence": 0}, {"fence": 2}, {"fence": None}, {"holder": None}], ids=str)
def test_a_fenced_abort_changes_no_column(database: Database, caller: Caller, change: dict[str, object]) -> None:
    """If an abort has a wrong or null fence or holder, the status is fenced, and the lease does not change."""
    before = database.lease()

    assert caller.abort(**change) == "fenced"  # type: ignore[arg-type]  # fence and holder alone
    assert Caller(database).abort() == "fenced"
    assert database.lease() == before


def test_an_abort_after_a_commit_changes_no_column(database: Database, caller: Caller) -> None:
    """After a commit an abort is fenced, and the lease does not change."""
    caller.commit(make_token())
    before = database.lease()

    assert caller.abort() == "fenced"
    assert database.lease() == before


@pytest.mark.parametrize("change", [{"service": ""}, {"cooldown": None}, {"cooldown": -SECOND}, {"cooldown": 2 * HOUR}])
def test_an_invalid_abort_is_refused(caller: Caller, change: dict[str, object]) -> None:
    """A malformed service name, and a cool-down below zero or above an hour, raise 22023."""
    with pytest.raises(psycopg.errors.InvalidParameterValue):
        caller.abort(**change)  # type: ignore[arg-type]  # wrong on purpose


# save_token


def test_save_answers_saved_or_kept(database: Database) -> None:
    """The status shows whether save_token stored the token. The client does not return this status to its caller."""
    stored = make_token(left=23 * HOUR)
    until = stored.expires_at

    assert save(database, stored) == "saved"
    for left, status in ((-HOUR, "kept"), (timedelta(), "kept"), (HOUR, "saved")):
        assert save(database, make_token(), expires_at=until + left) == status
    version = database.row()["version"]
    assert save(database, make_token(left=HOUR), replaces_version=version - 1) == "kept"
    assert save(database, make_token(left=HOUR), replaces_version=version) == "saved"
    for end, active in ((None, True), (until, False)):
        database.put("access_token", make_token().to_json(), end, active=active)
        assert save(database, make_token(left=HOUR)) == "saved"


def test_begin_has_the_issue_time_of_the_leases_token_alone(database: Database) -> None:
    """If the stored token was saved without a lease, begin's answer has issued_at null."""
    token = make_token()
    issue_by_functions(database, token)
    assert parse_instant(Caller(database).begin()["issued_at"]) == token.issued_at
    assert save(database, make_token(left=30 * HOUR)) == "saved"

    answer = Caller(database).begin()
    assert (answer["status"], answer["issued_at"]) == ("fresh", None)


@pytest.mark.parametrize(
    "change",
    [{"service": "a b"}, {"value": "eyJ0"}, {"value": None}, {"expires_at": None}, {"expires_at": "2001-01-01"}],
)
def test_an_invalid_save_is_refused(database: Database, change: dict[str, object]) -> None:
    """A malformed service name, a value that is not a token and an expired token raise 22023."""
    with pytest.raises(psycopg.errors.InvalidParameterValue):
        save(database, make_token(), **change)
    assert database.row() == {}


# revoke_token


def revoke(database: Database, token: Token, **changes: object) -> str:
    """Call revoke_token and return its status."""
    version = database.row().get("version", 0)
    arguments = {"service": "kis", "version": version, "token_id": token.token_id, "label": "an owner", **changes}
    return str(database.call("revoke_token", **arguments)["status"])


def test_a_revoked_token_is_never_stored_again(database: Database) -> None:
    """A revocation makes the row inactive. begin names the revoked token, and a commit of this token stores nothing."""
    token = make_token()
    issue_by_functions(database, token)
    assert revoke(database, token) == "revoked"
    assert revoke(database, token) == "kept"

    assert database.row()["is_active"] is False
    database.age(70)
    caller = Caller(database)
    answer = caller.begin()
    assert (answer["status"], answer["rejected_token_id"]) == ("granted", token.token_id)
    assert caller.commit(token)["status"] == "unchanged"
    assert database.row()["is_active"] is False
    assert database.outcomes() == ["granted", "committed", "revoked", "revoked", "granted", "unchanged"]


def test_a_row_of_another_version_stays_active(database: Database) -> None:
    """If the row's version is not the revoked token's, the row stays active, and the holder of the lease can commit."""
    token = make_token()
    issue_by_functions(database, token)
    version = database.row()["version"]
    assert save(database, make_token(left=30 * HOUR)) == "saved"
    database.age(70)
    caller = Caller(database)
    caller.begin(rejected_version=int(database.row()["version"]))

    assert revoke(database, token, version=version) == "kept"
    assert database.row()["is_active"] is True
    assert caller.commit(make_token())["status"] == "committed"


@pytest.mark.parametrize("change", [{"service": "a b"}, {"token_id": None}, {"token_id": "x"}])
def test_an_invalid_revocation_is_refused(database: Database, change: dict[str, object]) -> None:
    """A malformed service name or fingerprint raises 22023 and changes nothing."""
    token = make_token()
    issue_by_functions(database, token)
    with pytest.raises(psycopg.errors.InvalidParameterValue):
        revoke(database, token, **change)
    assert database.row()["is_active"] is True


# issuance_status, prune_issuances


def test_status_has_all_but_the_holders(database: Database) -> None:
    """A status has leases and events with labels, newest first. A status has no holder id, no token and no app key."""
    token = make_token()
    issue_by_functions(database, token)
    waiting = Caller(database, service="kis-paper", label="a laptop", app_key=type(APP_KEY)("PSother", "c2VjcmV0"))
    waiting.begin()

    status = database.call("issuance_status")

    assert [lease["service_name"] for lease in status["leases"]] == ["kis", "kis-paper"]
    assert [event["outcome"] for event in status["issuances"]] == ["granted", "committed", "granted"]
    assert (status["leases"][1]["holder_label"], status["leases"][0]["token_id"]) == ("a laptop", token.token_id)
    text = json.dumps(status)
    assert not any(secret in text for secret in (waiting.holder, token.value, APP_KEY.key, APP_KEY.secret))
    assert all("holder" not in entry for entry in (*status["leases"], *status["issuances"]))


def test_status_of_one_slot(database: Database) -> None:
    """With a service, a status has only that slot. log_rows limits the events; a negative number gives no events."""
    issue_by_functions(database, make_token())

    assert database.call("issuance_status", service="kis-paper")["leases"] == []
    assert len(database.call("issuance_status", service="kis")["issuances"]) == 2
    assert len(database.call("issuance_status", service="kis", log_rows=1)["issuances"]) == 1
    assert database.call("issuance_status", log_rows=-5)["issuances"] == []


def test_status_has_the_rows_without_their_values(database: Database) -> None:
    """A status has the active and inactive rows of keys and tokens, with all columns except the values."""
    token = make_token()
    version = database.put_token(token, active=False)
    database.put_keys(service="kis-paper")
    database.put("webhook", "x")
    database.owner.execute("alter table api_credentials alter credential_value drop not null")
    try:
        database.owner.execute(
            "insert into api_credentials (service_name, credential_type) values ('kis', 'app_secret')"
        )
        status = database.call("issuance_status")
        database.owner.execute("delete from api_credentials where credential_value is null")
    finally:
        database.owner.execute("alter table api_credentials alter credential_value set not null")

    rows = status["rows"]
    assert [(row["service_name"], row["credential_type"]) for row in rows] == [
        ("kis", "access_token"),
        ("kis-paper", "app_key"),
        ("kis-paper", "app_secret"),
    ]
    assert (rows[0]["version"], rows[0]["is_active"], rows[1]["is_active"]) == (version, False, True)
    assert (parse_instant(rows[0]["expires_at"]), rows[0]["environment"]) == (token.expires_at, "production")
    assert {"credential_value"} & {name for row in rows for name in row} == set()
    assert database.call("issuance_status", service="kis")["rows"] == rows[:1]
    assert database.call("issuance_status", service="kis-third")["rows"] == []


def test_status_has_the_value_of_one_token(database: Database) -> None:
    """token_rows has only the active token and the rejected tokens of the slot token_of."""
    token, other = make_token(), make_token()
    database.put_keys()
    version = database.put_token(token)
    database.put_token(other, service="kis-paper")
    revoke(database, other, version=-1)

    for service in (None, "kis", "kis-paper"):
        rows = {
            row["credential_type"]: row
            for row in database.call("issuance_status", service=service, token_of="kis")["token_rows"]
        }
        assert rows.keys() == {"access_token", "rejected_tokens"}
        held = rows["access_token"]
        assert (json.loads(held["credential_value"])["access_token"] == token.value, held["version"]) == (True, version)
        assert parse_instant(held["expires_at"]) == token.expires_at
        assert json.loads(rows["rejected_tokens"]["credential_value"]).keys() == {other.token_id}
    for asked in ({}, {"token_of": None}, {"token_of": ""}, {"token_of": "kis-third"}):
        assert database.call("issuance_status", **asked)["token_rows"] == []
    database.put_token(token, active=False)
    assert "access_token" not in {
        row["credential_type"] for row in database.call("issuance_status", token_of="kis")["token_rows"]
    }


def test_status_has_the_version_of_the_functions(database: Database) -> None:
    """issuance_status returns the same schema version as credential_schema_version."""
    assert database.call("issuance_status")["schema_version"] == database.call("credential_schema_version")


def test_pruning_deletes_old_events(database: Database) -> None:
    """Pruning deletes events that are older than ``keep`` (by default 90 days), and changes no lease."""
    issue_by_functions(database, make_token())
    database.owner.execute("update credential_issuances set happened_at = now() - interval '91 days' where id % 2 = 0")
    old = len(database.owner.execute("select 1 from credential_issuances where id % 2 = 0").fetchall())

    assert database.call("prune_issuances") == old == 1
    assert database.call("prune_issuances", keep=timedelta()) == 1
    assert database.outcomes() == []
    assert database.lease()["fence"] == 1


@pytest.mark.parametrize("keep", [None, -SECOND], ids=["null", "negative"])
def test_an_invalid_pruning_is_refused(database: Database, keep: timedelta | None) -> None:
    """A null or negative age raises 22023 and deletes nothing."""
    issue_by_functions(database, make_token())
    with pytest.raises(psycopg.errors.InvalidParameterValue):
        database.call("prune_issuances", keep=keep)
    assert len(database.outcomes()) == 2
