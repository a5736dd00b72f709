"""Each message that a user sees has its text in the entry of docs/troubleshooting.md for its code."""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from functools import cache
from itertools import pairwise

import pytest

from kis_token.remedies import REMEDIES
from kis_token.sandbox.kis_http import MESSAGES
from tools.step import CHECKOUT

PAGE = (CHECKOUT / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
ENTRIES = {
    code: " ".join(entry.split())
    for code, entry in re.findall(r"^## `([a-z-]+)`\n\n(.+?)(?=\n## |\Z)", PAGE, re.MULTILINE | re.DOTALL)
}
#: Shorter pieces are too common to search for.
SHORTEST = 12


def longest_piece(message: ast.expr, known: dict[str, list[ast.expr]]) -> list[str]:
    """Return the longest constant part of a message. If the message is a choice of two texts, return the part of each.

    ``known`` has the assigned values of the function's variables, in the order of the lines.
    """
    if isinstance(message, ast.Name):
        before = [each for each in known.get(message.id, []) if each.lineno < message.lineno]
        return longest_piece(before[-1], {}) if before else []
    if isinstance(message, ast.IfExp):
        return longest_piece(message.body, known) + longest_piece(message.orelse, known)
    parts = message.values if isinstance(message, ast.JoinedStr) else [message]
    texts = [part.value for part in parts if isinstance(part, ast.Constant) and isinstance(part.value, str)]
    pieces = sorted((text.strip(" ,.:;()") for text in texts), key=len)
    return pieces[-1:] if pieces and len(pieces[-1]) >= SHORTEST else []


#: Classes of errors that have a fixed code, so that the code is not an argument.
ONE_CODE = {"TokenUnusable": "token-unusable"}


@cache  # computed at the first use, because each worker imports this file
def raised() -> dict[str, set[str]]:
    """Return, by code, the constant parts of the source's messages. A message is the text after a code."""
    found = defaultdict(set)
    modules = (path for path in CHECKOUT.glob("kis_token/**/*.py") if path.parent.name != "sandbox")
    files = [*sorted(modules), CHECKOUT / "entrypoint.py"]
    for file in files:
        tree = ast.parse(file.read_text(encoding="utf-8"))
        for scope in ast.walk(tree):
            if not isinstance(scope, (ast.FunctionDef, ast.Module)):
                continue
            known = defaultdict(list)
            assigned = (node for node in ast.walk(scope) if isinstance(node, ast.Assign))
            for assignment in sorted(assigned, key=lambda each: each.lineno):
                if isinstance(assignment.targets[0], ast.Name):
                    known[assignment.targets[0].id].append(assignment.value)
            for node in ast.walk(scope):
                words = getattr(node, "args", []) if isinstance(node, ast.Call) else getattr(node, "elts", [])
                if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ONE_CODE:
                    found[ONE_CODE[node.func.id]].update(longest_piece(words[0], known))
                for code, message in pairwise(words):
                    is_list = isinstance(message, ast.Constant) and message.value in REMEDIES
                    if isinstance(code, ast.Constant) and code.value in REMEDIES and not is_list:
                        is_named = isinstance(message, ast.Name) and isinstance(scope, ast.Module)
                        found[code.value].update([] if is_named else longest_piece(message, known))
    return found


def test_messages_are_found_in_the_source() -> None:
    """Each code has a message in the source, except codes whose message is in another file or from another program."""
    elsewhere = {"invalid-environment", "invalid-mode", "invalid-on-store-outage", "python-missing"}

    assert {code for code in REMEDIES if not raised()[code]} == elsewhere | {"sandbox-failed", "internal-error"}


@pytest.mark.parametrize("code", REMEDIES)
def test_entry_has_its_messages(code: str) -> None:
    """Each message of a code is in the code's entry, except for the variable parts of the message."""
    missing = sorted(piece for piece in raised()[code] if " ".join(piece.split()) not in ENTRIES[code])

    assert missing == [], f"put them into the line 'Seen as' of {code} in docs/troubleshooting.md"


def test_codes_of_kis_are_found() -> None:
    """Each code of KIS that the emulator knows is on the page with KIS's own text."""
    rows = dict(re.findall(r"^\| `(\w+)` (.+?) \|", PAGE, re.MULTILINE))

    assert rows == {code: message for code, message in MESSAGES.items() if code.startswith("EGW")}
