"""The HTTP form of the KIS Open API: its addresses, fields and headers, and its two forms of an error.

Errors of /oauth2/* have status 403 and ``{"error_code", "error_description"}``. Errors of /uapi/* have status 500 and
``{"rt_cd": "1", "msg_cd", "msg1"}``. An address that is not emulated answers 404 without a body.
"""

from __future__ import annotations

from datetime import timedelta, timezone
from typing import TYPE_CHECKING, Final

from kis_token.sandbox.kis_rules import RefusedError
from kis_token.sandbox.loopback import Request, Response

if TYPE_CHECKING:
    from collections.abc import Callable

    from kis_token.sandbox.kis_rules import KISRules

TOKEN_PATH: Final = "/oauth2/tokenP"  # noqa: S105 - an address
REVOKE_PATH: Final = "/oauth2/revokeP"
APPROVAL_PATH: Final = "/oauth2/Approval"
PRICE_PATH: Final = "/uapi/domestic-stock/v1/quotations/inquire-price"
PRICE_TR_ID: Final = "FHKST01010100"

#: KIS's message for each error code.
MESSAGES: Final = {
    "EGW00002": "서버 에러가 발생했습니다.",
    "EGW00103": "유효하지 않은 AppKey입니다.",
    "EGW00105": "유효하지 않은 AppSecret입니다.",
    "EGW00121": "유효하지 않은 token 입니다.",
    "EGW00122": "token을 찾을 수 없습니다.",
    "EGW00123": "기간이 만료된 token 입니다.",
    "EGW00133": "접근토큰 발급 잠시 후 다시 시도하세요(1분당 1회)",
    "EGW00201": "초당 거래건수를 초과하였습니다.",
    "EGW00304": "고객식별키(법인 personalSeckey, 개인 appSecret)가 유효하지 않습니다.",
    "OPSQ0002": "없는 서비스 코드 입니다.",
    "OPSQ9999": "JSON PARSING ERROR : tr_id not found",
}

_KST = timezone(timedelta(hours=9))  # Korea has no summer time
_PAGE = "<!DOCTYPE html><html><head><title>{0}</title></head><body><h1>{0}</h1></body></html>"


def error_response(code: str, path: str, *, status: int | None = None, detail: str | None = None) -> Response:
    """Return KIS's answer to a call of ``path`` that fails with the error ``code``.

    ``status`` and ``detail`` replace the usual status and text.
    """
    message = detail or MESSAGES.get(code, "에러가 발생했습니다.")
    if path.startswith("/oauth2"):
        return Response(status or 403, {"error_code": code, "error_description": message})
    return Response(status or 500, {"rt_cd": "1", "msg_cd": code, "msg1": message})


def html_response(status: int) -> Response:
    """Return an HTML page, such as a gateway's error page or a maintenance notice."""
    page = _PAGE.format("서비스 점검 중입니다").encode()
    return Response(status, page, {"Content-Type": "text/html; charset=utf-8"})


def error_code(response: Response) -> str | None:
    """Return the error code of an answer of KIS; None if the answer is not an error."""
    if not isinstance(response.body, dict) or response.body.get("rt_cd") == "0":
        return None
    code = response.body.get("error_code") or response.body.get("msg_cd")
    return code if isinstance(code, str) else None


class KISWire:
    """Answers the requests of one environment by the rules of `kis_rules`."""

    def __init__(self, rules: KISRules) -> None:
        self._rules = rules
        self._routes: dict[tuple[str, str], Callable[[Request], object]] = {
            ("POST", TOKEN_PATH): self._token,
            ("POST", REVOKE_PATH): self._revoke,
            ("POST", APPROVAL_PATH): self._approval,
            ("GET", PRICE_PATH): self._price,
        }

    def handle(self, request: Request) -> Response:
        """Return the answer to a request."""
        route = self._routes.get((request.method, request.path))
        if route is None:
            return Response(404)
        try:
            return Response(200, route(request))
        except RefusedError as error:
            return error_response(error.code, request.path, status=self._status(error.code), detail=error.detail)

    def _status(self, code: str) -> int | None:
        if code.startswith("OPSQ"):
            return 200  # a service behind KIS's gateway reports its errors with status 200
        return self._rules.settings.expired_status if code == "EGW00123" else None

    def _token(self, request: Request) -> object:
        app_key, app_secret = _grant(request, "appkey", "appsecret")
        token = self._rules.issue(app_key, app_secret)
        return {
            "access_token": token.value,
            "access_token_token_expired": token.expires_at.astimezone(_KST).strftime("%Y-%m-%d %H:%M:%S"),
            "token_type": "Bearer",
            "expires_in": token.expires_in,
        }

    def _revoke(self, request: Request) -> object:
        app_key, app_secret, token = _fields(request, "appkey", "appsecret", "token")
        self._rules.revoke(app_key, app_secret, token)
        return {"code": 200, "message": "접근토큰 폐기에 성공하였습니다"}

    def _approval(self, request: Request) -> object:
        return {"approval_key": self._rules.approve(*_grant(request, "appkey", "secretkey"))}

    def _price(self, request: Request) -> object:
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        if scheme != "Bearer" or not token:
            raise RefusedError("EGW00122")
        self._rules.admit(request.headers.get("appkey", ""), request.headers.get("appsecret", ""), token)
        tr_id = request.headers.get("tr_id")
        if tr_id != PRICE_TR_ID:
            raise RefusedError("OPSQ0002" if tr_id else "OPSQ9999")
        query = dict(request.query)
        for name in ("FID_COND_MRKT_DIV_CODE", "FID_INPUT_ISCD"):
            if not query.get(name):
                raise RefusedError("OPSQ2001", f"ERROR : INPUT FIELD NOT FOUND [{name}]")
        if query["FID_COND_MRKT_DIV_CODE"] != "J":
            raise RefusedError("OPSQ2001", "ERROR : INPUT INVALID_CHECK_MRKT_DIV_CODE")
        return {
            "output": {
                "stck_shrn_iscd": query["FID_INPUT_ISCD"],
                "rprs_mrkt_kor_name": "KOSPI200",
                "stck_prpr": "71500",
                "prdy_vrss": "500",
                "prdy_vrss_sign": "2",
                "prdy_ctrt": "0.70",
                "stck_oprc": "71200",
                "stck_hgpr": "71900",
                "stck_lwpr": "70800",
                "acml_vol": "12345678",
            },
            "rt_cd": "0",
            "msg_cd": "MCA00000",
            "msg1": "정상처리 되었습니다.",
        }


def _fields(request: Request, *names: str) -> tuple[str, ...]:
    """Return the named members of a JSON body. Raises EGW00002 if a member is missing or is not a text."""
    try:
        body = request.json()
    except ValueError:
        body = None
    members = body if isinstance(body, dict) else {}
    values = tuple(value for name in names if isinstance(value := members.get(name), str) and value)
    if len(values) < len(names):
        raise RefusedError("EGW00002")
    return values


def _grant(request: Request, *names: str) -> tuple[str, ...]:
    """Return the named members of a JSON body that requests the grant type client_credentials.

    Raises EGW00002 if the grant type is different, or if a member is missing or is not a text.
    """
    grant_type, *values = _fields(request, "grant_type", *names)
    if grant_type != "client_credentials":
        raise RefusedError("EGW00002")
    return tuple(values)
