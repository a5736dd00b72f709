"""A Supabase project's URL and key, and KIS's host, in the forms in which people paste them.

A value is corrected only if it has one possible meaning. A message names the kind of a wrong value, and never quotes a
secret.
"""

from __future__ import annotations

import re
from urllib.parse import urlsplit

from kis_token.settings.pasted_values import MASKED, NOT_ONE_WORD, is_masked, is_one_word, is_placeholder, parse_claims

# These patterns are strings, which `re` compiles at their first use, because few runs need them.
#: The addresses that contain the name of a Supabase project. The name of a project has twenty lower-case letters.
_PROJECT = (
    r"(?ai)(?:(?:[a-z]+:/{0,3})*(?:[^@/?#]*@)?|postgres(?:ql)?://.*@)(?:db\.)?(?P<ref>[a-z]{20})"
    r"(?:\.(?:functions|storage|realtime))?\.supabase\.com?\.?(?::\d*)?(?:[/?#].*)?"
    r"|(?:https?:/{0,3})*(?:supabase\.com/dashboard|app\.supabase\.(?:com|io))/project/(?P<shown>[a-z]{20})(?:[/?#].*)?"
    r"|postgres(?:ql)?://postgres\.(?P<pooled>[a-z]{20})(?::.*)?@[\w.-]+\.pooler\.supabase\.com(?:[:/?].*)?"
    r"|(?P<bare>[a-z]{20})"
)
_JWT = r"(?a)[\w-]+\.[\w-]+\.[\w-]+=*"


class SupabaseKey:
    """A key of a Supabase project: ``gateway`` and ``bearer``.

    In a key with write access, ``gateway`` and ``bearer`` are equal. A read-only key has two different parts.
    Supabase's gateway reads the part ``gateway``, which is the public key. PostgREST reads the part ``bearer``, which
    is a JWT of the role ``kis_token_reader``. For a read-only key, the setting supabase-key contains ``gateway``, a
    space and ``bearer``. The repr does not show the key.
    """

    # This class is not a dataclass, because each dataclass makes the fast path a millisecond slower.
    __slots__ = ("bearer", "gateway")

    def __init__(self, gateway: str, bearer: str) -> None:
        self.gateway = gateway
        self.bearer = bearer

    @staticmethod
    def parse(text: str) -> SupabaseKey:
        """Return the key in the text of a setting: one word, or two words with one blank between them."""
        gateway, _, bearer = text.partition(" ")
        return SupabaseKey(gateway, bearer or gateway)

    @property
    def reads_only(self) -> bool:
        """Whether this is a read-only key."""
        return self.bearer != self.gateway

    @property
    def parts(self) -> tuple[str, ...]:
        """The parts of the key: ``gateway``, followed by ``bearer`` if the key is a read-only key."""
        return (self.gateway, self.bearer) if self.reads_only else (self.gateway,)

    def headers(self) -> dict[str, str]:
        """Return the headers with the key: one for Supabase's gateway, and one for PostgREST."""
        return {"apikey": self.gateway, "Authorization": f"Bearer {self.bearer}"}


def parse_url(text: str) -> str | None:
    """Return the URL in lower case, without a final slash or dot.

    Return None if secrets must not be sent to the URL.
    """
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
        parts.hostname.encode("idna")  # If the host's name cannot be encoded, a connection to the host fails.
    except UnicodeError:
        return None
    return re.sub(r"\.(?=:|\Z)", "", f"{parts.scheme}://{parts.netloc.lower()}")


def parse_project_url(text: str) -> str | None:
    """Return the URL of a Supabase project, or None if ``text`` does not name a project.

    ``text`` can also be another address with the project's name, such as the address of the project's dashboard.
    """
    url = parse_url(text)
    if url is None or ("supabase" in url and not _cloud_project(url)):
        match = re.fullmatch(_PROJECT, text)
        ref = next((each for each in match.groups() if each), "").lower() if match is not None else ""
        url = f"https://{ref}.supabase.co" if ref else url
    return None if _has_placeholder(url or "") else url


def _cloud_project(url: str) -> str:
    """Return the name of the supabase.co project with this URL, or "" if ``url`` is not the URL of such a project."""
    name = url.removeprefix("https://").removesuffix(".supabase.co")
    is_name = len(name) == 20 and name.isascii() and name.isalpha() and name.islower()
    return name if is_name and url == f"https://{name}.supabase.co" else ""


def parse_host_url(text: str, hosts: set[str]) -> str | None:
    """Return the URL in ``text``.

    If ``text`` names one of ``hosts``, scheme and port may be missing, and a path may follow.
    """
    url = parse_url(text)
    if url in hosts or text.lower().startswith("http:"):
        return url
    host = (text.partition("://")[2] or text).replace("?", "/").partition("/")[0].partition(":")[0].rstrip(".")
    known = {urlsplit(each).hostname: each for each in hosts}
    return known.get(host.lower(), url)


def _has_placeholder(url: str) -> bool:
    """Whether ``url`` is masked, or the name of its Supabase project is a placeholder."""
    name, _, rest = (url.partition("://")[2] or url).partition(".")
    return is_masked(url) or (rest.lower()[:9] in ("", "supabase.") and is_placeholder(name))


def find_url_fault(text: str) -> str:
    """Return the reason why a Supabase URL cannot be used, as the rest of a sentence after the setting's name."""
    if _has_placeholder(text) or set(text) & set("<>{}$"):
        return "is a placeholder, and not the URL of a project"
    if is_secret_key(text):
        return "is a key: are supabase-url and supabase-key swapped?"
    if re.match(r"(?:https?://)?(?:app\.)?supabase\.(?:com|io)\b", text, re.IGNORECASE):
        return "is the dashboard's address, without a project's name"
    if text.startswith(("postgres://", "postgresql://")):
        return "is a connection string of the database, and not the project's URL"
    return _find_shape_fault(text)


def _find_shape_fault(url: str) -> str:
    if "." in url and parse_url(f"https://{url}") is not None:
        return "has no https:// before the host"  # the text may be a secret, so the message does not show it
    if parse_url(url.lower().replace("http:", "https:", 1)) is not None:
        return "begins with http:// and not with https://"
    try:
        parts = urlsplit(url)
        origin = parse_url(f"{parts.scheme}://{parts.netloc}")
    except ValueError:
        origin = None
    if not origin:
        return "is not a URL that can be used"
    return f"has a text after the host; the URL without this text is {origin}"


def find_supabase_key_fault(words: list[str], url: str) -> tuple[str, str] | None:
    """Check the value of supabase-key for the project at ``url``. Return the fault as code and message, or None.

    ``words`` is the value of supabase-key, split at blanks. A key with write access is one word. A read-only key is two
    words: the public key for the gateway, and a JWT with a role.
    """
    if len(words) > 1 and _is_public(words[-1]):
        return "anon-supabase-key", "supabase-key is the project's public key"
    project = _cloud_project(url)
    defect = _find_key_defect(words, is_cloud=bool(project))
    if defect:
        return "invalid-supabase-key", f"supabase-key (or its variable) {defect}"
    for ref in (parse_claims(word).get("ref") for word in words):
        if project and isinstance(ref, str) and _cloud_project(f"https://{ref}.supabase.co") and ref != project:
            said = f"supabase-key is a key of the project {ref}, and supabase-url is the URL of {project}"
            return "supabase-key-of-another-project", said
    return None


def is_secret_key(text: str) -> bool:
    """Whether ``text`` begins like a key of Supabase."""
    return text.startswith(("sb_", "eyJ"))


def _find_key_defect(words: list[str], *, is_cloud: bool) -> str:
    whole, last = " ".join(words), words[-1]
    is_known = last.startswith(("sb_secret_", "sb_publishable_")) or re.fullmatch(_JWT, last) is not None
    seen = (
        (is_masked(whole), MASKED),
        (is_placeholder(whole), "is a placeholder"),
        (last.startswith("sbp_"), "is a personal access token (sbp_), which opens no project's tables"),
        ("://" in last, "is a URL"),
        (not all(map(is_one_word, words)) or (len(words) > 1 and not _is_read_only_key(words)), NOT_ONE_WORD),
        (
            is_cloud and not is_known,
            "is neither a secret key (sb_secret_) nor a JWT; supabase.co has no other keys",
        ),
    )
    return next((said for is_so, said in seen if is_so), "")


def is_public_key(words: list[str]) -> bool:
    """Whether ``words`` is a list of one word, and this word is a project's public key. A public key is no secret."""
    return len(words) == 1 and _is_public(words[0])


def _is_public(key: str) -> bool:
    return key.startswith("sb_publishable_") or parse_claims(key).get("role") in ("anon", "authenticated")


def _is_read_only_key(words: list[str]) -> bool:
    return len(words) == 2 and _is_public(words[0]) and isinstance(parse_claims(words[1]).get("role"), str)
