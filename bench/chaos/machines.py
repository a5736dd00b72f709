"""The machines of the chaos: the folders that the callers of a machine share, and the kind of cache."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

CACHED, OFF, BLOCKED = "a cache", "no cache", "a cache folder that cannot be made"

#: The machines take these kinds in this order, over and over.
KINDS = (CACHED, OFF, CACHED, BLOCKED)


@dataclass(frozen=True, slots=True)
class Machine:
    """One machine: a folder with all files that its callers share."""

    folder: Path
    kind: str

    @property
    def cache(self) -> Path:
        """The path of the cache, if there is one."""
        return self.folder / "cache" / ".kis_token_cache.json"

    @property
    def setting(self) -> str:
        """The input ``cache-path`` of this machine's callers."""
        return "off" if self.kind == OFF else f"{self.cache}"

    @property
    def private(self) -> Path:
        """The folder of the machine's lock and of the time of the machine's last tokenP call.

        The folder does not depend on the cache.
        """
        return self.folder / "private"


def make_machines(folder: Path, number: int) -> list[Machine]:
    """Make ``number`` machines below ``folder``, of all kinds."""
    machines = [Machine(folder / f"machine{each}", KINDS[each % len(KINDS)]) for each in range(number)]
    for machine in machines:
        machine.folder.mkdir()
        if machine.kind == BLOCKED:
            machine.cache.parent.write_bytes(b"")  # because of this file, not even root can make the folder
    return machines
