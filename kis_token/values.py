"""Values as people paste them: what surrounds a value is cut off, and a value that cannot be the right one is named.

Texts in, texts out: nothing here reads the environment or asks anybody. Only what can mean one thing alone is mended;
whatever else is wrong is returned as a fault, a pair of error code and message. No message quotes a secret.
"""

from __future__ import annotations

import base64
import json
import re
from datetime import timedelta
from urllib.parse import urlsplit

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
_COMMENT = r"\s+#[^\n]*\Z"
_TAIL = r"(?:\\[nrt]|[,;\s])+\Z"
_BEARER = r"(?i)\A(?:authorization\s*:\s*)?bearer\s+"
_ASSIGNMENT = (
    r"""(?ais)(?:(?:export|set|env|const|let|var)\s+|\$env:)?["']?(?P<name>[a-z_][\w.-]{0,62})["']?"""
    r"""\s*(?:=(?!=)\s*|:\s+|:(?=["']))(?P<value>[^=\s].*)"""
)
#: Words in the names of variables that hold such values. The beginning of a key has none, whatever follows its "=".
_NAME_WORD = r"(?i)key|sec|url|token|supabase|kis|app"
#: A project's address by any of its names. The name of a project is twenty small letters.
_PROJECT = (
    r"(?ai)(?:(?:[a-z]+:/{0,3})*(?:[^@/?#]*@)?|postgres(?:ql)?://.*@)(?:db\.)?(?P<ref>[a-z]{20})"
    r"(?:\.(?:functions|storage|realtime))?\.supabase\.com?\.?(?::\d*)?(?:[/?#].*)?"
    r"|(?:https?:/{0,3})*(?:supabase\.com/dashboard|app\.supabase\.(?:com|io))/project/(?P<shown>[a-z]{20})(?:[/?#].*)?"
    r"|postgres(?:ql)?://postgres\.(?P<pooled>[a-z]{20})(?::.*)?@[\w.-]+\.pooler\.supabase\.com(?:[:/?].*)?"
    r"|(?P<bare>[a-z]{20})"
)
_JWT = r"(?a)[\w-]+\.[\w-]+\.[\w-]+=*"

_DURATION = re.compile(r"(?:\d{1,9}[smhd])+", re.ASCII)
_DURATION_PART = re.compile(r"(\d+)([smhd])", re.ASCII)
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def unwrapped(text: str) -> str:
    """``text`` without the blanks, invisible letters and pairs of quotes around it; empty for words such as null."""
    text = _inside(text)
    return "" if text.lower() in _ABSENT else text


def pasted(text: str) -> str:
    """A key or URL as `unwrapped` gives it, also without what is often copied with it.

    That is the name of a variable before it, ``Bearer``, a comment after it, a comma, or a line break spelled out. No
    key and no URL begins or ends like that.
    """
    while not _is_bare(text):
        inner = re.sub(_TAIL, "", re.sub(_COMMENT, "", _inside(text)))
        assignment = re.fullmatch(_ASSIGNMENT, inner)
        if assignment is not None and re.search(_NAME_WORD, assignment["name"]):
            inner = assignment["value"]
        inner = re.sub(_BEARER, "", inner)
        if inner == text:
            break
        text = inner
    return unwrapped(text)


def _is_bare(text: str) -> bool:
    """Whether there is certainly nothing around ``text``, and no "=" in it but at its end."""
    return is_one_word(text) and not set(text.rstrip("=")) & set("=,;\\")


def pasted_words(text: str) -> list[str]:
    """The words of a setting that may have several, one a line: each line may have been pasted with something."""
    return [word for line in pasted(text).splitlines() for word in pasted(line).split()]


def _inside(text: str) -> str:
    while True:
        inner = text.strip().strip(_SHAPELESS).removeprefix(_MARK_AS_LATIN)
        quoted = re.fullmatch(_QUOTED, inner) if inner[-1:] and inner[-1] in _QUOTES else None
        inner = quoted[1] if quoted is not None else inner
        if inner == text:
            return text
        text = inner


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


def parse_claims(value: str) -> dict[str, object]:
    """What the token says of itself when it is a JWT; nothing when it is not. The signature is not checked.

    KIS documents neither the form nor the claims, so this is best effort: callers must do without.
    """
    try:
        payload = value.split(".")[1]
        claims = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
    except (IndexError, ValueError, RecursionError):
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


def parse_url(text: str) -> str | None:
    """The URL in small letters, without a slash or dot at its end; None when secrets should not be sent there."""
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError:
        return None
    secure = parts.scheme == "https" or (parts.scheme == "http" and parts.hostname in ("127.0.0.1", "localhost", "::1"))
    plain = not (parts.path.strip("/") or parts.query or parts.fragment or "@" in parts.netloc)
    if not (secure and plain and parts.hostname and port != 0 and is_one_word(text)):
        return None
    try:
        parts.hostname.encode("idna")  # what every connection does with it
    except UnicodeError:
        return None
    return re.sub(r"\.(?=:|\Z)", "", f"{parts.scheme}://{parts.netloc.lower()}")


def parse_project_url(text: str) -> str | None:
    """A Supabase project's URL; also out of another address of the project, such as its dashboard's. None for others.

    An address of another kind is mended only where the project's name, twenty small letters, can be read in it.
    """
    url = parse_url(text)
    if url is None or ("supabase" in url and not _cloud_project(url)):
        match = re.fullmatch(_PROJECT, text)
        ref = next((each for each in match.groups() if each), "").lower() if match is not None else ""
        url = f"https://{ref}.supabase.co" if ref else url
    return None if _has_placeholder(url or "") else url


def _cloud_project(url: str) -> str:
    """The name of the project at supabase.co that has this URL; empty for another URL."""
    name = url.removeprefix("https://").removesuffix(".supabase.co")
    is_name = len(name) == 20 and name.isascii() and name.isalpha() and name.islower()
    return name if is_name and url == f"https://{name}.supabase.co" else ""


def parse_host_url(text: str, hosts: set[str]) -> str | None:
    """A URL; that of one of ``hosts`` also where port or scheme are missing, or a path follows."""
    url = parse_url(text)
    if url in hosts or text.lower().startswith("http:"):
        return url
    host = (text.partition("://")[2] or text).replace("?", "/").partition("/")[0].partition(":")[0].rstrip(".")
    known = {urlsplit(each).hostname: each for each in hosts}
    return known.get(host.lower(), url)


def _has_placeholder(url: str) -> bool:
    """Whether the project's name is still to be filled in. Other hosts may have any name."""
    name, _, rest = (url.partition("://")[2] or url).partition(".")
    return is_masked(url) or (rest.lower()[:9] in ("", "supabase.") and is_placeholder(name))


def find_url_fault(text: str) -> str:
    """What is wrong with a Supabase URL that cannot be used, in words that follow a name."""
    if _has_placeholder(text) or set(text) & set("<>{}$"):
        return "is a placeholder, and not the URL of a project"
    if is_secret_key(text):
        return "is a key: are supabase-url and supabase-key swapped?"
    if re.match(r"(?:https?://)?(?:app\.)?supabase\.(?:com|io)\b", text, re.IGNORECASE):
        return "is the dashboard's address, in which no project can be read"
    if text.startswith(("postgres://", "postgresql://")):
        return "is a connection string of the database, and not the project's URL"
    return _find_shape_fault(text)


def _find_shape_fault(url: str) -> str:
    if "." in url and parse_url(f"https://{url}") is not None:
        return "has no https:// before the host"  # the text may be some other secret: it is not shown
    if parse_url(url.lower().replace("http:", "https:", 1)) is not None:
        return "begins with http:// and not with https://"
    try:
        parts = urlsplit(url)
        origin = parse_url(f"{parts.scheme}://{parts.netloc}")
    except ValueError:
        origin = None
    return (
        f"has something behind the host; the URL without it is {origin}" if origin else "is not a URL that can be used"
    )


def find_supabase_key_fault(words: list[str], url: str) -> tuple[str, str] | None:
    """Why these words cannot be the key of the project at ``url``, as code and message; None when they can be.

    A key is one word; a reader's is two: the public key, which opens the gateway, and a JWT with a role.
    """
    if _is_public_key(words[-1]):
        return "anon-supabase-key", "supabase-key is the project's public key"
    project = _cloud_project(url)
    oddity = _supabase_key_oddity(words, is_cloud=bool(project))
    if oddity:
        return "invalid-supabase-key", f"supabase-key (or its variable) {oddity}"
    for ref in (parse_claims(word).get("ref") for word in words):
        if project and isinstance(ref, str) and _cloud_project(f"https://{ref}.supabase.co") and ref != project:
            said = f"supabase-key is a key of the project {ref}, and supabase-url is the URL of {project}"
            return "supabase-key-of-another-project", said
    return None


def is_secret_key(text: str) -> bool:
    """Whether ``text`` looks like one of Supabase's keys."""
    return text.startswith(("sb_", "eyJ"))


def _supabase_key_oddity(words: list[str], *, is_cloud: bool) -> str:
    whole, last = " ".join(words), words[-1]
    is_known = last.startswith("sb_secret_") or re.fullmatch(_JWT, last) is not None
    seen = (
        (is_masked(whole), MASKED),
        (is_placeholder(whole), "is a placeholder"),
        (last.startswith("sbp_"), "is a personal access token (sbp_), which opens no project's tables"),
        ("://" in last, "is a URL"),
        (not all(map(is_one_word, words)) or (len(words) > 1 and not _is_reader_key(words)), ODD),
        (is_cloud and not is_known, "is neither a secret key (sb_secret_) nor a JWT, and supabase.co has no others"),
    )
    return next((said for is_so, said in seen if is_so), "")


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


def _is_public_key(key: str) -> bool:
    return key.startswith("sb_publishable_") or parse_claims(key).get("role") in ("anon", "authenticated")


def _is_reader_key(words: list[str]) -> bool:
    return len(words) == 2 and _is_public_key(words[0]) and isinstance(parse_claims(words[1]).get("role"), str)
