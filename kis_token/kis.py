"""KIS: the only file that knows its wire form. Turns EGW codes into errors, by the code in the body alone.

KIS publishes no table of HTTP statuses: a wrong secret and a rate limit are both 403, a dead token is 500.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from kis_token.errors import KIS_REFUSALS, IssuerError, IssuerOutage, IssuerRateLimited, IssuerRefused, TokenError
from kis_token.limits import no_deadline
from kis_token.token import Token, build_token, claimed_time, parse_claims, parse_kst

if TYPE_CHECKING:
    from collections.abc import Callable

    from kis_token.token import AppKey

#: One tokenP call takes at most this long, whatever KIS does; a quotation less, since nothing depends on it.
ISSUE_SECONDS = 15.0
VERIFY_SECONDS = 5.0
#: What is left of the caller's time when KIS has answered: its answer has to be stored.
STORE_SECONDS = 3.0

#: KIS's longest is 90 days, for partner companies. What is far beyond is no lifetime.
LONGEST_LIFETIME = timedelta(days=3650)

RATE_LIMITED = "EGW00133"
#: What KIS answers on a call when the token itself is the trouble: not valid, not found, expired.
TOKEN_CODES = frozenset({"EGW00121", "EGW00122", "EGW00123"})
#: What KIS answers, before it does anything, to more calls in a second than it allows.
TOO_MANY_CALLS = "EGW00201"
_CODE = re.compile(r"EGW\d{5}", re.ASCII)


@dataclass(frozen=True, slots=True)
class KISIssuer:
    """Issues tokens at one of KIS's hosts, or at a host the user named.

    ``left`` tells the seconds until the caller's deadline; no call takes longer.
    """

    base_url: str
    environment: str
    left: Callable[[], float] = field(default=no_deadline, repr=False, compare=False)

    def issue(self, app_key: AppKey, now: datetime) -> Token:
        """One tokenP call; never repeated here. ``now`` only serves an answer that has no readable expiry.

        Raises IssuerRefused, IssuerRateLimited and IssuerOutage, whose ``sent`` says whether the call may have had its
        effect although no token came back.
        """
        answer = self._post(
            "/oauth2/tokenP",
            {"grant_type": "client_credentials", "appkey": app_key.key, "appsecret": app_key.secret},
        )
        return parse_issue_answer(answer, app_key, self.environment, now)

    def verify(self, token: Token, app_key: AppKey) -> str | None:
        """Try ``token`` on a cheap quotation. The EGW code that speaks against the token; None when nothing does.

        Raises IssuerOutage when the try itself did not work, which says nothing about the token.
        """
        from kis_token.kis_session import Credentials

        answer = self._send(
            "GET",
            "/uapi/domestic-stock/v1/quotations/inquire-price",
            VERIFY_SECONDS,
            params={"FID_COND_MRKT_DIV_CODE": "J", "FID_INPUT_ISCD": "005930"},
            headers={"tr_id": "FHKST01010100", "custtype": "P"},
            auth=Credentials(token, app_key),
        )
        code = answer.get("msg_cd")
        if code in TOKEN_CODES:
            return str(code)
        if answer.get("rt_cd") != "0":
            raise IssuerOutage("kis-answer-unusable", "KIS did not answer the quotation", sent=True)
        return None

    def approval_key(self, app_key: AppKey) -> str:
        """A key for opening WebSocket sessions, for 24 hours. Needs no token. Raises IssuerRefused and IssuerOutage."""
        answer = self._post(
            "/oauth2/Approval",
            {"grant_type": "client_credentials", "appkey": app_key.key, "secretkey": app_key.secret},
        )
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
            raise IssuerRefused(code)
        if code is not None or str(answer.get("code")) != "200":
            said = code or "an answer that is none of its own"
            raise IssuerOutage("kis-answer-unusable", f"KIS did not revoke the token ({said})", sent=True)
        return True

    def greet(self) -> None:
        """See that the host answers, whatever it says; asks for nothing. Raises IssuerOutage when it does not."""
        from kis_token.kis_session import call, open_session

        with open_session(self.base_url) as session:
            call(session, "HEAD", f"{self.base_url}/", min(VERIFY_SECONDS, self.left()))

    def _post(self, path: str, body: dict[str, str]) -> dict[str, Any]:
        answer = self._json_of(path, body)
        code = _code_of(answer)
        if code is not None:
            raise _issue_error(code)
        return answer

    def _json_of(self, path: str, body: dict[str, str]) -> dict[str, Any]:
        headers = {"content-type": "application/json; charset=UTF-8"}
        return self._send("POST", path, ISSUE_SECONDS, json=body, headers=headers)

    def _send(self, method: str, path: str, seconds: float, **arguments: Any) -> dict[str, Any]:  # noqa: ANN401 - requests' own
        """The answer's JSON, at any HTTP status. Bounded in time and size."""
        from kis_token.kis_session import exchange

        url, seconds = self.base_url + path, min(seconds, self.left() - STORE_SECONDS)
        status, body = exchange(method, url, seconds, **arguments)
        try:
            parsed = json.loads(body)
        except (ValueError, RecursionError):
            parsed = None
        if not isinstance(parsed, dict):
            host = urlsplit(url).hostname
            raise IssuerOutage("kis-answer-unusable", f"{host} answered without JSON (HTTP {status})", sent=True)
        return parsed


def refusal(answer: bytes) -> str | None:
    """The code in an answer's body with which KIS refused a call, at any HTTP status; None when it did not."""
    if b"EGW" not in answer:
        return None
    try:
        parsed = json.loads(answer)
    except (ValueError, RecursionError):
        return None
    if not isinstance(parsed, dict) or parsed.get("rt_cd") == "0":
        return None
    code = str(parsed.get("msg_cd") or parsed.get("error_code")).strip()
    return code if _CODE.fullmatch(code) else None


def parse_issue_answer(answer: dict[str, Any], app_key: AppKey, environment: str, now: datetime) -> Token:
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
    if not token.lives(now):
        raise IssuerOutage("kis-answer-unusable", "KIS's token had expired on arrival", sent=True)
    return token


def _code_of(answer: dict[str, Any]) -> str | None:
    code = answer.get("error_code") or answer.get("msg_cd")
    return code if isinstance(code, str) and _CODE.fullmatch(code) else None


def _issue_error(code: str) -> IssuerError:
    if code == RATE_LIMITED:
        return IssuerRateLimited("kis-rate-limited", f"KIS issued a token within the last minute ({code})")
    if code in KIS_REFUSALS:
        return IssuerRefused(code)
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
