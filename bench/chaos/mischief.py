"""Damages cache files and the stored row, as disks, people and clients of the guide do."""

from __future__ import annotations

import json
import os
import shutil
import time
from contextlib import suppress
from datetime import timedelta
from typing import TYPE_CHECKING

from bench.chaos.records import Tally

if TYPE_CHECKING:
    import random
    from collections.abc import Sequence
    from datetime import datetime
    from pathlib import Path

    from bench.chaos.records import Log
    from bench.chaos.simulated_time import SimulatedDatabase

CACHE_FAULTS = ("truncated", "binary", "deleted", "a folder", "an older copy", "folder gone")
ROW_FAULTS = ("broken JSON", "end 9 h late", "end 9 h early", "no end", "an older token", "inactive")

#: The number of old cache contents that are kept. A later fault writes one of these contents into a cache again.
KEPT = 12


class CacheMischief:
    """Damages cache files, one at a time."""

    def __init__(self, rng: random.Random, log: Log, caches: Sequence[Path]) -> None:
        self._random = rng
        self._log = log
        self._caches = caches
        self._kept: list[bytes] = []
        self._broken: list[tuple[float, Path]] = []

    def strike(self) -> None:
        """Damage one cache file."""
        path, kind = self._random.choice(self._caches), self._random.choice(CACHE_FAULTS)
        with suppress(OSError):  # the file is missing or already damaged
            self._keep(path.read_bytes())
            self._spoil(path, kind)
            self._log.write(Tally("cache", kind))

    def mend(self) -> None:
        """After some time, repair the damage that a write of a caller does not repair."""
        for due, path in list(self._broken):
            if time.monotonic() >= due:
                self._broken.remove((due, path))
                with suppress(OSError):
                    if path.is_dir():
                        path.rmdir()
                    else:
                        path.unlink()
                        path.with_suffix(".away").rename(path)

    def _spoil(self, path: Path, kind: str) -> None:
        folder = path.parent
        if kind == "truncated":
            os.truncate(path, path.stat().st_size // 2)
        elif kind == "binary":
            path.write_bytes(self._random.randbytes(300))
        elif kind == "deleted":
            path.unlink()
        elif kind == "a folder":
            path.unlink()
            path.mkdir()
            self._mend_later(path)
        elif kind == "an older copy":
            new = path.with_suffix(".copy")
            new.write_bytes(self._random.choice(self._kept))
            new.replace(path)
        else:
            # A file takes the place of the folder. So not even root can read or write the cache.
            shutil.rmtree(folder.with_suffix(".away"), ignore_errors=True)
            folder.rename(folder.with_suffix(".away"))
            folder.write_bytes(b"")
            self._mend_later(folder)

    def _mend_later(self, path: Path) -> None:
        self._broken.append((time.monotonic() + self._random.uniform(0.2, 3.0), path))

    def _keep(self, content: bytes) -> None:
        with suppress(ValueError):
            json.loads(content)
            if content not in self._kept:
                self._kept = [*self._kept, content][-KEPT:]


class RowMischief:
    """Writes the token's row as clients without a lease do."""

    def __init__(self, rng: random.Random, log: Log, database: SimulatedDatabase) -> None:
        self._random = rng
        self._log = log
        self._database = database
        self._seen: list[tuple[str, datetime]] = []

    def strike(self) -> None:
        """Write the row once, with a random fault."""
        held = self._database.token()
        if held is None or held[1] is None:
            return
        value, end = held[0], held[1]
        if '"expires_at"' in value and (value, end) not in self._seen:
            self._seen.append((value, end))
        kind, hours = self._random.choice(ROW_FAULTS), timedelta(hours=9)
        if kind == "broken JSON":
            self._put('{"access_token": "eyJ', end)
        elif kind == "an older token" and self._seen:
            self._put(*self._random.choice(self._seen))
        elif kind == "inactive":
            self._database.deactivate()
        else:
            self._put(value, {"end 9 h late": end + hours, "end 9 h early": end - hours}.get(kind))
        self._log.write(Tally("row", kind))

    def _put(self, value: str, end: datetime | None) -> None:
        self._database.put("access_token", value, end)
