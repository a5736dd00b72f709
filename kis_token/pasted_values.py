"""Values as people paste them: quotes and the like are cut off, and a value that cannot be the right one is named.

Texts in, texts out: nothing here reads the environment or asks anybody. Only what can mean one thing alone is mended;
whatever else is wrong is returned as a fault, a pair of error code and message. No message quotes a secret.
"""

from __future__ import annotations

import base64
import json
import re
from datetime import timedelta

LONGEST_KEY = 8192
#: The lengths of KIS's app keys and secrets. KIS may change them, so another length alone is no error.
APP_KEY_LENGTH, APP_SECRET_LENGTH = 36, 180

MASKED = "has asterisks or dots in it, as where it is shown masked"
ODD = "has a line break, a blank, a quote or a character outside ASCII, or is far too long"

#: Letters without a shape that strip() leaves: of width zero, marks of direction, the mark of byte order, also as
#: Latin-1 shows its three bytes.
_SHAPELESS = (
    "\u00ad\u061c\u115f\u180e\u200b\u200c\u200d\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2060\u2066\u2067\u2068"
    "\u2069\u3164\ufeff"
)
_MARK_AS_LATIN = "\u00ef\u00bb\u00bf"
_QUOTES = "\"'`\u00ab\u00bb\u2018\u2019\u201a\u201b\u201c\u201d\u201e\u2039\u203a\u300c\u300d\u300e\u300f\uff02\uff07"
#: How programs write that there is no value.
_ABSENT = {"null", "none", "undefined", "nil", "nan", "(null)", "(none)", "<nil>", "<null>"}

#: How a masked value is shown.
_MASKS = ("***", "...", "\u2022", "\u25cf", "\u00b7", "\u2219", "\u2026")
#: A real key can have letters in it that look like a word by chance; a placeholder is short.
_LONGEST_PLACEHOLDER = 63

# Patterns are texts here, compiled when a value first needs them: nearly no run has such a value, and compiling all of
# them would cost the fast path several milliseconds.
_QUOTED = rf"(?s)\\?[{_QUOTES}](.*?)\\?[{_QUOTES}]"
_BEARER = r"(?i)\A(?:authorization\s*:\s*)?bearer\s+"
_ASSIGNMENT = (
    r"""(?ais)(?:(?:export|set|env|const|let|var)\s+|\$env:)?(?P<quote>["']?)(?P<name>[a-z_][\w.-]{0,62})(?P=quote)"""
    r"""\s*(?:=(?!=)\s*|:\s+|:(?=["']))(?P<value>[^=\s].*)"""
)
#: Words in the names of variables that hold such values. The beginning of a key has none of them.
_NAME_WORD = r"(?i)key|sec|url|token|supabase|kis|app"
_DURATION = re.compile(r"(?:\d{1,9}[smhd])+", re.ASCII)
_DURATION_PART = re.compile(r"(\d+)([smhd])", re.ASCII)
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def unwrapped(text: str) -> str:
    """``text`` without the blanks, invisible letters and pairs of quotes around it; empty for words such as null."""
    text = text.strip()
    while len(text) <= LONGEST_KEY:
        inner = _unquoted(_trimmed(text))
        if inner == text:
            break
        text = inner
    return "" if text.lower() in _ABSENT else text


def pasted(text: str) -> str:
    """A key or URL as `unwrapped` gives it, also without what is often copied with it.

    That is the name of a variable before it, ``Bearer``, a comment after it, a comma, or a line break spelled out. No
    key and no URL begins or ends like that.
    """
    while not _is_bare(text) and len(text) <= LONGEST_KEY:
        inner = _one_less(text)
        if inner == text:
            break
        text = inner
    return unwrapped(text)


def _one_less(text: str) -> str:
    """``text`` without the outermost of the things around it."""
    text = _trimmed(text)
    assignment = re.fullmatch(_ASSIGNMENT, text)
    if assignment is not None and re.search(_NAME_WORD, assignment["name"]):
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
    """Whether there is certainly nothing around ``text``, and no "=" in it but at its end."""
    return is_one_word(text) and not set(text.rstrip("=")) & set("=,;\\")


def pasted_words(text: str) -> list[str]:
    """The words of a setting that may have several, one a line: each line may have been pasted with something."""
    return [word for line in pasted(text).splitlines() for word in pasted(line).split()]


def _trimmed(text: str) -> str:
    return text.strip().strip(_SHAPELESS).removeprefix(_MARK_AS_LATIN).strip()


def _unquoted(text: str) -> str:
    quoted = re.fullmatch(_QUOTED, text) if text[-1:] and text[-1] in _QUOTES else None
    return text if quoted is None else quoted[1]


def is_one_word(text: str) -> bool:
    """Whether ``text`` can be a key or a URL: printable ASCII without blanks and quotes, and not a whole file."""
    return len(text) <= LONGEST_KEY and text.isascii() and text.isprintable() and not set(text) & set(" \"'`")


def is_masked(text: str) -> bool:
    """Whether ``text`` was copied from a place that shows asterisks or dots instead of the value."""
    return any(mark in text for mark in _MASKS)


def is_placeholder(text: str) -> bool:
    """Whether ``text`` stands for a value: the words of an example, or a variable that was not filled in."""
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
    """The part of a JWT that has its claims, still encoded; empty for a text without a dot."""
    return jwt.partition(".")[2].partition(".")[0]


def parse_claims(value: str) -> dict[str, object]:
    """The claims of a token that is a JWT; no claims for any other. The signature is not checked.

    KIS documents neither the form nor the claims, so this is best effort: callers must do without.
    """
    payload = payload_of(value)
    try:
        claims = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
    except (ValueError, RecursionError):
        return {}
    return claims if isinstance(claims, dict) else {}


def find_key_fault(key: str, secret: str, names: tuple[str, str]) -> tuple[str, str] | None:
    """Why ``key`` and ``secret`` cannot be an account's; None when they can. An empty one is not looked at.

    ``names`` are those by which the two are called in the message.
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
    if _oddity(key):
        return "invalid-app-key", f"{names[0]} cannot be an app key: it {_oddity(key)}"
    if _oddity(secret):
        return "invalid-app-secret", f"{names[1]} cannot be an app secret: it {_oddity(secret)}"
    return None


def _oddity(value: str) -> str:
    if is_masked(value):
        return MASKED
    if len(value) not in (APP_KEY_LENGTH, APP_SECRET_LENGTH) and is_placeholder(value):
        return "is a placeholder"
    return "" if is_one_word(value) else ODD


def odd_lengths(key: str, secret: str) -> str:
    """Which of the two has another length than KIS's have, in words; empty when none has."""
    said = [
        f"the {name} has {len(value)} characters, and KIS's have {length}"
        for name, value, length in (("app key", key, APP_KEY_LENGTH), ("app secret", secret, APP_SECRET_LENGTH))
        if len(value) != length
    ]
    return "; ".join(said)


def parse_duration(text: str) -> timedelta | None:
    """Numbers with s, m, h or d, which add up; None for anything else."""
    if _DURATION.fullmatch(text) is None:
        return None
    seconds = sum(int(number) * _UNITS[unit] for number, unit in _DURATION_PART.findall(text))
    return timedelta(seconds=min(seconds, 10**10))  # far beyond any limit, and no overflow


def parse_encryption_key(text: str) -> bytes | None:
    """32 bytes in base64 of either alphabet; None for anything else."""
    try:
        key = base64.b64decode(text.replace("-", "+").replace("_", "/"), validate=True)
    except ValueError:
        return None
    return key if len(key) == 32 else None
