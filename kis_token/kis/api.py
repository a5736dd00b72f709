"""KIS: the only file that knows its wire form. Turns EGW codes into errors, by the code in the body alone.

KIS publishes no table of HTTP statuses: a wrong secret and a rate limit are both 403, a dead token is 500.
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
from kis_token.pasted_values import parse_claims
from kis_token.token import Token, build_token, claimed_time, parse_kst

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from kis_token.config import Environment
    from kis_token.kis.session import Credentials, Response, Session
    from kis_token.token import AppKey

#: One tokenP call takes at most this long, whatever KIS does; a quotation less, since nothing depends on it.
ISSUE_SECONDS = 15.0
VERIFY_SECONDS = 5.0
#: What is left of the caller's time when KIS has answered: its answer has to be stored.
STORE_SECONDS = 3.0
#: The most that an answer may hold, in bytes: it is a token or a code.
LARGEST_ANSWER = 64 * 1024

#: KIS's longest is 90 days, for partner companies. What is far beyond is no lifetime.
LONGEST_LIFETIME = timedelta(days=3650)

RATE_LIMITED = "EGW00133"
#: What KIS answers on a call when the token itself is the trouble: not valid, not found, expired.
TOKEN_CODES = frozenset({"EGW00121", "EGW00122", "EGW00123"})
#: What KIS answers, before it does anything, to more calls in a second than it allows.
TOO_MANY_CALLS = "EGW00201"
_CODE = re.compile(r"EGW\d{5}", re.ASCII)


class KISIssuer:
    """Issues tokens at one of KIS's hosts, or at a host the user named.

    ``left`` tells the seconds until the caller's deadline; no call takes longer.
    """

    def __init__(self, base_url: str, environment: Environment, left: Callable[[], float] = no_deadline) -> None:
        self.base_url = base_url
        self.environment = environment
        self._left = left
        self._unused: Session | None = None

    def __repr__(self) -> str:
        return f"{type(self).__name__}(base_url={self.base_url!r}, environment={self.environment!r})"

    def close(self) -> None:
        """Close a connection that is kept for a call which was too late. The next call opens another."""
        if self._unused is not None:
            self._unused.close()
            self._unused = None

    def issue(self, app_key: AppKey, now: datetime, may_send: Callable[[], bool] | None = None) -> Token:
        """One tokenP call; never repeated here. ``now`` only serves an answer that has no readable expiry.

        ``may_send`` is asked right before the call leaves, when the connection is made. When it says no, raises TooLate
        and keeps the connection for the next call: a slow name server would make that one late as well.

        Raises IssuerRefused, IssuerRateLimited and IssuerOutage, whose ``sent`` says whether the call may have had its
        effect although no token came back.
        """
        answer = self._post("/oauth2/tokenP", app_key, "appsecret", may_send)
        return parse_issue_answer(answer, app_key, self.environment, now)

    def verify(self, token: Token, app_key: AppKey) -> str | None:
        """Try ``token`` on a cheap quotation. The EGW code that speaks against the token; None when nothing does.

        Raises IssuerOutage when the try itself did not work, which says nothing about the token.
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
            raise IssuerOutage("kis-answer-unusable", "KIS did not answer the quotation", sent=True)
        return None

    def approval_key(self, app_key: AppKey) -> str:
        """A key for opening WebSocket sessions, for 24 hours. Needs no token. Raises IssuerRefused and IssuerOutage."""
        answer = self._post("/oauth2/Approval", app_key, "secretkey")
        value = answer.get("approval_key")
        if not isinstance(value, str) or not value.strip():
            raise IssuerOutage("kis-answer-unusable", "KIS's answer holds no approval key", sent=True)
        return value.strip()

    def revoke(self, token: Token, app_key: AppKey) -> bool:
        """End ``token`` for everybody who has it. False when KIS knows it as dead already.

        For up to 6 hours after its issue KIS may go on answering tokenP with it. Raises IssuerRefused and IssuerOutage.
        """
        body = {"appkey": app_key.key, "appsecret": app_key.secret, "token": token.value}
        answer = self._json_of("/oauth2/revokeP", body)
        code = _code_of(answer)
        if code in TOKEN_CODES:
            return False
        if code in KIS_REFUSALS:
            raise refused(code, app_key)
        if code is not None or str(answer.get("code")) != "200":
            said = code or "an answer that is none of its own"
            raise IssuerOutage("kis-answer-unusable", f"KIS did not revoke the token ({said})", sent=True)
        return True

    def greet(self) -> None:
        """See that the host answers, whatever it says; asks for nothing. Raises IssuerOutage when it does not."""
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
        """One request on a connection of its own, and its answer, at any HTTP status."""
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
    """The code in an answer's body with which KIS refused a call, at any HTTP status; None when it did not."""
    if b"EGW" not in answer:
        return None
    parsed = _json_in(answer)
    if not isinstance(parsed, dict) or parsed.get("rt_cd") == "0":
        return None
    return _code_of(parsed)


def parse_issue_answer(answer: dict[str, Any], app_key: AppKey, environment: Environment, now: datetime) -> Token:
    """A token from tokenP's answer.

    Its end is the earlier of the JWT's own and of ``access_token_token_expired`` (Korea time). ``expires_in`` counts
    only when neither can be read: it has no reference time when KIS hands out an older token again. Raises
    IssuerOutage ``kis-answer-unusable`` when there is no token or it is dead on arrival.
    """
    value = answer.get("access_token")
    if not isinstance(value, str):
        raise IssuerOutage("kis-answer-unusable", "KIS's answer holds no token", sent=True)
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
        raise IssuerOutage("kis-answer-unusable", "KIS's token had expired on arrival", sent=True)
    return token


def _json_in(body: bytes) -> object:
    """The JSON in a body; None for a body that is not JSON. Its texts may be in EUC-KR: codes and tokens are ASCII."""
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
    return IssuerOutage("kis-answer-unusable", f"KIS issues no token ({code})", sent=True)


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
