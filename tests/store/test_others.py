"""Ending a turn without a token, storing without a turn, reading, and nonsense: what every store promises."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

from kis_token.errors import StoreMisconfigured
from kis_token.token import parse_instant
from tests.store.backends import (
    CORRECTED,
    SEALED,
    SEALED_AGAIN,
    SECOND,
    Contender,
    issue,
    put_token,
    reject,
    stored,
    stored_value,
    wait_of,
)
from tests.support import APP_KEY, HOUR, MINUTE, make_token, utc_now

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.store.backends import Ground


@contextmanager
def taking_no_rows(ground: Ground) -> Iterator[None]:
    """The table takes no rows in the block."""
    ground.take_rows(does=False)
    try:
        yield
    finally:
        ground.take_rows(does=True)


# a table that takes no rows


@pytest.mark.parametrize("is_stored", [True, False], ids=["a dead token", "no token"])
def test_nothing_is_granted_where_nothing_can_be_stored(ground: Ground, *, is_stored: bool) -> None:
    """Begin ends in an error, leaves no turn behind, and grants as soon as the table takes rows."""
    version = put_token(ground, make_token(left=-MINUTE)) if is_stored else None
    with taking_no_rows(ground):
        for _ in range(2):
            with pytest.raises(StoreMisconfigured) as caught:
                Contender(ground).begin()
            assert caught.value.code == "store-cannot-store"

    row = stored(ground)
    assert (None if row is None else row.version, ground.outcomes("kis")) == (version, [])
    begun = Contender(ground).begin()
    assert (begun.status, begun.fence, begun.version) == ("granted", 1, version)


def test_only_a_grant_needs_the_table(ground: Ground) -> None:
    """A fresh token, another caller's turn and a repeated begin are answered although the table takes no rows."""
    contender = Contender(ground)
    contender.begin()
    with taking_no_rows(ground):
        assert (contender.begin().status, Contender(ground).begin().status) == ("granted", "busy")
    contender.commit(make_token())
    with taking_no_rows(ground):
        assert Contender(ground).begin().status == "fresh"


def test_a_turn_can_end_without_the_table(ground: Ground, contender: Contender) -> None:
    """A commit that the table refuses leaves the turn to its holder, whose abort ends it with the reason."""
    with taking_no_rows(ground):
        with pytest.raises(StoreMisconfigured) as caught:
            contender.commit(make_token())
        assert caught.value.code == "store-cannot-store"
        contender.abort("store-cannot-store", 61 * SECOND)

    begun = Contender(ground).begin()
    assert (begun.last_error, begun.holder_label) == ("store-cannot-store", None)
    assert ground.outcomes("kis") == ["granted", "aborted"]


def test_a_save_that_the_table_refuses(ground: Ground) -> None:
    """It is the same error, and nothing is noted."""
    token = make_token()
    with taking_no_rows(ground), pytest.raises(StoreMisconfigured) as caught:
        ground.store.save("kis", token, token.to_json())

    assert (caught.value.code, ground.outcomes("kis")) == ("store-cannot-store", [])


# abort


def test_an_abort_gives_the_turn_back(ground: Ground, contender: Contender) -> None:
    """After an abort without a cool-down the next is granted at once, and is told of the error."""
    contender.abort("out-of-time", timedelta())

    begun = Contender(ground).begin()
    assert (begun.status, begun.fence, begun.last_error) == ("granted", 2, "out-of-time")
    assert ground.outcomes("kis") == ["granted", "aborted", "granted"]


def test_an_abort_may_keep_everyone_waiting(ground: Ground, contender: Contender) -> None:
    """With a cool-down nobody is granted before it is over, whatever credential is tried."""
    contender.abort("EGW00133", 2 * MINUTE)

    begun = Contender(ground, app_key=CORRECTED).begin()
    assert (begun.last_error, begun.holder_label) == ("EGW00133", None)
    assert 110 < wait_of(begun) <= 120
    ground.pass_time(121)
    assert Contender(ground).begin().status == "granted"


def test_a_long_error_code_is_cut(ground: Ground, contender: Contender) -> None:
    """An error code of any length is kept to 100 characters."""
    contender.abort("x" * 999)

    assert Contender(ground).begin().last_error == "x" * 100


def test_a_refused_credential_cools_down(ground: Ground, contender: Contender) -> None:
    """For 15 minutes the very key and secret that KIS refused are not tried again, and the answer says why."""
    contender.abort("EGW00105", timedelta(), refused=APP_KEY)

    begun = Contender(ground).begin()

    assert (begun.last_error, begun.holder_label) == ("EGW00105", None)
    assert 890 < wait_of(begun) <= 900
    ground.pass_time(901)
    assert Contender(ground).begin().status == "granted"


def test_a_corrected_secret_is_not_held_up(ground: Ground, contender: Contender) -> None:
    """The cool-down is the refused credential's alone: a corrected secret is granted at once."""
    contender.abort("EGW00105", timedelta(), refused=APP_KEY)

    assert Contender(ground, app_key=CORRECTED).begin().status == "granted"


def test_a_refusal_outlives_another_error(ground: Ground, contender: Contender) -> None:
    """An outage with one credential does not lift the cool-down of another."""
    contender.abort("EGW00105", timedelta(), refused=APP_KEY)
    corrected = Contender(ground, app_key=CORRECTED)
    corrected.begin()
    corrected.abort("kis-unreachable", timedelta())

    begun = Contender(ground).begin()
    assert begun.last_error == "kis-unreachable"
    assert 880 < wait_of(begun) <= 900


def test_a_good_commit_forgets_the_refusal(ground: Ground, contender: Contender) -> None:
    """After a token was issued, no credential is held up and no error is shown any more."""
    contender.abort("EGW00105", timedelta(), refused=APP_KEY)
    corrected = Contender(ground, app_key=CORRECTED)
    corrected.begin()
    version = corrected.commit(make_token()).version
    ground.pass_time(71)

    begun = Contender(ground).begin(rejected_version=version)
    assert (begun.status, begun.last_error) == ("granted", None)


def test_only_the_holder_may_abort(ground: Ground, contender: Contender) -> None:
    """Who cannot name both fence and holder ends nothing."""
    stranger = Contender(ground)
    stranger.fence = contender.fence
    stranger.abort()
    contender.fence += 1
    contender.abort()
    contender.fence -= 1

    assert ground.outcomes("kis") == ["granted"]
    assert contender.commit(make_token()).status == "committed"


def test_an_abort_happens_once(ground: Ground, contender: Contender) -> None:
    """An abort after the turn's end does nothing."""
    contender.abort("EGW00133", timedelta())
    contender.abort("EGW00133", HOUR)

    assert Contender(ground).begin().status == "granted"
    assert ground.outcomes("kis") == ["granted", "aborted", "granted"]


def test_an_abort_keeps_the_token(ground: Ground) -> None:
    """A failed renewal leaves the stored token and what is known of it as they were."""
    token = make_token()
    version = issue(ground, token, SEALED)
    ground.pass_time(71)
    contender = Contender(ground)
    contender.begin(rejected_version=version)
    contender.abort("kis-unreachable", timedelta())

    row = stored(ground)
    assert row is not None
    assert (row.value, row.version) == (SEALED, version)
    assert Contender(ground).begin(rejected_token_id=token.token_id).status == "granted"


# save


def test_a_first_token_is_saved(ground: Ground) -> None:
    """On an empty slot a token issued elsewhere is stored."""
    token = make_token()

    ground.store.save("kis", token, token.to_json())

    assert stored_value(ground) == token.to_json()
    assert ground.outcomes("kis") == ["saved"]


@pytest.mark.parametrize("left", [22 * HOUR, 23 * HOUR, 24 * HOUR], ids=["older", "as old", "newer"])
def test_the_later_expiry_is_kept(ground: Ground, left: timedelta) -> None:
    """A token replaces the stored one only when it ends later, also while someone has a turn."""
    there = make_token(left=23 * HOUR)
    token = replace(make_token(), expires_at=there.expires_at + left - 23 * HOUR)
    Contender(ground).begin()
    put_token(ground, there)

    ground.store.save("kis", token, token.to_json())

    is_saved = token.expires_at > there.expires_at
    assert stored_value(ground) == (token if is_saved else there).to_json()
    assert ground.outcomes("kis") == ["granted", *(["saved"] if is_saved else [])]


def test_a_named_version_is_replaced(ground: Ground) -> None:
    """Whoever names the version it replaces may store a token that ends sooner; with another version not."""
    there, sooner = make_token(), make_token(left=HOUR)
    version = put_token(ground, there)

    ground.store.save("kis", sooner, sooner.to_json(), replaces_version=version - 1)
    assert stored_value(ground) == there.to_json()
    ground.store.save("kis", sooner, sooner.to_json(), replaces_version=version)
    assert stored_value(ground) == sooner.to_json()


@pytest.mark.parametrize("active", [True, False], ids=["without an end", "inactive"])
def test_a_row_without_use_is_replaced(ground: Ground, active: bool) -> None:  # noqa: FBT001 - a table
    """A row that is inactive or does not say when it ends gives way, and is active afterwards."""
    there, token = make_token(), make_token(left=HOUR)
    ground.put("kis", "access_token", there.to_json(), None if active else there.expires_at, active=active)

    ground.store.save("kis", token, token.to_json())

    assert stored_value(ground) == token.to_json()


def test_a_saved_token_is_not_taken_for_the_leases(ground: Ground) -> None:
    """After someone saved another token, what the lease remembers of its own is not said of that."""
    token = make_token()
    issue(ground, token, SEALED)
    ground.pass_time(71)
    ground.store.save("kis", make_token(left=25 * HOUR), SEALED_AGAIN)

    assert Contender(ground).begin(rejected_token_id=token.token_id).status == "fresh"
    assert Contender(ground).begin(min_remaining=26 * HOUR).status == "granted"


@pytest.mark.parametrize("stored_form", [None, SEALED], ids=["plain", "sealed"])
def test_a_rejected_token_is_not_saved(ground: Ground, stored_form: str | None) -> None:
    """A token that is remembered as rejected is not stored without a turn either; another is, and by another slot."""
    rejected, other = make_token(), make_token()
    put_token(ground, rejected, active=False)
    reject(ground, rejected)

    assert ground.store.save("kis", rejected, stored_form or rejected.to_json()) is False
    assert stored_value(ground) is None
    assert ground.store.save("kis", other, stored_form or other.to_json()) is True
    assert stored_value(ground) == (stored_form or other.to_json())
    assert ground.store.save("kis-second", rejected, stored_form or rejected.to_json()) is True
    assert stored_value(ground, "kis-second") == (stored_form or rejected.to_json())


# read, and versions


def test_a_read_tells_which_tokens_are_rejected(ground: Ground) -> None:
    """All that a slot remembers come with its rows, and not as one of them; another slot has its own."""
    rejected = [make_token() for _ in range(3)]
    for token in rejected:
        reject(ground, token)
    slot = ground.store.read("kis")

    assert slot.rejected == {token.token_id for token in rejected}
    assert slot.rows == {}
    assert ground.store.read("kis-second").rejected == frozenset()


def test_a_slot_is_read_whole(ground: Ground) -> None:
    """A read shows the active rows of the slot's key, secret and token as they are stored, and the time."""
    token = make_token()
    versions = [
        ground.put("kis", "app_key", APP_KEY.key),
        ground.put("kis", "app_secret", SEALED),
        put_token(ground, token),
    ]
    ground.put("kis", "webhook", "another type")
    ground.put("kis-second", "app_key", "another slot")

    slot = ground.store.read("kis")

    shown = {name: (row.value, row.version) for name, row in slot.rows.items()}
    assert shown == {
        "app_key": (APP_KEY.key, versions[0]),
        "app_secret": (SEALED, versions[1]),
        "access_token": (token.to_json(), versions[2]),
    }
    assert slot.rows["app_key"].expires_at is None
    assert parse_instant(slot.rows["access_token"].expires_at) == token.expires_at
    assert slot.server_now is not None
    assert abs(slot.server_now - utc_now()) < MINUTE


def test_only_active_rows_are_read(ground: Ground) -> None:
    """An inactive row counts as absent, and so does a slot that nobody knows."""
    ground.put("kis", "app_key", APP_KEY.key, active=False)
    put_token(ground, make_token(), active=False)

    assert ground.store.read("kis").rows == ground.store.read("nobody's").rows == {}


def test_versions_grow_with_every_change(ground: Ground) -> None:
    """Value, end and activity each make another version, larger than any before; the same again does not."""
    end = make_token().expires_at
    first = ground.put("kis", "access_token", "{}", end)
    assert ground.put("kis", "access_token", "{}", end) == first
    elsewhere = ground.put("kis-second", "access_token", "{}", end)

    value = ground.put("kis", "access_token", "[]", end)
    moved = ground.put("kis", "access_token", "[]", end + SECOND)
    inactive = ground.put("kis", "access_token", "[]", end + SECOND, active=False)
    active = ground.put("kis", "access_token", "[]", end + SECOND)

    assert first < elsewhere < value < moved < inactive < active


# nonsense


@pytest.mark.parametrize("service", ["", "-kis", "kis paper", "한국", "k" * 64, "kis\n", "kis/../x"])
def test_a_malformed_service_is_refused(ground: Ground, service: str) -> None:
    """No call but a read takes a service that is not named by its rules; 63 characters are the most."""
    token = make_token()
    contender = Contender(ground, service=service)
    calls: list[Callable[[], object]] = [
        contender.begin,
        lambda: contender.commit(token),
        contender.abort,
        lambda: ground.store.save(service, token, token.to_json()),
    ]
    for call in calls:
        with pytest.raises(StoreMisconfigured) as caught:
            call()
        assert (caught.value.code, caught.value.retryable) == ("store-rejected", False)
    assert Contender(ground, service="k" * 63).begin().status == "granted"


def test_a_holder_is_a_uuid(ground: Ground) -> None:
    """A holder that is none is refused by every call that names one."""
    contender = Contender(ground)
    contender.holder = "me"
    calls: list[Callable[[], object]] = [contender.begin, lambda: contender.commit(make_token()), contender.abort]
    for call in calls:
        with pytest.raises(StoreMisconfigured):
            call()


def test_a_negative_min_remaining_is_refused(ground: Ground) -> None:
    """No token can be asked for that has less than no life left."""
    with pytest.raises(StoreMisconfigured):
        Contender(ground).begin(min_remaining=-SECOND)
    assert ground.outcomes("kis") == []


@pytest.mark.parametrize(
    "form",
    [
        "",
        "{",
        "eyJ0eXAiOiJKV1QifQ.e30.c2ln",
        '{"access_token": null}',
        '{"access_token": ""}',
        '{"access_token": 5}',
        '["access_token"]',
        '"access_token"',
        "enc:v1:",
        "enc:v1:a:b c",
        "enc:v1:a:b:c",
    ],
)
def test_what_is_no_token_is_refused(ground: Ground, contender: Contender, form: str) -> None:
    """Commit and save take JSON with an access_token or an envelope; the turn goes on, and may end well."""
    with pytest.raises(StoreMisconfigured):
        contender.commit(make_token(), form)
    with pytest.raises(StoreMisconfigured):
        ground.store.save("kis", make_token(), form)
    assert stored(ground) is None
    assert contender.commit(make_token()).status == "committed"


def test_a_dead_token_is_refused(ground: Ground, contender: Contender) -> None:
    """Neither commit nor save stores a token that has ended."""
    dead = make_token(left=-SECOND)
    with pytest.raises(StoreMisconfigured):
        contender.commit(dead)
    with pytest.raises(StoreMisconfigured):
        ground.store.save("kis", dead, dead.to_json())
    assert stored(ground) is None


def test_a_token_from_the_future_is_refused(contender: Contender) -> None:
    """A clock may be wrong, but not by more than a day."""
    with pytest.raises(StoreMisconfigured):
        contender.commit(make_token(age=-25 * HOUR, left=48 * HOUR))
    assert contender.commit(make_token(age=-23 * HOUR, left=48 * HOUR)).status == "committed"


@pytest.mark.parametrize("cooldown", [-SECOND, HOUR + SECOND])
def test_a_senseless_cooldown_is_refused(ground: Ground, contender: Contender, cooldown: timedelta) -> None:
    """A cool-down below zero or above an hour is refused, and ends nothing."""
    with pytest.raises(StoreMisconfigured):
        contender.abort("EGW00133", cooldown)
    assert ground.outcomes("kis") == ["granted"]


def test_a_token_of_changed_keys_is_not_stored(ground: Ground) -> None:
    """What belongs to the keys before does not get into the slot without a turn either."""
    before = ground.put("kis", "app_key", "PSbefore")
    now = ground.put("kis", "app_key", "PSnow")
    token = make_token()

    ground.store.save("kis", token, token.to_json(), keys_version=before)
    assert stored(ground) is None
    assert ground.outcomes("kis") == []

    ground.store.save("kis", token, token.to_json(), keys_version=now)
    assert stored_value(ground) == token.to_json()
