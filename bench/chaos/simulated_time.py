"""The chaos's simulated time for callers, KIS and the database, and the state that all processes share.

Simulated time runs ``speed`` times as fast as the machine's clock. Sometimes the simulated time jumps, for all
processes at once. A caller's waits, a lease and KIS's minute are in simulated time. The project's time limits for one
call are limits of sockets, so they are in the machine's seconds.
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

#: The states of a caller, which are the values of its mark.
IDLE, RESOLVING, GRANTED, AT_KIS = range(4)

#: The page of memory has room for this many callers. No machine can run so many callers.
MOST_CALLERS = 1000

#: The difference between the number of a forked child and the number of its caller.
CHILD = 100_000

#: The value of ``Tally.where`` for a process that got another process's answer.
MIXED = "mixed"

_JUMPED = struct.Struct("d")
_CLOSED, _FINISHING, _BUSY, _MARKS = 8, 9, 16, 64


class Shared:
    """A page of memory that all forks of one process share: the jumps of time, a gate, and a mark for each caller."""

    def __init__(self, speed: float) -> None:
        self.speed = speed
        self.epoch = time.time()
        self._page = mmap.mmap(-1, mmap.PAGESIZE)

    @property
    def jumped(self) -> float:
        """The seconds that the time has jumped so far."""
        seconds: float = _JUMPED.unpack_from(self._page)[0]
        return seconds

    @jumped.setter
    def jumped(self, seconds: float) -> None:
        _JUMPED.pack_into(self._page, 0, seconds)

    @property
    def is_closed(self) -> bool:
        """Whether no caller may start, because a jump is due."""
        return bool(self._page[_CLOSED])

    @is_closed.setter
    def is_closed(self, closed: bool) -> None:
        self._page[_CLOSED] = closed

    @property
    def is_finishing(self) -> bool:
        """Whether the run's time is over. Callers then finish their work and start no more work."""
        return bool(self._page[_FINISHING])

    @is_finishing.setter
    def is_finishing(self, finishing: bool) -> None:
        self._page[_FINISHING] = finishing

    def mark(self, caller: int) -> int:
        """Return a caller's state."""
        return self._page[_MARKS + caller]

    def set_mark(self, caller: int, mark: int) -> None:
        """Set a caller's state."""
        self._page[_MARKS + caller] = mark

    def busy(self, server: int) -> int:
        """Return the number of requests that a server is working on."""
        return self._page[_BUSY + server]

    def set_busy(self, server: int, requests: int) -> None:
        """Set the number of requests that a server is working on."""
        self._page[_BUSY + server] = min(requests, 255)


class SimulatedClock:
    """The clock of the simulated time. It is the same for all processes that share the page of memory."""

    def __init__(self, shared: Shared, jitter: random.Random | None = None) -> None:
        self._shared = shared
        self._random = jitter or random.Random()  # noqa: S311 - spreads load, no security

    def now(self) -> datetime:
        """Return the simulated time, timezone-aware, in UTC."""
        shared = self._shared
        return START + timedelta(seconds=(time.time() - shared.epoch) * shared.speed + shared.jumped)

    def monotonic(self) -> float:
        """Return simulated seconds that never go back.

        If the simulated time jumps, these seconds do not jump. They are like the counter of a machine that was
        suspended.
        """
        return time.monotonic() * self._shared.speed

    def sleep(self, seconds: float) -> None:
        """Wait until ``seconds`` of simulated time have passed."""
        time.sleep(seconds / self._shared.speed)

    def jitter(self, low: float, high: float) -> float:
        """Return a random number of seconds between ``low`` and ``high``."""
        return self._random.uniform(low, high)


_CLOCK = sql.SQL("""
create table public.chaos_clock (jumped interval not null);
insert into public.chaos_clock values ('0 s');
create function public.chaos_now() returns timestamptz language sql security definer as $$
    select {start} + (clock_timestamp() - to_timestamp({epoch})) * {speed}::float8 + jumped from public.chaos_clock
$$;
grant execute on function public.chaos_now() to service_role;
""")

# The functions of sql/ run as their owner, and the benchmark's clients run as service_role. So the role of a write
# shows its origin.
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
    """A database whose functions and triggers use simulated time. This database records every write of a token."""

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
        """Set the sum of all jumps of the database's time to ``seconds``."""
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
        """Set the token's row inactive, as the documentation advises after a change of keys."""
        self._outsider.execute(
            "update public.api_credentials set is_active = false where credential_type = 'access_token'"
        )

    def token(self) -> tuple[str, datetime | None] | None:
        """Return the value of the token's row and its column ``expires_at``, or None if there is no row."""
        return self._owner.execute(
            "select credential_value, expires_at from public.api_credentials where credential_type = 'access_token'"
        ).fetchone()

    def writes(self) -> list[tuple[Any, ...]]:
        """Return every write of a token row: time, role, and the old and the new value, expiry and is_active."""
        return self._owner.execute(
            'select at, writer, old_value, old_end, old_active, value, "end", active'
            " from public.chaos_writes order by id"
        ).fetchall()

    def close(self) -> None:
        """Close the connections."""
        self._owner.close()
        self._outsider.close()
