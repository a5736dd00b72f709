"""A project without tables."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from kis_token.sandbox.database import prepare_database
from tests.support import Database

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kis_token.sandbox.postgres import EmbeddedPostgres


@pytest.fixture(scope="module")
def bare(postgres: EmbeddedPostgres) -> Iterator[Database]:
    """A project without tables, which the tests of a module use one after the other."""
    dsn = postgres.create_database()
    with Database(prepare_database(dsn)) as database:
        yield database
    postgres.drop_database(dsn)
