"""Ending a lease without a token: tests that every store passes."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

from tests.store.backends import (
    CORRECTED,
    SEALED,
    Caller,
    issue,
    stored,
    wait_of,
)
from tests.support import APP_KEY, HOUR, MINUTE, make_token

if TYPE_CHECKING:
    from tests.store.backends import Backend


def test_an_abort_gives_the_lease_back(backend: Backend, caller: Caller) -> None:
    """After an abort without a cool-down, the next caller gets the lease at once, and the answer has the last error."""
    caller.abort("out-of-time", timedelta())

    begun = Caller(backend).begin()
    assert (begun.status, begun.fence, begun.last_error) == ("granted", 2, "out-of-time")
    assert backend.outcomes("kis") == ["granted", "aborted", "granted"]


def test_an_abort_may_keep_everyone_waiting(backend: Backend, caller: Caller) -> None:
    """During a cool-down, no caller gets the lease, not even with another app secret."""
    caller.abort("EGW00133", 2 * MINUTE)

    begun = Caller(backend, app_key=CORRECTED).begin()
    assert (begun.last_error, begun.holder_label) == ("EGW00133", None)
    assert 110 < wait_of(begun) <= 120
    backend.pass_time(121)
    assert Caller(backend).begin().status == "granted"


def test_a_long_error_code_is_cut(backend: Backend, caller: Caller) -> None:
    """An error code of any length is cut to 100 characters."""
    caller.abort("x" * 999)

    assert Caller(backend).begin().last_error == "x" * 100


def test_a_refused_credential_cools_down(backend: Backend, caller: Caller) -> None:
    """A caller with a key and secret that KIS refused gets no lease for 15 minutes; the answer has the reason."""
    caller.abort("EGW00105", timedelta(), refused=APP_KEY)

    begun = Caller(backend).begin()

    assert (begun.last_error, begun.holder_label) == ("EGW00105", None)
    assert 890 < wait_of(begun) <= 900
    backend.pass_time(901)
    assert Caller(backend).begin().status == "granted"


def test_a_corrected_secret_is_not_held_up(backend: Backend, caller: Caller) -> None:
    """The cool-down applies only to the refused secret: a caller with a corrected secret gets the lease at once."""
    caller.abort("EGW00105", timedelta(), refused=APP_KEY)

    assert Caller(backend, app_key=CORRECTED).begin().status == "granted"


def test_a_refusal_outlives_another_error(backend: Backend, caller: Caller) -> None:
    """An error with one app secret does not end the cool-down of another."""
    caller.abort("EGW00105", timedelta(), refused=APP_KEY)
    corrected = Caller(backend, app_key=CORRECTED)
    corrected.begin()
    corrected.abort("kis-unreachable", timedelta())

    begun = Caller(backend).begin()
    assert begun.last_error == "kis-unreachable"
    assert 880 < wait_of(begun) <= 900


def test_a_good_commit_forgets_the_refusal(backend: Backend, caller: Caller) -> None:
    """A commit ends the cool-down of a refused secret, and begin reports no last error."""
    caller.abort("EGW00105", timedelta(), refused=APP_KEY)
    corrected = Caller(backend, app_key=CORRECTED)
    corrected.begin()
    version = corrected.commit(make_token()).version
    backend.pass_time(71)

    begun = Caller(backend).begin(rejected_version=version)
    assert (begun.status, begun.last_error) == ("granted", None)


def test_only_the_holder_may_abort(backend: Backend, caller: Caller) -> None:
    """An abort with a wrong fence or holder ends no lease."""
    stranger = Caller(backend)
    stranger.fence = caller.fence
    stranger.abort()
    caller.fence += 1
    caller.abort()
    caller.fence -= 1

    assert backend.outcomes("kis") == ["granted"]
    assert caller.commit(make_token()).status == "committed"


def test_an_abort_happens_once(backend: Backend, caller: Caller) -> None:
    """An abort after the end of the lease does nothing."""
    caller.abort("EGW00133", timedelta())
    caller.abort("EGW00133", HOUR)

    assert Caller(backend).begin().status == "granted"
    assert backend.outcomes("kis") == ["granted", "aborted", "granted"]


def test_an_abort_keeps_the_token(backend: Backend) -> None:
    """An abort changes neither the stored token nor the slot's record of that token."""
    token = make_token()
    version = issue(backend, token, SEALED)
    backend.pass_time(71)
    caller = Caller(backend)
    caller.begin(rejected_version=version)
    caller.abort("kis-unreachable", timedelta())

    row = stored(backend)
    assert row is not None
    assert (row.value, row.version) == (SEALED, version)
    assert Caller(backend).begin(rejected_token_id=token.token_id).status == "granted"
