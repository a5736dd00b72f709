"""Functions that read the pages for users and their fenced blocks."""

from __future__ import annotations

import re
from dataclasses import dataclass

from tools.step import CHECKOUT


@dataclass(frozen=True)
class Block:
    """A fenced block of a page."""

    language: str
    code: str

    @property
    def file(self) -> str | None:
        """The file name of a workflow, from the block's first line; None for another block."""
        named = re.match(r"# \.github/workflows/([\w-]+\.yml)\n", self.code)
        return named[1] if named else None


def blocks_of(text: str, language: str | None = None) -> list[Block]:
    """Return the fenced blocks of a text in their order: all blocks, or only the blocks in ``language``."""
    found = re.findall(r"^```(\w+)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return [Block(*each) for each in found if language in (None, each[0])]


def codes_of(page: str, language: str) -> list[str]:
    """Return the code of a page's blocks in a language."""
    return [block.code for block in blocks_of(read_page(page), language)]


def workflows_of(page: str) -> dict[str, str]:
    """Return the workflows of a page, by file name."""
    return {block.file: block.code for block in blocks_of(read_page(page)) if block.file}


def read_page(name: str) -> str:
    """Return the text of a page of this repository."""
    return (CHECKOUT / name).read_text(encoding="utf-8")
