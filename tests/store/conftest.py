"""Each store in turn."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from kis_token.store.supabase import SupabaseStore
from tests.store.backends import Contender, MemoryGround, SupabaseGround
from tests.support import SERVICE_KEY

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kis_token.sandbox.postgrest import PostgRESTStandIn
    from tests.store.backends import Ground
    from tests.support import Database


@pytest.fixture(params=["supabase", "memory"])
def ground(request: pytest.FixtureRequest, supabase: PostgRESTStandIn, database: Database) -> Iterator[Ground]:
    """Each store in turn, empty."""
    if request.param == "memory":
        yield MemoryGround()
        return
    with closing(SupabaseStore(supabase.url, SERVICE_KEY)) as manager:
        yield SupabaseGround(manager, database)


@pytest.fixture
def contender(ground: Ground) -> Contender:
    """One that has a turn."""
    contender = Contender(ground)
    assert contender.begin().status == "granted"
    return contender
