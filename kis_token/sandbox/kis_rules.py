"""The rules of the KIS Open API: whose keys are right, when a token is issued, how long it lives, how often to ask.

Knows no HTTP. What KIS documents is followed; what has only been observed or is contradictory can be set (`Settings`).
All times are timezone-aware UTC.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import secrets
import string
import threading
import uuid
from collections import deque
from dataclasses import dataclass, field, fields, replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Final, Literal, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence

Environment = Literal["production", "paper"]
#: The two environments of KIS, each with its own address, accounts and tokens.
ENVIRONMENTS: Final[tuple[Environment, ...]] = ("production", "paper")

#: Asked again within this time after an issue, KIS answers with the same token.
SAME_TOKEN = timedelta(hours=6)
#: One tokenP call per app key is accepted in this time.
TOKEN_CALL_INTERVAL = timedelta(minutes=1)
#: ``Settings.lockout_after`` refusals for coming too early, all within this time, lock the app key ...
LOCKOUT_WINDOW = timedelta(minutes=30)
#: ... for this long. KIS publishes neither number: a client that called every 30 s was locked out for a day.
LOCKOUT = timedelta(days=1)
#: The life of a partner company's token, 90 days: KIS documents none that is longer.
LONGEST_LIFE_SECONDS = 7_776_000

_RATE_WINDOW = timedelta(seconds=1)


class Clock(Protocol):
    """Tells the time."""

    def now(self) -> datetime:
        """The time now, timezone-aware UTC."""


class RefusedError(Exception):
    """KIS refuses a call. ``code`` is its error code; ``detail``, when there is one, replaces the code's usual text."""

    def __init__(self, code: str, detail: str | None = None) -> None:
        super().__init__(code)
        self.code = code
        self.detail = detail


def _app_key() -> str:
    return "PS" + "".join(secrets.choice(string.ascii_letters + string.digits) for _ in range(34))


def _app_secret() -> str:
    # 134 bytes make 180 characters with one "=" at the end, the character that gets lost when secrets are copied.
    return base64.b64encode(secrets.token_bytes(134)).decode()


@dataclass(frozen=True, slots=True)
class Account:
    """What KIS hands to a customer. Made up in KIS's form (36 and 180 characters) where it is not given."""

    app_key: str = field(default_factory=_app_key)
    app_secret: str = field(default_factory=_app_secret, repr=False)


@dataclass(frozen=True, slots=True)
class Settings:
    """What differs between customers of KIS, or what reports about KIS disagree on. Raises ValueError on nonsense.

    Attributes:
        expires_in: Life of a new token in seconds. 86400 at KIS, 7776000 for partner companies; shorter ones for tests.
        reissue_kills_previous: Whether a new token makes the one before it invalid (EGW00121).
        calls_per_second: How many /uapi calls of one app key are answered in any second; more are EGW00201.
        expired_status: HTTP status of EGW00123. Both 500 and 200 have been seen.
        lockout_after: How many EGW00133 within `LOCKOUT_WINDOW` lock an app key for as long as `LOCKOUT`; 0: never.
    """

    expires_in: int = 86400
    reissue_kills_previous: bool = False
    calls_per_second: int = 20
    expired_status: int = 500
    lockout_after: int = 20

    def __post_init__(self) -> None:
        for each in fields(self):
            # A bool is an int to isinstance, and JSON callers mix them up.
            if type(getattr(self, each.name)) is not type(each.default):
                raise ValueError(f"{each.name} must be of type {type(each.default).__name__}")
        if not 1 <= self.expires_in <= LONGEST_LIFE_SECONDS:
            raise ValueError(f"expires_in must be from 1 to {LONGEST_LIFE_SECONDS}")
        if self.calls_per_second < 1 or self.lockout_after < 0:
            raise ValueError("calls_per_second must be at least 1, lockout_after at least 0")
        if self.expired_status not in (200, 500):
            raise ValueError("expired_status must be 200 or 500")


@dataclass(frozen=True, slots=True)
class IssuedToken:
    """A token as it was issued. Both times are whole seconds, as the JWT and the answer can say no more."""

    value: str = field(repr=False)
    app_key: str
    issued_at: datetime
    expires_at: datetime

    @property
    def expires_in(self) -> int:
        """The whole life of the token in seconds, whatever is left of it: KIS says the same for an older token."""
        return round((self.expires_at - self.issued_at).total_seconds())


@dataclass(frozen=True, slots=True)
class Issuances:
    """How often a token was handed out (``accepted``), and how often it was a new one (``issues``).

    Each issue on a real account is a KakaoTalk message to its owner.
    """

    accepted: int = 0
    issues: int = 0


@dataclass(slots=True)
class _Customer:
    """One account and what it has done so far."""

    account: Account
    token: IssuedToken | None = None
    next_token_call: datetime | None = None
    locked_until: datetime | None = None
    too_early: deque[datetime] = field(default_factory=deque)
    calls: deque[datetime] = field(default_factory=deque)


class KISRules:
    """One environment of KIS: real or paper. Thread-safe; every refusal is a `RefusedError`."""

    def __init__(self, accounts: Sequence[Account], clock: Clock, settings: Settings) -> None:
        self._clock = clock
        self._settings = settings
        self._customers = {account.app_key: _Customer(account) for account in accounts}
        self._tokens: dict[str, IssuedToken] = {}
        self._ended: dict[str, str] = {}  # token -> the code it is refused with before its time
        self._issuances = Issuances()
        self._signing_key = secrets.token_bytes(64)
        self._lock = threading.Lock()

    @property
    def settings(self) -> Settings:
        """The settings in force."""
        return self._settings

    @settings.setter
    def settings(self, settings: Settings) -> None:
        with self._lock:
            self._settings = settings

    @property
    def issuances(self) -> Issuances:
        """The counts so far, of all accounts together."""
        with self._lock:
            return self._issuances

    def issue(self, app_key: str, app_secret: str) -> IssuedToken:
        """A token for the account: within 6 hours of an issue the same one again, even when it has died meanwhile.

        Refuses with EGW00103 (unknown or locked key), EGW00105 (wrong secret) or EGW00133 (asked within a minute).
        """
        with self._lock:
            now = self._clock.now()
            customer = self._customer(app_key)
            if customer.locked_until is not None and now < customer.locked_until:
                raise RefusedError("EGW00103")
            self._check_secret(customer, app_secret)
            if customer.next_token_call is not None and now < customer.next_token_call:
                self._note_too_early(customer, now)
                raise RefusedError("EGW00133")
            customer.next_token_call = now + TOKEN_CALL_INTERVAL
            previous = customer.token
            if previous is not None and now < previous.issued_at + SAME_TOKEN:
                self._issuances = replace(self._issuances, accepted=self._issuances.accepted + 1)
                return previous
            if previous is not None and self._settings.reissue_kills_previous:
                self._ended[previous.value] = "EGW00121"
            customer.token = token = self._new_token(app_key, now)
            self._tokens[token.value] = token
            self._issuances = Issuances(self._issuances.accepted + 1, self._issuances.issues + 1)
            return token

    def revoke(self, app_key: str, app_secret: str, token: str) -> None:
        """Make a token invalid. Refuses wrong keys as `issue` does, and with EGW00121 a token that is not the key's."""
        with self._lock:
            self._check_secret(self._customer(app_key), app_secret)
            self._token_of(app_key, token)
            self._ended[token] = "EGW00121"

    def approve(self, app_key: str, app_secret: str) -> str:
        """A new key for opening a WebSocket session. Refuses wrong keys as `issue` does."""
        with self._lock:
            self._check_secret(self._customer(app_key), app_secret)
            return str(uuid.uuid4())

    def admit(self, app_key: str, app_secret: str, token: str) -> None:
        """Let an ordinary call pass, or refuse it.

        EGW00121: never issued to this app key, revoked or killed. EGW00123: expired. EGW00304: wrong secret.
        EGW00201: more calls in one second than the settings allow; refused calls are not counted.
        """
        with self._lock:
            now = self._clock.now()
            issued = self._token_of(app_key, token)
            if token in self._ended:
                raise RefusedError(self._ended[token])
            if now >= issued.expires_at:
                raise RefusedError("EGW00123")
            customer = self._customers[app_key]
            if app_secret != customer.account.app_secret:
                raise RefusedError("EGW00304")
            _forget_before(customer.calls, now - _RATE_WINDOW)
            if len(customer.calls) >= self._settings.calls_per_second:
                raise RefusedError("EGW00201")
            customer.calls.append(now)

    def owns_token(self, token: str) -> bool:
        """Whether this environment issued the token."""
        return token in self._tokens

    def owns_key(self, app_key: str) -> bool:
        """Whether the app key belongs to this environment."""
        return app_key in self._customers

    def end_token(self, token: str, code: str) -> None:
        """Answer ``code`` to this token from now on, as if KIS had ended it on its own."""
        with self._lock:
            self._ended[token] = code

    def end_tokens(self, app_key: str, code: str) -> None:
        """The same for every token that was issued to the app key so far."""
        with self._lock:
            self._ended.update({value: code for value, token in self._tokens.items() if token.app_key == app_key})

    def _customer(self, app_key: str) -> _Customer:
        customer = self._customers.get(app_key)
        if customer is None:
            raise RefusedError("EGW00103")
        return customer

    def _check_secret(self, customer: _Customer, app_secret: str) -> None:
        if app_secret != customer.account.app_secret:
            raise RefusedError("EGW00105")

    def _token_of(self, app_key: str, token: str) -> IssuedToken:
        issued = self._tokens.get(token)
        if issued is None or issued.app_key != app_key:
            raise RefusedError("EGW00121")
        return issued

    def _note_too_early(self, customer: _Customer, now: datetime) -> None:
        _forget_before(customer.too_early, now - LOCKOUT_WINDOW)
        customer.too_early.append(now)
        if 0 < self._settings.lockout_after <= len(customer.too_early):
            customer.locked_until = now + LOCKOUT

    def _new_token(self, app_key: str, now: datetime) -> IssuedToken:
        issued_at = now.replace(microsecond=0)
        expires_at = issued_at + timedelta(seconds=self._settings.expires_in)
        claims = {
            "sub": "token",
            "aud": str(uuid.uuid4()),  # two tokens of the same second must differ
            "iss": "unogw",
            "exp": int(expires_at.timestamp()),
            "iat": int(issued_at.timestamp()),
            "jti": app_key,
        }
        signed = f"{_base64url_json({'typ': 'JWT', 'alg': 'HS512'})}.{_base64url_json(claims)}"
        signature = hmac.new(self._signing_key, signed.encode(), hashlib.sha512).digest()
        return IssuedToken(f"{signed}.{_base64url(signature)}", app_key, issued_at, expires_at)


def _forget_before(times: deque[datetime], limit: datetime) -> None:
    while times and times[0] <= limit:
        times.popleft()


def _base64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _base64url_json(value: object) -> str:
    return _base64url(json.dumps(value, separators=(",", ":")).encode())
