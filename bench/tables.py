"""A benchmark's table: this project's figures, the alternative's figures, and whether the target is met."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence


@dataclass(frozen=True, slots=True)
class Row:
    """One comparison of this project (``ours``) with an alternative (``others``). The figures are in ``unit``.

    ``ours`` and ``others`` have the figures of all rounds. ``at_most`` is the target: the highest allowed ratio of the
    two medians or, without ``others``, the highest allowed median. If ``at_most`` is None, the row has no target.
    ``local`` and ``others_local`` are figures of runs that need no download, because all packages are on disk. So their
    difference from ``ours`` and ``others`` is the cost of the download.
    """

    what: str
    ours: Sequence[float]
    at_most: float | None
    other: str = ""
    others: Sequence[float] = ()
    unit: str = "s"
    local: Sequence[float] = ()
    others_local: Sequence[float] = ()

    @property
    def ratio(self) -> float | None:
        """This project's median divided by the alternative's median. None if there is no alternative."""
        return median(self.ours) / median(self.others) if self.others else None

    @property
    def holds(self) -> bool:
        """Whether the row meets its target."""
        ratio = self.ratio
        return self.at_most is None or (median(self.ours) if ratio is None else ratio) <= self.at_most

    @property
    def cells(self) -> tuple[str, ...]:
        """The cells of the row, in the order of COLUMNS."""
        ratio = self.ratio
        return (
            self.what,
            amount(self.ours, self.unit),
            _download(self.ours, self.local),
            self.other or "-",
            amount(self.others, self.unit),
            _download(self.others, self.others_local),
            "-" if ratio is None else f"{ratio:.3g}",
            "-" if self.at_most is None else f"{self.at_most:g}",
            "-" if self.at_most is None else "yes" if self.holds else "**no**",
        )


COLUMNS = (
    *("case", "ours", "its download", "compared with", "theirs", "its download"),
    *("ratio", "at most", "holds"),
)


def amount(figures: Sequence[float], unit: str) -> str:
    """Return the median of ``figures`` as text with its unit."""
    if not figures:
        return "-"
    middle = median(figures)
    return f"{middle:.3f} s" if unit == "s" else f"{middle:.4g} {unit}".rstrip()


def _download(total: Sequence[float], local: Sequence[float]) -> str:
    return f"{median(total) - median(local):.2f} s" if local else "-"


def render(rows: Iterable[Row]) -> str:
    """Return the rows as a Markdown table."""
    return markdown(COLUMNS, [row.cells for row in rows])


def markdown(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table that is also readable as text."""
    widths = [max(len(row[index]) for row in (titles, *rows)) for index in range(len(titles))]
    lines = [titles, ["-" * width for width in widths], *rows]
    return "\n".join(
        "| " + " | ".join(f"{cell:<{width}}" for cell, width in zip(line, widths, strict=True)) + " |" for line in lines
    )
