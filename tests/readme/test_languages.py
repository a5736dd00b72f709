"""Each Korean page agrees with its English page: headings, tables, lists, blocks and links correspond.

docs/ko/security.md has only some sections of its English page. Each Korean section links to its English section.
"""

from __future__ import annotations

import posixpath
import re

import pytest

from tests.readme.page import blocks_of, read_page
from tools.step import CHECKOUT

#: The English page for each Korean page.
ENGLISH = {f"docs/ko/{page.name}": f"docs/{page.name}" for page in sorted((CHECKOUT / "docs" / "ko").glob("*.md"))}
ENGLISH = {"README.ko.md": "README.md", **ENGLISH}
KOREAN = {english: korean for korean, english in ENGLISH.items()}
#: The Korean pages that have every section of their English page.
WHOLE = [page for page in ENGLISH if page != "docs/ko/security.md"]
#: The pattern of a first column with code or numbers, which is the same in both languages.
NAMES = r"`[^`]+`|[\d, ]+"


def without_blocks(page: str) -> str:
    """Return a page's text without its fenced blocks."""
    return re.sub(r"^```.*?^```$", "", page, flags=re.MULTILINE | re.DOTALL)


def headings(page: str) -> list[tuple[str, str]]:
    """Return the level and the text of each heading."""
    return re.findall(r"^(#+) (.+)$", without_blocks(page), re.MULTILINE)


def anchor(heading: str) -> str:
    """Return the anchor that GitHub gives to a heading."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def tables(page: str) -> list[list[list[str]]]:
    """Return the cells of each row of each table."""
    found = re.findall(r"(?:^\|.*\|\n)+", without_blocks(page), re.MULTILINE)
    rows = ([row.strip("|").split(" | ") for row in table.splitlines()] for table in found)
    return [[[cell.strip() for cell in row] for row in table] for table in rows]


def lists(page: str) -> list[str]:
    """Return the mark at the start of each list item."""
    return re.findall(r"^(-|\d\.) ", without_blocks(page), re.MULTILINE)


def comparable(language: str, code: str) -> str:
    """Return a block without the parts that are translated: comments, and the texts in a diagram."""
    if language == "mermaid":
        return re.sub(r'"[^"]*"', '""', code)
    return re.sub(r"(^|\s+)# (?!\.github/).*$", "", code, flags=re.MULTILINE)


def section_of(korean: str, number: int) -> str:
    """Return the anchor of the English section that corresponds to a heading of a Korean page."""
    if korean in WHOLE:
        return anchor(headings(read_page(ENGLISH[korean]))[number][1])
    _, text = headings(read_page(korean))[number]
    body = read_page(korean).split(f" {text}\n", 1)[1].split("\n## ")[0]
    named = re.search(rf"\]\(\.\./{posixpath.basename(korean)}#([\w-]+)\)", body)
    return named[1] if named else ""


def targets(page: str) -> list[str]:
    """Return the targets of a page's links within the repository.

    A link to a Korean page counts as a link to its English page.
    """
    found = []
    for target in re.findall(r"\]\((?!https?:)([^)\s]+)\)", without_blocks(read_page(page))):
        path, _, section = target.partition("#")
        file = posixpath.normpath(posixpath.join(posixpath.dirname(page), path)) if path else page
        if file in ENGLISH:
            numbers = {anchor(text): number for number, (_, text) in enumerate(headings(read_page(file)))}
            section = section_of(file, numbers[section]) if section else ""
            file = ENGLISH[file]
        found.append(f"{file}#{section}")
    return found


def pair(korean: str) -> tuple[str, str]:
    """Return the text of the English page and of the Korean page."""
    return read_page(ENGLISH[korean]), read_page(korean)


@pytest.mark.parametrize("page", WHOLE)
def test_same_headings(page: str) -> None:
    """Both pages have headings of the same levels in the same order. A heading with code has the same text."""
    english, korean = map(headings, pair(page))

    assert [level for level, _ in english] == [level for level, _ in korean]
    assert [text for _, text in english if "`" in text] == [text for _, text in korean if "`" in text]


@pytest.mark.parametrize("page", WHOLE)
def test_same_tables(page: str) -> None:
    """Both pages have tables of the same size. A first column with code or numbers is the same in both languages."""
    english, korean = map(tables, pair(page))

    assert [[len(row) for row in table] for table in english] == [[len(row) for row in table] for table in korean]
    for one, other in zip(english, korean, strict=True):
        if re.fullmatch(NAMES, one[2][0]):
            assert [row[0] for row in one[2:]] == [row[0] for row in other[2:]]


@pytest.mark.parametrize("page", WHOLE)
def test_same_names_in_tables(page: str) -> None:
    """The code in a table's cell is the same in both languages."""
    for english, korean in zip(*map(tables, pair(page)), strict=True):
        for row, other in zip(english, korean, strict=True):
            for cell, translated in zip(row, other, strict=True):
                assert sorted(re.findall(r"`[^`]+`", cell)) == sorted(re.findall(r"`[^`]+`", translated))


@pytest.mark.parametrize("page", WHOLE)
def test_same_lists(page: str) -> None:
    """The English and the Korean page have the same number of list items, with the same marks."""
    english, korean = map(lists, pair(page))

    assert english == korean


@pytest.mark.parametrize("page", WHOLE)
def test_same_blocks(page: str) -> None:
    """Both pages have the same blocks, apart from comments."""
    english, korean = map(blocks_of, pair(page))

    assert [comparable(each.language, each.code) for each in english] == [
        comparable(each.language, each.code) for each in korean
    ]
    assert [each.language for each in english] == [each.language for each in korean]


@pytest.mark.parametrize("page", WHOLE)
def test_same_links(page: str) -> None:
    """Both pages link to the same sections; a link to a page's Korean version counts as a link to the page."""
    other = f"{ENGLISH[page]}#"  # the link to the page in the other language is not compared

    assert sorted(each for each in targets(ENGLISH[page]) if not each.startswith(other)) == sorted(
        each for each in targets(page) if not each.startswith(other)
    )


@pytest.mark.parametrize("page", ENGLISH)
def test_pages_link_to_each_other(page: str) -> None:
    """The first lines of each page link to the page in the other language."""
    english, korean = (text.split("\n\n")[1] for text in pair(page))
    there = posixpath.relpath(page, posixpath.dirname(ENGLISH[page]))

    assert english == f"English · [한국어]({there})"
    assert korean == f"[English]({posixpath.relpath(ENGLISH[page], posixpath.dirname(page))}) · 한국어"


@pytest.mark.parametrize("page", ENGLISH)
def test_links_to_pages_in_english_are_marked(page: str) -> None:
    """If a Korean page links to a page that exists only in English, the link or the next word names the language."""
    unmarked = []
    link_to_page = r"\[([^\]]*)\]\((?!https?:)([^)\s#]+\.md)[^)]*\)(\(영어\))?"
    for link in re.finditer(link_to_page, without_blocks(read_page(page))):
        file = posixpath.normpath(posixpath.join(posixpath.dirname(page), link[2]))
        if file not in ENGLISH and not re.search("영어|^English$", link[1]) and link[3] is None:
            unmarked.append(link[0])

    assert unmarked == []


def test_part_of_the_security_page() -> None:
    """Each section of docs/ko/security.md links to its English section. Both sections' tables have the same rows."""
    korean, english = (read_page(page) for page in ("docs/ko/security.md", "docs/security.md"))
    sections = {anchor(part.split("\n")[0]): part for part in english.split("\n## ")}

    for part in korean.split("\n## ")[1:]:
        named = re.search(r"\]\(\.\./security\.md#([\w-]+)\)", part)
        assert named is not None, part
        one, other = tables(sections[named[1]])[0], tables(part)[0]
        assert [len(row) for row in one] == [len(row) for row in other]
        for row, translated in zip(one, other, strict=True):
            assert sorted(re.findall(r"`[^`]+`", row[0])) == sorted(re.findall(r"`[^`]+`", translated[0]))
