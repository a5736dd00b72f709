"""Fixtures for the tests of faults. No fault of the machine's own network reaches a test."""

from __future__ import annotations

import pytest

from tests.races.conftest import _few_certificates, certificate

__all__ = ["_few_certificates", "certificate"]

COLLECTED = pytest.StashKey[list[str]]()


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Record all tests, before any is deselected."""
    config.stash[COLLECTED] = [item.nodeid for item in items]


@pytest.fixture(autouse=True)
def _plain_network(plain_network: None) -> None:
    """Keep the network of the machine that runs the tests out of every fault."""
