"""The language of the project: each sentence has a subject, and each thing has one word.

The rules of the language are in CONTRIBUTING.md. This file reads docstrings, comments and messages of Python, comments
of SQL, and the pages. The tests leave out code, quotations and names.
"""

from __future__ import annotations

import ast
import io
import re
import tokenize
from functools import cache
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parents[1]

#: The parts of the project, and the files of each part.
PARTS = {
    "code": ("entrypoint.py", "kis_token/**/*.py", "kis_token/**/*.sh", "tools/**/*.py"),
    "tests": ("tests/**/*.py", "bench/**/*.py"),
    "sql": ("sql/*.sql",),
    "pages": ("*.md", "docs/**/*.md", ".github/**/*.md"),
}

#: A clause that opens with a pronoun in the place of a subject, unless the sentence is a question.
BARE_OPENING = re.compile(
    r"(?:^|[.;:] )(?:Who|Whoever|What|Whatever) \w+[^.;:?]*(?![^.;:]*\?)(?=[.;:]|$)", re.MULTILINE
)

#: Phrases that a reader has to read twice.
PHRASES = re.compile(r"\bhas not the\b|\bis none\b|\bto be had\b|, else[.;]|\bmakes? no sense\b")

#: Words, in one of their senses, for which the glossary has another word.
OTHER_WORDS = {
    "lease": re.compile(
        r"\b(?:a|the|this|that|no|its|each|another|whose|one|any|of|'s) turns?\b(?! (?:on|off|out|into))", re.IGNORECASE
    ),
    "valid, fresh, expired": re.compile(r"\b(?:living|alive|dead|dies|died)\b(?!-)", re.IGNORECASE),
    "caller": re.compile(r"\b(?:contenders?|fleets?)\b", re.IGNORECASE),
}


def files_of(part: str) -> list[Path]:
    """Return the files of a part of the project."""
    return sorted({path for pattern in PARTS[part] for path in CHECKOUT.glob(pattern) if path.is_file()})


@cache
def prose_of(path: Path) -> str:
    """Return the sentences of a file, with one paragraph on each line."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".py":
        is_shown = path.is_relative_to(CHECKOUT / "kis_token") or path.name == "entrypoint.py"
        blocks = [*_docstrings(text), *_comments(text), *(_messages(text) if is_shown else [])]
    elif path.suffix == ".md":
        blocks = _paragraphs(text)
    else:
        mark = "--" if path.suffix == ".sql" else "#"
        found = (re.match(rf"\s*(?:.*\s)?{mark}[:!]? ?(.*)$", line) for line in text.splitlines())
        blocks = _joined([match.group(1) if match else "" for match in found])
        blocks += re.findall(r"comment on [^;]*? is\s+'((?:[^']|'')*)'", text)
    return "\n".join(_plain(block) for block in blocks)


def _docstrings(text: str) -> list[str]:
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    found = (ast.get_docstring(node) or "" for node in ast.walk(ast.parse(text)) if isinstance(node, kinds))
    return [" ".join(paragraph.split()) for each in found for paragraph in each.split("\n\n")]


def _messages(text: str) -> list[str]:
    """Return the texts of a program that are long enough to be sentences."""
    nodes = (node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Constant))
    return [" ".join(node.value.split()) for node in nodes if isinstance(node.value, str) and node.value.count(" ") > 2]


def _comments(text: str) -> list[str]:
    lines = [""] * (text.count("\n") + 2)
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT and "noqa" not in token.string and "type: ignore" not in token.string:
            lines[token.start[0]] = token.string.lstrip("#:! ")
    return _joined(lines)


def _joined(lines: list[str]) -> list[str]:
    """Return adjacent lines as one text."""
    return [" ".join(block.split("\n")) for block in re.split(r"\n{2,}", "\n".join(lines)) if block.strip()]


def _paragraphs(text: str) -> list[str]:
    text = re.sub(r"```.*?```|<!--.*?-->", "\n\n", text, flags=re.DOTALL)
    text = re.sub(r"“[^”]*”|\]\([^)]*\)", " ", text)
    text = re.sub(r"^(?:[-*] |\d+\. |#+ |> )", "\n\n", text, flags=re.MULTILINE)
    text = re.sub(r"^\|?[-| :]+\|?$", "\n\n", text, flags=re.MULTILINE)
    return [" ".join(cell.split()) for block in re.split(r"\n{2,}", text) for cell in block.split("|") if cell.strip()]


def _plain(text: str) -> str:
    """Return a text without names of code and without emphasis."""
    return re.sub(r"``[^`]*``|`[^`]*`|\*+|_(?=\w)", "", text).strip()


def found_in(part: str, pattern: re.Pattern[str]) -> list[str]:
    """Return the places where ``pattern`` matches in the prose of a part."""
    return [
        f"{path.relative_to(CHECKOUT)}: {prose[max(match.start() - 30, 0) : match.end() + 30]!r}"
        for path in files_of(part)
        for prose in [prose_of(path)]
        for match in pattern.finditer(prose)
    ]


@pytest.mark.parametrize("part", PARTS)
def test_each_clause_has_a_subject(part: str) -> None:
    """No clause opens with a bare Who or What, except in questions."""
    assert found_in(part, BARE_OPENING) == []


@pytest.mark.parametrize("part", PARTS)
def test_no_phrase_has_to_be_read_twice(part: str) -> None:
    """The text has none of the phrases that readers had to read twice."""
    assert found_in(part, PHRASES) == []


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("word", OTHER_WORDS)
def test_each_thing_has_one_word(part: str, word: str) -> None:
    """Each thing has only the glossary's word."""
    assert found_in(part, OTHER_WORDS[word]) == []


def test_the_guard_finds_what_it_forbids() -> None:
    """Each pattern matches a sentence with its fault, and does not match a plain sentence."""
    assert BARE_OPENING.search("Who resolves wants a token.")
    assert BARE_OPENING.search("It waits: What is stored is read.")
    assert not BARE_OPENING.search("What is EGW00133?")
    assert not BARE_OPENING.search("The caller that resolves wants a token.")
    assert PHRASES.search("The value has not the form of a token.")
    assert OTHER_WORDS["lease"].search("It asks for a turn.")
    assert not OTHER_WORDS["lease"].search("It turns the cache off.")
