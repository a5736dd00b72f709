"""The settings. Only this module reads settings from the environment, and it reports all faults in one error.

An input of the action (``INPUT_…``) takes precedence over the variable of the same meaning. Blanks and quotes around a
value are cut off. An empty value is ignored, and so is a word such as null.
"""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

from kis_token.errors import SettingsError
from kis_token.settings.environment import SECRETS, EnvironmentReader, label
from kis_token.settings.pasted_values import (
    find_key_fault,
    parse_encryption_key,
    pasted,
    pasted_words,
    unwrapped,
)
from kis_token.settings.supabase_project import (
    SupabaseKey,
    find_supabase_key_fault,
    find_url_fault,
    is_public_key,
    parse_host_url,
    parse_project_url,
    parse_url,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Literal

    from kis_token.process.caller_identity import IDTokenRequest

    Environment = Literal["production", "paper"]
    Mode = Literal["resolve", "rotate", "force", "check"]
    StoreOutagePolicy = Literal["issue", "fail"]

#: The accepted words of a setting; the first word is the default.
ENVIRONMENTS: tuple[Environment, ...] = ("production", "paper")
MODES: tuple[Mode, ...] = ("resolve", "rotate", "force", "check")
STORE_OUTAGE_POLICIES: tuple[StoreOutagePolicy, ...] = ("issue", "fail")

#: KIS's hosts. Source: KIS's site for developers.
KIS_HOSTS: dict[Environment, str] = {
    "production": "https://openapi.koreainvestment.com:9443",
    "paper": "https://openapivts.koreainvestment.com:29443",
}
DEFAULT_SERVICES: dict[Environment, str] = {"production": "kis", "paper": "kis-paper"}
#: The clients whose token files can be written; docs/clients.md describes each file.
TOKEN_FILE_CLIENTS = ("kis-auth", "python-kis", "kis-trader", "koreainvestment-cli")
LONGEST_MIN_VALIDITY = timedelta(hours=12)
LONGEST_DURATION = timedelta(days=90)

_KEYS_CALLED = ("app-key (or KIS_APP_KEY)", "app-secret (or KIS_APP_SECRET)")
#: The names that a slot may have. sql/ has the same rule.
SERVICE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Settings:
    """The checked settings of one run. The repr shows no secret."""

    supabase_url: str
    supabase_key: str = field(repr=False)
    app_key: str | None = field(repr=False)
    app_secret: str | None = field(repr=False)
    environment: Environment
    service_name: str
    base_url: str
    encryption_keys: tuple[bytes, ...] = field(repr=False)
    cache_path: Path | None
    mode: Mode
    min_validity: timedelta
    refresh_after: timedelta
    timeout: timedelta
    on_store_outage: StoreOutagePolicy
    allow_expired: bool
    verify: bool
    export_env: bool
    export_credentials: bool
    token_files: tuple[str, ...]
    hts_id: str | None
    label: str
    account_no: str | None = field(default=None, repr=False)
    #: The slot from which a program read app_key and app_secret; None if the user gave them.
    keys_slot: str | None = None
    #: Warnings for users about corrected values.
    notes: tuple[str, ...] = ()
    #: The request by which this job gets ID tokens. None if supabase-key is not the public key: only a caller with the
    #: public key needs an ID token in place of a secret key.
    id_token_request: IDTokenRequest | None = None
    #: Whether the cache is off because this user has no home folder. cache_path is then None.
    homeless: bool = False

    @property
    def reads_only(self) -> bool:
        """Whether supabase-key is a read-only key."""
        return SupabaseKey.parse(self.supabase_key).reads_only

    @property
    def saves(self) -> bool:
        """Whether this caller can store a token without a lease."""
        return not self.reads_only and self.id_token_request is None

    @staticmethod
    def from_env(env: Mapping[str, str]) -> Settings:
        """Read and check the settings. Raises SettingsError with all faults."""
        return _Reader(env).settings()


def project_and_slot(env: Mapping[str, str]) -> tuple[str, str]:
    """The project's URL and the slot's name, for a command that needs no key. Raises SettingsError."""
    return _Reader(env).project_and_slot()


class _Reader(EnvironmentReader):
    """Reads the settings from the environment variables ``env``."""

    def __init__(self, env: Mapping[str, str]) -> None:
        super().__init__(env)
        self._is_homeless = False
        self._id_token_request: IDTokenRequest | None = None

    def settings(self) -> Settings:
        environment = self._choice("environment", "KIS_ENVIRONMENT", ENVIRONMENTS)
        # A previous step with export-env may have exported the host of the other environment.
        others = {host for name, host in KIS_HOSTS.items() if name != environment}
        exported = parse_host_url(pasted(self._env.get("KIS_BASE_URL", "")), others)
        self._is_elsewhere = bool(self._env.get("GITHUB_ACTIONS")) and exported in others
        service_name = self._service_name(DEFAULT_SERVICES[environment])
        token_files = self._token_files()
        app_key, app_secret = self._app_keys()
        supabase_url = self._supabase_url()
        settings = Settings(
            supabase_url=supabase_url,
            supabase_key=self._supabase_key(supabase_url),
            app_key=app_key,
            app_secret=app_secret,
            environment=environment,
            service_name=service_name,
            base_url=self._base_url(KIS_HOSTS[environment], others),
            encryption_keys=self._encryption_keys(self._text("encryption-key", *SECRETS["encryption-key"])),
            cache_path=self._cache_path(service_name),
            mode=self._choice("mode", None, MODES),
            min_validity=self._duration("min-validity", "KIS_TOKEN_MIN_VALIDITY", "10m", most=LONGEST_MIN_VALIDITY),
            refresh_after=self._duration("refresh-after", "KIS_TOKEN_REFRESH_AFTER", "23h"),
            timeout=self._duration("timeout", "KIS_TOKEN_TIMEOUT", "180s"),
            on_store_outage=self._choice("on-store-outage", "KIS_TOKEN_ON_STORE_OUTAGE", STORE_OUTAGE_POLICIES),
            allow_expired=self._boolean("allow-expired", "KIS_TOKEN_ALLOW_EXPIRED"),
            verify=self._boolean("verify", None),
            export_env=self._boolean("export-env", None),
            export_credentials=self._boolean("export-credentials", None),
            token_files=token_files,
            hts_id=self._hts_id() if "python-kis" in token_files else None,
            label=label(self._env),
            account_no=unwrapped(self._env.get("KIS_ACCOUNT_NO", "")) or None,
            notes=tuple(self._notes),
            homeless=self._is_homeless,
            id_token_request=self._id_token_request,
        )
        if self._faults:
            raise SettingsError(self._faults, self._notes)
        return settings

    def project_and_slot(self) -> tuple[str, str]:
        service_name = self._service_name(
            DEFAULT_SERVICES[self._choice("environment", "KIS_ENVIRONMENT", ENVIRONMENTS)]
        )
        supabase_url = self._supabase_url()
        if self._faults:
            raise SettingsError(self._faults, self._notes)
        return supabase_url, service_name

    def _missing(self, code: str, message: str) -> None:
        """Add a fault for a missing secret. If GitHub withholds the secrets, add one fault for all secrets."""
        withheld = ("secrets-withheld", "GitHub withholds the secrets for supabase-url and supabase-key from this run")
        from kis_token.process.caller_identity import are_secrets_withheld  # few runs need this module

        if not are_secrets_withheld(self._env):
            self._fault(code, message)
        elif withheld not in self._faults:
            self._faults.append(withheld)

    def _supabase_url(self) -> str:
        text = self._text("supabase-url", "SUPABASE_URL")
        if not text:
            self._missing("missing-supabase-url", "supabase-url (or SUPABASE_URL) is not set")
            return ""
        url = parse_project_url(text)
        if url is None:
            self._fault("invalid-supabase-url", f"supabase-url (or SUPABASE_URL) {find_url_fault(text)}")
        elif url != parse_url(text):
            self._notes.append(f"supabase-url (or SUPABASE_URL) is not the project's URL; {url} is used instead.")
        return url or ""

    def _supabase_key(self, url: str) -> str:
        """Return the key of supabase-key.

        A read-only key has two words: the public key for the gateway, and a JWT with a role. Any other key has one
        word.
        """
        words = pasted_words(self._text("supabase-key", *SECRETS["supabase-key"]))
        if not words:
            self._missing("missing-supabase-key", "supabase-key (or SUPABASE_SERVICE_ROLE_KEY) is not set")
            return ""
        fault = self._find_id_token_request() if is_public_key(words) else None
        self._faults += filter(None, [fault or find_supabase_key_fault(words, url)])
        return " ".join(words)

    def _find_id_token_request(self) -> tuple[str, str] | None:
        """Record the request by which this job gets ID tokens. Return a fault if the job cannot get ID tokens."""
        from kis_token.process.caller_identity import IDTokenRequest  # needed only if supabase-key is the public key

        self._id_token_request = IDTokenRequest.find(self._env)
        if self._id_token_request is not None:
            return None
        return "anon-supabase-key", "supabase-key is the project's public key"

    def _app_keys(self) -> tuple[str | None, str | None]:
        app_key = self._text("app-key", *SECRETS["app-key"])
        app_secret = self._text("app-secret", *SECRETS["app-secret"])
        if bool(app_key) != bool(app_secret):
            missing, given = _KEYS_CALLED[bool(app_key)], _KEYS_CALLED[not app_key]
            self._fault("incomplete-app-key", f"{missing} is not set, although {given} is set")
        self._faults += filter(None, [find_key_fault(app_key, app_secret, _KEYS_CALLED)])
        return app_key or None, app_secret or None

    def _service_name(self, default: str) -> str:
        text = self._text("service-name", "KIS_SERVICE_NAME") or default
        if SERVICE_NAME.fullmatch(text) is None:
            self._fault("invalid-service-name", "service-name (or KIS_SERVICE_NAME) is not a valid slot name")
            return default
        return text

    def _base_url(self, default: str, others: set[str]) -> str:
        text = self._text("base-url", "KIS_BASE_URL")
        url = parse_host_url(text, {default, *others}) if text else default
        if url is None:
            self._fault("invalid-base-url", "base-url (or KIS_BASE_URL) is not a URL that can be used")
        elif url in others:
            self._fault("invalid-base-url", "base-url (or KIS_BASE_URL) is KIS's host for the other environment")
        elif text and url != parse_url(text):
            self._notes.append(f"base-url (or KIS_BASE_URL) is not the address of KIS's host; {url} is used instead.")
        return url or default

    def _encryption_keys(self, text: str) -> tuple[bytes, ...]:
        keys = [parse_encryption_key(word) for word in pasted_words(text)]
        if None in keys:
            self._fault("invalid-encryption-key", "encryption-key (or KIS_TOKEN_ENCRYPTION_KEY) is not a key")
        return tuple(key for key in keys if key is not None)

    def _cache_path(self, service_name: str) -> Path | None:
        text = self._text("cache-path", "KIS_TOKEN_CACHE")
        if text.lower() == "off":
            return None
        if text:
            try:
                path = Path(text).expanduser()
            except RuntimeError:  # the path begins with "~name", and this machine has no user of that name
                path = Path()
            if not path.name:
                self._fault("invalid-cache-path", "cache-path (or KIS_TOKEN_CACHE) names no file")
            return path
        name = ".kis_token_cache.json" if service_name == "kis" else f".kis_token_cache.{service_name}.json"
        if self._env.get("RUNNER_TEMP"):
            return Path(self._env["RUNNER_TEMP"]) / name
        from kis_token.process.caller_identity import user_cache_folder  # a job does not need this module

        folder = user_cache_folder()
        # If the package platformdirs is not loaded, as on the fast path, the code cannot find out whether this user has
        # a home folder.
        self._is_homeless = folder is None and "platformdirs" in sys.modules
        return None if folder is None else folder / name

    def _token_files(self) -> tuple[str, ...]:
        names = self._text("token-files").lower().replace("_", "-").replace(",", " ").split()
        if {"mojito", "mojito2"} & set(names):
            self._fault(
                "invalid-token-files", "token-files names mojito2, whose token file holds the app secret as well"
            )
        elif not set(names) <= set(TOKEN_FILE_CLIENTS):
            self._fault("invalid-token-files", f"token-files names a client other than {', '.join(TOKEN_FILE_CLIENTS)}")
        return tuple(dict.fromkeys(names))

    def _hts_id(self) -> str:
        text = self._text("hts-id", "KIS_HTS_ID")
        if not text:
            self._fault("missing-hts-id", "token-files names python-kis, but KIS_HTS_ID is not set")
        elif re.fullmatch(r"[A-Za-z0-9@_.-]{1,64}", text, re.ASCII) is None:
            self._fault("invalid-hts-id", "KIS_HTS_ID is not a valid HTS login id")
        return text
