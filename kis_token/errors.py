"""What can go wrong, drawn as a tree::

    KisTokenError
    ├── SettingsError           inputs or variables that make no sense; all of them at once
    ├── StoreError
    │   ├── StoreOutage         Supabase does not answer, or not sensibly: the chain falls back
    │   └── StoreMisconfigured  Supabase answers that something is not set up: nothing falls back
    ├── TokenError              a token or a sealed value that is there and cannot be used
    │   └── TokenUnusable       it holds no token that can be used: the next issue replaces it
    ├── IssuerError
    │   ├── IssuerRefused       KIS says no for good: never tried again
    │   ├── IssuerRateLimited   KIS says not now: waited for, once
    │   └── IssuerOutage        KIS does not answer, or not sensibly
    ├── IssuanceError           no turn to issue: two slots with one key, or the wait is longer than the caller has
    │   ├── AppKeyChanged       the slot's key was changed: it is read again
    │   └── TokenRefreshLimitError  the token is younger than 23 h: another is only to be had by force
    ├── CacheError              the cache file cannot be written
    ├── GitHubError             GitHub does not answer a question of kis-token trust or check, or refuses it
    └── EnvironmentFault        the machine lacks something: Python, pip, a file to write to

No text here ever holds a secret or a part of an answer's body.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

_KEYS_HINT = (
    "Compare key and secret with the KIS developers' site: real and paper accounts have keys of their own "
    "(input environment), and a secret that was cut at the end or lost a '=' is refused too."
)
_TRUST_HINT = (
    "If this machine's connections are inspected, let SSL_CERT_FILE or REQUESTS_CA_BUNDLE name the file that holds the "
    "inspecting company's certificate. A variable that the message names has to be corrected or removed."
)
_MIGRATE_HINT = "Run the files of sql/ in the SQL editor of the Supabase project, in the order of their names."

#: Every code with what to do about it. docs/troubleshooting.md has an entry for each.
REMEDIES: dict[str, str] = {
    # settings
    "missing-supabase-url": "Set it to the project's URL, https://<project>.supabase.co.",
    "invalid-supabase-url": "Give the project's URL alone, https://<project>.supabase.co, without a path.",
    "missing-supabase-key": "Set it to the project's service_role or sb_secret_ key, from the project's API settings.",
    "invalid-supabase-key": (
        "Copy the key again: it is one line of ASCII without blanks. A reader's key is two: the public key, and a JWT."
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
    "missing-app-key": "Store rows app_key and app_secret for this service in Supabase, or give both as inputs.",
    "incomplete-app-key": "Give app-key and app-secret together, or neither.",
    "invalid-app-key": "Copy it again from the KIS developers' site: it is one line without blanks.",
    "invalid-app-secret": "Copy it again from the KIS developers' site: it is one line without blanks.",
    "swapped-app-key": (
        "Give each in its own place: KIS's app keys have 36 characters and begin with PS, its app secrets have 180. "
        "Stored ones are replaced by kis-token set-keys."
    ),
    "invalid-environment": "Use production or paper.",
    "invalid-mode": "Use resolve, rotate, force or check.",
    "invalid-duration": "Use numbers with s, m, h or d, such as 90s or 1h30m; min-validity may be 12h at the most.",
    "invalid-boolean": "Use true or false.",
    "invalid-service-name": "Use up to 63 letters, digits, '_', '.' and '-', a letter or digit first.",
    "invalid-base-url": (
        "Use https://host:port without a path, or leave it out for KIS's own hosts. "
        "Plain http is for 127.0.0.1 and localhost only."
    ),
    "invalid-on-store-outage": "Use issue or fail.",
    "invalid-token-files": (
        "Use kis-auth, python-kis, kis-trader and koreainvestment-cli, separated by commas or blanks. "
        "Other clients take the token from an output or from the variable KIS_ACCESS_TOKEN."
    ),
    "missing-hts-id": "Set the variable KIS_HTS_ID to the id that you give python-kis: it is part of its file's name.",
    "invalid-hts-id": "KIS_HTS_ID is the id of your HTS login: letters, digits, '@', '_', '.' and '-'.",
    "invalid-cache-path": "Give the path of a file, or off.",
    "invalid-encryption-key": "Each line is one key: 32 bytes in base64, as kis-token keygen makes them.",
    "missing-encryption-key": "Set it to a key that kis-token keygen has made, or to several, one a line.",
    # store
    "store-unreachable": (
        "The message says what was seen. If it stays so, look at the project in Supabase's dashboard, and at "
        "status.supabase.com."
    ),
    "store-restricted": (
        "Look at usage and billing of the organization in Supabase's dashboard: the restriction ends with the billing "
        "period, with a larger plan or with the bill paid. Until then only cached tokens can be used."
    ),
    "store-paused": "Restore the project in Supabase's dashboard. On the free plan a project without use is paused.",
    "store-database-read-only": (
        "Look at the database's size and disk in Supabase's dashboard: free space or enlarge the disk, then turn the "
        "read-only mode off. Stored tokens stay readable until they end."
    ),
    "store-tls": _TRUST_HINT,
    "store-redirects": (
        "Open supabase-url in a browser on this machine: log in where the network asks for it, and give the project's "
        "own address where that is another one."
    ),
    "store-not-supabase": "Copy the URL again from the project's API settings: https://<project>.supabase.co.",
    "store-key-rejected": "The key is not one of this project. Copy url and key from the same project.",
    "store-key-expired": "Make another key and set supabase-key to it. For a reader's key see docs/security.md.",
    "store-legacy-keys-disabled": (
        "Set supabase-key to an sb_secret_ key from the project's API settings, or turn the legacy keys on again "
        "there. The first part of a reader's key becomes the sb_publishable_ key."
    ),
    "store-permission-denied": "Use the service_role or sb_secret_ key; if it is one already: " + _MIGRATE_HINT,
    "store-read-only": "Let a job that has the service_role or sb_secret_ key renew the token, such as the rotation.",
    "store-table-missing": _MIGRATE_HINT,
    "store-column-missing": _MIGRATE_HINT,
    "store-function-missing": _MIGRATE_HINT,
    "store-function-ambiguous": (
        "Run the statements that the message names in the SQL editor of the Supabase project. " + _MIGRATE_HINT
    ),
    "store-schema-outdated": _MIGRATE_HINT + " Older releases of this action work with the newer tables.",
    "store-cannot-store": (
        "The message names what is in the way: a column, a constraint, a trigger. Change the table, then run kis-token "
        "check, which stores a token and takes it back."
    ),
    "store-value-too-large": "Somebody has put something else there. Store the right value again, or delete the row.",
    "store-rejected": "Supabase refused the request. Is this release newer than the tables? " + _MIGRATE_HINT,
    # tokens
    "token-unusable": "A new token replaces it at the next issue.",
    "token-of-another-key": (
        "The token was issued for another app key. Each account needs a service-name, and a cache-path, of its own. If "
        "the key was changed on purpose, run kis-token set-keys, which ends the old token."
    ),
    "token-of-another-environment": (
        "Real and paper tokens are not interchangeable. Give each environment a service-name of its own."
    ),
    "sealed-without-key": "The value is sealed. Give the encryption-key it was sealed with.",
    "plain-with-key": (
        "Run kis-token seal with the same encryption-key. If it was sealed before, find out first who replaced it."
    ),
    "seal-broken": "No given encryption-key opens the value, or it was cut or moved between rows.",
    # KIS
    "kis-key-refused": _KEYS_HINT + " Many calls in a short time can also lock a right key for a day.",
    "kis-secret-refused": _KEYS_HINT,
    "kis-keys-refused": _KEYS_HINT,
    "kis-rate-limited": (
        "KIS issues once a minute for an app key. While Supabase works, jobs share a token; else see who issues."
    ),
    "kis-unreachable": "Look at the notices of the KIS developers' site: the service has maintenance windows.",
    "kis-tls": _TRUST_HINT,
    "kis-answer-unusable": "KIS did not answer as it is documented to. Try again in some minutes.",
    # issuing
    "key-in-two-slots": "Use one service-name for one app key everywhere.",
    "app-key-changed": "Somebody is storing keys for this slot just now. Run again when that is done.",
    "token-repeated": (
        "For 6 hours after an issue KIS gives the same token, also when it has died. The message says until when."
    ),
    "token-too-young": "KIS issues one token a day. Use the one there is; if KIS refuses it, renew it by force.",
    "wait-too-long": "Another job is issuing, or KIS has to be left alone for a while. Run again, or raise timeout.",
    "timed-out": "Something did not answer. The last lines of the log say what was waited for; or raise timeout.",
    "no-valid-token": "mode: check never issues. Run once with mode: resolve.",
    # cache and machine
    "proxy-unusable": (
        "Set the variable to http://host:port, with user:password@ before the host where the proxy asks for them, or "
        "name the host in NO_PROXY where it can be reached without the proxy."
    ),
    "no-private-folder": (
        "Without Supabase, the jobs of a machine take turns by a lock in a private folder. Give this user a home or a "
        "temporary folder that no other user can write."
    ),
    "cache-unwritable": "Set cache-path to a file in a folder that this user may write, or to off.",
    "export-failed": (
        "The file must be this user's own and its folder writable. Clients are looked for below HOME, XDG_CACHE_HOME "
        "and KIS_CLI_HOME."
    ),
    "output-unwritable": "Run it as a step of a workflow; elsewhere use the command kis-token get.",
    "python-missing": "Install Python 3.10 or newer, or add a step with actions/setup-python before this one.",
    "pip-missing": "Install pip for this Python, or uv, or add a step with actions/setup-python before this one.",
    "runtime-failed": (
        "The message says what failed. Installing needs the package index, and a folder that no other user can change: "
        "RUNNER_TOOL_CACHE, the user's cache folder, RUNNER_TEMP or the system's temporary folder."
    ),
    "platform-unsupported": (
        "The message names the package and the Python. Choose another version of Python with actions/setup-python, or "
        "another runner."
    ),
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
    "sandbox-failed": "PostgreSQL has to start for the sandbox; the message has its own words.",
    "internal-error": "This is a defect of the action. Please report it with the line above.",
}


#: The codes with which KIS refuses for good to issue a token, and what they mean.
KIS_REFUSALS = {
    "EGW00103": ("kis-key-refused", "KIS does not know the app key"),
    "EGW00105": ("kis-secret-refused", "KIS does not accept the app secret"),
    "EGW00002": ("kis-keys-refused", "KIS does not accept key and secret"),
}


class KisTokenError(Exception):
    """Anything this project raises on purpose.

    Attributes:
        code: one of ``REMEDIES``; it stays the same between releases.
        hint: what to do about it.
        retryable: the same call may succeed later without anybody changing anything.
        warnings: for people, gathered on the way to the error.
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
        """Add to ``warnings`` those that it has not yet."""
        self.warnings = tuple(dict.fromkeys((*self.warnings, *warnings)))


class SettingsError(KisTokenError):
    """Inputs or variables that make no sense. ``faults`` holds one error for each, and at least one."""

    def __init__(self, faults: list[tuple[str, str]], warnings: Iterable[str] = ()) -> None:
        super().__init__(faults[0][0], faults[0][1])
        self.warn(warnings)
        self.faults = [KisTokenError(code, message) for code, message in faults]


class StoreError(KisTokenError):
    """Supabase did not do what was asked."""


class StoreOutage(StoreError):
    """Supabase does not answer, or not as Supabase: the next link of the chain is asked.

    ``doubtful``: the cause may be this machine's own, such as a proxy, or a gateway works and has refused the request;
    then nobody issues alone. ``lasting``: no repetition helps, as with a certificate that cannot be checked. ``sent``:
    the request may have left and taken effect. ``persists``: the answer reports a lasting state, such as a project over
    its quota; one more try shows whether it was a hiccup, and further ones are useless.
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
    """Supabase answers that something is not set up. The next link is not asked: that would hide it.

    ``settles`` says that the same call may succeed once PostgREST has read the tables anew: it is repeated once.
    """

    def __init__(self, code: str, message: str, *, settles: bool = False) -> None:
        super().__init__(code, message)
        self.settles = settles

    @property
    def is_function_missing(self) -> bool:
        """Whether the database lacks the function that was called, as one with older tables does."""
        return self.code == "store-function-missing"


class TokenError(KisTokenError):
    """A token or a sealed value that is there and cannot be used."""


class TokenUnusable(TokenError):
    """A stored value that holds no token that can be used. The next issue replaces it."""

    def __init__(self, message: str) -> None:
        super().__init__("token-unusable", message)


class IssuerError(KisTokenError):
    """KIS did not do what was asked: it gave no token, or no answer."""


class IssuerRefused(IssuerError):
    """KIS says no for good, to this caller or a moment ago ``to`` another. ``kis_code`` is one of ``KIS_REFUSALS``.

    ``whose`` says where the keys come from, ``remark`` what is to be seen in them.
    """

    def __init__(self, kis_code: str, to: str = "", whose: str = "", remark: str = "") -> None:
        code, message = KIS_REFUSALS[kis_code]
        super().__init__(code, f"{message}{whose} ({kis_code}{to}){remark}")
        self.kis_code = kis_code


class IssuerRateLimited(IssuerError):
    """EGW00133: somebody was issued a token within the last minute."""

    retryable = True


class IssuerOutage(IssuerError):
    """KIS does not answer, or not sensibly. ``sent`` and ``lasting`` are as for StoreOutage."""

    def __init__(self, code: str, message: str, *, sent: bool, lasting: bool = False) -> None:
        super().__init__(code, message)
        self.retryable = not lasting
        self.lasting = lasting
        self.sent = sent


class IssuanceError(KisTokenError):
    """No turn to issue."""

    def __init__(self, code: str, message: str, *, retryable: bool) -> None:
        super().__init__(code, message)
        self.retryable = retryable


class AppKeyChanged(IssuanceError):
    """The slot has another app key than the one a moment ago: it has to be read again."""


class TokenRefreshLimitError(IssuanceError):
    """The token was issued less than 23 hours ago, and one a day is what KIS allows.

    Code of the guide's kind raises it with a text alone.
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
    """The machine lacks something this needs."""
