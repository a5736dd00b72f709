"""The tables of the benchmarks: the ratio, and the comparison with the target, use the medians."""

from __future__ import annotations

import pytest

from bench.tables import COLUMNS, Row, amount, markdown, render


def cells(row: Row) -> dict[str, str]:
    """Return a row's cells by their titles. If two columns have the same title, the dict has the later column."""
    return dict(zip(COLUMNS, row.cells, strict=True))


@pytest.mark.parametrize(("at_most", "shown"), [(1.8, "yes"), (1.5, "yes"), (1.49, "**no**")])
def test_ratio_of_medians_is_held_to_the_target(at_most: float, shown: str) -> None:
    """An unusually slow or quick round has no effect. A ratio equal to the target holds."""
    row = Row("case", [9.0, 0.3, 0.1], at_most, "other", [0.2, 0.01, 7.0])
    assert row.ratio == pytest.approx(1.5)
    assert row.holds == (shown == "yes")
    assert cells(row)["holds"] == shown
    assert cells(row)["ratio"] == "1.5"


@pytest.mark.parametrize(("count", "holds"), [(1, True), (2, False)])
def test_without_another_the_figure_itself_is_held_to_the_target(count: int, holds: bool) -> None:  # noqa: FBT001 - a parameter
    """A count has no ratio, so the count itself is compared with the target."""
    row = Row("requests", [count], 1, unit="")
    assert (row.ratio, row.holds) == (None, holds)
    assert (cells(row)["ours"], cells(row)["theirs"], cells(row)["ratio"]) == (str(count), "-", "-")


def test_a_row_without_a_target_does_not_hold_or_fail() -> None:
    """The row has a ratio, and no result."""
    row = Row("case", [9.0], None, "other", [1.0])
    assert row.holds
    assert (cells(row)["ratio"], cells(row)["at most"], cells(row)["holds"]) == ("9", "-", "-")


def test_download_is_the_difference_to_packages_on_disk() -> None:
    """Each side has a separate column for its download, which is a difference of medians."""
    row = Row("install", [4.0, 5.0, 4.5], 0.35, "pip", [20.0], local=[3.0, 3.25, 9.0], others_local=[12.5])
    assert [cell for title, cell in zip(COLUMNS, row.cells, strict=True) if title == "its download"] == [
        "1.25 s",
        "7.50 s",
    ]


def test_amounts_have_their_unit() -> None:
    """Seconds are shown with milliseconds, and all other figures with four digits."""
    assert [amount([0.12345], "s"), amount([23.6094], "MiB"), amount([1], ""), amount([], "s")] == [
        "0.123 s",
        "23.61 MiB",
        "1",
        "-",
    ]


def test_markdown_has_a_line_of_equal_width_for_each_row() -> None:
    """A table in Markdown is also readable as plain text."""
    assert markdown(("a", "long"), [("longer", "b")]).splitlines() == [
        "| a      | long |",
        "| ------ | ---- |",
        "| longer | b    |",
    ]
    assert len(render([Row("x", [1.0], 2.0, "y", [1.0])]).splitlines()) == 3
