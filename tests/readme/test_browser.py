"""The pages in a real browser: no page is wider than its window. On a screen, no table is cut and no name is broken."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.browser import Frame, find_browser, measure
from tests.github_page import page_of
from tests.readme.page import read_page

if TYPE_CHECKING:
    from collections.abc import Iterator

PAGES = ("README.md", "README.ko.md", "docs/README.md", "docs/architecture.md", "docs/ko/troubleshooting.md")
SCREEN, TELEPHONE = 1012, 390
#: The minimum contrast of normal text in WCAG.
READABLE = 4.5

#: The visible properties of a page. ``broken`` has the names that take several lines in the first column of a table.
SCRIPT = """(document) => ({
  overflows: overflows(document),
  cut: [...document.querySelectorAll("table")].filter((table) => table.scrollWidth > table.clientWidth).length,
  broken: [...document.querySelectorAll("td:first-child code")]
    .filter((code) => boxes(code, code.textContent).length > 1).map((code) => code.textContent),
  contrast: Math.min(...[...document.querySelectorAll("p, li, td, th, a, code")].map(contrast)),
})"""


def frames() -> Iterator[tuple[str, Frame]]:
    """Yield each page in the width of a screen and of a telephone, in both themes."""
    for page in PAGES:
        html = page_of(read_page(page))
        for width in (SCREEN, TELEPHONE):
            for dark in (False, True):
                yield f"{page} {width} {dark}", Frame(html, width, dark)


@pytest.fixture(scope="module")
def seen(child_processes: None, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:  # noqa: ARG001 - declares it
    """The measured properties of each page in each view, by page name, width and theme."""
    if find_browser() is None:
        pytest.skip("this machine has no Chrome and no Chromium")
    return measure(dict(frames()), SCRIPT, tmp_path_factory.mktemp("pages"))


@pytest.mark.parametrize("page", PAGES)
def test_page_fits_its_window(seen: dict[str, Any], page: str) -> None:
    """No page is wider than its window, and on a screen no table is cut. Each text has enough contrast."""
    for width in (SCREEN, TELEPHONE):
        for dark in (False, True):
            view = seen[f"{page} {width} {dark}"]
            assert not view["overflows"]
            assert view["contrast"] >= READABLE
    assert seen[f"{page} {SCREEN} False"]["cut"] == 0


@pytest.mark.parametrize("page", ["README.md", "README.ko.md"])
def test_names_are_on_one_line(seen: dict[str, Any], page: str) -> None:
    """On a screen each input, output and mode is on one line."""
    assert seen[f"{page} {SCREEN} False"]["broken"] == []
