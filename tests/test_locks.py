"""The locked requirements are complete, have hashes, and contain no unused packages."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import zipfile
from typing import TYPE_CHECKING

import pytest
from packaging.markers import Marker

from kis_token.setup.workflow_files import EXAMPLES
from tools import platforms
from tools.step import CHECKOUT

if TYPE_CHECKING:
    from pathlib import Path

LOCKS = ("requirements.txt", "requirements-dev.txt", "requirements-uv.txt")

_IMPORT_ALL = """
import importlib, json, pkgutil, sys
sys.path[:0] = sys.argv[1:]
import kis_token
names = [module.name for module in pkgutil.walk_packages(kis_token.__path__, "kis_token.")
         if module.name.split(".")[1] not in ("__main__", "cli", "sandbox")
         and module.name not in ("kis_token.store.httpx_transport", "kis_token.client.httpx_auth")]
for name in names:
    importlib.import_module(name)
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
import filelock, platformdirs
roots = {name.partition(".")[0] for name in sys.modules}
print(json.dumps([names, sorted(roots)]))
"""


@pytest.mark.parametrize("lock", LOCKS)
def test_every_requirement_is_pinned_and_hashed(lock: str) -> None:
    """Each requirement has one exact version and a hash; no line names an index, a path or an option."""
    text = re.sub(r"\\\n", " ", (CHECKOUT / lock).read_text())
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]

    assert lines
    for line in lines:
        assert re.match(r"[a-z0-9][a-z0-9._-]*==[^ ;]+ ", line), line
        assert "--hash=sha256:" in line
    assert "://" not in text


MACHINES = (
    ("linux", "x86_64", "50"),
    ("linux", "aarch64", "50"),
    ("darwin", "x86_64", "48"),
    ("darwin", "arm64", "50"),
    ("win32", "AMD64", "50"),
    ("win32", "ARM64", "46"),
)


@pytest.mark.parametrize("lock", ["requirements.txt", "requirements-dev.txt"])
@pytest.mark.parametrize(("system", "machine", "newest"), MACHINES)
def test_each_platform_has_one_version_of_each_package(lock: str, system: str, machine: str, newest: str) -> None:
    """Each Python has one version of each package. cryptography has the newest version with wheels, or a newer one."""
    for python in platforms.PYTHONS:
        environment = {
            "sys_platform": system,
            "platform_machine": machine,
            "python_version": python,
            "python_full_version": f"{python}.1",
            "implementation_name": "cpython",
            "platform_python_implementation": "CPython",
        }
        lines = re.findall(r"(?m)^([^ #-]\S*)(?: ; ([^\\]*))? \\", (CHECKOUT / lock).read_text())
        pins = [pin for pin, marker in lines if not marker or Marker(marker).evaluate(environment)]
        names = [pin.partition("==")[0] for pin in pins]
        assert len(names) == len(set(names))
        (cryptography,) = (pin.partition("==")[2] for pin in pins if pin.startswith("cryptography=="))
        assert int(cryptography.partition(".")[0]) >= int(newest)


def test_runtime_has_no_unneeded_package() -> None:
    """The runtime has the packages that a step imports.

    The runtime lacks packages that only the command or the library imports.

    The runtime also lacks PyGithub and PyGithub's dependencies, because actions_toolkit.core never imports them.
    """
    names = set(re.findall(r"^([a-z0-9._-]+)==", (CHECKOUT / "requirements.txt").read_text(), re.MULTILINE))

    assert {"requests", "actions-toolkit", "cryptography", "filelock", "platformdirs"} <= names
    assert not names & {"pygithub", "pynacl", "deprecated", "wrapt", "click", "colorama"}
    assert not names & {"supabase", "postgrest", "httpx", "pydantic"}


@pytest.mark.usefixtures("child_processes")
def test_runtime_lock_is_enough_for_every_module(sealing_runtime: Path) -> None:
    """With only the locked packages and the standard library, each module that a step may need can be imported."""
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-X", "utf8", "-c", _IMPORT_ALL, str(CHECKOUT), str(sealing_runtime)],
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    names, roots = json.loads(done.stdout)
    assert {
        "kis_token.github.action",
        "kis_token.store.supabase",
        "kis_token.kis.api",
        "kis_token.core.resolver",
    } <= set(names)
    assert not {"github", "nacl"} & set(roots)


@pytest.mark.usefixtures("child_processes")
def test_wheel_carries_the_migrations_and_workflows(tmp_path: Path) -> None:
    """The wheel has the package, its type marker, and the files that init writes: sql/ and the workflows."""
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(tmp_path)],
        cwd=CHECKOUT,
        capture_output=True,
        check=True,
    )
    wheel = next(tmp_path.glob("*.whl"))

    names = set(zipfile.ZipFile(wheel).namelist())

    assert {
        "kis_token/py.typed",
        "kis_token/sql/001_api_credentials.sql",
        "kis_token/sql/002_issuance.sql",
        "kis_token/sandbox/emulator.py",
        *(f"kis_token/workflows/{name}" for names in EXAMPLES.values() for name in names),
    } <= names
    assert not any(name.startswith(("tests/", "tools/")) for name in names)
