"""KISClient: calls the KIS Open API with the shared token, and survives that token's end.

That KIS refuses a token stands in the answer's body, at any HTTP status: EGW00121, EGW00122 or EGW00123. Then the
store is read again, since somebody else may have renewed the token; only if the refused one is still there is KIS asked
for another, once for all threads and machines. Before its end the token is renewed by the request that finds too little
life left in it; there is no thread.

Warnings and waits go to the logger ``kis_token``.
"""

from __future__ import annotations

import logging
import os
import threading
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from kis_token.clock import SystemClock
from kis_token.config import Settings
from kis_token.errors import IssuanceError, KisTokenError, TokenRefreshLimitError
from kis_token.kis import TOKEN_CODES, TOO_MANY_CALLS, Credentials, KISIssuer, call, open_session, refusal
from kis_token.token import AppKey, State, Token, in_both_zones
from kis_token.wiring import open_resolver

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from contextlib import AbstractContextManager
    from datetime import datetime

    from typing_extensions import Self

    from kis_token.clock import Clock
    from kis_token.kis import Response
    from kis_token.lookup import Resolution
    from kis_token.resolver import Resolver

_LOG = logging.getLogger("kis_token")

#: The time for one answer, in seconds, waits for KIS's rate limit included.
CALL_SECONDS = 10.0

#: KIS issues one token a day; an hour less, as the guide has it.
REFRESH_AFTER = timedelta(hours=23)

#: After so many seconds the renewal of a token that is near its end is tried again.
RENEW_AGAIN = 30.0

#: After so many seconds it is tried again to store a token that only this machine has.
SHARE_AGAIN = 300.0

#: Pauses in seconds, before jitter, after more calls than KIS allows in a second.
_PAUSES = (0.5, 1.0, 2.0, 4.0)

#: Methods that change nothing. All else may be an order.
_HARMLESS = {"GET", "HEAD"}


@dataclass(frozen=True, slots=True)
class _Held:
    """The token in use, and whose it is.

    ``replaces`` is the fingerprint of the refused token whose place it took, ``skew`` how far the store's clock is
    ahead, ``renew_again`` the counter's reading from which on the store may be asked again.
    """

    token: Token
    app_key: AppKey
    replaces: str | None
    skew: timedelta
    renew_again: float

    @property
    def is_shared(self) -> bool:
        """Whether the store has it, and not only this machine, as after an outage."""
        return self.token.version is not None


@dataclass(frozen=True, slots=True)
class _Call:
    """One call of the API, whatever token it is sent with."""

    method: str
    path: str
    seconds: float
    headers: dict[str, str] = field(repr=False)
    params: Mapping[str, Any] | None = field(repr=False)
    json: Mapping[str, Any] | None = field(repr=False)


class KISClient:
    """A client of one KIS account. Threads may share it; use it as a context manager, or close it.

    Without ``settings``, those of the environment: the variables of the README and ``KIS_ACCOUNT_NO``. Nothing is asked
    of anybody before the first use. Raises SettingsError.

    Attributes:
        base_url: KIS's host.
        environment: production or paper.
        account_no: ``KIS_ACCOUNT_NO`` as it was given; None when it was not.
    """

    def __init__(self, settings: Settings | None = None, *, clock: Clock | None = None) -> None:
        settings = settings or Settings.from_env(os.environ)
        # Where no other can be had, a token that has just ended is tried: KIS accepts such now and then.
        self._settings = replace(settings, mode="resolve", allow_expired=True)
        self._clock = clock or SystemClock()
        self.base_url = settings.base_url
        self.environment = settings.environment
        self.account_no = settings.account_no
        self._session = open_session(settings.base_url)
        self._app_key: AppKey | None = None
        self._held: _Held | None = None
        self._lock = threading.Lock()
        self._failures: list[KisTokenError] = []

    @classmethod
    def from_env(cls, env: Mapping[str, str] | None = None) -> Self:
        """The client for these variables; for those of os.environ when there are none. Raises SettingsError."""
        return cls(Settings.from_env(os.environ if env is None else env))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.base_url!r}, {self._settings.service_name!r})"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections. The next request opens them again."""
        self._session.close()

    @property
    def app_key(self) -> str:
        """The account's app key: the stored one, else that of the environment. Raises KisTokenError."""
        return self._require_app_key().key

    @property
    def app_secret(self) -> str:
        """The account's app secret. Raises KisTokenError."""
        return self._require_app_key().secret

    @property
    def access_token(self) -> str:
        """A token to use now. Raises KisTokenError."""
        return self._ready().token.value

    @property
    def token_expires_at(self) -> datetime:
        """When that token ends, in UTC. Raises KisTokenError."""
        return self._ready().token.expires_at

    @property
    def token_issued_at(self) -> datetime:
        """When KIS issued that token, in UTC. Raises KisTokenError."""
        return self._ready().token.issued_at

    def request(
        self,
        method: str,
        path: str,
        *,
        tr_id: str,
        params: Mapping[str, Any] | None = None,
        json: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
        timeout: float = CALL_SECONDS,
    ) -> Response:
        """Call the API; KIS's answer at any HTTP status, a refusal included.

        ``path`` begins with a slash. authorization, appkey, appsecret, tr_id and custtype (P) are filled in; of these
        ``headers`` may change custtype alone. ``timeout`` is for the answer, in seconds; a token that has to be renewed
        takes its own time, at most the settings' timeout.

        A refused token is replaced and the call sent again, once. A GET that comes too soon after others (EGW00201) is
        sent again after a pause, a few times. Anything else may be an order and is never sent again, unless KIS refused
        it for its token, and so did not execute it.

        Raises IssuerOutage when KIS does not answer: its ``sent`` says whether an order may have been executed. Raises
        KisTokenError when there is no token; ``token-repeated`` when KIS gives the refused one again, with until when.
        """
        if not path.startswith("/"):
            raise ValueError("path has to begin with a slash")  # else it could become a part of the host's name
        given = {name.lower(): value for name, value in (headers or {}).items()}
        fixed = {"content-type": "application/json; charset=utf-8", "custtype": "P", **given, "tr_id": tr_id}
        what = _Call(method.upper(), path, timeout, fixed, params, json)
        held = self._ready()
        answer = self._send(what, held)
        if refusal(answer) in TOKEN_CODES:
            answer = self._send(what, self._replace(held))
        return answer

    def refresh_token(self, *, force: bool = False) -> None:
        """Have a new token issued for everybody, unless somebody has done so already.

        Raises TokenRefreshLimitError for a token that is less than 23 h old, unless ``force`` is given: then it is
        renewed all the same, which messages the account's owner; for 6 hours after an issue KIS gives the same one.
        """
        held = self._ready()
        if not force:
            self._check_age(held)
        settings = replace(self._settings, mode="force" if force else "rotate", refresh_after=REFRESH_AFTER)
        self._once(held, lambda: self._resolve(settings))

    def approval_key(self) -> str:
        """A key for opening WebSocket sessions, for 24 hours. Needs no token. Raises KisTokenError."""
        return KISIssuer(self.base_url, self.environment).approval_key(self._require_app_key())

    def _send(self, what: _Call, held: _Held) -> Response:
        """The answer to a call with this token, when KIS's rate limit has let it pass."""
        deadline = self._clock.monotonic() + what.seconds
        pauses = iter(_PAUSES if what.method in _HARMLESS else ())
        while True:
            answer = self._exchange(what, held, deadline - self._clock.monotonic())
            if refusal(answer) != TOO_MANY_CALLS:
                return answer
            pause = next(pauses, None)
            pause = None if pause is None else self._clock.jitter(0.5 * pause, 1.5 * pause)
            if pause is None or self._clock.monotonic() + pause >= deadline:
                return answer
            self._clock.sleep(pause)

    def _exchange(self, what: _Call, held: _Held, seconds: float) -> Response:
        arguments = {"params": what.params, "json": what.json, "headers": what.headers}
        url, auth = self.base_url + what.path, Credentials(held.token, held.app_key)
        if what.method in _HARMLESS:
            return call(self._session, what.method, url, seconds, auth=auth, **arguments)
        # On a connection of its own: KIS may just have closed one that was kept, and nobody could tell whether it had
        # taken the order.
        with open_session(url) as session:
            return call(session, what.method, url, seconds, auth=auth, **arguments)

    def _ready(self) -> _Held:
        """The token to use now, renewed when its time comes."""
        held = self._held
        if held is None:
            return self._once(None, lambda: self._resolve(self._settings))
        now = self._clock.now() + held.skew
        is_good = held.is_shared and held.token.state(now, self._settings.min_validity) is State.FRESH
        if is_good or self._clock.monotonic() < held.renew_again:
            return held
        lives = held.token.lives(now)
        # Of the threads that find a stale token one renews it; the others go on with it meanwhile.
        return self._once(held, lambda: self._renew(held, lives=lives), waits=not lives)

    def _renew(self, held: _Held, *, lives: bool) -> _Held:
        try:
            return self._resolve(self._settings, held.replaces)
        except KisTokenError as error:
            if not lives:
                raise
            _LOG.warning("The token was not renewed: %s. %s", error, error.hint)
            return replace(held, renew_again=self._later(RENEW_AGAIN))

    def _replace(self, refused: _Held) -> _Held:
        """Another token than the one that KIS has refused: somebody else's, or a new one."""

        def refresh() -> _Held:
            try:
                return self._refresh(refused, force=False)
            except TokenRefreshLimitError as limit:
                _LOG.warning("KIS refuses the token. %s: it is renewed by force.", limit.args[0])
                return self._refresh(refused, force=True)

        return self._once(refused, refresh)

    def _refresh(self, refused: _Held, *, force: bool) -> _Held:
        with self._open(self._settings) as resolver:
            view = resolver.look(refused.token.token_id)
            if not force and view.answer(self._settings.min_validity) is None:
                self._check_age(refused)
            return self._hold(resolver.resolve(view), refused.token.token_id)

    def _check_age(self, held: _Held) -> None:
        if self._clock.now() + held.skew - held.token.issued_at < REFRESH_AFTER:
            message = f"The token was issued less than 23 h ago, at {in_both_zones(held.token.issued_at)}"
            raise TokenRefreshLimitError("token-too-young", message, retryable=False)

    def _once(self, known: _Held | None, renew: Callable[[], _Held], *, waits: bool = True) -> _Held:
        """Another than ``known``, by one renewal for all threads that ask meanwhile; its error is theirs as well.

        Who does not wait goes on with ``known`` while another is at it.
        """
        failures = self._failures
        if waits or known is None:
            self._lock.acquire()
        elif not self._lock.acquire(blocking=False):
            return known
        try:
            if self._held is not None and self._held is not known:
                return self._held
            if self._failures is not failures:
                raise self._failures[-1]
            try:
                self._held = renew()
            except KisTokenError as error:
                self._failures = [error]
                raise
            return self._held
        finally:
            self._lock.release()

    def _resolve(self, settings: Settings, refused_id: str | None = None) -> _Held:
        with self._open(settings) as resolver:
            return self._hold(resolver.resolve(resolver.look(refused_id)), refused_id)

    def _hold(self, resolution: Resolution, replaces: str | None) -> _Held:
        for warning in resolution.warnings:
            _LOG.warning("%s", warning)
        token, app_key = resolution.token, self._remember(resolution.app_key)
        is_fresh = token.state(resolution.now, self._settings.min_validity) is State.FRESH
        held = _Held(token, app_key, replaces, resolution.now - self._clock.now(), self._clock.monotonic())
        if is_fresh and held.is_shared:
            return held
        return replace(held, renew_again=self._later(SHARE_AGAIN if is_fresh else RENEW_AGAIN))

    def _require_app_key(self) -> AppKey:
        if self._app_key is not None:
            return self._app_key
        with self._open(self._settings) as resolver:
            return self._remember(resolver.look().app_key)

    def _remember(self, app_key: AppKey | None) -> AppKey:
        """Keep what was read: when Supabase is out, keys that are only stored there are not to be had."""
        app_key = app_key or self._app_key
        if app_key is None:
            message = f"KIS cannot be called: {self._settings.service_name} has no app key"
            raise IssuanceError("missing-app-key", message, retryable=False)
        self._app_key = app_key
        self._settings = replace(self._settings, app_key=app_key.key, app_secret=app_key.secret)
        return app_key

    def _open(self, settings: Settings) -> AbstractContextManager[Resolver]:
        return open_resolver(settings, self._clock.monotonic(), _LOG.info, self._clock)

    def _later(self, seconds: float) -> float:
        return self._clock.monotonic() + self._clock.jitter(0.5 * seconds, 1.5 * seconds)
