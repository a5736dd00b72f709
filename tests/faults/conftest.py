"""What makes a fault the only one, and its test quick."""

from __future__ import annotations

import pytest

from tests.races.conftest import _few_certificates, certificate

__all__ = ["_few_certificates", "certificate"]

COLLECTED = pytest.StashKey[list[str]]()


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Note all tests, before any is deselected."""
    config.stash[COLLECTED] = [item.nodeid for item in items]


@pytest.fixture(autouse=True)
def _no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    """Proxies of the machine that runs the tests play no part."""
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
