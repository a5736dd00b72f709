"""README.md and README.ko.md say the same: headings, tables, blocks and links stand side by side."""

from __future__ import annotations

import re

from tests.readme.conftest import blocks_of, read_page

ENGLISH, KOREAN = read_page("README.md"), read_page("README.ko.md")
PAGES = {"README.md": ENGLISH, "README.ko.md": KOREAN}
#: Tables whose first column is what people type or see, which has one language.
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
    """What each item of a list begins with."""
    return re.findall(r"^(-|\d\.) ", without_blocks(page), re.MULTILINE)


def comparable(language: str, code: str) -> str:
    """A block without what is written for people: comments, and in pictures the labels."""
    if language == "mermaid":
        return re.sub(r'"[^"]*"', '""', code)
    return re.sub(r"(^|\s+)# (?!\.github/).*$", "", code, flags=re.MULTILINE)


def targets(page: str) -> list[str]:
    """Where the links lead that stay in the repository."""
    return re.findall(r"\]\((?!https?:)([^)]+)\)", without_blocks(page))


def test_same_headings() -> None:
    """Both have headings of the same levels in the same order."""
    assert [level for level, _ in headings(ENGLISH)] == [level for level, _ in headings(KOREAN)]


def test_same_tables() -> None:
    """Both have the same tables: as many rows and columns; the same first column where it holds names or numbers."""
    english, korean = tables(ENGLISH), tables(KOREAN)

    assert [[len(row) for row in table] for table in english] == [[len(row) for row in table] for table in korean]
    named = [[row[0] for row in table[2:]] for table in english if re.fullmatch(NAMES, table[2][0])]
    assert len(named) == 4, "modes, inputs, outputs and exit statuses"
    assert named == [[row[0] for row in table[2:]] for table in korean if re.fullmatch(NAMES, table[2][0])]


def test_same_names_in_tables() -> None:
    """What stands in a cell as code stands in the other language's cell as well."""
    for english, korean in zip(tables(ENGLISH), tables(KOREAN), strict=True):
        for row, other in zip(english, korean, strict=True):
            for cell, translated in zip(row, other, strict=True):
                assert sorted(re.findall(r"`[^`]+`", cell)) == sorted(re.findall(r"`[^`]+`", translated))


def test_same_lists() -> None:
    """Both have the same lists."""
    assert lists(ENGLISH) == lists(KOREAN)


def test_same_blocks() -> None:
    """Both have the same blocks; comments, and labels in the picture, are each page's own."""
    english, korean = blocks_of(ENGLISH), blocks_of(KOREAN)

    assert [comparable(each.language, each.code) for each in english] == [
        comparable(each.language, each.code) for each in korean
    ]
    assert [each.language for each in english] == [each.language for each in korean]


def test_same_links() -> None:
    """Both lead to the same pages, and to the same parts of them."""
    english, korean = (
        sorted(target for target in targets(page) if not target.startswith(("#", "README."))) for page in PAGES.values()
    )

    assert english == korean
