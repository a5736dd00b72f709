"""abort_issuance, save_token, revoke_token, issuance_status and prune_issuances."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import TYPE_CHECKING

import psycopg
import pytest

from tests.support import APP_KEY, HOUR, MINUTE, Contender, issue_by_functions, make_token

if TYPE_CHECKING:
    from kis_token.token import Token
    from tests.support import Database

SECOND = timedelta(seconds=1)


@pytest.fixture
def contender(database: Database) -> Contender:
    """One that has a turn."""
    contender = Contender(database)
    contender.begin()
    return contender


def save(database: Database, token: Token, **changes: object) -> str:
    """save_token's status."""
    arguments = {"service": "kis", "value": token.to_json(), "expires_at": token.expires_at, **changes}
    return str(database.call("save_token", **arguments)["status"])


# abort_issuance


def test_an_abort_gives_the_lease_back(database: Database, contender: Contender) -> None:
    """After an abort without a cool-down the next is granted at once, and is told of the error."""
    assert contender.abort("out-of-time", timedelta()) == "aborted"

    lease = database.lease()
    assert (lease["holder"], lease["lease_until"], lease["last_error"]) == (None, None, "out-of-time")
    answer = Contender(database).begin()
    assert (answer["status"], answer["fence"], answer["last_error"]) == ("granted", 2, "out-of-time")
    assert database.outcomes() == ["granted", "aborted", "granted"]


def test_an_abort_may_keep_everyone_waiting(database: Database, contender: Contender) -> None:
    """With a cool-down nobody is granted before it is over, whatever credential is tried."""
    contender.abort("EGW00133", 61 * SECOND)
    assert Contender(database).begin()["last_error"] == "EGW00133"
    database.age(60)
    assert Contender(database).begin()["status"] == "busy"
    database.age(2)
    assert Contender(database).begin()["status"] == "granted"


@pytest.mark.parametrize("change", [{"fence": 0}, {"fence": 2}, {"fence": None}, {"holder": None}], ids=str)
def test_only_the_holder_may_abort(database: Database, contender: Contender, change: dict[str, object]) -> None:
    """Who cannot name fence and holder changes nothing."""
    before = database.lease()

    assert contender.abort(**change) == "fenced"  # type: ignore[arg-type]  # fence and holder alone
    assert Contender(database).abort() == "fenced"
    assert database.lease() == before


def test_an_abort_happens_once(database: Database, contender: Contender) -> None:
    """A repeated abort, or one after a commit, does nothing."""
    contender.commit(make_token())
    before = database.lease()

    assert contender.abort() == "fenced"
    assert database.lease() == before


def test_an_abort_keeps_the_token(database: Database) -> None:
    """A failed renewal leaves the stored token and what is known of it as they were."""
    token = make_token(left=5 * MINUTE, age=HOUR)
    version = issue_by_functions(database, token)
    database.age(120)
    contender = Contender(database)
    contender.begin(rejected_version=version)
    contender.abort()

    assert (database.row()["version"], database.lease()["token_id"]) == (version, token.token_id)


def test_a_refusal_outlives_another_error(database: Database) -> None:
    """An outage with one credential does not lift the cool-down of another."""
    contender = Contender(database)
    contender.begin()
    contender.abort("EGW00105", timedelta(), refused_credential_id=APP_KEY.credential_id)
    other = Contender(database)
    other.begin(credential_id="0123456789abcdef")
    other.abort("kis-unreachable", timedelta())

    assert Contender(database).begin()["status"] == "busy"


@pytest.mark.parametrize("change", [{"service": ""}, {"cooldown": None}, {"cooldown": -SECOND}, {"cooldown": 2 * HOUR}])
def test_a_senseless_abort_is_refused(contender: Contender, change: dict[str, object]) -> None:
    """A malformed service, and a cool-down below zero or above an hour, are 22023."""
    with pytest.raises(psycopg.errors.InvalidParameterValue):
        contender.abort(**change)  # type: ignore[arg-type]  # wrong on purpose


# save_token


def test_a_first_token_is_saved(database: Database) -> None:
    """On an empty slot a token issued elsewhere is stored, and the log says so."""
    token = make_token()

    assert save(database, token) == "saved"
    assert database.stored_id() == token.token_id
    assert database.outcomes() == ["saved"]


@pytest.mark.parametrize(("left", "status"), [(22 * HOUR, "kept"), (23 * HOUR, "kept"), (24 * HOUR, "saved")])
def test_the_later_expiry_is_kept(database: Database, left: timedelta, status: str) -> None:
    """A token replaces the stored one only when it ends later."""
    stored, token = make_token(left=23 * HOUR), make_token(left=left)
    stored_until = stored.expires_at
    database.put_token(stored)

    assert save(database, token, expires_at=stored_until + (left - 23 * HOUR)) == status
    assert database.stored_id() == (token if status == "saved" else stored).token_id


def test_a_named_version_is_replaced(database: Database) -> None:
    """Whoever names the version it replaces may store a token that ends sooner; with another version not."""
    version = database.put_token(make_token())
    sooner = make_token(left=HOUR)

    assert save(database, sooner, replaces_version=version - 1) == "kept"
    assert save(database, sooner, replaces_version=version) == "saved"
    assert database.stored_id() == sooner.token_id


@pytest.mark.parametrize("active", [True, False])
def test_a_row_without_use_is_replaced(database: Database, active: bool) -> None:  # noqa: FBT001 - a table
    """A row that is inactive or does not say when it ends gives way, and is active afterwards."""
    token = make_token(left=HOUR)
    database.put("access_token", make_token().to_json(), None if active else make_token().expires_at, active=active)

    assert save(database, token) == "saved"
    assert database.stored_id() == token.token_id
    assert database.row()["is_active"]


def test_a_saved_token_is_not_taken_for_the_leases(database: Database) -> None:
    """After someone saved another token, begin no longer speaks of the issue time of its own."""
    issue_by_functions(database, make_token())
    assert save(database, make_token(left=30 * HOUR)) == "saved"

    answer = Contender(database).begin()
    assert (answer["status"], answer["issued_at"]) == ("fresh", None)


@pytest.mark.parametrize(
    "change",
    [{"service": "a b"}, {"value": "eyJ0"}, {"value": None}, {"expires_at": None}, {"expires_at": "2001-01-01"}],
)
def test_a_senseless_save_is_refused(database: Database, change: dict[str, object]) -> None:
    """A malformed service, a value that is no token and an expired one are 22023."""
    with pytest.raises(psycopg.errors.InvalidParameterValue):
        save(database, make_token(), **change)
    assert database.row() == {}


# revoke_token


def revoke(database: Database, token: Token, **changes: object) -> str:
    """revoke_token's status."""
    version = database.row().get("version", 0)
    arguments = {"service": "kis", "version": version, "token_id": token.token_id, "label": "an owner", **changes}
    return str(database.call("revoke_token", **arguments)["status"])


def test_a_revoked_token_is_stored_no_more(database: Database) -> None:
    """Its row is inactive, the lease knows it, and a turn that is given it again stores nothing; it may be repeated."""
    token = make_token()
    issue_by_functions(database, token)
    assert revoke(database, token) == "revoked"
    assert revoke(database, token) == "kept"

    assert database.row()["is_active"] is False
    database.age(70)
    contender = Contender(database)
    answer = contender.begin()
    assert (answer["status"], answer["rejected_token_id"]) == ("granted", token.token_id)
    assert contender.commit(token)["status"] == "unchanged"
    assert database.row()["is_active"] is False
    assert database.outcomes() == ["granted", "committed", "revoked", "revoked", "granted", "unchanged"]


def test_a_row_that_is_another_by_now_stays(database: Database) -> None:
    """A token of another version is not the revoked one: it stays active. So does the lease of who is at it."""
    token = make_token()
    issue_by_functions(database, token)
    version = database.row()["version"]
    assert save(database, make_token(left=30 * HOUR)) == "saved"
    database.age(70)
    contender = Contender(database)
    contender.begin(rejected_version=int(database.row()["version"]))

    assert revoke(database, token, version=version) == "kept"
    assert database.row()["is_active"] is True
    assert contender.commit(make_token())["status"] == "committed"


@pytest.mark.parametrize("change", [{"service": "a b"}, {"token_id": None}, {"token_id": "x"}])
def test_a_senseless_revocation_is_refused(database: Database, change: dict[str, object]) -> None:
    """A malformed service or fingerprint is 22023, and changes nothing."""
    token = make_token()
    issue_by_functions(database, token)
    with pytest.raises(psycopg.errors.InvalidParameterValue):
        revoke(database, token, **change)
    assert database.row()["is_active"] is True


# issuance_status, prune_issuances


def test_status_tells_all_but_the_holders(database: Database) -> None:
    """Leases and events are shown, newest first, with labels; no holder id, no token and no app key is."""
    token = make_token()
    issue_by_functions(database, token)
    waiting = Contender(database, service="kis-paper", label="a laptop", app_key=type(APP_KEY)("PSother", "c2VjcmV0"))
    waiting.begin()

    status = database.call("issuance_status")

    assert [lease["service_name"] for lease in status["leases"]] == ["kis", "kis-paper"]
    assert [event["outcome"] for event in status["issuances"]] == ["granted", "committed", "granted"]
    assert (status["leases"][1]["holder_label"], status["leases"][0]["token_id"]) == ("a laptop", token.token_id)
    text = json.dumps(status)
    assert not any(secret in text for secret in (waiting.holder, token.value, APP_KEY.key, APP_KEY.secret))
    assert all("holder" not in entry for entry in (*status["leases"], *status["issuances"]))


def test_status_of_one_slot(database: Database) -> None:
    """Named, only that slot is shown; the number of events can be chosen, and nonsense there is none or all."""
    issue_by_functions(database, make_token())

    assert database.call("issuance_status", service="kis-paper")["leases"] == []
    assert len(database.call("issuance_status", service="kis")["issuances"]) == 2
    assert len(database.call("issuance_status", service="kis", log_rows=1)["issuances"]) == 1
    assert database.call("issuance_status", log_rows=-5)["issuances"] == []


def test_pruning_deletes_what_is_old(database: Database) -> None:
    """Events older than asked for go, 90 days when nothing is said; the leases stay."""
    issue_by_functions(database, make_token())
    database.owner.execute("update credential_issuances set happened_at = now() - interval '91 days' where id % 2 = 0")
    old = len(database.owner.execute("select 1 from credential_issuances where id % 2 = 0").fetchall())

    assert database.call("prune_issuances") == old == 1
    assert database.call("prune_issuances", keep=timedelta()) == 1
    assert database.outcomes() == []
    assert database.lease()["fence"] == 1


@pytest.mark.parametrize("keep", [None, -SECOND], ids=["null", "negative"])
def test_a_senseless_pruning_is_refused(database: Database, keep: timedelta | None) -> None:
    """No age and an age below zero are 22023, and delete nothing."""
    issue_by_functions(database, make_token())
    with pytest.raises(psycopg.errors.InvalidParameterValue):
        database.call("prune_issuances", keep=keep)
    assert len(database.outcomes()) == 2
