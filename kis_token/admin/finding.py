"""One finding of ``kis-token check``: the checked part, its state, and the remedy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from kis_token.errors import ENTRIES

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kis_token.errors import KisTokenError


@dataclass(frozen=True, slots=True)
class Finding:
    """One finding. If ``state`` is note, the finding is information or names a part that could not be checked."""

    state: Literal["ok", "wrong", "note"]
    what: str
    said: str
    remedy: str = ""
    code: str = ""

    def __str__(self) -> str:
        code = f" [{self.code}]" if self.code else ""
        remedy = f". {self.remedy}" if self.remedy else ""
        entry = f" {ENTRIES}#{self.code}" if self.code else ""
        return f"{self.state:<5}  {self.what}: {self.said}{code}{remedy}{entry}"


def ok(what: str, said: str) -> Finding:
    """Return a finding that a part of the set-up is right."""
    return Finding("ok", what, said)


def note(what: str, said: str, remedy: str = "") -> Finding:
    """Return a finding with information that needs no correction."""
    return Finding("note", what, said, remedy)


def wrong(what: str, said: str, remedy: str, code: str = "") -> Finding:
    """Return a finding that a part of the set-up is wrong."""
    return Finding("wrong", what, said, remedy, code)


def wrong_as(what: str, error: KisTokenError) -> Finding:
    """Return a finding that a part of the set-up is wrong, with the text, code and remedy of ``error``."""
    return Finding("wrong", what, f"{error.args[0]}", error.hint, error.code)


def conclude(findings: Sequence[Finding]) -> str:
    """Return one line with the result of all findings and the next action."""
    faults = [finding for finding in findings if finding.state == "wrong"]
    if faults:
        parts = ", ".join(dict.fromkeys(finding.what for finding in faults))
        what = "it" if len(faults) == 1 else "them"
        return (
            f"Not ready: {_number(len(faults), 'fault')} ({parts}). Next: correct {what} and run kis-token check again."
        )
    notes = sum(finding.state == "note" for finding in findings)
    beside = f", with {_number(notes, 'note')}" if notes else ""
    return f"Ready: no fault was found{beside}. Next: kis-token get prints a token."


def _number(count: int, name: str) -> str:
    return f"{count} {name}" if count == 1 else f"{count} {name}s"
