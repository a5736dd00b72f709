"""Clean the values that people paste: cut off quotes and other additions, and report values that cannot be right.

All functions are pure: they read no environment and make no request. If a value with a fault has only one possible
meaning, the value is corrected. If the meaning of a value is not certain, the fault is returned as an error code and a
message. No message quotes a secret.
"""

from __future__ import annotations

import base64
import json
import re
from datetime import timedelta

LONGEST_KEY = 8192
#: The lengths of KIS's app keys and secrets. KIS may change the lengths of new keys. Therefore a caller also uses a key
#: of an unusual length, with a warning. kis-token set-keys does not store a key of an unusual length, because the user
#: may have copied only a part of the key.
APP_KEY_LENGTH, APP_SECRET_LENGTH = 36, 180

MASKED = "has asterisks or dots in it, as a masked value has"
NOT_ONE_WORD = "has a line break, a blank, a quote or a character outside ASCII, or is far too long"

#: Invisible characters that str.strip() keeps: zero-width characters, direction marks, and the byte order mark.
_SHAPELESS = (
    "\u00ad\u061c\u115f\u180e\u200b\u200c\u200d\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2060\u2066\u2067\u2068"
    "\u2069\u3164\ufeff"
)
#: The three bytes of the byte order mark, read as Latin-1.
_MARK_AS_LATIN = "\u00ef\u00bb\u00bf"
_QUOTES = "\"'`\u00ab\u00bb\u2018\u2019\u201a\u201b\u201c\u201d\u201e\u2039\u203a\u300c\u300d\u300e\u300f\uff02\uff07"
#: The words that programs write for a missing value.
_ABSENT = {"null", "none", "undefined", "nil", "nan", "(null)", "(none)", "<nil>", "<null>"}

#: The marks that replace hidden characters in a masked value.
_MASKS = ("***", "...", "\u2022", "\u25cf", "\u00b7", "\u2219", "\u2026")
#: The longest placeholder, in characters. A text that is longer than _LONGEST_PLACEHOLDER may be a key that contains a
#: word such as "your-" by chance.
_LONGEST_PLACEHOLDER = 63

# These patterns are strings, which `re` compiles at their first use. Few runs need the patterns, and to compile all
# patterns would cost the fast path several milliseconds.
_QUOTED = rf"(?s)\\?[{_QUOTES}](.*?)\\?[{_QUOTES}]"
_BEARER = r"(?i)\A(?:authorization\s*:\s*)?bearer\s+"
_ASSIGNMENT = (
    r"""(?ais)(?:(?:export|set|env|const|let|var)\s+|\$env:)?(?P<quote>["']?)(?P<name>[a-z_][\w.-]{0,62})(?P=quote)"""
    r"""\s*(?:=(?!=)\s*|:\s+|:(?=["']))(?P<value>[^=\s].*)"""
)
#: Words in the names of variables that hold keys and URLs. No key begins with a word from _NAME_WORD.
_NAME_WORD = r"(?i)key|sec|url|token|supabase|kis|app"
_DURATION = re.compile(r"(?:\d{1,9}[smhd])+", re.ASCII)
_DURATION_PART = re.compile(r"(\d+)([smhd])", re.ASCII)
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def unwrapped(text: str) -> str:
    """Return ``text`` without surrounding blanks, invisible characters and quotes.

    If ``text`` is a word for a missing value, such as null, return "".
    """
    text = text.strip()
    while len(text) <= LONGEST_KEY:
        inner = _unquoted(_trimmed(text))
        if inner == text:
            break
        text = inner
    return "" if text.lower() in _ABSENT else text


def pasted(text: str) -> str:
    """Return a key or URL like `unwrapped`, but also cut off the texts that users often copy with a key or URL.

    At the beginning of ``text``, the function cuts off a variable's name or ``Bearer``. At the end of ``text``, the
    function cuts off a comment, a comma or an escaped line break. No text that the function cuts off can be a part of a
    key or URL.
    """
    while not _is_bare(text) and len(text) <= LONGEST_KEY:
        inner = _one_less(text)
        if inner == text:
            break
        text = inner
    return unwrapped(text)


def _one_less(text: str) -> str:
    """Return ``text`` without the outermost text that `pasted` cuts off, such as quotes or a variable's name."""
    text = _trimmed(text)
    assignment = re.fullmatch(_ASSIGNMENT, text)
    if assignment is not None and re.search(_NAME_WORD, assignment["name"]):
        # The base64 of an encryption key can look like a name with "=". If other keys follow, the first key is no name.
        if parse_encryption_key(text.split(maxsplit=1)[0]) is not None:
            return text
        return assignment["value"]
    inner = _unquoted(text)
    if inner == text:
        inner = re.sub(_BEARER, "", _without_comment(text).rstrip(",;"))
        inner = inner[:-2] if inner.endswith(("\\n", "\\r", "\\t")) else inner
    return inner


def _without_comment(text: str) -> str:
    last_line = max(text.rfind("\n"), 0)
    comment = re.search(r"\s#", text[last_line:])
    return text if comment is None else text[: last_line + comment.start()]


def _is_bare(text: str) -> bool:
    """Whether it is certain that the function `pasted` does not change ``text``.

    If ``text`` has "=" before its end, returns False.
    """
    return is_one_word(text) and not set(text.rstrip("=")) & set("=,;\\")


def pasted_words(text: str) -> list[str]:
    """Return the words of ``text``, a setting that may have several lines. The function `pasted` cleans each line."""
    return [word for line in pasted(text).splitlines() for word in pasted(line).split()]


def _trimmed(text: str) -> str:
    return text.strip().strip(_SHAPELESS).removeprefix(_MARK_AS_LATIN).strip()


def _unquoted(text: str) -> str:
    quoted = re.fullmatch(_QUOTED, text) if text[-1:] and text[-1] in _QUOTES else None
    return text if quoted is None else quoted[1]


def is_one_word(text: str) -> bool:
    """Whether ``text`` can be a key or a URL: short printable ASCII without blanks and quotes."""
    return len(text) <= LONGEST_KEY and text.isascii() and text.isprintable() and not set(text) & set(" \"'`")


def is_masked(text: str) -> bool:
    """Whether ``text`` contains asterisks or dots, as a web page shows them in a masked value."""
    return any(mark in text for mark in _MASKS)


def is_placeholder(text: str) -> bool:
    """Whether ``text`` is a placeholder: a word from an example, or the name of a variable instead of its value."""
    if not 0 < len(text) <= _LONGEST_PLACEHOLDER:
        return False
    small = text.lower()
    return (
        small[0] + small[-1] in ("<>", "[]", "{}", "%%")
        or any(mark in small for mark in ("your_", "your-", "your ", "{{", "}}", "${", "$("))
        or small.endswith(("_here", "-here", " here"))
        or small.replace("_", "").replace("-", "") in ("changeme", "replaceme")
        or set(small) in ({"*"}, {"."})
        or (len(small) > 2 and set(small) == {"x"})
        or (small[0] == "$" and small[1:2].isalpha())
        or (text.startswith(("KIS_", "SUPABASE_")) and text.isupper() and text.replace("_", "").isalpha())
    )


def payload_of(jwt: str) -> str:
    """Return the encoded part of a JWT that has the claims. Return "" for a text without a dot."""
    return jwt.partition(".")[2].partition(".")[0]


def parse_claims(value: str) -> dict[str, object]:
    """Return the claims of a JWT, or an empty dict if the value is not a JWT. The signature is not checked.

    KIS documents neither the form nor the claims of its tokens, so callers must work without them.
    """
    payload = payload_of(value)
    try:
        claims = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
    except (ValueError, RecursionError):
        return {}
    return claims if isinstance(claims, dict) else {}


def find_key_fault(key: str, secret: str, names: tuple[str, str]) -> tuple[str, str] | None:
    """Return the first fault of ``key`` or ``secret`` as an error code and a message, or None if both have no fault.

    An empty value is not checked. ``names`` are the names of key and secret in the message.
    """
    for value, name, length, other in (
        (key, names[0], APP_SECRET_LENGTH, "app secret"),
        (secret, names[1], APP_KEY_LENGTH, "app key"),
    ):
        if len(value) == length and is_one_word(value):
            said = f"{name} has {length} characters, as an {other} has: are app key and app secret swapped?"
            return "swapped-app-key", said
    if key and key == secret:
        return "swapped-app-key", f"{names[0]} is the same value as the app secret"
    if _find_defect(key):
        return "invalid-app-key", f"{names[0]} cannot be an app key: it {_find_defect(key)}"
    if _find_defect(secret):
        return "invalid-app-secret", f"{names[1]} cannot be an app secret: it {_find_defect(secret)}"
    return None


def _find_defect(value: str) -> str:
    if is_masked(value):
        return MASKED
    if len(value) not in (APP_KEY_LENGTH, APP_SECRET_LENGTH) and is_placeholder(value):
        return "is a placeholder"
    return "" if is_one_word(value) else NOT_ONE_WORD


def unusual_lengths(key: str, secret: str) -> str:
    """Return a text about each unusual length of app key and secret, or "" if both have the length that KIS uses."""
    return "; ".join(said for _, said in find_length_faults(key, secret, ("the app key", "the app secret")))


def find_length_faults(key: str, secret: str, names: tuple[str, str]) -> list[tuple[str, str]]:
    """Return an error code and a message for each value that does not have KIS's usual length. Skip an empty value.

    ``names`` are the names of key and secret in the messages.
    """
    given = (
        ("invalid-app-key", names[0], key, APP_KEY_LENGTH),
        ("invalid-app-secret", names[1], secret, APP_SECRET_LENGTH),
    )
    return [
        (code, f"{name} has {len(value)} characters, and KIS's have {length}")
        for code, name, value, length in given
        if value and len(value) != length
    ]


def parse_duration(text: str) -> timedelta | None:
    """Return the sum of the numbers with the units s, m, h and d, as in 1h30m; None if ``text`` is no duration."""
    if _DURATION.fullmatch(text) is None:
        return None
    seconds = sum(int(number) * _UNITS[unit] for number, unit in _DURATION_PART.findall(text))
    return timedelta(seconds=min(seconds, 10**10))  # more than any limit, but not too large for timedelta


def parse_encryption_key(text: str) -> bytes | None:
    """Return the 32 bytes of a key in standard or URL-safe base64, or None if ``text`` is not such a key."""
    try:
        key = base64.b64decode(text.replace("-", "+").replace("_", "/"), validate=True)
    except ValueError:
        return None
    return key if len(key) == 32 else None
