"""Folders that no other user can change."""

from __future__ import annotations

import os
import stat
import tempfile
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from kis_token.local.private_files import make_private
from kis_token.local.private_folders import is_on_open_ground, open_private, walk

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

#: Another user, and a group that both users are in.
OTHER, GROUP = 65534, 54321

is_root = hasattr(os, "geteuid") and os.geteuid() == 0
needs_root = pytest.mark.skipif(not is_root, reason="only root can give a folder away, or become another user")
pytestmark = pytest.mark.skipif(not hasattr(os, "geteuid"), reason="modes of this kind are POSIX's")


def test_only_missing_folders_are_made(tmp_path: Path) -> None:
    """All new folders are private, and existing ones keep their modes."""
    there = tmp_path / "there"
    there.mkdir(mode=0o755)
    make_private(there / "new" / "newer")
    make_private(there)
    modes = [stat.S_IMODE((there / each).stat().st_mode) for each in ("", "new", "new/newer")]
    assert modes == [0o755, 0o700, 0o700]


def test_file_in_the_way_is_an_error(tmp_path: Path) -> None:
    """If a file is in the path, no folder is made."""
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="file"):
        make_private(tmp_path / "file" / "new")


@pytest.mark.parametrize(("mode", "is_open"), [(0o777, True), (0o1777, False), (0o755, False), (0o700, False)])
def test_ground_is_open_where_folders_can_be_swapped(tmp_path: Path, mode: int, is_open: bool) -> None:  # noqa: FBT001 - a table
    """A path is on open ground if all users may write one of the folders above it, and that folder is not sticky."""
    (tmp_path / "above").mkdir()
    (tmp_path / "above").chmod(mode)
    assert is_on_open_ground(tmp_path / "above" / "new" / "newer") is is_open


def folder(path: Path, mode: int = 0o755, owner: int = -1) -> Path:
    """Make a folder with this mode for any umask, and give it to ``owner``."""
    path.mkdir(exist_ok=True, parents=True)
    path.chmod(mode)
    if owner >= 0:
        os.chown(path, owner, -1)
    return path


def link(path: Path, target: str, owner: int = -1) -> Path:
    """Make a link, and give it to ``owner``."""
    path.symlink_to(target)
    if owner >= 0:
        os.lchown(path, owner, -1)
    return path


@pytest.fixture
def top() -> Iterator[Path]:
    """A folder that every user can reach, unlike the folders of tmp_path."""
    with tempfile.TemporaryDirectory() as made:
        yield folder(Path(made).resolve())


#: Each function builds folders and links below ``top``, and returns the path to walk.
OPEN: dict[str, Callable[[Path], Path]] = {
    "group writes the folder above": lambda top: folder(folder(top / "a", 0o775) / "b"),
    "all write the folder above": lambda top: folder(folder(top / "a", 0o777) / "b"),
    "group writes one further up": lambda top: folder(folder(folder(top / "a", 0o770) / "b") / "c" / "d"),
    "group writes the folder itself": lambda top: folder(top / "a", 0o775),
    "link to an open folder": lambda top: link(top / "a", str(folder(folder(top / "b", 0o777) / "c"))),
    "link in an open folder": lambda top: link(folder(top / "a", 0o775) / "b", str(folder(top / "c"))),
    "relative link past an open folder": lambda top: link(
        folder(top / "a") / "b", f"../{folder(folder(top / 'c', 0o777) / 'd').parent.name}/d"
    ),
    "dots past an open folder": lambda top: folder(folder(top / "a", 0o777) / "b") / ".." / ".." / "a",
}
ANOTHER_S: dict[str, Callable[[Path], Path]] = {
    "folder above": lambda top: folder(folder(top / "a", owner=OTHER) / "b", owner=0),
    "one further up": lambda top: folder(folder(folder(top / "a", 0o700, OTHER) / "b", owner=0) / "c", owner=0),
    "folder itself": lambda top: folder(top / "a", 0o700, OTHER),
    "target of a link": lambda top: link(top / "a", str(folder(top / "b", owner=OTHER))),
    "parent of a link's target": lambda top: link(
        top / "a", str(folder(folder(top / "b", owner=OTHER) / "c", owner=0))
    ),
    "link": lambda top: link(top / "a", str(folder(top / "b")), OTHER),
    "sticky folder above": lambda top: folder(folder(top / "a", 0o1777, OTHER) / "b", owner=0),
    "entry of a sticky folder": lambda top: folder(folder(top / "a", 0o1777) / "b", 0o700, OTHER),
}
CLOSED: dict[str, Callable[[Path], Path]] = {
    "plain": lambda top: folder(top / "a" / "b"),
    "in a sticky folder": lambda top: folder(folder(top / "a", 0o1777) / "b"),
    "in a sticky folder of the group": lambda top: folder(folder(top / "a", 0o1775) / "b" / "c", 0o700),
    "only to be passed through": lambda top: folder(folder(top / "a" / "b").parent, 0o711) / "b",
    "absolute link": lambda top: link(top / "a", str(folder(top / "b" / "c"))),
    "relative link": lambda top: link(folder(top / "a" / "b") / "c", f"../../{folder(top / 'd/e').parent.name}/./e/.."),
    "link to a link": lambda top: link(top / "a", str(link(top / "b", str(folder(top / "c"))))),
    "dots": lambda top: folder(top / "a" / "b") / ".." / "b",
    "missing": lambda top: top / "a" / "b" / "c",
    "behind a link to a missing one": lambda top: link(top / "a", "b/c") / "d",
}


@pytest.mark.parametrize("name", OPEN)
def test_a_way_that_others_may_write_is_refused(top: Path, name: str) -> None:
    """A path is refused if group or others may write one of its folders; the error names that folder."""
    with pytest.raises(PermissionError) as caught:
        walk(OPEN[name](top))
    assert caught.value.strerror is not None
    assert caught.value.strerror.endswith(": other users may write it")


@needs_root
@pytest.mark.parametrize("name", ANOTHER_S)
def test_a_way_that_another_user_owns_is_refused(top: Path, name: str) -> None:
    """A path is refused if another user owns one of its entries and so could change it; the error names that entry."""
    path = ANOTHER_S[name](top)
    with pytest.raises(PermissionError) as caught:
        walk(path)
    assert caught.value.strerror is not None
    assert caught.value.strerror.endswith(": it belongs to another user")


@pytest.mark.parametrize("name", CLOSED)
def test_a_closed_way_is_walked_to_its_end(top: Path, name: str) -> None:
    """The walk returns the path without links, and makes missing folders private for any umask."""
    path = CLOSED[name](top)
    was_there = path.exists()
    before = os.umask(0)
    try:
        walked = walk(path, make=True)
    finally:
        os.umask(before)
    assert walked == path.resolve(strict=True)
    assert was_there or stat.S_IMODE(walked.stat().st_mode) == stat.S_IMODE(walked.parent.stat().st_mode) == 0o700


def as_other(action: Callable[[], bool]) -> bool:
    """The result of ``action`` as another user of the same group."""
    child = os.fork()
    if not child:
        status = 2
        with suppress(BaseException):
            os.setgroups([GROUP])
            os.setgid(OTHER)
            os.setuid(OTHER)
            status = int(action())
        os._exit(status)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert status in (0, 1)
    return bool(status)


def swap_somewhere(path: Path) -> bool:
    """Whether this user can rename ``path`` or a folder above it, change its mode, or add an entry to ``path``."""
    for each in (path, *path.parents[:-1]):
        with suppress(OSError):
            each.rename(each.with_name("away"))
            return True
        with suppress(OSError):
            each.chmod(0o777)
            return True
    with suppress(OSError):
        (path / "new").mkdir()
        return True
    return False


@pytest.mark.usefixtures("child_processes")
@needs_root
@pytest.mark.parametrize("name", CLOSED)
def test_no_other_user_can_swap_a_folder_that_passed(top: Path, name: str) -> None:
    """Another user of the same group cannot rename, change or write any folder of a walked path."""
    path = CLOSED[name](top)
    for each in top.rglob("*"):
        os.chown(each, -1, GROUP, follow_symlinks=False)
    walked = walk(path, make=True)
    assert not as_other(lambda: swap_somewhere(walked))


@pytest.mark.usefixtures("child_processes")
@needs_root
@pytest.mark.parametrize("name", [*OPEN, *ANOTHER_S])
def test_refused_path_can_be_swapped(top: Path, name: str) -> None:
    """Another user of the same group can rename, change or write a folder of a refused path."""
    path = (OPEN | ANOTHER_S)[name](top)
    for each in top.rglob("*"):
        os.chown(each, -1, GROUP, follow_symlinks=False)
    places = {path, path.resolve(), *({path.parent / "x"} if path.is_symlink() else set())}
    assert name == "link" or any(as_other(partial(swap_somewhere, each)) for each in places)


def test_a_folder_that_is_swapped_between_two_looks_is_refused(top: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If a link replaces a folder after the walk has checked the folder's kind, the link is not followed."""
    target, elsewhere = folder(top / "a" / "b"), folder(top / "elsewhere" / "b")
    real_open = os.open

    def swap_first(name: str, flags: int, *, dir_fd: int | None = None) -> int:
        if name == "a":
            (top / "a").rename(top / "away")
            (top / "a").symlink_to(elsewhere.parent)
        return real_open(name, flags, dir_fd=dir_fd)

    monkeypatch.setattr(os, "open", swap_first)
    with pytest.raises(NotADirectoryError, match=f"{top}/a"):
        walk(target)


def test_a_folder_that_is_moved_after_its_look_is_still_the_one_that_is_judged(
    top: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The walk opens a folder by the handle of its parent, so another folder under the same name has no effect."""
    target, elsewhere = folder(top / "a" / "b"), folder(top / "elsewhere")
    folder(elsewhere / "b", 0o777)
    real_open = os.open
    opened: list[os.stat_result] = []

    def swap_later(name: str, flags: int, *, dir_fd: int | None = None) -> int:
        if name == "b":
            (top / "a").rename(top / "away")
            elsewhere.rename(top / "a")
        handle = real_open(name, flags, dir_fd=dir_fd)
        opened.append(os.fstat(handle))
        return handle

    inode = target.stat().st_ino
    monkeypatch.setattr(os, "open", swap_later)
    walk(target)
    assert opened[-1].st_ino == inode


def test_links_that_lead_to_each_other_are_an_error(top: Path) -> None:
    """If links lead to each other, the walk ends with an error that names one of them."""
    link(link(top / "a", "b").parent / "b", "a")
    with pytest.raises(OSError, match=f"{top}/[ab]: too many links"):
        walk(top / "a")


def test_no_handle_stays_open(top: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No handle stays open after a walk or after an error."""
    path = link(top / "link", str(folder(top / "a" / "b")))
    real_open, real_close = os.open, os.close
    opened: list[int] = []
    closed: list[int] = []

    def note_open(name: str, flags: int, *, dir_fd: int | None = None) -> int:
        opened.append(real_open(name, flags, dir_fd=dir_fd))
        return opened[-1]

    def note_close(handle: int) -> None:
        closed.append(handle)
        real_close(handle)

    monkeypatch.setattr(os, "open", note_open)
    monkeypatch.setattr(os, "close", note_close)
    walk(path)
    with pytest.raises(FileNotFoundError, match=f"{top}/a/b/missing: "):
        walk(path / "missing" / "c")
    (top / "a").chmod(0o777)
    with pytest.raises(PermissionError):
        walk(path)
    monkeypatch.undo()
    assert opened
    assert sorted(closed) == sorted(opened)


@pytest.mark.parametrize("mode", [0o1777, 0o1775, 0o777, 0o770, 0o702], ids=oct)
def test_a_private_folder_is_written_by_no_other_user(top: Path, mode: int) -> None:
    """A folder that other users can write is not private, even if it is sticky, because they could add files."""
    with pytest.raises(PermissionError, match="other users may write"):
        open_private(folder(top / "a", mode))


@pytest.mark.usefixtures("child_processes")
@needs_root
def test_a_private_folder_belongs_to_this_user(top: Path) -> None:
    """Another user may walk through root's folder, but cannot use root's folder as a private folder."""
    path = folder(top / "a", 0o755)

    def is_refused() -> bool:
        walk(path)
        try:
            open_private(path)
        except PermissionError as error:
            return f"{error.strerror}" == f"{path} belongs to another user"
        return False

    assert as_other(is_refused)


@pytest.mark.usefixtures("child_processes")
@needs_root
def test_a_user_s_own_way_below_root_s(top: Path) -> None:
    """An ordinary user can use its own folders below root's folders; a missing folder is made."""
    home = folder(top / "home" / "kim", 0o750, OTHER)

    assert as_other(lambda: open_private(home / ".cache" / "private") == home / ".cache" / "private")
    assert (home / ".cache").stat().st_uid == OTHER
