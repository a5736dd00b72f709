"""The runtime: a folder with the locked packages, built once for each lock, Python and platform.

This module needs only the standard library, and never changes the Python that runs the step. A runtime is used only if
no other user can change the runtime and its files match its manifest. If a runtime cannot be used, it is built again
under a temporary name, and then renamed. If two jobs start together, a lock of the operating system lets only one of
them build the runtime. The operating system releases the lock when the process ends.
"""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import sys
import sysconfig
import time
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from kis_token.errors import EnvironmentFault
from kis_token.github.installer import install, without_sealing
from kis_token.github.runtime_manifest import MANIFEST, find_damage, write_manifest
from kis_token.local.private_files import insist
from kis_token.local.private_folders import open_private, walk

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    #: A function such as `ExitStack.callback`, which takes another function and calls it at the end of the run.
    AtEnd = Callable[[Callable[[], None]], object]

#: The chain runs after the installation. The installation must end this number of seconds before the time limit.
RESERVE_SECONDS = 25.0

_NAME = "kis-token-action"
#: An interrupted run may leave its own folder behind. If the folder is older than _LEFT_BEHIND_SECONDS, a later run
#: removes the folder.
_LEFT_BEHIND_SECONDS = 24 * 3600
#: The error numbers of the system for a lock that another process has. If the system reports an error number that
#: is not in _HELD, the code assumes a file system without locks.
_HELD = (errno.EAGAIN, errno.EACCES, errno.EDEADLK)


def ensure_runtime(
    requirements: Path, env: Mapping[str, str], deadline: float, at_end: AtEnd | None = None, *, seals: bool = True
) -> Path:
    """Return the folder with the packages of ``requirements``. If the folder is missing or damaged, it is built.

    ``deadline`` is a value of ``time.monotonic``. If this machine has no permanent folder that only this user can
    change, the runtime is in a folder for this run only, and the function that removes the folder is passed to
    ``at_end``. If ``seals`` is false, the packages that only sealing needs are left out.

    Raises EnvironmentFault if the runtime cannot be built or its folder cannot be used. If this machine has no
    permanent folder that only this user can change, and ``at_end`` is None, raises EnvironmentFault, too.
    """
    lock = requirements.read_text(encoding="utf-8")
    if not seals:
        lock = without_sealing(lock)
    name = runtime_name(lock)
    limit = deadline - RESERVE_SECONDS
    try:
        runtime = _find_place(env, at_end) / name
        if find_damage(runtime) is None:
            return runtime
        with _locked(runtime.with_name(f"{name}.lock"), limit) as is_locked:
            if find_damage(runtime) is not None:
                if is_locked:
                    _clear_leftovers(runtime)
                _build(lock, runtime, env, limit)
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise EnvironmentFault("runtime-failed", f"The packages' folder cannot be used ({reason})") from error
    return runtime


def forget_runtime(runtime: Path) -> None:
    """Remove the manifest, so that the next `ensure_runtime` builds the runtime again."""
    with suppress(OSError):
        (runtime / MANIFEST).unlink()


def runtime_name(lock: str) -> str:
    """Return the name of the runtime's folder, which differs for each lock file, Python, platform and C library."""
    digest = hashlib.sha256(lock.encode()).hexdigest()[:16]
    abi = sysconfig.get_config_var("SOABI") or sys.implementation.cache_tag
    libc = machine = ""
    if hasattr(os, "confstr"):
        with suppress(OSError, ValueError):  # only a system with glibc has CS_GNU_LIBC_VERSION
            libc = (os.confstr("CS_GNU_LIBC_VERSION") or "").replace(" ", "-")
    if sys.platform == "darwin":
        machine = os.uname().machine  # on macOS, one Python may run as arm64 and as x86_64
    return "-".join(filter(None, (digest, abi, sysconfig.get_platform(), machine, libc)))


def _build(lock: str, runtime: Path, env: Mapping[str, str], limit: float) -> None:
    partial = _beside(runtime)
    try:
        install(lock, partial, env, limit)
        write_manifest(partial)
        # If the file system has no locks, another job may have built the runtime already, and may be using it.
        if find_damage(runtime) is not None:
            damaged = _beside(runtime)
            with suppress(FileNotFoundError):
                insist(runtime.rename, damaged)
            with suppress(OSError):
                insist(partial.rename, runtime)
            _remove(damaged)
    finally:
        _remove(partial)
    damage = find_damage(runtime)
    if damage is not None:
        raise EnvironmentFault("runtime-failed", f"The packages are damaged right after their installation: {damage}")


def _beside(runtime: Path) -> Path:
    return runtime.with_name(f"{runtime.name}.partial-{os.urandom(4).hex()}")


def _clear_leftovers(runtime: Path) -> None:
    """Remove the folders of interrupted builds. The caller must hold the lock, which prevents other builds."""
    for leftover in runtime.parent.glob(f"{runtime.name}.partial-*"):
        _remove(leftover)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _find_place(env: Mapping[str, str], at_end: AtEnd | None) -> Path:
    """Return the first folder that this user can write, and that no other user can change or could have changed."""
    refused: list[str] = []
    for folder in _lasting(env):
        with _noting(folder, refused):
            return _open_lasting(folder)
    if at_end is not None:
        for folder in _temporary(env):
            with _noting(folder, refused):
                return _make_for_this_run(folder, at_end)
    seen = "; ".join(refused) or "no variable names one"
    raise EnvironmentFault("runtime-failed", f"There is no folder to install packages into: {seen}")


@contextmanager
def _noting(folder: Path, refused: list[str]) -> Iterator[None]:
    """Suppress an OSError of the block, and add the folder and the reason to ``refused``."""
    try:
        yield
    except OSError as error:
        path = os.fsencode(folder).decode(errors="replace")  # the job's summary must be UTF-8
        refused.append(f"{path} ({error.strerror or type(error).__name__})")


def _open_lasting(folder: Path) -> Path:
    place = open_private(folder / _NAME)
    place.chmod(0o700)  # the umask of the installers may let other users write
    return place


def _make_for_this_run(folder: Path, at_end: AtEnd) -> Path:
    """Make a new private folder that no other user can replace.

    Call ``at_end`` with a function that removes the folder.
    """
    parent = walk(folder)
    for left_behind in parent.glob(f"{_NAME}-*"):
        with suppress(OSError):
            status = left_behind.lstat()
            is_ours = status.st_uid == os.geteuid() if hasattr(os, "geteuid") else True
            if is_ours and status.st_mtime < time.time() - _LEFT_BEHIND_SECONDS:
                _remove(left_behind)
    place = parent / f"{_NAME}-{os.urandom(8).hex()}"
    place.mkdir(mode=0o700)
    at_end(lambda: _remove(place))
    return open_private(place)


def _lasting(env: Mapping[str, str]) -> Iterator[Path]:
    if env.get("RUNNER_TOOL_CACHE"):
        yield Path(env["RUNNER_TOOL_CACHE"])
    if sys.platform == "win32":
        if env.get("LOCALAPPDATA"):
            yield Path(env["LOCALAPPDATA"])
    elif env.get("XDG_CACHE_HOME"):
        yield Path(env["XDG_CACHE_HOME"])
    elif env.get("HOME"):
        yield Path(env["HOME"]) / ("Library/Caches" if sys.platform == "darwin" else ".cache")
    if env.get("RUNNER_TEMP"):
        yield Path(env["RUNNER_TEMP"])


def _temporary(env: Mapping[str, str]) -> Iterator[Path]:
    names = ("TEMP", "TMP") if sys.platform == "win32" else ("TMPDIR",)
    yield from (Path(env[name]) for name in ("RUNNER_TEMP", *names) if env.get(name))
    if sys.platform != "win32":
        yield from (Path("/tmp"), Path("/var/tmp"))  # noqa: S108 - a folder is used only if it has the sticky bit


@contextmanager
def _locked(path: Path, limit: float) -> Iterator[bool]:
    """Hold a lock on the file during the block. Yields True, or False if the file system has no locks.

    The system releases the lock when the process ends. Raises EnvironmentFault if another process still has the lock at
    ``limit``.
    """
    with path.open("a+b") as file:
        while (is_locked := _try_lock(file.fileno())) is None:
            if time.monotonic() > limit:
                raise EnvironmentFault("runtime-failed", "Another job is still installing the packages")
            time.sleep(0.1)
        yield is_locked  # closing the file releases the lock


def _try_lock(handle: int) -> bool | None:
    """Try to lock the file, and return whether the lock is held.

    The result is None if another process has the lock, and False if the file system has no locks.
    """
    try:
        if sys.platform == "win32":
            import msvcrt

            msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return None if error.errno in _HELD else False
    return True
