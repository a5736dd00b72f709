"""Asking for the lease: tests that every store passes, the store over HTTP and the store in memory."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

from kis_token.token import parse_instant
from tests.store.backends import OTHER_KEY, SEALED, SECOND, Caller, issue, put_token, reject, wait_of
from tests.support import HOUR, MINUTE, make_token, utc_now

if TYPE_CHECKING:
    from tests.store.backends import Backend

# the lease is granted


def test_nothing_stored_is_granted(backend: Backend) -> None:
    """The first caller that asks for an empty slot gets the lease."""
    begun = Caller(backend).begin()

    assert (begun.status, begun.fence, begun.value, begun.version) == ("granted", 1, None, None)
    assert (begun.retry_at, begun.holder_label, begun.last_error) == (None, None, None)
    assert abs(begun.server_now - utc_now()) < MINUTE
    assert backend.outcomes("kis") == ["granted"]


def test_a_replay_is_granted_again_and_not_extended(backend: Backend, caller: Caller) -> None:
    """If a holder repeats begin after a lost answer, the holder gets the same fence and no additional time."""
    backend.pass_time(20)

    begun = caller.begin()

    assert (begun.status, begun.fence) == ("granted", 1)
    assert 30 < wait_of(Caller(backend).begin()) <= 40
    assert backend.outcomes("kis") == ["granted"]


def test_a_holder_whose_lease_ended_waits_like_all_others(backend: Backend, caller: Caller) -> None:
    """If a holder asks again after its lease has ended, it waits until 70 s after its grant, and gets a new fence."""
    backend.pass_time(61)
    assert 0 < wait_of(caller.begin()) <= 9
    backend.pass_time(10)

    begun = caller.begin()

    assert (begun.status, begun.fence) == ("granted", 2)


# the slot's keys


def test_changed_keys_get_no_lease(backend: Backend) -> None:
    """If the app_key row has changed since the caller read it, the answer is "changed", even with a fresh token."""
    before = backend.put("kis", "app_key", "PSbefore")
    put_token(backend, make_token())
    now = backend.put("kis", "app_key", "PSnow")

    assert Caller(backend).begin(keys_version=before).status == "changed"
    assert Caller(backend).begin(keys_version=0).status == "changed"
    assert backend.outcomes("kis") == []
    assert Caller(backend).begin(keys_version=now).status == "fresh"


def test_keys_that_are_not_stored_are_version_0(backend: Backend) -> None:
    """A caller with its own keys gets the lease only if the slot has no keys; an inactive row counts as absent."""
    backend.put("kis", "app_key", "PSbefore", active=False)

    assert Caller(backend).begin(keys_version=0).status == "granted"
    assert Caller(backend).begin(keys_version=7).status == "changed"


def test_a_caller_without_a_keys_version_gets_the_lease(backend: Backend) -> None:
    """Older callers that do not send the version of the keys get the lease."""
    backend.put("kis", "app_key", "PSnow")

    assert Caller(backend).begin().status == "granted"


# no caller gets the lease now


def test_another_lease_is_busy(backend: Backend, caller: Caller) -> None:
    """While a caller has the lease, a second caller gets the holder's label and the end of the wait."""
    begun = Caller(backend, label="a laptop").begin()

    assert begun.holder_label == "acme/bot run 7 trade"
    assert 50 < wait_of(begun) <= 60
    assert caller.commit(make_token()).status == "committed"


def test_a_long_label_is_cut(backend: Backend) -> None:
    """A label of any length is cut to 200 characters."""
    Caller(backend, label="가" * 999).begin()

    assert Caller(backend).begin().holder_label == "가" * 200


def test_grants_are_spaced_when_the_holder_is_lost(backend: Backend, caller: Caller) -> None:
    """A lost holder's lease ends after 60 s, and its label is hidden. Another caller gets a lease after 70 s."""
    backend.pass_time(61)

    begun = Caller(backend).begin()

    assert begun.holder_label is None
    assert 0 < wait_of(begun) <= 9
    backend.pass_time(10)
    assert Caller(backend).begin().fence == caller.fence + 1


def test_grants_are_spaced_after_a_commit(backend: Backend) -> None:
    """However early the commit is, no caller gets another lease for 70 s after a grant."""
    version = issue(backend, make_token())
    backend.pass_time(60)
    assert 0 < wait_of(Caller(backend).begin(rejected_version=version)) <= 10
    backend.pass_time(11)

    assert Caller(backend).begin(rejected_version=version).status == "granted"


def test_a_late_commit_spaces_from_itself(backend: Backend, caller: Caller) -> None:
    """If a holder commits 50 s after its grant, other callers wait for 61 s after the commit."""
    backend.pass_time(50)
    version = caller.commit(make_token()).version

    assert 55 < wait_of(Caller(backend).begin(rejected_version=version)) <= 61


# there is a token, and no lease is needed


def test_a_fresh_token_is_handed_out(backend: Backend) -> None:
    """If the token has more than min_remaining left, the answer is the token, and no lease is granted."""
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
    """If a client without a lease stored a token, only its remaining validity decides whether the token is fresh."""
    put_token(backend, make_token(left=left, age=2 * HOUR))

    assert Caller(backend).begin().status == status


@pytest.mark.parametrize(("age", "status"), [(5 * HOUR, "fresh"), (7 * HOUR, "granted")])
def test_within_six_hours_of_an_issue_a_token_is_fresh(backend: Backend, age: timedelta, status: str) -> None:
    """A token issued less than 6 h ago is fresh even if the caller needs more validity: KIS would repeat the token."""
    issue(backend, make_token(age=age, left=24 * HOUR - age))
    backend.pass_time(71)

    assert Caller(backend).begin(min_remaining=24 * HOUR).status == status


def test_six_hours_count_only_for_the_token_they_speak_of(backend: Backend) -> None:
    """If a client without a lease rewrote the row, the issue time in the lease does not apply to that row."""
    issue(backend, make_token())
    backend.pass_time(71)
    put_token(backend, make_token(left=HOUR))

    assert Caller(backend).begin(min_remaining=2 * HOUR).status == "granted"


def test_an_expired_token_is_not_fresh_within_six_hours(backend: Backend) -> None:
    """An expired token is not fresh, even within six hours of its issue."""
    token = make_token(age=HOUR, left=HOUR)
    issue(backend, token)
    backend.pass_time(71)
    backend.put("kis", "access_token", token.to_json(), utc_now() - SECOND)

    assert Caller(backend).begin(min_remaining=timedelta()).status == "granted"


def test_a_rejected_version_is_not_fresh(backend: Backend) -> None:
    """Begin does not return the version that the caller rejects; it returns another version."""
    version = put_token(backend, make_token())

    assert Caller(backend).begin(rejected_version=version - 1).status == "fresh"
    begun = Caller(backend).begin(rejected_version=version)
    assert (begun.status, begun.version, begun.value) == ("granted", version, None)


def test_a_rejected_token_is_not_fresh_whoever_stored_it(backend: Backend) -> None:
    """Begin does not return a token that the API rejected, even if a client without a lease stored it.

    A later caller that does not name the token as rejected does not get the token either.
    """
    token = make_token()
    put_token(backend, token)

    assert Caller(backend).begin(rejected_token_id=make_token().token_id).status == "fresh"
    assert Caller(backend).begin(rejected_token_id=token.token_id).status == "granted"
    backend.pass_time(70)
    assert Caller(backend).begin().status == "granted"


def test_all_rejected_tokens_are_remembered(backend: Backend) -> None:
    """After a second rejection, the slot still remembers the first token: neither token is fresh for any caller."""
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
    """A slot remembers the last rejected token, even if it ends first, and 99 others, which have the latest ends."""
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
    """The slot remembers which token the last lease stored, even if the stored value is sealed."""
    token = make_token()
    issue(backend, token, stored_form)
    backend.pass_time(71)

    assert Caller(backend).begin().status == "fresh"
    assert Caller(backend).begin(rejected_token_id=make_token().token_id).status == "fresh"
    assert Caller(backend).begin(rejected_token_id=token.token_id).status == "granted"


def test_a_sealed_token_of_someone_else_is_known_by_its_version_alone(backend: Backend) -> None:
    """If another client writes a sealed row after the lease, only the row's version identifies the token."""
    token = make_token()
    issue(backend, token)
    backend.pass_time(71)
    version = backend.put("kis", "access_token", SEALED, token.expires_at)

    assert Caller(backend).begin(rejected_token_id=token.token_id).status == "fresh"
    assert Caller(backend).begin(rejected_version=version).status == "granted"


@pytest.mark.parametrize("value", ["", "{", "[]", "null", "1", '"text"', '{"access_token": ""}', "enc:v1:x:eHg="])
def test_a_row_that_holds_no_token_breaks_nothing(backend: Backend, value: str) -> None:
    """Begin answers for any stored value. If the row is not rejected, its column decides whether it is fresh."""
    version = backend.put("kis", "access_token", value, make_token().expires_at)

    begun = Caller(backend).begin(rejected_token_id="0" * 16)
    assert (begun.status, begun.value) == ("fresh", value)
    assert Caller(backend).begin(rejected_version=version).status == "granted"


def test_a_row_without_expiry_is_not_fresh(backend: Backend) -> None:
    """A row without an end in its column is not fresh: the caller that reads the row must judge its token."""
    version = backend.put("kis", "access_token", make_token().to_json())

    begun = Caller(backend).begin()
    assert (begun.status, begun.version, begun.expires_at) == ("granted", version, None)


def test_an_inactive_token_counts_as_absent(backend: Backend) -> None:
    """An inactive row is not returned, and does not prevent a lease."""
    put_token(backend, make_token(), active=False)

    begun = Caller(backend).begin()
    assert (begun.status, begun.version) == ("granted", None)


def test_fresh_comes_before_busy(backend: Backend, caller: Caller) -> None:
    """During a lease, a fresh token is returned to the holder and to every other caller."""
    put_token(backend, make_token())

    assert Caller(backend).begin().status == caller.begin().status == "fresh"


# two slots with one app key


def test_a_valid_token_of_the_key_in_another_slot_is_a_conflict(backend: Backend) -> None:
    """A slot gets no lease for an app key that has a valid token in another slot; the answer names that slot."""
    issue(backend, make_token())

    begun = Caller(backend, service="kis-second").begin()

    assert (begun.status, begun.holder_label, begun.fence) == ("conflict", "kis", None)
    assert backend.outcomes("kis-second") == []


def test_a_lease_of_the_key_in_another_slot_is_busy(backend: Backend, caller: Caller) -> None:
    """If another slot has a lease for the same app key, a caller waits until 70 s after that grant."""
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
def test_the_key_moves_when_the_other_slots_token_has_expired(backend: Backend, active: bool) -> None:  # noqa: FBT001 - a table
    """If the other slot's token is expired or inactive, this slot can use the key 70 s after the other slot's grant."""
    token = make_token()
    issue(backend, token)
    backend.put(
        "kis", "access_token", token.to_json(), utc_now() - SECOND if active else token.expires_at, active=active
    )
    assert Caller(backend, service="kis-second").begin().status == "busy"
    backend.pass_time(71)

    assert Caller(backend, service="kis-second").begin().status == "granted"
    # Now the first slot must wait, but a token in the first slot does not delay the second slot.
    assert Caller(backend).begin().status == "busy"
    put_token(backend, make_token())
    backend.pass_time(71)
    assert Caller(backend, service="kis-second").begin().status == "granted"


def test_slots_with_keys_of_their_own_do_not_meet(backend: Backend, caller: Caller) -> None:
    """Two slots with different app keys can issue at the same time, each with its own fences."""
    second = Caller(backend, service="kis-second", app_key=OTHER_KEY)

    assert second.begin().status == "granted"
    assert second.fence == caller.fence == 1
    assert (backend.outcomes("kis"), backend.outcomes("kis-second")) == (["granted"], ["granted"])


def test_a_slot_may_change_its_key(backend: Backend) -> None:
    """After a change of keys the slot issues with the new key, and the old key can be used by other slots."""
    version = issue(backend, make_token())
    backend.pass_time(71)
    assert Caller(backend, app_key=OTHER_KEY).begin(rejected_version=version).status == "granted"

    assert Caller(backend, service="kis-second").begin().status == "granted"
