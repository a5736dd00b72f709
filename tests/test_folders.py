"""Folders in which nobody else can put anything."""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

import pytest

from kis_token.folders import is_on_open_ground, make_private

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.skipif(not hasattr(os, "geteuid"), reason="modes of this kind are POSIX's")


def test_only_what_is_missing_is_made(tmp_path: Path) -> None:
    """New folders are private, all of them; those that are there keep their modes."""
    there = tmp_path / "there"
    there.mkdir(mode=0o755)
    make_private(there / "new" / "newer")
    make_private(there)
    modes = [stat.S_IMODE((there / each).stat().st_mode) for each in ("", "new", "new/newer")]
    assert modes == [0o755, 0o700, 0o700]


def test_file_in_the_way_is_an_error(tmp_path: Path) -> None:
    """Where a file stands no folder is made."""
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="file"):
        make_private(tmp_path / "file" / "new")


@pytest.mark.parametrize(("mode", "is_open"), [(0o777, True), (0o1777, False), (0o755, False), (0o700, False)])
def test_ground_is_open_where_folders_can_be_swapped(tmp_path: Path, mode: int, is_open: bool) -> None:  # noqa: FBT001 - a table
    """One folder above that all may write, and that is not sticky, is enough; how deep does not matter."""
    (tmp_path / "above").mkdir()
    (tmp_path / "above").chmod(mode)
    assert is_on_open_ground(tmp_path / "above" / "new" / "newer") is is_open
