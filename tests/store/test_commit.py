"""Ending a turn with a token: what every store promises, and when the next may ask."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from kis_token.token import parse_instant
from tests.store.backends import SEALED, SEALED_AGAIN, Contender, issue, put_token, stored, stored_value, wait_of
from tests.support import HOUR, MINUTE, make_token

if TYPE_CHECKING:
    from kis_token.token import Token
    from tests.store.backends import Ground


def test_a_commit_stores_the_token(ground: Ground, contender: Contender) -> None:
    """The row holds the token until its end, and the turn is over."""
    token = make_token()

    committed = contender.commit(token)

    row = stored(ground)
    assert row is not None
    assert (row.value, parse_instant(row.expires_at)) == (token.to_json(), token.expires_at)
    assert (committed.status, committed.version, committed.value) == ("committed", row.version, None)
    assert parse_instant(committed.expires_at) == token.expires_at
    assert Contender(ground).begin().status == "fresh"
    assert ground.outcomes("kis") == ["granted", "committed"]


def test_a_commit_replaces_what_was_there(ground: Ground) -> None:
    """What was there before the turn has no say, even with a later expiry: its issuer knew of it."""
    version = put_token(ground, make_token(left=48 * HOUR))
    contender = Contender(ground)
    contender.begin(rejected_version=version)
    token = make_token()

    committed = contender.commit(token)

    assert committed.status == "committed"
    assert (committed.version or 0) > version
    assert stored_value(ground) == token.to_json()


@pytest.mark.parametrize("is_same", [True, False], ids=["the same token", "another"])
def test_a_commit_brings_an_inactive_row_back(ground: Ground, is_same: bool) -> None:  # noqa: FBT001 - a table
    """A token row that was set to inactive is active again, even with the same token."""
    token = make_token()
    put_token(ground, token if is_same else make_token(), active=False)
    assert stored(ground) is None

    issue(ground, token)

    assert stored_value(ground) == token.to_json()


@pytest.mark.parametrize(("form", "form_again"), [(None, None), (SEALED, SEALED_AGAIN)], ids=["plain", "sealed"])
def test_a_replayed_commit_is_committed_once(
    ground: Ground, contender: Contender, form: str | None, form_again: str | None
) -> None:
    """Sent again because its answer was lost, a commit says the same and changes nothing, not even another seal."""
    token = make_token()
    first = contender.commit(token, form)
    before = stored(ground)

    assert contender.commit(token, form_again) == first
    assert first.status == "committed"
    assert stored(ground) == before
    assert ground.outcomes("kis") == ["granted", "committed"]


def test_another_token_is_no_replay(ground: Ground, contender: Contender) -> None:
    """A second, different token under a fence that is used up is fenced."""
    token = make_token()
    contender.commit(token)

    committed = contender.commit(make_token())

    assert (committed.status, committed.value) == ("fenced", token.to_json())
    assert stored_value(ground) == token.to_json()


def test_a_replay_is_of_the_last_turn(ground: Ground, contender: Contender) -> None:
    """Once another turn has begun and ended, a commit of the turn before is fenced even with its own token."""
    token = make_token()
    version = contender.commit(token).version
    ground.pass_time(71)
    successor = Contender(ground)
    successor.begin(rejected_version=version)
    successor.abort()

    assert contender.commit(token).status == "fenced"


def test_a_holder_that_slept_through_its_lease_is_fenced(ground: Ground, contender: Contender) -> None:
    """Once another has been granted, the old fence stores nothing, and takes nothing from the new holder."""
    ground.pass_time(71)
    successor = Contender(ground)
    successor.begin()

    committed = contender.commit(make_token())

    assert (committed.status, committed.value, committed.version) == ("fenced", None, None)
    assert stored(ground) is None
    token = make_token()
    assert successor.commit(token).status == "committed"
    late = contender.commit(make_token())
    assert (late.status, late.value) == ("fenced", token.to_json())
    assert ground.outcomes("kis") == ["granted", "granted", "committed"]


def test_a_wrong_fence_or_holder_is_fenced(ground: Ground, contender: Contender) -> None:
    """Who cannot name both fence and holder of the present grant stores nothing and ends nothing."""
    stranger = Contender(ground)
    stranger.fence = contender.fence
    assert stranger.commit(make_token()).status == "fenced"
    contender.fence += 1
    assert contender.commit(make_token()).status == "fenced"
    contender.fence -= 1

    assert stored(ground) is None
    assert contender.commit(make_token()).status == "committed"


def test_without_any_grant_nothing_is_stored(ground: Ground) -> None:
    """On a slot that nobody has begun, a commit is fenced."""
    assert Contender(ground).commit(make_token()).status == "fenced"
    assert stored(ground) is None
    assert ground.outcomes("kis") == []


def test_a_newer_token_of_someone_else_stays(ground: Ground, contender: Contender) -> None:
    """A token stored meanwhile without a lease, with a later expiry, wins; the turn is over all the same."""
    newer = make_token(left=24 * HOUR)
    version = put_token(ground, newer)

    committed = contender.commit(make_token(left=23 * HOUR))

    assert (committed.status, committed.value, committed.version) == ("fenced", newer.to_json(), version)
    assert parse_instant(committed.expires_at) == newer.expires_at
    assert stored_value(ground) == newer.to_json()
    assert 60 < wait_of(Contender(ground).begin(rejected_version=version)) <= 70
    assert ground.outcomes("kis") == ["granted", "fenced"]


def test_an_older_token_of_someone_else_is_replaced(ground: Ground, contender: Contender) -> None:
    """A token stored meanwhile that ends sooner than the new one does not stay."""
    put_token(ground, make_token(left=HOUR))
    token = make_token()

    assert contender.commit(token).status == "committed"
    assert stored_value(ground) == token.to_json()


def test_an_expired_lease_may_commit_when_nobody_took_over(ground: Ground, contender: Contender) -> None:
    """Late but alone: the token is as good as any, and storing it spares another call."""
    ground.pass_time(3600)
    token = make_token()

    version = contender.commit(token).version

    assert stored_value(ground) == token.to_json()
    assert 55 < wait_of(Contender(ground).begin(rejected_version=version)) <= 61
    assert ground.outcomes("kis") == ["granted", "committed"]


# KIS gave the token again that is stored, or that was rejected


def commit_again(
    ground: Ground, token: Token, form: str | None = None, form_again: str | None = None, *, rejected: bool = False
) -> int:
    """Issue a token, let the next turn end with the same token; the version, which did not change."""
    version = issue(ground, token, form)
    ground.pass_time(71)
    contender = Contender(ground)
    contender.begin(rejected_version=version)
    committed = contender.commit(token, form_again, rejected=rejected)
    assert (committed.status, committed.version, committed.value) == ("unchanged", version, None)
    assert ground.outcomes("kis") == ["granted", "committed", "granted", "unchanged"]
    return version


@pytest.mark.parametrize(("form", "form_again"), [(None, None), (SEALED, SEALED_AGAIN)], ids=["plain", "sealed"])
def test_the_same_token_changes_nothing(ground: Ground, form: str | None, form_again: str | None) -> None:
    """The row stays as it was, sealed or not; 61 s later the next may ask."""
    token = make_token()
    version = commit_again(ground, token, form, form_again)

    assert stored_value(ground) == (form or token.to_json())
    begun = Contender(ground).begin(rejected_version=version)
    assert 55 < wait_of(begun) <= 61
    assert begun.last_error is None


@pytest.mark.parametrize(("form", "form_again"), [(None, None), (SEALED, SEALED_AGAIN)], ids=["plain", "sealed"])
def test_a_rejected_token_that_comes_again_stops_all_calls(
    ground: Ground, form: str | None, form_again: str | None
) -> None:
    """When the API refuses the token and KIS repeats it, nobody asks until 6 h after its issue, and is told why."""
    version = commit_again(ground, make_token(age=2 * HOUR), form, form_again, rejected=True)

    begun = Contender(ground).begin(rejected_version=version)
    assert begun.last_error == "token-repeated"
    assert wait_of(begun) == pytest.approx(4 * 3600, abs=120)


def test_a_rejected_old_token_does_not_stop_calls_for_long(ground: Ground) -> None:
    """A repeated token issued more than 6 h ago holds the next call up for 61 s only."""
    version = commit_again(ground, make_token(age=7 * HOUR), rejected=True)

    assert 55 < wait_of(Contender(ground).begin(rejected_version=version)) <= 61


@pytest.mark.parametrize("row", ["none", "another token"])
def test_a_rejected_token_is_not_stored_when_it_comes_again(ground: Ground, row: str) -> None:
    """The token that the turn is to replace is not handed to others as new, though the row does not hold it."""
    there = make_token(left=5 * MINUTE)
    version = put_token(ground, there) if row == "another token" else None
    refused = make_token(age=2 * HOUR)
    contender = Contender(ground)
    contender.begin(rejected_token_id=refused.token_id)

    committed = contender.commit(refused, rejected=True)

    assert (committed.status, committed.version) == ("unchanged", version)
    assert stored_value(ground) == (there.to_json() if version else None)
    begun = Contender(ground).begin()
    assert begun.last_error == "token-repeated"
    assert wait_of(begun) == pytest.approx(4 * 3600, abs=120)


def test_a_rejected_token_is_remembered(ground: Ground) -> None:
    """Later callers who never heard of the refusal are told of it, may not store that token either, but another."""
    refused, token = make_token(age=2 * HOUR), make_token()
    Contender(ground).begin(rejected_token_id=refused.token_id)
    ground.pass_time(71)
    contender = Contender(ground)
    begun = contender.begin()

    assert (begun.status, begun.rejected_token_ids) == ("granted", frozenset({refused.token_id}))
    assert contender.commit(refused, rejected=False).status == "unchanged"
    assert stored_value(ground) is None
    ground.pass_time(4 * 3600)
    contender = Contender(ground)
    assert contender.begin().rejected_token_ids == {refused.token_id}
    assert contender.commit(token, rejected=False).status == "committed"


def test_another_token_than_the_rejected_one_is_stored(ground: Ground) -> None:
    """A turn that is to replace a refused token does so, whatever the caller says of rejecting."""
    refused, token = make_token(), make_token()
    put_token(ground, refused)
    contender = Contender(ground)
    contender.begin(rejected_token_id=refused.token_id)

    assert contender.commit(token, rejected=True).status == "committed"
    assert stored_value(ground) == token.to_json()


def test_five_rejecters_of_one_dead_token_make_one_call(ground: Ground) -> None:
    """Callers that all find the stored token refused do not each make a call, minute after minute."""
    token = make_token(age=HOUR)
    issue(ground, token)
    for _ in range(5):
        ground.pass_time(71)
        contender = Contender(ground)
        if contender.begin(rejected_token_id=token.token_id).status == "granted":
            assert contender.commit(token, rejected=True).status == "unchanged"

    assert ground.outcomes("kis") == ["granted", "committed", "granted", "unchanged"]


def test_a_token_stored_by_someone_else_is_known_again(ground: Ground, contender: Contender) -> None:
    """Also a plain row that was written without a lease is recognised; from then on the lease knows it."""
    token = make_token(age=5 * HOUR, left=19 * HOUR)
    version = put_token(ground, token)

    committed = contender.commit(token)

    assert (committed.status, committed.version) == ("unchanged", version)
    assert Contender(ground).begin(min_remaining=24 * HOUR).status == "fresh"
    assert Contender(ground).begin(rejected_token_id=token.token_id).status == "busy"


def test_the_same_token_heals_an_unusable_row(ground: Ground, contender: Contender) -> None:
    """A row that does not say when it ends is written anew even with the same token."""
    token = make_token()
    ground.put("kis", "access_token", token.to_json())

    assert contender.commit(token).status == "committed"
    row = stored(ground)
    assert row is not None
    assert parse_instant(row.expires_at) == token.expires_at
