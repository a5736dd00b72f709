"""KISAuth in real httpx clients, sync and async, with the whole chain."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import anyio
import httpx
import pytest
from anyio import to_thread

from kis_token import KISAuth, SettingsError
from kis_token.errors import IssuanceError, IssuerRefused
from kis_token.kis.api import TOKEN_CODES
from kis_token.sandbox.kis_http import PRICE_PATH, PRICE_TR_ID, error_response
from kis_token.sandbox.loopback import Fault, LoopbackServer, Response
from tests.client.bots import ACCEPTED, ORDER_PATH, SAMSUNG
from tests.resolver_harness import stale_token
from tests.support import ACCOUNT, APP_KEY, TurnedClock

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    from kis_token.sandbox.loopback import Request
    from tests.resolver_harness import Chain

#: The clients: httpx's sync one, and its async one under each event loop.
KINDS = ("sync", "asyncio", "trio")
LOOPS = ("asyncio", "trio")
TOGETHER = 10


class HeldClock(TurnedClock):
    """A clock that blocks its first caller, a renewal, until the test sets ``released``."""

    def __init__(self) -> None:
        super().__init__()
        self.reached = threading.Event()
        self.released = threading.Event()

    def monotonic(self) -> float:
        """Wait for ``released``; return the seconds."""
        self.reached.set()
        assert self.released.wait(60), "the event loop waited for a renewal"
        return super().monotonic()


@dataclass
class Program:
    """A program with an httpx client of one kind, and the servers that it calls."""

    chain: Chain
    clock: TurnedClock
    auth: KISAuth
    kind: str = "sync"

    def request(self, method: str, path: str, **arguments: Any) -> httpx.Response:  # noqa: ANN401 - httpx's own
        """Send one request with a new client."""
        if self.kind == "sync":
            with httpx.Client(auth=self.auth, base_url=self.auth.base_url, trust_env=False) as client:
                return client.request(method, path, **arguments)

        async def main() -> httpx.Response:
            async with self.open() as client:
                return await client.request(method, path, **arguments)

        return anyio.run(main, backend=self.kind)

    def open(self) -> httpx.AsyncClient:
        """Return an async client."""
        return httpx.AsyncClient(auth=self.auth, base_url=self.auth.base_url, trust_env=False, timeout=60)

    def quote(self) -> httpx.Response:
        """Ask for a price."""
        return self.request("GET", PRICE_PATH, params=SAMSUNG, headers={"tr_id": PRICE_TR_ID})

    def reject(self) -> None:
        """Let 7 hours pass, and let KIS reject the token from now on."""
        self.clock.sleep(7 * 3600)
        self.chain.kis.kill_tokens(ACCOUNT.app_key)

    def answer(self, path: str, response: Response, times: int = 1) -> None:
        """Let KIS give this answer to the next ``times`` calls of ``path``."""
        self.chain.kis.production.add_fault(Fault("answer", path, times, response))

    def sent(self, path: str = PRICE_PATH) -> int:
        """The number of calls to ``path``."""
        return sum(seen.path == path for seen in self.chain.kis.production.seen)


async def quote(client: httpx.AsyncClient) -> httpx.Response:
    """Ask for a price with an async client."""
    return await client.get(PRICE_PATH, params=SAMSUNG, headers={"tr_id": PRICE_TR_ID})


def is_quote(answer: httpx.Response) -> bool:
    """Whether KIS answered with a price."""
    return answer.status_code == 200 and answer.json()["output"]["stck_prpr"] == "71500"


@pytest.fixture
def make_program(chain: Chain) -> Callable[..., Program]:
    """A function that makes programs for the slot kis from inputs of the action."""

    def make(clock: TurnedClock | None = None, /, **inputs: str) -> Program:
        clock = clock or chain.clock()
        return Program(chain, clock, KISAuth(chain.settings(**inputs), clock=clock))

    return make


@pytest.fixture
def program(make_program: Callable[..., Program]) -> Program:
    """A program for an empty slot."""
    return make_program()


@pytest.fixture
def heard() -> Iterator[tuple[LoopbackServer, list[Request]]]:
    """A server that acts as KIS, and the requests that it has accepted."""
    requests: list[Request] = []

    def accept(request: Request) -> Response:
        requests.append(request)
        return ACCEPTED

    with LoopbackServer(accept) as server:
        yield server, requests


@pytest.mark.parametrize("kind", KINDS)
def test_first_request_issues_and_later_ones_do_not(program: Program, kind: str) -> None:
    """On an empty slot, the first request issues a token; later requests do not call tokenP or the store."""
    program.kind = kind
    assert is_quote(program.quote())
    asked = len(program.chain.store_calls)

    assert all(is_quote(program.quote()) for _ in range(3))

    assert program.chain.issue_calls == 1
    assert len(program.chain.store_calls) == asked


def test_headers_are_filled_in(
    program: Program, make_program: Callable[..., Program], heard: tuple[LoopbackServer, list[Request]]
) -> None:
    """KISAuth replaces given tokens and keys, adds missing content-type and custtype, and keeps the other headers."""
    assert is_quote(program.quote())
    server, requests = heard
    other = make_program(base_url=server.url)

    other.request("GET", "/x", headers={"tr_id": "T1", "authorization": "x", "appsecret": "y"})
    other.request("GET", "/x", headers={"custtype": "B", "content-type": "text/plain"})

    first, second = (request.headers for request in requests)
    is_filled = (first["appkey"], first["appsecret"]) == (APP_KEY.key, APP_KEY.secret)
    assert is_filled, "the keys are missing"
    assert first["authorization"].startswith("Bearer eyJ")
    assert len(first.get_all("authorization", [])) == 1
    assert (first["tr_id"], first["custtype"]) == ("T1", "P")
    assert first["content-type"] == "application/json; charset=utf-8"
    assert (second["custtype"], second["content-type"]) == ("B", "text/plain")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("code", "status"), [*zip(sorted(TOKEN_CODES), (200, 401, 500), strict=True)])
def test_rejected_token_is_replaced(program: Program, kind: str, code: str, status: int) -> None:
    """If KIS rejects the token, with any HTTP status, a token is issued and the request is sent again, once."""
    program.kind = kind
    assert is_quote(program.quote())
    program.reject()
    program.answer(PRICE_PATH, error_response(code, PRICE_PATH, status=status))

    assert is_quote(program.quote())

    assert (program.sent(), program.chain.issue_calls) == (3, 2)


def test_newer_stored_token_is_taken(program: Program) -> None:
    """If another caller has renewed the rejected token, the new token is used without a tokenP call."""
    assert is_quote(program.quote())
    program.reject()
    program.chain.resolve(program.clock, mode="force", cache_path="off")

    assert is_quote(program.quote())

    assert (program.sent(), program.chain.issue_calls) == (3, 2)


@pytest.mark.parametrize("kind", KINDS)
def test_second_refusal_is_the_answer(program: Program, kind: str) -> None:
    """A request is sent again only once. If KIS rejects the second token too, that answer is returned."""
    program.kind = kind
    assert is_quote(program.quote())
    program.reject()
    program.answer(PRICE_PATH, error_response("EGW00121", PRICE_PATH), times=5)

    assert program.quote().json()["msg_cd"] == "EGW00121"

    assert (program.sent(), program.chain.issue_calls) == (3, 2)


@pytest.mark.parametrize(
    "response",
    [Response(401, b""), Response(200, {"rt_cd": "0", "msg_cd": "EGW00121"}), error_response("EGW00304", PRICE_PATH)],
    ids=["401", "success", "EGW00304"],
)
@pytest.mark.parametrize("kind", ["sync", "asyncio"])
def test_other_answers_do_not_reject_the_token(program: Program, kind: str, response: Response) -> None:
    """The code in the body decides whether the token is rejected, not the HTTP status.

    An answer with another code is returned.
    """
    program.kind = kind
    program.answer(PRICE_PATH, response)
    assert program.quote().status_code == response.status
    assert (program.sent(), program.chain.issue_calls) == (1, 1)


@pytest.mark.parametrize("kind", ["sync", "asyncio"])
def test_order_is_repeated_with_its_whole_body(
    program: Program, make_program: Callable[..., Program], heard: tuple[LoopbackServer, list[Request]], kind: str
) -> None:
    """If an order's token is rejected, the whole body is sent again, even if the body came from a generator."""
    assert is_quote(program.quote())
    server, requests = heard
    other = make_program(program.clock, base_url=server.url)
    other.kind = kind
    other.request("GET", "/x")
    program.reject()
    program.chain.resolve(program.clock, mode="force", cache_path="off")
    server.add_fault(Fault("answer", ORDER_PATH, 1, error_response("EGW00123", ORDER_PATH)))

    async def parts() -> AsyncIterator[bytes]:
        yield b'{"PDNO":'
        yield b'"005930"}'

    content = iter([b'{"PDNO":', b'"005930"}']) if kind == "sync" else parts()
    headers = {"tr_id": "TTTC0802U", "content-length": "17"}  # the server cannot read chunks
    assert other.request("POST", ORDER_PATH, content=content, headers=headers).json()["rt_cd"] == "0"

    assert [seen.path for seen in server.seen] == ["/x", ORDER_PATH, ORDER_PATH]
    assert requests[-1].json() == {"PDNO": "005930"}


@pytest.mark.parametrize("loop", LOOPS)
def test_tasks_refused_at_once_make_one_refresh(program: Program, loop: str) -> None:
    """If several tasks have a rejected token, all get a price after one tokenP call and one lease."""
    program.chain.kis.configure(calls_per_second=100)
    assert is_quote(program.quote())
    program.reject()
    program.chain.supabase.server.forget()
    answers: list[bool] = []

    async def main() -> None:
        async def ask() -> None:
            answers.append(is_quote(await quote(client)))

        async with program.open() as client, anyio.create_task_group() as group:
            for _ in range(TOGETHER):
                group.start_soon(ask)

    anyio.run(main, backend=loop)

    assert answers == [True] * TOGETHER
    assert program.chain.issue_calls == 2
    assert program.chain.store_calls.count("begin_issuance") == 1


@pytest.mark.parametrize("loop", LOOPS)
def test_other_tasks_run_during_a_renewal(make_program: Callable[..., Program], loop: str) -> None:
    """The event loop does not wait for a renewal: another task runs and releases the renewal."""
    clock = HeldClock()
    program = make_program(clock)
    answers: list[bool] = []

    async def main() -> None:
        async def ask() -> None:
            answers.append(is_quote(await quote(client)))

        async with program.open() as client, anyio.create_task_group() as group:
            group.start_soon(ask)
            await to_thread.run_sync(clock.reached.wait)
            clock.released.set()

    anyio.run(main, backend=loop)

    assert (answers, program.chain.issue_calls) == ([True], 1)


@pytest.mark.parametrize("loop", LOOPS)
def test_cancelled_task_ends_at_once_and_the_token_is_kept(make_program: Callable[..., Program], loop: str) -> None:
    """If a task is cancelled during a renewal, the task ends at once, and the next request uses the renewed token."""
    clock = HeldClock()
    program = make_program(clock)

    async def main() -> bool:
        async with program.open() as client:
            async with anyio.create_task_group() as group:
                group.start_soon(quote, client)
                await to_thread.run_sync(clock.reached.wait)
                group.cancel_scope.cancel()
            assert not clock.released.is_set()
            clock.released.set()
            return is_quote(await quote(client))

    assert anyio.run(main, backend=loop)
    assert program.chain.issue_calls == 1


def test_token_near_its_end_is_renewed_first(program: Program) -> None:
    """A stale token is renewed before the request."""
    program.chain.database.put_token(stale_token())
    assert is_quote(program.quote())
    assert (program.sent(), program.chain.issue_calls) == (1, 1)


@pytest.mark.parametrize("kind", KINDS)
def test_errors_are_this_package_s(make_program: Callable[..., Program], kind: str) -> None:
    """If there is no token, a request raises this package's error unchanged, and the API gets no call."""
    program = make_program()
    program.kind = kind
    program.chain.refuse_issue("EGW00105", times=5)

    with pytest.raises(IssuerRefused):
        program.quote()

    assert program.sent() == 0


@pytest.mark.parametrize("kind", ["sync", "asyncio"])
def test_token_that_kis_repeats_is_an_error(program: Program, kind: str) -> None:
    """If KIS repeats the rejected token, the request raises an error after one tokenP call."""
    program.kind = kind
    assert is_quote(program.quote())
    program.clock.sleep(3600)
    program.chain.kis.kill_tokens(ACCOUNT.app_key)

    with pytest.raises(IssuanceError) as caught:
        program.quote()

    assert (caught.value.code, program.chain.issue_calls) == ("token-repeated", 2)


@pytest.mark.parametrize("kind", ["sync", "asyncio"])
@pytest.mark.parametrize("path", ["http://127.0.0.1:1/x", "https://127.0.0.1/x", "http://user@localhost/x"])
def test_other_hosts_get_no_keys(program: Program, kind: str, path: str) -> None:
    """A request to another host, port or scheme raises ValueError, before any request to the store or to KIS."""
    program.kind = kind
    with pytest.raises(ValueError, match="KISAuth sends token and keys to"):
        program.request("GET", path)
    assert (program.chain.store_calls, program.chain.issue_calls) == ([], 0)


def test_settings_of_the_environment(chain: Chain) -> None:
    """KISAuth uses the same variables as KISClient, and its repr shows no secret."""
    auth = KISAuth.from_env({**chain.variables, "KIS_ACCOUNT_NO": "12345678-01"})

    assert (auth.base_url, auth.environment, auth.account_no) == (chain.kis.production_url, "production", "12345678-01")
    assert repr(auth) == f"KISAuth({chain.kis.production_url!r}, 'kis')"
    with pytest.raises(SettingsError):
        KISAuth.from_env({})
