"""Reading a slot, and the versions of its rows: tests that every store passes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kis_token.token import parse_instant
from tests.store.backends import (
    SEALED,
    SECOND,
    put_token,
    reject,
)
from tests.support import APP_KEY, MINUTE, make_token, utc_now

if TYPE_CHECKING:
    from tests.store.backends import Backend


def test_a_read_returns_the_rejected_tokens(backend: Backend) -> None:
    """A read returns the slot's rejected tokens apart from its rows, and no rejected token of another slot."""
    rejected = [make_token() for _ in range(3)]
    for token in rejected:
        reject(backend, token)
    slot = backend.store.read("kis")

    assert slot.rejected == {token.token_id for token in rejected}
    assert slot.rows == {}
    assert backend.store.read("kis-second").rejected == frozenset()


def test_a_slot_is_read_whole(backend: Backend) -> None:
    """A read returns the active rows of the slot's key, secret and token as they are stored, and the store's time."""
    token = make_token()
    versions = [
        backend.put("kis", "app_key", APP_KEY.key),
        backend.put("kis", "app_secret", SEALED),
        put_token(backend, token),
    ]
    backend.put("kis", "webhook", "another type")
    backend.put("kis-second", "app_key", "another slot")

    slot = backend.store.read("kis")

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


def test_only_active_rows_are_read(backend: Backend) -> None:
    """An inactive row counts as absent, and so does an unknown slot."""
    backend.put("kis", "app_key", APP_KEY.key, active=False)
    put_token(backend, make_token(), active=False)

    assert backend.store.read("kis").rows == backend.store.read("nobody's").rows == {}


def test_versions_grow_with_every_change(backend: Backend) -> None:
    """A change of value, end or activity gives a row a new, larger version; an unchanged row keeps its version."""
    end = make_token().expires_at
    first = backend.put("kis", "access_token", "{}", end)
    assert backend.put("kis", "access_token", "{}", end) == first
    elsewhere = backend.put("kis-second", "access_token", "{}", end)

    value = backend.put("kis", "access_token", "[]", end)
    moved = backend.put("kis", "access_token", "[]", end + SECOND)
    inactive = backend.put("kis", "access_token", "[]", end + SECOND, active=False)
    active = backend.put("kis", "access_token", "[]", end + SECOND)

    assert first < elsewhere < value < moved < inactive < active
