"""A keyring of the system, in memory."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

import keyring
from keyring.backend import KeyringBackend

if TYPE_CHECKING:
    from collections.abc import Iterator


class MemoryKeyring(KeyringBackend):
    """Keys by service and user. If ``fault`` is set, each call raises ``fault``."""

    priority = 5

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call] # keyring's
        self.keys: dict[tuple[str, str], str] = {}
        self.fault: Exception | None = None

    @classmethod
    @contextmanager
    def in_use(cls) -> Iterator[MemoryKeyring]:
        """Make a new keyring, and use it in this process during the block."""
        before, own = keyring.get_keyring(), cls()
        keyring.set_keyring(own)
        try:
            yield own
        finally:
            keyring.set_keyring(before)

    def get_password(self, service: str, username: str) -> str | None:
        """The key, or None."""
        self._fail()
        return self.keys.get((service, username))

    def set_password(self, service: str, username: str, password: str) -> None:
        """Store the key."""
        self._fail()
        self.keys[service, username] = password

    def delete_password(self, service: str, username: str) -> None:
        """Delete the key."""
        del self.keys[service, username]

    def _fail(self) -> None:
        if self.fault is not None:
            raise self.fault
