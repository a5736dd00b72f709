"""Folders that no other user can change."""

from __future__ import annotations

import errno
import os
import stat
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

#: Opens a folder, never a link. On Linux this also opens a folder that this user may only pass through.
_FOLDER = getattr(os, "O_PATH", os.O_RDONLY) | getattr(os, "O_DIRECTORY", 0) | getattr(os, "O_NOFOLLOW", 0)
_MOST_LINKS = 40


def make_private(folder: Path) -> None:
    """Make the missing part of ``folder``, with mode 0700 for any umask. Existing folders stay unchanged."""
    missing = [each for each in (folder, *folder.parents) if not each.exists()]
    for each in reversed(missing):  # one by one: with "parents" only the last would be private
        each.mkdir(mode=0o700, exist_ok=True)


def is_on_open_ground(path: Path) -> bool:
    """Whether another user could replace a folder above ``path``."""
    return hasattr(os, "geteuid") and any(map(_is_open_to_all, path.parents))


def _is_open_to_all(folder: Path) -> bool:
    try:
        mode = folder.stat().st_mode
    except OSError:
        return False  # not there yet
    return bool(mode & stat.S_IWOTH) and not mode & stat.S_ISVTX  # sticky: only an entry's owner can replace it


def open_private(path: Path) -> Path:
    """Return the path of a folder of this user that no other user can write, after ``walk``. Makes a missing folder.

    The returned path has no links. Raises OSError; its ``strerror`` names the folder and the reason.
    """
    folder = walk(path, make=True)
    status = folder.stat()
    if hasattr(os, "geteuid") and status.st_uid != os.geteuid():
        raise PermissionError(errno.EPERM, f"{folder} belongs to another user")
    if is_writable_by_others(status):  # a sticky one too: others could add files
        raise PermissionError(errno.EPERM, f"other users may write {folder}")
    if not os.access(folder, os.W_OK):
        raise PermissionError(errno.EACCES, f"this user may not write {folder}")
    return folder


def walk(path: Path, *, make: bool = False) -> Path:
    """Go from the root down to the folder ``path``, check each step, and return the path without links.

    Each folder and each link on the way must belong to root or to this user. No other user may write one of the
    folders, not even a member of its group, unless the folder is sticky: only the entry's or the folder's owner can
    rename or remove an entry of a sticky folder. So only this user and root can change the target of the returned path:
    another user would have to write a folder on the way, or own it or its entry. This also holds after the check, when
    an import or a child process uses the path.

    Each step starts at the handle of the folder before it, and each folder is checked by its own handle. With ``make``,
    a missing folder is made with mode 0700, below checked folders. On Windows only the links are resolved, because
    modes do not describe access there. Access control lists that no mode shows (NFSv4, macOS) are not checked.

    Raises OSError; its ``strerror`` names the folder and the reason.
    """
    if not hasattr(os, "geteuid"):
        if make:
            make_private(path)
        return path.resolve()
    pending = [*reversed(path.absolute().parts)]
    here, handle, links = "/", None, 0
    try:
        while pending:
            name = pending.pop()  # a folder's name, "..", or "/" at the start of a path
            there = os.path.normpath(os.path.join(here, name))  # noqa: PTH118 - pathlib does not resolve ".."
            with _naming(there):
                target = _link_target(name, handle, make=make)
                if target:
                    links += 1
                    if links > _MOST_LINKS:
                        raise OSError(errno.ELOOP, "too many links")
                    pending += reversed(Path(target).parts)
                    continue
                before, handle = handle, os.open(name, _FOLDER, dir_fd=handle)
                if before is not None:
                    os.close(before)
                _judge(os.fstat(handle))
                here = there
    finally:
        if handle is not None:
            os.close(handle)
    return Path(here)


def is_writable_by_others(status: os.stat_result) -> bool:
    """Whether another user may change the entry, by its owner and mode. False on Windows, which has neither."""
    if not hasattr(os, "geteuid"):
        return False
    return bool(status.st_mode & 0o022) or status.st_uid not in (0, os.geteuid())


@contextmanager
def _naming(path: str) -> Iterator[None]:
    """Put ``path`` into errors of the block: a step from a handle reports only the last name."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, f"{path}: {error.strerror}") from error


def _link_target(name: str, handle: int | None, *, make: bool) -> str:
    """Return the target of a link, or "" for a folder. With ``make``, make a missing folder."""
    try:
        status = os.stat(name, dir_fd=handle, follow_symlinks=False)
    except FileNotFoundError:
        if not make:
            raise
        with suppress(FileExistsError):  # another job was faster; its folder is checked like any other
            os.mkdir(name, 0o700, dir_fd=handle)
        return ""
    if not stat.S_ISLNK(status.st_mode):
        return ""
    _judge_owner(status)
    return os.readlink(name, dir_fd=handle)


def _judge(status: os.stat_result) -> None:
    _judge_owner(status)
    if is_writable_by_others(status) and not status.st_mode & stat.S_ISVTX:
        raise PermissionError(errno.EPERM, "other users may write it")


def _judge_owner(status: os.stat_result) -> None:
    if hasattr(os, "geteuid") and status.st_uid not in (0, os.geteuid()):
        raise PermissionError(errno.EPERM, "it belongs to another user")
