"""Fixtures for the tests of faults. Proxies and certificates of this machine do not affect the tests."""

from __future__ import annotations

import pytest

from tests.races.conftest import _few_certificates, certificate

__all__ = ["_few_certificates", "certificate"]

COLLECTED = pytest.StashKey[list[str]]()


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Record all tests before pytest deselects some."""
    config.stash[COLLECTED] = [item.nodeid for item in items]


@pytest.fixture(autouse=True)
def _plain_network(plain_network: None) -> None:
    """Keep proxies and certificates of this machine out of every test."""
