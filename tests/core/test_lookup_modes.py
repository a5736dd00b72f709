"""The first two links judged in the modes check, rotate and force."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

from kis_token.core.lookup import enough, look
from kis_token.errors import IssuanceError
from kis_token.store.sealing import PlainVault
from tests.core.lookup_harness import (
    HOUR,
    NO_RETRY,
    NOON,
    OUTAGE,
    TEN_MINUTES,
    StillClock,
    answering,
    living,
    seen,
    slot_of,
)
from tests.support import make_settings, make_token

if TYPE_CHECKING:
    from kis_token.config import Settings


def test_check_says_whose_clock_it_believed() -> None:
    """Check asks nobody else: without a Date the machine's clock has to do, and the answer says so."""
    found = enough(seen(slot_of(living(3 * HOUR), date=None)), make_settings(INPUT_MODE="check"))
    assert found is not None
    assert "clock was believed" in found.warnings[0]


def check() -> Settings:
    """Settings that never issue."""
    return make_settings(INPUT_MODE="check")


def rotate(**variables: str) -> Settings:
    """Settings of the nightly job."""
    return make_settings(INPUT_MODE="rotate", **variables)


def test_check_takes_the_longest_life() -> None:
    """Any living token will do; of store and cache the one that lives longer."""
    stored, cached = living(timedelta(minutes=1)), living(HOUR)
    found = enough(seen(slot_of(stored), cached), check())
    assert found is not None
    assert (found.source, found.token.token_id) == ("cache", cached.token_id)
    found = enough(seen(slot_of(stored)), check())
    assert found is not None
    assert found.source == "supabase"


def test_check_without_a_living_token_is_an_error() -> None:
    """It never issues, and says so."""
    with pytest.raises(IssuanceError) as caught:
        enough(seen(slot_of(living(-HOUR))), check())
    assert (caught.value.code, caught.value.retryable) == ("no-valid-token", False)


@pytest.mark.parametrize(
    ("mode", "age", "warned"),
    [
        ("resolve", 24 * HOUR, False),
        ("resolve", 25 * HOUR, False),
        ("resolve", 25 * HOUR + TEN_MINUTES, True),
        ("resolve", 72 * HOUR, True),
        ("rotate", 72 * HOUR, False),
        ("check", 72 * HOUR, False),
    ],
)
@pytest.mark.parametrize("lifetime", [24 * HOUR, 2160 * HOUR], ids=["a day", "90 days"])
def test_a_rotation_that_has_not_run_is_noticed(mode: str, age: timedelta, lifetime: timedelta, warned: bool) -> None:  # noqa: FBT001 - a table
    """Who resolves and finds a token, dead or alive, more than 2 h older than refresh-after is told of the rotation."""
    token = make_token(left=lifetime - age, age=age, now=NOON)
    slot = slot_of(token)

    view = look(make_settings(INPUT_MODE=mode), answering(slot), None, PlainVault(), StillClock(), retry=NO_RETRY)

    assert [f"The stored token is {age // HOUR} h old" in warning for warning in view.warnings] == [True] * warned


def test_rotate_leaves_a_young_token() -> None:
    """A token that is not due is handed out, and the log says when it will be."""
    found = enough(seen(slot_of(living(22 * HOUR))), rotate())
    assert found is not None
    assert found.trace[-1].source == "rotation"
    assert found.trace[-1].text.startswith("not due before 2026-03-0")


@pytest.mark.parametrize("left", [timedelta(minutes=59), timedelta(), -HOUR], ids=str)
def test_rotate_renews_what_is_due(left: timedelta) -> None:
    """A token of 23 hours, a dead one, or none: there is more to do."""
    assert enough(seen(slot_of(living(left))), rotate()) is None
    assert enough(seen(slot_of(None)), rotate()) is None
    assert enough(seen(OUTAGE, living(3 * HOUR)), rotate()) is None


def test_force_is_never_content() -> None:
    """Whatever there is, it is to be replaced."""
    assert enough(seen(slot_of(living(23 * HOUR))), make_settings(INPUT_MODE="force")) is None
