"""The time limit of a call."""

from __future__ import annotations

import socket
import threading

import pytest

from kis_token.deadline import Attempt, GivenUp, usable, within


def test_answer_is_handed_on() -> None:
    """`within` returns the call's result, also if the result is None."""
    assert within(10, lambda _: "answer") == "answer"
    assert within(10, lambda _: None) is None


def test_error_is_handed_on() -> None:
    """The call's exception is raised unchanged."""
    with pytest.raises(ZeroDivisionError):
        within(10, lambda _: 1 // 0)


def test_call_that_takes_too_long_is_left_to_itself() -> None:
    """When the time is over, the caller continues, even if the call still waits."""
    never = threading.Event()
    with pytest.raises(TimeoutError):
        within(0.01, lambda _: never.wait())
    never.set()


def test_call_is_not_begun_without_time() -> None:
    """With no time left the call does not begin, because its answer would come too late."""
    called = []
    with pytest.raises(TimeoutError):
        within(0, lambda _: called.append("called"))
    assert not called


def test_nothing_is_sent_after_the_caller_has_given_up() -> None:
    """If an attempt is given up before it sends, it does not send later, and GivenUp reports that nothing was sent."""
    may_send, done, sent = threading.Event(), threading.Event(), []

    def call(attempt: Attempt) -> None:
        try:
            may_send.wait()
            attempt.sending()
            sent.append("request")
        finally:
            done.set()

    with pytest.raises(GivenUp) as caught:
        within(0.01, call)
    may_send.set()
    assert done.wait(10)
    assert (caught.value.sent, sent) == (False, [])


def test_the_caller_knows_that_something_may_have_left() -> None:
    """If an attempt is given up after it began to send, GivenUp reports that a request may have left."""
    never = threading.Event()

    def call(attempt: Attempt) -> None:
        attempt.sending()
        never.wait()

    with pytest.raises(GivenUp) as caught:
        within(0.01, call)
    never.set()
    assert caught.value.sent


def test_an_exchange_that_is_given_up_ends() -> None:
    """A thread that waits for a byte on a watched connection stops waiting when the caller gives up."""
    ours, theirs = socket.socketpair()
    got: list[bytes] = []
    ended = threading.Event()

    def call(attempt: Attempt) -> None:
        attempt.watch(ours)
        got.append(ours.recv(1))
        ended.set()

    with ours, theirs:
        with pytest.raises(GivenUp):
            within(0.01, call)
        assert ended.wait(10)
    assert got == [b""]


def test_a_given_up_attempt_takes_no_connection() -> None:
    """After the attempt is given up, `watch` refuses a new connection, so that the caller closes the connection."""
    attempt = Attempt()
    attempt.give_up()
    ours, theirs = socket.socketpair()
    with ours, theirs, pytest.raises(GivenUp):
        attempt.watch(ours)


@pytest.mark.parametrize(("timeout", "seconds"), [(180, 179), (5, 4), (1, 0.8)])
def test_part_of_a_timeout_is_kept(timeout: float, seconds: float) -> None:
    """One second of the timeout is kept for the output, or less if the timeout is very short."""
    assert usable(timeout) == seconds
