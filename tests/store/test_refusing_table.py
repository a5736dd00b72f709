"""A table that refuses rows: tests that every store passes."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from kis_token.errors import StoreMisconfigured
from tests.store.backends import (
    SECOND,
    Caller,
    put_token,
    stored,
)
from tests.support import MINUTE, make_token

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.store.backends import Backend


@contextmanager
def taking_no_rows(backend: Backend) -> Iterator[None]:
    """Make the table refuse rows inside the block."""
    backend.take_rows(does=False)
    try:
        yield
    finally:
        backend.take_rows(does=True)


@pytest.mark.parametrize("is_stored", [True, False], ids=["an expired token", "no token"])
def test_nothing_is_granted_where_nothing_can_be_stored(backend: Backend, *, is_stored: bool) -> None:
    """If the table refuses rows, begin fails and grants no lease.

    When the table accepts rows again, begin grants a lease.
    """
    version = put_token(backend, make_token(left=-MINUTE)) if is_stored else None
    with taking_no_rows(backend):
        for _ in range(2):
            with pytest.raises(StoreMisconfigured) as caught:
                Caller(backend).begin()
            assert caught.value.code == "store-cannot-store"

    row = stored(backend)
    assert (None if row is None else row.version, backend.outcomes("kis")) == (version, [])
    begun = Caller(backend).begin()
    assert (begun.status, begun.fence, begun.version) == ("granted", 1, version)


def test_only_a_grant_needs_the_table(backend: Backend) -> None:
    """If the table refuses rows, begin still returns a fresh token, another caller's lease, or a repeated grant."""
    caller = Caller(backend)
    caller.begin()
    with taking_no_rows(backend):
        assert (caller.begin().status, Caller(backend).begin().status) == ("granted", "busy")
    caller.commit(make_token())
    with taking_no_rows(backend):
        assert Caller(backend).begin().status == "fresh"


def test_a_lease_can_end_without_the_table(backend: Backend, caller: Caller) -> None:
    """If the table refuses a commit, the holder keeps the lease, and can end it by an abort with the reason."""
    with taking_no_rows(backend):
        with pytest.raises(StoreMisconfigured) as caught:
            caller.commit(make_token())
        assert caught.value.code == "store-cannot-store"
        caller.abort("store-cannot-store", 61 * SECOND)

    begun = Caller(backend).begin()
    assert (begun.last_error, begun.holder_label) == ("store-cannot-store", None)
    assert backend.outcomes("kis") == ["granted", "aborted"]


def test_a_save_that_the_table_refuses(backend: Backend) -> None:
    """If the table refuses rows, a save raises store-cannot-store, and no outcome is recorded."""
    token = make_token()
    with taking_no_rows(backend), pytest.raises(StoreMisconfigured) as caught:
        backend.store.save("kis", token, token.to_json())

    assert (caught.value.code, backend.outcomes("kis")) == ("store-cannot-store", [])
