"""The forms that a secret has in a text (plain, in JSON, in a URL, in base64), and how each kind of secret begins."""

from __future__ import annotations

import base64
import json
import re
from typing import TYPE_CHECKING
from urllib.parse import quote, quote_plus

if TYPE_CHECKING:
    from collections.abc import Iterable

#: The number of a secret's first characters that are searched, because a log may cut off the rest of a secret.
HEAD = 24

#: The first text is the beginning of the payload of all tokens of the emulator and of tests/support.py. The second and
#: the third text are the beginnings of the tests' tokens that are not a JWT.
TOKEN_HEADS = (
    *(
        base64.urlsafe_b64encode(payload).decode().rstrip("=")
        for payload in (b'{"sub":"token","aud":', b'{"sub": "token", "aud":')
    ),
    "opaque.token-of-a-test_",
    "opaque-token-0123456789-abcdef",
)

#: The beginning of every secret key of Supabase. If a blank or a bracket follows, the text only names the form of such
#: a key.
SUPABASE_HEAD = "sb_secret_"
_SUPABASE_KEY = re.compile(SUPABASE_HEAD.encode() + rb"[\w-]")

_MASK = re.compile(rb"^::add-mask::.*$", re.MULTILINE)


class SecretPatterns:
    """The secrets that the watch searches for.

    The secrets of a test are forgotten at its end, so that the search stays fast.
    """

    def __init__(self) -> None:
        self._lasting: set[bytes] = set(in_base64(SUPABASE_HEAD.encode()))
        self._passing: set[bytes] = set()
        for head in TOKEN_HEADS:
            self.add(head, lasting=True)

    def add(self, secret: str, *, lasting: bool) -> None:
        """Search for ``secret`` from now on. A secret that is not ``lasting`` is searched for until ``forget``."""
        (self._lasting if lasting else self._passing).update(forms(secret))

    def add_bytes(self, secret: bytes) -> None:
        """Search for a binary secret in its text forms only, because some libraries' tables contain its plain bytes."""
        self._lasting.update(part.encode() for part in (repr(secret[:HEAD])[2:-1], secret[:HEAD].hex()))

    def forget(self) -> None:
        """Forget all secrets that were added without ``lasting``."""
        self._passing.clear()

    def are_in(self, data: bytes) -> bool:
        """Whether ``data`` contains one of the secrets."""
        return _SUPABASE_KEY.search(data) is not None or any(
            pattern in data for patterns in (self._lasting, self._passing) for pattern in patterns
        )

    def blotted(self, words: Iterable[str]) -> str:
        """Return the words as one text. Each word that contains a secret is replaced."""
        return " ".join("***" if self.are_in(word.encode(errors="replace")) else word for word in words)


def forms(secret: str) -> set[bytes]:
    """The search texts for ``secret`` anywhere in a text, encoded or not."""
    head = secret[:HEAD]
    url = {quote(head), quote(head, safe=""), quote_plus(head)}
    lower = {re.sub("%..", lambda match: match[0].lower(), text) for text in url}
    in_json = json.dumps(head)[1:-1]
    texts = {head, in_json, in_json.replace("/", "\\/"), *url, *lower}
    return {text.encode() for text in texts} | in_base64(head.encode())


def in_base64(secret: bytes) -> set[bytes]:
    """The characters that base64 always gives for ``secret``, whatever text is before and after the secret."""
    found = set()
    for before, depending in ((0, 0), (1, 2), (2, 3)):
        complete = (before + len(secret)) * 8 // 6
        found |= {
            encode(bytes(before) + secret)[depending:complete]
            for encode in (base64.b64encode, base64.urlsafe_b64encode)
        }
    return found


def without_masks(data: bytes) -> bytes:
    """The visible text of a step's log: the runner removes the commands that name the values to hide."""
    return _MASK.sub(b"", data)
