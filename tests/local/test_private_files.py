"""Files with secrets. The cache is tested in test_cache.py, the token files in test_token_files.py."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from kis_token.local.private_files import PAUSES, insist, read_own, write_private

posix = pytest.mark.skipif(not hasattr(os, "geteuid"), reason="modes, links and pipes of this kind are POSIX's")


@posix
def test_file_and_new_folders_are_private(tmp_path: Path) -> None:
    """A file has mode 0600 and a new folder 0700 for any umask, even if the previous file had another mode."""
    path = tmp_path / "new" / "newer" / "file"
    before = os.umask(0)
    try:
        write_private(path, b"first")
        path.chmod(0o644)
        write_private(path, b"second")
    finally:
        os.umask(before)
    assert [stat.S_IMODE(each.stat().st_mode) for each in (path, path.parent, path.parent.parent)] == [
        0o600,
        0o700,
        0o700,
    ]
    assert read_own(path, 6) == "second"


@posix
def test_link_is_replaced_and_not_followed(tmp_path: Path) -> None:
    """A link's target is neither written nor read."""
    target, link = tmp_path / "target", tmp_path / "link"
    target.write_text("theirs")
    link.symlink_to(target)
    with pytest.raises(OSError, match="link"):
        read_own(link, 100)
    write_private(link, b"ours")
    assert not link.is_symlink()
    assert (target.read_text(), link.read_text()) == ("theirs", "ours")


@posix
def test_device_is_not_replaced() -> None:
    """A write to /dev/null raises an error, so that root cannot replace the device by accident."""
    with pytest.raises(OSError, match="a device"):
        write_private(Path("/dev/null"), b"x")


def test_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    """If a folder has the file's name, the write fails, the folder stays, and no temporary file remains."""
    (tmp_path / "file").mkdir()
    (tmp_path / "file" / "inside").touch()
    with pytest.raises(OSError, match="file"):
        write_private(tmp_path / "file", b"x")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@posix
def test_only_a_trusted_file_is_read(tmp_path: Path) -> None:
    """A file that all users may write, a file that is too large, and a pipe are not read."""
    for name, mode, content in (("open", 0o606, "x"), ("large", 0o600, "xx")):
        (tmp_path / name).write_text(content)
        (tmp_path / name).chmod(mode)
    os.mkfifo(tmp_path / "pipe")
    for name in ("open", "large", "pipe"):
        with pytest.raises(OSError, match=r"such a file|another user"):
            read_own(tmp_path / name, 1)


@pytest.mark.parametrize(("failures", "works"), [(0, True), (2, True), (99, False)])
def test_file_that_a_scanner_has_open_is_renamed_a_little_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failures: int, *, works: bool
) -> None:
    """On Windows another program may have a new file or folder open for a moment, so a failed rename is repeated."""
    slept: list[float] = []
    monkeypatch.setattr("kis_token.local.private_files.time.sleep", slept.append)
    left = iter([True] * failures)
    new = tmp_path / "new"
    new.mkdir()

    def rename(target: Path) -> None:
        if next(left, False):
            raise PermissionError("open elsewhere")
        new.rename(target)

    if works:
        insist(rename, tmp_path / "target")
    else:
        with pytest.raises(PermissionError):
            insist(rename, tmp_path / "target")

    assert (tmp_path / "target").is_dir() == works
    assert slept == list(PAUSES[:failures])
    assert sum(PAUSES) < 5


def test_other_errors_of_a_rename_are_told_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An error that waiting cannot end is raised at once."""
    monkeypatch.setattr("kis_token.local.private_files.time.sleep", lambda _: pytest.fail("a pause"))
    with pytest.raises(FileNotFoundError):
        insist((tmp_path / "nowhere").rename, tmp_path / "target")
