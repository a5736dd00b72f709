"""The rules of the KIS Open API: keys, the issue and validity of tokens, and the limits on calls.

This module does not depend on HTTP. With `Settings`, a test can change a rule that differs between customers of KIS, or
that is known only from reports of users. A test cannot change a rule that is not in `Settings`. All times are
timezone-aware, in UTC.
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
#: The two environments of KIS. Each environment has its own address, accounts and tokens.
ENVIRONMENTS: Final[tuple[Environment, ...]] = ("production", "paper")

#: For 6 hours after KIS issues a token, tokenP returns the same token again.
SAME_TOKEN = timedelta(hours=6)
#: KIS accepts one tokenP call a minute for each app key.
TOKEN_CALL_INTERVAL = timedelta(minutes=1)
#: KIS locks an app key that gets ``Settings.lockout_after`` errors EGW00133 within 30 minutes. KIS does not publish for
#: how long it counts the errors EGW00133.
LOCKOUT_WINDOW = timedelta(minutes=30)
#: KIS locks an app key for one day. KIS does not publish for how long it locks an app key. One client called tokenP
#: every 30 seconds, and KIS locked the app key of this client for a day.
LOCKOUT = timedelta(days=1)
#: The validity of a partner company's token, 90 days, the longest that KIS documents.
LONGEST_LIFE_SECONDS = 7_776_000

_RATE_WINDOW = timedelta(seconds=1)


class Clock(Protocol):
    """The source of the emulated time."""

    def now(self) -> datetime:
        """Return the present time, timezone-aware, in UTC."""


class RefusedError(Exception):
    """KIS refuses a call. ``code`` is KIS's error code. ``detail``, if given, replaces the usual text of the code."""

    def __init__(self, code: str, detail: str | None = None) -> None:
        super().__init__(code)
        self.code = code
        self.detail = detail


def _app_key() -> str:
    return "PS" + "".join(secrets.choice(string.ascii_letters + string.digits) for _ in range(34))


def _app_secret() -> str:
    # 134 bytes give 180 characters that end with one "=". Users often lose this "=" when they copy a secret.
    return base64.b64encode(secrets.token_bytes(134)).decode()


@dataclass(frozen=True, slots=True)
class Account:
    """A customer's account. Without a given value, the key (36 characters) or the secret (180 characters) is random."""

    app_key: str = field(default_factory=_app_key)
    app_secret: str = field(default_factory=_app_secret, repr=False)


@dataclass(frozen=True, slots=True)
class Settings:
    """The rules that a test can change: they differ between customers of KIS, or only reports of users describe them.

    Raises ValueError if a value is invalid.

    Attributes:
        expires_in: Validity of a new token in seconds. The token of a partner company is valid for 7776000 s (90 days).
            The token of a customer that is not a partner company is valid for 86400 s (24 hours).
        reissue_kills_previous: Whether a new token makes the previous token invalid (EGW00121).
        calls_per_second: The number of /uapi calls of one app key that KIS accepts in a second. If an app key makes
            more /uapi calls in a second, each additional call gets the error EGW00201.
        expired_status: HTTP status of the error EGW00123. Some users of KIS report the status 500 for EGW00123, and
            some report the status 200.
        lockout_after: After this number of errors EGW00133 within `LOCKOUT_WINDOW`, an app key is locked for `LOCKOUT`.
            If ``lockout_after`` is 0, an app key is never locked.
    """

    expires_in: int = 86400
    reissue_kills_previous: bool = False
    calls_per_second: int = 20
    expired_status: int = 500
    lockout_after: int = 20

    def __post_init__(self) -> None:
        for each in fields(self):
            # isinstance would accept a bool as an int. A client that sends JSON may send ``true`` instead of a number.
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
    """An issued token. ``issued_at`` and ``expires_at`` are whole seconds, as in the JWT and in KIS's answer."""

    value: str = field(repr=False)
    app_key: str
    issued_at: datetime
    expires_at: datetime

    @property
    def expires_in(self) -> int:
        """The token's whole validity in seconds. KIS returns the whole validity even for an older token."""
        return round((self.expires_at - self.issued_at).total_seconds())


@dataclass(frozen=True, slots=True)
class Issuances:
    """The number of tokenP calls that got a token (``accepted``), and of those that got a new token (``issues``).

    KIS sends the owner of a real account a KakaoTalk message for each new token.
    """

    accepted: int = 0
    issues: int = 0


@dataclass(slots=True)
class _Customer:
    """One account and its past calls."""

    account: Account
    token: IssuedToken | None = None
    next_token_call: datetime | None = None
    locked_until: datetime | None = None
    too_early: deque[datetime] = field(default_factory=deque)
    calls: deque[datetime] = field(default_factory=deque)


class KISRules:
    """One environment of KIS, real or paper. The class is thread-safe. A refused call raises `RefusedError`."""

    def __init__(self, accounts: Sequence[Account], clock: Clock, settings: Settings) -> None:
        self._clock = clock
        self._settings = settings
        self._customers = {account.app_key: _Customer(account) for account in accounts}
        self._tokens: dict[str, IssuedToken] = {}
        self._ended: dict[str, str] = {}  # token -> the error code that KIS returns for this token
        self._issuances = Issuances()
        self._signing_key = secrets.token_bytes(64)
        self._lock = threading.Lock()

    @property
    def settings(self) -> Settings:
        """The present settings."""
        return self._settings

    @settings.setter
    def settings(self, settings: Settings) -> None:
        with self._lock:
            self._settings = settings

    @property
    def issuances(self) -> Issuances:
        """The counts of all past calls, over all accounts."""
        with self._lock:
            return self._issuances

    def issue(self, app_key: str, app_secret: str) -> IssuedToken:
        """Return a token for the account.

        Within 6 hours of an issue, the account gets the same token again, even if that token is no longer valid. Raises
        EGW00103 (unknown or locked key), EGW00105 (wrong secret) or EGW00133 (second call within a minute).
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
        """Make a token invalid.

        Raises EGW00103 (unknown or locked key), EGW00105 (wrong secret) or EGW00121 (token of another key).
        """
        with self._lock:
            self._check_secret(self._customer(app_key), app_secret)
            self._token_of(app_key, token)
            self._ended[token] = "EGW00121"

    def approve(self, app_key: str, app_secret: str) -> str:
        """Return a new key for a WebSocket session.

        Raises EGW00103 (unknown or locked key) or EGW00105 (wrong secret).
        """
        with self._lock:
            self._check_secret(self._customer(app_key), app_secret)
            return str(uuid.uuid4())

    def admit(self, app_key: str, app_secret: str, token: str) -> None:
        """Accept a call of a path below /uapi, or raise `RefusedError` with one of these codes.

        - EGW00121: the token was never issued to this app key, was revoked, or became invalid because of a newer token
          or a test.
        - EGW00123: the token has expired.
        - EGW00304: the secret is wrong.
        - EGW00201: KIS has accepted ``Settings.calls_per_second`` calls in the last second.
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
        """Whether this KIS environment (real or paper) issued the token."""
        return token in self._tokens

    def owns_key(self, app_key: str) -> bool:
        """Whether the app key belongs to this KIS environment (real or paper)."""
        return app_key in self._customers

    def end_token(self, token: str, code: str) -> None:
        """From now on, reject this token with the error ``code``, as if KIS had made the token invalid."""
        with self._lock:
            self._ended[token] = code

    def end_tokens(self, app_key: str, code: str) -> None:
        """From now on, reject all existing tokens of the app key. The error is ``code``."""
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
            "aud": str(uuid.uuid4()),  # two tokens that are issued in the same second must differ
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
