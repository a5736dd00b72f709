"""Measures how a lease of one slot, a status of all slots, and resolving all slots slow down with more slots."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from statistics import median
from threading import Barrier
from typing import TYPE_CHECKING, NamedTuple

from bench.growth.samples import Sample, Table, growth_table, in_turns, ratio, timed
from bench.growth.slot import SERVICE, MeasuredSlot
from kis_token.admin.status import collect
from kis_token.config import Settings
from kis_token.sandbox import Sandbox
from kis_token.sandbox.emulator import KISEmulator
from kis_token.sandbox.kis_rules import Account
from kis_token.store.sealing import make_vault
from kis_token.wiring import open_resolver

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from typing_extensions import Self

    from kis_token.core.resolver import Resolver
    from kis_token.sandbox.postgres import EmbeddedPostgres

SIZES = (1, 10, 50)

#: Between two leases, the clocks move forward by this many seconds. KIS and the database require fewer seconds.
_SPACING_SECONDS = 80

_LONGEST_SECONDS = 60

#: The least number of rounds in which all slots are resolved at once.
_LEAST_ROUNDS = 5


class AllAtOnce(NamedTuple):
    """The cost of resolving all empty slots: milliseconds at once and in sequence, requests, and tokenP calls."""

    at_once: float
    in_a_row: float
    requests: int
    token_calls: int


class ManySlots:
    """A project with ``count`` slots, each with its own account.

    The end of the ``with`` block closes the connections.
    """

    def __init__(self, postgres: EmbeddedPostgres, count: int) -> None:
        self._services = [SERVICE, *(f"{SERVICE}-{number}" for number in range(2, count + 1))]
        self._accounts = [Account() for _ in self._services]
        self._stack = ExitStack()
        self._sandbox = Sandbox(dsn=postgres.create_database(), kis=KISEmulator(production=self._accounts))

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            stack.enter_context(self._sandbox)
            for service, account in list(zip(self._services, self._accounts, strict=True))[1:]:
                self._sandbox.store_keys(service, account)
            self._slot = stack.enter_context(MeasuredSlot(self._sandbox))
            self._stack = stack.pop_all()
        self.resolve_all()  # after this call, every slot has a token, a lease and events
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def call(self) -> dict[str, Sample]:
        """Make each measured call for one slot once, and request a status of all slots."""
        samples = self._slot.take_lease() | self._slot.take_lease_over_http()
        self._empty(SERVICE)
        for name, source in (("resolve, which issues", "oauth"), ("resolve, warm", "supabase")):
            with self._resolver(SERVICE) as resolver, self._counted() as requests, timed() as watch:
                got = resolver.resolve().source
            _expect([got], source)
            samples[name] = Sample(watch.milliseconds, len(requests))
        settings = self._settings(SERVICE)
        with self._counted() as requests, timed() as watch:
            status = collect(settings, self._slot.store, make_vault(()))
        if not {each.service for each in status.slots} >= set(self._services):
            raise RuntimeError("The status does not list all slots")
        samples["kis-token status"] = Sample(watch.milliseconds, len(requests))
        return samples

    def resolve_all(self) -> AllAtOnce:
        """Issue tokens for all slots one after another, and then again for all slots at once."""
        in_a_row = self._resolve_with(1)
        before = self._sandbox.kis.counts("production").calls
        with self._counted() as requests:
            at_once = self._resolve_with(len(self._services))
        return AllAtOnce(at_once, in_a_row, len(requests), self._sandbox.kis.counts("production").calls - before)

    def _resolve_with(self, workers: int) -> float:
        """Return the milliseconds until all slots have a token from KIS."""
        self._empty(*self._services)
        ready = Barrier(workers)

        def resolve(resolver: Resolver) -> str:
            if workers > 1:
                ready.wait(_LONGEST_SECONDS)
            return resolver.resolve().source

        with ExitStack() as stack:
            resolvers = [stack.enter_context(self._resolver(service)) for service in self._services]
            with ThreadPoolExecutor(workers) as pool, timed() as watch:
                sources = list(pool.map(resolve, resolvers))
        _expect(sources, "oauth")
        return watch.milliseconds

    def _empty(self, *services: str) -> None:
        """Delete the tokens of these slots, and move the clocks beyond the minute between two leases."""
        self._slot.owner.execute(
            "delete from public.api_credentials where credential_type = 'access_token' and service_name = any (%s)",
            (list(services),),
        )
        self._sandbox.advance(_SPACING_SECONDS)

    def _settings(self, service: str) -> Settings:
        variables = {"KIS_SERVICE_NAME": service, "KIS_TOKEN_CACHE": "off", "KIS_TOKEN_TIMEOUT": f"{_LONGEST_SECONDS}s"}
        return Settings.from_env(self._sandbox.variables | variables)

    @contextmanager
    def _resolver(self, service: str) -> Iterator[Resolver]:
        with open_resolver(self._settings(service), time.monotonic(), lambda _: None) as resolver:
            yield resolver

    @contextmanager
    def _counted(self) -> Iterator[list[str]]:
        """Yield a list. After the block, the list has the paths of the requests that the block sent to Supabase."""
        server, paths = self._sandbox.supabase.server, list[str]()
        server.forget()
        yield paths
        paths += [each.path for each in server.seen]


def _expect(sources: Sequence[str], source: str) -> None:
    """Raise RuntimeError if a token did not come from ``source``."""
    if set(sources) != {source}:
        raise RuntimeError(f"Tokens came from {', '.join(sources)}")


def measure_slots(postgres: EmbeddedPostgres, sizes: Sequence[int], calls: int) -> tuple[Table, Table]:
    """Measure one database for each size, in turns. Returns a table for one slot, and a table for all slots."""
    with ExitStack() as stack:
        projects = {count: stack.enter_context(ManySlots(postgres, count)) for count in sizes}
        works: dict[int, Callable[[], Mapping[str, Sample]]] = {count: each.call for count, each in projects.items()}
        found = in_turns(works, calls)
        rounds = max(_LEAST_ROUNDS, calls // 4)
        at_once: dict[int, list[AllAtOnce]] = {count: [] for count in sizes}
        for _ in range(rounds):
            for count, project in projects.items():
                at_once[count].append(project.resolve_all())
    one = growth_table(
        "One slot among others",
        found,
        "asked",
        f"The times are medians of {calls} calls. A column title such as *50* is the number of slots in a "
        "Supabase project. The column has the times for this project. Each slot has keys, a token, a lease and "
        "events. *SQL* means a direct call of the function in PostgreSQL, and *HTTP* means a call through the sandbox. "
        "If the name of a row ends with *SQL*, the column *asked* has the number of log events that PostgreSQL has "
        "read. For `resolve` and `kis-token status`, the column *asked* has the number of requests to Supabase. In the "
        "case *resolve, warm*, the slot has a fresh token.",
        base=sizes[0],
    )
    return one, _table_of_all(at_once, rounds)


def _table_of_all(at_once: Mapping[int, Sequence[AllAtOnce]], rounds: int) -> Table:
    figures = {
        count: (
            median(each.at_once for each in results) / count,
            median(each.in_a_row for each in results) / count,
            max(each.requests for each in results) / count,
            max(each.token_calls for each in results) / count,
        )
        for count, results in at_once.items()
    }
    smallest, largest = figures[min(figures)], figures[max(figures)]
    rows = [(str(count), *(f"{value:.1f}" for value in values)) for count, values in figures.items()]
    return Table(
        "All slots at once",
        ("slots", "ms per slot, concurrent", "ms per slot, sequential", "requests per slot", "tokenP per slot"),
        (*rows, ("ratio", *(ratio(value, of) for value, of in zip(largest, smallest, strict=True)))),
        f"All slots are empty at the start. The figures are medians of {rounds} rounds. Callers, Supabase and KIS "
        "share a process, so concurrent calls cannot be much faster than sequential calls. If slots waited for each "
        "other, concurrent calls would be slower than sequential calls.",
    )
