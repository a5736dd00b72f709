"""The errors of this project, as a tree::

    KisTokenError
    ├── SettingsError           invalid inputs or variables; all of them at once
    ├── StoreError
    │   ├── StoreOutage         Supabase does not answer, or not as Supabase: the chain falls back
    │   └── StoreMisconfigured  Supabase answers that it is set up wrongly: the chain does not fall back
    ├── TokenError              a token or a sealed value that exists and cannot be used
    │   └── TokenUnusable       the stored value is no usable token: the next issued token replaces it
    ├── IssuerError
    │   ├── IssuerRefused       KIS does not accept the keys: the call is not repeated
    │   ├── IssuerRateLimited   KIS does not issue yet: the caller waits, once
    │   └── IssuerOutage        KIS does not answer, or not as documented
    ├── IssuanceError           no lease: two slots with one key, or the wait is longer than the caller's time
    │   ├── AppKeyChanged       the slot's key was changed: the caller reads the slot again
    │   └── TokenRefreshLimitError  the token is younger than 23 h: only `force` renews it
    ├── CacheError              the cache file cannot be written
    ├── GitHubError             GitHub does not answer a question of kis-token trust or check, or refuses it
    └── EnvironmentFault        the machine lacks something: Python, pip, a file to write to

No error text contains a secret or a part of an answer's body.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

_KEYS_HINT = (
    "Compare key and secret with the KIS developers' site. Real and paper accounts have different keys (input "
    "environment). A secret that was cut off or lacks its last '=' is refused too."
)
_TRUST_HINT = (
    "If this machine's connections are inspected, set SSL_CERT_FILE or REQUESTS_CA_BUNDLE to the file with the "
    "inspecting company's certificate. If the message names a variable, correct or remove it."
)
_MIGRATE_HINT = "Run the files of sql/ in the SQL editor of the Supabase project, in the order of their names."

#: The remedy of each code. docs/troubleshooting.md has an entry for each.
REMEDIES: dict[str, str] = {
    # settings
    "missing-supabase-url": "Set it to the project's URL, https://<project>.supabase.co.",
    "invalid-supabase-url": "Give the project's URL alone, https://<project>.supabase.co, without a path.",
    "missing-supabase-key": "Set it to the project's service_role or sb_secret_ key, from the project's API settings.",
    "invalid-supabase-key": (
        "Copy the key again: one line of ASCII without blanks. A read-only key is two words: the public key and a JWT."
    ),
    "supabase-key-of-another-project": "Copy URL and key from the API settings of the same project.",
    "anon-supabase-key": (
        "Use the service_role or sb_secret_ key. A job of GitHub Actions can use the public key with the permission "
        "id-token: write."
    ),
    "id-token-missing": (
        "Give the job the permission: permissions: id-token: write. GitHub gives it to no pull request from a fork."
    ),
    "id-token-refused": "Give the job the permission: permissions: id-token: write.",
    "id-token-unavailable": "Try again later. While GitHub does not answer, a cached token is used.",
    "id-token-unknown": (
        "Store the keys of the job's issuer in Supabase: run the SQL that kis-token trust --keys prints."
    ),
    "id-token-key-unknown": "Store the issuer's new keys in Supabase: run the SQL that kis-token trust --keys prints.",
    "id-token-audience": "Let supabase-url be the URL that the list of callers has in its column audience.",
    "id-token-expired": "Run the job again. If it fails again, compare the runner's clock with the database's.",
    "id-token-replayed": "Run the job again.",
    "caller-not-listed": "If this job may have access, run the statement of the message in the SQL editor.",
    "caller-may-not": "If this job may have more access, run the statement of the message in the SQL editor.",
    "secrets-withheld": (
        "GitHub gives no secrets to pull requests from forks and from Dependabot. "
        "Run this job on push, or skip it for them with an if: condition."
    ),
    "missing-app-key": "Store the rows app_key and app_secret of this slot in Supabase, or give both as inputs.",
    "incomplete-app-key": "Give app-key and app-secret together, or neither.",
    "invalid-app-key": "Copy it again from the KIS developers' site: it is one line without blanks.",
    "invalid-app-secret": "Copy it again from the KIS developers' site: it is one line without blanks.",
    "swapped-app-key": (
        "Put each in its own place: a KIS app key has 36 characters and begins with PS, an app secret has 180. "
        "To replace stored ones, run kis-token set-keys."
    ),
    "invalid-environment": "Use production or paper.",
    "invalid-mode": "Use resolve, rotate, force or check.",
    "invalid-duration": "Use numbers with s, m, h or d, such as 90s or 1h30m; min-validity may be at most 12h.",
    "invalid-boolean": "Use true or false.",
    "invalid-service-name": "Use up to 63 letters, digits, '_', '.' and '-'. Begin with a letter or digit.",
    "invalid-base-url": (
        "Use https://host:port without a path, or leave it out for KIS's own hosts. "
        "Plain http is for 127.0.0.1 and localhost only."
    ),
    "invalid-on-store-outage": "Use issue or fail.",
    "invalid-token-files": (
        "Use kis-auth, python-kis, kis-trader and koreainvestment-cli, separated by commas or blanks. "
        "Other clients take the token from an output or from the variable KIS_ACCESS_TOKEN."
    ),
    "missing-hts-id": "Set the variable KIS_HTS_ID to the id that you give python-kis: the file's name contains it.",
    "invalid-hts-id": "KIS_HTS_ID is the id of your HTS login: letters, digits, '@', '_', '.' and '-'.",
    "invalid-cache-path": "Give the path of a file, or off.",
    "invalid-encryption-key": "Give one key a line: 32 bytes in base64, as kis-token keygen makes them.",
    "missing-encryption-key": "Set it to a key from kis-token keygen, or to several, one a line.",
    # store
    "store-unreachable": (
        "If the outage lasts, look at the project in Supabase's dashboard and at status.supabase.com."
    ),
    "store-restricted": (
        "Look at the organization's usage and billing in Supabase's dashboard. The restriction ends with the billing "
        "period, a larger plan or a paid bill. Until then only cached tokens can be used."
    ),
    "store-paused": "Restore the project in Supabase's dashboard. On the free plan Supabase pauses unused projects.",
    "store-database-read-only": (
        "Look at the database's size and disk in Supabase's dashboard. Free space or enlarge the disk, then disable "
        "the read-only mode. Stored tokens stay readable."
    ),
    "store-tls": _TRUST_HINT,
    "store-redirects": (
        "Open supabase-url in a browser on this machine. If the network asks for a login, log in. If the project has "
        "another address, set supabase-url to that."
    ),
    "store-not-supabase": "Copy the URL again from the project's API settings: https://<project>.supabase.co.",
    "store-key-rejected": "Copy URL and key from the API settings of the same project.",
    "store-key-expired": "Set supabase-key to a new key. For a read-only key see docs/security.md.",
    "store-legacy-keys-disabled": (
        "Set supabase-key to an sb_secret_ key from the project's API settings, or enable the legacy keys again there. "
        "In a read-only key, replace the first part by the sb_publishable_ key."
    ),
    "store-permission-denied": "Use the service_role or sb_secret_ key. If it is one already: " + _MIGRATE_HINT,
    "store-read-only": "Renew the token in a job that has the service_role or sb_secret_ key, such as the rotation.",
    "store-table-missing": _MIGRATE_HINT,
    "store-column-missing": _MIGRATE_HINT,
    "store-function-missing": _MIGRATE_HINT,
    "store-function-ambiguous": (
        "Run the statements of the message in the SQL editor of the Supabase project. Then run the files of sql/ "
        "there, in the order of their names."
    ),
    "store-schema-outdated": _MIGRATE_HINT + " Older releases of this action work with the newer tables.",
    "store-cannot-store": (
        "The message names the obstacle: a column, a constraint, a trigger. Change the table, then run kis-token "
        "check, which stores a made-up token and removes it."
    ),
    "store-value-too-large": "Store the right value again, or delete the row.",
    "store-rejected": "If this release is newer than the tables: " + _MIGRATE_HINT,
    # tokens
    "token-unusable": "The next issued token replaces it.",
    "token-of-another-key": (
        "Give each account its own service-name and cache-path. If the key was changed on purpose, run kis-token "
        "set-keys, which deactivates the old token."
    ),
    "token-of-another-environment": (
        "Real and paper tokens are not interchangeable. Give each environment its own service-name."
    ),
    "sealed-without-key": "Set encryption-key to the key that sealed the value.",
    "plain-with-key": (
        "If the value was sealed before, find out first who replaced it. Then run kis-token seal with the same key."
    ),
    "seal-broken": "Give the encryption-key that sealed the value. If it is damaged, store it again or delete its row.",
    # KIS
    "kis-key-refused": _KEYS_HINT + " Many calls in a short time can also lock a correct key for a day.",
    "kis-secret-refused": _KEYS_HINT,
    "kis-keys-refused": _KEYS_HINT,
    "kis-rate-limited": (
        "KIS issues one token a minute for an app key. If this repeats, look for another program that uses this key."
    ),
    "kis-unreachable": "Look for maintenance in the notices of the KIS developers' site.",
    "kis-tls": _TRUST_HINT,
    "kis-answer-unusable": "KIS did not answer as documented. Try again in some minutes.",
    # issuing
    "key-in-two-slots": "Use the same service-name for this app key everywhere.",
    "app-key-changed": "Another caller is storing keys for this slot. Run again when it has finished.",
    "token-repeated": (
        "For 6 hours after an issue KIS gives the same token, even a rejected one. Run again after the message's time."
    ),
    "token-too-young": "KIS issues one token a day. Use the stored token; if KIS rejects it, renew it by force.",
    "wait-too-long": "Another job is issuing, or KIS must not be called for a while. Run again, or raise timeout.",
    "timed-out": "The last lines of the log name the part that did not answer. Run again, or raise timeout.",
    "no-valid-token": "mode: check never issues. Run once with mode: resolve.",
    # cache and machine
    "proxy-unusable": (
        "Set the variable to http://host:port, or to http://user:password@host:port if the proxy needs a login. If the "
        "host can be reached without the proxy, name it in NO_PROXY."
    ),
    "no-private-folder": (
        "Without Supabase, the jobs of a machine share a lock in a private folder. Give this user a home or a "
        "temporary folder that no other user can write to."
    ),
    "cache-unwritable": "Set cache-path to a file in a folder that this user may write, or to off.",
    "export-failed": (
        "The file must belong to this user, in a writable folder. HOME, XDG_CACHE_HOME and KIS_CLI_HOME name the "
        "clients' folders."
    ),
    "output-unwritable": "Run it as a step of a workflow; elsewhere use the command kis-token get.",
    "python-missing": "Install Python 3.10 or newer, or add a step with actions/setup-python before this one.",
    "pip-missing": "Install pip for this Python, or uv, or add a step with actions/setup-python before this one.",
    "runtime-failed": (
        "Installing needs the package index, and a folder that no other user can change: RUNNER_TOOL_CACHE, the user's "
        "cache folder, RUNNER_TEMP or the system's temporary folder."
    ),
    "platform-unsupported": "Choose another version of Python with actions/setup-python, or another runner.",
    # GitHub
    "invalid-caller": (
        "Correct the option that the message names. The list of callers has whole names and no patterns. Branches of "
        "Dependabot cannot be listed, and neither can events that people without write access can cause."
    ),
    "github-unreachable": "Try again later. With --repository-id and --owner-id only the issuer's keys are asked for.",
    "github-repository-unknown": (
        "Use the repository's present name. For a private repository sign in with gh auth login, or set GH_TOKEN; or "
        "give --repository-id and --owner-id."
    ),
    "github-refused": (
        "Sign in with gh auth login, or set GH_TOKEN to a token that is valid; or give --repository-id and --owner-id. "
        "Without a sign-in GitHub answers 60 requests an hour."
    ),
    "sandbox-missing": "Install the extra: pip install 'kis-token[sandbox]'.",
    "sandbox-failed": "The sandbox needs PostgreSQL. The message is PostgreSQL's own.",
    "internal-error": "This is a defect of the action. Please report it with this message.",
}


#: KIS's codes for keys that it does not accept: our code and the message.
KIS_REFUSALS = {
    "EGW00103": ("kis-key-refused", "KIS does not know the app key"),
    "EGW00105": ("kis-secret-refused", "KIS does not accept the app secret"),
    "EGW00002": ("kis-keys-refused", "KIS does not accept key and secret"),
}


class KisTokenError(Exception):
    """The base class of all errors that this project raises on purpose.

    Attributes:
        code: one of ``REMEDIES``; it stays the same between releases.
        hint: the remedy.
        retryable: whether the same call may succeed later without any change.
        warnings: texts for people, collected before the error arose.
    """

    retryable = False
    warnings: tuple[str, ...] = ()

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.hint = REMEDIES[code]

    def __str__(self) -> str:
        return f"{self.args[0]} [{self.code}]"

    def warn(self, warnings: Iterable[str]) -> None:
        """Add the texts that ``warnings`` does not contain yet."""
        self.warnings = tuple(dict.fromkeys((*self.warnings, *warnings)))


class SettingsError(KisTokenError):
    """Invalid inputs or variables. ``faults`` has one error for each of them, at least one in all."""

    def __init__(self, faults: list[tuple[str, str]], warnings: Iterable[str] = ()) -> None:
        super().__init__(faults[0][0], faults[0][1])
        self.warn(warnings)
        self.faults = [KisTokenError(code, message) for code, message in faults]


class StoreError(KisTokenError):
    """The base class: Supabase did not fulfil a request."""


class StoreOutage(StoreError):
    """Supabase does not answer, or not as Supabase: the chain continues with the next source.

    ``doubtful``: the cause may be on this machine, such as a proxy, or a working gateway refused the request; then no
    caller issues without Supabase. ``lasting``: no repetition helps, as with a certificate that cannot be checked.
    ``sent``: the request may have left this machine and taken effect. ``persists``: the answer reports a lasting state,
    such as a project over its quota; one repetition can help, more are useless.
    """

    def __init__(
        self,
        code: str,
        message: str,
        *,
        doubtful: bool = False,
        lasting: bool = False,
        sent: bool = True,
        persists: bool = False,
    ) -> None:
        super().__init__(code, message)
        self.retryable = not (lasting or persists)
        self.doubtful = doubtful
        self.lasting = lasting
        self.sent = sent
        self.persists = persists


class StoreMisconfigured(StoreError):
    """Supabase answers that it is set up wrongly. The chain does not fall back, because that would hide the error.

    ``settles``: the same call may succeed after PostgREST has read the tables again, so it is repeated once.
    """

    def __init__(self, code: str, message: str, *, settles: bool = False) -> None:
        super().__init__(code, message)
        self.settles = settles

    @property
    def is_function_missing(self) -> bool:
        """Whether the database lacks the called function, as an older schema does."""
        return self.code == "store-function-missing"


class TokenError(KisTokenError):
    """A token or a sealed value that exists and cannot be used."""


class TokenUnusable(TokenError):
    """A stored value that is no usable token. The next issued token replaces it."""

    def __init__(self, message: str) -> None:
        super().__init__("token-unusable", message)


class IssuerError(KisTokenError):
    """The base class: KIS gave no token, or no answer."""


class IssuerRefused(IssuerError):
    """KIS does not accept the app key or secret.

    The message is built from ``kis_code``, one of ``KIS_REFUSALS``, and three texts: ``whose`` is the place of the
    keys, ``to`` names another caller that got the refusal a moment ago, and ``remark`` describes the keys.
    """

    def __init__(self, kis_code: str, to: str = "", whose: str = "", remark: str = "") -> None:
        code, message = KIS_REFUSALS[kis_code]
        super().__init__(code, f"{message}{whose} ({kis_code}{to}){remark}")
        self.kis_code = kis_code


class IssuerRateLimited(IssuerError):
    """EGW00133: KIS issued a token for this app key within the last minute."""

    retryable = True


class IssuerOutage(IssuerError):
    """KIS does not answer, or not as documented. ``sent`` and ``lasting`` are as for StoreOutage."""

    def __init__(self, code: str, message: str, *, sent: bool, lasting: bool = False) -> None:
        super().__init__(code, message)
        self.retryable = not lasting
        self.lasting = lasting
        self.sent = sent


class IssuanceError(KisTokenError):
    """The base class: this caller cannot issue now."""

    def __init__(self, code: str, message: str, *, retryable: bool) -> None:
        super().__init__(code, message)
        self.retryable = retryable


class AppKeyChanged(IssuanceError):
    """The slot's app key was changed after the caller read it: the caller must read the slot again."""


class TokenRefreshLimitError(IssuanceError):
    """The token was issued less than 23 hours ago, and KIS allows one token a day.

    Code written for the guide raises it with a text alone.
    """

    def __init__(self, code: str, message: str | None = None, *, retryable: bool = False) -> None:
        if message is None:
            code, message = "token-too-young", code
        super().__init__(code, message, retryable=retryable)


class CacheError(KisTokenError):
    """The cache file cannot be written."""


class GitHubError(KisTokenError):
    """GitHub does not answer as documented, or refuses the request. Raised for the list of callers alone."""


class EnvironmentFault(KisTokenError):
    """The machine lacks something that the program needs."""
