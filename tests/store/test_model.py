"""MemoryStore and the SQL functions give the same answers to the same calls.

The functions are those of sql/ with one change: they read the test's clock. Both stores have the same time to the
microsecond, so calls can come exactly at an end, and no answer depends on the machine's speed.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any, TypeVar

import psycopg
import pytest
from hypothesis import Phase, example, given, settings
from hypothesis import strategies as st

from bench.year.memory_store import MemoryStore
from kis_token.core.ports import Begun, Committed
from kis_token.errors import StoreError
from kis_token.sandbox.database import migrations_folder, prepare_database
from kis_token.store.slot_query import REJECTED_TOKENS, TYPES, parse_slot, store_error
from kis_token.store.supabase import SupabaseStore
from kis_token.token import REISSUE_WINDOW, AppKey, Token
from tests.support import HOUR, MINUTE, Database

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from kis_token.core.slot import Slot
    from kis_token.sandbox.postgres import EmbeddedPostgres

SECOND, DAY = timedelta(seconds=1), timedelta(days=1)
START = datetime(2026, 1, 2, 3, 4, 5, tzinfo=timezone.utc)
MIN_REMAINING = 10 * MINUTE

SERVICES = ("kis", "kis-second")
OWN_KEYS = {"kis": "PSone", "kis-second": "PStwo"}
HOLDERS = tuple(str(uuid.UUID(int=number)) for number in range(1, 5))

# A number counts tokens or leases from the last one, because recent ones affect each other most.
RECENT = st.sampled_from([1, 1, 1, 2, 2, 3])
FORMS = st.sampled_from([*["plain", "sealed"] * 4, "nonsense"])
VERSIONS = st.sampled_from(["none", "none", "present", "first"])

#: Every operation: its frequency, and its possible arguments.
OPERATIONS: dict[str, tuple[int, dict[str, st.SearchStrategy[Any]]]] = {
    "issue": (
        2,
        {
            "age": st.sampled_from([0 * HOUR, 0 * HOUR, HOUR, 6 * HOUR - 9 * SECOND, 7 * HOUR, -24 * HOUR, -25 * HOUR]),
            "left": st.sampled_from([9 * SECOND, 11 * MINUTE, HOUR, 23 * HOUR, 24 * HOUR, 48 * HOUR]),
        },
    ),
    "wait": (
        1,
        {"time": st.sampled_from([SECOND, 9 * SECOND, 60 * SECOND, 70 * SECOND, 5 * MINUTE, HOUR, 7 * HOUR])},
    ),
    "wait_for_an_end": (2, {"number": RECENT, "beside": st.sampled_from([-SECOND, 0 * SECOND, SECOND])}),
    "begin": (
        4,
        {
            "service": st.sampled_from(SERVICES),
            "holder": st.sampled_from(HOLDERS),
            "key": st.sampled_from(["", "", "", *OWN_KEYS.values()]),
            "secret": st.sampled_from(["right", "right", "wrong"]),
            "min_remaining": st.sampled_from([0 * HOUR, MIN_REMAINING, DAY]),
            "version": VERSIONS,
            "rejected": st.none() | RECENT,
        },
    ),
    "commit": (3, {"lease": RECENT, "token": RECENT, "form": FORMS, "rejected": st.booleans()}),
    "abort": (
        1,
        {"lease": RECENT, "cooldown": st.sampled_from([0 * HOUR, 61 * SECOND, HOUR]), "refused": st.booleans()},
    ),
    "save": (1, {"service": st.sampled_from(SERVICES), "token": RECENT, "form": FORMS, "version": VERSIONS}),
    "put": (
        1,
        {
            "service": st.sampled_from(SERVICES),
            "token": RECENT,
            "form": FORMS,
            "shift": st.sampled_from([0 * HOUR, 0 * HOUR, HOUR, -9 * HOUR, None]),
            "active": st.sampled_from([True, True, True, False]),
        },
    ),
}

SERIES = st.lists(
    st.sampled_from([name for name, (weight, _) in OPERATIONS.items() for _ in range(weight)]).flatmap(
        lambda name: st.tuples(st.just(name), st.fixed_dictionaries(OPERATIONS[name][1]))
    ),
    min_size=40,
    max_size=60,
)

# Parts of the four examples below. In each example, a call comes exactly at an end that random series seldom meet.
BEGIN = (
    "begin",
    {
        "service": "kis",
        "holder": HOLDERS[0],
        "key": "",
        "secret": "right",
        "min_remaining": DAY,
        "version": "none",
        "rejected": None,
    },
)
BEGIN_FOR_10_MINUTES = ("begin", {**BEGIN[1], "min_remaining": MIN_REMAINING})
PUT = ("put", {"service": "kis", "token": 1, "form": "plain", "shift": 0 * HOUR, "active": True})
COMMIT = ("commit", {"lease": 1, "token": 1, "form": "plain", "rejected": False})

CLOCK = """
create table public.test_clock (reads timestamptz not null);
insert into public.test_clock values (now());
create function public.test_now() returns timestamptz language sql security definer
    as 'select reads from public.test_clock';
grant execute on function public.test_now() to service_role;
"""

_Item = TypeVar("_Item")


class SetClock:
    """A clock that changes only when the test moves it, in this process and in the database."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._now = START
        self.move(timedelta())

    def now(self) -> datetime:
        """The clock's time, in UTC."""
        return self._now

    def move(self, by: timedelta) -> None:
        """Move it forward."""
        self._now += by
        self._database.owner.execute("update public.test_clock set reads = %s", (self._now,))


class FunctionStore(SupabaseStore):
    """A store that calls the SQL functions without HTTP, and that has the additional methods of MemoryStore."""

    def __init__(self, database: Database) -> None:
        super().__init__("", "")
        self._database = database

    def read(self, service_name: str) -> Slot:
        """Return the slot as PostgREST answers, but without a Date."""
        rows = self._database.owner.execute(
            "select credential_type, credential_value, to_json(expires_at) #>> '{}' as expires_at, version"
            " from public.api_credentials where service_name = %s and credential_type = any(%s) and is_active",
            (service_name, [*TYPES, REJECTED_TOKENS]),
        ).fetchall()
        return parse_slot(rows, None)

    def put(
        self, service: str, credential_type: str, value: str, expires_at: datetime | None = None, *, active: bool = True
    ) -> int:
        """Store a row without a lease."""
        return self._database.put(credential_type, value, expires_at, service=service, active=active)

    def outcomes(self, service: str) -> list[str]:
        """The log of a slot."""
        return self._database.outcomes(service)

    def _rpc(self, function: str, **arguments: object) -> dict[str, Any]:
        try:
            answer: dict[str, Any] = self._database.call(function, **arguments)
        except psycopg.Error as error:
            raise store_error(400, error.sqlstate) from None
        return answer


@dataclass
class Side:
    """One of the two stores. The name of a version is its order, because a sequence may skip numbers."""

    store: MemoryStore | FunctionStore
    versions: list[int] = field(default_factory=list)

    def name(self, version: int | None) -> int | None:
        """The name of a version. Asserts that a new version is larger than all earlier ones."""
        if version is None:
            return None
        if version not in self.versions:
            assert not self.versions or version > self.versions[-1]
            self.versions.append(version)
        return self.versions.index(version)

    def version(self, which: str, service: str) -> int | None:
        """The version that ``which`` describes: the present one, the first one, or none."""
        token = self.store.read(service).rows.get("access_token") if which == "present" else None
        if token is not None:
            return token.version
        return self.versions[0] if which == "first" and self.versions else None

    def answer(self, call: Callable[[Side], object]) -> object:
        """The answer of a call, with the name of its version, or the text of an error."""
        try:
            answer = call(self)
        except StoreError as error:
            return str(error)
        return replace(answer, version=self.name(answer.version)) if isinstance(answer, (Begun, Committed)) else answer

    def shown(self) -> list[object]:
        """The rows of all slots, as a caller reads them."""
        slots = [(service, self.store.read(service)) for service in SERVICES]
        rows = [(service, *row) for service, slot in slots for row in sorted(slot.rows.items())]
        return [
            *((service, name, row.value, row.expires_at, self.name(row.version)) for service, name, row in rows),
            *((service, slot.rejected) for service, slot in slots),
        ]

    def noted(self) -> list[list[str]]:
        """The recorded outcomes of all slots."""
        return [self.store.outcomes(service) for service in SERVICES]


@dataclass(frozen=True)
class Lease:
    """A lease that was granted to a holder."""

    service: str
    holder: str
    fence: int
    credential_id: str


class Comparison:
    """Makes the same calls to both stores and compares the answers. Each call comes a second after the call before."""

    def __init__(self, database: Database) -> None:
        database.clear()
        self.clock = SetClock(database)
        self.sides = (Side(MemoryStore(self.clock)), Side(FunctionStore(database)))
        self.tokens: list[Token] = []
        self.leases: list[Lease] = []
        self.ends: set[datetime] = set()
        self.seals = 0
        self.issue(0 * HOUR, DAY)

    def both(self, call: Callable[[Side], object]) -> Any:  # noqa: ANN401 - whatever the call answers
        """Make the call to both stores; return their common answer."""
        self.clock.move(SECOND)
        memory, functions = (side.answer(call) for side in self.sides)
        assert memory == functions
        memory_shows, functions_show = (side.shown() for side in self.sides)
        assert memory_shows == functions_show
        return memory

    def finish(self) -> None:
        """Check that both stores have recorded the same outcomes."""
        memory_notes, functions_note = (side.noted() for side in self.sides)
        assert memory_notes == functions_note

    def form(self, token: Token, form: str) -> str:
        """The stored form of a token. Each sealed form is different, and does not show its token."""
        self.seals += 1
        return {"plain": token.to_json(), "sealed": f"enc:v1:0a1b2c3d:{self.seals}", "nonsense": "{}"}[form]

    def issue(self, age: timedelta, left: timedelta) -> None:
        """KIS issues another token, or returns an older one."""
        now = self.clock.now()
        token = Token(f"made-up-token-number-{len(self.tokens)}", expires_at=now + left, issued_at=now - age)
        self.tokens.append(token)
        self.ends |= {token.expires_at, token.expires_at - MIN_REMAINING}
        self.ends |= {token.issued_at + REISSUE_WINDOW, token.issued_at - DAY}

    def wait(self, time: timedelta) -> None:
        """Let time pass."""
        self.clock.move(time)

    def wait_for_an_end(self, number: int, beside: timedelta) -> None:
        """Let time pass so that the next call comes exactly at one of ``ends``, or a second before or after it."""
        now = self.clock.now()
        ends = sorted(end for end in self.ends if end > now + 2 * SECOND)[:number]
        if ends:
            self.clock.move(ends[-1] + beside - SECOND - now)

    def begin(
        self,
        *,
        service: str,
        holder: str,
        key: str,
        secret: str,
        min_remaining: timedelta,
        version: str,
        rejected: int | None,
    ) -> None:
        """A caller asks for the lease."""
        app_key = AppKey(key or OWN_KEYS[service], secret)
        rejected_id = None if rejected is None else last(self.tokens, rejected).token_id
        begun = self.both(
            lambda side: side.store.begin(
                service,
                holder,
                f"the job of {holder}",
                app_key,
                min_remaining=min_remaining,
                rejected_version=side.version(version, service),
                rejected_token_id=rejected_id,
            )
        )
        if begun.retry_at is not None:
            self.ends.add(begun.retry_at)
        if begun.fence is not None and rejected_id is not None:
            self.ends |= {self.clock.now() + DAY, self.clock.now() + 90 * DAY}
        if begun.fence is not None:
            self.leases.append(Lease(service, holder, begun.fence, app_key.credential_id))

    def commit(self, *, lease: int, token: int, form: str, rejected: bool) -> None:
        """A caller commits, in time or late, for the first time or again."""
        if self.leases:
            ending, given = last(self.leases, lease), last(self.tokens, token)
            stored = self.form(given, form)
            self.both(
                lambda side: side.store.commit(
                    ending.service, ending.holder, ending.fence, given, stored, rejected=rejected
                )
            )

    def abort(self, *, lease: int, cooldown: timedelta, refused: bool) -> None:
        """A lease ends without a token."""
        if self.leases:
            ending = last(self.leases, lease)
            self.both(
                lambda side: side.store.abort(
                    ending.service,
                    ending.holder,
                    ending.fence,
                    cooldown=cooldown,
                    error_code="EGW00105" if refused else "kis-unreachable",
                    refused_credential_id=ending.credential_id if refused else None,
                )
            )

    def save(self, *, service: str, token: int, form: str, version: str) -> None:
        """A caller stores a token without a lease."""
        given = last(self.tokens, token)
        stored = self.form(given, form)
        self.both(lambda side: side.store.save(service, given, stored, replaces_version=side.version(version, service)))

    def put(self, *, service: str, token: int, form: str, shift: timedelta | None, active: bool) -> None:
        """A client writes the row directly, with the right end, a wrong end or no end."""
        given = last(self.tokens, token)
        value, expires_at = self.form(given, form), None if shift is None else given.expires_at + shift
        self.both(lambda side: side.name(side.store.put(service, "access_token", value, expires_at, active=active)))


def last(items: list[_Item], back: int) -> _Item:
    """The element ``back`` places from the end, or the first element if there are fewer."""
    return items[-back:][0]


@pytest.fixture(scope="module")
def clocked(postgres: EmbeddedPostgres) -> Iterator[Database]:
    """A project whose functions and triggers read the clock of the test."""
    project = prepare_database(postgres.create_database())
    with psycopg.connect(project.owner, autocommit=True) as connection:
        connection.execute(CLOCK)
        for path in sorted(migrations_folder().glob("*.sql")):
            migration = path.read_text(encoding="utf-8")
            connection.execute(migration.replace("clock_timestamp()", "public.test_now()").encode())
    with Database(project) as database:
        yield database


# To examine a failure, add Phase.shrink, which takes minutes and finds a short series.
series = settings(derandomize=True, database=None, phases=[Phase.explicit, Phase.generate])


def compare(clocked: Database, operations: list[tuple[str, dict[str, Any]]]) -> None:
    """Apply a series of operations to both stores."""
    comparison = Comparison(clocked)
    for name, arguments in operations:
        getattr(comparison, name)(**arguments)
    comparison.finish()


@settings(series, max_examples=20)
@given(SERIES)
@example([BEGIN, ("issue", {"age": -25 * HOUR, "left": DAY}), ("wait", {"time": HOUR - SECOND}), COMMIT])
@example([BEGIN, ("issue", {"age": HOUR, "left": 9 * SECOND}), ("wait", {"time": 8 * SECOND}), COMMIT])
@example(
    [BEGIN, ("issue", {"age": 6 * HOUR - 9 * SECOND, "left": HOUR}), COMMIT, ("wait", {"time": 7 * SECOND}), BEGIN]
)
@example([PUT, ("wait_for_an_end", {"number": 2, "beside": -SECOND}), BEGIN_FOR_10_MINUTES, BEGIN_FOR_10_MINUTES])
def test_memory_and_functions_answer_the_same(clocked: Database, operations: list[tuple[str, dict[str, Any]]]) -> None:
    """After any series of calls, of direct writes and of waits, both stores answer, store and record the same."""
    compare(clocked, operations)


@pytest.mark.matrix
@settings(series, max_examples=150)
@given(SERIES)
def test_memory_and_functions_answer_the_same_in_many_series(
    clocked: Database, operations: list[tuple[str, dict[str, Any]]]
) -> None:
    """In many series, which include rare coincidences of ends, both stores answer the same."""
    compare(clocked, operations)
