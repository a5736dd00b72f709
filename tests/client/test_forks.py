"""KISClient and the manager over os.fork(): each process gets its own answers and renewals, and no child hangs."""

from __future__ import annotations

import logging
import multiprocessing
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

from kis_token.client import credential_manager as manager
from kis_token.client.kis_client import KISClient
from kis_token.errors import KisTokenError
from kis_token.sandbox.kis_http import TOKEN_PATH
from kis_token.sandbox.loopback import LoopbackServer, Request, Response
from kis_token.token import fingerprint
from tests.forked_child import Child, forks, in_child, needs_fork
from tests.races.concurrent_callers import held
from tests.resolver_harness import expired_token, stale_token
from tests.support import TurnedClock, in_rounds, make_token
from tools.step import CHECKOUT

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.resolver_harness import Chain

pytestmark = [forks, needs_fork]

HELD_BACK = "held-back"


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    """Do not log calls: if another thread holds the lock of a log file at a fork, the child could wait for ever."""
    logger = logging.getLogger("urllib3")
    level = logger.level
    logger.setLevel(logging.WARNING)
    yield
    logger.setLevel(level)


class Echo:
    """A KIS that answers with the number in the call, and that holds back one call until ``opened`` is set."""

    def __init__(self) -> None:
        self.arrived, self.opened = threading.Event(), threading.Event()

    def __call__(self, request: Request) -> Response:
        """Answer one call."""
        number = dict(request.query)["number"]
        if number == HELD_BACK:
            self.arrived.set()
            self.opened.wait(30)
        return Response(200, {"rt_cd": "0", "number": number, "filler": "x" * 5000})


@pytest.fixture
def echo() -> Echo:
    """A KIS that answers with the number in the call."""
    return Echo()


SERVER = """
import sys
from pathlib import Path
from kis_token.sandbox.loopback import LoopbackServer, Response
from tools.certificate import make_certificate
def answer(request):
    return Response(200, {"rt_cd": "0", "number": dict(request.query)["number"]})
with LoopbackServer(answer, tls=make_certificate(Path(sys.argv[1]))[1]) as server:
    print(server.url, flush=True)
    sys.stdin.read()
"""


@contextmanager
def apart(folder: Path) -> Iterator[str]:
    """The address of a KIS with TLS that answers with the number in the call.

    The KIS runs in its own process, because a fork would copy locks of OpenSSL that a thread holds.
    """
    command = [sys.executable, "-c", SERVER, str(folder)]
    with subprocess.Popen(command, cwd=CHECKOUT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdin is not None
        assert server.stdout is not None
        yield server.stdout.readline().strip()
        server.stdin.close()


def make_client(chain: Chain, url: str) -> KISClient:
    """A client that has called KIS before."""
    chain.database.put_token(make_token())
    client = KISClient(chain.settings(base_url=url))
    assert ask(client, "0") == "0"
    return client


@pytest.fixture
def plain_client(chain: Chain, echo: Echo) -> Iterator[KISClient]:
    """A client without TLS."""
    with LoopbackServer(echo) as server, make_client(chain, server.url) as client:
        yield client


@pytest.fixture(params=["plain", "tls"])
def client(
    request: pytest.FixtureRequest, chain: Chain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[KISClient]:
    """A client with TLS and one without."""
    if request.param == "plain":
        yield request.getfixturevalue("plain_client")
        return
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(tmp_path / "certificate.pem"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with apart(tmp_path) as url, make_client(chain, url) as client:
        yield client


def ask(client: KISClient, number: str) -> str:
    """Make a call with ``number``; return the number in the answer."""
    answer = client.request("GET", "/uapi/x", tr_id="x", params={"number": number})
    return str(answer.json()["number"])


def all_its_own(client: KISClient, name: str, calls: int = 15) -> bool:
    """Whether each of ``calls`` calls gets its own answer."""
    return all(ask(client, f"{name}-{index}") == f"{name}-{index}" for index in range(calls))


@contextmanager
def calling(client: KISClient, threads: int = 3) -> Iterator[list[bool]]:
    """Run threads that call KIS during the block. The yielded list shows whether each call got its own answer."""
    ended, results = threading.Event(), list[bool]()

    def run(name: str) -> None:
        while not ended.is_set():
            results.append(all_its_own(client, name, 1))

    with ThreadPoolExecutor(threads) as pool:
        try:
            done = [pool.submit(run, f"thread-{number}") for number in range(threads)]
            yield results
        finally:
            ended.set()
        for each in done:
            each.result()


@in_rounds(3, 6)
def test_a_child_never_gets_another_process_s_answer(client: KISClient, rounds: int) -> None:
    """If parent and children call at the same time in several threads, each process gets its own answers."""

    def child() -> bool:
        with ThreadPoolExecutor(2) as pool:
            return all(pool.map(lambda name: all_its_own(client, name), ("a", "b")))  # each call in a thread

    with calling(client) as results:
        for _ in range(rounds):
            children = [Child(child) for _ in range(2)]
            assert all_its_own(client, "parent")
            assert [each.result() for each in children] == [True, True]

    assert all(results)
    assert len(results) > 3


def _work(client: KISClient, name: str, answers: Any) -> None:  # noqa: ANN401 - a queue of multiprocessing
    answers.put(all_its_own(client, name))


def test_children_of_multiprocessing(client: KISClient) -> None:
    """Children that multiprocessing forks inherit the client, and get the answers to their own calls."""
    context = multiprocessing.get_context("fork")
    answers = context.Queue()
    children = [context.Process(target=_work, args=(client, f"{number}", answers)) for number in range(4)]
    for each in children:
        each.start()
    assert all_its_own(client, "parent")
    assert [answers.get(timeout=30) for _ in children] == [True] * 4
    for each in children:
        each.join(30)
        assert each.exitcode == 0


def test_a_grandchild(client: KISClient) -> None:
    """A parent, its child and the child of that child each have their own connections."""

    def child() -> list[bool]:
        before = all_its_own(client, "child")
        grandchild = Child(lambda: all_its_own(client, "grandchild"))
        return [before, all_its_own(client, "child"), grandchild.result()]

    one = Child(child)
    assert all_its_own(client, "parent")
    assert one.result() == [True, True, True]


def test_a_fork_in_the_middle_of_another_thread_s_call(plain_client: KISClient, echo: Echo) -> None:
    """A child's call is answered while a call of the parent still waits, and each gets its own answer."""
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(ask, plain_client, HELD_BACK)
        assert echo.arrived.wait(30)
        assert in_child(lambda: all_its_own(plain_client, "child")) is True
        echo.opened.set()
        assert waiting.result(30) == HELD_BACK
    assert all_its_own(plain_client, "parent")


def test_a_client_closed_in_the_child(client: KISClient) -> None:
    """If a child closes the client, the parent's connections stay open, and the child may call again."""

    def child() -> bool:
        client.close()
        answered = all_its_own(client, "child")
        client.close()
        return answered

    kept = client._session._sessions.get()
    with calling(client) as results:
        assert [in_child(child) for _ in range(3)] == [True] * 3
    assert all(results)
    assert all_its_own(client, "parent")
    assert client._session._sessions.get() is kept


def test_a_child_keeps_the_token(chain: Chain) -> None:
    """A child uses the token of its parent, without a request to the store or to KIS."""
    with KISClient(chain.settings()) as client:
        token_id = fingerprint(client.access_token)
        asked = len(chain.store_calls)
        assert in_child(lambda: fingerprint(client.access_token)) == token_id
    assert (len(chain.store_calls), chain.issue_calls) == (asked, 1)


@pytest.mark.parametrize("has_token", [True, False], ids=["a stale token", "no token"])
def test_a_child_forked_while_a_thread_renews(chain: Chain, *, has_token: bool) -> None:
    """During a renewal in the parent, a child uses a stale token, and waits for the new token if it has none.

    KIS is called once.
    """
    if has_token:
        chain.database.put_token(stale_token())
    with KISClient(chain.settings(cache_path="off")) as client, ThreadPoolExecutor(1) as pool:
        with held(chain.kis.production, TOKEN_PATH) as arrived:
            renewal = pool.submit(lambda: fingerprint(client.access_token))
            assert arrived.wait(30)
            child = Child(lambda: fingerprint(client.access_token))
            if has_token:
                assert child.result() == chain.database.stored_id()
        token_id = renewal.result(30)
        if not has_token:
            assert child.result() == token_id
    assert chain.issue_calls == 1


def test_a_child_has_failures_of_its_own(chain: Chain) -> None:
    """If a renewal fails in the parent, the child does not get this error, and makes a renewal of its own."""
    chain.database.put_token(expired_token())
    chain.refuse_issue("EGW00201")
    with KISClient(chain.settings(cache_path="off"), clock=TurnedClock()) as client:
        with pytest.raises(KisTokenError):
            client.refresh_token()
        chain.pass_time(70)
        assert len(in_child(lambda: client.access_token)) > 100
    assert chain.issue_calls == 2


def test_the_manager_and_its_functions(chain: Chain, monkeypatch: pytest.MonkeyPatch) -> None:
    """A manager that was made before a fork works in the parent, in the child and in the child of the child."""
    for name, value in chain.variables.items():
        monkeypatch.setenv(name, value)
    manager.get_supabase_manager.cache_clear()
    token = make_token()
    chain.database.put_token(token)
    own = manager.SupabaseCredentialManager()

    def read(get: Callable[[], dict[str, Any] | None] = manager.get_kis_valid_token_from_supabase) -> str:
        found = get()
        return fingerprint(found["access_token"]) if found is not None else ""

    assert read() == token.token_id
    children = [Child(lambda: [read(), read(own.get_kis_token), in_child(read)]) for _ in range(3)]
    assert [read() for _ in range(5)] == [token.token_id] * 5
    assert [each.result() for each in children] == [[token.token_id] * 3] * 3
    manager.get_supabase_manager.cache_clear()
