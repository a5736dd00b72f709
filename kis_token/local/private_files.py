"""Write files that no other user can read, and read only files that no other user can write."""

from __future__ import annotations

import os
import stat
import time
from contextlib import suppress

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

#: Seconds before each further attempt to rename a file. On Windows, a virus scanner can have a new file open, and then
#: the file cannot be renamed.
PAUSES = (0.1, 0.2, 0.4, 0.8, 1.6)


def write_private(path: Path, content: bytes) -> None:
    """Write ``content`` atomically, with mode 0600. Make missing folders with mode 0700. Follow no symbolic link.

    Raises OSError.
    """
    make_private(path.parent)
    with suppress(FileNotFoundError):
        kind = path.lstat().st_mode
        if stat.S_ISCHR(kind) or stat.S_ISBLK(kind):
            raise OSError("a device")  # If root runs this, `replace` would replace a device such as /dev/null.
    # The new file has mode 0600 from the start. If the path is a symbolic link, the rename replaces the link.
    new = path.with_name(f"{path.name}.{os.urandom(8).hex()}.tmp")
    try:
        with open(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:  # noqa: PTH123 - the mode
            file.write(content)
        insist(new.replace, path, PAUSES if os.name == "nt" else ())
    except BaseException:
        new.unlink(missing_ok=True)
        raise


def make_private(folder: Path) -> None:
    """Make the missing folders of the path ``folder``, with mode 0700 for any umask. Do not change existing folders."""
    missing = [each for each in (folder, *folder.parents) if not each.exists()]
    for each in reversed(missing):  # mkdir with parents=True would not give 0700 to the parents
        each.mkdir(mode=0o700, exist_ok=True)


def insist(rename: Callable[[Path], object], target: Path, pauses: tuple[float, ...] = PAUSES) -> None:
    """Call ``rename`` with ``target``. Repeat the call if another program has the file open. Raises OSError."""
    for pause in pauses:
        try:
            rename(target)
        except PermissionError:  # noqa: PERF203 - the loop has few attempts, with a pause after each
            time.sleep(pause)
        else:
            return
    rename(target)


def read_own(path: Path, largest: int) -> str:
    """Return the text of a regular file that belongs to this user or to root. Follow no symbolic link.

    The file may have at most ``largest`` bytes. Raises OSError and UnicodeError. A UnicodeError contains the file's
    content.
    """
    with open(path, "rb", opener=open_itself) as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode) or status.st_size > largest:
            raise OSError("not such a file")
        if hasattr(os, "geteuid") and (status.st_uid not in (os.geteuid(), 0) or status.st_mode & stat.S_IWOTH):
            raise PermissionError("a file that another user may have written")
        return file.read(largest).decode()


def open_itself(path: str, flags: int) -> int:
    """An opener for `open` that follows no symbolic link, and that does not wait if ``path`` is a pipe."""
    return os.open(path, flags | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0))
