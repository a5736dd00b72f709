"""The first step: get URL and secret key of the Supabase project, check the form of both, and try a request."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kis_token.errors import KisTokenError, SettingsError, StoreError, StoreMisconfigured
from kis_token.settings.pasted_values import parse_claims, pasted, pasted_words
from kis_token.settings.supabase_project import (
    find_supabase_key_fault,
    find_url_fault,
    is_public_key,
    parse_project_url,
)
from kis_token.setup.dialogue import Question
from kis_token.setup.tables import CURED_BY_SQL
from kis_token.wiring import open_store

if TYPE_CHECKING:
    from kis_token.config import Settings
    from kis_token.setup.options import Setup

_URL_CODES = {"missing-supabase-url", "invalid-supabase-url"}
_KEY_CODES = {
    "missing-supabase-key",
    "invalid-supabase-key",
    "supabase-key-of-another-project",
    "anon-supabase-key",
    "store-permission-denied",
}
#: If Supabase answers a request with an error from _REJECTED_KEY, the user is asked for another key. If the request
#: fails with an error that is not in _REJECTED_KEY, the user is asked for another URL.
_REJECTED_KEY = {"store-key-rejected", "store-key-expired", "store-legacy-keys-disabled"}


def connect(setup: Setup) -> Settings:
    """Return settings with a URL and a key that the Supabase project accepts. The tables need not exist yet.

    Asks for URL and key until both are right. With ``--yes``, if URL or key is wrong, raises SettingsError or
    StoreError. If another setting is invalid, raises SettingsError.
    """
    wrong: set[str] = set()
    while True:
        settings = _complete(setup, wrong)
        try:
            _try(setup, settings)
        except StoreError as error:
            if setup.dialogue.is_absent:
                raise
            setup.dialogue.warn(f"error: {error}")
            wrong = _KEY_CODES if error.code in _REJECTED_KEY else _URL_CODES
            continue
        setup.dialogue.report("ok", "supabase", f"{settings.supabase_url} answers and accepts the key")
        return settings


def check_url(answer: str) -> str:
    """Return the URL of the project that ``answer`` names. Raises SettingsError."""
    text = pasted(answer)
    if not text:
        raise SettingsError([("missing-supabase-url", "supabase-url (or SUPABASE_URL) is not set")])
    url = parse_project_url(text)
    if url is None:
        raise SettingsError([("invalid-supabase-url", f"supabase-url (or SUPABASE_URL) {find_url_fault(text)}")])
    return url


def check_secret_key(answer: str, url: str) -> str:
    """Return the secret key in ``answer``. Raises SettingsError if it is no secret key of the project at ``url``."""
    words = pasted_words(answer)
    if not words:
        raise SettingsError([("missing-supabase-key", "supabase-key (or SUPABASE_SERVICE_ROLE_KEY) is not set")])
    if is_public_key(words):
        raise SettingsError([("anon-supabase-key", "supabase-key is the project's public key")])
    fault = find_supabase_key_fault(words, url)
    if fault is not None:
        raise SettingsError([fault])
    if len(words) > 1 or parse_claims(words[0]).get("role", "service_role") != "service_role":
        raise SettingsError([_READ_ONLY])
    return words[0]


_READ_ONLY = ("store-permission-denied", "A read-only key cannot store app key and secret")


def dashboard_link(url: str, page: str) -> str | None:
    """Return the address of a page of the project's dashboard, or None if the project is not at supabase.co."""
    name = url.removeprefix("https://").removesuffix(".supabase.co")
    return f"https://supabase.com/dashboard/project/{name}/{page}" if url == f"https://{name}.supabase.co" else None


def _complete(setup: Setup, wrong: set[str]) -> Settings:
    """Ask for each setting that is missing or invalid, and return all settings. Raises SettingsError.

    Also ask for the URL or the key if ``wrong`` contains an error code of the URL or of the key.
    """
    while True:
        try:
            settings = setup.settings()
            faults = [KisTokenError(*_READ_ONLY)] if settings.reads_only else []
        except SettingsError as error:
            settings, faults = None, error.faults
        codes = {fault.code for fault in faults}
        if settings is not None and not codes | wrong:
            return settings
        if setup.dialogue.is_absent or not codes <= _URL_CODES | _KEY_CODES:
            raise SettingsError([(fault.code, f"{fault.args[0]}") for fault in faults])
        for fault in faults:
            if not fault.code.startswith("missing-"):
                setup.dialogue.warn(f"error: {fault}")
        if (codes | wrong) & _URL_CODES:
            url = setup.dialogue.ask(
                Question("Supabase project URL, or the address of the project's dashboard"), check_url
            )
            setup.remember(supabase_url=url)
        else:
            _ask_for_key(setup, check_url(setup.answers.get("INPUT_SUPABASE_URL") or setup.env["SUPABASE_URL"]))
        wrong = set()


def _ask_for_key(setup: Setup, url: str) -> None:
    where = dashboard_link(url, "settings/api-keys") or "the project's settings, under API Keys"
    setup.dialogue.tell(f"The secret key (sb_secret_…, or the older service_role key) is here: {where}")
    key = setup.dialogue.ask(
        Question("Supabase secret key", is_secret=True), lambda answer: check_secret_key(answer, url)
    )
    setup.remember(supabase_key=key)


def _try(setup: Setup, settings: Settings) -> None:
    """Read the slot, and ignore missing tables. Raises StoreError if another fault than missing tables occurs."""

    def tell(text: str) -> None:
        if not any(f"[{code}]" in text for code in CURED_BY_SQL):
            setup.dialogue.warn(text)

    with open_store(settings, setup.clock.monotonic(), tell, setup.clock) as store:
        try:
            store.read(settings.service_name)
        except StoreMisconfigured as error:
            if error.code not in CURED_BY_SQL:
                raise
