"""set_app_key and reseal: they change an account's keys and seal values, and no lease sees half of a change."""

from __future__ import annotations

from typing import TYPE_CHECKING

import psycopg
import pytest

from kis_token.sandbox.database import migrations_folder
from tests.support import APP_KEY, HOUR, Caller, make_token, utc_now

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support import Database

SEALED = "enc:v1:0a1b2c3d:bm9uY2VjaXBoZXJ0YWc="


def set_app_key(database: Database, **arguments: object) -> str:
    """Store a key and a secret. Return the status."""
    usual = {"service": "kis", "app_key": "PSnew", "app_secret": "bmV3", "environment": "production"}
    return str(database.call("set_app_key", **{**usual, "keeps_token": False, **arguments})["status"])


def keys(database: Database) -> dict[str, str]:
    """Return the slot's active keys."""
    rows = database.owner.execute(
        "select credential_type, credential_value from api_credentials"
        " where service_name = 'kis' and credential_type <> 'access_token' and is_active"
    )
    return {row["credential_type"]: row["credential_value"] for row in rows}


def test_keys_of_an_empty_slot(database: Database) -> None:
    """If the slot is empty, set_app_key inserts two active rows with the given environment."""
    assert set_app_key(database, environment="paper") == "stored"
    assert keys(database) == {"app_key": "PSnew", "app_secret": "bmV3"}
    rows = database.owner.execute("select distinct environment, is_active from api_credentials").fetchall()
    assert rows == [{"environment": "paper", "is_active": True}]


def test_keys_replace_those_before_also_inactive_ones(database: Database) -> None:
    """set_app_key writes the new values into existing rows and makes inactive rows active."""
    database.put_keys()
    database.put("app_secret", "b2xk", active=False)
    assert set_app_key(database, keeps_token=True) == "stored"
    assert keys(database) == {"app_key": "PSnew", "app_secret": "bmV3"}


def test_end_of_the_keys_is_stored(database: Database) -> None:
    """Key and secret get the given end, or null if no end is given, so that no key has an earlier key's end."""
    end = utc_now().replace(microsecond=0) + 300 * 24 * HOUR
    for given, kept in ((end, end), (None, None)):
        arguments = {} if given is None else {"expires_at": given}
        assert set_app_key(database, **arguments) == "stored"
        rows = database.owner.execute("select expires_at from api_credentials where credential_type like 'app%'")
        assert [row["expires_at"] for row in rows.fetchall()] == [kept, kept]


def test_earlier_form_of_the_function_goes_away(make_database: Callable[[], Database]) -> None:
    """The file drops the form without expires_at, because PostgREST cannot choose between two forms of set_app_key."""
    database = make_database()
    arguments = "text, text, text, text, boolean"
    database.owner.execute(
        f"create function public.set_app_key({arguments}) returns jsonb language sql as 'select null::jsonb'"
    )
    database.owner.execute((migrations_folder() / "003_keys_and_seals.sql").read_bytes())
    found = database.owner.execute("select pronargs from pg_catalog.pg_proc where proname = 'set_app_key'").fetchall()
    assert [row["pronargs"] for row in found] == [6]
    assert set_app_key(database) == "stored"


def test_token_ends_with_its_key(database: Database) -> None:
    """If keeps_token is false, the stored token becomes inactive, because it belongs to the previous key."""
    database.put_token(make_token())
    assert set_app_key(database, keeps_token=True) == "stored"
    assert database.row()["is_active"]
    assert set_app_key(database) == "token-ended"
    assert not database.row()["is_active"]
    assert set_app_key(database) == "stored"


def test_lease_that_runs_stores_nothing_of_the_old_key(database: Database) -> None:
    """If the key changes, a holder with the old key is fenced. 71 s later, a caller with the new key is granted."""
    holder, successor = Caller(database), Caller(database, app_key=type(APP_KEY)("PSnew", "bmV3"))
    assert holder.begin()["status"] == "granted"

    set_app_key(database)

    assert holder.commit(make_token())["status"] == "fenced"
    assert database.row() == {}
    assert database.outcomes() == ["granted", "aborted"]
    assert successor.begin()["status"] == "busy"
    database.age(71)
    assert successor.begin()["status"] == "granted"


def test_lease_continues_if_the_token_is_kept(database: Database) -> None:
    """If only the secret of the same key is corrected, the holder of the lease can commit."""
    holder = Caller(database)
    holder.begin()
    set_app_key(database, keeps_token=True)
    assert holder.commit(make_token())["status"] == "committed"


def test_old_key_is_free_for_another_slot(database: Database) -> None:
    """After a slot's key has changed, another slot may use the old key, because only one slot has the old key."""
    issued = Caller(database)
    issued.begin()
    issued.commit(make_token())
    elsewhere = Caller(database, service="kis-second")
    assert elsewhere.begin()["status"] == "conflict"
    set_app_key(database)
    assert elsewhere.begin()["status"] == "granted"


@pytest.mark.parametrize(
    "arguments",
    [
        {"service": "no name"},
        {"app_key": ""},
        {"app_secret": None},
        {"environment": "test"},
        {"environment": None},
        {"keeps_token": None},
        {"expires_at": "infinity"},
    ],
)
def test_invalid_arguments_are_refused(database: Database, arguments: dict[str, object]) -> None:
    """An invalid argument raises 22023 and changes nothing."""
    with pytest.raises(psycopg.errors.InvalidParameterValue):
        set_app_key(database, **arguments)
    assert keys(database) == {}


def test_reseal_seals_a_value(database: Database) -> None:
    """A sealed row gets a new version; expires_at and is_active do not change."""
    token = make_token()
    version = database.put_token(token)
    answer = database.call(
        "reseal", service="kis", credential_type="access_token", value=SEALED, replaces_version=version
    )
    row = database.row()
    assert (answer["status"], answer["version"]) == ("sealed", row["version"])
    assert (row["credential_value"], row["expires_at"], row["is_active"]) == (SEALED, token.expires_at, True)
    assert row["version"] > version


def test_inactive_row_is_sealed_and_stays_inactive(database: Database) -> None:
    """The function reseal also seals an inactive row, and the row stays inactive."""
    version = database.put_token(make_token(), active=False)
    database.call("reseal", service="kis", credential_type="access_token", value=SEALED, replaces_version=version)
    assert (database.row()["credential_value"], database.row()["is_active"]) == (SEALED, False)


def test_row_that_was_changed_meanwhile_is_left_alone(database: Database) -> None:
    """If the row has changed since the caller read it, reseal does not restore the old value."""
    version = database.put_token(make_token())
    newer = make_token()
    database.put_token(newer)
    answer = database.call(
        "reseal", service="kis", credential_type="access_token", value=SEALED, replaces_version=version
    )
    assert (answer["status"], answer["version"]) == ("changed", None)
    assert database.stored_id() == newer.token_id


def test_lease_knows_a_sealed_token(database: Database) -> None:
    """A recently issued token stays fresh after it is sealed, because KIS would give the same token again."""
    token = make_token(left=HOUR, age=HOUR)
    issued = Caller(database)
    issued.begin()
    version = issued.commit(token)["version"]
    database.call("reseal", service="kis", credential_type="access_token", value=SEALED, replaces_version=version)
    database.age(120)
    begun = Caller(database).begin(min_remaining=12 * HOUR)
    assert (begun["status"], begun["value"]) == ("fresh", SEALED)
    rejecting = Caller(database).begin(rejected_token_id=token.token_id)
    assert rejecting["status"] == "granted"


@pytest.mark.parametrize("value", ["plain", "", None, "enc:v1:", '{"access_token": "x"}'])
def test_only_an_envelope_is_a_seal(database: Database, value: str | None) -> None:
    """A value that is not an enc:v1: envelope raises 22023, so reseal never stores a plain value."""
    version = database.put_token(make_token())
    with pytest.raises(psycopg.errors.InvalidParameterValue):
        database.call("reseal", service="kis", credential_type="access_token", value=value, replaces_version=version)
