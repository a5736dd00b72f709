"""README.md and README.ko.md agree: their headings, tables, blocks and links correspond."""

from __future__ import annotations

import re

from tests.readme.conftest import blocks_of, read_page

ENGLISH, KOREAN = read_page("README.md"), read_page("README.ko.md")
PAGES = {"README.md": ENGLISH, "README.ko.md": KOREAN}
#: Tables whose first column has commands or outputs, which are the same in both languages.
NAMES = r"`[a-z-]+`|[\d, ]+"


def without_blocks(page: str) -> str:
    """A page's text alone."""
    return re.sub(r"^```.*?^```$", "", page, flags=re.MULTILINE | re.DOTALL)


def headings(page: str) -> list[tuple[str, str]]:
    """Level and text of each heading."""
    return re.findall(r"^(#+) (.+)$", without_blocks(page), re.MULTILINE)


def tables(page: str) -> list[list[list[str]]]:
    """The cells of each row of each table."""
    found = re.findall(r"(?:^\|.*\|\n)+", without_blocks(page), re.MULTILINE)
    rows = ([row.strip("|").split("|") for row in table.splitlines()] for table in found)
    return [[[cell.strip() for cell in row] for row in table] for table in rows]


def lists(page: str) -> list[str]:
    """The beginning of each item of a list."""
    return re.findall(r"^(-|\d\.) ", without_blocks(page), re.MULTILINE)


def comparable(language: str, code: str) -> str:
    """A block without its texts for people: comments, and the labels of pictures."""
    if language == "mermaid":
        return re.sub(r'"[^"]*"', '""', code)
    return re.sub(r"(^|\s+)# (?!\.github/).*$", "", code, flags=re.MULTILINE)


def targets(page: str) -> list[str]:
    """The targets of links within the repository."""
    return re.findall(r"\]\((?!https?:)([^)]+)\)", without_blocks(page))


def test_same_headings() -> None:
    """Both pages have headings of the same levels in the same order."""
    assert [level for level, _ in headings(ENGLISH)] == [level for level, _ in headings(KOREAN)]


def test_same_tables() -> None:
    """Both pages have tables of the same size, with the same first column if it has names or numbers."""
    english, korean = tables(ENGLISH), tables(KOREAN)

    assert [[len(row) for row in table] for table in english] == [[len(row) for row in table] for table in korean]
    named = [[row[0] for row in table[2:]] for table in english if re.fullmatch(NAMES, table[2][0])]
    assert len(named) == 4, "modes, inputs, outputs and exit statuses"
    assert named == [[row[0] for row in table[2:]] for table in korean if re.fullmatch(NAMES, table[2][0])]


def test_same_names_in_tables() -> None:
    """The code in a cell is also in the other page's cell."""
    for english, korean in zip(tables(ENGLISH), tables(KOREAN), strict=True):
        for row, other in zip(english, korean, strict=True):
            for cell, translated in zip(row, other, strict=True):
                assert sorted(re.findall(r"`[^`]+`", cell)) == sorted(re.findall(r"`[^`]+`", translated))


def test_same_lists() -> None:
    """Both pages have the same lists."""
    assert lists(ENGLISH) == lists(KOREAN)


def test_same_blocks() -> None:
    """Both pages have the same blocks, apart from comments and the labels of the picture."""
    english, korean = blocks_of(ENGLISH), blocks_of(KOREAN)

    assert [comparable(each.language, each.code) for each in english] == [
        comparable(each.language, each.code) for each in korean
    ]
    assert [each.language for each in english] == [each.language for each in korean]


def test_same_links() -> None:
    """Both pages link to the same pages and sections."""
    english, korean = (
        sorted(target for target in targets(page) if not target.startswith(("#", "README."))) for page in PAGES.values()
    )

    assert english == korean
