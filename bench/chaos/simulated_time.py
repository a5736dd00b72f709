"""The chaos's simulated time: one compressed time for callers, KIS and the database, and what all processes share.

Simulated time runs ``speed`` times as fast as the machine's and jumps now and then, for all at once. A caller's waits,
a lease and KIS's minute are simulated time. What a socket may take is not compressed: the product's own limits for one
call are the machine's seconds.
"""

from __future__ import annotations

import mmap
import random
import struct
import time
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg import sql

from kis_token.sandbox.database import Project, migrations_folder, prepare_database

if TYPE_CHECKING:
    from collections.abc import Mapping

#: Simulated time at the start.
START = datetime(2027, 1, 4, tzinfo=timezone.utc)

#: What a caller is at, as its mark says.
IDLE, RESOLVING, GRANTED, AT_KIS = range(4)

#: As many as there is room for in the page, and more than a machine can bear.
MOST_CALLERS = 1000

#: A forked child of a caller has its caller's number and so much more.
CHILD = 100_000

#: Where a tally says that a process got another's answer.
MIXED = "mixed"

_JUMPED = struct.Struct("d")
_CLOSED, _FINISHING, _BUSY, _MARKS = 8, 9, 16, 64


class Shared:
    """A page of memory that all forks of one process see: how far time has jumped, a gate, and a mark for each."""

    def __init__(self, speed: float) -> None:
        self.speed = speed
        self.epoch = time.time()
        self._page = mmap.mmap(-1, mmap.PAGESIZE)

    @property
    def jumped(self) -> float:
        """Seconds that the time has jumped so far."""
        seconds: float = _JUMPED.unpack_from(self._page)[0]
        return seconds

    @jumped.setter
    def jumped(self, seconds: float) -> None:
        _JUMPED.pack_into(self._page, 0, seconds)

    @property
    def is_closed(self) -> bool:
        """Whether nobody may start: a jump is due."""
        return bool(self._page[_CLOSED])

    @is_closed.setter
    def is_closed(self, closed: bool) -> None:
        self._page[_CLOSED] = closed

    @property
    def is_finishing(self) -> bool:
        """Whether the time is over: callers finish what they are at."""
        return bool(self._page[_FINISHING])

    @is_finishing.setter
    def is_finishing(self, finishing: bool) -> None:
        self._page[_FINISHING] = finishing

    def mark(self, caller: int) -> int:
        """What a caller is at."""
        return self._page[_MARKS + caller]

    def set_mark(self, caller: int, mark: int) -> None:
        """Say what a caller is at."""
        self._page[_MARKS + caller] = mark

    def busy(self, server: int) -> int:
        """How many requests a server is at."""
        return self._page[_BUSY + server]

    def set_busy(self, server: int, requests: int) -> None:
        """Say how many requests a server is at."""
        self._page[_BUSY + server] = min(requests, 255)


class SimulatedClock:
    """Simulated time, for whoever shares the page."""

    def __init__(self, shared: Shared, jitter: random.Random | None = None) -> None:
        self._shared = shared
        self._random = jitter or random.Random()  # noqa: S311 - spreads load, guards nothing

    def now(self) -> datetime:
        """The present, aware, in UTC."""
        shared = self._shared
        return START + timedelta(seconds=(time.time() - shared.epoch) * shared.speed + shared.jumped)

    def monotonic(self) -> float:
        """Simulated seconds that never go back. They do not jump: nor does a machine's when it was asleep."""
        return time.monotonic() * self._shared.speed

    def sleep(self, seconds: float) -> None:
        """Let that much simulated time pass."""
        time.sleep(seconds / self._shared.speed)

    def jitter(self, low: float, high: float) -> float:
        """A random number of seconds between the two."""
        return self._random.uniform(low, high)


_CLOCK = sql.SQL("""
create table public.chaos_clock (jumped interval not null);
insert into public.chaos_clock values ('0 s');
create function public.chaos_now() returns timestamptz language sql security definer as $$
    select {start} + (clock_timestamp() - to_timestamp({epoch})) * {speed}::float8 + jumped from public.chaos_clock
$$;
grant execute on function public.chaos_now() to service_role;
""")

# Functions of sql/ run as their owner, the bench's guide-like clients as service_role: so a write tells whose it is.
_AUDIT = """
create table public.chaos_writes (
    id bigint generated always as identity, at timestamptz, writer text,
    old_value text, old_end timestamptz, old_active boolean, value text, "end" timestamptz, active boolean
);
grant insert on public.chaos_writes to service_role;
create function public.chaos_audit() returns trigger language plpgsql as $$
begin
    if coalesce(new.credential_type, old.credential_type) <> 'access_token' then
        return null;
    end if;
    insert into public.chaos_writes (at, writer, old_value, old_end, old_active, value, "end", active)
    values (public.chaos_now(), current_user, old.credential_value, old.expires_at, old.is_active,
            new.credential_value, new.expires_at, new.is_active);
    return null;
end $$;
create trigger chaos_audit after insert or update or delete on public.api_credentials
    for each row execute function public.chaos_audit();
"""


class SimulatedDatabase:
    """A project whose functions and triggers go by simulated time, and which notes every write of a token."""

    def __init__(self, dsn: str, shared: Shared, keys: Mapping[str, str]) -> None:
        self.project: Project = prepare_database(dsn)
        limit = "-c statement_timeout=10s"
        self._owner = psycopg.connect(self.project.owner, autocommit=True, options=limit)
        self._outsider = psycopg.connect(self.project.api, autocommit=True, options=limit)
        self._outsider.execute("set role service_role")
        clock = {"start": sql.Literal(START), "epoch": sql.Literal(shared.epoch), "speed": sql.Literal(shared.speed)}
        self._owner.execute(_CLOCK.format(**clock))
        for path in sorted(migrations_folder().glob("*.sql")):
            migration = path.read_text(encoding="utf-8")
            self._owner.execute(migration.replace("clock_timestamp()", "public.chaos_now()").encode())
        for name, value in keys.items():
            self.put(name, value, None)
        self._owner.execute(_AUDIT)

    def jump(self, seconds: float) -> None:
        """Let the database's time be so many seconds ahead in all."""
        self._owner.execute("update public.chaos_clock set jumped = %s", (timedelta(seconds=seconds),))

    def put(self, credential_type: str, value: str, end: datetime | None) -> None:
        """Write a row as the guide's clients do, with an upsert and without a lease."""
        self._outsider.execute(
            "insert into public.api_credentials as c (service_name, credential_type, credential_value, expires_at)"
            " values ('kis', %s, %s, %s) on conflict (service_name, credential_type) do update"
            " set credential_value = excluded.credential_value, expires_at = excluded.expires_at, is_active = true",
            (credential_type, value, end),
        )

    def deactivate(self) -> None:
        """Set the token's row inactive, as people are told to do after a change of keys."""
        self._outsider.execute(
            "update public.api_credentials set is_active = false where credential_type = 'access_token'"
        )

    def token(self) -> tuple[str, datetime | None] | None:
        """What is stored as the token now, and its column's end."""
        return self._owner.execute(
            "select credential_value, expires_at from public.api_credentials where credential_type = 'access_token'"
        ).fetchone()

    def writes(self) -> list[tuple[Any, ...]]:
        """Every write of a token row: when, by which role, and value, end and whether active, before and after."""
        return self._owner.execute(
            'select at, writer, old_value, old_end, old_active, value, "end", active'
            " from public.chaos_writes order by id"
        ).fetchall()

    def close(self) -> None:
        """Leave the database."""
        self._owner.close()
        self._outsider.close()
