"""KIS's URLs, headers, bodies and codes, which no other module contains.

The EGW code in the answer's body alone decides which error is raised. The HTTP status does not decide the error,
because KIS publishes no table of statuses. For example, a wrong secret and a rate limit both have 403, and a rejected
token has 500.
"""

from __future__ import annotations

import json
import re
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from kis_token.core.ports import TooLate
from kis_token.core.slot import refused
from kis_token.deadline import no_deadline
from kis_token.errors import KIS_REFUSALS, IssuerError, IssuerOutage, IssuerRateLimited, TokenError
from kis_token.settings.pasted_values import parse_claims
from kis_token.token import Token, build_token, claimed_time, parse_kst

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from kis_token.config import Environment
    from kis_token.kis.session import Credentials, Response, Session
    from kis_token.token import AppKey

#: The time limits, in seconds, of a tokenP call and of a request for a quotation (a share's price). VERIFY_SECONDS is
#: less than ISSUE_SECONDS, because no token depends on a quotation.
ISSUE_SECONDS = 15.0
VERIFY_SECONDS = 5.0
#: The seconds of the caller's time that are kept for storing KIS's answer.
STORE_SECONDS = 3.0
#: The largest accepted answer, in bytes. KIS's answers are much smaller than this limit: they contain a token or an
#: error code.
LARGEST_ANSWER = 64 * 1024

#: The longest accepted lifetime of a token. If the lifetime in KIS's answer is longer than LONGEST_LIFETIME, the code
#: treats the lifetime as unreadable. The longest lifetime of tokens at KIS is 90 days, for partner companies.
LONGEST_LIFETIME = timedelta(days=3650)

RATE_LIMITED = "EGW00133"
#: KIS's codes for a rejected token: not valid, not found, expired.
TOKEN_CODES = frozenset({"EGW00121", "EGW00122", "EGW00123"})
#: KIS's code for too many calls in one second. KIS does not execute a call that KIS answers with EGW00201.
TOO_MANY_CALLS = "EGW00201"
_CODE = re.compile(r"EGW\d{5}", re.ASCII)


class KISIssuer:
    """Issues tokens at ``base_url``, one of KIS's hosts or a host that the user named.

    ``left`` returns the seconds until the caller's deadline; no call takes longer.
    """

    def __init__(self, base_url: str, environment: Environment, left: Callable[[], float] = no_deadline) -> None:
        self.base_url = base_url
        self.environment = environment
        self._left = left
        self._unused: Session | None = None

    def __repr__(self) -> str:
        return f"{type(self).__name__}(base_url={self.base_url!r}, environment={self.environment!r})"

    def close(self) -> None:
        """Close the connection that is kept after `TooLate`. The next call opens a new connection."""
        if self._unused is not None:
            self._unused.close()
            self._unused = None

    def issue(self, app_key: AppKey, now: datetime, may_send: Callable[[], bool] | None = None) -> Token:
        """Issue a token by exactly one tokenP call.

        ``now`` is used only if the answer has no readable expiry time. ``may_send`` is called immediately before the
        request is sent, when the connection is ready. If ``may_send`` returns False, the method raises TooLate, and
        keeps the connection open for the next call. To open a new connection, the next call would need more time,
        and ``may_send`` could return False again.

        Raises IssuerRefused, IssuerRateLimited and IssuerOutage. ``sent`` of an IssuerOutage is True if KIS may have
        issued a token that was not received.
        """
        answer = self._post("/oauth2/tokenP", app_key, "appsecret", may_send)
        return parse_issue_answer(answer, app_key, self.environment, now)

    def verify(self, token: Token, app_key: AppKey) -> str | None:
        """Check ``token`` by one request for a quotation (a share's price).

        Returns None if KIS accepts the token, and the EGW code if KIS rejects the token. If the request fails for
        another reason, the method raises IssuerOutage, because the failure does not show whether KIS accepts the token.
        """
        from kis_token.kis.session import Credentials

        answer = self._parsed(
            self._send(
                "GET",
                "/uapi/domestic-stock/v1/quotations/inquire-price",
                min(VERIFY_SECONDS, self._left() - STORE_SECONDS),
                params={"FID_COND_MRKT_DIV_CODE": "J", "FID_INPUT_ISCD": "005930"},
                headers={"tr_id": "FHKST01010100", "custtype": "P"},
                credentials=Credentials(token, app_key),
            )
        )
        code = _code_of(answer)
        if code in TOKEN_CODES:
            return code
        if answer.get("rt_cd") != "0":
            raise IssuerOutage("kis-answer-unusable", f"KIS gave no quotation ({code or 'no error code'})", sent=True)
        return None

    def approval_key(self, app_key: AppKey) -> str:
        """Return a key for WebSocket sessions, valid for 24 hours. Needs no token.

        Raises IssuerRefused and IssuerOutage.
        """
        answer = self._post("/oauth2/Approval", app_key, "secretkey")
        value = answer.get("approval_key")
        if not isinstance(value, str) or not value.strip():
            raise IssuerOutage("kis-answer-unusable", "KIS's answer has no approval key", sent=True)
        return value.strip()

    def revoke(self, token: Token, app_key: AppKey) -> bool:
        """Revoke ``token`` for all callers. Return False if KIS answers that the token is already invalid.

        For up to 6 hours after the token's issue, tokenP may return the revoked token again. Raises IssuerRefused and
        IssuerOutage.
        """
        body = {"appkey": app_key.key, "appsecret": app_key.secret, "token": token.value}
        answer = self._json_of("/oauth2/revokeP", body)
        code = _code_of(answer)
        if code in TOKEN_CODES:
            return False
        if code in KIS_REFUSALS:
            raise refused(code, app_key)
        if code is not None or str(answer.get("code")) != "200":
            said = code or "unknown answer"
            raise IssuerOutage("kis-answer-unusable", f"KIS did not revoke the token ({said})", sent=True)
        return True

    def greet(self) -> None:
        """Send a request that changes nothing. Raises IssuerOutage if the host does not answer."""
        self._send("HEAD", "/", min(VERIFY_SECONDS, self._left()))

    def _post(
        self, path: str, app_key: AppKey, secret_name: str, may_send: Callable[[], bool] | None = None
    ) -> dict[str, Any]:
        body = {"grant_type": "client_credentials", "appkey": app_key.key, secret_name: app_key.secret}
        answer = self._json_of(path, body, may_send)
        code = _code_of(answer)
        if code is not None:
            raise _issue_error(code, app_key)
        return answer

    def _json_of(self, path: str, body: dict[str, str], may_send: Callable[[], bool] | None = None) -> dict[str, Any]:
        headers = {"content-type": "application/json; charset=UTF-8"}
        seconds = min(ISSUE_SECONDS, self._left() - STORE_SECONDS)
        return self._parsed(self._send("POST", path, seconds, may_send=may_send, json=body, headers=headers))

    def _send(
        self,
        method: str,
        path: str,
        seconds: float,
        *,
        credentials: Credentials | None = None,
        may_send: Callable[[], bool] | None = None,
        headers: Mapping[str, str] | None = None,
        params: Mapping[str, str] | None = None,
        json: Mapping[str, str] | None = None,
    ) -> Response:
        """Send one request on a separate connection, and return the answer with any HTTP status."""
        from kis_token.kis.session import Session, prepare

        request = prepare(method, self.base_url + path, headers or {}, params=params, json=json)
        if credentials is not None:
            request = credentials.added_to(request)
        session, self._unused = self._unused or Session(self.base_url), None
        try:
            return session.call(request, seconds, may_send=may_send, largest=LARGEST_ANSWER)
        except TooLate:
            self._unused = session
            raise
        finally:
            if self._unused is None:
                session.close()

    def _parsed(self, answer: Response) -> dict[str, Any]:
        parsed = _json_in(answer.content)
        if not isinstance(parsed, dict):
            said = f"{urlsplit(self.base_url).hostname} answered without JSON (HTTP {answer.status_code})"
            raise IssuerOutage("kis-answer-unusable", said, sent=True)
        return parsed


def refusal(answer: bytes) -> str | None:
    """Return the EGW code of an answer that reports an error, with any HTTP status; None if the call succeeded."""
    if b"EGW" not in answer:
        return None
    parsed = _json_in(answer)
    if not isinstance(parsed, dict) or parsed.get("rt_cd") == "0":
        return None
    return _code_of(parsed)


def rejects_token(answer: bytes) -> bool:
    """Whether an answer, with any HTTP status, rejects the token of its call.

    KIS does not execute a call whose token it rejects.
    """
    return refusal(answer) in TOKEN_CODES


def parse_issue_answer(answer: dict[str, Any], app_key: AppKey, environment: Environment, now: datetime) -> Token:
    """Return the token of tokenP's answer.

    The token's expiry time is the earlier of two times: the expiry time in the JWT's claims and
    ``access_token_token_expired`` (Korea time). If neither the claims nor ``access_token_token_expired`` can be read,
    the expiry time is ``now`` plus ``expires_in``. If one of the two times can be read, the expiry time does not depend
    on ``expires_in``: KIS may return an older token again, and it is unknown at which time ``expires_in`` then begins.
    Raises IssuerOutage ``kis-answer-unusable`` if the answer has no token or an expired one.
    """
    value = answer.get("access_token")
    if not isinstance(value, str):
        raise IssuerOutage("kis-answer-unusable", "KIS's answer has no token", sent=True)
    value = value.strip()
    lifetime = _seconds(answer.get("expires_in"))
    end = _kst(answer.get("access_token_token_expired"))
    begun = None
    if end is not None and lifetime is not None:
        begun = end - lifetime
    elif end is None and lifetime is not None and claimed_time(parse_claims(value), "exp") is None:
        begun, end = now, now + lifetime
    try:
        token = build_token(
            value,
            expiries=[end] if end is not None else [],
            issued_at=begun,
            app_key_id=app_key.key_id,
            environment=environment,
        )
    except TokenError as error:
        raise IssuerOutage("kis-answer-unusable", f"KIS's answer: {error.args[0]}", sent=True) from None
    if not token.is_valid(now):
        raise IssuerOutage("kis-answer-unusable", "KIS's answer has an expired token", sent=True)
    return token


def _json_in(body: bytes) -> object:
    """Return the JSON of a body, or None if the body is not JSON.

    Bytes that cannot be decoded are replaced: texts may be EUC-KR, but codes and tokens are ASCII.
    """
    try:
        return json.loads(body.decode(json.detect_encoding(body), "replace"))
    except (ValueError, RecursionError):
        return None


def _code_of(answer: dict[str, Any]) -> str | None:
    texts = [f"{answer.get(name)}".strip() for name in ("error_code", "msg_cd")]
    return next((text for text in texts if _CODE.fullmatch(text)), None)


def _issue_error(code: str, app_key: AppKey) -> IssuerError:
    if code == RATE_LIMITED:
        return IssuerRateLimited("kis-rate-limited", f"KIS issued a token within the last minute ({code})")
    if code in KIS_REFUSALS:
        return refused(code, app_key)
    return IssuerOutage("kis-answer-unusable", f"KIS answered with the error {code}", sent=True)


def _seconds(value: object) -> timedelta | None:
    try:
        lifetime = timedelta(seconds=float(str(value)))
    except (ValueError, OverflowError):
        return None
    return lifetime if timedelta() < lifetime <= LONGEST_LIFETIME else None


def _kst(value: object) -> datetime | None:
    try:
        return parse_kst(str(value))
    except ValueError:
        return None
