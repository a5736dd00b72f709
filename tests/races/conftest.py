"""What makes a race a race."""

from __future__ import annotations

import pytest

from tools.certificate import make_certificate


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A file with a single certificate."""
    return make_certificate(tmp_path_factory.mktemp("certificate"))[0]


@pytest.fixture(autouse=True)
def _few_certificates(certificate: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every client would load all of the system's: 20 ms under the interpreter's lock, in which callers queue up."""
    monkeypatch.setenv("SSL_CERT_FILE", certificate)
