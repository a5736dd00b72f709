"""What makes a fault the only one, and its test quick."""

from __future__ import annotations

import pytest

from tests.races.conftest import _few_certificates, certificate

__all__ = ["_few_certificates", "certificate"]


@pytest.fixture(autouse=True)
def _no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    """Proxies of the machine that runs the tests play no part."""
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
