"""One request to KIS: bounded in time and size, silent, with what is known of whether it was sent.

On requests, which costs more to import than most runs take: whoever may do without imports this where it is used.
"""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from http.cookiejar import DefaultCookiePolicy
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

import requests
from requests.adapters import HTTPAdapter
from urllib3.exceptions import ConnectTimeoutError, NewConnectionError, ProxyError, SSLError

from kis_token.errors import IssuerOutage
from kis_token.limits import within

if TYPE_CHECKING:
    from collections.abc import Callable

    from kis_token.token import AppKey, Token

CONNECT_SECONDS = 5.0
LARGEST_ANSWER = 64 * 1024

#: What KISClient hands out. Named here for those who need the type alone.
Response = requests.Response

_Answer = TypeVar("_Answer")


@dataclass(frozen=True, slots=True)
class Credentials:
    """What an ordinary call shows KIS: token, key and secret. Given to requests as auth; its repr shows none."""

    token: Token
    app_key: AppKey

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        """Add them to a request."""
        request.headers["authorization"] = f"Bearer {self.token.value}"
        request.headers["appkey"] = self.app_key.key
        request.headers["appsecret"] = self.app_key.secret
        return request


def open_session(base_url: str) -> requests.Session:
    """Connections to KIS: silent, without cookies and without the user's .netrc. Threads may share it."""
    session = requests.Session()
    session.auth = _no_authentication
    session.cookies.set_policy(DefaultCookiePolicy(allowed_domains=()))
    session.trust_env = base_url.startswith("https:")  # without TLS only this machine is asked: never through a proxy
    for scheme in ("https://", "http://"):
        session.mount(scheme, _QuietAdapter())
    return session


def call(session: requests.Session, method: str, url: str, seconds: float, **arguments: Any) -> Response:  # noqa: ANN401 - requests' own
    """One request and its whole answer, at any HTTP status, within ``seconds``. Follows no redirect.

    Raises IssuerOutage, whose ``sent`` says whether the request may have had its effect.
    """
    return _bounded(url, seconds, lambda: _ask(session, method, url, seconds, arguments))


def exchange(method: str, url: str, seconds: float, **arguments: Any) -> tuple[int, bytes]:  # noqa: ANN401 - requests' own
    """One request by itself, within ``seconds``: its status and, as far as it is not too large, its body.

    Raises IssuerOutage, as ``call`` does.
    """
    return _bounded(url, seconds, lambda: _read(method, url, seconds, arguments))


def _bounded(url: str, seconds: float, exchange: Callable[[], _Answer]) -> _Answer:
    host = urlsplit(url).hostname
    try:
        return within(seconds, lambda _: exchange())
    except TimeoutError:
        message = f"{host} did not answer within {max(seconds, 0):.2g} s"
        raise IssuerOutage("kis-unreachable", message, sent=True) from None
    except requests.RequestException as error:
        raise IssuerOutage(
            "kis-unreachable", f"{host} does not answer ({type(error).__name__})", sent=not _was_never_sent(error)
        ) from None


def _read(method: str, url: str, seconds: float, arguments: dict[str, Any]) -> tuple[int, bytes]:
    with open_session(url) as session, _ask(session, method, url, seconds, {"stream": True, **arguments}) as answer:
        body = b""
        for block in answer.iter_content(8192):
            body += block
            if len(body) > LARGEST_ANSWER:
                break
        return answer.status_code, body[:LARGEST_ANSWER]  # cut short it is no JSON any more


def _ask(session: requests.Session, method: str, url: str, seconds: float, arguments: dict[str, Any]) -> Response:
    timeout = (min(CONNECT_SECONDS, seconds), seconds)
    return session.request(method, url, timeout=timeout, allow_redirects=False, **arguments)


class _QuietAdapter(HTTPAdapter):
    """Where a program has http.client print its requests, ours stay out: they hold app secret and token."""

    def get_connection_with_tls_context(self, *arguments: Any, **named: Any) -> Any:  # noqa: ANN401 - the parent's
        """A pool whose connections print nothing."""
        pool: Any = super().get_connection_with_tls_context(*arguments, **named)
        pool.ConnectionCls = type("QuietConnection", (pool.ConnectionCls,), {"debuglevel": 0})
        return pool


def _no_authentication(request: requests.PreparedRequest) -> requests.PreparedRequest:
    """Given as auth, so that requests does not look for the host in the user's .netrc."""
    return request


def _was_never_sent(error: requests.RequestException) -> bool:
    """Whether no request can have left: refused, not resolved, not connected in time, a certificate not trusted.

    Everything else that breaks, also within TLS, may have had its effect.
    """
    cause = getattr(error.args[0], "reason", None) if error.args else None
    if isinstance(cause, SSLError) and cause.args:
        cause = cause.args[0]
    return isinstance(cause, (NewConnectionError, ConnectTimeoutError, ProxyError, ssl.SSLCertVerificationError))
