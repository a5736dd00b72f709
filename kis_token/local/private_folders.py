"""Folders that no other user can change."""

from __future__ import annotations

import errno
import os
import stat
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from kis_token.local.private_files import make_private

if TYPE_CHECKING:
    from collections.abc import Iterator

#: The flags that open a folder and never a symbolic link. On Linux, the flag O_PATH also opens a folder that this user
#: may enter but not list.
_FOLDER = getattr(os, "O_PATH", os.O_RDONLY) | getattr(os, "O_DIRECTORY", 0) | getattr(os, "O_NOFOLLOW", 0)
_MOST_LINKS = 40


def is_on_open_ground(path: Path) -> bool:
    """Whether another user could replace a folder above ``path``."""
    return hasattr(os, "geteuid") and any(map(_is_open_to_all, path.parents))


def _is_open_to_all(folder: Path) -> bool:
    try:
        mode = folder.stat().st_mode
    except OSError:
        return False  # The folder does not exist yet.
    # In a folder with the sticky bit, only the owner of an entry can replace the entry.
    return bool(mode & stat.S_IWOTH) and not mode & stat.S_ISVTX


def open_private(path: Path) -> Path:
    """Return the path of a folder that belongs to this user and that no other user can write. Make a missing folder.

    `walk` has checked the returned path, and the path has no symbolic links. Raises OSError. The error's ``strerror``
    names the folder and the reason.
    """
    folder = walk(path, make=True)
    status = folder.stat()
    if hasattr(os, "geteuid") and status.st_uid != os.geteuid():
        raise PermissionError(errno.EPERM, f"{folder} belongs to another user")
    if is_writable_by_others(status):  # even if the folder has the sticky bit, other users could add files
        raise PermissionError(errno.EPERM, f"other users may write {folder}")
    if not os.access(folder, os.W_OK):
        raise PermissionError(errno.EACCES, f"this user may not write {folder}")
    return folder


def walk(path: Path, *, make: bool = False) -> Path:
    """Go from the root down to the folder ``path``, check each step, and return the path without links.

    Each folder and each symbolic link on the path must belong to root or to this user. If a folder's group or all users
    may write the folder, the folder must have the sticky bit: in such a folder, only the owner of an entry or of the
    folder can rename or remove the entry. Therefore only this user and root can change the target of the returned path:
    not only during the check, but also later, when an import or a child process uses the path.

    Each step starts at the handle of the previous folder, and each folder is checked by its own handle. If ``make`` is
    true, a missing folder is made with mode 0700, after the check of the folder above it. On Windows, a folder's mode
    does not show who has access, so this function only resolves the symbolic links. Access control lists are not
    checked if a folder's mode does not show them (NFSv4, macOS).

    Raises OSError. The error's ``strerror`` names the folder and the reason.
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
    """Whether an entry's owner or mode lets another user change the entry. Always False on Windows."""
    if not hasattr(os, "geteuid"):
        return False
    return bool(status.st_mode & 0o022) or status.st_uid not in (0, os.geteuid())


@contextmanager
def _naming(path: str) -> Iterator[None]:
    """Put ``path`` into the errors of the block, because these errors would name only the last part of the path."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, f"{path}: {error.strerror}") from error


def _link_target(name: str, handle: int | None, *, make: bool) -> str:
    """Return the target of a symbolic link, or "" for a folder. If ``make`` is true, make a missing folder."""
    try:
        status = os.stat(name, dir_fd=handle, follow_symlinks=False)
    except FileNotFoundError:
        if not make:
            raise
        with suppress(FileExistsError):  # another job has made the folder, and the next step checks the folder
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
