"""The address at which a job of GitHub Actions gets ID tokens, and the secret that the job sends to this address."""

from __future__ import annotations

import pytest

from kis_token.process.caller_identity import IDTokenRequest


def find(url: str, bearer: str = "request-secret-of-a-job") -> IDTokenRequest | None:
    """The request of a job with this address and this secret."""
    return IDTokenRequest.find({"ACTIONS_ID_TOKEN_REQUEST_URL": url, "ACTIONS_ID_TOKEN_REQUEST_TOKEN": bearer})


@pytest.mark.parametrize(
    "url",
    [
        "https://run-actions-1.actions.githubusercontent.com/126/idtoken?api-version=2.0",
        "https://github.acme.example:8443/_services/pipelines/idtoken",
        "http://127.0.0.1:65535/126/idtoken",
        "http://localhost:8080/idtoken",
    ],
)
def test_addresses_that_get_the_secret(url: str) -> None:
    """The secret may be sent over TLS, or to this machine. The repr does not show the secret."""
    request = find(url)
    assert request is not None
    assert request.url == url
    assert "request-secret" not in repr(request)
    assert find(url, "") is None


@pytest.mark.parametrize(
    "url",
    [
        "",
        "http://run-actions.example/idtoken",
        "http://127.0.0.1:80@evil.example/idtoken",
        "http://localhost:80@evil.example:8080/idtoken",
        "https://user@evil.example/idtoken",
        "http://127.0.0.1.evil.example/idtoken",
        "https://",
        "https://[",
        "https://github.example:port/",
        "https://github.example:70000/",
        "file:///etc/passwd",
    ],
)
def test_addresses_that_do_not_get_the_secret(url: str) -> None:
    """An address counts as no permission if it has no TLS, has another host after an @, or is not a valid address."""
    assert find(url) is None
