"""A bound on a call, whatever it does."""

from __future__ import annotations

import threading

import pytest

from kis_token.limits import usable, within


def test_answer_is_handed_on() -> None:
    """What the call answers comes back, None included."""
    assert within(10, lambda: "answer") == "answer"
    assert within(10, lambda: None) is None


def test_error_is_handed_on() -> None:
    """What the call raises comes back as it is."""
    with pytest.raises(ZeroDivisionError):
        within(10, lambda: 1 // 0)


def test_call_that_takes_too_long_is_left_to_itself() -> None:
    """The caller goes on when the time is up, in the middle of whatever the call waits for."""
    never = threading.Event()
    with pytest.raises(TimeoutError):
        within(0.01, never.wait)
    never.set()


def test_call_is_not_begun_without_time() -> None:
    """With no time left nothing is asked: an answer would come too late to be of use."""
    called = []
    with pytest.raises(TimeoutError):
        within(0, lambda: called.append("called"))
    assert not called


@pytest.mark.parametrize(("timeout", "seconds"), [(180, 179), (5, 4), (1, 0.8)])
def test_part_of_a_timeout_is_kept(timeout: float, seconds: float) -> None:
    """One second is left for handing out, less where the timeout is very short."""
    assert usable(timeout) == seconds
