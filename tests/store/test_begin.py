"""Asking for a turn: what every store promises, the one on PostgreSQL, through HTTP, and the one in memory."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

from kis_token.token import parse_instant
from tests.store.backends import OTHER_KEY, SEALED, SECOND, Caller, issue, put_token, reject, wait_of
from tests.support import HOUR, MINUTE, make_token, utc_now

if TYPE_CHECKING:
    from tests.store.backends import Backend

# a turn is granted


def test_nothing_stored_is_granted(backend: Backend) -> None:
    """The first who asks for an empty slot gets the turn."""
    begun = Caller(backend).begin()

    assert (begun.status, begun.fence, begun.value, begun.version) == ("granted", 1, None, None)
    assert (begun.retry_at, begun.holder_label, begun.last_error) == (None, None, None)
    assert abs(begun.server_now - utc_now()) < MINUTE
    assert backend.outcomes("kis") == ["granted"]


def test_a_replay_is_granted_again_and_not_extended(backend: Backend, caller: Caller) -> None:
    """The same holder, whose first answer was lost, is given the same fence and not a second more."""
    backend.pass_time(20)

    begun = caller.begin()

    assert (begun.status, begun.fence) == ("granted", 1)
    assert 30 < wait_of(Caller(backend).begin()) <= 40
    assert backend.outcomes("kis") == ["granted"]


def test_a_holder_whose_lease_ended_waits_like_all_others(backend: Backend, caller: Caller) -> None:
    """After its 60 s a holder that asks again is busy until 70 s after its grant, then gets a new fence."""
    backend.pass_time(61)
    assert 0 < wait_of(caller.begin()) <= 9
    backend.pass_time(10)

    begun = caller.begin()

    assert (begun.status, begun.fence) == ("granted", 2)


# the slot's keys


def test_keys_that_were_changed_get_no_lease(backend: Backend) -> None:
    """Who saw another app_key row than the one that is there now is told so, even where a fresh token lies."""
    before = backend.put("kis", "app_key", "PSbefore")
    put_token(backend, make_token())
    now = backend.put("kis", "app_key", "PSnow")

    assert Caller(backend).begin(keys_version=before).status == "changed"
    assert Caller(backend).begin(keys_version=0).status == "changed"
    assert backend.outcomes("kis") == []
    assert Caller(backend).begin(keys_version=now).status == "fresh"


def test_keys_that_are_not_stored_are_version_0(backend: Backend) -> None:
    """Who has keys of their own is granted as long as the slot has none; an inactive row counts as none."""
    backend.put("kis", "app_key", "PSbefore", active=False)

    assert Caller(backend).begin(keys_version=0).status == "granted"
    assert Caller(backend).begin(keys_version=7).status == "changed"


def test_who_says_nothing_of_keys_is_not_asked(backend: Backend) -> None:
    """Older callers do not tell which row they saw."""
    backend.put("kis", "app_key", "PSnow")

    assert Caller(backend).begin().status == "granted"


# nobody gets a turn now


def test_another_lease_is_busy(backend: Backend, caller: Caller) -> None:
    """Whoever comes second is told who holds the lease and until when, and takes nothing from the holder."""
    begun = Caller(backend, label="a laptop").begin()

    assert begun.holder_label == "acme/bot run 7 trade"
    assert 50 < wait_of(begun) <= 60
    assert caller.commit(make_token()).status == "committed"


def test_a_long_label_is_cut(backend: Backend) -> None:
    """A label of any length is kept to 200 characters."""
    Caller(backend, label="가" * 999).begin()

    assert Caller(backend).begin().holder_label == "가" * 200


def test_grants_are_spaced_when_the_holder_dies(backend: Backend, caller: Caller) -> None:
    """A dead holder's lease ends after 60 s; nobody is granted before 70 s, when its label no longer shows."""
    backend.pass_time(61)

    begun = Caller(backend).begin()

    assert begun.holder_label is None
    assert 0 < wait_of(begun) <= 9
    backend.pass_time(10)
    assert Caller(backend).begin().fence == caller.fence + 1


def test_grants_are_spaced_after_a_commit(backend: Backend) -> None:
    """However soon it is committed, after a grant nobody gets another for 70 s."""
    version = issue(backend, make_token())
    backend.pass_time(60)
    assert 0 < wait_of(Caller(backend).begin(rejected_version=version)) <= 10
    backend.pass_time(11)

    assert Caller(backend).begin(rejected_version=version).status == "granted"


def test_a_late_commit_spaces_from_itself(backend: Backend, caller: Caller) -> None:
    """A commit 50 s into the lease keeps others off for 61 s from then."""
    backend.pass_time(50)
    version = caller.commit(make_token()).version

    assert 55 < wait_of(Caller(backend).begin(rejected_version=version)) <= 61


# there is a token, and no turn is needed


def test_a_fresh_token_is_handed_out(backend: Backend) -> None:
    """With more than min_remaining left the token itself is the answer, and no turn is given."""
    token = make_token()
    version = put_token(backend, token)

    begun = Caller(backend).begin()

    assert (begun.status, begun.version, begun.fence) == ("fresh", version, None)
    assert begun.value == token.to_json()
    assert parse_instant(begun.expires_at) == token.expires_at
    assert backend.outcomes("kis") == []


@pytest.mark.parametrize(
    ("left", "status"),
    [(10 * MINUTE + 15 * SECOND, "fresh"), (10 * MINUTE - SECOND, "granted"), (-SECOND, "granted"), (-HOUR, "granted")],
)
def test_fresh_is_more_than_min_remaining(backend: Backend, left: timedelta, status: str) -> None:
    """A token that someone else stored is fresh by its remaining life alone."""
    put_token(backend, make_token(left=left, age=2 * HOUR))

    assert Caller(backend).begin().status == status


@pytest.mark.parametrize(("age", "status"), [(5 * HOUR, "fresh"), (7 * HOUR, "granted")])
def test_within_six_hours_of_an_issue_a_token_is_fresh(backend: Backend, age: timedelta, status: str) -> None:
    """Asked for more life than any new token has, the one of less than 6 h is the answer: KIS would only repeat it."""
    issue(backend, make_token(age=age, left=24 * HOUR - age))
    backend.pass_time(71)

    assert Caller(backend).begin(min_remaining=24 * HOUR).status == status


def test_six_hours_count_only_for_the_token_they_speak_of(backend: Backend) -> None:
    """When someone wrote the row without a lease, the lease's issue time says nothing about it."""
    issue(backend, make_token())
    backend.pass_time(71)
    put_token(backend, make_token(left=HOUR))

    assert Caller(backend).begin(min_remaining=2 * HOUR).status == "granted"


def test_a_dead_token_is_not_fresh_within_six_hours(backend: Backend) -> None:
    """A token that ended soon after its issue is no answer."""
    token = make_token(age=HOUR, left=HOUR)
    issue(backend, token)
    backend.pass_time(71)
    backend.put("kis", "access_token", token.to_json(), utc_now() - SECOND)

    assert Caller(backend).begin(min_remaining=timedelta()).status == "granted"


def test_a_rejected_version_is_not_fresh(backend: Backend) -> None:
    """A row that the caller cannot use is not handed to it again; another version is."""
    version = put_token(backend, make_token())

    assert Caller(backend).begin(rejected_version=version - 1).status == "fresh"
    begun = Caller(backend).begin(rejected_version=version)
    assert (begun.status, begun.version, begun.value) == ("granted", version, None)


def test_a_rejected_token_is_not_fresh_whoever_stored_it(backend: Backend) -> None:
    """A token that the API refused is not handed out again, though someone stored it who takes no lease.

    The next caller, which has no proof that the token is rejected, is not handed it either.
    """
    token = make_token()
    put_token(backend, token)

    assert Caller(backend).begin(rejected_token_id=make_token().token_id).status == "fresh"
    assert Caller(backend).begin(rejected_token_id=token.token_id).status == "granted"
    backend.pass_time(70)
    assert Caller(backend).begin().status == "granted"


def test_all_rejected_tokens_are_remembered(backend: Backend) -> None:
    """A second rejection does not make the slot forget the first: neither is fresh for a caller without proof."""
    first, second = make_token(), make_token()
    for token in (first, second):
        reject(backend, token)
    for token in (first, second):
        put_token(backend, token)
        caller = Caller(backend)
        begun = caller.begin()
        assert (begun.status, begun.rejected_token_ids) == ("granted", frozenset({first.token_id, second.token_id}))
        caller.abort(cooldown=0 * SECOND)


def test_at_most_a_hundred_rejected_tokens_are_remembered(backend: Backend) -> None:
    """The last one is, although it ends first; of the others those that end last."""
    others = [make_token() for _ in range(100)]
    for token in others:
        reject(backend, token)
        backend.pass_time(1)
    last = make_token(left=2 * HOUR)
    put_token(backend, last)
    reject(backend, last)

    assert backend.store.read("kis").rejected == {token.token_id for token in (*others[1:], last)}


@pytest.mark.parametrize("stored_form", [None, SEALED], ids=["plain", "sealed"])
def test_a_rejected_token_is_known_by_the_lease(backend: Backend, stored_form: str | None) -> None:
    """The lease remembers which token it stored, also when nobody can see that in the row."""
    token = make_token()
    issue(backend, token, stored_form)
    backend.pass_time(71)

    assert Caller(backend).begin().status == "fresh"
    assert Caller(backend).begin(rejected_token_id=make_token().token_id).status == "fresh"
    assert Caller(backend).begin(rejected_token_id=token.token_id).status == "granted"


def test_a_sealed_token_of_someone_else_is_known_by_its_version_alone(backend: Backend) -> None:
    """What the lease remembers says nothing of a sealed row that someone else wrote since."""
    token = make_token()
    issue(backend, token)
    backend.pass_time(71)
    version = backend.put("kis", "access_token", SEALED, token.expires_at)

    assert Caller(backend).begin(rejected_token_id=token.token_id).status == "fresh"
    assert Caller(backend).begin(rejected_version=version).status == "granted"


@pytest.mark.parametrize("value", ["", "{", "[]", "null", "1", '"text"', '{"access_token": ""}', "enc:v1:x:eHg="])
def test_a_row_that_holds_no_token_breaks_nothing(backend: Backend, value: str) -> None:
    """Whatever is stored, begin answers; what is not known to be rejected counts by its column."""
    version = backend.put("kis", "access_token", value, make_token().expires_at)

    begun = Caller(backend).begin(rejected_token_id="0" * 16)
    assert (begun.status, begun.value) == ("fresh", value)
    assert Caller(backend).begin(rejected_version=version).status == "granted"


def test_a_row_without_expiry_is_not_fresh(backend: Backend) -> None:
    """A token row whose column says nothing has to be judged by its reader."""
    version = backend.put("kis", "access_token", make_token().to_json())

    begun = Caller(backend).begin()
    assert (begun.status, begun.version, begun.expires_at) == ("granted", version, None)


def test_an_inactive_token_counts_as_absent(backend: Backend) -> None:
    """An inactive row is neither handed out nor in the way."""
    put_token(backend, make_token(), active=False)

    begun = Caller(backend).begin()
    assert (begun.status, begun.version) == ("granted", None)


def test_fresh_comes_before_busy(backend: Backend, caller: Caller) -> None:
    """A good token is handed out even to the holder of the lease, and to everybody beside it."""
    put_token(backend, make_token())

    assert Caller(backend).begin().status == caller.begin().status == "fresh"


# two slots with one app key


def test_a_living_token_of_the_key_in_another_slot_is_a_conflict(backend: Backend) -> None:
    """A slot cannot issue with an app key whose token lives in another slot, which is named."""
    issue(backend, make_token())

    begun = Caller(backend, service="kis-second").begin()

    assert (begun.status, begun.holder_label, begun.fence) == ("conflict", "kis", None)
    assert backend.outcomes("kis-second") == []


def test_a_lease_of_the_key_in_another_slot_is_busy(backend: Backend, caller: Caller) -> None:
    """While another slot is issuing with the same key, and 70 s from its start, the answer is to wait for it."""
    begun = Caller(backend, service="kis-second").begin()
    assert begun.holder_label == "acme/bot run 7 trade"
    assert 50 < wait_of(begun) <= 60
    backend.pass_time(61)

    begun = Caller(backend, service="kis-second").begin()
    assert begun.holder_label is None
    assert 0 < wait_of(begun) <= 9
    backend.pass_time(10)
    assert Caller(backend, service="kis-second").begin().fence == caller.fence == 1


@pytest.mark.parametrize("active", [True, False], ids=["ended", "inactive"])
def test_the_key_moves_when_the_other_slots_token_is_dead(backend: Backend, active: bool) -> None:  # noqa: FBT001 - a table
    """Once the other slot's token is dead or inactive and its lease over, the key belongs to the slot that asks."""
    token = make_token()
    issue(backend, token)
    backend.put(
        "kis", "access_token", token.to_json(), utc_now() - SECOND if active else token.expires_at, active=active
    )
    assert Caller(backend, service="kis-second").begin().status == "busy"
    backend.pass_time(71)

    assert Caller(backend, service="kis-second").begin().status == "granted"
    # And now the first slot is the one that has to wait, while a token that turns up there holds nobody up.
    assert Caller(backend).begin().status == "busy"
    put_token(backend, make_token())
    backend.pass_time(71)
    assert Caller(backend, service="kis-second").begin().status == "granted"


def test_slots_with_keys_of_their_own_do_not_meet(backend: Backend, caller: Caller) -> None:
    """Two accounts issue side by side, each with fences of its own."""
    second = Caller(backend, service="kis-second", app_key=OTHER_KEY)

    assert second.begin().status == "granted"
    assert second.fence == caller.fence == 1
    assert (backend.outcomes("kis"), backend.outcomes("kis-second")) == (["granted"], ["granted"])


def test_a_slot_may_change_its_key(backend: Backend) -> None:
    """After a change of keys the slot issues with the new one, and the old one is free for others."""
    version = issue(backend, make_token())
    backend.pass_time(71)
    assert Caller(backend, app_key=OTHER_KEY).begin(rejected_version=version).status == "granted"

    assert Caller(backend, service="kis-second").begin().status == "granted"
