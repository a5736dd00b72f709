"""The manifest: a list of a folder's files in the same folder, to find missing, truncated, changed and added files.

This module needs only the standard library. The check must be fast, because every start that needs the packages runs
the check. If a file has the recorded size and the recorded time, the check accepts the file. If a file has the recorded
size and another time, for example because the file is a copy, the check compares the file's hash with the recorded
hash. Bytecode is not in the manifest, because Python writes bytecode later.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
from typing import TYPE_CHECKING

from kis_token.local.private_files import read_own, write_private
from kis_token.local.private_folders import is_writable_by_others

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

MANIFEST = "kis-token-manifest.json"
_LARGEST = 2**24


def write_manifest(folder: Path) -> None:
    """Record size, time and hash of every file in ``folder``, and remove other users' write access.

    Under some umasks, uv and pip write files that other users can change. Raises OSError.
    """
    recorded = {}
    for name, status in [("", folder.lstat()), *_entries(f"{folder}")]:
        path = folder / name
        if not stat.S_ISLNK(status.st_mode) and is_writable_by_others(status):
            path.chmod(stat.S_IMODE(status.st_mode) & ~(stat.S_IWGRP | stat.S_IWOTH))
        if stat.S_ISREG(status.st_mode) and not _is_bytecode(name):
            recorded[name] = [status.st_size, status.st_mtime_ns, _digest(path)]
    write_private(folder / MANIFEST, json.dumps(recorded).encode())


def find_damage(folder: Path) -> str | None:
    """Return the first difference between ``folder`` and its manifest, or None.

    Every recorded file must exist unchanged. An added file counts as a difference, because an added module could
    replace a module of the standard library. If another user can change a file or folder, the file or folder counts as
    a difference from the manifest, even if the file is bytecode.
    """
    try:
        recorded = json.loads(read_own(folder / MANIFEST, _LARGEST))
        found = {"": folder.lstat(), **dict(_entries(f"{folder}"))}
        if not isinstance(recorded, dict):
            return "the manifest is not a list of files"
        for name, status in found.items():
            difference = _difference(folder, name, status, recorded.get(name)) if name != MANIFEST else ""
            if difference:
                return f"{name or folder.name} {difference}"
    except (OSError, ValueError, RecursionError) as error:
        return f"the files cannot be compared with the manifest ({type(error).__name__})"
    gone = next((name for name in recorded if name not in found), None)
    return f"{gone} is missing" if gone is not None else None


def _difference(folder: Path, name: str, status: os.stat_result, record: object) -> str:
    if is_writable_by_others(status):
        return "can be changed by other users"
    if stat.S_ISDIR(status.st_mode):
        return "is a folder" if record is not None else ""
    if not stat.S_ISREG(status.st_mode):
        return "is neither a file nor a folder"
    match record:
        case [int(size), int(time), str(digest)]:
            if size != status.st_size:
                return f"has {status.st_size} bytes instead of {size}"
            return "was changed" if time != status.st_mtime_ns and digest != _digest(folder / name) else ""
    return "" if _is_bytecode(name) else "was added"


def _is_bytecode(name: str) -> bool:
    return "__pycache__/" in name


def _entries(folder: str, prefix: str = "") -> Iterator[tuple[str, os.stat_result]]:
    """Yield all files and folders below ``folder``, with their path relative to ``folder``.

    Symbolic links are not followed.
    """
    with os.scandir(folder) as entries:
        for entry in entries:
            status = entry.stat(follow_symlinks=False)
            yield prefix + entry.name, status
            if stat.S_ISDIR(status.st_mode):
                yield from _entries(entry.path, f"{prefix}{entry.name}/")


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
