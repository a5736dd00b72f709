"""The machines of the chaos: what a caller's processes share, and whether there is a cache."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

CACHED, OFF, BLOCKED = "a cache", "no cache", "a cache folder that cannot be made"

#: In this order, again and again.
KINDS = (CACHED, OFF, CACHED, BLOCKED)


@dataclass(frozen=True, slots=True)
class Machine:
    """One machine: a folder in which all that its callers share lies."""

    folder: Path
    kind: str

    @property
    def cache(self) -> Path:
        """Where the cache is, if there is one."""
        return self.folder / "cache" / ".kis_token_cache.json"

    @property
    def setting(self) -> str:
        """The input ``cache-path`` of this machine's callers."""
        return "off" if self.kind == OFF else f"{self.cache}"

    @property
    def private(self) -> Path:
        """The folder of the lock and of the minute's mark, which does not hang on the cache."""
        return self.folder / "private"


def make_machines(folder: Path, number: int) -> list[Machine]:
    """So many machines below ``folder``, of all kinds."""
    machines = [Machine(folder / f"machine{each}", KINDS[each % len(KINDS)]) for each in range(number)]
    for machine in machines:
        machine.folder.mkdir()
        if machine.kind == BLOCKED:
            machine.cache.parent.write_bytes(b"")  # a file: no folder can be made there, not even by root
    return machines
