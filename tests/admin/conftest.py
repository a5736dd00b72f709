"""Projects for the tests of ``kis-token check``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.resolver_harness import Chain


@pytest.fixture
def sound(chain: Chain) -> Chain:
    """A set-up without a fault."""
    chain.database.put_keys()
    chain.resolve()
    return chain
