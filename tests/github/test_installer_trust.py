"""The real uv and pip trust the certificates that this project trusts, for an index behind a company's certificate."""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import subprocess
import sys
import time
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from kis_token.errors import EnvironmentFault
from kis_token.github.installer import PACKAGES, install
from kis_token.sandbox.loopback import LoopbackServer, Request, Response
from tests.authority import make_authority
from tests.support import first_of
from tools.certificate import make_hashed_folder

if TYPE_CHECKING:
    import ssl
    from collections.abc import Iterator

CHECKOUT = Path(__file__).resolve().parents[2]
UV = shutil.which("uv", path=os.pathsep.join([str(CHECKOUT / "build" / "uv" / "bin"), os.environ.get("PATH", "")]))


def make_wheel() -> bytes:
    """Return a wheel with an empty module for each name that the chain imports."""
    modules = [f"{package}/__init__.py" for package in (*PACKAGES, "cryptography/hazmat/bindings/_rust")]
    info = "package-1.dist-info"
    files = {
        **dict.fromkeys(modules, ""),
        f"{info}/METADATA": "Metadata-Version: 2.1\nName: package\nVersion: 1\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: a-test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    files[f"{info}/RECORD"] = "".join(f"{name},,\n" for name in (*files, f"{info}/RECORD"))
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for name, text in files.items():
            archive.writestr(name, text)
    return packed.getvalue()


WHEEL = make_wheel()
PAGE = '<!DOCTYPE html><html><body><a href="/package-1-py3-none-any.whl">package-1-py3-none-any.whl</a></body></html>'


class Index(LoopbackServer):
    """A package index with one package. ``agents`` has the names of the programs that have sent requests."""

    def __init__(self, tls: ssl.SSLContext) -> None:
        super().__init__(self.serve, tls=tls)
        self.agents: set[str] = set()

    def serve(self, request: Request) -> Response:
        """Return the page of the package, or its wheel."""
        self.agents.add(f"{request.headers['User-Agent']}".partition("/")[0])
        if request.path.endswith(".whl"):
            return Response(200, WHEEL, {"Content-Type": "application/octet-stream"})
        if request.path.endswith("/package/"):
            return Response(200, PAGE.encode(), {"Content-Type": "text/html"})
        return Response(404, b"", {"Content-Type": "text/html"})


@pytest.fixture
def index(tmp_path: Path) -> Iterator[tuple[Index, str]]:
    """The index, and the certificate to trust."""
    authority = make_authority(tmp_path)
    with Index(authority.server()) as server:
        yield server, str(authority.file)


@pytest.fixture
def installer(request: pytest.FixtureRequest, tmp_path: Path, child_processes: None) -> str:  # noqa: ARG001 - the installer's
    """The PATH of a machine with uv, and of a machine where only pip can install."""
    folder = tmp_path / "bin"
    folder.mkdir()
    if request.param == "uv":
        if UV is None:
            pytest.skip("there is no uv on this machine")
        (folder / "uv").symlink_to(UV)
    elif subprocess.call([sys._base_executable, "-I", "-c", "import pip"]):  # type: ignore[attr-defined]  # not in typeshed
        pytest.skip("there is no pip on this machine")
    return str(folder)


def install_from(index: Index, folder: Path, path: str, env: dict[str, str]) -> Path:
    """Install the index's package, and return its folder."""
    lock = f"package==1 --hash=sha256:{hashlib.sha256(WHEEL).hexdigest()}\n"
    url = f"{index.url}/simple"
    direct = {"PATH": path, "PIP_INDEX_URL": url, "PIP_RETRIES": "0", "UV_DEFAULT_INDEX": url, "UV_HTTP_RETRIES": "0"}
    install(lock, folder / "runtime", direct | env, time.monotonic() + 120)
    return folder / "runtime"


@pytest.mark.parametrize(
    ("installer", "variable"),
    first_of(
        3,
        [
            ("uv", "REQUESTS_CA_BUNDLE"),
            ("pip", "SSL_CERT_FILE"),
            ("uv", "SSL_CERT_DIR"),
            ("uv", "CURL_CA_BUNDLE"),
            ("uv", "SSL_CERT_FILE"),
            ("pip", "PIP_CONFIG_FILE"),
        ],
    ),
    indirect=["installer"],
)
def test_each_variable_alone_counts_for_the_installers(
    index: tuple[Index, str], tmp_path: Path, installer: str, variable: str
) -> None:
    """The installers uv and pip get one file with all certificates.

    Without this file, uv ignores REQUESTS_CA_BUNDLE, and older versions of pip ignore SSL_CERT_FILE. The file of all
    certificates also has a certificate that pip's own settings name.
    """
    server, certificate = index
    named = certificate
    if variable == "SSL_CERT_DIR":
        named = str(make_hashed_folder(certificate, tmp_path / "hashed"))
    elif variable == "PIP_CONFIG_FILE":
        named = str(tmp_path / "pip.conf")
        Path(named).write_text(f"[global]\ncert = {certificate}\n")

    runtime = install_from(server, tmp_path, installer, {variable: named})

    assert (runtime / "requests" / "__init__.py").exists()
    assert server.agents == {"uv" if (Path(installer) / "uv").exists() else "pip"}


@pytest.mark.parametrize("installer", ["uv"], indirect=True)
def test_an_index_that_nothing_vouches_for_gets_no_request(
    index: tuple[Index, str], tmp_path: Path, installer: str
) -> None:
    """If no variable names a certificate, uv and pip still check certificates, and no package is installed."""
    server, _ = index
    with pytest.raises(EnvironmentFault):
        install_from(server, tmp_path, installer, {})
    assert server.agents == set()
