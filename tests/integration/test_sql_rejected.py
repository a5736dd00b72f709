"""A slot remembers rejected and revoked tokens until they expire, and no function stores such a token again."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg
import pytest

from kis_token.sandbox.database import apply_migrations, migrations_folder, prepare_database
from tests.support import APP_KEY, HOUR, Caller, Database, issue_by_functions, make_token, utc_now

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kis_token.sandbox.postgres import EmbeddedPostgres
    from kis_token.token import Token

SEALED = "enc:v1:0a1b2c3d:bm9uY2VjaXBoZXJ0YWc="
DAY = timedelta(days=1)
WAITING = "select from pg_locks where locktype = 'advisory' and not granted"
OLD_FILES = Path(__file__).with_name("sql_of_1_0_0.sql")


def revoke(database: Database, token: Token, **changes: object) -> str:
    """Call revoke_token, by default for the current row, and return its status."""
    version = changes["version"] if "version" in changes else database.row().get("version", 0)
    arguments = {"service": "kis", "token_id": token.token_id, "label": "an owner", **changes, "version": version}
    return str(database.call("revoke_token", **arguments)["status"])


def save(database: Database, token: Token, **changes: object) -> str:
    """Call save_token and return its status."""
    arguments = {"service": "kis", "value": token.to_json(), "expires_at": token.expires_at, **changes}
    return str(database.call("save_token", **arguments)["status"])


def remembered_row(database: Database) -> dict[str, Any]:
    """Return the slot's row rejected_tokens, or an empty mapping if the slot has no such row."""
    rows = database.owner.execute(
        "select * from api_credentials where service_name = 'kis' and credential_type = 'rejected_tokens'"
    ).fetchall()
    return rows[0] if rows else {}


def remembered(database: Database) -> dict[str, datetime]:
    """Return the fingerprints of the remembered tokens, with the end of each token."""
    value = remembered_row(database).get("credential_value", "{}")
    return {token_id: datetime.fromisoformat(end) for token_id, end in json.loads(value).items()}


def named_by_begin(database: Database) -> set[str]:
    """Return the fingerprints of the rejected tokens that begin names."""
    return set(Caller(database).begin()["rejected_token_ids"])


def test_two_that_were_revoked_are_both_remembered(database: Database) -> None:
    """After two revocations, begin names both tokens, and a commit of the first token stores nothing."""
    first, second = make_token(), make_token()
    issue_by_functions(database, first)
    assert revoke(database, first) == "revoked"
    database.put_token(second)
    assert revoke(database, second) == "revoked"
    database.age(70)

    caller = Caller(database)
    begun = caller.begin()
    assert (begun["status"], set(begun["rejected_token_ids"])) == ("granted", {first.token_id, second.token_id})
    assert begun["rejected_token_id"] == second.token_id, "a client of version 1.0.0 gets the last one"
    committed = caller.commit(first)
    assert (committed["status"], committed["rejected"]) == ("unchanged", True)
    assert database.row()["is_active"] is False


def test_a_token_id_beside_a_plain_value_does_not_count(database: Database) -> None:
    """If the value is plain, its fingerprint comes from the value, and the argument token_id is ignored."""
    token = make_token()
    issue_by_functions(database, token)
    revoke(database, token)

    assert save(database, token, token_id="0" * 16) == "rejected"


@pytest.mark.parametrize("of", ["begin", "save"])
def test_a_malformed_token_id_is_refused(database: Database, of: str) -> None:
    """A token id that is not 16 hex digits raises 22023, and nothing is remembered."""
    with pytest.raises(psycopg.errors.InvalidParameterValue):
        _ = (
            Caller(database).begin(rejected_token_id="x")
            if of == "begin"
            else save(database, make_token(), token_id="x")
        )
    assert remembered(database) == {}


def test_a_rejected_token_is_remembered_until_it_ends(database: Database) -> None:
    """A rejected token is remembered until its stored end, which is also the expires_at of the row rejected_tokens."""
    token = make_token(left=40 * HOUR)
    database.put_token(token)
    Caller(database).begin(rejected_token_id=token.token_id)

    assert remembered(database) == {token.token_id: token.expires_at}
    row = remembered_row(database)
    assert (row["expires_at"], row["is_active"]) == (token.expires_at, True)


@pytest.mark.parametrize(
    ("column", "least", "most"),
    [
        ("2001-01-01", DAY, DAY),
        ("infinity", 90 * DAY, 90 * DAY),
        ("-infinity", DAY, DAY),
        (None, 90 * DAY, 90 * DAY),
    ],
)
def test_an_impossible_end_is_limited(
    database: Database, column: str | None, least: timedelta, most: timedelta
) -> None:
    """If the row's end is past, infinite or null, the token is remembered for at least 1 and at most 90 days."""
    token = make_token()
    version = database.put("access_token", token.to_json(), column)
    assert revoke(database, token, version=version) == "revoked"

    left = remembered(database)[token.token_id] - utc_now()
    assert least - HOUR < left <= most


def test_a_token_that_is_not_the_stored_one_is_remembered_for_90_days(database: Database) -> None:
    """If no row has the token's end, the token is remembered for 90 days.

    If the token's end is known, a second revocation keeps this end.
    """
    token, stored = make_token(), make_token(left=10 * HOUR)
    Caller(database).begin(rejected_token_id=token.token_id)
    assert 89 * DAY < remembered(database)[token.token_id] - utc_now() <= 90 * DAY

    database.put_token(stored)
    revoke(database, stored)
    once = remembered(database)[stored.token_id]
    assert revoke(database, stored) == "kept"
    assert remembered(database)[stored.token_id] == once


def test_an_expired_entry_is_forgotten(database: Database) -> None:
    """begin_issuance does not name a rejected token that has expired. The next write removes the expired entry."""
    old, new = make_token(), make_token()
    ends = {old.token_id: f"{utc_now() - HOUR}"}
    database.put("rejected_tokens", json.dumps(ends))
    assert named_by_begin(database) == set()
    revoke(database, new)

    assert set(remembered(database)) == {new.token_id}


@pytest.mark.parametrize(
    "value", ["", "{", "[]", "1", "null", '"text"', '{"a": 1}', '{"0123456789abcdef": "soon"}', "[" * 20000, SEALED]
)
def test_a_row_that_cannot_be_read_breaks_nothing(database: Database, value: str) -> None:
    """If the row rejected_tokens cannot be parsed, the functions treat it as empty.

    The next rejected token replaces an unreadable value.
    """
    database.put("rejected_tokens", value)
    issue_by_functions(database, make_token())
    assert named_by_begin(database) == set()
    assert save(database, make_token(left=30 * HOUR)) == "saved"
    token = make_token()
    revoke(database, token)

    assert set(remembered(database)) == {token.token_id}


def test_status_and_listings_do_not_show_the_row(database: Database) -> None:
    """set_app_key does not change the row rejected_tokens, because the row is not a credential."""
    token = make_token()
    database.put_keys()
    issue_by_functions(database, token)
    revoke(database, token)
    database.call(
        "set_app_key", service="kis", app_key="PSnew", app_secret="bmV3", environment="production", keeps_token=False
    )

    assert set(remembered(database)) == {token.token_id}


def test_the_reader_s_role_sees_which_tokens_are_rejected(database: Database) -> None:
    """A read-only key can read the row rejected_tokens, but no app key and no secret.

    The roles anon and authenticated cannot read this row.
    """
    database.put_keys()
    issue_by_functions(database, make_token())
    revoke(database, make_token(), version=0)
    with database.connect_as("kis_token_reader") as connection:
        seen = connection.execute("select credential_type from api_credentials order by 1").fetchall()

    assert seen == [("access_token",), ("rejected_tokens",)]
    for role in ("anon", "authenticated"):
        with database.connect_as(role) as connection, pytest.raises(psycopg.errors.InsufficientPrivilege):
            connection.execute("select 1 from api_credentials")


# From version 1.0.0


@pytest.fixture
def old(postgres: EmbeddedPostgres) -> Iterator[Database]:
    """A project with the tables and functions of version 1.0.0."""
    project = prepare_database(postgres.create_database())
    with psycopg.connect(project.owner, autocommit=True) as connection:
        connection.execute(OLD_FILES.read_bytes())
    with Database(project) as database:
        yield database


def migrate(database: Database) -> None:
    """Run the current files of sql/ twice."""
    for _ in range(2):
        apply_migrations(database.project.owner, migrations_folder())


def test_the_rejected_token_of_a_lease_is_carried_over(old: Database) -> None:
    """The rejected token that a lease of version 1.0.0 remembers is copied to the row rejected_tokens for 90 days."""
    token = make_token()
    issue_by_functions(old, token)
    revoke(old, token)
    assert remembered(old) == {}
    migrate(old)

    assert set(remembered(old)) == {token.token_id}
    assert 89 * DAY < remembered(old)[token.token_id] - utc_now() <= 90 * DAY
    assert named_by_begin(old) == {token.token_id}
    assert save(old, token) == "rejected"
    assert old.call("check_setup") == []


def test_a_current_lease_continues(old: Database) -> None:
    """A holder that began with the old functions commits with the new functions.

    While the holder has not committed, other callers get the status busy.
    """
    holder, token = Caller(old), make_token()
    assert holder.begin()["status"] == "granted"
    migrate(old)

    assert Caller(old).begin()["status"] == "busy"
    assert holder.commit(token)["status"] == "committed"
    assert old.stored_id() == token.token_id


def test_a_waiting_call_survives_the_update(old: Database) -> None:
    """If a begin of version 1.0.0 waits for a lock while the files run, it is granted the lease after the wait."""
    holder, rejected, token = Caller(old), make_token(), make_token()
    with psycopg.connect(old.project.owner) as blocker, ThreadPoolExecutor(1) as threads:
        blocker.execute("select pg_advisory_xact_lock(hashtextextended('kis-token:' || %s, 0))", (APP_KEY.key_id,))
        beginning = threads.submit(holder.begin, rejected_token_id=rejected.token_id)
        while not old.owner.execute(WAITING).fetchall():
            assert not beginning.done()
        migrate(old)
        blocker.rollback()

        assert beginning.result()["status"] == "granted"
    assert holder.commit(token)["status"] == "committed"
    migrate(old)
    assert named_by_begin(old) == {rejected.token_id}, "the next run carries over the token noted in the lease"


def test_a_save_of_version_1_0_0_works(old: Database) -> None:
    """A client of version 1.0.0 calls save_token without the new argument, and the token is saved."""
    migrate(old)
    token = make_token()
    arguments = {"service": "kis", "value": token.to_json(), "expires_at": token.expires_at}
    answer = old.call("save_token", **arguments, replaces_version=None, keys_version=0)

    assert answer["status"] == "saved"
