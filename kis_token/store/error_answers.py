"""The meaning of an error answer: a configuration error, or an outage with its cause in words.

Only PostgREST and Supabase's gateway can report a configuration error. If PostgREST reports a configuration error,
the JSON of the answer has the error's code. If Supabase's gateway reports a configuration error, the answer has the
status 401 or 403 and the error's message. If a program other than PostgREST or Supabase's gateway sends an error
answer, the answer means an outage, for every status. An error answer may contain stored values or parts of the request.
Therefore, an error shows only texts that the functions of sql/ write. If the functions of sql/ did not write a text,
the text is compared with known messages, and an error shows at most the parts of the text that match a known pattern.

Sources: https://docs.postgrest.org/en/v14/references/errors.html (codes),
https://supabase.com/docs/guides/platform/http-status-codes (402, 540, 544) and
https://developers.cloudflare.com/support/troubleshooting/http-status-codes/ (520 to 530, and the numbers 1xxx in
Cloudflare's HTML page).
"""

from __future__ import annotations

import re
from http import HTTPStatus
from typing import TYPE_CHECKING

from kis_token.errors import StoreError, StoreMisconfigured, StoreOutage
from kis_token.store.http_exchange import one_line

if TYPE_CHECKING:
    from datetime import datetime

    from kis_token.store.http_exchange import Answer

#: The members of an error in PostgREST's JSON.
_MEMBERS = {"code", "message", "details", "hint"}
#: Codes of PostgREST, and of PostgreSQL.
_CODE = re.compile(r"PGRST[0-9A-Z]{3}|[0-9A-Z]{5}")

#: If the table cannot store a row, the functions of sql/ raise an error with this text as its detail. The error's
#: message has the reason.
_CANNOT_STORE = "store-cannot-store"

#: The SQLSTATEs of the functions keyless_*, in sql/007_keyless.sql.
_KEYLESS = {
    "KTA01": ("id-token-unknown", "Supabase does not accept this job's ID token"),
    "KTA02": ("id-token-audience", "Supabase does not accept the ID token's audience"),
    "KTA03": ("id-token-expired", "Supabase does not accept the ID token's times"),
    "KTA04": ("caller-not-listed", "Supabase's list of callers does not contain this job"),
    "KTA05": ("caller-may-not", "Supabase does not permit this job to make the request"),
    "KTA06": ("id-token-replayed", "Supabase has accepted this ID token before, and accepts an ID token only once"),
    "KTA07": ("id-token-key-unknown", "Supabase lacks the key that signed the ID token"),
}
#: An error shows the detail of an error answer only if the detail begins with one of the following texts. A detail
#: with another beginning may repeat a value of the request.
_SHOWN_DETAILS = ("insert into public.credential_callers", "update public.credential_callers", "kid: ")
#: The longest SQL statement, in characters, that an error shows. Every statement that the functions of sql/ send is
#: shorter than ``_LONGEST_STATEMENT``.
_LONGEST_STATEMENT = 2000

_NO_TABLE = ("store-table-missing", "Supabase has no table api_credentials")
_NO_COLUMN = ("store-column-missing", "the table api_credentials lacks a column")
_NO_FUNCTION = ("store-function-missing", "Supabase lacks the functions that govern issuing")
_NO_KEY = ("store-key-rejected", "Supabase does not accept the key")
_ENDED_KEY = ("store-key-expired", "Supabase reports that the key has expired")
_LEGACY_KEY = ("store-legacy-keys-disabled", "The legacy keys are turned off in Supabase")

_MISCONFIGURED = {
    "42501": ("store-permission-denied", "Supabase does not permit this key to make the request"),
    "42P01": _NO_TABLE,
    "42704": _NO_TABLE,  # a function names the row type of a missing table
    "PGRST205": _NO_TABLE,
    "42703": _NO_COLUMN,
    "PGRST204": _NO_COLUMN,
    "PGRST202": _NO_FUNCTION,
    "42883": _NO_FUNCTION,
    "PGRST106": ("store-rejected", "Supabase does not expose the schema public"),
    "PGRST301": _NO_KEY,
    "PGRST302": _NO_KEY,
    "PGRST303": _NO_KEY,
}
#: The codes of errors that come from PostgREST's cache of the schema. Right after a restore, the schema cache is older
#: than the tables.
_OF_THE_CACHE = ("PGRST202", "PGRST204", "PGRST205")

#: The causes of temporary failures. Each key of the dictionary is the first part of an error code. If several keys of
#: the dictionary match an error code, the value of the longest key is used.
_PASSING = {
    "08": "PostgREST lost its connection to the database",
    "25": "",
    "40": "other transactions conflicted",
    "53": "the database is short of resources",
    "53100": "the database's disk is full",
    "53300": "the database has too many connections",
    "55": "",
    "55P03": "another transaction holds a lock",
    "57": "",
    "57014": "the database canceled the statement, which took too long",
    "57P0": "the database is restarting",
    "58": "",
    "F0": "",
    "XX": "",
    "PGRST00": "PostgREST cannot reach the database",
    "PGRST002": "PostgREST cannot read the schema yet",
    "PGRST003": "the database has no free connection",
    "PGRST300": "PostgREST has no JWT secret",
    "PGRSTX": "",
}

#: The first words, in lower case, of the gateway's messages about the key. If several entries match a message, the
#: first entry is used.
_OF_THE_GATEWAY = (
    ("legacy api keys are disabled", _LEGACY_KEY),
    ("invalid api key", _NO_KEY),
    ("unregistered api key", _NO_KEY),
    ("no api key found in", _NO_KEY),
    ("forbidden use of secret api key", ("store-key-rejected", "Supabase treats this program as a browser")),
    ("invalid authentication credentials", _NO_KEY),  # a message of Kong, the gateway of a self-hosted project
    ("jwt expired", _ENDED_KEY),
    ("jwt", _NO_KEY),
    ("jws", _NO_KEY),
    ("invalid jwt", _NO_KEY),
    ("expected 3 parts in jwt", _NO_KEY),
    ("no suitable key", _NO_KEY),
)
#: The first words, in lower case, of the gateway's messages if PostgREST does not answer the gateway.
_GATEWAY_ALONE = (
    "an invalid response was received from the upstream server",
    "the upstream server is",
    "name resolution failed",
    "failure to get a peer from the ring-balancer",
    "upstream connect error",
    "upstream request timeout",
    "no healthy upstream",
)
#: The first words, in lower case, of messages about a key that becomes valid later.
_LATER = ("jwt issued at future", "jwt not yet valid")

_RESTRICTION = re.compile(r"\b(?:exceed(?:ed)?_[a-z_]{1,40}|overdue_payment)\b")
_OF_CLOUDFLARE = {*range(520, 528), 530}
_ERROR_OF_CLOUDFLARE = re.compile(r"\berror(?: code)?:?\s+(1\d{3})\b")
#: Only this many characters of an error answer are searched for known messages.
_LONGEST_TEXT = 20_000


def answer_error(answer: Answer, body: object, key_ended: datetime | None) -> StoreError:
    """The error for an answer whose status is not a success.

    ``body`` is the answer's JSON; None if the body is not JSON. ``key_ended`` is the time at which the key of the
    request expired, by the key's claims; None if the key has not expired.
    """
    status, members = answer.status, body if isinstance(body, dict) else {}
    code, message = members.get("code"), members.get("message")
    message = message[:_LONGEST_TEXT] if isinstance(message, str) else ""
    if isinstance(code, str) and _CODE.fullmatch(code) and members.keys() <= _MEMBERS:
        if code in _KEYLESS:
            return _keyless_error(code, message, members.get("details"))
        if members.get("details") == _CANNOT_STORE:
            return _cannot_store(message)
        return code_error(status, code, message, key_ended=key_ended)
    shown = _shown(status, "")
    if status in (401, 403):
        said = message.lower()
        known = next((known for beginning, known in _OF_THE_GATEWAY if said.startswith(beginning)), None)
        is_the_gateway_s = answer.headers.get("sb-error-code", "").startswith("UNAUTHORIZED")
        if known is None and (is_the_gateway_s or (status == 401 and key_ended is not None)):
            known = _NO_KEY
        if known is not None:
            return _misconfigured(known, shown, key_ended)
    text = answer.body[:_LONGEST_TEXT].decode(errors="replace").strip()
    state = _of_supabase(status, (message or text).lower(), text, shown)
    return state or _of_others(status, text, shown, is_challenge="cf-mitigated" in answer.headers)


def _keyless_error(code: str, message: str, detail: object) -> StoreMisconfigured:
    """The error for ``code`` from a keyless_* function of sql/. ``detail`` can be SQL that corrects the settings."""
    known, said = _KEYLESS[code]
    is_shown = isinstance(detail, str) and detail.startswith(_SHOWN_DETAILS)
    parts = (said, one_line(message, 500), one_line(f"{detail}", _LONGEST_STATEMENT) if is_shown else "")
    return StoreMisconfigured(known, ": ".join(filter(None, parts)))


def _cannot_store(reason: str) -> StoreMisconfigured:
    """The error for a table that cannot store a row.

    The functions of sql/ write ``reason``, and ``reason`` contains no stored value.
    """
    return StoreMisconfigured("store-cannot-store", f"Supabase cannot store the token: {one_line(reason, 300)}")


def code_error(status: int | None, code: str, message: str = "", *, key_ended: datetime | None = None) -> StoreError:
    """The error for PostgREST's ``code``, with the HTTP status of the answer."""
    # The error shows ``code`` only if it has the format of a code of PostgREST or PostgreSQL, because a text with a
    # different format may contain a stored value.
    shown, message = _shown(status, code if _CODE.fullmatch(code) else ""), message.lower()
    if code == "25006" or message.startswith("cannot set transaction read-write mode"):
        said = f"The database is read-only, usually because its disk is full ({shown})"
        return StoreOutage("store-database-read-only", said, doubtful=True, persists=True, sent=False)
    if code == "PGRST203":
        said = f"Supabase has several functions of one name ({shown}){_colon(_ambiguous(message))}"
        return StoreMisconfigured("store-function-ambiguous", said)
    cause = _cause(code, message)
    if cause is not None:
        return _outage("store-unreachable", f"Supabase does not work ({shown}){_colon(cause)}", status)
    known = _MISCONFIGURED.get(code, ("store-rejected", "Supabase refused the request"))
    if code == "22023" and status == 401:
        known = ("store-permission-denied", "The database lacks the key's role")
    elif code == "PGRST303" and message.startswith("jwt expired"):
        known = _ENDED_KEY
    return _misconfigured(known, shown, key_ended, settles=code in _OF_THE_CACHE)


def _misconfigured(
    known: tuple[str, str], shown: str, key_ended: datetime | None, *, settles: bool = False
) -> StoreMisconfigured:
    """The error ``known``.

    If Supabase did not accept the key and the key has expired, the error names the day on which the key expired.
    """
    if key_ended is not None and known in (_NO_KEY, _ENDED_KEY):
        known = ("store-key-expired", f"The key expired on {key_ended:%Y-%m-%d}, by the date in the key")
    code, said = known
    return StoreMisconfigured(code, f"{said} ({shown})", settles=settles)


def _cause(code: str, message: str) -> str | None:
    """The cause of a temporary failure.

    The result is "" if the cause is unknown, and None if the failure is not temporary.
    """
    if code == "PGRST303":
        return "by Supabase's clock the key is not valid yet" if message.startswith(_LATER) else None
    beginning = max((each for each in _PASSING if code.startswith(each)), key=len, default=None)
    return None if beginning is None else _PASSING[beginning]


def _of_supabase(status: int, message: str, text: str, shown: str) -> StoreOutage | None:
    """Return a StoreOutage if Supabase's gateway reports a known state, such as a paused project; None otherwise."""
    restrictions = sorted(set(_RESTRICTION.findall(text)))
    if status == 402 and (restrictions or message.startswith("service for this project is restricted")):
        said = f"Supabase has restricted the project ({shown}){_colon(', '.join(restrictions))}"
        return _outage("store-restricted", said, status, persists=True)
    if status == 540:
        return _outage("store-paused", f"Supabase reports that the project is paused ({shown})", status)
    if status == 544:
        return _outage("store-unreachable", f"Supabase's gateway timed out ({shown})", status)
    if message.startswith(_GATEWAY_ALONE):
        return _outage("store-unreachable", f"Supabase's gateway cannot reach PostgREST ({shown})", status)
    return None


def _of_others(status: int, text: str, shown: str, *, is_challenge: bool) -> StoreOutage:
    """Return the StoreOutage for an error answer that comes from a program other than Supabase, such as a proxy."""
    if 300 <= status < 400:
        said = f"supabase-url answers with a redirect ({shown})"
        return StoreOutage("store-redirects", said, doubtful=True, lasting=True, persists=True)
    # HTML tags are removed before the page is searched for the word "cloudflare", because a tag in any page can load a
    # script from Cloudflare.
    page = re.sub(r"<[^>]*>", " ", text).lower()
    number = _ERROR_OF_CLOUDFLARE.search(page) if "cloudflare" in page or page.startswith("error code:") else None
    if number or is_challenge or status in _OF_CLOUDFLARE or "cloudflare ray id" in page:
        of_its_own = _colon(f"its error {number[1]}" if number else "")
        return _outage("store-unreachable", f"Cloudflare answers for Supabase ({shown}){of_its_own}", status)
    said = f"supabase-url gives an answer that does not look like Supabase's ({shown})"
    if status == 404:
        return _outage("store-not-supabase", said, status, persists=True)
    return _outage("store-unreachable", said, status)


def _outage(code: str, said: str, status: int | None, *, persists: bool = False) -> StoreOutage:
    """The outage for an answer with ``status``. With status 3xx, 4xx or 511, the outage has ``doubtful=True``.

    After an outage with ``doubtful=True``, no caller issues a token without the store.
    """
    is_doubtful = status is not None and (300 <= status < 500 or status == 511)
    return StoreOutage(code, said, doubtful=is_doubtful, persists=persists)


def _shown(status: int | None, code: str) -> str:
    """Return the HTTP status and the error code. Without an error code, return the status and its standard name."""
    if status is None:
        return code or "no reason given"
    try:
        name = code or HTTPStatus(status).phrase
    except ValueError:  # a status without a standard name
        name = code
    return f"HTTP {status} {name}".strip()


def _colon(cause: str) -> str:
    return f": {cause}" if cause else ""


# Two functions of one name -------------------------------------------------------------------------------------------

_PARAMETER = r"\w{1,63} => [a-z][a-z0-9_. \[\]]{0,63}"
_CANDIDATE = re.compile(rf"public\.([a-z_]{{1,63}})\(((?:{_PARAMETER}(?:, {_PARAMETER}){{0,30}})?)\)")
_SAME_TYPE = {"timestamptz": "timestamp with time zone", "int": "integer", "bool": "boolean"}


def _ambiguous(message: str) -> str:
    """Return the name of the ambiguous function, and SQL that drops the overloads that sql/ does not create.

    The result is empty if the message does not list the function's overloads in the known format.
    """
    listed = message.rpartition("candidate function between: ")[2]
    found = list(_CANDIDATE.finditer(listed))
    names = {each[1] for each in found}
    # If PostgREST's list of candidate functions contains anything other than the overloads of one function, the result
    # is empty.
    if len(names) != 1 or ", ".join(each[0] for each in found) != listed:
        return ""
    name = names.pop()
    own = _form_in_sql(name)
    forms = [tuple(_pair(each) for each in one[2].split(", ") if each) for one in found]
    drops = [
        f"drop function public.{name}({', '.join(kind for _, kind in form)});"
        for form in forms
        if own is not None and form != own
    ]
    return f"{name}. Drop its overloads that sql/ does not create: {' '.join(drops)}" if drops else name


def _pair(parameter: str) -> tuple[str, str]:
    name, _, kind = parameter.partition(" => ")
    return name, kind


def _form_in_sql(name: str) -> tuple[tuple[str, str], ...] | None:
    """The parameters of the function ``name`` in the files of sql/; None if no file creates that function."""
    from kis_token.store.migrations import migrations

    text = "\n".join(path.read_text(encoding="utf-8") for path in migrations())
    made = re.findall(rf"create or replace function public\.{name}\s*\((.*?)\)\s*returns", text, re.DOTALL)
    if not made:
        return None
    parameters = [parameter.partition(" default ")[0].split() for parameter in made[-1].split(",") if parameter.strip()]
    return tuple((words[0], _SAME_TYPE.get(kind := " ".join(words[1:]), kind)) for words in parameters)
