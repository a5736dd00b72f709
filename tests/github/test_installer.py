"""Real installers, with the machine's settings of pip and uv, and with packages without a wheel for this Python.

The tests make the packages and serve them on a loopback index.
"""

from __future__ import annotations

import functools
import http.server
import re
import subprocess
import sys
import threading
import time
import zipfile
from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING

import pytest

from kis_token.errors import EnvironmentFault
from kis_token.github.installer import PACKAGES, install, without_sealing
from kis_token.github.installer_settings import select_variables, write_uv_file
from tests.support import first_of
from tools.step import CHECKOUT

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

OTHER_PLATFORM = "cp39-cp39-win_arm64" if sys.platform != "win32" else "cp39-cp39-macosx_11_0_arm64"


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    """Serves a folder, and logs no requests."""

    def log_message(self, *_: object) -> None:
        """Print nothing."""


@dataclass(frozen=True)
class Index:
    """A folder with a package index, and its address."""

    folder: Path
    url: str

    def add(self, name: str, files: list[str], tag: str = "py3-none-any") -> str:
        """Put a package on the index, and return its line for a lock."""
        place = self.folder / name
        place.mkdir()
        wheel = place / f"{name}-1.0-{tag}.whl"
        info = f"{name}-1.0.dist-info"
        with zipfile.ZipFile(wheel, "w") as archive:
            for file in files:
                archive.writestr(file, "")
            archive.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
            archive.writestr(f"{info}/WHEEL", f"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: {tag}\n")
            archive.writestr(f"{info}/RECORD", "".join(f"{each},,\n" for each in [*files, f"{info}/RECORD"]))
        return f"{name}==1.0 \\\n    --hash=sha256:{sha256(wheel.read_bytes()).hexdigest()}\n"


@pytest.fixture
def index(tmp_path: Path) -> Iterator[Index]:
    """An index without packages."""
    folder = tmp_path / "index"
    folder.mkdir()
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(QuietHandler, directory=f"{folder}"))
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield Index(folder, f"http://127.0.0.1:{server.server_port}/")
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(scope="session")
def uv(tmp_path_factory: pytest.TempPathFactory, child_processes: None) -> Path:  # noqa: ARG001 - pip
    """The folder of a real uv: the uv that ``make`` has installed, or a uv that pip installs."""
    folder = CHECKOUT / "build" / "uv"
    if not folder.exists():
        folder = tmp_path_factory.mktemp("uv")
        lock = ["--require-hashes", "--only-binary", ":all:", "-r", f"{CHECKOUT / 'requirements-uv.txt'}"]
        subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", "--target", folder, *lock], check=True)
    return next(path.parent for path in folder.glob("*/uv*") if path.stem == "uv")


@dataclass(frozen=True)
class Job:
    """A machine with its index, its settings, and a lock to install."""

    folder: Path
    index: Index

    @property
    def target(self) -> Path:
        """The folder for the packages."""
        return self.folder / "tools" / "runtime"

    def install(self, lock: str, env: dict[str, str], path: Path | str = "") -> None:
        """Install the lock with the given settings, and with the programs in ``path``."""
        self.target.parent.mkdir(mode=0o700, exist_ok=True)
        machine = {"PATH": f"{path}", "HOME": f"{self.folder / 'home'}"}
        install(lock, self.target, machine | env, time.monotonic() + 60)

    def write(self, name: str, text: str) -> str:
        """Write a file with settings, and return its path."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return f"{path}"


@pytest.fixture
def job(tmp_path: Path, index: Index, child_processes: None, monkeypatch: pytest.MonkeyPatch) -> Job:  # noqa: ARG001 - pip and uv
    """A job in a folder of its own, on a machine without settings."""
    (tmp_path / "home").mkdir(mode=0o700)
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    return Job(tmp_path, index)


@pytest.fixture
def lock(index: Index) -> str:
    """A lock of two packages, which contain all modules that the chain imports."""
    rest = [f"{name}/__init__.py" for name in PACKAGES]
    return index.add("rest", rest) + index.add("cryptography", ["cryptography/hazmat/bindings/_rust.py"])


#: Settings of pip. Each setting would install other packages, use another folder, or prevent the installation.
CONTRADICTIONS = {
    "constraint": "constraints.txt",
    "requirement": "more.txt",
    "editable": "nowhere",
    "prefix": "/nonexistent/prefix",
    "target": "/nonexistent/target",
    "root": "/nonexistent/root",
    "user": "true",
    "require-virtualenv": "true",
    "no-binary": ":all:",
    "only-binary": ":none:",
    "platform": "win_arm64",
    "python-version": "2.7",
    "implementation": "pp",
    "abi": "none",
    "dry-run": "true",
    "report": "/nonexistent/report",
    "log": "/nonexistent/log",
    "python": "/nonexistent/python",
    "uploaded-prior-to": "2001-01-01",
    "no-deps": "false",
    "require-hashes": "false",
    "break-system-packages": "false",
    "isolated": "true",
    "progress-bar": "nonsense",
    "quiet": "3",
}


@pytest.mark.parametrize("section", first_of(1, ["global", "install"]))
def test_pip_s_contradicting_settings_play_no_part(job: Job, lock: str, section: str) -> None:
    """From the job's settings, pip gets only the index, and no constraint, folder, platform or date."""
    variables = {"PIP_" + name.replace("-", "_").upper(): value for name, value in CONTRADICTIONS.items()}
    contradicting = "".join(f"{name} = {value}\n" for name, value in CONTRADICTIONS.items())
    job.write("home/.config/pip/pip.conf", f"[{section}]\n{contradicting}index-url = {job.index.url}\n")
    more = {"APPDATA": f"{job.folder / 'home' / '.config'}", "_PYTHON_HOST_PLATFORM": "macosx-11.0-arm64"}
    job.install(lock, variables | more)
    assert (job.target / "requests").is_dir()


def test_relative_paths_are_those_of_the_job(job: Job, lock: str) -> None:
    """PIP_CONFIG_FILE and find-links are relative to the job's folder, although pip runs in another folder."""
    job.write("work/ci/pip.conf", "[global]\nno-index = true\nfind-links =\n    nowhere\n    wheels\n")
    (job.folder / "work" / "wheels").mkdir()
    for wheel in job.index.folder.glob("*/*.whl"):
        wheel.rename(job.folder / "work" / "wheels" / wheel.name)
    job.install(lock, {"PIP_CONFIG_FILE": "ci/pip.conf"})
    assert (job.target / "requests").is_dir()


UV_VARIABLES = {
    "UV_CONSTRAINT": "constraints.txt",
    "UV_BUILD_CONSTRAINT": "constraints.txt",
    "UV_OVERRIDE": "overrides.txt",
    "UV_EXCLUDE": "excludes.txt",
    "UV_EXCLUDE_NEWER": "2001-01-01",
    "UV_NO_BINARY": "1",
    "UV_NO_BINARY_PACKAGE": "rest",
    "UV_PYTHON": "2.7",
    "UV_SYSTEM_PYTHON": "1",
    "UV_PYTHON_PREFERENCE": "only-managed",
    "UV_MANAGED_PYTHON": "1",
    "UV_RESOLUTION": "nonsense",
    "UV_PRERELEASE": "nonsense",
    "UV_REQUIRE_HASHES": "0",
    "UV_NO_VERIFY_HASHES": "1",
    "UV_LINK_MODE": "symlink",
    "UV_PROJECT_ENVIRONMENT": "/nonexistent/environment",
    "UV_WORKING_DIR": "/nonexistent/folder",
    "UV_TORCH_BACKEND": "nonsense",
    "UV_COMPILE_BYTECODE": "1",
}

UV_SETTINGS = """
exclude-newer = "2001-01-01"
required-version = ">=99"
no-binary = true
constraint-dependencies = ["rest<1"]
override-dependencies = ["rest==2"]
exclude-dependencies = ["rest"]
nonsense = true
[pip]
target = "/nonexistent/target"
prefix = "/nonexistent/prefix"
python-version = "2.7"
python-platform = "windows"
all-extras = true
verify-hashes = false
nonsense = true
"""

reads_toml = pytest.mark.skipif(sys.version_info < (3, 11), reason="this Python has no reader for TOML")


def test_uv_s_contradicting_variables_play_no_part(job: Job, lock: str, uv: Path) -> None:
    """From the job's variables, uv gets only the index, and no constraint, Python or date. pip is never run."""
    job.install(lock, {**UV_VARIABLES, "UV_DEFAULT_INDEX": job.index.url, "PIP_INDEX_URL": "http://127.0.0.1:9"}, uv)
    assert (job.target / "requests").is_dir()


@reads_toml
@pytest.mark.parametrize("place", ["home/.config/uv/uv.toml", "xdg/uv/uv.toml", "work/ci/uv.toml"])
def test_uv_s_contradicting_files_play_no_part(job: Job, lock: str, uv: Path, place: str) -> None:
    """From a configuration file, uv gets only the index, and no constraint, Python or date."""
    index = f'[[index]]\nname = "loopback"\nurl = "{job.index.url}"\ndefault = true\n'
    job.write(place, UV_SETTINGS.replace("[pip]", index + "[pip]"))
    named = {"UV_CONFIG_FILE": "ci/uv.toml"} if place.startswith("work") else {}
    users = {"APPDATA": f"{job.folder / 'home' / '.config'}"} if place.startswith("home") else {}
    system = {"XDG_CONFIG_DIRS": f"{job.folder / 'xdg'}", "PROGRAMDATA": f"{job.folder / 'xdg'}"}
    job.install(lock, named | users | system | {"PIP_INDEX_URL": "http://127.0.0.1:9"}, uv)
    assert (job.target / "requests").is_dir()


@pytest.mark.parametrize("name", ["uv.toml", "pyproject.toml"])
def test_a_project_above_the_runtime_plays_no_part(job: Job, lock: str, uv: Path, name: str) -> None:
    """A uv.toml or pyproject.toml in a folder above the packages has no effect."""
    job.write(name, "[tool.uv]\nrequired-version = '>=99'\n" if name == "pyproject.toml" else "nonsense = 1\n")
    job.install(lock, {"UV_DEFAULT_INDEX": job.index.url, "PIP_INDEX_URL": "http://127.0.0.1:9"}, uv)
    assert (job.target / "requests").is_dir()


@reads_toml
def test_uv_s_files_are_joined_as_uv_joins_them(job: Job) -> None:
    """A user's value overrides the system's value.

    Lists of user and system are joined. A relative folder in a file is relative to this file.
    """
    (job.folder / "home" / ".config" / "uv" / "wheels").mkdir(parents=True)
    job.write(
        "home/.config/uv/uv.toml",
        'offline = true\nfind-links = ["wheels", "https://wheels.example/"]\n[pip]\nkeyring-provider = "subprocess"\n',
    )
    job.write("xdg/uv/uv.toml", 'offline = false\nfind-links = ["/opt/wheels"]\nindex-url = "https://index.example/"\n')
    places = {"HOME": "home", "XDG_CONFIG_DIRS": "xdg", "APPDATA": "home/.config", "PROGRAMDATA": "xdg"}
    env = {name: f"{job.folder / place}" for name, place in places.items()}
    assert write_uv_file(env, job.folder) == {"UV_CONFIG_FILE": f"{job.folder / 'uv.toml'}"}
    wheels = f"{job.folder / 'home' / '.config' / 'uv' / 'wheels'}"
    assert set((job.folder / "uv.toml").read_text().splitlines()) == {
        "offline = true",
        f'find-links = ["{wheels}", "https://wheels.example/", "/opt/wheels"]',
        'index-url = "https://index.example/"',
        'pip = {"keyring-provider" = "subprocess"}',
    }
    write_uv_file({**env, "UV_NO_CONFIG": "1"}, job.folder)
    assert (job.folder / "uv.toml").read_text() == ""


KEPT = [
    "PIP_INDEX_URL",
    "PIP_EXTRA_INDEX_URL",
    "PIP_NO_INDEX",
    "PIP_FIND_LINKS",
    "PIP_TRUSTED_HOST",
    "PIP_CERT",
    "PIP_CLIENT_CERT",
    "PIP_PROXY",
    "PIP_TIMEOUT",
    "PIP_DEFAULT_TIMEOUT",
    "PIP_RETRIES",
    "PIP_KEYRING_PROVIDER",
    "UV_INDEX",
    "UV_INDEX_URL",
    "UV_DEFAULT_INDEX",
    "UV_EXTRA_INDEX_URL",
    "UV_INDEX_COMPANY_USERNAME",
    "UV_INDEX_COMPANY_PASSWORD",
    "UV_INDEX_STRATEGY",
    "UV_FIND_LINKS",
    "UV_KEYRING_PROVIDER",
    "UV_INSECURE_HOST",
    "UV_NATIVE_TLS",
    "UV_SYSTEM_CERTS",
    "UV_HTTP_TIMEOUT",
    "UV_HTTP_RETRIES",
    "UV_OFFLINE",
    "HTTPS_PROXY",
    "no_proxy",
    "SSL_CERT_FILE",
    "NETRC",
    "PYTHON_KEYRING_BACKEND",
]


@pytest.mark.parametrize("name", KEPT)
def test_package_sources_of_the_machine_are_passed_on(name: str) -> None:
    """Installers get the variables for indexes, credentials, proxies, certificates and network limits."""
    assert select_variables({name: "https://value.example/"}) == {name: "https://value.example/"}


def test_a_broken_file_of_pip_s_plays_no_part(job: Job, lock: str) -> None:
    """If pip cannot read one of its configuration files, pip still installs the packages."""
    job.write("work/pip.conf", "no section\n")
    job.install(lock, {"PIP_CONFIG_FILE": "pip.conf", "PIP_INDEX_URL": job.index.url})
    assert (job.target / "requests").is_dir()


@pytest.mark.usefixtures("no_pip")
def test_a_package_without_a_wheel_is_named_with_this_python(job: Job, lock: str, uv: Path) -> None:
    """If uv finds the version but no wheel for this Python, the error names package, Python and platform."""
    scarce = job.index.add("scarce", [], OTHER_PLATFORM)
    with pytest.raises(EnvironmentFault) as caught:
        job.install(lock + scarce, {"UV_DEFAULT_INDEX": job.index.url, "PIP_INDEX_URL": job.index.url}, uv)
    assert caught.value.code == "platform-unsupported"
    python = rf"Python {sys.version_info.major}\.{sys.version_info.minor} on \S+ \(\S+\)"
    assert re.fullmatch(rf"scarce 1\.0 has no wheel for {python}", caught.value.args[0])


@pytest.mark.parametrize("has_uv", first_of(1, [True, False]))
def test_a_version_that_the_index_lacks_is_not_called_unsupported(job: Job, lock: str, uv: Path, has_uv: bool) -> None:  # noqa: FBT001 - a table
    """If the index lacks a version, as an old mirror may, the error quotes the installer and names the Python."""
    absent = f"absent==1.0 --hash=sha256:{'0' * 64}\n"
    env = {"UV_DEFAULT_INDEX": job.index.url, "PIP_INDEX_URL": job.index.url}
    with pytest.raises(EnvironmentFault) as caught:
        job.install(lock + absent, env, uv if has_uv else "")
    assert caught.value.code == "runtime-failed"
    assert re.search(r"installed for Python 3\.\d+ on \S+ \(\S+\): .*absent==1\.0", caught.value.args[0])


@pytest.mark.parametrize("has_uv", first_of(1, [True, False]))
def test_without_a_key_no_wheel_of_cryptography_is_needed(
    job: Job,
    index: Index,
    uv: Path,
    has_uv: bool,  # noqa: FBT001 - a table
    request: pytest.FixtureRequest,
) -> None:
    """Without a key, the packages other than cryptography are installed.

    With a key, the installation fails, and the error names cryptography.
    """
    if has_uv:
        request.getfixturevalue("no_pip")
    lock = index.add("rest", [f"{name}/__init__.py" for name in PACKAGES])
    lock += index.add("cryptography", [], OTHER_PLATFORM)
    env = {"UV_DEFAULT_INDEX": job.index.url, "PIP_INDEX_URL": job.index.url}
    path = uv if has_uv else ""
    job.install(without_sealing(lock), env, path)
    assert (job.target / "requests").is_dir()
    assert not (job.target / "cryptography").exists()
    with pytest.raises(EnvironmentFault, match=r"cryptography[= ]+1\.0") as caught:
        job.install(lock, env, path)
    assert caught.value.code == ("platform-unsupported" if has_uv else "runtime-failed")


@pytest.mark.usefixtures("no_pip")
def test_other_packages_are_needed_without_a_key_too(job: Job, index: Index, lock: str, uv: Path) -> None:
    """Without a key, only cryptography and its own requirements are left out."""
    scarce = index.add("scarce", [], OTHER_PLATFORM)
    env = {"UV_DEFAULT_INDEX": index.url, "PIP_INDEX_URL": index.url}
    with pytest.raises(EnvironmentFault, match="scarce"):
        job.install(without_sealing(lock + scarce), env, uv)
