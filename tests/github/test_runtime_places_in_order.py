"""The order of the runtime's places, and the errors if no place can be used."""

from __future__ import annotations

import os
import sys
import time
from contextlib import ExitStack

import pytest

from kis_token.errors import EnvironmentFault
from kis_token.github.runtime import RESERVE_SECONDS, ensure_runtime
from kis_token.github.runtime_manifest import find_damage
from tests.github.installer_machine import Machine, fail

if sys.platform == "win32":
    pytest.skip("the stand-ins for installers are scripts with an interpreter line", allow_module_level=True)


PLACES = ["RUNNER_TOOL_CACHE", "XDG_CACHE_HOME", "HOME", "RUNNER_TEMP"]


@pytest.mark.parametrize("place", PLACES)
def test_place_is_the_first_that_can_be_used(machine: Machine, place: str) -> None:
    """The order of places is tool cache, user's cache folder, job's own folder. A place that is a file is skipped."""
    machine.put("uv")
    (machine.folder / "file").write_text("")
    places = {
        name: str(machine.folder / ("file" if PLACES.index(name) < PLACES.index(place) else name)) for name in PLACES
    }
    if place == "HOME":
        del places["XDG_CACHE_HOME"]
    assert machine.ensure(env=places).is_relative_to(machine.folder / place)


def open_home(machine: Machine) -> dict[str, str]:
    """Make all usual places lie below a folder of mode 0777, as on GitHub's own image for runner pods."""
    home = machine.folder / "home"
    for name in ("tools", "temp", ".cache"):
        (home / name).mkdir(parents=True)
    home.chmod(0o777)
    (machine.folder / "tmp").mkdir()
    (machine.folder / "tmp").chmod(0o1777)
    places = {"RUNNER_TOOL_CACHE": "tools", "RUNNER_TEMP": "temp", "HOME": ""}
    return {name: str(home / place) for name, place in places.items()} | {"TMPDIR": str(machine.folder / "tmp")}


def test_where_all_places_are_open_a_folder_for_this_run_is_made(machine: Machine) -> None:
    """If all places are open to others, the run gets a new private folder, which is removed at the end."""
    machine.put("uv")
    env = open_home(machine)
    used = set()
    for _ in range(2):
        with ExitStack() as end:
            runtime = machine.ensure(env=env, end=end)
            assert find_damage(runtime) is None
            assert runtime.parent.parent == machine.folder / "tmp"
            assert runtime.parent.stat().st_mode & 0o777 == 0o700
            used.add(runtime)
        assert list((machine.folder / "tmp").iterdir()) == []
    assert len(used) == 2
    assert [path for path in (machine.folder / "home").rglob("*") if path.is_file()] == []


@pytest.mark.usefixtures("no_pip")
def test_folder_for_this_run_is_removed_after_a_failure_too(machine: Machine) -> None:
    """If no installer works, the folder that was made for this run is removed."""
    env = open_home(machine)
    machine.put("uv", fail("no"))
    with pytest.raises(EnvironmentFault), ExitStack() as end:
        machine.ensure(RESERVE_SECONDS + 3, env, end)
    assert list((machine.folder / "tmp").iterdir()) == []


def test_folder_of_a_run_that_was_killed_is_removed_by_a_later_one(machine: Machine) -> None:
    """A killed run's folder is removed after a day. Younger folders and folders with other names stay."""
    machine.put("uv")
    env = open_home(machine)
    old, young, other = (
        machine.folder / "tmp" / f"{name}-1" for name in ("kis-token-action", "kis-token-action-2", "x")
    )
    for each in (old, young, other):
        (each / "inside").mkdir(parents=True)
    for each in (old, other):
        os.utime(each, (0, 0))
    with ExitStack() as end:
        machine.ensure(env=env, end=end)
    assert sorted((machine.folder / "tmp").iterdir()) == sorted([young, other])


def test_open_temporary_folder_is_passed_by(machine: Machine) -> None:
    """If TMPDIR is open to all users and not sticky, the system's temporary folder replaces TMPDIR."""
    machine.put("uv")
    env = open_home(machine)
    (machine.folder / "tmp").chmod(0o777)
    with ExitStack() as end:
        runtime = machine.ensure(env=env, end=end)
        assert not runtime.is_relative_to(machine.folder)
        assert find_damage(runtime) is None
    assert not runtime.exists()


def test_without_a_place_each_folder_is_named_with_its_fault(machine: Machine) -> None:
    """The error lists each folder with the reason, and can be printed even if a name is not valid text."""
    env = open_home(machine)
    file = machine.folder / "file"
    file.touch()
    places = {"RUNNER_TOOL_CACHE": f"{file}/\udcff", "XDG_CACHE_HOME": str(machine.folder / "home" / ".cache")}
    with pytest.raises(EnvironmentFault) as caught:
        machine.ensure(env=env | places)
    seen = caught.value.args[0]
    assert seen == (
        "There is no folder to install packages into: "
        f"{file}/\ufffd ({file}: Not a directory); "
        f"{machine.folder}/home/.cache ({machine.folder}/home: other users may write it); "
        f"{machine.folder}/home/temp ({machine.folder}/home: other users may write it)"
    )


def test_without_a_variable_the_error_says_so(machine: Machine) -> None:
    """If no environment variable names a folder, the error reports that no variable names one."""
    with pytest.raises(EnvironmentFault, match="no variable names one"):
        ensure_runtime(machine.folder / "requirements.txt", {}, time.monotonic() + 90)


def test_nowhere_to_build_is_one_clear_error(machine: Machine) -> None:
    """If no place can be used, the error has the code runtime-failed."""
    (machine.folder / "tools").write_text("")
    with pytest.raises(EnvironmentFault) as caught:
        machine.ensure()
    assert caught.value.code == "runtime-failed"
