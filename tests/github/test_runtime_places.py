"""The runtime's place: a folder that no other user can change."""

from __future__ import annotations

import os
import signal
import sys
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from kis_token.errors import EnvironmentFault
from kis_token.github.runtime import runtime_name

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.github.installer_machine import Machine

if sys.platform == "win32":
    pytest.skip("the stand-ins for installers are scripts with an interpreter line", allow_module_level=True)


@pytest.mark.parametrize("mode", [0o777, 0o770, 0o702], ids=oct)
def test_folder_that_others_may_write_is_not_trusted(machine: Machine, mode: int) -> None:
    """A folder that other users can write is skipped, because they may have put packages there."""
    machine.put("uv")
    trap = machine.root / runtime_name((machine.folder / "requirements.txt").read_text())
    trap.mkdir(parents=True)
    machine.root.chmod(mode)
    runtime = machine.ensure(env={"RUNNER_TEMP": str(machine.folder / "temp")})
    assert runtime.parent == machine.folder / "temp" / "kis-token-action"


@pytest.mark.parametrize(("mode", "is_used"), [(0o777, False), (0o1777, True)], ids=["open", "sticky"])
def test_place_below_an_open_folder_is_passed_by(machine: Machine, mode: int, is_used: bool) -> None:  # noqa: FBT001 - a table
    """A place is skipped if other users can write the folder above: they could replace the place after the check."""
    machine.put("uv")
    machine.root.parent.mkdir()
    machine.root.parent.chmod(mode)
    runtime = machine.ensure(env={"RUNNER_TEMP": str(machine.folder / "temp")})
    assert runtime.is_relative_to(machine.root) is is_used


@pytest.mark.parametrize(
    ("depth", "mode"),
    [
        *((1, mode) for mode in (0o775, 0o770, 0o777, 0o2775)),
        *((depth, 0o775) for depth in (2, 3)),
        *(pytest.param(depth, mode, marks=pytest.mark.matrix) for depth in (2, 3) for mode in (0o770, 0o777, 0o2775)),
    ],
)
def test_place_below_a_folder_that_others_may_write_is_passed_by(machine: Machine, mode: int, depth: int) -> None:
    """If a group can write a folder above a place, the place is skipped: a member could replace the place."""
    machine.put("uv")
    tools = machine.folder / "a" / "b" / "c"
    tools.mkdir(parents=True)
    (tools, *tools.parents)[depth - 1].chmod(mode)
    env = {"RUNNER_TOOL_CACHE": str(tools), "RUNNER_TEMP": str(machine.folder / "temp")}
    assert machine.ensure(env=env).is_relative_to(machine.folder / "temp")


needs_root = pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root can give a folder away"
)


@needs_root
@pytest.mark.parametrize("mode", [0o700, 0o755])
@pytest.mark.parametrize("depth", [0, 1, 2])
def test_place_below_a_folder_of_another_user_is_passed_by(machine: Machine, mode: int, depth: int) -> None:
    """A place is skipped if another user owns the place or a folder above. If no place is left, an error is raised."""
    machine.put("uv")
    machine.root.mkdir(parents=True)
    for folder in (machine.root, machine.root.parent):
        folder.chmod(0o700)
    tools = machine.folder / "far" / "tools"
    tools.parent.mkdir(mode=0o755)
    machine.root.parent.rename(tools)
    owned = (tools / machine.root.name, tools, tools.parent)[depth]
    os.chown(owned, 65534, 65534)
    owned.chmod(mode)
    with pytest.raises(EnvironmentFault) as caught:
        machine.ensure(env={"RUNNER_TOOL_CACHE": str(tools)})
    assert (caught.value.code, machine.calls()) == ("runtime-failed", [])
    assert f"({owned}" in caught.value.args[0]
    assert "belongs to another user" in caught.value.args[0]
    env = {"RUNNER_TOOL_CACHE": str(tools), "RUNNER_TEMP": str(machine.folder / "temp")}
    assert machine.ensure(env=env).is_relative_to(machine.folder / "temp")


@needs_root
def test_place_behind_a_link_to_another_user_s_folder_is_passed_by(machine: Machine) -> None:
    """If a place is behind a symbolic link, the target of the link and the folders above the target are checked."""
    machine.put("uv")
    (machine.folder / "his" / "inside").mkdir(parents=True)
    os.chown(machine.folder / "his", 65534, -1)
    (machine.folder / "mine").mkdir(mode=0o700)
    (machine.folder / "mine" / "link").symlink_to(machine.folder / "his" / "inside")
    tools = machine.folder / "mine" / "link" / "tools"
    env = {"RUNNER_TOOL_CACHE": str(tools), "RUNNER_TEMP": str(machine.folder / "temp")}
    assert machine.ensure(env=env).is_relative_to(machine.folder / "temp")
    assert list((machine.folder / "his" / "inside").iterdir()) == []


@pytest.fixture
def swapped() -> Iterator[Path]:
    """Yield a tool cache that another user, who can write the folder above, replaces by his own again and again."""
    with tempfile.TemporaryDirectory() as folder:
        top = Path(folder)
        for name, owner in (("tools", 0), ("his", 65534)):
            (top / name / "kis-token-action").mkdir(parents=True, mode=0o700)
            os.chown(top / name, owner, -1)
            os.chown(top / name / "kis-token-action", owner, -1)
        top.chmod(0o777)
        child = os.fork()
        if not child:
            with suppress(BaseException):
                os.setgroups([])
                os.setgid(65534)
                os.setuid(65534)
                while top.exists():
                    for source, target in (("tools", "away"), ("his", "tools"), ("tools", "his"), ("away", "tools")):
                        (top / source).rename(top / target)
            os._exit(0)
        yield top / "tools"
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


@needs_root
def test_a_folder_that_is_swapped_all_the_time_is_never_used(machine: Machine, swapped: Path) -> None:
    """While another user exchanges the tool cache, no path in it is returned, and no file is written there."""
    machine.put("uv")
    env = {"RUNNER_TOOL_CACHE": str(swapped), "RUNNER_TEMP": str(machine.folder / "temp")}
    owners = set()
    for _ in range(300):
        assert machine.ensure(env=env).is_relative_to(machine.folder / "temp")
        with suppress(FileNotFoundError):
            owners.add(swapped.stat().st_uid)
    assert owners == {0, 65534}, "it was not swapped"
    assert [name for *_, files in os.walk(swapped.parent) for name in files] == []


def test_folder_is_closed_to_others(machine: Machine) -> None:
    """No other user can write the folder of the packages, whatever the umask is."""
    machine.put("uv")
    before = os.umask(0)
    try:
        machine.ensure()
    finally:
        os.umask(before)
    assert machine.root.stat().st_mode & 0o077 == 0
