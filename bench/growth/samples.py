"""Takes the samples for the growth tables in turns, and formats the tables as Markdown."""

from __future__ import annotations

import textwrap
import time
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    #: A function that makes each measured call once, at one size.
    Work = Callable[[], Mapping[str, "Sample"]]

    #: Samples keyed by the measured call, and then by size.
    Found = Mapping[str, Mapping[int, Sequence["Sample"]]]


_LINE = 118


class Sample(NamedTuple):
    """One call: its duration, and the number of rows or requests that the call caused. The table names the unit."""

    milliseconds: float
    asked: int | None = None


class Table(NamedTuple):
    """A table with its explanation."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str

    def __str__(self) -> str:
        """Return the table in Markdown with aligned columns."""
        note = textwrap.fill(self.note, _LINE)
        lines = (self.columns, *self.rows)
        widths = [max(2, *(len(line[index]) for line in lines)) for index in range(len(self.columns))]
        first, *rest = widths
        rule = ("-" * first, *(f"{'-' * (width - 1)}:" for width in rest))
        told = [
            "| " + " | ".join((line[0].ljust(first), *(f"{cell:>{width}}" for cell, width in cells))) + " |"
            for line in (self.columns, rule, *self.rows)
            for cells in [list(zip(line[1:], rest, strict=True))]
        ]
        return "\n".join((f"### {self.title}", "", note, "", *told))


@dataclass(slots=True)
class Stopwatch:
    """The duration of a block. The duration is known when the block has ended."""

    milliseconds: float = 0.0


@contextmanager
def timed() -> Iterator[Stopwatch]:
    """Measure the duration of the block."""
    watch, begin = Stopwatch(), time.perf_counter()
    yield watch
    watch.milliseconds = (time.perf_counter() - begin) * 1000


def in_turns(works: Mapping[int, Work], calls: int) -> Found:
    """Make ``calls`` calls at each size: one size after the other, in alternating order.

    The alternating order makes other work on the machine affect all sizes alike. The first call at each size does not
    count.
    """
    found: dict[str, dict[int, list[Sample]]] = {}
    sizes = list(works)
    for number in range(calls + 1):
        for size in sizes:
            for name, sample in works[size]().items():
                if number:
                    found.setdefault(name, {each: [] for each in works})[size].append(sample)
        sizes.reverse()
    return found


def growth_table(title: str, found: Found, asked: str, note: str, *, base: int) -> Table:
    """Return a table. Each row has medians by size, their ratios, and the highest count at the largest size.

    The largest size is compared with the smallest size, and with ``base`` if ``base`` is another size.
    """
    rows, sizes = [], list(next(iter(found.values())))
    bases = list(dict.fromkeys((sizes[0], base)))
    for name, by_size in found.items():
        medians = {size: median(each.milliseconds for each in samples) for size, samples in by_size.items()}
        counts = [each.asked for each in by_size[sizes[-1]] if each.asked is not None]
        compared = [ratio(medians[sizes[-1]], medians[size]) for size in bases]
        rows.append((name, *(f"{value:.2f}" for value in medians.values()), *compared, str(max(counts, default="-"))))
    compared = [f"{sizes[-1]:,} / {size:,}" for size in bases]
    return Table(title, ("median ms", *(f"{size:,}" for size in sizes), *compared, asked), tuple(rows), note)


def ratio(value: float, of: float) -> str:
    """Return ``value`` divided by ``of``, as text."""
    return f"{value / of:.2f}" if of else "-"
