"""The machine's lock and its record of the last call, which callers without the store need."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import pytest

from kis_token.errors import EnvironmentFault, IssuanceError
from kis_token.local.machine_lock import LocalMachine, local_machine
from tests.faults.helpers import HOLD_LOCK
from tests.support import APP_KEY, utc_now
from tools.step import CHECKOUT

posix = pytest.mark.skipif(sys.platform == "win32", reason="modes and owners of folders are POSIX's")

ID = APP_KEY.key_id


@pytest.fixture
def machine(tmp_path: Path) -> LocalMachine:
    """A machine whose folder does not exist yet."""
    return LocalMachine(lambda: [tmp_path / "cache" / "kis-token"])


@pytest.mark.usefixtures("child_processes")
def test_lock_keeps_other_processes_out(machine: LocalMachine, tmp_path: Path) -> None:
    """If a process holds the lock, another process gives up after its time. When the holder ends, the lock is free."""
    command = [sys.executable, "-c", HOLD_LOCK, str(tmp_path / "cache" / "kis-token"), ID]
    with subprocess.Popen(command, cwd=CHECKOUT, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline().strip() == b"held"
        with pytest.raises(IssuanceError) as caught, machine.lock(ID, 0.05):
            pytest.fail("two hold the lock")
        assert (caught.value.code, caught.value.retryable) == ("wait-too-long", True)
        with machine.lock("0123456789abcdef", 0):
            pass  # the lock of another app key is free
        holder.kill()
        holder.wait()
    with machine.lock(ID, 10):
        pass


def test_lock_may_be_taken_again(machine: LocalMachine) -> None:
    """A lock is released at the end of the block, even after an error."""
    with pytest.raises(ZeroDivisionError), machine.lock(ID, 1):
        raise ZeroDivisionError
    with machine.lock(ID, 0):
        pass


def test_a_note_is_there_for_the_other_processes(machine: LocalMachine, tmp_path: Path) -> None:
    """Later callers can read until when KIS must not be called with an app key. The files with this time are empty."""
    moment = utc_now().replace(microsecond=0) + timedelta(seconds=61)
    assert machine.not_before(ID) is None
    machine.hold_back(ID, moment)
    assert LocalMachine(lambda: [tmp_path / "cache" / "kis-token"]).not_before(ID) == moment
    assert machine.not_before("0123456789abcdef") is None
    machine.hold_back(ID, moment - timedelta(seconds=30))
    assert machine.not_before(ID) == moment - timedelta(seconds=30)
    assert [each.stat().st_size for each in (tmp_path / "cache" / "kis-token").iterdir()] == [0]


@posix
def test_the_first_private_folder_is_taken(tmp_path: Path) -> None:
    """Folders that others can write, files, and folders that cannot be made are skipped and stay unchanged."""
    open_to_all = tmp_path / "open"
    open_to_all.mkdir()
    open_to_all.chmod(0o777)
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o770)
    (tmp_path / "file").write_text("")
    refused = [open_to_all / "below", shared, tmp_path / "file", tmp_path / "file" / "below"]
    with LocalMachine(lambda: [*refused, tmp_path / "own"]).lock(ID, 1):
        assert [each.name for each in (tmp_path / "own").iterdir()] == [f"{ID}.lock"]
    assert (tmp_path / "own").stat().st_mode & 0o777 == 0o700
    assert not list(open_to_all.iterdir())


@posix
def test_no_private_folder_is_an_error_that_names_each(tmp_path: Path) -> None:
    """If there is no private folder, a caller cannot get the lock, and the error names each refused folder."""
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o777)
    (tmp_path / "file").write_text("")
    with pytest.raises(EnvironmentFault) as caught, LocalMachine(lambda: [shared, tmp_path / "file" / "x"]).lock(ID, 1):
        pytest.fail("a lock in a folder that others can write")
    assert caught.value.code == "no-private-folder"
    assert f"{shared}" in f"{caught.value}"
    with pytest.raises(EnvironmentFault):
        LocalMachine(list).hold_back(ID, utc_now())


@posix
def test_without_a_home_the_temporary_folder_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If a user's home is missing or unwritable, the lock is in a private folder in the temporary folder."""
    monkeypatch.setenv("HOME", "/proc/nowhere")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    with local_machine().lock(ID, 1):
        pass
    assert (tmp_path / f"kis-token-{os.geteuid()}" / f"{ID}.lock").exists()


@posix
@pytest.mark.parametrize("number", ["ENOLCK", "EOPNOTSUPP", "EIO"])
def test_folder_without_locks_gives_way_to_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: str
) -> None:
    """If the file system of a folder has no locks, such as a network home, the lock is in the next private folder."""
    import fcntl

    flock = fcntl.flock

    def refuse(handle: int, operation: int) -> None:
        if f"{tmp_path / 'network'}" in f"{Path(f'/proc/self/fd/{handle}').readlink()}":
            raise OSError(getattr(errno, number), "no locks here")
        flock(handle, operation)

    if not Path("/proc/self/fd").exists():
        pytest.skip("files are told apart by /proc")
    monkeypatch.setattr("fcntl.flock", refuse)
    with LocalMachine(lambda: [tmp_path / "network", tmp_path / "own"]).lock(ID, 1):
        assert (tmp_path / "own" / f"{ID}.lock").exists()
    with pytest.raises(EnvironmentFault) as caught, LocalMachine(lambda: [tmp_path / "network"]).lock(ID, 1):
        pytest.fail("nothing is locked")
    assert caught.value.code == "no-private-folder"
