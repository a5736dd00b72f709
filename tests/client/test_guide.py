"""Code that was written for the guide works unchanged with this package's classes: calls, attributes, subclasses."""

from __future__ import annotations

import json
import re
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any

import pytest

from kis_token import (
    KISClient,
    KisTokenError,
    SupabaseCredentialManager,
    TokenRefreshLimitError,
)
from kis_token.sandbox.kis_http import PRICE_PATH, PRICE_TR_ID, error_response
from kis_token.sandbox.loopback import Fault, LoopbackServer, Request, Response
from kis_token.token import fingerprint
from tests.support import ACCOUNT, APP_KEY, HOUR, SERVICE_KEY, make_token, utc_now
from tools.step import CHECKOUT

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kis_token.sandbox.postgrest import PostgRESTStandIn
    from tests.resolver_harness import Chain
    from tests.support import Database

QUOTE = {"FID_COND_MRKT_DIV_CODE": "J", "FID_INPUT_ISCD": "005930"}
ORDER_PATH = "/uapi/domestic-stock/v1/trading/order-cash"


class RecordingKIS(LoopbackServer):
    """A KIS that accepts and records every call."""

    def __init__(self) -> None:
        super().__init__(self.take)
        self.asked: list[Request] = []

    def take(self, request: Request) -> Response:
        """Record the call and answer it."""
        self.asked.append(request)
        return Response(200, {"rt_cd": "0"})


@pytest.fixture
def recording() -> Iterator[RecordingKIS]:
    """A server that records the client's requests."""
    with RecordingKIS() as server:
        yield server


@pytest.fixture
def client(chain: Chain, recording: RecordingKIS) -> Iterator[KISClient]:
    """A client for a slot with a token."""
    chain.database.put_token(make_token())
    with KISClient(chain.settings(base_url=recording.url), clock=chain.clock()) as client:
        yield client


@pytest.mark.parametrize("name", ["tr_id", "TR_ID", "Tr_Id"])
def test_tr_id_among_the_headers(recording: RecordingKIS, client: KISClient, name: str) -> None:
    """A call may have its tr_id in the headers, in upper or lower case."""
    answer = client.request("GET", PRICE_PATH, headers={name: PRICE_TR_ID}, params=QUOTE)
    assert answer.status_code == 200
    assert recording.asked[-1].headers["tr_id"] == PRICE_TR_ID


def test_headers_of_one_s_own(recording: RecordingKIS, client: KISClient) -> None:
    """If a call passes all headers, the client replaces token and keys, and keeps custtype."""
    headers = {
        "Content-Type": "application/json",
        "Authorization": "Bearer old",
        "appKey": "old",
        "appSecret": "old",
        "tr_id": PRICE_TR_ID,
        "custtype": "B",
    }
    client.request("GET", PRICE_PATH, headers=headers, params=QUOTE)
    sent = recording.asked[-1].headers
    is_ours = (sent["appkey"], sent["appsecret"]) == (ACCOUNT.app_key, ACCOUNT.app_secret)
    assert (is_ours, sent["authorization"] != "Bearer old", sent["custtype"]) == (True, True, "B")


def test_argument_wins_over_the_header(recording: RecordingKIS, client: KISClient) -> None:
    """If tr_id is an argument and a header, the argument is used."""
    client.request("GET", PRICE_PATH, tr_id=PRICE_TR_ID, headers={"tr_id": "other"}, params=QUOTE)
    assert recording.asked[-1].headers["tr_id"] == PRICE_TR_ID


def test_call_without_a_tr_id_is_an_error(recording: RecordingKIS, client: KISClient) -> None:
    """A call without tr_id raises a TypeError that names tr_id, and nothing is sent."""
    for headers in (None, {}, {"custtype": "P"}):
        with pytest.raises(TypeError, match="tr_id"):
            client.request("GET", PRICE_PATH, headers=headers)
    assert recording.asked == []


@pytest.mark.parametrize("body", ['{"PDNO": "005930"}', b'{"PDNO": "005930"}'], ids=["str", "bytes"])
def test_body_as_text(recording: RecordingKIS, client: KISClient, body: str | bytes) -> None:
    """``data=json.dumps(...)`` is sent unchanged, as JSON."""
    client.request("POST", ORDER_PATH, headers={"tr_id": "TTTC0802U"}, data=body)
    assert recording.asked[-1].json() == {"PDNO": "005930"}
    assert recording.asked[-1].headers["content-type"].startswith("application/json")


def test_body_that_would_be_a_form_is_refused(client: KISClient) -> None:
    """A mapping as ``data`` is refused, because it would be sent as a form, and KIS accepts only JSON.

    A call with two bodies is refused too.
    """
    for bodies in ({"data": {"PDNO": "1"}}, {"data": "{}", "json": {}}):
        with pytest.raises(TypeError):
            client.request("POST", ORDER_PATH, tr_id="TTTC0802U", **bodies)


@pytest.mark.parametrize("is_positional", [True, False])
def test_retry_can_be_turned_off(chain: Chain, *, is_positional: bool) -> None:
    """With ``_retry=False``, positional or by name, a rejection is returned as the answer, and no token is issued."""
    chain.kis.production.add_fault(Fault("answer", PRICE_PATH, 9, error_response("EGW00123", PRICE_PATH)))
    chain.database.put_token(make_token())
    client, headers = KISClient(chain.settings(), clock=chain.clock()), {"tr_id": PRICE_TR_ID}
    if is_positional:
        answer = client.request("GET", PRICE_PATH, False, headers=headers)  # noqa: FBT003 - the guide's signature
    else:
        answer = client.request("GET", PRICE_PATH, _retry=False, headers=headers)
    client.close()
    assert answer.json()["msg_cd"] == "EGW00123"
    assert (chain.issue_calls, sum(seen.path == PRICE_PATH for seen in chain.kis.production.seen)) == (0, 1)


class GuideClient(KISClient):
    """A subclass that overrides request and calls the guide's private methods."""

    def request(self, method: str, path: str, _retry: bool = True, **kwargs: Any) -> Any:  # noqa: ANN401, FBT001, FBT002 - the guide's signature
        """Call the API as the guide's code does."""
        self._ensure_token()
        return super().request(method, path, _retry, **kwargs)

    def renew(self) -> str:
        """Renew if the limit allows it."""
        try:
            if not self._can_refresh_token():
                raise TokenRefreshLimitError("24시간 내 재발급 불가")  # noqa: TRY301 - as in the guide's code
            self._refresh_token()
        except TokenRefreshLimitError as error:
            return f"{error}"
        return ""


def test_subclass_of_the_client(chain: Chain) -> None:
    """The guide's private methods exist, and code can raise the guide's error with only a text."""
    chain.database.put_token(make_token(age=2 * HOUR))
    with GuideClient(chain.settings(), clock=chain.clock()) as client:
        client.request("GET", PRICE_PATH, headers={"tr_id": PRICE_TR_ID}, params=QUOTE)
        assert client.renew().startswith("24시간 내 재발급 불가 [token-too-young]. ")
        with pytest.raises(TokenRefreshLimitError):
            client._refresh_token()
    chain.pass_time(7 * 3600)
    chain.database.put_token(make_token(left=HOUR / 2, age=23 * HOUR + HOUR / 2))
    issued = chain.issue_calls
    with GuideClient(chain.settings(cache_path="off", min_validity="1m"), clock=chain.clock()) as client:
        assert client.renew() == ""
    assert chain.issue_calls == issued + 1


def test_attributes_of_the_client(chain: Chain, client: KISClient) -> None:
    """The client has the guide's attributes; the two times have a zone."""
    is_ours = (client.app_key, client.app_secret) == (APP_KEY.key, APP_KEY.secret)
    assert (is_ours, fingerprint(client.access_token)) == (True, chain.database.stored_id())
    assert client.token_issued_at < datetime.now(timezone.utc) < client.token_expires_at


class GuideManager(SupabaseCredentialManager):
    """A subclass with a query of its own, which uses the manager's client."""

    def count(self, service_name: str) -> int | None:
        """The number of a service's active rows."""
        client = self._get_client()
        if not client:
            return None
        table = client.table("api_credentials").select("credential_type, credential_value")
        return len(table.eq("service_name", service_name).eq("is_active", True).execute().data)  # noqa: FBT003 - the client's


def test_subclass_of_the_manager(supabase: PostgRESTStandIn, database: Database) -> None:
    """The manager has ``url`` and ``key``; its client is made once, at first use, and can query the project."""
    database.put("bot_token", "made-up", service="slack")
    manager = GuideManager(supabase.url, SERVICE_KEY, env={})
    assert (manager.url, manager.key == SERVICE_KEY, manager._client) == (supabase.url, True, None)
    assert manager.count("slack") == 1
    assert manager._get_client() is manager._get_client()


@pytest.mark.parametrize(
    "env",
    [{}, {"SUPABASE_URL": "https://abc.supabase.co"}, {"SUPABASE_SECRET_KEY": SERVICE_KEY}],
    ids=["", "url", "key"],
)
def test_manager_without_a_store(env: dict[str, str]) -> None:
    """If URL or key is missing, the attribute of the missing value is None, and the client is None."""
    manager = GuideManager(env=env)
    assert (manager.url, manager.key) == (env.get("SUPABASE_URL"), env.get("SUPABASE_SECRET_KEY"))
    assert (manager.is_available(), manager._get_client(), manager.count("slack")) == (False, None, None)


class OwnSettings(SupabaseCredentialManager):
    """A subclass that sets url and key itself, without calling the parent's __init__."""

    def __init__(self, url: str | None, key: str | None) -> None:
        self.url = url
        self.key = key
        self._client = None


class OtherSettings(SupabaseCredentialManager):
    """A subclass that changes url and key after the parent's __init__."""

    def __init__(self, url: str | None, key: str | None) -> None:
        super().__init__(env={})
        self.url, self.key = url, key


@pytest.mark.parametrize("kind", [OwnSettings, OtherSettings])
def test_subclass_that_sets_url_and_key(
    supabase: PostgRESTStandIn, database: Database, monkeypatch: pytest.MonkeyPatch, kind: type[OwnSettings]
) -> None:
    """All methods use the current ``url`` and ``key``, without quotes around them. None means no store."""
    for name in ("SUPABASE_URL", "SUPABASE_SERVICE_ROLE_KEY", "SUPABASE_SECRET_KEY"):
        monkeypatch.delenv(name, raising=False)
    token = make_token()
    database.put_token(token)
    manager = kind(f'"{supabase.url}"', SERVICE_KEY)
    found = manager.get_kis_valid_token()
    assert manager.is_available()
    assert found is not None
    assert fingerprint(found["access_token"]) == token.token_id
    manager.url = None
    assert (manager.is_available(), manager.get_kis_token()) == (False, None)
    assert not kind(None, None).is_available()


def test_names_of_the_guide_s_arguments(supabase: PostgRESTStandIn, database: Database) -> None:
    """Every argument of the manager's methods has the guide's name."""
    manager, token = GuideManager(supabase.url, SERVICE_KEY, env={}), make_token()
    is_saved = manager.save_kis_token(access_token=token.value, expires_at=token.expires_at, issued_at=token.issued_at)
    assert is_saved is True
    assert manager.get_credentials(service_name="kis") is not None
    assert database.stored_id() == token.token_id


def test_two_lines_for_times_with_a_zone(chain: Chain) -> None:
    """The lines of docs/migrating.md work with a row of this project; lines for times without a zone raise an error."""
    page = (CHECKOUT / "docs" / "migrating.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"```python\n(from datetime import .*?)```", page, re.DOTALL)
    lines: dict[str, Any] = {}
    exec(block, lines)  # noqa: S102 - the document's own program
    chain.resolve()
    row = chain.database.row()
    stored = json.loads(row["credential_value"])
    begun, end = (datetime.fromisoformat(stored[name]) for name in ("issued_at", "expires_at"))
    assert (lines["can_refresh"](begun), lines["has_expired"](end), lines["has_expired"](row["expires_at"])) == (
        False,
    ) * 3
    assert lines["can_refresh"](utc_now() - timedelta(hours=23))
    with pytest.raises(TypeError):
        assert datetime.now() > end  # noqa: DTZ005 - the line that docs/migrating.md replaces
    assert len(re.findall(r"# was: ", block)) == 2


def test_error_of_the_guide_is_one_of_ours() -> None:
    """TokenRefreshLimitError with only a text has the code token-too-young."""
    error = TokenRefreshLimitError("made up")
    assert isinstance(error, KisTokenError)
    assert (error.brief, error.retryable) == ("made up [token-too-young]", False)
