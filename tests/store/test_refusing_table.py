"""A table that takes no rows: what every store promises."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from kis_token.errors import StoreMisconfigured
from tests.store.backends import (
    SECOND,
    Contender,
    put_token,
    stored,
)
from tests.support import MINUTE, make_token

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.store.backends import Ground


@contextmanager
def taking_no_rows(ground: Ground) -> Iterator[None]:
    """The table takes no rows in the block."""
    ground.take_rows(does=False)
    try:
        yield
    finally:
        ground.take_rows(does=True)


@pytest.mark.parametrize("is_stored", [True, False], ids=["a dead token", "no token"])
def test_nothing_is_granted_where_nothing_can_be_stored(ground: Ground, *, is_stored: bool) -> None:
    """Begin ends in an error, leaves no turn behind, and grants as soon as the table takes rows."""
    version = put_token(ground, make_token(left=-MINUTE)) if is_stored else None
    with taking_no_rows(ground):
        for _ in range(2):
            with pytest.raises(StoreMisconfigured) as caught:
                Contender(ground).begin()
            assert caught.value.code == "store-cannot-store"

    row = stored(ground)
    assert (None if row is None else row.version, ground.outcomes("kis")) == (version, [])
    begun = Contender(ground).begin()
    assert (begun.status, begun.fence, begun.version) == ("granted", 1, version)


def test_only_a_grant_needs_the_table(ground: Ground) -> None:
    """A fresh token, another caller's turn and a repeated begin are answered although the table takes no rows."""
    contender = Contender(ground)
    contender.begin()
    with taking_no_rows(ground):
        assert (contender.begin().status, Contender(ground).begin().status) == ("granted", "busy")
    contender.commit(make_token())
    with taking_no_rows(ground):
        assert Contender(ground).begin().status == "fresh"


def test_a_turn_can_end_without_the_table(ground: Ground, contender: Contender) -> None:
    """A commit that the table refuses leaves the turn to its holder, whose abort ends it with the reason."""
    with taking_no_rows(ground):
        with pytest.raises(StoreMisconfigured) as caught:
            contender.commit(make_token())
        assert caught.value.code == "store-cannot-store"
        contender.abort("store-cannot-store", 61 * SECOND)

    begun = Contender(ground).begin()
    assert (begun.last_error, begun.holder_label) == ("store-cannot-store", None)
    assert ground.outcomes("kis") == ["granted", "aborted"]


def test_a_save_that_the_table_refuses(ground: Ground) -> None:
    """It is the same error, and nothing is noted."""
    token = make_token()
    with taking_no_rows(ground), pytest.raises(StoreMisconfigured) as caught:
        ground.store.save("kis", token, token.to_json())

    assert (caught.value.code, ground.outcomes("kis")) == ("store-cannot-store", [])
