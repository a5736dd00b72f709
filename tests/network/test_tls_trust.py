"""The certificates that reads, writes and calls to KIS trust, with each variable, and the errors of a failed check.

The tests use real TLS on loopback.
"""

from __future__ import annotations

import os
import ssl
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from kis_token.errors import IssuerOutage, StoreOutage
from kis_token.network import tls_trust, trusted_certificates
from kis_token.sandbox.loopback import LoopbackServer
from tests.authority import HOUR, Authority, make_authority
from tests.network.calls import CALLS, answer, ask_kis, calls, read
from tools.certificate import make_certificate, make_hashed_folder

if TYPE_CHECKING:
    from collections.abc import Callable


pytestmark = pytest.mark.usefixtures("plain_network")


@pytest.fixture
def company(tmp_path: Path) -> Authority:
    """Return the authority of a company that inspects connections."""
    return make_authority(tmp_path / "company")


def failure(call: Callable[[str], object], url: str) -> StoreOutage | IssuerOutage:
    """Return the error of a call whose check failed. Asserts that nothing was sent, and that the error is lasting."""
    with pytest.raises((StoreOutage, IssuerOutage)) as caught:
        call(url)
    error = caught.value
    assert isinstance(error, (StoreOutage, IssuerOutage))
    assert error.code == ("kis-tls" if call is ask_kis else "store-tls")
    assert (error.sent, error.lasting, error.retryable) == (False, True, False)
    assert isinstance(error, IssuerOutage) or error.doubtful
    return error


@calls
@pytest.mark.parametrize("variable", tls_trust.VARIABLES)
def test_each_variable_alone_is_enough(
    company: Authority, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str, call: Callable[[str], object]
) -> None:
    """If one of the four variables names a company's certificate, every request trusts the certificate."""
    named = company.file if variable != "SSL_CERT_DIR" else make_hashed_folder(str(company.file), tmp_path / "hashed")
    monkeypatch.setenv(variable, str(named))
    with LoopbackServer(answer, tls=company.server()) as server:
        call(server.url)


@pytest.mark.parametrize("variable", ["REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"])
def test_a_bundle_may_be_a_folder(
    company: Authority, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    """A folder that openssl rehash has prepared works like a file, as in requests and OpenSSL."""
    monkeypatch.setenv(variable, str(make_hashed_folder(str(company.file), tmp_path / "hashed")))
    with LoopbackServer(answer, tls=company.server()) as server:
        ask_kis(server.url)


def test_several_folders(company: Authority, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """SSL_CERT_DIR may name several folders, as in OpenSSL."""
    hashed = make_hashed_folder(str(company.file), tmp_path / "hashed")
    monkeypatch.setenv("SSL_CERT_DIR", os.pathsep.join(["/no/such/folder", str(hashed)]))
    with LoopbackServer(answer, tls=company.server()) as server:
        read(server.url)
        ask_kis(server.url)


def test_bundles_add_to_the_system_s_certificates(company: Authority, monkeypatch: pytest.MonkeyPatch) -> None:
    """A bundle adds to the system's certificates; in requests it would replace them."""
    before = len(tls_trust.trusted().get_ca_certs())
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(company.file))
    assert len(tls_trust.trusted().get_ca_certs()) == before + 1


def test_a_variable_that_is_set_to_nothing_is_not_set(monkeypatch: pytest.MonkeyPatch) -> None:
    """If all variables are empty, as from unset settings of a workflow, the system's certificates are still used."""
    before = set(tls_trust.trusted().get_ca_certs(binary_form=True))
    for name in tls_trust.VARIABLES:
        monkeypatch.setenv(name, "")
    assert set(tls_trust.trusted().get_ca_certs(binary_form=True)) == before


def test_the_installers_get_the_system_s_certificates(company: Authority) -> None:
    """The file for uv and pip contains all of the system's certificates and those of the variables."""
    system = set(ssl.create_default_context().get_ca_certs(binary_form=True))
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    made.load_verify_locations(cadata=trusted_certificates.collect({"CURL_CA_BUNDLE": str(company.file)}, []).decode())
    assert set(made.get_ca_certs(binary_form=True)) > system


def test_no_key_gets_into_the_installers_file(tmp_path: Path) -> None:
    """Only certificates are copied from a file that also contains a private key."""
    path, _ = make_certificate(tmp_path)
    assert b"PRIVATE" in Path(path).read_bytes()
    assert b"PRIVATE" not in trusted_certificates.collect({"SSL_CERT_FILE": path}, [])


@calls
def test_an_intermediate_certificate_may_be_the_trusted_one(
    company: Authority, monkeypatch: pytest.MonkeyPatch, call: Callable[[str], object]
) -> None:
    """A bundle with an intermediate certificate and no root is enough on every version of Python, as it is for curl."""
    proxy = company.below("proxy")
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(proxy.file))
    with LoopbackServer(answer, tls=proxy.server()) as server:
        call(server.url)


@calls
def test_an_authority_that_lacks_fields_of_the_rfc_is_good(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: Callable[[str], object]
) -> None:
    """A root that lacks fields of RFC 5280 is accepted, as in curl and uv.

    By default, Python 3.13 rejects such a root.
    """
    company = make_authority(tmp_path / "older", is_strict=False)
    monkeypatch.setenv("SSL_CERT_FILE", str(company.file))
    assert not tls_trust.trusted().verify_flags & ssl.VERIFY_X509_STRICT
    with LoopbackServer(answer, tls=company.server()) as server:
        call(server.url)


FAILURES: dict[str, tuple[Callable[[Authority], ssl.SSLContext], str]] = {
    "expired": (lambda company: company.server(begins=-2 * HOUR, ends=-HOUR), "certificate has expired"),
    "not yet": (lambda company: company.server(begins=HOUR, ends=2 * HOUR), "certificate is not yet valid"),
    "another name": (lambda company: company.server("example.com"), "not valid for '127.0.0.1'"),
    "another address": (lambda company: company.server("127.0.0.2"), "not valid for '127.0.0.1'"),
}


@calls
@pytest.mark.parametrize("name", FAILURES)
def test_the_fault_of_a_certificate_is_reported(
    company: Authority, monkeypatch: pytest.MonkeyPatch, call: Callable[[str], object], name: str
) -> None:
    """If a check fails, the error has OpenSSL's description of the fault, and the server gets no request."""
    make, said = FAILURES[name]
    monkeypatch.setenv("SSL_CERT_FILE", str(company.file))
    with LoopbackServer(answer, tls=make(company)) as server:
        assert said in f"{failure(call, server.url)}"
        assert server.seen == ()


def _write(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


UNUSABLE: dict[str, tuple[str, Callable[[Path, Authority], Path], str]] = {
    "missing bundle": ("REQUESTS_CA_BUNDLE", lambda folder, _: folder / "no", "names a file that does not exist"),
    "missing curl": ("CURL_CA_BUNDLE", lambda folder, _: folder / "no", "names a file that does not exist"),
    "missing file": ("SSL_CERT_FILE", lambda folder, _: folder / "no", "names a file that does not exist"),
    "missing folder": ("SSL_CERT_DIR", lambda folder, _: folder / "no", "names a folder that does not exist"),
    "no text": ("SSL_CERT_FILE", lambda folder, _: _write(folder / "x", b"\0\1"), "without certificates in PEM form"),
    "empty": ("CURL_CA_BUNDLE", lambda folder, _: _write(folder / "x", b""), "without certificates in PEM form"),
    "DER": (
        "REQUESTS_CA_BUNDLE",
        lambda folder, company: _write(
            folder / "x.cer", ssl.PEM_cert_to_DER_cert(company.file.read_text(encoding="ascii"))
        ),
        "without certificates in PEM form",
    ),
    "cut": (
        "REQUESTS_CA_BUNDLE",
        lambda folder, company: _write(folder / "x.pem", company.file.read_bytes()[:-60]),
        "without certificates in PEM form",
    ),
    "a folder for a file": ("SSL_CERT_FILE", lambda folder, _: folder, "names a folder, not a file"),
    "too long a name": ("CURL_CA_BUNDLE", lambda folder, _: folder / ("x" * 300), "names a file that cannot be read"),
    "below a file": ("SSL_CERT_FILE", lambda _, company: company.file / "x", "names a file that does not exist"),
    "not prepared": ("SSL_CERT_DIR", lambda folder, _: folder, "openssl rehash has not prepared"),
    "not prepared bundle": ("REQUESTS_CA_BUNDLE", lambda folder, _: folder, "openssl rehash has not prepared"),
}


@pytest.mark.parametrize("call", [read, ask_kis])
@pytest.mark.parametrize("name", UNUSABLE)
def test_a_variable_whose_certificates_cannot_be_loaded_is_named(
    company: Authority, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: Callable[[str], object], name: str
) -> None:
    """If a check fails, the error names an unusable variable and its fault, and shows no part of the value."""
    variable, make, said = UNUSABLE[name]
    monkeypatch.setenv(variable, str(make(tmp_path, company)))
    with LoopbackServer(answer, tls=company.server()) as server:
        error = f"{failure(call, server.url)}"
    assert f"{variable} " in error
    assert said in error
    assert str(tmp_path) not in error


@calls
@pytest.mark.parametrize("variable", ["SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"])
def test_a_variable_that_cannot_be_used_withholds_nothing(
    company: Authority, monkeypatch: pytest.MonkeyPatch, call: Callable[[str], object], variable: str
) -> None:
    """If the other certificates are enough for the host, an unusable variable has no effect."""
    monkeypatch.setenv("SSL_CERT_FILE", str(company.file))
    monkeypatch.setenv(variable, "/no/such/place")
    with LoopbackServer(answer, tls=company.server()) as server:
        call(server.url)


@calls
def test_a_certificate_that_is_added_later_counts(
    company: Authority, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: Callable[[str], object]
) -> None:
    """A running program accepts a certificate that is added later, without a restart."""
    bundle = _write(tmp_path / "bundle.pem", make_authority(tmp_path / "other").file.read_bytes())
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(bundle))
    with LoopbackServer(answer, tls=company.server()) as server:
        failure(call, server.url)
        bundle.write_bytes(company.file.read_bytes())
        call(server.url)


def test_the_certificates_are_read_once(company: Authority, monkeypatch: pytest.MonkeyPatch) -> None:
    """Reads, writes and KIS share one context until a variable changes."""
    first = tls_trust.trusted()
    with LoopbackServer(answer, tls=company.server()) as server:
        monkeypatch.setenv("SSL_CERT_FILE", str(company.file))
        second = tls_trust.trusted()
        for call in CALLS.values():
            call(server.url)
    assert first is not second
    assert tls_trust.trusted() is second


@pytest.mark.parametrize("call", [read, ask_kis])
def test_a_server_that_speaks_no_tls_is_no_failed_check(call: Callable[[str], object]) -> None:
    """If a server does not use TLS, the error is an outage with OpenSSL's name for the fault, not a failed check."""
    with LoopbackServer(answer) as server, pytest.raises((StoreOutage, IssuerOutage)) as caught:
        call(server.url.replace("http:", "https:"))
    assert caught.value.code in ("store-unreachable", "kis-unreachable")
    assert "SSLError WRONG_VERSION_NUMBER" in f"{caught.value}" or "RECORD_LAYER" in f"{caught.value}"


def test_key_logging_that_fails_is_named_by_kis_s_connections_too(
    company: Authority, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """If SSLKEYLOGFILE is in a folder that does not exist, the error names the variable, and nothing is sent."""
    monkeypatch.setenv("SSLKEYLOGFILE", str(tmp_path / "no-such-folder" / "keys"))
    with LoopbackServer(answer, tls=company.server()) as server:
        assert "SSLKEYLOGFILE" in f"{failure(ask_kis, server.url)}"
        assert "SSLKEYLOGFILE" in f"{failure(read, server.url)}"
