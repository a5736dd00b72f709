"""The local file: the chain's second link, for when Supabase cannot be asked.

Written atomically, mode 0600, never through a symbolic link; a folder made for it is 0700. A file that cannot be used
is a miss with a reason, never an error: the next write heals it. Reading and writing need the standard library alone;
only the lock needs filelock.
"""

from __future__ import annotations

import json
import os
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import TYPE_CHECKING

from kis_token.errors import CacheError, IssuanceError, TokenError
from kis_token.files import open_itself, read_own, write_private
from kis_token.folders import make_private
from kis_token.forks import no_fork
from kis_token.token import Token, parse_instant, parse_stored

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import datetime
    from pathlib import Path

    from kis_token.config import Settings
    from kis_token.lookup import Resolution
    from kis_token.ports import Cache
    from kis_token.sealing import Vault

LARGEST_FILE = 64 * 1024


class FileCache:
    """One token in one file. A flat JSON file as the guide's code writes it is read as well."""

    def __init__(self, path: Path, vault: Vault, service_name: str) -> None:
        self._path = path
        self._calls = path.with_name(f"{path.name}.asked")
        self._vault = vault
        self._service_name = service_name

    def read(self) -> Token:
        """The cached token, whatever its age. Raises TokenError, with the reason, when there is none to be had."""
        try:
            text = read_own(self._path, LARGEST_FILE)
        except FileNotFoundError:
            raise TokenError("token-unusable", "there is no cache file") from None
        except (OSError, UnicodeError) as error:
            # A UnicodeError holds the file's content.
            cause = error if isinstance(error, OSError) else None
            raise TokenError("token-unusable", f"the cache file cannot be read ({type(error).__name__})") from cause
        text = self._vault.open(text, self._service_name, "access_token")
        token = parse_stored(text)
        if json.loads(text).get("service_name") not in (None, self._service_name):
            raise TokenError("token-of-another-key", "The cache file is that of another service-name")
        return token

    def write(self, token: Token) -> None:
        """Keep ``token``, unless one that lives longer is there. Raises CacheError."""
        with suppress(TokenError):
            kept = self.read()
            if kept.value == token.value or (
                kept.expires_at > token.expires_at and kept.app_key_id == token.app_key_id
            ):
                self._close_to_others()
                return
        value = token.to_json(service_name=self._service_name)
        text = self._vault.seal(value, self._service_name, "access_token")
        try:
            write_private(self._path, text.encode())
        except OSError as error:
            raise CacheError(
                "cache-unwritable", f"The cache file cannot be written ({type(error).__name__})"
            ) from error

    def last_call(self) -> datetime | None:
        """What `note_call` was told last, by whichever process of this machine; None when nothing can be read."""
        try:
            return parse_instant(read_own(self._calls, LARGEST_FILE))
        except (OSError, ValueError):
            return None

    def note_call(self, moment: datetime) -> None:
        """Let the other processes know that KIS was asked without Supabase, and gave nothing. Never raises."""
        with suppress(OSError):
            write_private(self._calls, moment.isoformat().encode())

    @contextmanager
    def lock(self, seconds: float) -> Iterator[None]:
        """Keep other processes of this machine out, also those that ask for another token of this slot.

        Raises IssuanceError ``wait-too-long`` after ``seconds``. The lock ends with its process. Where the folder
        cannot be written nobody is kept out: there is nothing to share either.
        """
        with no_fork():
            from filelock import FileLock, Timeout

        lock = FileLock(f"{self._path}.lock", mode=0o600)
        try:
            make_private(self._path.parent)
            lock.acquire(timeout=seconds)
        except Timeout as error:
            raise IssuanceError(
                "wait-too-long", "Another process of this machine is issuing without Supabase", retryable=True
            ) from error
        except OSError:
            yield
            return
        try:
            yield
        finally:
            lock.release()

    def _close_to_others(self) -> None:
        """Other clients write the file as the user's mask has it; one that is not our own to change stays."""
        if not hasattr(os, "fchmod"):
            return  # a system without such modes
        with suppress(OSError), open(self._path, "rb", opener=open_itself) as file:
            os.fchmod(file.fileno(), 0o600)


def make_cache(settings: Settings, vault: Vault) -> FileCache | None:
    """The cache that the settings name; None when it is turned off."""
    return FileCache(settings.cache_path, vault, settings.service_name) if settings.cache_path else None


def remember(cache: Cache | None, resolution: Resolution) -> Resolution:
    """Keep a living token for when the store is down. That it cannot be kept is a warning: there is a token."""
    if cache is None or resolution.expired:
        return resolution
    try:
        cache.write(resolution.token)
    except CacheError as error:
        warnings = dict.fromkeys((*resolution.warnings, f"{error}. {error.hint}"))  # once, however often it is tried
        return replace(resolution, warnings=tuple(warnings))
    return resolution
