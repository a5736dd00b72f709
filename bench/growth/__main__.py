"""``python -m bench.growth``: how requests and time grow with callers, slots, and the length of the issuance log.

The database is a real PostgreSQL. The benchmark calls it by SQL, and over HTTP through the Supabase emulator. The
sizes are measured in turns, so that other work on the machine affects all sizes alike. The result is the ratio of the
figure at the largest size to the figure at the smallest size.
"""

from __future__ import annotations

import argparse
import math
import os
import platform
import signal
import ssl
import sys
from statistics import median
from typing import TYPE_CHECKING
from unittest.mock import patch

from bench.growth import log as growth_log
from bench.growth import slots as growth_slots
from bench.growth.log import measure_log
from bench.growth.samples import Table, ratio
from bench.growth.slots import measure_slots
from bench.stampede import __main__ as stampede
from kis_token.sandbox.postgres import EmbeddedPostgres

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

CALLERS = (1, 10, 50, 200)

#: The duration of a tokenP call in the stampede, in seconds.
_TOKEN_SECONDS = 0.4
_LEAST_ROUNDS = 3


def tables(
    *,
    callers: Sequence[int] = CALLERS,
    slots: Sequence[int] = growth_slots.SIZES,
    events: Sequence[int] = growth_log.SIZES,
    calls: int = 20,
    rounds: Sequence[stampede.Round] = (),
) -> Iterator[Table]:
    """Yield each table as soon as it is ready. Sizes must be in ascending order. Each median is of ``calls`` calls.

    If ``rounds`` of a finished stampede are given, ``callers`` is not used.
    """
    yield callers_table(rounds or _race(callers, calls))
    # Without this patch, each client would load certificates, which are not needed here.
    context = ssl.create_default_context()
    direct = {"NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"}
    with (
        patch.dict(os.environ, direct),
        patch.object(ssl, "create_default_context", return_value=context),
        EmbeddedPostgres(max_connections=200) as postgres,
    ):
        yield from measure_slots(postgres, slots, calls)
        yield measure_log(postgres, events, calls)


def _race(sizes: Iterable[int], calls: int) -> list[stampede.Round]:
    rounds = {size: max(_LEAST_ROUNDS, math.ceil(calls / size)) for size in sizes}
    with stampede.open_servers(_TOKEN_SECONDS) as servers:
        return [each for size, times in rounds.items() for each in stampede.measure(servers, size, times)]


def callers_table(rounds: Iterable[stampede.Round]) -> Table:
    """Return the table for many callers on one empty slot, from the rounds of a stampede."""
    by_size: dict[int, list[stampede.Round]] = {}
    for each in rounds:
        if each.algorithm == "ours":
            by_size.setdefault(each.callers, []).append(each)
    figures = {size: _figures(chosen) for size, chosen in sorted(by_size.items())}
    smallest, largest = figures[min(figures)], figures[max(figures)]
    return Table(
        "Callers for one empty slot",
        ("callers", "tokenP", "store requests", "requests a caller", "median s", "last s"),
        (
            *((str(size), *(f"{value:.2f}" for value in values)) for size, values in figures.items()),
            ("ratio", *(ratio(value, of) for value, of in zip(largest, smallest, strict=True))),
        ),
        f"All callers start at once on {os.cpu_count()} cores, as in bench.stampede. KIS takes {_TOKEN_SECONDS:g} s "
        "for tokenP. Each figure is the median of all rounds of the benchmark.",
    )


def _figures(rounds: Sequence[stampede.Round]) -> tuple[float, ...]:
    store = median(len(each.store) for each in rounds)
    return (
        median(len(each.token_calls) for each in rounds),
        store,
        store / rounds[0].callers,
        median(seconds for each in rounds for seconds in each.times),
        median(max(each.times) for each in rounds),
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the tables. Returns the exit status, which does not depend on the figures."""
    parser = argparse.ArgumentParser(prog="python -m bench.growth", description=__doc__)
    parser.add_argument("--callers", type=_sizes, default=CALLERS, help="numbers of callers, with commas")
    parser.add_argument("--slots", type=_sizes, default=growth_slots.SIZES, help="numbers of slots, with commas")
    parser.add_argument("--events", type=_sizes, default=growth_log.SIZES, help="lengths of the log, with commas")
    parser.add_argument("--calls", type=int, default=20, help="calls behind a median; 20 by default")
    options = parser.parse_args(arguments)
    print(f"{os.cpu_count()} cores, Python {platform.python_version()}, {platform.system()} {platform.machine()}.")
    try:
        for table in tables(**vars(options)):
            print(f"\n{table}", flush=True)
    except KeyboardInterrupt:
        return 130
    return 0


def _sizes(text: str) -> tuple[int, ...]:
    return tuple(sorted({int(each) for each in text.split(",")}))


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    sys.exit(main())
