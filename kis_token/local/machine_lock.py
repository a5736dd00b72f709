"""The lock and the not-before time for this user's processes that issue without the store.

Only one process at a time issues for an app key. After a call of tokenP, no process issues for this app key until the
not-before time, which is about a minute later. The lock and the not-before time do not depend on the cache. Each app
key has a file for the lock and a file for the not-before time, in a private folder of the machine. The lock's file and
the not-before time's file contain no token.
"""

from __future__ import annotations

import os
import tempfile
from contextlib import contextmanager, suppress
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING

from kis_token.errors import EnvironmentFault, IssuanceError
from kis_token.local.private_folders import open_private
from kis_token.process.caller_identity import user_cache_folder
from kis_token.process.forks import no_fork

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator


class LocalMachine:
    """Keeps lock and not-before time in the first of ``folders`` that is private to this user or can be made private.

    The folders are checked only when the lock or the not-before time is used.
    """

    def __init__(self, folders: Callable[[], Iterable[Path]]) -> None:
        self._folders = folders

    @contextmanager
    def lock(self, app_key_id: str, seconds: float) -> Iterator[None]:
        """In the block, no other caller on this machine can issue a token of this app key without the store.

        The system releases the lock when the process ends. Raises IssuanceError ``wait-too-long`` if another caller
        still has the lock after ``seconds``. Raises EnvironmentFault ``no-private-folder``.
        """
        with no_fork():
            from filelock import FileLock, Timeout

        cause: Exception | None = None
        for folder in self._private():
            lock = FileLock(folder / f"{app_key_id}.lock", mode=0o600)
            try:
                lock.acquire(timeout=seconds)
            except Timeout as error:
                message = "Another process of this machine is issuing without Supabase"
                raise IssuanceError("wait-too-long", message, retryable=True) from error
            except (OSError, NotImplementedError) as error:
                cause = error  # some network file systems have no locks
                continue
            try:
                yield
            finally:
                lock.release()
            return
        message = f"No file can be locked on this machine ({type(cause).__name__})"
        raise EnvironmentFault("no-private-folder", message) from cause

    def not_before(self, app_key_id: str) -> datetime | None:
        """Return the stored not-before time, or None if no such time is stored.

        The not-before time is the time before which no caller on this machine calls KIS without the store.
        """
        try:
            return datetime.fromtimestamp(self._mark(app_key_id).stat().st_mtime, timezone.utc)
        except (OSError, ValueError, OverflowError):
            return None

    def hold_back(self, app_key_id: str, until: datetime) -> None:
        """Store ``until`` as the not-before time, before which no caller on this machine calls KIS without the store.

        Raises EnvironmentFault ``no-private-folder``.
        """
        mark = self._mark(app_key_id)
        try:
            mark.touch(mode=0o600)
            os.utime(mark, (until.timestamp(), until.timestamp()))
        except OSError as error:
            message = f"The call cannot be noted for this machine's other jobs ({type(error).__name__})"
            raise EnvironmentFault("no-private-folder", message) from error

    def _mark(self, app_key_id: str) -> Path:
        """Return the path of an empty file whose modification time is the time that `hold_back` stores.

        Even a full disk can hold an empty file.
        """
        return self._folder() / f"{app_key_id}.not-before"

    def _folder(self) -> Path:
        return next(self._private())

    def _private(self) -> Iterator[Path]:
        """Yield this user's private folders. Raises EnvironmentFault ``no-private-folder`` if no folder is private."""
        refused = []
        found = False
        for folder in self._folders():
            try:
                private = open_private(folder)
            except OSError as error:
                refused.append(f"{error.strerror or folder}")
                continue
            found = True
            yield private
        if not found:
            raise EnvironmentFault("no-private-folder", f"No folder is private to this user: {'; '.join(refused)}")


def local_machine() -> LocalMachine:
    """Return this machine, with lock and not-before time in the user's cache folder.

    If the user's cache folder is not private, lock and not-before time are in a private folder below the system's
    temporary folder.
    """
    return LocalMachine(_usual_folders)


def _usual_folders() -> Iterator[Path]:
    usual = user_cache_folder()
    if usual is not None:
        yield usual
    user = os.geteuid() if hasattr(os, "geteuid") else "user"
    with suppress(OSError):  # this user can write to no temporary folder
        yield Path(tempfile.gettempdir()) / f"kis-token-{user}"
