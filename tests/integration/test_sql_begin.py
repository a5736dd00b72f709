"""begin_issuance: the columns of the lease and the SQLSTATEs. tests/store/test_begin.py tests what a caller sees."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import TYPE_CHECKING

import psycopg
import pytest

from kis_token.token import AppKey
from tests.support import APP_KEY, HOUR, Caller, call, issue_by_functions, make_token

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support import Database

OTHER_KEY = AppKey("PSz9y8x7w6v5u4t3s2r1q0p9o8n7m6l5k4j3", "b3RoZXI=")
SECOND = timedelta(seconds=1)
ARGUMENTS: dict[str, object] = {
    "service": "kis",
    "holder": "00000000-0000-0000-0000-000000000001",
    "label": "a laptop",
    "app_key_id": APP_KEY.key_id,
    "credential_id": APP_KEY.credential_id,
    "min_remaining": timedelta(minutes=10),
}


def seconds_granted(database: Database, column: str) -> float:
    """Return the seconds from the grant to a time in a column of the lease."""
    lease = database.lease()
    seconds: float = (lease[column] - lease["granted_at"]).total_seconds()
    return seconds


def test_a_grant_is_written_into_the_lease(database: Database) -> None:
    """A grant sets holder, label and app key, ends the lease after 60 s, and allows the next grant after 70 s."""
    caller = Caller(database)
    caller.begin()

    assert (seconds_granted(database, "lease_until"), seconds_granted(database, "not_before")) == (60, 70)
    lease = database.lease()
    assert (str(lease["holder"]), lease["holder_label"]) == (caller.holder, "acme/bot run 7 trade")
    assert lease["app_key_id"] == APP_KEY.key_id


def test_a_begin_during_a_lease_changes_no_column_of_it(database: Database) -> None:
    """If the holder begins again, or another caller begins, the lease does not change."""
    caller = Caller(database)
    caller.begin()
    database.age(20)
    before = database.lease()

    assert caller.begin()["status"] == "granted"
    assert database.lease() == before
    assert Caller(database, label="a laptop").begin()["status"] == "busy"
    assert database.lease() == before


def test_the_column_of_the_label_has_200_characters_at_the_most(database: Database) -> None:
    """begin_issuance cuts a longer label. The client also cuts labels, so the test calls the function directly."""
    assert Caller(database, label="가" * 999).begin()["status"] == "granted"
    assert database.lease()["holder_label"] == "가" * 200


def test_an_expired_token_that_the_lease_knows_is_not_fresh(database: Database) -> None:
    """If the token of a lease was issued within 6 h but has expired, begin grants."""
    issue_by_functions(database, make_token(age=HOUR, left=HOUR))
    database.age(120)
    database.owner.execute("update api_credentials set expires_at = now() - interval '1 second'")
    database.owner.execute("update credential_leases l set token_version = c.version from api_credentials c")

    assert Caller(database).begin()["status"] == "granted"


def test_a_key_that_moves_is_in_one_lease(database: Database) -> None:
    """If another slot is granted a lease with the same app key, the first slot's app_key_id becomes null."""
    issue_by_functions(database, make_token())
    database.age(120)
    database.owner.execute("update api_credentials set expires_at = now() - interval '1 second'")

    assert Caller(database, service="kis-second").begin()["status"] == "granted"
    assert (database.lease()["app_key_id"], database.lease("kis-second")["app_key_id"]) == (None, APP_KEY.key_id)


def test_the_new_key_of_a_slot_is_in_its_lease(database: Database) -> None:
    """The column app_key_id has the fingerprint of the last grant's app key."""
    version = issue_by_functions(database, make_token())
    database.age(120)

    assert Caller(database, app_key=OTHER_KEY).begin(rejected_version=version)["status"] == "granted"
    assert database.lease()["app_key_id"] == OTHER_KEY.key_id


# The trial before a grant: begin_issuance writes an invented token and rolls the write back.


AUDIT = """
create table public.audit (said text);
create function public.note() returns trigger language plpgsql as
    $$ begin insert into public.audit values (tg_op); perform pg_notify('audit', tg_op); return new; end $$;
create trigger note after insert or update on public.api_credentials for each row execute function public.note()
"""


@pytest.mark.parametrize("is_stored", [True, False], ids=["a row", "no row"])
def test_nothing_of_the_proof_is_seen(make_database: Callable[[], Database], *, is_stored: bool) -> None:
    """The trial before a grant changes no column of the row. The effects of a project's trigger are rolled back."""
    database = make_database()
    if is_stored:
        database.put_token(make_token(left=-HOUR))
    before = database.owner.execute("select c.*, c.xmin from public.api_credentials c").fetchall()
    database.owner.execute(AUDIT.encode())
    database.owner.execute("listen audit")

    assert Caller(database).begin()["status"] == "granted"

    assert database.owner.execute("select c.*, c.xmin from public.api_credentials c").fetchall() == before
    assert database.owner.execute("select from public.audit").fetchall() == []
    assert list(database.owner.notifies(timeout=0)) == []
    assert len(before) == is_stored


def test_others_do_not_see_the_proof_while_it_runs(database: Database) -> None:
    """While begin's transaction is open, another transaction reads the unchanged slot and can write to the slot."""
    version = database.put_token(make_token(left=-HOUR))
    beginning = database.connect_as("service_role")
    try:
        with beginning.transaction():
            answer = call(beginning, "begin_issuance", **ARGUMENTS)
            assert answer["status"] == "granted"
            assert database.row()["version"] == version
            database.owner.execute("set lock_timeout = '1s'")
            assert database.put_token(make_token(left=-HOUR)) > version
    finally:
        database.owner.execute("reset lock_timeout")
        beginning.close()


@pytest.mark.parametrize(
    "check",
    ["credential_value like 'enc:v1:%'", "credential_value::json ->> 'access_token' like 'eyJ%.%.%'"],
    ids=["sealed alone", "plain alone"],
)
def test_a_table_that_takes_one_form_alone_is_granted(make_database: Callable[[], Database], check: str) -> None:
    """If a constraint allows only sealed or only plain values, begin grants: it does not know if the caller seals."""
    database = make_database()
    database.owner.execute(f"alter table api_credentials add check ({check})".encode())

    assert Caller(database).begin()["status"] == "granted"


def test_the_proof_is_as_long_as_a_real_token(make_database: Callable[[], Database]) -> None:
    """If a length limit is shorter than a real token, begin raises CheckViolation.

    With a higher length limit, begin grants.
    """
    longest = len(json.dumps({"access_token": "x" * 350, **dict.fromkeys(("expires_at", "issued_at"), "x" * 25)}))
    for limit, is_granted in ((longest - 1, False), (900, True)):
        database = make_database()
        database.owner.execute(f"alter table api_credentials add check (length(credential_value) <= {limit})".encode())
        if is_granted:
            assert Caller(database).begin()["status"] == "granted"
            continue
        with pytest.raises(psycopg.errors.CheckViolation) as caught:
            Caller(database).begin()
        assert caught.value.diag.message_detail == "store-cannot-store"


BUSY = """
create or replace function busy() returns trigger language plpgsql as
$$ begin raise exception 'later' using errcode = '{}'; end $$;
create or replace trigger busy before insert on api_credentials for each row execute function busy()
"""


def test_a_temporary_error_is_no_fault_of_the_table(make_database: Callable[[], Database]) -> None:
    """If begin fails by a temporary error, such as a full disk, the error keeps its SQLSTATE and has no detail."""
    database = make_database()
    for state in ("53100", "40P01", "57P03", "55P03", "25006"):
        database.owner.execute(BUSY.format(state).encode())
        with pytest.raises(psycopg.Error) as caught:
            Caller(database).begin()
        assert caught.value.sqlstate == state
        assert not caught.value.diag.message_detail


# Rows whose credential_value is null.


def test_a_row_with_null_counts_as_absent(make_database: Callable[[], Database]) -> None:
    """If credential_value is null, a key counts as absent, and a token is not fresh."""
    database = make_database()
    database.owner.execute("alter table api_credentials alter credential_value drop not null")
    for kind in ("app_key", "app_secret", "access_token", "rejected_tokens"):
        database.owner.execute(
            "insert into api_credentials (service_name, credential_type, expires_at)"
            " values ('kis', %s, now() + interval '1 day')",
            (kind,),
        )

    caller = Caller(database)
    begun = caller.begin(keys_version=0)
    assert (begun["status"], begun["version"], begun["rejected_token_ids"]) == ("granted", None, [])
    token = make_token()
    assert caller.commit(token)["status"] == "committed"
    assert database.stored_id() == token.token_id


def test_a_token_of_null_keeps_no_other_slot_from_issuing(make_database: Callable[[], Database]) -> None:
    """If another slot with the same app key has a token row with a null value, begin still grants."""
    database = make_database()
    issue_by_functions(database, make_token())
    database.age(120)
    database.owner.execute("alter table api_credentials alter credential_value drop not null")
    database.owner.execute("update api_credentials set credential_value = null")

    assert Caller(database, service="kis-second").begin()["status"] == "granted"


# invalid arguments


@pytest.mark.parametrize(
    "change",
    [
        {"service": None},
        {"service": ""},
        {"service": "-kis"},
        {"service": "kis paper"},
        {"service": "한국"},
        {"service": "k" * 64},
        {"holder": None},
        {"app_key_id": None},
        {"app_key_id": "0123456789abcde"},
        {"app_key_id": "0123456789ABCDEF"},
        {"app_key_id": "PSa1b2c3d4e5f6g7"},
        {"credential_id": None},
        {"credential_id": "g" * 16},
        {"min_remaining": None},
        {"min_remaining": -SECOND},
    ],
    ids=str,
)
def test_invalid_arguments_are_refused(database: Database, change: dict[str, object]) -> None:
    """An invalid argument raises 22023, and no lease is inserted."""
    with pytest.raises(psycopg.errors.InvalidParameterValue):
        Caller(database).begin(**change)
    assert database.owner.execute("select 1 from credential_leases").fetchall() == []


def test_a_holder_that_is_not_a_uuid_is_refused(database: Database) -> None:
    """If the holder is not a UUID, PostgreSQL raises 22P02 before the function runs."""
    with pytest.raises(psycopg.errors.InvalidTextRepresentation):
        Caller(database).begin(holder="me")
