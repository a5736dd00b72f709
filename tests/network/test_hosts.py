"""Secrets are sent only with TLS, and only to a host with a trusted certificate, even through a proxy."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from kis_token.sandbox import Sandbox
from kis_token.sandbox.emulator import KISEmulator
from kis_token.token import looks_like_token
from tests.command import kis_token
from tests.tunnel_proxy import TunnelProxy
from tools.certificate import make_certificate

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from kis_token.sandbox.postgres import EmbeddedPostgres


@pytest.fixture
def encrypted(postgres: EmbeddedPostgres, tmp_path: Path) -> Iterator[tuple[Sandbox, str]]:
    """Yield a sandbox that uses https, and its certificate."""
    certificate, context = make_certificate(tmp_path)
    with Sandbox(dsn=postgres.create_database(), tls=context) as sandbox:
        yield sandbox, certificate


@pytest.fixture
def proxy() -> Iterator[TunnelProxy]:
    """A proxy that runs in the test."""
    with TunnelProxy() as proxy:
        yield proxy


def trusting(certificate: str) -> dict[str, str]:
    """Return the variables that make every library trust the certificate."""
    return {"SSL_CERT_FILE": certificate, "REQUESTS_CA_BUNDLE": certificate}


@pytest.mark.parametrize("variable", ["https_proxy", "HTTPS_PROXY", "ALL_PROXY"])
def test_everything_goes_through_the_proxy(encrypted: tuple[Sandbox, str], proxy: TunnelProxy, variable: str) -> None:
    """The read, the function calls and tokenP use the environment's proxy, which sees no secret."""
    sandbox, certificate = encrypted

    ended = kis_token(sandbox.variables | trusting(certificate) | {variable: proxy.url}, "get")

    assert ended.returncode == 0, ended.stderr
    token = ended.stdout.strip()
    assert looks_like_token(token)
    ports = {request.split()[1].rpartition(b":")[2].decode() for request in proxy.asked}
    assert ports == {url.rpartition(":")[2] for url in (sandbox.supabase.url, sandbox.kis.production_url)}
    account = sandbox.kis.accounts["production"][0]
    seen = b"".join(proxy.asked + proxy.passed)
    for secret in (token, sandbox.service_key, account.app_key, account.app_secret):
        assert secret.encode() not in seen, "a secret was readable on the way"


def test_exempted_hosts_are_asked_directly(encrypted: tuple[Sandbox, str], proxy: TunnelProxy) -> None:
    """Requests to the hosts in no_proxy do not use the proxy."""
    sandbox, certificate = encrypted

    ended = kis_token(
        sandbox.variables | trusting(certificate) | {"https_proxy": proxy.url, "no_proxy": "127.0.0.1"}, "get"
    )

    assert ended.returncode == 0, ended.stderr
    assert proxy.asked == []


@pytest.mark.parametrize(
    "disabling",
    [{}, {"PYTHONHTTPSVERIFY": "0", "CURL_CA_BUNDLE": "", "REQUESTS_CA_BUNDLE": ""}],
    ids=["", "told not to"],
)
def test_unknown_certificate_gets_no_secret(encrypted: tuple[Sandbox, str], disabling: dict[str, str]) -> None:
    """If the certificate is unknown, Supabase and KIS get no request; no variable disables the check."""
    sandbox, _ = encrypted
    account = sandbox.kis.accounts["production"][0]
    keys = {"KIS_APP_KEY": account.app_key, "KIS_APP_SECRET": account.app_secret}

    ended = kis_token(sandbox.variables | keys | disabling, "get")

    assert (ended.returncode, ended.stdout) == (1, "")
    assert "[store-tls]" in ended.stderr
    assert sandbox.supabase.server.seen == ()
    assert sandbox.kis.requests == ()


def test_unknown_certificate_of_kis_gets_no_secret(encrypted: tuple[Sandbox, str], tmp_path: Path) -> None:
    """If KIS's certificate is unknown, KIS gets no request, even if Supabase's certificate is trusted."""
    sandbox, certificate = encrypted
    account = sandbox.kis.accounts["production"][0]
    keys = {"KIS_APP_KEY": account.app_key, "KIS_APP_SECRET": account.app_secret}
    (tmp_path / "kis").mkdir()
    _, context = make_certificate(tmp_path / "kis")

    with KISEmulator(tls=context) as kis:
        there = {"SSL_CERT_FILE": certificate, "KIS_BASE_URL": kis.production_url}
        ended = kis_token(sandbox.variables | keys | there, "get")

    assert (ended.returncode, ended.stdout) == (1, "")
    assert "[kis-tls]" in ended.stderr
    assert kis.requests == ()


@pytest.mark.parametrize("variable", ["http_proxy", "all_proxy"])
def test_plain_http_never_takes_a_proxy(sandbox: Sandbox, proxy: TunnelProxy, variable: str) -> None:
    """Requests without TLS go only to this machine, and never use a proxy, which could read the keys."""
    account = sandbox.kis.accounts["production"][0]
    keys = {"KIS_APP_KEY": account.app_key, "KIS_APP_SECRET": account.app_secret}

    ended = kis_token(sandbox.variables | keys | {variable: proxy.url}, "get")

    assert ended.returncode == 0, ended.stderr
    assert proxy.asked == []
