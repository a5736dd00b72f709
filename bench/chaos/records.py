"""The records of a chaos run: lines of JSON in one file. No line has a token.

The process that sees an event writes its line.

All times are simulated time, in seconds. ``by`` names an attempt by its caller, process and number.
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
    """The start of a resolver call that may take ``timeout`` seconds; written by the caller."""

    by: str
    caller: int
    at: float
    timeout: float


@dataclass(frozen=True, slots=True)
class Attempt:
    """A resolver call that has ended; written by the caller.

    The record has a token, or the ``code`` of this project's error, or a ``crash`` for any other exception.
    ``rejected`` is the token that the call had to replace. ``cached`` is the token in the cache file, if the file was
    the same before and after the call.
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
    rejected: str | None = None
    cached: str | None = None


@dataclass(frozen=True, slots=True)
class Begin:
    """A request for a lease that reached the Supabase emulator.

    ``delivered`` is True if no fault disturbed the answer.
    """

    by: str
    at: float
    status: str | None
    delivered: bool


@dataclass(frozen=True, slots=True)
class Read:
    """A read of the slot. The caller got the correct and complete answer."""

    caller: int
    at: float


@dataclass(frozen=True, slots=True)
class Health:
    """The start or the end of a spell of faults of the store. ``is_well`` is True at the end of a spell."""

    at: float
    is_well: bool


@dataclass(frozen=True, slots=True)
class Call:
    """A tokenP call that reached KIS.

    ``token`` is the token that KIS gave, even if the answer was lost. Without a token, ``code`` is the reason: KIS's
    code, or the name of the fault.
    """

    by: str
    at: float
    token: str | None = None
    code: str | None = None
    is_new: bool = False


@dataclass(frozen=True, slots=True)
class Issued:
    """A token that KIS issued. ``own`` is True if the token is for the callers' app key."""

    token: str
    begins: float
    ends: float
    own: bool = True


@dataclass(frozen=True, slots=True)
class Killed:
    """The early end of a token at KIS."""

    token: str
    at: float


@dataclass(frozen=True, slots=True)
class Stop:
    """The suspension of a caller's process."""

    caller: int
    begin: float
    end: float


@dataclass(frozen=True, slots=True)
class Tally:
    """An event that is only counted: a fault, by its place and its kind."""

    where: str
    kind: str


@dataclass(frozen=True, slots=True)
class Stored:
    """The content of a token row. ``token`` is None if the value cannot be read or the row is not active.

    ``ends`` is the earlier expiry of those in the value and in the column. ``ends`` is None if there is no expiry.
    """

    token: str | None
    ends: float | None


@dataclass(frozen=True, slots=True)
class Write:
    """A write of the token row. ``outside`` is True if a client of the benchmark wrote the row as the guide does."""

    at: float
    outside: bool
    before: Stored
    after: Stored


Record = Start | Attempt | Begin | Read | Health | Call | Issued | Killed | Stop | Tally

_KINDS: dict[str, Any] = {each.__name__: each for each in get_args(Record)}


@dataclass(slots=True)
class Records:
    """All records of a run, for the judges."""

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
        """Add records, in any order."""
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
        """Whether the caller's process was suspended at some time between ``begin`` and ``end``.

        For a forked child, its parent's process counts.
        """
        number = caller % CHILD
        return any(each.caller == number and each.begin < end and each.end > begin for each in self.stops)

    def without_token(self) -> list[Attempt]:
        """Return the attempts that got no token, without the attempts of the modes rotate and force."""
        return [each for each in self.attempts if each.token is None and each.mode in ("resolve", "replace")]


def fingerprint(value: str) -> str:
    """Return the project's fingerprint of a token, without the project's code. The judges use none of that code."""
    return sha256(value.encode(errors="surrogatepass")).hexdigest()[:16]


class Log:
    """A file to which many processes write.

    One system call writes each line, so a killed process leaves no half line.
    """

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def write(self, record: Record) -> None:
        """Add a record."""
        os.write(self._file, f"{json.dumps([type(record).__name__, asdict(record)])}\n".encode())


def read_log(lines: Iterable[str]) -> Records:
    """Return the records of a log."""
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
    """Return a write from its row in the database. Only the benchmark's own writes have the role service_role."""
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
