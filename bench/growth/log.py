"""Measures a lease, a status, a pruning and a warm read with an issuance log of up to 100,000 events."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING

from bench.growth.samples import Sample, growth_table, in_turns, timed
from bench.growth.slot import SERVICE, MeasuredSlot
from kis_token.sandbox import Sandbox

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from bench.growth.samples import Table
    from kis_token.sandbox.postgres import EmbeddedPostgres

SIZES = (0, 1_000, 10_000, 100_000)

#: The slot that has nearly all events, and a slot that has a few of the oldest events. A search finds the oldest events
#: last.
_BUSY, _FEW = "busy", "few"

_FILL = """
insert into public.credential_issuances
    (service_name, happened_at, outcome, fence, holder, holder_label, app_key_id, token_id)
select case when i <= 20 then 'few' else 'busy' end, now() - (%(events)s - i + 1) * interval '1 minute',
       case when i %% 2 = 1 then 'granted' else 'committed' end, i / 2, gen_random_uuid(),
       'acme/bot run ' || i || ' trade', '0123456789abcdef', 'fedcba9876543210'
from generate_series(1, %(events)s) i
"""

_STATUS_ROWS = 500  # `kis-token status` shows at most this many events
_SIZE = "select pg_total_relation_size('public.credential_issuances')"


def measure_log(postgres: EmbeddedPostgres, sizes: Sequence[int], calls: int) -> Table:
    """Measure one database for each size, in turns."""
    with ExitStack() as stack:
        works: dict[int, Callable[[], Mapping[str, Sample]]] = {}
        size_on_disk = 0
        for events in sizes:
            sandbox = stack.enter_context(Sandbox(dsn=postgres.create_database()))
            log = LongLog(stack.enter_context(MeasuredSlot(sandbox)), events)
            works[events], size_on_disk = log.call, log.size_on_disk
        found = in_turns(works, calls)
    return growth_table(
        "Events in the issuance log",
        found,
        "events read",
        f"The times are medians of {calls} calls. A column title such as *1,000* is the number of events in the log "
        "before the measurement. The column has the times for a log of this size. Each lease of the measurement adds "
        "two events to the log. "
        f"`issuance_status` returns up to {_STATUS_ROWS} events, so a longer log should not make this function slower. "
        f"The column *events read* has the number of events that PostgreSQL has read in the log of {sizes[-1]:,} "
        "events, according to PostgreSQL's own counters. 20 of the events belong to another slot, and all other events "
        "belong to the busiest slot. *SQL* means a direct call of the function in PostgreSQL, and *HTTP* means a call "
        f"through the sandbox. {sizes[-1]:,} events take {size_on_disk / 2**20:.1f} MiB on disk with their indexes.",
        base=sizes[min(1, len(sizes) - 1)],
    )


class LongLog:
    """A project with a log of ``events`` events."""

    def __init__(self, slot: MeasuredSlot, events: int) -> None:
        self._slot = slot
        slot.owner.execute(_FILL, {"events": events})
        slot.owner.execute("vacuum analyze public.credential_issuances")  # as autovacuum does within a minute
        self.size_on_disk = int(slot.owner.execute(_SIZE).fetchall()[0][0])

    def call(self) -> dict[str, Sample]:
        """Make each measured call once."""
        slot = self._slot
        samples = slot.take_lease() | slot.take_lease_over_http()
        for name, service in (("all slots", None), ("the busiest slot", _BUSY), ("a slot with 20 events", _FEW)):
            samples[f"issuance_status of {name}, SQL"], _ = slot.ask(
                "issuance_status", service=service, log_rows=_STATUS_ROWS
            )
        with timed() as status:
            slot.store.issuance_status(None, _STATUS_ROWS)
        samples["issuance_status of all slots, HTTP"] = Sample(status.milliseconds)
        samples["prune_issuances that deletes no event, SQL"], _ = slot.ask("prune_issuances", keep="1000 days")
        with timed() as read:
            slot.store.read(SERVICE)
        samples["read of a slot, HTTP"] = Sample(read.milliseconds)
        return samples
