"""What is noted while the chaos lasts, by whoever sees it: lines of JSON in one file. No line holds a token.

All times are simulated time, in seconds. ``by`` names an attempt: caller, life, number.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, field
from datetime import datetime
from hashlib import sha256
from typing import TYPE_CHECKING, Any, get_args

from bench.chaos.simulated_time import CHILD

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path


@dataclass(frozen=True, slots=True)
class Start:
    """A call of the resolver begins, and may take ``timeout`` seconds; written by the caller."""

    by: str
    caller: int
    at: float
    timeout: float


@dataclass(frozen=True, slots=True)
class Attempt:
    """One call of the resolver that came to an end; written by the caller.

    It has a token, or an error ``code`` of the project's own, or a ``crash``: any other exception. ``refused`` is the
    token it was to replace. ``cached`` is what a plain look at the cache file found before and after, when the file
    was the same both times.
    """

    by: str
    caller: int
    mode: str
    began: float
    ended: float
    token: str | None = None
    source: str | None = None
    code: str | None = None
    crash: str | None = None
    refused: str | None = None
    cached: str | None = None


@dataclass(frozen=True, slots=True)
class Begin:
    """A request for a lease that reached the database's stand-in. ``delivered``: its answer was left alone."""

    by: str
    at: float
    status: str | None
    delivered: bool


@dataclass(frozen=True, slots=True)
class Read:
    """A read of the slot by a caller, answered truly and whole."""

    caller: int
    at: float


@dataclass(frozen=True, slots=True)
class Health:
    """The store's trouble begins, or ends: from now on it is well or not."""

    at: float
    is_well: bool


@dataclass(frozen=True, slots=True)
class Call:
    """A tokenP call that reached KIS.

    ``token`` was granted, whether or not the answer arrived; else ``code`` is why not: KIS's own, or the fault's name.
    """

    by: str
    at: float
    token: str | None = None
    code: str | None = None
    is_new: bool = False


@dataclass(frozen=True, slots=True)
class Issued:
    """A token that KIS made, and whether it is one for the callers' key."""

    token: str
    begins: float
    ends: float
    own: bool = True


@dataclass(frozen=True, slots=True)
class Killed:
    """KIS ended a token before its time."""

    token: str
    at: float


@dataclass(frozen=True, slots=True)
class Stop:
    """A caller's process was suspended."""

    caller: int
    begin: float
    end: float


@dataclass(frozen=True, slots=True)
class Tally:
    """Something that is only counted: a fault, by where it struck and of which kind."""

    where: str
    kind: str


@dataclass(frozen=True, slots=True)
class Stored:
    """What a token row holds. ``token`` is None when its value cannot be read, or when it is not active.

    ``ends`` is the earliest of what value and column say; None when neither says anything.
    """

    token: str | None
    ends: float | None


@dataclass(frozen=True, slots=True)
class Write:
    """A write of the token row. ``outside``: by one of the bench's guide-like clients."""

    at: float
    outside: bool
    before: Stored
    after: Stored


Record = Start | Attempt | Begin | Read | Health | Call | Issued | Killed | Stop | Tally

_KINDS: dict[str, Any] = {each.__name__: each for each in get_args(Record)}


@dataclass(slots=True)
class Records:
    """All of it, to be judged."""

    starts: list[Start] = field(default_factory=list)
    attempts: list[Attempt] = field(default_factory=list)
    begins: list[Begin] = field(default_factory=list)
    reads: list[Read] = field(default_factory=list)
    healths: list[Health] = field(default_factory=list)
    calls: list[Call] = field(default_factory=list)
    issued: dict[str, Issued] = field(default_factory=dict)
    killed: dict[str, float] = field(default_factory=dict)
    stops: list[Stop] = field(default_factory=list)
    tallies: list[Tally] = field(default_factory=list)
    writes: list[Write] = field(default_factory=list)
    stderr: str = ""
    hung: int = 0
    machines: int = 1

    def add(self, *records: Record) -> None:
        """Take records in, in any order."""
        lists: dict[type, list[Any]] = {
            Start: self.starts,
            Attempt: self.attempts,
            Begin: self.begins,
            Read: self.reads,
            Health: self.healths,
            Call: self.calls,
            Stop: self.stops,
            Tally: self.tallies,
        }
        for record in records:
            if isinstance(record, Issued):
                self.issued[record.token] = record
            elif isinstance(record, Killed):
                self.killed.setdefault(record.token, record.at)
            else:
                lists[type(record)].append(record)

    def suspended(self, caller: int, begin: float, end: float) -> bool:
        """Whether the caller's process, or that of its child, was suspended at some time in between."""
        number = caller % CHILD
        return any(each.caller == number and each.begin < end and each.end > begin for each in self.stops)

    def without_token(self) -> list[Attempt]:
        """The attempts that asked for a token, not for a renewal, and got none."""
        return [each for each in self.attempts if each.token is None and each.mode in ("resolve", "replace")]


def fingerprint(value: str) -> str:
    """The project's fingerprint of a token, by other means: judges do not take the product's word."""
    return sha256(value.encode(errors="surrogatepass")).hexdigest()[:16]


class Log:
    """A file to which many processes write, a line at a time: one that is killed leaves no half of a line."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def write(self, record: Record) -> None:
        """Add a record."""
        os.write(self._file, f"{json.dumps([type(record).__name__, asdict(record)])}\n".encode())


def read_log(lines: Iterable[str]) -> Records:
    """The records of a log."""
    records = Records()
    for line in lines:
        kind, members = json.loads(line)
        records.add(_KINDS[kind](**members))
    return records


def read_write(  # noqa: PLR0917 - a row of the database
    at: datetime,
    writer: str,
    old_value: str | None,
    old_end: datetime | None,
    old_active: bool | None,  # noqa: FBT001 - the same
    value: str | None,
    end: datetime | None,
    active: bool | None,  # noqa: FBT001 - the same
) -> Write:
    """What the database noted of a write. Only the bench writes as service_role without the project's functions."""
    before, after = _stored(old_value, old_end, old_active), _stored(value, end, active)
    return Write(at.timestamp(), writer == "service_role", before, after)


def _stored(value: str | None, end: datetime | None, active: bool | None) -> Stored:  # noqa: FBT001 - as above
    try:
        data = json.loads(value or "")
        token = fingerprint(data["access_token"])
        said = [datetime.fromisoformat(data["expires_at"]).timestamp()] if "expires_at" in data else []
    except (ValueError, KeyError):
        return Stored(None, None)
    ends = said + ([end.timestamp()] if end is not None else [])
    return Stored(token if active else None, min(ends, default=None))
