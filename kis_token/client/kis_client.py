"""KISClient: calls the KIS Open API with the shared token, and renews or replaces the token when needed.

KIS reports a rejected token in the response body, with any HTTP status: EGW00121, EGW00122 or EGW00123. After a
rejection, the client reads the store again, because another caller may have renewed the token. If the store still has
the rejected token, one new token is issued, which all threads and machines then use. If the token expires soon, the
next request renews the token. The client starts no thread for renewals.

Warnings and waits are logged to the logger ``kis_token``.
"""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from kis_token.client.token_holder import TokenHolder
from kis_token.client.user_variables import user_variables
from kis_token.clock import SystemClock
from kis_token.config import Settings
from kis_token.kis.api import TOO_MANY_CALLS, KISIssuer, refusal, rejects_token
from kis_token.kis.session import USUAL_HEADERS, Credentials, Session, check_arguments, prepare

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from typing_extensions import Self

    from kis_token.client.token_holder import Held
    from kis_token.core.ports import Clock
    from kis_token.kis.session import Prepared, Response

#: The limit for one answer in seconds, including the waits for KIS's rate limit.
CALL_SECONDS = 10.0

#: The client pauses after KIS reports too many calls in a second. These are the lengths of the pauses, in seconds. The
#: client makes each pause longer or shorter by a random part, at most half of its length.
_PAUSES = (0.5, 1.0, 2.0, 4.0)

#: The HTTP methods that change nothing at KIS. A call with a method other than GET and HEAD may be an order to buy or
#: sell.
_HARMLESS = {"GET", "HEAD"}


@dataclass(frozen=True, slots=True)
class _Call:
    """One call of the API, without the token."""

    request: Prepared
    is_harmless: bool
    seconds: float


class KISClient:
    """A client of one KIS account. Use the client as a context manager, or call `close` at the end.

    Threads and forked processes may share a client. Each process has its own connections and renewals. A child process
    begins with its parent's token.

    Without ``settings``, the settings are read from the environment: the variables of the README and
    ``KIS_ACCOUNT_NO``. If the environment lacks the project's URL or key, the user's profile adds them, as for
    `get_token`. The constructor makes no request. Raises SettingsError.

    Attributes:
        base_url: KIS's host.
        environment: production or paper.
        account_no: ``KIS_ACCOUNT_NO`` unchanged; None if the variable is not set.
    """

    def __init__(self, settings: Settings | None = None, *, clock: Clock | None = None) -> None:
        settings = settings or Settings.from_env(user_variables())
        self._clock = clock or SystemClock()
        self._service_name = settings.service_name
        self.base_url = settings.base_url
        self.environment = settings.environment
        self.account_no = settings.account_no
        self._session = Session(settings.base_url)
        self._token_holder = TokenHolder(settings, self._clock)

    @classmethod
    def from_env(cls, env: Mapping[str, str] | None = None) -> Self:
        """Make the client from the variables of ``env`` or, without ``env``, as the constructor does.

        Raises SettingsError.
        """
        return cls(Settings.from_env(user_variables() if env is None else env))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.base_url!r}, {self._service_name!r})"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close this process's connections. The next request opens new connections."""
        self._session.close()

    @property
    def app_key(self) -> str:
        """The account's app key, from the store or, if the store has none, from the settings. Raises KisTokenError."""
        return self._token_holder.app_key().key

    @property
    def app_secret(self) -> str:
        """The account's app secret. Raises KisTokenError."""
        return self._token_holder.app_key().secret

    @property
    def access_token(self) -> str:
        """A usable token. Raises KisTokenError."""
        return self._token_holder.ready().token.value

    @property
    def token_expires_at(self) -> datetime:
        """The expiry time of the token that `access_token` returns, in UTC. Raises KisTokenError."""
        return self._token_holder.ready().token.expires_at

    @property
    def token_issued_at(self) -> datetime:
        """The time when KIS issued the token that `access_token` returns, in UTC. Raises KisTokenError."""
        return self._token_holder.ready().token.issued_at

    def request(
        self,
        method: str,
        path: str,
        _retry: bool = True,  # noqa: FBT001, FBT002 - the guide's signature
        *,
        tr_id: str | None = None,
        params: Mapping[str, Any] | None = None,
        json: Mapping[str, Any] | None = None,
        data: str | bytes | None = None,
        headers: Mapping[str, str] | None = None,
        timeout: float = CALL_SECONDS,
    ) -> Response:
        """Call the API, and return KIS's answer with any HTTP status, even an error.

        ``path`` begins with one slash and may end with a query. A path with ``//``, ``@``, ``#``, a backslash or a
        blank raises ValueError. ``tr_id`` can also be given as a header. The client adds the headers authorization,
        appkey, appsecret, tr_id and custtype (P); ``headers`` may replace only custtype. The body is ``json``, or
        ``data`` unchanged. ``timeout`` is the limit for the answer, in seconds. A renewal of the token can take
        additional time, at most the settings' timeout.

        If KIS rejects the token, the client replaces the token and sends the call again, once. If ``_retry`` is false,
        the call is not sent again. If KIS reports too many calls (EGW00201), the client sends a GET or HEAD again after
        a pause, a few times. A call with a method other than GET and HEAD may be an order to buy or sell. If a
        call may be an order, the client repeats the call only after KIS rejects the token, because KIS does not execute
        a call with a rejected token.

        Raises IssuerOutage if KIS does not answer. The attribute ``sent`` of IssuerOutage is True if KIS may have
        executed an order. After ``timeout``, the client sends nothing more. Raises KisTokenError if there is no token.
        If KIS gives the rejected token again, the error's code is ``token-repeated``, and its message has the time
        until which KIS gives this token. Raises ValueError or TypeError for invalid arguments, before anything is sent.
        """
        headers = {} if headers is None else headers
        check_arguments(method, path, headers if tr_id is None else {**headers, "tr_id": tr_id}, params, timeout)
        given = {name.lower(): value for name, value in headers.items()}
        if tr_id is None and "tr_id" not in given:
            raise TypeError("tr_id is missing: pass it as an argument or among the headers")
        fixed = {**USUAL_HEADERS, **given}
        fixed |= {} if tr_id is None else {"tr_id": tr_id}
        method = method.upper()
        request = prepare(method, self.base_url + path, fixed, params=params, json=json, data=data)
        call = _Call(request, method in _HARMLESS, timeout)
        held = self._token_holder.ready()
        answer = self._send(call, held)
        if _retry and rejects_token(answer.content):
            answer = self._send(call, self._token_holder.replace(held))
        return answer

    def refresh_token(self, *, force: bool = False) -> None:
        """Issue a new token for all callers. If another caller has just issued a token, use that token.

        If the token is less than 23 h old, raises TokenRefreshLimitError. With ``force``, a token of any age is
        renewed, and KIS sends the account's owner a message. For 6 hours after an issue, KIS gives the same token
        again.
        """
        self._token_holder.refresh(force=force)

    def approval_key(self) -> str:
        """Return a key for opening WebSocket sessions, valid for 24 hours. Needs no token. Raises KisTokenError."""
        return KISIssuer(self.base_url, self.environment).approval_key(self._token_holder.app_key())

    # The methods `_ensure_token`, `_refresh_token` and `_can_refresh_token` have the same names as in the guide
    # (docs/migrating.md), because subclasses written for the guide call these methods.

    def _ensure_token(self) -> None:
        """If the client has no usable token, find or issue a token. Raises KisTokenError."""
        self._token_holder.ready()

    def _refresh_token(self) -> None:
        """Call `refresh_token` without force."""
        self.refresh_token()

    def _can_refresh_token(self) -> bool:
        """Whether the token is at least 23 h old, so that `refresh_token` renews the token without ``force``."""
        return self._token_holder.find_limit() is None

    def _send(self, call: _Call, held: Held) -> Response:
        """Send ``call`` with the token in the argument ``held``, and return the last answer.

        A call that changes nothing is repeated if KIS reports too many calls in a second.
        """
        deadline = self._clock.monotonic() + call.seconds
        pauses = iter(_PAUSES if call.is_harmless else ())
        while True:
            answer = self._exchange(call, held, deadline - self._clock.monotonic())
            if refusal(answer.content) != TOO_MANY_CALLS:
                return answer
            pause = next(pauses, None)
            pause = None if pause is None else self._clock.jitter(0.5 * pause, 1.5 * pause)
            if pause is None or self._clock.monotonic() + pause >= deadline:
                return answer
            self._clock.sleep(pause)

    def _exchange(self, call: _Call, held: Held, seconds: float) -> Response:
        request = Credentials(held.token, held.app_key).added_to(call.request)
        if call.is_harmless:
            return self._session.call(request, seconds)
        # A call that may be an order to buy or sell gets a new connection. If KIS closed a reused connection at the
        # moment of sending, the client could not know whether KIS received the order.
        with closing(Session(self.base_url)) as session:
            return session.call(request, seconds)
