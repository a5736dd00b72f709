"""The runtime's folder is built once, is complete or missing, and is built again if it is damaged."""

from __future__ import annotations

import os
import re
import shutil
import sys
from typing import TYPE_CHECKING

import pytest

from kis_token.errors import EnvironmentFault
from kis_token.github import runtime as bootstrap
from kis_token.github.runtime import forget_runtime, runtime_name
from kis_token.github.runtime_manifest import MANIFEST, find_damage, write_manifest

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.github.installer_machine import Machine

if sys.platform == "win32":
    pytest.skip("the stand-ins for installers are scripts with an interpreter line", allow_module_level=True)


def test_built_once_and_found_again(machine: Machine) -> None:
    """The first call installs, and the second call finds the folder by its name, which comes from lock and Python."""
    machine.put("uv")
    first, second = machine.ensure(), machine.ensure()
    assert first == second == machine.root / runtime_name("package==1 --hash=sha256:00\n")
    assert (first / "whole").exists()
    assert machine.calls() == ["uv"]


def test_another_lock_is_another_folder(machine: Machine) -> None:
    """A release with another lock gets another folder, and the earlier release's folder stays.

    A lock with other line endings leads to the same folder.
    """
    machine.put("uv")
    machine.ensure()
    (machine.folder / "requirements.txt").write_bytes(b"package==2 --hash=sha256:00\n")
    machine.ensure()
    (machine.folder / "requirements.txt").write_bytes(b"package==2 --hash=sha256:00\r\n")
    machine.ensure()
    assert machine.calls() == ["uv", "uv"]
    assert len(machine.folders()) == 2


def test_only_packages_of_the_lock_are_installed(machine: Machine) -> None:
    """The installer requires hashes, builds no source, adds no other package, and installs for this Python."""
    machine.put("uv")
    machine.ensure()
    (arguments,) = machine.calls("argv")
    assert {"--require-hashes", "--no-deps", "--only-binary", "--no-python-downloads"} <= set(arguments)
    assert arguments[arguments.index("--only-binary") + 1] == ":all:"
    assert arguments[arguments.index("--python") + 1] == sys.executable
    assert machine.calls("lock") == [(machine.folder / "requirements.txt").read_text()]


@pytest.mark.parametrize("machine_name", ["arm64", "x86_64"])
def test_on_macos_each_machine_has_its_runtime(monkeypatch: pytest.MonkeyPatch, machine_name: str) -> None:
    """On macOS, a universal2 Python runs on arm64 and x86_64, so the runtime's name has the machine's type."""
    seen = os.uname_result(("Darwin", "runner", "24.0", "", machine_name))
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr("sysconfig.get_platform", lambda: "macosx-11.0-universal2")
    monkeypatch.setattr("os.uname", lambda: seen)
    assert f"-macosx-11.0-universal2-{machine_name}" in runtime_name("package==1\n")


def move_away(runtime: Path) -> Path:
    """Move the runtime to another folder, so that its place is empty."""
    runtime.rename(runtime.with_name("away"))
    return runtime


DAMAGE: dict[str, Callable[[Path], object]] = {
    "package missing": lambda runtime: shutil.rmtree(runtime / "requests"),
    "file missing": lambda runtime: (runtime / "requests" / "__init__.py").unlink(),
    "file cut": lambda runtime: os.truncate(runtime / "whole", 2),
    "file empty": lambda runtime: os.truncate(runtime / "whole", 0),
    "file changed": lambda runtime: (runtime / "whole").write_text("HALF"),
    "file added": lambda runtime: (runtime / "sitecustomize.py").touch(),
    "file open to others": lambda runtime: (runtime / "whole").chmod(0o666),
    "manifest missing": forget_runtime,
    "manifest cut": lambda runtime: os.truncate(runtime / MANIFEST, 100),
    "file in its place": lambda runtime: move_away(runtime).touch(),
    "link in its place": lambda runtime: move_away(runtime).symlink_to("away"),
    "dangling link in its place": lambda runtime: move_away(runtime).symlink_to("nowhere"),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_damaged_runtime_is_built_again(machine: Machine, name: str) -> None:
    """A damaged folder is replaced by one new build."""
    machine.put("uv")
    runtime = machine.ensure()
    DAMAGE[name](runtime)
    assert find_damage(machine.ensure()) is None
    assert machine.ensure() == runtime
    assert machine.calls() == ["uv", "uv"]
    assert {each for each in machine.folders() if each != "away"} == {runtime.name}


def test_a_runtime_that_is_damaged_again_is_one_clear_error(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    """If a new build is damaged right after it ends, the error names the damage, and no second build starts."""

    def write_and_spoil(folder: Path) -> None:
        write_manifest(folder)
        os.truncate(folder / "whole", 1)

    machine.put("uv")
    monkeypatch.setattr(bootstrap, "write_manifest", write_and_spoil)
    with pytest.raises(EnvironmentFault) as caught:
        machine.ensure()
    assert caught.value.code == "runtime-failed"
    assert caught.value.args[0].endswith("right after their installation: whole has 1 bytes instead of 4")
    assert machine.calls() == ["uv"]


def test_a_copied_runtime_is_used(machine: Machine) -> None:
    """A copy without the original times, such as from an image, is undamaged."""
    machine.put("uv")
    runtime = machine.ensure()
    shutil.copytree(runtime, runtime.with_name("copy"), copy_function=shutil.copyfile)
    shutil.rmtree(runtime)
    runtime.with_name("copy").rename(runtime)
    assert machine.ensure() == runtime
    assert machine.calls() == ["uv"]


def test_another_c_library_is_another_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    """A tool cache for machines with different C libraries has a runtime's folder for each library.

    The folder's name is valid even if a C library reports no version.
    """
    names = set()
    for version in ("glibc 2.31", "glibc 2.39", None):
        monkeypatch.setattr(os, "confstr", lambda _, version=version: version)
        names.add(runtime_name(""))
    monkeypatch.delattr(os, "confstr")
    names.add(runtime_name(""))
    assert len(names) == 3
    assert all(re.fullmatch(r"[\w.-]+", name) for name in names)
