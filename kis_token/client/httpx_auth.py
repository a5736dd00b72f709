"""KISAuth: the shared token for programs with an httpx client, sync or async.

KISAuth and KISClient follow the same rules for tokens, because both use `TokenHolder`. The program itself controls
connections, time limits and repetitions.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import httpx

from kis_token.client.token_holder import TokenHolder
from kis_token.client.user_variables import user_variables
from kis_token.clock import SystemClock
from kis_token.config import Settings
from kis_token.kis.api import rejects_token
from kis_token.kis.session import USUAL_HEADERS, Credentials

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Generator, Mapping

    from typing_extensions import Self

    from kis_token.client.token_holder import Held
    from kis_token.core.ports import Clock


class KISAuth(httpx.Auth):
    """Fills in the headers of one KIS account for ``httpx.Client`` and ``httpx.AsyncClient``, under asyncio or trio.

    KISAuth always sets the headers authorization, appkey and appsecret. If the request lacks the header content-type or
    the header custtype, KISAuth adds the missing header. KISAuth sets custtype to P. The program sets tr_id. If the
    token expires soon, KISAuth renews the token before the request. If KIS rejects the token of a request, one new
    token replaces the rejected token for all callers, and KISAuth sends the request again, once. KIS does not execute a
    request with a rejected token. KISAuth reads the bodies of requests and answers into memory, so that it can find a
    rejection and send a request again.

    Several clients, threads, tasks and forked processes may share one KISAuth. With an async client, a renewal runs in
    a thread, so the event loop does not wait. If a task is cancelled during a renewal, the task ends at once, and the
    renewal continues.

    The headers are sent to ``base_url`` only; a request to another host raises ValueError and is not sent. httpx
    repeats the headers after a redirect, so leave ``follow_redirects`` off. If there is no token, a request raises
    KisTokenError.

    Without ``settings``, the settings are read from the environment: the variables of the README and
    ``KIS_ACCOUNT_NO``. If the environment lacks the project's URL or key, the user's profile adds them, as for
    `get_token`. The constructor makes no request. Raises SettingsError.

    Attributes:
        base_url: KIS's host, for the client's ``base_url``.
        environment: production or paper.
        account_no: the value of ``KIS_ACCOUNT_NO``, without any change; None if the variable is not set.
    """

    requires_request_body = True
    requires_response_body = True

    def __init__(self, settings: Settings | None = None, *, clock: Clock | None = None) -> None:
        settings = settings or Settings.from_env(user_variables())
        self._service_name = settings.service_name
        self.base_url = settings.base_url
        self.environment = settings.environment
        self.account_no = settings.account_no
        self._token_holder = TokenHolder(settings, clock or SystemClock())

    @classmethod
    def from_env(cls, env: Mapping[str, str] | None = None) -> Self:
        """Make a KISAuth from the variables of ``env``. If ``env`` is None, do the same as ``KISAuth()``.

        Raises SettingsError.
        """
        return cls(Settings.from_env(user_variables() if env is None else env))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.base_url!r}, {self._service_name!r})"

    def auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        """Add the headers to a request of a sync client, and repeat the request after a rejected token."""
        self._check_host(request)
        held = self._token_holder.ready()
        response = yield _with_headers(request, held)
        if rejects_token(response.content):
            yield _with_headers(request, self._token_holder.replace(held))

    async def async_auth_flow(self, request: httpx.Request) -> AsyncGenerator[httpx.Request, httpx.Response]:
        """Add the headers to a request of an async client, and repeat the request after a rejected token."""
        self._check_host(request)
        await request.aread()
        held = self._token_holder.at_hand() or await _in_thread(self._token_holder.ready)
        response = yield _with_headers(request, held)
        await response.aread()
        if rejects_token(response.content):
            rejected = held
            yield _with_headers(request, await _in_thread(lambda: self._token_holder.replace(rejected)))

    def _check_host(self, request: httpx.Request) -> None:
        """Raise ValueError if the request goes to a host that must not see the keys."""
        own, other = httpx.URL(self.base_url), request.url
        if (own.scheme, own.host, own.port) != (other.scheme, other.host, other.port):
            raise ValueError(
                f"KISAuth sends token and keys to {self.base_url} only, and this request goes to "
                f"{other.scheme}://{other.netloc.decode('ascii', 'replace')}. Use another client for other hosts"
            )


def _with_headers(request: httpx.Request, held: Held) -> httpx.Request:
    for name, value in USUAL_HEADERS.items():
        request.headers.setdefault(name, value)
    request.headers.update(Credentials(held.token, held.app_key).headers())
    return request


async def _in_thread(work: Callable[[], Held]) -> Held:
    """Do ``work`` in a thread. If this task is cancelled, the thread still finishes ``work``."""
    from anyio import to_thread

    return await to_thread.run_sync(work, abandon_on_cancel=True)
