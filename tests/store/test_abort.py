"""Ending a lease without a token: what every store promises."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

from tests.store.backends import (
    CORRECTED,
    SEALED,
    Contender,
    issue,
    stored,
    wait_of,
)
from tests.support import APP_KEY, HOUR, MINUTE, make_token

if TYPE_CHECKING:
    from tests.store.backends import Ground


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
