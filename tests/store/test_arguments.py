"""Invalid arguments: tests that every store passes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from kis_token.errors import StoreMisconfigured
from tests.store.backends import (
    SECOND,
    Caller,
    stored,
)
from tests.support import HOUR, make_token

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import timedelta

    from tests.store.backends import Backend


@pytest.mark.parametrize("service", ["", "-kis", "kis paper", "한국", "k" * 64, "kis\n", "kis/../x"])
def test_a_malformed_service_is_refused(backend: Backend, service: str) -> None:
    """Every call except a read refuses an invalid service name; a name has at most 63 characters."""
    token = make_token()
    caller = Caller(backend, service=service)
    calls: list[Callable[[], object]] = [
        caller.begin,
        lambda: caller.commit(token),
        caller.abort,
        lambda: backend.store.save(service, token, token.to_json()),
    ]
    for call in calls:
        with pytest.raises(StoreMisconfigured) as caught:
            call()
        assert (caught.value.code, caught.value.retryable) == ("store-rejected", False)
    assert Caller(backend, service="k" * 63).begin().status == "granted"


def test_a_holder_is_a_uuid(backend: Backend) -> None:
    """Every call with a holder refuses a holder id that is not a UUID."""
    caller = Caller(backend)
    caller.holder = "me"
    calls: list[Callable[[], object]] = [caller.begin, lambda: caller.commit(make_token()), caller.abort]
    for call in calls:
        with pytest.raises(StoreMisconfigured):
            call()


def test_a_negative_min_remaining_is_refused(backend: Backend) -> None:
    """Begin refuses a negative min_remaining."""
    with pytest.raises(StoreMisconfigured):
        Caller(backend).begin(min_remaining=-SECOND)
    assert backend.outcomes("kis") == []


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
def test_an_invalid_token_is_refused(backend: Backend, caller: Caller, form: str) -> None:
    """Commit and save refuse a value that is neither JSON with an access_token nor an envelope; the lease continues."""
    with pytest.raises(StoreMisconfigured):
        caller.commit(make_token(), form)
    with pytest.raises(StoreMisconfigured):
        backend.store.save("kis", make_token(), form)
    assert stored(backend) is None
    assert caller.commit(make_token()).status == "committed"


def test_an_expired_token_is_refused(backend: Backend, caller: Caller) -> None:
    """Neither commit nor save stores an expired token."""
    expired = make_token(left=-SECOND)
    with pytest.raises(StoreMisconfigured):
        caller.commit(expired)
    with pytest.raises(StoreMisconfigured):
        backend.store.save("kis", expired, expired.to_json())
    assert stored(backend) is None


def test_a_token_from_the_future_is_refused(caller: Caller) -> None:
    """A token's issue time may be ahead, because clocks differ, but not by more than a day."""
    with pytest.raises(StoreMisconfigured):
        caller.commit(make_token(age=-25 * HOUR, left=48 * HOUR))
    assert caller.commit(make_token(age=-23 * HOUR, left=48 * HOUR)).status == "committed"


@pytest.mark.parametrize("cooldown", [-SECOND, HOUR + SECOND])
def test_an_invalid_cooldown_is_refused(backend: Backend, caller: Caller, cooldown: timedelta) -> None:
    """A cool-down below zero or above an hour is refused, and ends no lease."""
    with pytest.raises(StoreMisconfigured):
        caller.abort("EGW00133", cooldown)
    assert backend.outcomes("kis") == ["granted"]
