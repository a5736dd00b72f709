"""One finding of ``kis-token check``: what was looked at, how it is, and what to do."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from kis_token.errors import KisTokenError


@dataclass(frozen=True, slots=True)
class Finding:
    """``state`` is ok, wrong, or note: worth knowing, or what could not be looked at."""

    state: Literal["ok", "wrong", "note"]
    what: str
    said: str
    remedy: str = ""
    code: str = ""

    def __str__(self) -> str:
        code = f" [{self.code}]" if self.code else ""
        remedy = f". {self.remedy}" if self.remedy else ""
        return f"{self.state:<5}  {self.what}: {self.said}{code}{remedy}"


def ok(what: str, said: str) -> Finding:
    """It is as it should be."""
    return Finding("ok", what, said)


def note(what: str, said: str, remedy: str = "") -> Finding:
    """Worth knowing, and nothing that has to be mended."""
    return Finding("note", what, said, remedy)


def wrong(what: str, said: str, remedy: str, code: str = "") -> Finding:
    """To be mended."""
    return Finding("wrong", what, said, remedy, code)


def wrong_as(what: str, error: KisTokenError) -> Finding:
    """The same, as an error says it."""
    return Finding("wrong", what, f"{error.args[0]}", error.hint, error.code)
