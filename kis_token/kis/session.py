"""One request to KIS: limited in time and size, without output, and never sent after its caller has given up.

This module imports the package requests, and this import takes longer than most runs. So all other modules import
kis_token.kis.session only inside the functions that use it.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from http.client import HTTPException
from http.cookiejar import DefaultCookiePolicy
from numbers import Real
from types import NoneType
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import urlsplit

import requests
from requests.adapters import HTTPAdapter
from requests.structures import CaseInsensitiveDict
from requests.utils import default_headers

from kis_token.core.ports import TooLate
from kis_token.deadline import GivenUp, within
from kis_token.errors import IssuerOutage
from kis_token.kis.connections import Exchange, TransportError, Trouble, begin, guarded
from kis_token.network.proxies import ProxyFault, find_proxy
from kis_token.process.per_process import PerProcess

if TYPE_CHECKING:
    from collections.abc import Callable

    from kis_token.deadline import Attempt
    from kis_token.network.proxies import Proxy
    from kis_token.token import AppKey, Token

CONNECT_SECONDS = 5.0

#: The largest answer, in bytes after decompression.
LARGEST_ANSWER = 16 * 1024 * 1024

#: The type of KISClient's answers, for modules that need only the type.
Response = requests.Response

#: A prepared request. Only the token is missing.
Prepared = requests.PreparedRequest

#: Headers of each call of the API, unless the caller gives other values. With custtype P, the customer is a person.
USUAL_HEADERS = {"content-type": "application/json; charset=utf-8", "custtype": "P"}

_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # The name of a method or of a header (RFC 9110).
_VALUE = re.compile(r"([!-~\xa1-\xff][\t -~\xa0-\xff]*)?")  # One line of latin-1 that does not begin with a blank.
_PATH = re.compile(r"/(?!/)([^?#@\\\s\x00-\x1f\x7f/]|/(?!/))*(\?[^#\s\x00-\x1f\x7f]*)?")


@dataclass(frozen=True, slots=True)
class Credentials:
    """The token, app key and app secret of a KIS API call that needs a token. The repr shows no secret."""

    token: Token
    app_key: AppKey

    def headers(self) -> dict[str, str]:
        """Return the headers that contain the credentials."""
        return {
            "authorization": f"Bearer {self.token.value}",
            "appkey": self.app_key.key,
            "appsecret": self.app_key.secret,
        }

    def added_to(self, request: Prepared) -> Prepared:
        """Return a copy of ``request`` with the headers that contain the credentials."""
        request = request.copy()
        request.headers.update(self.headers())
        return request


class Session:
    """Connections to one of KIS's hosts, without output, without cookies and without the user's .netrc.

    Threads and forked processes may share a session: each process has connections of its own.
    """

    def __init__(self, base_url: str) -> None:
        parts = urlsplit(base_url)
        self._is_tls = parts.scheme == "https"
        self._host = parts.hostname or ""
        self._port = parts.port or 443
        self._sessions = PerProcess(_open)

    def close(self) -> None:
        """Close this process's connections. The next call opens new connections."""
        self._sessions.get().close()

    def call(
        self,
        request: Prepared,
        seconds: float,
        *,
        may_send: Callable[[], bool] | None = None,
        largest: int = LARGEST_ANSWER,
    ) -> Response:
        """Send ``request`` and return the whole answer, with any HTTP status, within ``seconds``.

        No redirect is followed. ``may_send`` is called immediately before the request is sent, when the connection is
        ready. If ``may_send`` returns False, the method raises TooLate, and the next call uses the same connection.
        ``largest`` is the largest answer in bytes. Raises IssuerOutage. ``sent`` of an IssuerOutage is True if a part
        of the request may have been sent.
        """
        # A request over plain http goes only to this machine. A plain request uses no proxy, because a proxy would see
        # the keys.
        proxy = self._find_proxy() if self._is_tls else None

        def work(attempt: Attempt) -> Response:
            exchange = Exchange(attempt, may_send or _always, proxy)
            begin(exchange)
            try:
                return self._exchange(request, seconds, largest, exchange)
            # Some errors of certificates, proxies and answers are not a RequestException.
            except (OSError, ValueError, HTTPException, TransportError) as error:
                seen = type(error).__name__
            # The error is raised outside of the except block, so that no traceback shows the caught error, which may
            # quote the request.
            trouble = exchange.trouble or Trouble("kis-unreachable", f"does not answer ({seen})", lasting=False)
            said = trouble.said + (_way(proxy) if trouble.code != "proxy-unusable" else "")
            raise self._outage(said, trouble.code, sent=attempt.sent, lasting=trouble.lasting)

        try:
            return within(seconds, work)
        except GivenUp as error:
            sent = error.sent
        raise self._outage(f"did not answer within {max(seconds, 0):.2g} s{_way(proxy)}", sent=sent)

    def _exchange(self, request: Prepared, seconds: float, largest: int, exchange: Exchange) -> Response:
        timeout = (min(CONNECT_SECONDS, seconds), seconds)
        with self._sessions.get().send(request, timeout=timeout, allow_redirects=False, stream=True) as answer:
            if exchange.was_late:
                answer.raw.release_conn()
                raise TooLate
            body = bytearray()
            for block in answer.iter_content(16 * 1024):
                body += block
                if len(body) > largest:
                    said = f"answered with more than {largest // 1024} KiB"
                    raise self._outage(said, "kis-answer-unusable", sent=True)
            answer._content = bytes(body)  # noqa: SLF001 - the package `requests` keeps a body in this attribute
            return answer

    def _find_proxy(self) -> Proxy | None:
        try:
            return find_proxy(self._host, self._port)
        except ProxyFault as fault:
            raise self._outage(f"cannot be asked: {fault}", "proxy-unusable", sent=False, lasting=True) from None

    def _outage(self, said: str, code: str = "kis-unreachable", *, sent: bool, lasting: bool = False) -> IssuerOutage:
        return IssuerOutage(code, f"{self._host} {said}", sent=sent, lasting=lasting)


def prepare(
    method: str,
    url: str,
    headers: Mapping[str, str],
    *,
    params: Mapping[str, Any] | None = None,
    json: Mapping[str, Any] | None = None,
    data: object = None,
) -> Prepared:
    """Return a request that is ready to send.

    Raises ValueError or TypeError if ``params`` or the body cannot be encoded. The error's text quotes no value.
    """
    if not isinstance(data, (str, bytes, NoneType)) or (data is not None and json is not None):
        raise TypeError("data is not a str or bytes, or both data and json are given")
    named = CaseInsensitiveDict(default_headers())
    named.update(headers)
    at_work = "params"
    kind: type[Exception] = ValueError
    try:
        request = requests.Request(method, url, headers=named, params=params).prepare()
        at_work = "json"
        if data is not None:
            request.prepare_body(data, None)
        elif json is not None:
            request.prepare_body(None, None, json)
    except (ValueError, RecursionError, requests.RequestException) as error:
        seen = type(error).__name__
    except TypeError as error:
        kind, seen = TypeError, type(error).__name__
    else:
        return request
    raise kind(f"{at_work} cannot be encoded ({seen})")  # not chained, because the caught error quotes values


def check_arguments(method: object, path: object, headers: object, params: object, timeout: object) -> None:
    """Raise TypeError or ValueError if an argument has a wrong type or value. The error does not quote the value."""
    _check("method", method, _NAME, "the name of an HTTP method")
    _check("path", path, _PATH, "a path, which begins with one slash and has no '//', '@', '#', '\\' or blank")
    if not isinstance(headers, Mapping):
        raise TypeError("headers is not a mapping")
    for name, value in headers.items():
        _check("the name of a header", name, _NAME, "made of letters, digits and '-'")
        _check(f"the header {name}", value, _VALUE, "one line of latin-1")
    if not isinstance(params, (Mapping, list, tuple, NoneType)):
        raise TypeError("params is not a mapping")
    if not isinstance(timeout, Real):
        raise TypeError("timeout is not a number")
    if not 0 < cast("float", timeout) <= threading.TIMEOUT_MAX:
        raise ValueError("timeout is not a number of seconds above 0")


def _check(what: str, value: object, form: re.Pattern[str], described: str) -> None:
    if not isinstance(value, str):
        raise TypeError(f"{what} is not a str")
    if not form.fullmatch(value):
        raise ValueError(f"{what} is not {described}")


def _open() -> requests.Session:
    session = requests.Session()
    session.cookies.set_policy(DefaultCookiePolicy(allowed_domains=()))
    session.trust_env = False  # the classes of connections.py find proxies and certificates
    for scheme in ("https://", "http://"):
        session.mount(scheme, _Adapter())
    return session


class _Adapter(HTTPAdapter):
    """An adapter with which the package ``requests`` uses the connections of `guarded`."""

    def init_poolmanager(self, *arguments: Any, **named: Any) -> None:  # noqa: ANN401 - the parent's
        super().init_poolmanager(*arguments, **named)
        _guard(self.poolmanager)

    def cert_verify(self, conn: Any, url: str, verify: Any, cert: Any) -> None:  # noqa: ANN401, ARG002 - the parent's
        """Do nothing, because the connection's TLS context already has its certificates."""
        conn.cert_reqs = "CERT_REQUIRED"


def _guard(manager: Any) -> None:  # noqa: ANN401 - a PoolManager of urllib3
    """Make the pools of ``manager`` use the connections of `guarded`."""
    manager.pool_classes_by_scheme = {name: guarded(pool) for name, pool in manager.pool_classes_by_scheme.items()}


def _way(proxy: Proxy | None) -> str:
    return f", through {proxy}" if proxy is not None else ""


def _always() -> bool:
    return True
