"""KISClient: calls the KIS Open API with the shared token, and survives that token's end.

That KIS refuses a token stands in the answer's body, at any HTTP status: EGW00121, EGW00122 or EGW00123. Then the
store is read again, since somebody else may have renewed the token; only if the refused one is still there is KIS asked
for another, once for all threads and machines. Before its end the token is renewed by the request that finds too little
life left in it; there is no thread.

Warnings and waits go to the logger ``kis_token``.
"""

from __future__ import annotations

import os
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from kis_token.client.token_holder import TokenHolder
from kis_token.clock import SystemClock
from kis_token.config import Settings
from kis_token.kis.api import TOKEN_CODES, TOO_MANY_CALLS, KISIssuer, refusal
from kis_token.kis.session import Credentials, Session, check_arguments, prepare

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from typing_extensions import Self

    from kis_token.client.token_holder import Held
    from kis_token.clock import Clock
    from kis_token.kis.session import Prepared, Response

#: The time for one answer, in seconds, waits for KIS's rate limit included.
CALL_SECONDS = 10.0

#: Pauses in seconds, before jitter, after more calls than KIS allows in a second.
_PAUSES = (0.5, 1.0, 2.0, 4.0)

#: Methods that change nothing. All else may be an order.
_HARMLESS = {"GET", "HEAD"}


@dataclass(frozen=True, slots=True)
class _Call:
    """One call of the API, whatever token it is sent with."""

    request: Prepared
    is_harmless: bool
    seconds: float


class KISClient:
    """A client of one KIS account. Use it as a context manager, or close it.

    Threads may share it, and so may processes that os.fork() has made: each has connections and renewals of its own,
    and a child goes on with the token that its parent had.

    Without ``settings``, those of the environment: the variables of the README and ``KIS_ACCOUNT_NO``. Nothing is asked
    of anybody before the first use. Raises SettingsError.

    Attributes:
        base_url: KIS's host.
        environment: production or paper.
        account_no: ``KIS_ACCOUNT_NO`` as it was given; None when it was not.
    """

    def __init__(self, settings: Settings | None = None, *, clock: Clock | None = None) -> None:
        settings = settings or Settings.from_env(os.environ)
        self._clock = clock or SystemClock()
        self._service_name = settings.service_name
        self.base_url = settings.base_url
        self.environment = settings.environment
        self.account_no = settings.account_no
        self._session = Session(settings.base_url)
        self._token_holder = TokenHolder(settings, self._clock)

    @classmethod
    def from_env(cls, env: Mapping[str, str] | None = None) -> Self:
        """The client for these variables; for those of os.environ when there are none. Raises SettingsError."""
        return cls(Settings.from_env(os.environ if env is None else env))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.base_url!r}, {self._service_name!r})"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close this process's connections. The next request opens them again."""
        self._session.close()

    @property
    def app_key(self) -> str:
        """The account's app key: the stored one, else that of the environment. Raises KisTokenError."""
        return self._token_holder.app_key().key

    @property
    def app_secret(self) -> str:
        """The account's app secret. Raises KisTokenError."""
        return self._token_holder.app_key().secret

    @property
    def access_token(self) -> str:
        """A token to use now. Raises KisTokenError."""
        return self._token_holder.ready().token.value

    @property
    def token_expires_at(self) -> datetime:
        """When that token ends, in UTC. Raises KisTokenError."""
        return self._token_holder.ready().token.expires_at

    @property
    def token_issued_at(self) -> datetime:
        """When KIS issued that token, in UTC. Raises KisTokenError."""
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
        """Call the API; KIS's answer at any HTTP status, a refusal included.

        ``path`` begins with one slash and may end with a query. A path with ``//``, ``@``, ``#``, a backslash or a
        blank is refused (ValueError). ``tr_id`` may stand among the headers instead. authorization, appkey, appsecret,
        tr_id and custtype (P) are filled in; of these ``headers`` may change custtype alone. The body is ``json``, or
        ``data`` as it is. ``timeout`` is for the answer, in seconds; a token that has to be renewed takes its own time,
        at most the settings' timeout.

        A refused token is replaced and the call sent again, once, unless ``_retry`` is false. A GET that comes too soon
        after others (EGW00201) is sent again after a pause, a few times. Anything else may be an order and is never
        sent again, unless KIS refused it for its token, and so did not execute it.

        Raises IssuerOutage when KIS does not answer: its ``sent`` says whether an order may have been executed. When
        ``timeout`` is over, nothing leaves any more. Raises KisTokenError when there is no token; ``token-repeated``
        when KIS gives the refused one again, with until when. Raises ValueError or TypeError, before anything is sent,
        for arguments that cannot be sent.
        """
        headers = {} if headers is None else headers
        check_arguments(method, path, headers if tr_id is None else {**headers, "tr_id": tr_id}, params, timeout)
        given = {name.lower(): value for name, value in headers.items()}
        if tr_id is None and "tr_id" not in given:
            raise TypeError("tr_id is missing: it is given as an argument or among the headers")
        fixed = {"content-type": "application/json; charset=utf-8", "custtype": "P", **given}
        fixed |= {} if tr_id is None else {"tr_id": tr_id}
        method = method.upper()
        request = prepare(method, self.base_url + path, fixed, params=params, json=json, data=data)
        what = _Call(request, method in _HARMLESS, timeout)
        held = self._token_holder.ready()
        answer = self._send(what, held)
        if _retry and refusal(answer.content) in TOKEN_CODES:
            answer = self._send(what, self._token_holder.replace(held))
        return answer

    def refresh_token(self, *, force: bool = False) -> None:
        """Have a new token issued for everybody, unless somebody has done so already.

        Raises TokenRefreshLimitError for a token that is less than 23 h old, unless ``force`` is given: then it is
        renewed all the same, which messages the account's owner; for 6 hours after an issue KIS gives the same one.
        """
        self._token_holder.refresh(force=force)

    def approval_key(self) -> str:
        """A key for opening WebSocket sessions, for 24 hours. Needs no token. Raises KisTokenError."""
        return KISIssuer(self.base_url, self.environment).approval_key(self._token_holder.app_key())

    # The guide's names, which its subclasses call.

    def _ensure_token(self) -> None:
        """Have a token that can be used now. Raises KisTokenError."""
        self._token_holder.ready()

    def _refresh_token(self) -> None:
        """`refresh_token` without force."""
        self.refresh_token()

    def _can_refresh_token(self) -> bool:
        """Whether the token is 23 h old, so that KIS issues another."""
        return self._token_holder.find_limit() is None

    def _send(self, what: _Call, held: Held) -> Response:
        """The answer to a call with this token, when KIS's rate limit has let it pass."""
        deadline = self._clock.monotonic() + what.seconds
        pauses = iter(_PAUSES if what.is_harmless else ())
        while True:
            answer = self._exchange(what, held, deadline - self._clock.monotonic())
            if refusal(answer.content) != TOO_MANY_CALLS:
                return answer
            pause = next(pauses, None)
            pause = None if pause is None else self._clock.jitter(0.5 * pause, 1.5 * pause)
            if pause is None or self._clock.monotonic() + pause >= deadline:
                return answer
            self._clock.sleep(pause)

    def _exchange(self, what: _Call, held: Held, seconds: float) -> Response:
        request = Credentials(held.token, held.app_key).added_to(what.request)
        if what.is_harmless:
            return self._session.call(request, seconds)
        # On a connection of its own: KIS may just have closed one that was kept, and nobody could tell whether it had
        # taken the order.
        with closing(Session(self.base_url)) as session:
            return session.call(request, seconds)
