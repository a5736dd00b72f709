"""What a secret looks like in a text: plain, in JSON, in a URL, in base64; and what all secrets of a kind share."""

from __future__ import annotations

import base64
import json
import re
from typing import TYPE_CHECKING
from urllib.parse import quote, quote_plus

if TYPE_CHECKING:
    from collections.abc import Iterable

#: So much of a secret is looked for: one that a log cuts off still shows its head.
HEAD = 24

#: What all tokens of the emulator and of tests/support.py have in common, and nothing else has: their payload's head.
#: What tests take for a token that is no JWT begins in one of the two other ways.
TOKEN_HEADS = (
    *(
        base64.urlsafe_b64encode(payload).decode().rstrip("=")
        for payload in (b'{"sub":"token","aud":', b'{"sub": "token", "aud":')
    ),
    "opaque.token-of-a-test_",
    "opaque-token-0123456789-abcdef",
)

#: Every secret key of Supabase begins so; followed by a blank or a bracket it is only spoken of.
SUPABASE_HEAD = "sb_secret_"
_SUPABASE_KEY = re.compile(SUPABASE_HEAD.encode() + rb"[\w-]")

_MASK = re.compile(rb"^::add-mask::.*$", re.MULTILINE)


class SecretPatterns:
    """The secrets that are looked for. Those of one test are forgotten with it, so that the search stays quick."""

    def __init__(self) -> None:
        self._lasting: set[bytes] = set(in_base64(SUPABASE_HEAD.encode()))
        self._passing: set[bytes] = set()
        for head in TOKEN_HEADS:
            self.add(head, lasting=True)

    def add(self, secret: str, *, lasting: bool) -> None:
        """Look for ``secret`` from now on; until ``forget`` unless it is lasting."""
        (self._lasting if lasting else self._passing).update(forms(secret))

    def add_bytes(self, secret: bytes) -> None:
        """Look for a binary secret as texts show it. Its bytes themselves stand in many a library's tables."""
        self._lasting.update(part.encode() for part in (repr(secret[:HEAD])[2:-1], secret[:HEAD].hex()))

    def forget(self) -> None:
        """Forget what is not lasting."""
        self._passing.clear()

    def are_in(self, data: bytes) -> bool:
        """Whether any of them is there."""
        return _SUPABASE_KEY.search(data) is not None or any(
            pattern in data for patterns in (self._lasting, self._passing) for pattern in patterns
        )

    def blotted(self, words: Iterable[str]) -> str:
        """The words with those that hold a secret blotted out."""
        return " ".join("***" if self.are_in(word.encode(errors="replace")) else word for word in words)


def forms(secret: str) -> set[bytes]:
    """What to look for when ``secret`` may stand anywhere in a text, encoded or not."""
    head = secret[:HEAD]
    url = {quote(head), quote(head, safe=""), quote_plus(head)}
    lower = {re.sub("%..", lambda match: match[0].lower(), text) for text in url}
    in_json = json.dumps(head)[1:-1]
    texts = {head, in_json, in_json.replace("/", "\\/"), *url, *lower}
    return {text.encode() for text in texts} | in_base64(head.encode())


def in_base64(secret: bytes) -> set[bytes]:
    """The characters that ``secret`` always gives in base64, whatever stands before and behind it."""
    found = set()
    for before, depending in ((0, 0), (1, 2), (2, 3)):
        complete = (before + len(secret)) * 8 // 6
        found |= {
            encode(bytes(before) + secret)[depending:complete]
            for encode in (base64.b64encode, base64.urlsafe_b64encode)
        }
    return found


def without_masks(data: bytes) -> bytes:
    """What people see of a step's log: the runner swallows the commands that name what it has to hide."""
    return _MASK.sub(b"", data)
