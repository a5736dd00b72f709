"""Whether the tokens of store and cache are enough in the modes check, rotate and force."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

from kis_token.core.lookup import enough, look
from kis_token.core.slot import PlainVault
from kis_token.errors import IssuanceError
from tests.core.lookup_harness import (
    HOUR,
    NO_RETRY,
    NOON,
    OUTAGE,
    TEN_MINUTES,
    StillClock,
    answering,
    seen,
    slot_of,
    token_with,
)
from tests.support import make_settings, make_token

if TYPE_CHECKING:
    from kis_token.config import Settings


def test_check_warns_of_the_machine_s_clock() -> None:
    """If the answer has no Date, `check` uses the machine's clock, and a warning says so."""
    found = enough(seen(slot_of(token_with(3 * HOUR), date=None)), make_settings(INPUT_MODE="check"))
    assert found is not None
    assert "clock was used" in found.warnings[0]


def check() -> Settings:
    """Settings of the mode check, which never issues."""
    return make_settings(INPUT_MODE="check")


def rotate(**variables: str) -> Settings:
    """Settings of the mode rotate."""
    return make_settings(INPUT_MODE="rotate", **variables)


def test_check_takes_the_latest_end() -> None:
    """`check` accepts any valid token, and returns the one with the later end."""
    stored, cached = token_with(timedelta(minutes=1)), token_with(HOUR)
    found = enough(seen(slot_of(stored), cached), check())
    assert found is not None
    assert (found.source, found.token.token_id) == ("cache", cached.token_id)
    found = enough(seen(slot_of(stored)), check())
    assert found is not None
    assert found.source == "supabase"


def test_check_without_a_valid_token_is_an_error() -> None:
    """If no token is valid, `check` raises an error that is not retryable."""
    with pytest.raises(IssuanceError) as caught:
        enough(seen(slot_of(token_with(-HOUR))), check())
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
    """`resolve` warns if the token is more than 2 h older than refresh-after, because then no rotation has run."""
    token = make_token(left=lifetime - age, age=age, now=NOON)
    slot = slot_of(token)

    view = look(make_settings(INPUT_MODE=mode), answering(slot), None, PlainVault(), StillClock(), retry=NO_RETRY)

    assert [f"The stored token is {age // HOUR} h old" in warning for warning in view.warnings] == [True] * warned


def test_rotate_leaves_a_young_token() -> None:
    """`rotate` hands out a token that is not due; the trace has the time from which it is due."""
    found = enough(seen(slot_of(token_with(22 * HOUR))), rotate())
    assert found is not None
    assert found.trace[-1].source == "rotation"
    assert found.trace[-1].text.startswith("not due before 2026-03-0")


@pytest.mark.parametrize("left", [timedelta(minutes=59), timedelta(), -HOUR], ids=str)
def test_rotate_renews_a_token_that_is_due(left: timedelta) -> None:
    """`rotate` replaces a token that is 23 hours old, an expired one, and a missing one."""
    assert enough(seen(slot_of(token_with(left))), rotate()) is None
    assert enough(seen(slot_of(None)), rotate()) is None
    assert enough(seen(OUTAGE, token_with(3 * HOUR)), rotate()) is None


def test_force_replaces_any_token() -> None:
    """`force` replaces any token."""
    assert enough(seen(slot_of(token_with(23 * HOUR))), make_settings(INPUT_MODE="force")) is None
