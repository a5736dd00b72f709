"""Fixtures for the races."""

from __future__ import annotations

import pytest

from tools.certificate import make_certificate


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A file with a single certificate."""
    return make_certificate(tmp_path_factory.mktemp("certificate"))[0]


@pytest.fixture(autouse=True)
def _few_certificates(certificate: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Replace the system's certificates by one, because each client loads all of them in 20 ms under Python's lock."""
    monkeypatch.setenv("SSL_CERT_FILE", certificate)
