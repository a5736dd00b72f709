"""Ending a lease with a token, and the time of the next lease: tests that every store passes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from kis_token.token import parse_instant
from tests.store.backends import SEALED, SEALED_AGAIN, Caller, issue, put_token, stored, stored_value, wait_of
from tests.support import HOUR, MINUTE, make_token

if TYPE_CHECKING:
    from kis_token.token import Token
    from tests.store.backends import Backend


def test_a_commit_stores_the_token(backend: Backend, caller: Caller) -> None:
    """After a commit, the row has the token and its end, and the lease is over."""
    token = make_token()

    committed = caller.commit(token)

    row = stored(backend)
    assert row is not None
    assert (row.value, parse_instant(row.expires_at)) == (token.to_json(), token.expires_at)
    assert (committed.status, committed.version, committed.value) == ("committed", row.version, None)
    assert parse_instant(committed.expires_at) == token.expires_at
    assert Caller(backend).begin().status == "fresh"
    assert backend.outcomes("kis") == ["granted", "committed"]


def test_a_commit_replaces_the_earlier_token(backend: Backend) -> None:
    """A commit replaces a token that was stored before the lease, even if that token has a later end."""
    version = put_token(backend, make_token(left=48 * HOUR))
    caller = Caller(backend)
    caller.begin(rejected_version=version)
    token = make_token()

    committed = caller.commit(token)

    assert committed.status == "committed"
    assert (committed.version or 0) > version
    assert stored_value(backend) == token.to_json()


@pytest.mark.parametrize("is_same", [True, False], ids=["the same token", "another"])
def test_a_commit_brings_an_inactive_row_back(backend: Backend, is_same: bool) -> None:  # noqa: FBT001 - a table
    """An inactive token row becomes active again, even with the same token."""
    token = make_token()
    put_token(backend, token if is_same else make_token(), active=False)
    assert stored(backend) is None

    issue(backend, token)

    assert stored_value(backend) == token.to_json()


@pytest.mark.parametrize(("form", "form_again"), [(None, None), (SEALED, SEALED_AGAIN)], ids=["plain", "sealed"])
def test_a_replayed_commit_is_committed_once(
    backend: Backend, caller: Caller, form: str | None, form_again: str | None
) -> None:
    """A commit that is repeated after a lost answer gets the same answer and does not change the stored value."""
    token = make_token()
    first = caller.commit(token, form)
    before = stored(backend)

    assert caller.commit(token, form_again) == first
    assert first.status == "committed"
    assert stored(backend) == before
    assert backend.outcomes("kis") == ["granted", "committed"]


def test_another_token_is_no_replay(backend: Backend, caller: Caller) -> None:
    """A second commit with a different token under the same fence is fenced."""
    token = make_token()
    caller.commit(token)

    committed = caller.commit(make_token())

    assert (committed.status, committed.value) == ("fenced", token.to_json())
    assert stored_value(backend) == token.to_json()


def test_a_replay_is_of_the_last_lease(backend: Backend, caller: Caller) -> None:
    """After the next lease has ended, a repeated commit of the earlier lease is fenced."""
    token = make_token()
    version = caller.commit(token).version
    backend.pass_time(71)
    successor = Caller(backend)
    successor.begin(rejected_version=version)
    successor.abort()

    assert caller.commit(token).status == "fenced"


def test_a_holder_that_slept_through_its_lease_is_fenced(backend: Backend, caller: Caller) -> None:
    """After another caller gets the lease, the previous holder's commit is fenced and does not end the new lease."""
    backend.pass_time(71)
    successor = Caller(backend)
    successor.begin()

    committed = caller.commit(make_token())

    assert (committed.status, committed.value, committed.version) == ("fenced", None, None)
    assert stored(backend) is None
    token = make_token()
    assert successor.commit(token).status == "committed"
    late = caller.commit(make_token())
    assert (late.status, late.value) == ("fenced", token.to_json())
    assert backend.outcomes("kis") == ["granted", "granted", "committed"]


def test_a_wrong_fence_or_holder_is_fenced(backend: Backend, caller: Caller) -> None:
    """A commit with a wrong fence or holder stores nothing and ends no lease."""
    stranger = Caller(backend)
    stranger.fence = caller.fence
    assert stranger.commit(make_token()).status == "fenced"
    caller.fence += 1
    assert caller.commit(make_token()).status == "fenced"
    caller.fence -= 1

    assert stored(backend) is None
    assert caller.commit(make_token()).status == "committed"


def test_without_any_grant_nothing_is_stored(backend: Backend) -> None:
    """On a slot without a lease a commit is fenced."""
    assert Caller(backend).commit(make_token()).status == "fenced"
    assert stored(backend) is None
    assert backend.outcomes("kis") == []


def test_a_newer_token_of_someone_else_stays(backend: Backend, caller: Caller) -> None:
    """If a client stored a token with a later end during the lease, that token is kept, and the lease ends."""
    newer = make_token(left=24 * HOUR)
    version = put_token(backend, newer)

    committed = caller.commit(make_token(left=23 * HOUR))

    assert (committed.status, committed.value, committed.version) == ("fenced", newer.to_json(), version)
    assert parse_instant(committed.expires_at) == newer.expires_at
    assert stored_value(backend) == newer.to_json()
    assert 60 < wait_of(Caller(backend).begin(rejected_version=version)) <= 70
    assert backend.outcomes("kis") == ["granted", "fenced"]


def test_an_older_token_of_someone_else_is_replaced(backend: Backend, caller: Caller) -> None:
    """If a client stored a token with an earlier end during the lease, the commit replaces that token."""
    put_token(backend, make_token(left=HOUR))
    token = make_token()

    assert caller.commit(token).status == "committed"
    assert stored_value(backend) == token.to_json()


def test_an_expired_lease_may_commit_without_another_holder(backend: Backend, caller: Caller) -> None:
    """A late commit is accepted if no other caller has the lease: storing the token saves another call."""
    backend.pass_time(3600)
    token = make_token()

    version = caller.commit(token).version

    assert stored_value(backend) == token.to_json()
    assert 55 < wait_of(Caller(backend).begin(rejected_version=version)) <= 61
    assert backend.outcomes("kis") == ["granted", "committed"]


# KIS repeats the stored or the rejected token


def commit_again(
    backend: Backend, token: Token, form: str | None = None, form_again: str | None = None, *, rejected: bool = False
) -> int:
    """Issue a token, and end the next lease with the same token. Returns the version, which did not change."""
    version = issue(backend, token, form)
    backend.pass_time(71)
    caller = Caller(backend)
    caller.begin(rejected_version=version)
    committed = caller.commit(token, form_again, rejected=rejected)
    assert (committed.status, committed.version, committed.value) == ("unchanged", version, None)
    assert backend.outcomes("kis") == ["granted", "committed", "granted", "unchanged"]
    return version


@pytest.mark.parametrize(("form", "form_again"), [(None, None), (SEALED, SEALED_AGAIN)], ids=["plain", "sealed"])
def test_the_same_token_changes_nothing(backend: Backend, form: str | None, form_again: str | None) -> None:
    """If KIS repeats the stored token, the row does not change, and the next caller may ask 61 s later."""
    token = make_token()
    version = commit_again(backend, token, form, form_again)

    assert stored_value(backend) == (form or token.to_json())
    begun = Caller(backend).begin(rejected_version=version)
    assert 55 < wait_of(begun) <= 61
    assert begun.last_error is None


@pytest.mark.parametrize(("form", "form_again"), [(None, None), (SEALED, SEALED_AGAIN)], ids=["plain", "sealed"])
def test_a_rejected_token_that_comes_again_stops_all_calls(
    backend: Backend, form: str | None, form_again: str | None
) -> None:
    """If KIS repeats a rejected token, no caller gets a lease until 6 h after the token's issue."""
    version = commit_again(backend, make_token(age=2 * HOUR), form, form_again, rejected=True)

    begun = Caller(backend).begin(rejected_version=version)
    assert begun.last_error == "token-repeated"
    assert wait_of(begun) == pytest.approx(4 * 3600, abs=120)


def test_a_rejected_old_token_does_not_stop_calls_for_long(backend: Backend) -> None:
    """If KIS repeats a rejected token more than 6 h after its issue, the next caller may ask 61 s later."""
    version = commit_again(backend, make_token(age=7 * HOUR), rejected=True)

    assert 55 < wait_of(Caller(backend).begin(rejected_version=version)) <= 61


@pytest.mark.parametrize("row", ["none", "another token"])
def test_a_rejected_token_is_not_stored_when_it_comes_again(backend: Backend, row: str) -> None:
    """If KIS repeats the rejected token, the token is not stored, even if the row has another token."""
    there = make_token(left=5 * MINUTE)
    version = put_token(backend, there) if row == "another token" else None
    refused = make_token(age=2 * HOUR)
    caller = Caller(backend)
    caller.begin(rejected_token_id=refused.token_id)

    committed = caller.commit(refused, rejected=True)

    assert (committed.status, committed.version) == ("unchanged", version)
    assert stored_value(backend) == (there.to_json() if version else None)
    begun = Caller(backend).begin()
    assert begun.last_error == "token-repeated"
    assert wait_of(begun) == pytest.approx(4 * 3600, abs=120)


def test_a_rejected_token_is_remembered(backend: Backend) -> None:
    """Begin returns the rejected tokens to later callers, which can store another token, but not a rejected one."""
    refused, token = make_token(age=2 * HOUR), make_token()
    Caller(backend).begin(rejected_token_id=refused.token_id)
    backend.pass_time(71)
    caller = Caller(backend)
    begun = caller.begin()

    assert (begun.status, begun.rejected_token_ids) == ("granted", frozenset({refused.token_id}))
    assert caller.commit(refused, rejected=False).status == "unchanged"
    assert stored_value(backend) is None
    backend.pass_time(4 * 3600)
    caller = Caller(backend)
    assert caller.begin().rejected_token_ids == {refused.token_id}
    assert caller.commit(token, rejected=False).status == "committed"


def test_another_token_than_the_rejected_one_is_stored(backend: Backend) -> None:
    """If the new token is not the rejected one, commit stores the new token, even with ``rejected=True``."""
    refused, token = make_token(), make_token()
    put_token(backend, refused)
    caller = Caller(backend)
    caller.begin(rejected_token_id=refused.token_id)

    assert caller.commit(token, rejected=True).status == "committed"
    assert stored_value(backend) == token.to_json()


def test_five_callers_with_one_rejected_token_make_one_call(backend: Backend) -> None:
    """Five callers with the same rejected token make one tokenP call together, not one call a minute each."""
    token = make_token(age=HOUR)
    issue(backend, token)
    for _ in range(5):
        backend.pass_time(71)
        caller = Caller(backend)
        if caller.begin(rejected_token_id=token.token_id).status == "granted":
            assert caller.commit(token, rejected=True).status == "unchanged"

    assert backend.outcomes("kis") == ["granted", "committed", "granted", "unchanged"]


def test_a_token_stored_by_someone_else_is_known_again(backend: Backend, caller: Caller) -> None:
    """If KIS repeats a plain token that was stored without a lease, the row stays, and the slot remembers the token."""
    token = make_token(age=5 * HOUR, left=19 * HOUR)
    version = put_token(backend, token)

    committed = caller.commit(token)

    assert (committed.status, committed.version) == ("unchanged", version)
    assert Caller(backend).begin(min_remaining=24 * HOUR).status == "fresh"
    assert Caller(backend).begin(rejected_token_id=token.token_id).status == "busy"


def test_the_same_token_heals_an_unusable_row(backend: Backend, caller: Caller) -> None:
    """If the row has no end in its column, a commit writes the row again, even with the same token."""
    token = make_token()
    backend.put("kis", "access_token", token.to_json())

    assert caller.commit(token).status == "committed"
    row = stored(backend)
    assert row is not None
    assert parse_instant(row.expires_at) == token.expires_at
