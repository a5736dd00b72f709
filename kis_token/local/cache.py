"""The local file: the chain's second link, for when Supabase cannot be asked.

Written atomically, mode 0600, never through a symbolic link; a folder made for it is 0700. A file that cannot be used
is a miss with a reason, never an error: the next write heals it. Needs the standard library alone.
"""

from __future__ import annotations

import os
from contextlib import suppress
from typing import TYPE_CHECKING

from kis_token.core.slot import TOKEN_TYPE, read_stored
from kis_token.errors import CacheError, TokenError, TokenUnusable
from kis_token.local.private_files import open_itself, read_own, write_private

if TYPE_CHECKING:
    from pathlib import Path

    from kis_token.config import Settings
    from kis_token.core.ports import Vault
    from kis_token.token import Token

LARGEST_FILE = 64 * 1024


class FileCache:
    """One token in one file. A flat JSON file as the guide's code writes it is read as well."""

    def __init__(self, path: Path, vault: Vault, service_name: str) -> None:
        self._path = path
        self._vault = vault
        self._service_name = service_name

    def read(self) -> Token:
        """The cached token, whatever its age. Raises TokenError, with the reason, when there is none to be had."""
        try:
            text = read_own(self._path, LARGEST_FILE)
        except FileNotFoundError:
            raise TokenUnusable("there is no cache file") from None
        except (OSError, UnicodeError) as error:
            # A UnicodeError holds the file's content.
            cause = error if isinstance(error, OSError) else None
            raise TokenUnusable(f"the cache file cannot be read ({type(error).__name__})") from cause
        token, members = read_stored(text, self._service_name, self._vault)
        if members.get("service_name") not in (None, self._service_name):
            raise TokenError("token-of-another-key", "The cache file is that of another service-name")
        return token

    def write(self, token: Token, *, rejected_ids: frozenset[str] = frozenset()) -> None:
        """Keep ``token``, unless one that lives longer is there and is not rejected. Raises CacheError."""
        with suppress(TokenError):
            kept = self.read()
            lasts = kept.expires_at > token.expires_at and kept.app_key_id == token.app_key_id
            if kept.value == token.value or (lasts and kept.token_id not in rejected_ids):
                self._close_to_others()
                return
        value = token.to_json(service_name=self._service_name)
        text = self._vault.seal(value, self._service_name, TOKEN_TYPE)
        try:
            write_private(self._path, text.encode())
        except OSError as error:
            raise CacheError(
                "cache-unwritable", f"The cache file cannot be written ({type(error).__name__})"
            ) from error

    def _close_to_others(self) -> None:
        """Other clients write the file as the user's mask has it; one that is not our own to change stays."""
        if not hasattr(os, "fchmod"):
            return  # a system without such modes
        with suppress(OSError), open(self._path, "rb", opener=open_itself) as file:
            os.fchmod(file.fileno(), 0o600)


class NoPlace:
    """The cache of a user without a home, as of a pod with an arbitrary uid: it keeps nothing, and says why."""

    def read(self) -> Token:
        """Raises TokenError."""
        raise TokenUnusable("this user has no home folder for a cache file")

    def write(self, _token: Token, *, rejected_ids: frozenset[str] = frozenset()) -> None:  # noqa: ARG002 - as FileCache
        """Raises CacheError."""
        raise CacheError("cache-unwritable", "There is no cache: this user has no home folder")


def make_cache(settings: Settings, vault: Vault) -> FileCache | NoPlace | None:
    """The cache that the settings name; None when it is turned off."""
    if settings.homeless:
        return NoPlace()
    return FileCache(settings.cache_path, vault, settings.service_name) if settings.cache_path else None
