"""begin_issuance: the columns of the lease and the SQLSTATEs. tests/store/test_begin.py has its promises."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

import psycopg
import pytest

from kis_token.token import AppKey
from tests.support import APP_KEY, HOUR, Contender, issue_by_functions, make_token

if TYPE_CHECKING:
    from tests.support import Database

OTHER_KEY = AppKey("PSz9y8x7w6v5u4t3s2r1q0p9o8n7m6l5k4j3", "b3RoZXI=")
SECOND = timedelta(seconds=1)


def seconds_granted(database: Database, column: str) -> float:
    """From the grant to one of the lease's times."""
    lease = database.lease()
    seconds: float = (lease[column] - lease["granted_at"]).total_seconds()
    return seconds


def test_a_grant_is_written_into_the_lease(database: Database) -> None:
    """The columns have holder, label and app key, the end of the lease after 60 s and the next grant after 70 s."""
    contender = Contender(database)
    contender.begin()

    assert (seconds_granted(database, "lease_until"), seconds_granted(database, "not_before")) == (60, 70)
    lease = database.lease()
    assert (str(lease["holder"]), lease["holder_label"]) == (contender.holder, "acme/bot run 7 trade")
    assert lease["app_key_id"] == APP_KEY.key_id


def test_a_begin_during_a_lease_changes_no_column_of_it(database: Database) -> None:
    """The lease stays as it is when its holder begins again, and when another caller begins."""
    contender = Contender(database)
    contender.begin()
    database.age(20)
    before = database.lease()

    assert contender.begin()["status"] == "granted"
    assert database.lease() == before
    assert Contender(database, label="a laptop").begin()["status"] == "busy"
    assert database.lease() == before


def test_the_column_of_the_label_has_200_characters_at_the_most(database: Database) -> None:
    """The function cuts a longer label. The client cuts as well, so the answer to a caller does not show this."""
    assert Contender(database, label="가" * 999).begin()["status"] == "granted"
    assert database.lease()["holder_label"] == "가" * 200


def test_an_expired_token_that_the_lease_knows_is_not_fresh(database: Database) -> None:
    """If the columns say that the lease issued the row's token within 6 h, the token is not fresh once it expired."""
    issue_by_functions(database, make_token(age=HOUR, left=HOUR))
    database.age(120)
    database.owner.execute("update api_credentials set expires_at = now() - interval '1 second'")
    database.owner.execute("update credential_leases l set token_version = c.version from api_credentials c")

    assert Contender(database).begin()["status"] == "granted"


def test_a_key_that_moves_is_in_one_lease(database: Database) -> None:
    """The column app_key_id of the slot that had the key is null after another slot is granted with it."""
    issue_by_functions(database, make_token())
    database.age(120)
    database.owner.execute("update api_credentials set expires_at = now() - interval '1 second'")

    assert Contender(database, service="kis-second").begin()["status"] == "granted"
    assert (database.lease()["app_key_id"], database.lease("kis-second")["app_key_id"]) == (None, APP_KEY.key_id)


def test_the_new_key_of_a_slot_is_in_its_lease(database: Database) -> None:
    """The column app_key_id is the key of the last grant."""
    version = issue_by_functions(database, make_token())
    database.age(120)

    assert Contender(database, app_key=OTHER_KEY).begin(rejected_version=version)["status"] == "granted"
    assert database.lease()["app_key_id"] == OTHER_KEY.key_id


# nonsense


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
def test_nonsense_is_refused(database: Database, change: dict[str, object]) -> None:
    """Arguments that make no sense are 22023, and leave no lease behind."""
    with pytest.raises(psycopg.errors.InvalidParameterValue):
        Contender(database).begin(**change)
    assert database.owner.execute("select 1 from credential_leases").fetchall() == []


def test_a_holder_that_is_no_uuid_is_refused(database: Database) -> None:
    """PostgreSQL refuses it with 22P02, before the function runs."""
    with pytest.raises(psycopg.errors.InvalidTextRepresentation):
        Contender(database).begin(holder="me")
