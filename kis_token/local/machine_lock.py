"""The lock of this user's processes that issue without the store: one at a time, and not within a minute of another.

The lock does not depend on the cache. Its files are in a private folder of the machine, one pair for each app key, and
contain no token.
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
    """Uses the first of ``folders`` that is private to this user or can be made so. Checks them when needed."""

    def __init__(self, folders: Callable[[], Iterable[Path]]) -> None:
        self._folders = folders

    @contextmanager
    def lock(self, app_key_id: str, seconds: float) -> Iterator[None]:
        """Exclude this machine's other callers that issue for this app key. The lock ends with its process.

        Raises IssuanceError ``wait-too-long`` after ``seconds``, and EnvironmentFault ``no-private-folder``.
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
                cause = error  # a file system without locks, such as some network ones
                continue
            try:
                yield
            finally:
                lock.release()
            return
        message = f"No file can be locked on this machine ({type(cause).__name__})"
        raise EnvironmentFault("no-private-folder", message) from cause

    def not_before(self, app_key_id: str) -> datetime | None:
        """The recorded time before which no caller of this machine calls KIS without the store, or None."""
        try:
            return datetime.fromtimestamp(self._mark(app_key_id).stat().st_mtime, timezone.utc)
        except (OSError, ValueError, OverflowError):
            return None

    def hold_back(self, app_key_id: str, until: datetime) -> None:
        """Record a call of KIS, or a lease that may still hold. Raises EnvironmentFault ``no-private-folder``."""
        mark = self._mark(app_key_id)
        try:
            mark.touch(mode=0o600)
            os.utime(mark, (until.timestamp(), until.timestamp()))
        except OSError as error:
            message = f"The call cannot be noted for this machine's other jobs ({type(error).__name__})"
            raise EnvironmentFault("no-private-folder", message) from error

    def _mark(self, app_key_id: str) -> Path:
        """The path of an empty file whose time is the record: even a full disk has room for it."""
        return self._folder() / f"{app_key_id}.not-before"

    def _folder(self) -> Path:
        return next(self._private())

    def _private(self) -> Iterator[Path]:
        """Yield this user's private folders. Raises EnvironmentFault ``no-private-folder`` if there is not one."""
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
    """Return this machine, with the user's cache folder or, if that is not private, one in the temporary folder."""
    return LocalMachine(_usual_folders)


def _usual_folders() -> Iterator[Path]:
    usual = user_cache_folder()
    if usual is not None:
        yield usual
    user = os.geteuid() if hasattr(os, "geteuid") else "user"
    with suppress(OSError):  # there is no temporary folder that can be written
        yield Path(tempfile.gettempdir()) / f"kis-token-{user}"
