"""The first try of a call loads only the certificates that it needs, from the system's prepared folder.

The tests use real TLS on loopback.
"""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from kis_token.errors import StoreOutage
from kis_token.network import tls_trust
from kis_token.sandbox.loopback import LoopbackServer
from tests.authority import Authority, make_authority
from tests.network.calls import answer, begin, read
from tools.certificate import make_hashed_folder

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = [
    pytest.mark.usefixtures("plain_network"),
    pytest.mark.skipif("sys.platform != 'linux'", reason="other systems have no such folder"),
]


class Machine:
    """The certificates of a machine: a prepared folder, and a bundle file with all certificates."""

    def __init__(self, folder: Path, patch: pytest.MonkeyPatch) -> None:
        self.authority = make_authority(folder / "authority")
        self.bundle = folder / "bundle.pem"
        self.bundle.touch()
        self.bundles_read = 0
        self._patch = patch
        patch.setattr(ssl.SSLContext, "load_default_certs", lambda context, *_: self._load_bundle(context))
        for name in tls_trust.VARIABLES:
            patch.delenv(name, raising=False)

    def prepare(self, hashed: Path) -> None:
        """Make ``hashed`` the system's folder."""
        paths = ssl.get_default_verify_paths()._replace(openssl_capath=str(hashed))
        self._patch.setattr(ssl, "get_default_verify_paths", lambda: paths)

    def _load_bundle(self, context: ssl.SSLContext) -> None:
        self.bundles_read += 1
        if self.bundle.stat().st_size:
            context.load_verify_locations(self.bundle)


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Machine]:
    """A machine whose prepared folder has the certificate of its authority."""
    machine = Machine(tmp_path, monkeypatch)
    machine.prepare(make_hashed_folder(str(machine.authority.file), tmp_path / "hashed"))
    tls_trust.forget()
    yield machine
    tls_trust.forget()


def ask(authority: Authority, call: Callable[[str], object] = read) -> object:
    """Call a server of ``authority``."""
    with LoopbackServer(answer, tls=authority.server()) as server:
        return call(server.url)


@pytest.mark.parametrize("call", [read, begin])
def test_the_bundle_is_not_read(machine: Machine, call: Callable[[str], object]) -> None:
    """If the folder has the certificate, the bundle file is not read."""
    ask(machine.authority, call)
    assert machine.bundles_read == 0


def test_a_certificate_that_only_the_bundle_has(machine: Machine, tmp_path: Path) -> None:
    """If the check with the folder fails, the bundle is read, and the connection is made once more."""
    company = make_authority(tmp_path / "company")
    machine.bundle.write_bytes(company.file.read_bytes())
    ask(company)
    assert machine.bundles_read == 1


def test_a_certificate_that_neither_has(machine: Machine, tmp_path: Path) -> None:
    """If folder and bundle do not have the certificate, the error is store-tls, and the server gets no request."""
    with pytest.raises(StoreOutage) as caught:
        ask(make_authority(tmp_path / "stranger"))
    assert (caught.value.code, caught.value.sent) == ("store-tls", False)
    assert machine.bundles_read == 1


@pytest.mark.parametrize("value", ["", "/no/such/place"])
@pytest.mark.parametrize("variable", tls_trust.VARIABLES)
def test_a_variable_rules_it_out(machine: Machine, monkeypatch: pytest.MonkeyPatch, variable: str, value: str) -> None:
    """If one of the four variables is set, even to an empty value, the bundle is read."""
    monkeypatch.setenv(variable, value)
    assert tls_trust.trusted(quick=True) is tls_trust.trusted(quick=True)
    assert machine.bundles_read == 1


@pytest.mark.parametrize("folder", ["empty", "unprepared", "missing", "a file"])
def test_without_a_prepared_folder(machine: Machine, tmp_path: Path, folder: str) -> None:
    """A folder that has no OpenSSL links, or that cannot be read, is not used."""
    place = tmp_path / "place"
    if folder in ("empty", "unprepared"):
        place.mkdir()
    if folder == "unprepared":
        (place / "authority.pem").write_bytes(machine.authority.file.read_bytes())
    if folder == "a file":
        place.touch()
    machine.prepare(place)
    tls_trust.trusted(quick=True)
    assert machine.bundles_read == 1


@pytest.mark.parametrize("system", ["darwin", "win32", "freebsd14"])
def test_other_systems(machine: Machine, monkeypatch: pytest.MonkeyPatch, system: str) -> None:
    """On other systems than Linux, the bundle is read, because only Linux distributions prepare such a folder."""
    monkeypatch.setattr("sys.platform", system)
    tls_trust.trusted(quick=True)
    assert machine.bundles_read == 1


def test_both_contexts_check_alike(machine: Machine) -> None:  # noqa: ARG001 - its folder
    """The quick context differs from the usual context only in its certificates."""
    quick, full = tls_trust.trusted(quick=True), tls_trust.trusted()
    assert quick is not full
    names = ("verify_flags", "verify_mode", "check_hostname", "options", "minimum_version", "maximum_version")
    assert {name: getattr(quick, name) for name in names} == {name: getattr(full, name) for name in names}
    assert [each["name"] for each in quick.get_ciphers()] == [each["name"] for each in full.get_ciphers()]


def test_key_logging_counts_for_the_quick_context(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The quick context writes to SSLKEYLOGFILE. An unwritable file is an error that names the variable."""
    monkeypatch.setenv("SSLKEYLOGFILE", str(tmp_path / "keys"))
    ask(machine.authority)
    assert "CLIENT_" in (tmp_path / "keys").read_text()
    monkeypatch.setenv("SSLKEYLOGFILE", str(tmp_path / "no-such-folder" / "keys"))
    with pytest.raises(StoreOutage, match="SSLKEYLOGFILE"):
        ask(machine.authority)
    assert Path(machine.bundle).stat().st_size == 0
