"""The stores under test."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from kis_token.store.supabase import SupabaseStore
from tests.store.backends import Caller, MemoryBackend, SupabaseBackend
from tests.support import SERVICE_KEY

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kis_token.sandbox.postgrest import PostgRESTStandIn
    from tests.store.backends import Backend
    from tests.support import Database


@pytest.fixture(params=["supabase", "memory"])
def backend(request: pytest.FixtureRequest, supabase: PostgRESTStandIn, database: Database) -> Iterator[Backend]:
    """Each of the two stores, without rows."""
    if request.param == "memory":
        yield MemoryBackend()
        return
    with closing(SupabaseStore(supabase.url, SERVICE_KEY)) as manager:
        yield SupabaseBackend(manager, database)


@pytest.fixture
def caller(backend: Backend) -> Caller:
    """A caller that has the lease."""
    caller = Caller(backend)
    assert caller.begin().status == "granted"
    return caller
