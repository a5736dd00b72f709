"""Arguments that are refused: what every store promises."""

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
    """No call but a read takes a service that is not named by its rules; 63 characters are the most."""
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
    """A holder that is none is refused by every call that names one."""
    caller = Caller(backend)
    caller.holder = "me"
    calls: list[Callable[[], object]] = [caller.begin, lambda: caller.commit(make_token()), caller.abort]
    for call in calls:
        with pytest.raises(StoreMisconfigured):
            call()


def test_a_negative_min_remaining_is_refused(backend: Backend) -> None:
    """No token can be asked for that has less than no life left."""
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
def test_what_is_no_token_is_refused(backend: Backend, caller: Caller, form: str) -> None:
    """Commit and save take JSON with an access_token or an envelope; the turn goes on, and may end well."""
    with pytest.raises(StoreMisconfigured):
        caller.commit(make_token(), form)
    with pytest.raises(StoreMisconfigured):
        backend.store.save("kis", make_token(), form)
    assert stored(backend) is None
    assert caller.commit(make_token()).status == "committed"


def test_a_dead_token_is_refused(backend: Backend, caller: Caller) -> None:
    """Neither commit nor save stores a token that has ended."""
    dead = make_token(left=-SECOND)
    with pytest.raises(StoreMisconfigured):
        caller.commit(dead)
    with pytest.raises(StoreMisconfigured):
        backend.store.save("kis", dead, dead.to_json())
    assert stored(backend) is None


def test_a_token_from_the_future_is_refused(caller: Caller) -> None:
    """A clock may be wrong, but not by more than a day."""
    with pytest.raises(StoreMisconfigured):
        caller.commit(make_token(age=-25 * HOUR, left=48 * HOUR))
    assert caller.commit(make_token(age=-23 * HOUR, left=48 * HOUR)).status == "committed"


@pytest.mark.parametrize("cooldown", [-SECOND, HOUR + SECOND])
def test_a_senseless_cooldown_is_refused(backend: Backend, caller: Caller, cooldown: timedelta) -> None:
    """A cool-down below zero or above an hour is refused, and ends nothing."""
    with pytest.raises(StoreMisconfigured):
        caller.abort("EGW00133", cooldown)
    assert backend.outcomes("kis") == ["granted"]
