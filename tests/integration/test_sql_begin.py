"""begin_issuance: who may issue now, rule by rule, in the order in which the rules are tried."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

import psycopg
import pytest

from kis_token.token import AppKey, parse_instant
from tests.support import APP_KEY, HOUR, MINUTE, Contender, issue_by_functions, make_token

if TYPE_CHECKING:
    from tests.support import Database

OTHER_KEY = AppKey("PSz9y8x7w6v5u4t3s2r1q0p9o8n7m6l5k4j3", "b3RoZXI=")
CORRECTED = AppKey(APP_KEY.key, "Y29ycmVjdGVk")
SECOND = timedelta(seconds=1)


def seconds_until(answer: dict[str, Any], name: str) -> float:
    """From the answer's own time to one of its times."""
    return (parse_instant(answer[name]) - parse_instant(answer["server_now"])).total_seconds()


def seconds_granted(database: Database, column: str) -> float:
    """From the grant to one of the lease's times."""
    lease = database.lease()
    seconds: float = (lease[column] - lease["granted_at"]).total_seconds()
    return seconds


# granted


def test_nothing_stored_is_granted(database: Database) -> None:
    """The first who asks for an empty slot gets the turn: 60 s of lease, 70 s until the next may be given."""
    contender = Contender(database)

    answer = contender.begin()

    assert (answer["status"], answer["fence"], answer["value"], answer["version"]) == ("granted", 1, None, None)
    assert (seconds_granted(database, "lease_until"), seconds_granted(database, "not_before")) == (60, 70)
    lease = database.lease()
    assert (str(lease["holder"]), lease["holder_label"]) == (contender.holder, "acme/bot run 7 trade")
    assert lease["app_key_id"] == APP_KEY.key_id
    assert database.outcomes() == ["granted"]


def test_a_replay_is_granted_again_and_not_extended(database: Database) -> None:
    """The same holder, whose first answer was lost, is given the same fence and not a second more."""
    contender = Contender(database)
    contender.begin()
    database.age(20)
    before = database.lease()

    answer = contender.begin()

    assert (answer["status"], answer["fence"]) == ("granted", 1)
    assert database.lease() == before
    assert database.outcomes() == ["granted"]


def test_a_holder_whose_lease_ended_waits_like_all_others(database: Database) -> None:
    """After its 60 s a holder that asks again is busy until 70 s after its grant, then gets a new fence."""
    contender = Contender(database)
    contender.begin()
    database.age(61)
    assert contender.begin()["status"] == "busy"
    database.age(10)

    answer = contender.begin()

    assert (answer["status"], answer["fence"]) == ("granted", 2)


def test_a_long_label_is_cut(database: Database) -> None:
    """A label of any length is kept to 200 characters."""
    assert Contender(database, label="가" * 999).begin()["status"] == "granted"
    assert database.lease()["holder_label"] == "가" * 200


# busy


def test_another_lease_is_busy(database: Database) -> None:
    """Whoever comes second is told who holds the lease and until when, and changes nothing."""
    Contender(database).begin()
    before = database.lease()

    answer = Contender(database, label="a laptop").begin()

    assert (answer["status"], answer["fence"], answer["holder_label"]) == ("busy", None, "acme/bot run 7 trade")
    assert 50 < seconds_until(answer, "retry_at") <= 60
    assert database.lease() == before


def test_grants_are_spaced_when_the_holder_dies(database: Database) -> None:
    """A dead holder's lease ends after 60 s; nobody is granted before 70 s, when its label no longer shows."""
    Contender(database).begin()
    database.age(61)

    answer = Contender(database).begin()

    assert (answer["status"], answer["holder_label"]) == ("busy", None)
    assert 0 < seconds_until(answer, "retry_at") <= 9
    database.age(10)
    assert Contender(database).begin()["status"] == "granted"


def test_grants_are_spaced_after_a_commit(database: Database) -> None:
    """After a commit nobody is granted within 61 s, and with the call at the start of the lease not within 70 s."""
    version = issue_by_functions(database, make_token())
    database.age(60)

    answer = Contender(database).begin(rejected_version=version)

    assert answer["status"] == "busy"
    assert 0 < seconds_until(answer, "retry_at") <= 10


def test_a_late_commit_spaces_from_itself(database: Database) -> None:
    """A commit 50 s into the lease keeps others off for 61 s from then."""
    contender = Contender(database)
    contender.begin()
    database.age(50)
    version = contender.commit(make_token())["version"]

    answer = Contender(database).begin(rejected_version=version)

    assert answer["status"] == "busy"
    assert 60 < seconds_until(answer, "retry_at") <= 61


def test_a_refused_credential_cools_down(database: Database) -> None:
    """For 15 minutes the very key and secret that KIS refused are not tried again, and the answer says why."""
    contender = Contender(database)
    contender.begin()
    contender.abort("EGW00105", timedelta(), refused_credential_id=APP_KEY.credential_id)

    answer = Contender(database).begin()

    assert (answer["status"], answer["last_error"], answer["holder_label"]) == ("busy", "EGW00105", None)
    assert 890 < seconds_until(answer, "retry_at") <= 900
    database.age(901)
    assert Contender(database).begin()["status"] == "granted"


def test_a_corrected_secret_is_not_held_up(database: Database) -> None:
    """The cool-down is the refused credential's alone: a corrected secret is granted at once."""
    contender = Contender(database)
    contender.begin()
    contender.abort("EGW00105", timedelta(), refused_credential_id=APP_KEY.credential_id)

    assert Contender(database, app_key=CORRECTED).begin()["status"] == "granted"


# fresh


def test_a_fresh_token_is_handed_out(database: Database) -> None:
    """With more than min_remaining left the token itself is the answer, and no lease is given."""
    token = make_token()
    version = database.put_token(token)

    answer = Contender(database).begin()

    assert (answer["status"], answer["version"], answer["fence"]) == ("fresh", version, None)
    assert answer["value"] == token.to_json()
    assert database.outcomes() == []


@pytest.mark.parametrize(
    ("left", "status"),
    [(10 * MINUTE + 5 * SECOND, "fresh"), (10 * MINUTE - SECOND, "granted"), (-SECOND, "granted"), (-HOUR, "granted")],
)
def test_fresh_is_more_than_min_remaining(database: Database, left: timedelta, status: str) -> None:
    """A token that someone else stored is fresh by its remaining life alone."""
    database.put_token(make_token(left=left, age=2 * HOUR))

    assert Contender(database).begin()["status"] == status


@pytest.mark.parametrize(("age", "status"), [(5 * HOUR, "fresh"), (7 * HOUR, "granted")])
def test_within_six_hours_of_an_issue_a_token_is_fresh(database: Database, age: timedelta, status: str) -> None:
    """Asked for more life than any new token has, the one of less than 6 h is the answer: KIS would only repeat it."""
    issue_by_functions(database, make_token(age=age, left=24 * HOUR - age))
    database.age(120)  # the lease's issued_at moves along, which the next line puts right
    database.owner.execute("update credential_leases set issued_at = clock_timestamp() - %s", (age,))

    assert Contender(database).begin(min_remaining=24 * HOUR)["status"] == status


def test_six_hours_count_only_for_the_token_they_speak_of(database: Database) -> None:
    """When someone wrote the row without a lease, the lease's issue time says nothing about it."""
    issue_by_functions(database, make_token())
    database.age(120)
    database.put_token(make_token(left=HOUR))

    assert Contender(database).begin(min_remaining=2 * HOUR)["status"] == "granted"


def test_a_dead_token_is_not_fresh_within_six_hours(database: Database) -> None:
    """Also within 6 h of its issue a token that has ended is no answer."""
    issue_by_functions(database, make_token(age=HOUR, left=HOUR))
    database.age(120)
    database.owner.execute("update api_credentials set expires_at = now() - interval '1 second'")
    database.owner.execute("update credential_leases l set token_version = c.version from api_credentials c")

    assert Contender(database).begin()["status"] == "granted"


def test_a_rejected_version_is_not_fresh(database: Database) -> None:
    """A row that the caller cannot use is not handed to it again; another version is."""
    version = database.put_token(make_token())

    assert Contender(database).begin(rejected_version=version - 1)["status"] == "fresh"
    assert Contender(database).begin(rejected_version=version)["status"] == "granted"


def test_a_rejected_token_is_not_fresh_whoever_stored_it(database: Database) -> None:
    """A token that the API refused is not handed out again, stored by these functions or by someone else."""
    token = make_token()
    database.put_token(token)

    assert Contender(database).begin(rejected_token_id=make_token().token_id)["status"] == "fresh"
    assert Contender(database).begin(rejected_token_id=token.token_id)["status"] == "granted"
    database.age(70)
    assert Contender(database).begin()["status"] == "granted", "the next caller has no proof, and is told"


def test_a_rejected_sealed_token_is_known_by_the_lease(database: Database) -> None:
    """Of a sealed row nobody can tell the token but the lease, which remembers what it stored."""
    token = make_token()
    contender = Contender(database)
    contender.begin()
    contender.commit(token, value="enc:v1:0a1b2c3d:bm9uY2VjaXBoZXJ0YWc=")
    database.age(120)

    assert Contender(database).begin()["status"] == "fresh"
    assert Contender(database).begin(rejected_token_id=token.token_id)["status"] == "granted"


@pytest.mark.parametrize("value", ["", "{", "[]", "null", "1", '"text"', '{"access_token": ""}', "enc:v1:x:eHg="])
def test_a_row_that_holds_no_token_breaks_nothing(database: Database, value: str) -> None:
    """Whatever is stored, begin answers; what is not known to be rejected counts by its column."""
    version = database.put("access_token", value, make_token().expires_at)

    assert Contender(database).begin(rejected_token_id="0" * 16)["status"] == "fresh"
    assert Contender(database).begin(rejected_version=version)["status"] == "granted"


def test_a_row_without_expiry_is_not_fresh(database: Database) -> None:
    """A token row whose column says nothing has to be judged by its reader, so begin does not call it fresh."""
    database.put("access_token", make_token().to_json())

    assert Contender(database).begin()["status"] == "granted"


def test_an_inactive_token_counts_as_absent(database: Database) -> None:
    """An inactive row is neither handed out nor in the way."""
    database.put_token(make_token(), active=False)

    answer = Contender(database).begin()

    assert (answer["status"], answer["version"]) == ("granted", None)


def test_fresh_comes_before_busy(database: Database) -> None:
    """A good token is handed out even while someone holds the lease."""
    Contender(database).begin()
    database.put_token(make_token())

    assert Contender(database).begin()["status"] == "fresh"


# conflict: two slots with one app key


def test_a_living_token_of_the_key_in_another_slot_is_a_conflict(database: Database) -> None:
    """A slot cannot issue with an app key whose token lives in another slot, which is named."""
    issue_by_functions(database, make_token())

    answer = Contender(database, service="kis-second").begin()

    assert (answer["status"], answer["holder_label"], answer["fence"]) == ("conflict", "kis", None)
    assert database.outcomes("kis-second") == []


def test_a_lease_of_the_key_in_another_slot_is_busy(database: Database) -> None:
    """While another slot is issuing with the same key, the answer is to wait for it."""
    Contender(database).begin()

    answer = Contender(database, service="kis-second", label="the second").begin()

    assert (answer["status"], answer["holder_label"]) == ("busy", "acme/bot run 7 trade")
    database.age(61)
    assert Contender(database, service="kis-second").begin()["status"] == "busy"


def test_the_key_moves_when_the_other_slots_token_is_dead(database: Database) -> None:
    """Once the other slot's token is dead and its lease over, the key belongs to the slot that asks."""
    issue_by_functions(database, make_token())
    database.age(120)
    database.owner.execute("update api_credentials set expires_at = now() - interval '1 second'")

    assert Contender(database, service="kis-second").begin()["status"] == "granted"
    assert (database.lease()["app_key_id"], database.lease("kis-second")["app_key_id"]) == (None, APP_KEY.key_id)
    # And now the first slot is the one that has to wait.
    assert Contender(database).begin()["status"] == "busy"


def test_the_key_moves_from_an_inactive_token(database: Database) -> None:
    """A slot that was closed by hand, its token row set to inactive, frees its key."""
    issue_by_functions(database, make_token())
    database.age(120)
    database.owner.execute("update api_credentials set is_active = false")

    assert Contender(database, service="kis-second").begin()["status"] == "granted"


def test_slots_with_keys_of_their_own_do_not_meet(database: Database) -> None:
    """Two accounts issue side by side."""
    assert Contender(database).begin()["status"] == "granted"
    assert Contender(database, service="kis-second", app_key=OTHER_KEY).begin()["status"] == "granted"


def test_a_slot_may_change_its_key(database: Database) -> None:
    """After a change of keys the slot issues with the new one, and the old one is free for others."""
    issue_by_functions(database, make_token())
    database.age(120)
    database.owner.execute("update api_credentials set is_active = false")
    assert Contender(database, app_key=OTHER_KEY).begin()["status"] == "granted"

    assert database.lease()["app_key_id"] == OTHER_KEY.key_id
    assert Contender(database, service="kis-second").begin()["status"] == "granted"


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


def test_a_holder_is_a_uuid(database: Database) -> None:
    """A holder that is no UUID does not get as far as the function."""
    with pytest.raises(psycopg.errors.InvalidTextRepresentation):
        Contender(database).begin(holder="me")
