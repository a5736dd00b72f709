"""Folders in which nobody else can put anything."""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


def make_private(folder: Path) -> None:
    """Make what is missing of ``folder``, all of it 0700 whatever the umask. One that is there stays as it is."""
    missing = [each for each in (folder, *folder.parents) if not each.exists()]
    for each in reversed(missing):  # each by itself: with "parents" only the last would be private
        each.mkdir(mode=0o700, exist_ok=True)


def is_on_open_ground(path: Path) -> bool:
    """Whether some other user could rename a folder above ``path`` and put one of his own in its place."""
    return hasattr(os, "geteuid") and any(map(_is_open_to_all, path.parents))


def _is_open_to_all(folder: Path) -> bool:
    try:
        mode = folder.stat().st_mode
    except OSError:
        return False  # not there yet
    return bool(mode & stat.S_IWOTH) and not mode & stat.S_ISVTX  # in a sticky one each keeps what is his
