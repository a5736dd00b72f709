"""Callers behind a company's certificate or proxy: they share one token, or get an error that names the fault."""

from __future__ import annotations

import os
import shutil
import socket
import ssl
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from kis_token.errors import IssuerOutage, StoreOutage
from kis_token.network import tls_trust
from kis_token.sandbox import Sandbox
from kis_token.sandbox.emulator import KISEmulator
from kis_token.sandbox.kis_http import TOKEN_PATH
from kis_token.token import looks_like_token
from tests.authority import Authority, make_authority
from tests.command import kis_token, kis_token_here
from tests.faults.helpers import assert_warned, error_of, stored_stays
from tests.faults.hiccups import Hiccuping
from tests.faults.test_program import NOWHERE
from tests.resolver_harness import stale_token
from tests.store.test_slot_query import raw_server
from tests.support import ACCOUNT, SERVICE_KEY, make_token
from tests.tunnel_proxy import TunnelProxy
from tools.certificate import make_hashed_folder
from tools.step import run_step

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from kis_token.sandbox.postgres import EmbeddedPostgres
    from tests.resolver_harness import Chain


@pytest.fixture
def company(tmp_path: Path) -> Authority:
    """The certificate authority of a company that inspects connections."""
    return make_authority(tmp_path / "company")


@pytest.fixture
def relay(chain: Chain, company: Authority) -> Iterator[Hiccuping]:
    """A relay that inspects the connections to Supabase."""
    with Hiccuping(int(chain.supabase.url.rpartition(":")[2]), company.server()) as relay:
        yield relay


def inputs_of(chain: Chain, url: str, **more: str) -> dict[str, str]:
    """Return the inputs that a workflow gives the action."""
    given = {
        "supabase-url": url,
        "supabase-key": SERVICE_KEY,
        "base-url": chain.kis.production_url,
        "app-key": ACCOUNT.app_key,
        "app-secret": ACCOUNT.app_secret,
        "cache-path": str(chain.folder / "cache.json"),
    }
    return given | {name.replace("_", "-"): value for name, value in more.items()}


# a company's certificate


@pytest.mark.usefixtures("child_processes")
def test_jobs_behind_a_company_s_certificate_share_one_token(postgres: EmbeddedPostgres, company: Authority) -> None:
    """If only REQUESTS_CA_BUNDLE names the certificate, one of two jobs issues, and the other uses the stored token."""
    with Sandbox(dsn=postgres.create_database(), tls=company.server()) as sandbox, ThreadPoolExecutor() as jobs:
        env = sandbox.variables | {"KIS_TOKEN_CACHE": "off", "REQUESTS_CA_BUNDLE": str(company.file)}
        ended = list(jobs.map(lambda _: kis_token(env, "get"), range(2)))
        calls = [request for request in sandbox.kis.requests if request.path == TOKEN_PATH]

    assert [each.returncode for each in ended] == [0, 0], [each.stderr for each in ended]
    tokens = {each.stdout.strip() for each in ended}
    assert (len(tokens), len(calls)) == (1, 1)
    assert looks_like_token(tokens.pop())


#: Runs a command in a mount namespace of its own, in which the file $1 replaces the file $2.
OVERLAID = ["unshare", "--mount", "sh", "-c", 'mount --bind "$1" "$2" && shift 2 && exec "$@"', "sh"]


@pytest.mark.usefixtures("child_processes")
def test_a_certificate_in_the_system_s_store_alone_is_enough(postgres: EmbeddedPostgres, company: Authority) -> None:
    """If only the system's certificate file has the certificate, read, lease, tokenP and commit still trust it."""
    store = Path(ssl.get_default_verify_paths().openssl_cafile).resolve()
    overlaid = [*OVERLAID, f"{company.file}", f"{store}"]
    if not store.is_file() or shutil.which("unshare") is None or subprocess.call([*overlaid, "true"]) != 0:
        pytest.skip("this user cannot mount a file over the system's store")
    with Sandbox(dsn=postgres.create_database(), tls=company.server()) as sandbox:
        env = sandbox.environment(os.environ) | {"KIS_TOKEN_CACHE": "off"}
        command = [sys.executable, "-m", "kis_token", "exec", "--", "true"]
        ended = [
            subprocess.run([*overlaid, *command], env=env, capture_output=True, text=True, timeout=60, check=False)
            for _ in range(2)
        ]
        calls = sandbox.kis.counts("production").calls

    assert ([each.returncode for each in ended], calls) == ([0, 0], 1), ended[0].stderr


@pytest.mark.parametrize("variable", tls_trust.VARIABLES)
@pytest.mark.usefixtures("child_processes")
def test_a_step_behind_a_company_s_certificate(
    chain: Chain, relay: Hiccuping, company: Authority, tmp_path: Path, variable: str
) -> None:
    """Each variable for certificates is enough for the fast path to read the stored token without packages."""
    named = company.file if variable != "SSL_CERT_DIR" else make_hashed_folder(str(company.file), tmp_path / "hashed")
    token = make_token()
    chain.database.put_token(token)

    ended = run_step(inputs_of(chain, relay.url), tmp_path / "job", NOWHERE | {variable: str(named)})

    assert (ended.status, ended.public.get("source")) == (0, "supabase"), ended.log
    assert list((tmp_path / "job" / "tools").iterdir()) == []


@pytest.mark.usefixtures("runtime")
def test_a_step_issues_through_a_company_s_proxy(
    postgres: EmbeddedPostgres, company: Authority, tmp_path: Path, tool_cache: Path
) -> None:
    """If only REQUESTS_CA_BUNDLE and HTTPS_PROXY are set, read, lease, tokenP and commit go through the tunnel."""
    with Sandbox(dsn=postgres.create_database(), tls=company.server()) as sandbox, TunnelProxy() as proxy:
        inputs = {
            "supabase-url": sandbox.supabase.url,
            "supabase-key": sandbox.service_key,
            "base-url": sandbox.kis.production_url,
            "cache-path": "off",
        }
        env = {**NOWHERE, "RUNNER_TOOL_CACHE": str(tool_cache), "HTTPS_PROXY": proxy.url}
        first, second = (
            run_step(inputs, tmp_path / job, env | {"REQUESTS_CA_BUNDLE": str(company.file)}) for job in ("one", "two")
        )
        calls = [request for request in sandbox.kis.requests if request.path == TOKEN_PATH]

    assert (first.status, first.public.get("source")) == (0, "oauth"), first.log
    assert (second.status, second.public.get("source"), len(calls)) == (0, "supabase", 1), second.log
    assert len(proxy.asked) >= 5


def test_a_certificate_of_supabase_that_cannot_be_checked(chain: Chain, relay: Hiccuping) -> None:
    """If Supabase's certificate cannot be checked, the error has the reason, and KIS is not called.

    A cached token is still used.
    """
    error = error_of(chain, supabase_url=relay.url)
    assert (error.code, error.retryable, chain.issue_calls) == ("store-tls", False, 0)
    assert "unable to get local issuer certificate" in f"{error}" or "self-signed" in f"{error}"
    token = stale_token()
    chain.cache_token(token)

    got = chain.resolve(supabase_url=relay.url)

    assert (got.token.token_id, got.source, chain.issue_calls) == (token.token_id, "cache", 0)
    assert_warned(got, "[store-tls]", "the cached token is used")


@pytest.mark.usefixtures("child_processes")
def test_a_step_whose_packages_cannot_be_installed_uses_the_cached_token(
    chain: Chain, relay: Hiccuping, tmp_path: Path
) -> None:
    """If a certificate check fails and the packages cannot be installed, the cached token is still used.

    The packages would add more trusted certificates.
    """
    inputs = inputs_of(chain, relay.url, timeout="20s")
    failed = run_step(inputs, tmp_path / "first", NOWHERE)
    chain.cache_token(stale_token())
    ended = run_step(inputs, tmp_path / "second", NOWHERE)

    assert (failed.status, failed.outputs.get("error-code")) == (1, "store-tls"), failed.log
    assert (ended.status, ended.public.get("source"), chain.issue_calls) == (0, "cache", 0), ended.log
    assert "[store-tls]" in ended.log


@pytest.fixture
def inspected_kis(company: Authority) -> Iterator[KISEmulator]:
    """An emulated KIS whose certificate a company has signed."""
    with KISEmulator(tls=company.server()) as kis:
        yield kis


def test_a_certificate_of_kis_that_cannot_be_checked(chain: Chain, inspected_kis: KISEmulator) -> None:
    """If KIS's certificate cannot be checked, KIS gets no request, and the caller gives the lease back.

    A stale stored token is used with a warning. Without a token, the caller gets the error kis-tls.
    """
    url = inspected_kis.production_url
    error = error_of(chain, base_url=url)
    assert isinstance(error, IssuerOutage)
    assert (error.code, error.sent, error.retryable) == ("kis-tls", False, False)
    assert chain.database.outcomes() == ["granted", "aborted"]
    chain.database.put_token(stale_token())

    with stored_stays(chain):
        got = chain.resolve(base_url=url)

    assert (got.token.token_id, got.source) == (chain.database.stored_id(), "supabase")
    assert_warned(got, "not renewed", "[kis-tls]")
    assert inspected_kis.requests == ()


# proxies


def _refusing(status: int) -> Callable[[socket.socket], None]:
    def talk(connection: socket.socket) -> None:
        connection.recv(65536)
        connection.sendall(b"HTTP/1.1 %d No\r\nContent-Length: 0\r\n\r\n" % status)

    return talk


@pytest.fixture(params=["socks", "TLS", "no host", "407", "403", "502", "refused"])
def proxy(request: pytest.FixtureRequest) -> Iterator[str]:
    """The address of a proxy that does not work."""
    fixed = {"socks": "socks5://127.0.0.1:9", "TLS": "https://127.0.0.1:9", "no host": "http://:3128"}
    if request.param in fixed:
        yield fixed[request.param]
    elif request.param == "refused":
        with socket.create_server(("127.0.0.1", 0)) as listener:
            url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        yield url
    else:
        with raw_server(_refusing(int(request.param))) as url:
            yield url


def test_a_proxy_on_the_way_to_supabase(chain: Chain, monkeypatch: pytest.MonkeyPatch, proxy: str) -> None:
    """If a proxy blocks Supabase, the error names the variable, and KIS is not called; a cached token is used."""
    monkeypatch.setenv("HTTPS_PROXY", proxy)
    error = error_of(chain, supabase_url="https://abcdefgh.supabase.co")
    assert isinstance(error, StoreOutage)
    assert (error.code, error.doubtful, chain.issue_calls) == ("proxy-unusable", True, 0)
    assert "HTTPS_PROXY" in f"{error}"
    token = stale_token()
    chain.cache_token(token)

    got = chain.resolve(supabase_url="https://abcdefgh.supabase.co")

    assert (got.token.token_id, got.source, chain.issue_calls) == (token.token_id, "cache", 0)
    assert_warned(got, "[proxy-unusable]", "HTTPS_PROXY")


def test_a_proxy_on_the_way_to_kis(chain: Chain, monkeypatch: pytest.MonkeyPatch, proxy: str) -> None:
    """If a proxy blocks KIS, a stale stored token is used. The warning or the error names the variable."""
    monkeypatch.setenv("ALL_PROXY", proxy)
    url = "https://openapi.koreainvestment.com:9443"
    error = error_of(chain, base_url=url)
    assert isinstance(error, IssuerOutage)
    assert (error.code, error.sent, "ALL_PROXY" in f"{error}") == ("proxy-unusable", False, True)
    chain.database.put_token(stale_token())

    with stored_stays(chain):
        got = chain.resolve(base_url=url)

    assert (got.token.token_id, got.source) == (chain.database.stored_id(), "supabase")
    assert_warned(got, "not renewed", "[proxy-unusable]", "ALL_PROXY")


@pytest.mark.usefixtures("child_processes")
def test_a_step_with_a_socks_proxy(chain: Chain, tmp_path: Path) -> None:
    """With a SOCKS proxy, a step installs no packages: it uses a cached token, or its error names the variable."""
    env = {**NOWHERE, "ALL_PROXY": "socks5://user:hunter2@127.0.0.1:9"}
    url = "https://abcdefgh.supabase.co"
    failed = run_step(inputs_of(chain, url), tmp_path / "first", env)
    chain.cache_token(make_token())
    ended = run_step(inputs_of(chain, url), tmp_path / "second", env)

    assert (failed.status, failed.outputs.get("error-code")) == (1, "proxy-unusable"), failed.log
    assert "ALL_PROXY" in failed.log
    assert (ended.status, ended.public.get("source"), chain.issue_calls) == (0, "cache", 0), ended.log
    assert "hunter2" not in failed.log + failed.summary + ended.log + ended.summary
    assert [list((tmp_path / job / "tools").iterdir()) for job in ("first", "second")] == [[], []]


@pytest.mark.usefixtures("child_processes")
def test_a_socks_proxy_that_both_hosts_are_exempt_from(postgres: EmbeddedPostgres, company: Authority) -> None:
    """If NO_PROXY exempts both hosts, the SOCKS proxy of ALL_PROXY affects no request."""
    with Sandbox(dsn=postgres.create_database(), tls=company.server()) as sandbox:
        env = sandbox.variables | {"SSL_CERT_FILE": str(company.file)}
        env |= {"ALL_PROXY": "socks5://127.0.0.1:9", "NO_PROXY": "127.0.0.1"}
        first, second = (kis_token({**env, "KIS_TOKEN_CACHE": "off"}, "get") for _ in range(2))

    assert (first.returncode, second.returncode) == (0, 0), first.stderr
    is_shared = first.stdout == second.stdout
    assert is_shared, "each has a token of its own"


@pytest.mark.usefixtures("child_processes")
def test_check_says_which_variables_count(postgres: EmbeddedPostgres, company: Authority) -> None:
    """`check` names the proxy, the variables whose certificates are trusted, and a variable that cannot be used."""
    with Sandbox(dsn=postgres.create_database(), tls=company.server()) as sandbox, TunnelProxy() as proxy:
        direct = sandbox.kis.production_url.removeprefix("https://")
        env = sandbox.variables | {"HTTPS_PROXY": proxy.url, "NO_PROXY": direct, "no_proxy": direct}
        good = kis_token_here(env | {"SSL_CERT_FILE": str(company.file)}, "check")
        bad = kis_token_here(env | {"REQUESTS_CA_BUNDLE": "/no/such/file.pem"}, "check")

    assert "ok     proxy: requests to Supabase use the proxy in HTTPS_PROXY\n" in good.stdout
    assert "KIS is asked through" not in good.stdout
    assert "ok     certificates: the certificates of SSL_CERT_FILE are trusted\n" in good.stdout
    assert good.returncode == 0
    assert (
        "wrong  certificates: REQUESTS_CA_BUNDLE names a file that does not exist. Correct the variable" in bad.stdout
    )
    assert "[kis-tls]" in bad.stdout
    assert bad.returncode == 1
