"""Storing a token without a lease: tests that every store passes."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from tests.store.backends import (
    SEALED,
    SEALED_AGAIN,
    Caller,
    issue,
    put_token,
    reject,
    stored,
    stored_value,
)
from tests.support import HOUR, make_token

if TYPE_CHECKING:
    from datetime import timedelta

    from tests.store.backends import Backend


def test_a_first_token_is_saved(backend: Backend) -> None:
    """A save into an empty slot stores the token."""
    token = make_token()

    backend.store.save("kis", token, token.to_json())

    assert stored_value(backend) == token.to_json()
    assert backend.outcomes("kis") == ["saved"]


@pytest.mark.parametrize("left", [22 * HOUR, 23 * HOUR, 24 * HOUR], ids=["older", "as old", "newer"])
def test_the_later_expiry_is_kept(backend: Backend, left: timedelta) -> None:
    """A token replaces the stored one only if it ends later, even while a caller has the lease."""
    there = make_token(left=23 * HOUR)
    token = replace(make_token(), expires_at=there.expires_at + left - 23 * HOUR)
    Caller(backend).begin()
    put_token(backend, there)

    backend.store.save("kis", token, token.to_json())

    is_saved = token.expires_at > there.expires_at
    assert stored_value(backend) == (token if is_saved else there).to_json()
    assert backend.outcomes("kis") == ["granted", *(["saved"] if is_saved else [])]


def test_a_named_version_is_replaced(backend: Backend) -> None:
    """A caller that names the stored version may store a token that ends sooner; with another version it may not."""
    there, sooner = make_token(), make_token(left=HOUR)
    version = put_token(backend, there)

    backend.store.save("kis", sooner, sooner.to_json(), replaces_version=version - 1)
    assert stored_value(backend) == there.to_json()
    backend.store.save("kis", sooner, sooner.to_json(), replaces_version=version)
    assert stored_value(backend) == sooner.to_json()


@pytest.mark.parametrize("active", [True, False], ids=["without an end", "inactive"])
def test_a_row_without_use_is_replaced(backend: Backend, active: bool) -> None:  # noqa: FBT001 - a table
    """A row that is inactive or has no expiry is replaced, and is active afterwards."""
    there, token = make_token(), make_token(left=HOUR)
    backend.put("kis", "access_token", there.to_json(), None if active else there.expires_at, active=active)

    backend.store.save("kis", token, token.to_json())

    assert stored_value(backend) == token.to_json()


def test_a_saved_token_is_not_taken_for_the_leases(backend: Backend) -> None:
    """After a save of another token, the slot's record of the last lease does not apply to the saved token."""
    token = make_token()
    issue(backend, token, SEALED)
    backend.pass_time(71)
    backend.store.save("kis", make_token(left=25 * HOUR), SEALED_AGAIN)

    assert Caller(backend).begin(rejected_token_id=token.token_id).status == "fresh"
    assert Caller(backend).begin(min_remaining=26 * HOUR).status == "granted"


@pytest.mark.parametrize("stored_form", [None, SEALED], ids=["plain", "sealed"])
def test_a_rejected_token_is_not_saved(backend: Backend, stored_form: str | None) -> None:
    """A slot saves no token that the slot remembers as rejected, but saves another token.

    Another slot can save the rejected token.
    """
    rejected, other = make_token(), make_token()
    put_token(backend, rejected, active=False)
    reject(backend, rejected)

    assert backend.store.save("kis", rejected, stored_form or rejected.to_json()) is False
    assert stored_value(backend) is None
    assert backend.store.save("kis", other, stored_form or other.to_json()) is True
    assert stored_value(backend) == (stored_form or other.to_json())
    assert backend.store.save("kis-second", rejected, stored_form or rejected.to_json()) is True
    assert stored_value(backend, "kis-second") == (stored_form or rejected.to_json())


def test_a_token_of_changed_keys_is_not_stored(backend: Backend) -> None:
    """If the stored keys have changed, a save with the version of the previous keys stores nothing."""
    before = backend.put("kis", "app_key", "PSbefore")
    now = backend.put("kis", "app_key", "PSnow")
    token = make_token()

    backend.store.save("kis", token, token.to_json(), keys_version=before)
    assert stored(backend) is None
    assert backend.outcomes("kis") == []

    backend.store.save("kis", token, token.to_json(), keys_version=now)
    assert stored_value(backend) == token.to_json()
