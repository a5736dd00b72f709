"""The errors of this project, as a tree::

    KisTokenError
    ├── SettingsError           invalid inputs or variables; one error reports all of them
    ├── StoreError
    │   ├── StoreOutage         Supabase does not answer, or another program answers: the chain falls back
    │   └── StoreMisconfigured  Supabase answers that it is set up wrongly: the chain does not fall back
    ├── TokenError              a token or a sealed value that exists and cannot be used
    │   └── TokenUnusable       the stored value is not a usable token: the next issued token replaces the value
    ├── IssuerError
    │   ├── IssuerRefused       KIS does not accept the keys: the call is not repeated
    │   ├── IssuerRateLimited   KIS does not issue yet: the caller waits once
    │   └── IssuerOutage        KIS does not answer, or its answer is not as documented
    ├── IssuanceError           the caller cannot issue: two slots have one key, or the wait would take too long
    │   ├── AppKeyChanged       the slot's key was changed: the caller reads the slot again
    │   └── TokenRefreshLimitError  the token is younger than 23 h: only `force` renews it
    ├── CacheError              the cache file cannot be written
    ├── GitHubError             GitHub does not answer kis-token trust, check or init, or refuses their request
    └── EnvironmentFault        the machine lacks something: Python, pip, a file to write to

No error text contains a secret or a part of an answer's body.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

#: The page with an entry for each error code. A composite action cannot find out the name of its own repository, so
#: this address has the name that README.md uses.
ENTRIES = "https://github.com/org/kis-token-action/blob/v1/docs/troubleshooting.md"
#: The same page in Korean.
KOREAN_ENTRIES = ENTRIES.replace("/docs/", "/docs/ko/")

#: For each code with which KIS refuses keys: this project's error code and the message.
KIS_REFUSALS = {
    "EGW00103": ("kis-key-refused", "KIS does not know the app key"),
    "EGW00105": ("kis-secret-refused", "KIS does not accept the app secret"),
    "EGW00002": ("kis-keys-refused", "KIS does not accept key and secret"),
}


class KisTokenError(Exception):
    """The base class of all errors that this project raises on purpose.

    Attributes:
        code: a key of ``remedies.REMEDIES``. The code of an error stays the same in all releases.
        retryable: whether the same call may succeed later without a change by the user.
        warnings: the warnings for the user from the time before the error.
    """

    retryable = False
    warnings: tuple[str, ...] = ()

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        _ = self.hint  # an unknown code raises KeyError here, not later when the error is shown

    @property
    def hint(self) -> str:
        """The remedy for this error's code."""
        from kis_token.remedies import REMEDIES

        return REMEDIES[self.code]

    @property
    def entry(self) -> str:
        """The URL of the error code's entry in docs/troubleshooting.md."""
        return f"{ENTRIES}#{self.code}"

    @property
    def brief(self) -> str:
        """The message and the code, for use at the beginning or in the middle of a text."""
        return f"{self.args[0]} [{self.code}]"

    @property
    def advice(self) -> str:
        """The message, the code and the remedy."""
        return f"{self.brief}. {self.hint}"

    def __str__(self) -> str:
        """Return the message, the code, the remedy, and the URL of the error code's entry in the documents."""
        return f"{self.advice} {self.entry}"

    def warn(self, warnings: Iterable[str]) -> None:
        """Add ``warnings`` to ``self.warnings``, without duplicates."""
        self.warnings = tuple(dict.fromkeys((*self.warnings, *warnings)))


class SettingsError(KisTokenError):
    """Invalid inputs or variables. ``faults`` has one error for each invalid value, and is never empty."""

    def __init__(self, faults: list[tuple[str, str]], warnings: Iterable[str] = ()) -> None:
        super().__init__(faults[0][0], faults[0][1])
        self.warn(warnings)
        self.faults = [KisTokenError(code, message) for code, message in faults]

    def __str__(self) -> str:
        """Return all faults, with one fault a line."""
        return "\n".join(map(str, self.faults))


class StoreError(KisTokenError):
    """The base class of the errors of a request to Supabase."""


class StoreOutage(StoreError):
    """Supabase does not answer, or another program answers in its place: the chain continues with the next source.

    Attributes:
        doubtful: True if the cause of the outage may be on this machine (for example a proxy), or if Supabase's gateway
            works and has refused the request. If ``doubtful`` is true, no caller issues without Supabase.
        lasting: True if repeating the request does not help, for example if a certificate cannot be checked.
        sent: True if this machine may have sent the request, and the request may have taken effect.
        persists: True if the answer reports a state that lasts, such as a project over its quota. If ``persists`` is
            true, the request is repeated only for a second.
        refused: True if the called machine does not accept the connection, for example because no server runs on it.
            The caller gets this error without a wait.
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
        refused: bool = False,
    ) -> None:
        super().__init__(code, message)
        self.retryable = not (lasting or persists)
        self.doubtful = doubtful
        self.lasting = lasting
        self.sent = sent
        self.persists = persists
        self.refused = refused


class StoreMisconfigured(StoreError):
    """Supabase answers that it is set up wrongly. The chain does not fall back, so that a user sees the error.

    ``settles`` is True if the call may succeed after PostgREST has read the schema again. If ``settles`` is true, the
    store repeats the call once.
    """

    def __init__(self, code: str, message: str, *, settles: bool = False) -> None:
        super().__init__(code, message)
        self.settles = settles

    @property
    def is_function_missing(self) -> bool:
        """Whether the database lacks the called function. A database with an older schema can lack a function."""
        return self.code == "store-function-missing"


class TokenError(KisTokenError):
    """A token or a sealed value exists, but cannot be used."""


class TokenUnusable(TokenError):
    """A stored value that is not a usable token. The next issued token replaces the value."""

    def __init__(self, message: str) -> None:
        # If the cache is empty, each run raises this error. The `__init__` of KisTokenError is not called, because it
        # would load the module `remedies`, which takes time.
        Exception.__init__(self, message)
        self.code = "token-unusable"


class IssuerError(KisTokenError):
    """The base class of the errors of a call of KIS."""


class IssuerRefused(IssuerError):
    """KIS does not accept the app key or secret.

    ``kis_code`` is a key of ``KIS_REFUSALS``. The message has the text for ``kis_code`` and the other arguments.
    ``whose`` names the place from which the keys came, or KIS's host that refused the keys. If KIS refused the keys of
    another caller a moment ago, ``to`` names this other caller. ``remark`` describes the keys.
    """

    def __init__(self, kis_code: str, to: str = "", whose: str = "", remark: str = "") -> None:
        code, message = KIS_REFUSALS[kis_code]
        super().__init__(code, f"{message}{whose} ({kis_code}{to}){remark}")
        self.kis_code = kis_code


class IssuerRateLimited(IssuerError):
    """KIS answered EGW00133: tokenP was called for this app key within the last minute."""

    retryable = True


class IssuerOutage(IssuerError):
    """KIS does not answer, or its answer is not as documented. ``sent`` and ``lasting`` are as in StoreOutage."""

    def __init__(self, code: str, message: str, *, sent: bool, lasting: bool = False) -> None:
        super().__init__(code, message)
        self.retryable = not lasting
        self.lasting = lasting
        self.sent = sent


class IssuanceError(KisTokenError):
    """The base class of the errors that keep this caller from issuing now."""

    def __init__(self, code: str, message: str, *, retryable: bool) -> None:
        super().__init__(code, message)
        self.retryable = retryable


class AppKeyChanged(IssuanceError):
    """The slot's app key was changed after the caller read it: the caller must read the slot again."""


class TokenRefreshLimitError(IssuanceError):
    """The token was issued less than 23 hours ago, and KIS allows one token a day.

    A program that follows the guide (docs/migrating.md) calls this class with one argument: the message.
    """

    def __init__(self, code: str, message: str | None = None, *, retryable: bool = False) -> None:
        if message is None:
            code, message = "token-too-young", code
        super().__init__(code, message, retryable=retryable)


class CacheError(KisTokenError):
    """The cache file cannot be written."""


class GitHubError(KisTokenError):
    """GitHub does not answer as documented, or refuses a request of kis-token trust, check or init."""


class EnvironmentFault(KisTokenError):
    """The machine lacks something that the program needs."""
