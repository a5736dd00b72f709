"""The cache: the chain's second source, a local file for times when Supabase does not answer.

The file is written atomically, with mode 0600, and never through a symbolic link. A new folder for the file gets mode
0700. If the file is unusable, `read` raises an error with the reason, and the next write replaces the file. This module
needs only the standard library.
"""

from __future__ import annotations

import os
from contextlib import suppress

from kis_token.core.slot import TOKEN_TYPE, read_stored
from kis_token.errors import CacheError, TokenError, TokenUnusable
from kis_token.local.private_files import open_itself, read_own, write_private

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pathlib import Path

    from kis_token.config import Settings
    from kis_token.core.ports import Vault
    from kis_token.token import Token

LARGEST_FILE = 64 * 1024


class FileCache:
    """One token in one file.

    `read` also accepts the flat JSON file of a program that follows the guide (docs/migrating.md).
    """

    def __init__(self, path: Path, vault: Vault, service_name: str) -> None:
        self._path = path
        self._vault = vault
        self._service_name = service_name

    def read(self) -> Token:
        """Return the cached token, even if it is expired.

        Raises TokenError with the reason if the file is not usable.
        """
        try:
            text = read_own(self._path, LARGEST_FILE)
        except FileNotFoundError:
            raise TokenUnusable("there is no cache file") from None
        except (OSError, UnicodeError) as error:
            # A UnicodeError is not chained, because it contains the file's content.
            cause = error if isinstance(error, OSError) else None
            raise TokenUnusable(f"the cache file cannot be read ({type(error).__name__})") from cause
        token, members = read_stored(text, self._service_name, self._vault)
        if members.get("service_name") not in (None, self._service_name):
            raise TokenError("token-of-another-key", "The cache file belongs to another service-name")
        return token

    def write(self, token: Token, *, rejected_ids: frozenset[str] = frozenset()) -> None:
        """Write ``token``. Raises CacheError.

        If the cached token belongs to the app key of ``token`` and has a later expiry time, the cached token is kept.
        But if ``rejected_ids`` contains the fingerprint of the cached token, ``token`` replaces the cached token.
        """
        with suppress(TokenError):
            kept = self.read()
            lasts = kept.expires_at > token.expires_at and kept.app_key_id == token.app_key_id
            if kept.value == token.value or (lasts and kept.token_id not in rejected_ids):
                self._close_to_others()
                return
        # If the token was read from a sealed text, the same sealed text is written to the file. The sealed text is for
        # the same slot. To seal the token again, the program would need a package.
        text = token.sealed_form
        if text is None:
            value = token.to_json(service_name=self._service_name)
            text = self._vault.seal(value, self._service_name, TOKEN_TYPE)
        try:
            write_private(self._path, text.encode())
        except OSError as error:
            raise CacheError(
                "cache-unwritable", f"The cache file cannot be written ({type(error).__name__})"
            ) from error

    def _close_to_others(self) -> None:
        """Give the file mode 0600, because another client may have written the file with the umask's mode.

        The file of another user is not changed.
        """
        if not hasattr(os, "fchmod"):
            return  # on Windows, the mode of a file does not show which users have access
        with suppress(OSError), open(self._path, "rb", opener=open_itself) as file:
            os.fchmod(file.fileno(), 0o600)


class NoPlace:
    """The cache of a user without a home folder, such as a random user id in a container.

    Each method raises an error, because the user has no place for a file.
    """

    def read(self) -> Token:
        """Raise TokenError."""
        raise TokenUnusable("this user has no home folder for a cache file")

    def write(self, _token: Token, *, rejected_ids: frozenset[str] = frozenset()) -> None:  # noqa: ARG002 - as FileCache
        """Raise CacheError."""
        raise CacheError("cache-unwritable", "There is no cache: this user has no home folder")


def make_cache(settings: Settings, vault: Vault) -> FileCache | NoPlace | None:
    """Return the cache that the settings name, or None if the settings turn the cache off."""
    if settings.homeless:
        return NoPlace()
    return FileCache(settings.cache_path, vault, settings.service_name) if settings.cache_path else None
