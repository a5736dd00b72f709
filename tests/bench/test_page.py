"""The page that ``make bench`` writes."""

from __future__ import annotations

import re

import pytest

from bench.__main__ import BENCHMARKS, PAGE, conditions, fill
from tools.step import CHECKOUT


@pytest.mark.parametrize("name", BENCHMARKS)
def test_every_benchmark_has_its_place(name: str) -> None:
    """The page has one filled place for each benchmark, with date and machine."""
    page = PAGE.read_text(encoding="utf-8")
    (found,) = re.findall(rf"<!-- bench\.{name}: .*? -->\n(.*?)\n<!-- end -->", page, re.DOTALL)

    assert re.match(r"\n\*20\d\d-\d\d-\d\d, .* cores, .* Python 3\.", found)
    assert "|" in found if BENCHMARKS[name] else "```text" in found


def test_only_the_named_place_is_filled() -> None:
    """The text around the place, and the text in all other places, is kept. A place may be empty."""
    page = "a\n<!-- bench.one: x -->\nold\n<!-- end -->\nb\n<!-- bench.two: x -->\nkept\n<!-- end -->\n"
    filled = fill(page, "one", "new \\1")

    assert filled == page.replace("old", "\nnew \\1\n")
    assert fill(filled, "one", "new \\1") == filled
    assert fill(page.replace("old\n", ""), "one", "new \\1") == filled


def test_a_missing_place_is_an_error() -> None:
    """The output of a benchmark without a place on the page is an error."""
    with pytest.raises(ValueError, match="0 places for three"):
        fill("<!-- bench.one: x -->\n<!-- end -->", "three", "x")


def test_conditions_name_machine_and_versions() -> None:
    """The conditions have the machine and the versions."""
    assert re.match(r"\*20\d\d-\d\d-\d\d, .+ cores, \d+ GiB, \S+, Python 3\.\d+\.\d+, supabase 2\.", conditions())


@pytest.mark.parametrize("readme", ["README.md", "README.ko.md"])
def test_figures_of_the_readme_are_those_of_the_page(readme: str) -> None:
    """The README's figures of speed are on the page, rounded."""
    rows = [[cell.strip() for cell in line.split("|")] for line in PAGE.read_text(encoding="utf-8").splitlines()]
    fresh = [row for row in rows if len(row) > 8 and row[1] == "fresh token, nothing installed"]
    bare = next(row for row in fresh if row[4] == "bare script")
    plain = next(row for row in fresh if "pip install" in row[4])
    text = (CHECKOUT / readme).read_text(encoding="utf-8")
    (said,) = (
        part for part in text.split("\n\n") if "docs/benchmarks.md)" in part and re.search(r"0\.\d+(?: s|초)", part)
    )

    seconds = [f"{float(figure.removesuffix(' s')):{form}}" for figure, form in ((bare[2], ".2f"), (plain[5], ".1f"))]
    assert re.findall(r"\d+\.\d+", said) == seconds
