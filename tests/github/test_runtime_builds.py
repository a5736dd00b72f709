"""Builds of the runtime that run at the same time, are killed, or take too long."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import sys
import time
from pathlib import Path

import pytest

from kis_token.errors import EnvironmentFault
from kis_token.github.installer import PACKAGES
from kis_token.github.runtime import RESERVE_SECONDS, runtime_name
from kis_token.github.runtime_manifest import MANIFEST, find_damage, write_manifest
from tests.github.installer_machine import WAIT, Machine

if sys.platform == "win32":
    pytest.skip("the stand-ins for installers are scripts with an interpreter line", allow_module_level=True)


LINGER = "signal.signal(signal.SIGALRM, lambda *_: None); signal.setitimer(signal.ITIMER_REAL, 0.3); signal.pause()"


def test_runtime_that_a_scanner_has_open_is_renamed_later(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    """If another program has the finished folder open for a moment, the rename is repeated until it succeeds."""
    machine.put("uv")
    monkeypatch.setattr("kis_token.local.private_files.time.sleep", lambda _: None)
    refusals = iter([True, True])
    rename = Path.rename

    def refuse_at_first(path: Path, target: Path) -> Path:
        if next(refusals, False):
            raise PermissionError(13, "open elsewhere")
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", refuse_at_first)
    assert find_damage(machine.ensure()) is None
    assert machine.calls() == ["uv"]
    assert len(machine.folders()) == 1


def test_two_at_once_build_once(machine: Machine) -> None:
    """If two processes start at the same time, they share one build, and both get the complete runtime."""
    machine.put("uv", LINGER)
    processes = [machine.start() for _ in range(3)]
    ended = [process.communicate(timeout=60)[0].strip() for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0]
    assert set(ended) == {str(machine.ensure())}
    assert machine.calls() == ["uv"]


def test_killed_build_is_never_taken_for_a_finished_one(machine: Machine) -> None:
    """A job that is killed during a build leaves no lock, and no folder that the next job would use."""
    machine.put("uv", WAIT)
    process = machine.start()
    machine.wait_for_calls(1)
    process.kill()
    process.communicate()
    machine.put("uv")
    runtime = machine.ensure()
    os.kill(machine.calls("pid")[0], signal.SIGKILL)
    assert sorted(path.name for path in runtime.iterdir()) == sorted([*PACKAGES, "cryptography", MANIFEST, "whole"])
    assert machine.folders() == [runtime.name]
    assert machine.calls() == ["uv", "uv"]


def test_leftovers_are_cleared_away(machine: Machine) -> None:
    """An earlier job's incomplete folder is removed before the next build. Other releases' folders stay."""
    machine.put("uv")
    name = runtime_name((machine.folder / "requirements.txt").read_text())
    for leftover in (f"{name}.partial-1", f"{name}.partial-1-uv", "another-release"):
        (machine.root / leftover / "inside").mkdir(parents=True)
    machine.root.chmod(0o700)
    machine.ensure()
    assert machine.folders() == sorted([name, "another-release"])


def test_build_that_takes_too_long_is_given_up(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    """The step's time limit covers all installers together, and their leftovers are removed."""
    machine.put("uv", WAIT)
    monkeypatch.setattr(sys, "executable", str(machine.put("python", WAIT)))
    started = time.monotonic()
    with pytest.raises(EnvironmentFault) as caught:
        machine.ensure(RESERVE_SECONDS + 2)
    assert caught.value.code == "runtime-failed"
    assert "too long" in caught.value.args[0]
    assert time.monotonic() - started < 20
    assert machine.folders() == []
    assert set(machine.calls()) == {"uv", "python"}


def test_without_time_left_no_installer_is_started(machine: Machine) -> None:
    """If no time is left, the error appears at once and no installer starts."""
    machine.put("uv")
    with pytest.raises(EnvironmentFault) as caught:
        machine.ensure(RESERVE_SECONDS)
    assert caught.value.code == "timed-out"
    assert machine.calls() == []


def test_waiting_for_another_build_is_bounded(machine: Machine) -> None:
    """If another job's build outlasts this job's time limit, this job fails with the reason."""
    machine.put("uv", WAIT)
    process = machine.start()
    machine.wait_for_calls(1)
    with pytest.raises(EnvironmentFault) as caught:
        machine.ensure(0)
    process.kill()
    process.communicate()
    os.kill(machine.calls("pid")[0], signal.SIGKILL)
    assert caught.value.args[0] == "Another job is still installing the packages"


@pytest.mark.parametrize("name", ["ENOLCK", "EOPNOTSUPP", "ENOSYS", "EINVAL", "EIO"])
def test_without_locks_it_is_built_without_one(machine: Machine, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """On a file system without locks, a job does not wait, and leaves the folders of other jobs alone."""

    def refuse(*_: object) -> None:
        raise OSError(getattr(errno, name), "no locks here")

    machine.put("uv")
    folder = runtime_name((machine.folder / "requirements.txt").read_text())
    (machine.root / f"{folder}.partial-1").mkdir(parents=True)
    machine.root.chmod(0o700)
    monkeypatch.setattr("fcntl.flock", refuse)
    machine.ensure(RESERVE_SECONDS + 5)
    assert machine.folders() == [folder, f"{folder}.partial-1"]
    assert machine.calls() == ["uv"]


def test_two_at_once_without_locks(machine: Machine) -> None:
    """Without locks, each job builds for itself, and every job gets a complete runtime."""
    no_locks = """
import errno, fcntl
def refuse(*_):
    raise OSError(errno.ENOLCK, "no locks here")
fcntl.flock = refuse
"""
    machine.put("uv", LINGER)
    processes = [machine.start(no_locks) for _ in range(3)]
    ended = [process.communicate(timeout=60)[0].strip() for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0]
    assert set(ended) == {str(machine.ensure())}
    assert machine.folders() == [Path(ended[0]).name]


def test_without_locks_another_job_s_runtime_is_not_moved(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    """If another job finishes the same runtime during this build, the other job's runtime stays: it is in use."""

    def write_and_lose(folder: Path) -> None:
        write_manifest(folder)
        runtime = folder.with_name(folder.name.partition(".partial-")[0])
        shutil.copytree(folder, runtime)
        inodes.append(runtime.stat().st_ino)

    inodes: list[int] = []
    machine.put("uv")
    monkeypatch.setattr("kis_token.github.runtime.write_manifest", write_and_lose)
    runtime = machine.ensure()
    assert inodes == [runtime.stat().st_ino]
    assert machine.folders() == [runtime.name]
