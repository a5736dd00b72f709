"""One token, also when the network hiccups: the rows of the second review, and others of their kinds."""

from __future__ import annotations

import base64
import json
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import pytest

from kis_token.client.kis_client import KISClient
from kis_token.clock import SystemClock
from kis_token.errors import IssuanceError, IssuerOutage, IssuerRateLimited, KisTokenError, StoreOutage
from kis_token.local.machine_lock import LocalMachine
from kis_token.sandbox.kis_http import PRICE_PATH, PRICE_TR_ID, TOKEN_PATH, html_response
from kis_token.sandbox.loopback import Fault, FaultKind, LoopbackServer, Response
from tests.faults.helpers import ABORT, BEGIN, COMMIT, TABLE, assert_warned, black_hole
from tests.faults.test_store import OUTAGES, mend
from tests.races.caller_processes import SECONDS
from tests.resolver_harness import OTHER, WatchedIssuer, stale_token
from tests.support import ANON_KEY, APP_KEY, HOUR, MINUTE, Contender, TurnedClock, make_token, utc_now
from tools.certificate import make_certificate

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from typing_extensions import Self

    from tests.resolver_harness import Chain

_Answer = TypeVar("_Answer")

HICCUPS = {
    **{name: fault for name, fault in OUTAGES.items() if name != "redirect"},  # a redirect is never a hiccup
    "502": Fault("answer", response=html_response(502)),
    "504": Fault("answer", response=Response(504, {"code": "PGRST003", "message": "timed out"})),
    "database-starts": Fault("answer", response=Response(503, {"code": "PGRST002", "message": "no schema cache"})),
    "too-many-connections": Fault("answer", response=Response(500, {"code": "53300", "message": "too many clients"})),
    "shutdown": Fault("answer", response=Response(500, {"code": "57P01", "message": "terminating connection"})),
    "list-of-text": Fault("answer", response=Response(200, ["a"])),
}

hiccups = pytest.mark.parametrize("name", HICCUPS)
keys = pytest.mark.parametrize("keys", ["given", "stored"])


def inputs_of(chain: Chain, keys: str) -> dict[str, str]:
    """The inputs of a job that gives the keys, or of one that finds them in the store."""
    if keys == "given":
        return {}
    chain.database.put_keys()
    return {"app_key": "", "app_secret": ""}


def refuse_once(chain: Chain, clock: TurnedClock) -> None:
    """Let the store refuse connections until somebody has slept."""
    chain.supabase.stop()

    def start(_: float) -> None:
        chain.supabase.start()

    clock.on_sleep = start


# one read fails once


@hiccups
@keys
def test_one_read_that_fails_once_costs_no_token(chain: Chain, name: str, keys: str) -> None:
    """The read is tried again within a second, and the stored token is used, without a warning."""
    inputs = inputs_of(chain, keys)
    token = make_token()
    chain.database.put_token(token)
    chain.supabase.server.add_fault(replace(HICCUPS[name], path=TABLE))
    clock = chain.clock()

    got = chain.resolve(clock, **inputs)

    assert (got.token.token_id, got.source, got.warnings) == (token.token_id, "supabase", ())
    assert (chain.issue_calls, chain.store_calls) == (0, ["read", "read"])
    assert sum(clock.slept) < 1


@keys
def test_a_refused_connection_costs_no_token(chain: Chain, keys: str) -> None:
    """The same for a store that does not listen for a moment."""
    inputs = inputs_of(chain, keys)
    token = make_token()
    chain.database.put_token(token)
    clock = chain.clock()
    refuse_once(chain, clock)

    got = chain.resolve(clock, **inputs)

    assert (got.token.token_id, got.warnings, chain.issue_calls) == (token.token_id, (), 0)
    assert sum(clock.slept) < 1


def test_a_name_server_that_fails_once_costs_no_token(chain: Chain, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same for a name that cannot be resolved for a moment."""
    token = make_token()
    chain.database.put_token(token)
    resolve, failures = socket.getaddrinfo, [socket.gaierror(socket.EAI_AGAIN, "try again")]

    def resolve_later(*arguments: Any, **named: Any) -> Any:  # noqa: ANN401 - as getaddrinfo
        if failures:
            raise failures.pop()
        return resolve(*arguments, **named)

    monkeypatch.setattr(socket, "getaddrinfo", resolve_later)
    assert chain.resolve().token.token_id == token.token_id
    assert (failures, chain.issue_calls) == ([], 0)


@pytest.mark.parametrize("times", [3, 8])
def test_a_store_that_is_out_for_a_while_costs_no_token(chain: Chain, times: int) -> None:
    """With nothing at hand a caller is patient, for a good part of its time; one line says that it waits."""
    token = make_token()
    chain.database.put_token(token)
    chain.supabase.server.add_fault(replace(OUTAGES["503"], times=times))

    got = chain.resolve()

    assert (got.token.token_id, got.warnings, chain.issue_calls) == (token.token_id, (), 0)
    assert len(chain.told) == 1
    assert "trying again" in chain.told[0]


@pytest.mark.parametrize("mode", ["rotate", "force", "check"])
def test_one_read_that_fails_once_spoils_no_other_mode(chain: Chain, mode: str) -> None:
    """A rotation, a forced renewal and a check go on as if nothing had happened."""
    age = 8 * HOUR if mode == "force" else MINUTE
    chain.database.put_token(make_token(left=24 * HOUR - age, age=age))
    chain.supabase.server.add_fault(replace(OUTAGES["reset"], path=TABLE))

    got = chain.resolve(mode=mode)

    assert (got.warnings, chain.issue_calls) == ((), 1 if mode == "force" else 0)


@pytest.mark.parametrize("path", [BEGIN, COMMIT], ids=["begin", "commit"])
@pytest.mark.parametrize("after", [False, True], ids=["request-lost", "answer-lost"])
@pytest.mark.parametrize("times", [1, 4])
def test_a_write_that_fails_costs_one_call_all_the_same(
    chain: Chain,
    path: str,
    after: bool,  # noqa: FBT001 - a table
    times: int,
) -> None:
    """Begin and commit are repeated: one lease, one call, one stored token, no warning."""
    chain.supabase.server.add_fault(Fault("reset", path, times, after=after))

    got = chain.resolve()

    assert (got.source, got.warnings, chain.issue_calls) == ("oauth", (), 1)
    assert chain.database.stored_id() == got.token.token_id
    assert chain.database.outcomes()[-2:] == ["granted", "committed"]


def test_an_abort_that_fails_once_keeps_nobody_waiting(chain: Chain) -> None:
    """The lease is given back at the second try, and the next caller issues at once."""
    chain.kis.production.stop()
    chain.supabase.server.add_fault(Fault("reset", ABORT))
    with pytest.raises(IssuerOutage):
        chain.resolve()
    chain.kis.production.start()
    clock = chain.clock()

    assert (chain.resolve(clock).source, clock.slept) == ("oauth", [])


def test_a_valid_cached_token_is_waited_for_no_longer_than_a_second(chain: Chain) -> None:
    """With a valid token in the cache, an outage costs two quick tries."""
    token = stale_token()
    chain.cache_token(token)
    chain.supabase.stop()
    clock = chain.clock()

    got = chain.resolve(clock)

    assert (got.token.token_id, got.source) == (token.token_id, "cache")
    assert 0 < sum(clock.slept) < 1


@pytest.mark.parametrize("mode", ["rotate", "force"])
def test_a_renewal_is_patient_although_a_token_is_cached(chain: Chain, mode: str) -> None:
    """A cached token is no substitute for a renewal, which needs the store: it waits for that."""
    chain.cache_token(make_token())
    chain.database.put_token(stale_token())
    chain.supabase.server.add_fault(replace(OUTAGES["reset"], times=6))

    assert chain.resolve(mode=mode).warnings == ()


def test_a_program_with_a_valid_token_is_not_held_up(chain: Chain) -> None:
    """A client without a cache that holds a stale token does not wait for a store that is out, and issues nothing."""
    token = stale_token()
    chain.database.put_token(token)
    chain.kis.production.stop()
    with KISClient(chain.settings(cache_path="off"), clock=chain.clock()) as client:
        assert client.token_expires_at == token.expires_at
    chain.kis.production.start()
    clock = chain.clock()
    with KISClient(chain.settings(cache_path="off"), clock=clock) as client:
        chain.refuse_issue("EGW00999")
        assert client.token_expires_at == token.expires_at
        chain.supabase.stop()
        clock.jump(60)
        slept = len(clock.slept)
        assert client.token_expires_at == token.expires_at
    assert sum(clock.slept[slept:]) < 1
    assert chain.issue_calls == 1


# when one may issue alone


def test_without_the_store_a_token_is_issued_only_after_patience(chain: Chain) -> None:
    """The default, issue, is the last resort: after half of the time that issuing does not need."""
    chain.supabase.stop()
    clock = chain.clock()

    got = chain.resolve(clock, timeout="180s")

    assert (got.source, chain.issue_calls) == ("oauth", 1)
    assert 30 < sum(clock.slept) < 45
    assert_warned(got, "[store-unreachable]", "other machines do not see")


def test_a_store_that_is_back_when_the_runtime_is_built_is_used(chain: Chain) -> None:
    """After the fast path has seen an outage, the rest of the program looks once more before it would issue alone."""
    token = make_token()
    chain.database.put_token(token)
    chain.supabase.stop()
    resolver = chain.resolver()
    view = resolver.look()
    chain.supabase.start()

    got = resolver.resolve(view)

    assert (got.token.token_id, got.source, chain.issue_calls) == (token.token_id, "supabase", 0)


def test_a_store_that_is_back_when_the_lock_is_free_is_used(chain: Chain, monkeypatch: pytest.MonkeyPatch) -> None:
    """A caller that has waited for another of its machine looks at the store again as well."""
    token = make_token()
    chain.database.put_token(token)
    chain.supabase.stop()

    class Busy(LocalMachine):
        @contextmanager
        def lock(self, app_key_id: str, seconds: float) -> Iterator[None]:
            with super().lock(app_key_id, seconds):
                chain.supabase.start()
                yield

    monkeypatch.setattr(type(chain), "machine", Busy(lambda: [chain.machine_folder]))

    got = chain.resolve()

    assert (got.token.token_id, got.source, chain.issue_calls) == (token.token_id, "supabase", 0)


@pytest.mark.parametrize("after", [False, True], ids=["request-lost", "answer-lost"])
@pytest.mark.parametrize("kind", ["reset", "truncate"])
def test_begin_that_reaches_the_database_and_whose_answers_are_lost(
    chain: Chain,
    kind: FaultKind,
    after: bool,  # noqa: FBT001 - a table
) -> None:
    """A caller that may hold a lease without knowing it issues nothing, nor does the next holder beside it."""
    chain.supabase.server.add_fault(Fault(kind, BEGIN, 999, after=after))
    with pytest.raises(StoreOutage):
        chain.resolve()
    assert chain.issue_calls == 0
    mend(chain)

    assert chain.resolve().source == "oauth"
    assert chain.issue_calls == 1


def test_answers_of_begin_that_come_back_after_a_lease_s_time(chain: Chain) -> None:
    """A lease that nobody knew of lapses; the caller begins anew, and there is one call."""
    chain.supabase.server.add_fault(Fault("reset", BEGIN, 18, after=True))
    clock = chain.clock()

    got = chain.resolve(clock, timeout="10m")

    assert (got.source, got.warnings, chain.issue_calls) == ("oauth", (), 1)
    assert 60 < sum(clock.slept) < 160


@pytest.mark.parametrize("seconds", [2, 12, 40])
def test_a_store_that_restarts_while_callers_wait_for_a_holder(chain: Chain, seconds: float) -> None:
    """None of them issues beside the holder: they wait for the store, and get the holder's token."""
    holder, token = Contender(chain.database), make_token()
    holder.begin()
    clock = chain.clock()
    down_since: list[float] = []

    def restart(_: float) -> None:
        if not down_since:
            chain.supabase.stop()
            down_since.append(clock.monotonic())
        elif clock.monotonic() - down_since[0] > seconds:
            chain.supabase.start()
            if chain.database.row() == {}:
                holder.commit(token)

    clock.on_sleep = restart

    got = chain.resolve(clock, cache_path="off")

    assert (got.token.token_id, got.source, chain.issue_calls) == (token.token_id, "supabase", 0)


def test_six_callers_wait_and_the_store_restarts(chain: Chain) -> None:
    """Six at once, on machines of their own, in real time: the holder's call is the only one."""
    holder, token = Contender(chain.database), make_token()
    holder.begin()
    resolvers = [chain.resolver(SystemClock(), cache_path="off", timeout="60s") for _ in range(6)]
    begun, noticed = threading.Semaphore(0), threading.Semaphore(0)
    for store in chain.stores:
        # As they are, but told of.
        store.begin = partial(do_and_notice, store.begin, begun)  # type: ignore[method-assign]
        store.read = partial(do_and_notice, store.read, noticed)  # type: ignore[method-assign]

    with ThreadPoolExecutor(6) as pool:
        waiting = [pool.submit(resolver.resolve) for resolver in resolvers]
        for _ in resolvers:
            assert begun.acquire(timeout=SECONDS)
        chain.supabase.stop()
        for _ in range(3 * len(resolvers)):
            assert noticed.acquire(timeout=SECONDS)
        chain.supabase.start()
        holder.commit(token)
        got = [each.result(SECONDS) for each in waiting]

    assert {each.token.token_id for each in got} == {token.token_id}
    assert chain.issue_calls == 0


def do_and_notice(
    call: Callable[..., _Answer], noticed: threading.Semaphore, *arguments: object, **named: object
) -> _Answer:
    """A call of the store, the end of which is noticed."""
    try:
        return call(*arguments, **named)
    finally:
        noticed.release()


def test_a_waiter_whose_store_stays_away_does_not_issue(chain: Chain) -> None:
    """A caller that knows of a living lease ends with an error when its time is over."""
    Contender(chain.database, label="acme/bot run 7 trade").begin()
    clock = chain.clock()
    clock.on_sleep = lambda _: chain.supabase.stop()

    with pytest.raises(KisTokenError) as caught:
        chain.resolve(clock)
    assert (caught.value.code, chain.issue_calls) == ("store-unreachable", 0)


def test_a_key_that_changes_while_the_store_goes_away_issues_nothing(chain: Chain) -> None:
    """Read again for a changed key and not answered, the store has still answered in this call."""
    resolver = chain.resolver()
    view = resolver.look()
    chain.database.put_keys(OTHER)
    chain.supabase.server.add_fault(replace(OUTAGES["503"], path=TABLE, times=999))
    with pytest.raises(StoreOutage):
        resolver.resolve(view)
    assert chain.issue_calls == 0


@pytest.mark.parametrize("fault", ["certificate", "proxy"])
def test_trouble_of_this_machine_is_no_reason_to_issue_alone(
    chain: Chain, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    """Where a certificate or a proxy keeps the store from answering, the error names that; a cached token is used."""
    _, context = make_certificate(chain.folder)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"https://127.0.0.1:{listener.getsockname()[1]}"
    if fault == "proxy":
        monkeypatch.setenv("HTTPS_PROXY", "socks5://127.0.0.1:9")
        url = "https://example.supabase.co"
    with LoopbackServer(lambda _: Response(200, []), tls=context) as server:
        where = server.url if fault == "certificate" else url
        clock = chain.clock()
        with pytest.raises(StoreOutage) as caught:
            chain.resolve(clock, supabase_url=where)
        assert (chain.issue_calls, clock.slept) == (0, [])
        assert caught.value.code == ("store-tls" if fault == "certificate" else "proxy-unusable")
        chain.cache_token(make_token())
        assert chain.resolve(supabase_url=where).source == "cache"


# one call for a machine, whatever its cache


CACHES: dict[str, Callable[[Path], str]] = {
    "off": lambda _: "off",
    "cannot-be-made": lambda folder: str(folder / "a-file" / "below" / "cache.json"),
    "a-folder-in-its-place": lambda folder: str(folder / "a-folder"),
}


@pytest.mark.parametrize("cache", CACHES)
def test_five_callers_of_one_machine_without_a_cache_make_one_call(chain: Chain, cache: str) -> None:
    """One gets the token; the others, who have no way to get it, are told that KIS was asked a moment ago."""
    (chain.folder / "a-file").write_text("")
    (chain.folder / "a-folder" / "x").mkdir(parents=True)
    chain.supabase.stop()
    path = CACHES[cache](chain.folder)

    def resolve(_: int) -> str:
        try:
            return chain.resolve(cache_path=path).source
        except IssuerRateLimited as error:
            return f"{error}"

    with ThreadPoolExecutor(5) as pool:
        got = sorted(pool.map(resolve, range(5)))

    assert (got[4], chain.issue_calls) == ("oauth", 1)
    assert all("no caller on this machine asks KIS for" in each for each in got[:4])


def test_callers_with_caches_of_their_own_make_one_call(chain: Chain) -> None:
    """Jobs of several runners on one machine, each with its own cache file, do not issue beside each other."""
    chain.supabase.stop()
    assert chain.resolve(cache_path=str(chain.folder / "a.json")).source == "oauth"
    with pytest.raises(IssuerRateLimited):
        chain.resolve(cache_path=str(chain.folder / "b.json"))
    assert chain.issue_calls == 1


def test_another_account_of_the_machine_is_not_kept_waiting(chain: Chain) -> None:
    """The minute is KIS's for an app key: another key's call does not count."""
    chain.supabase.stop()
    chain.resolve(cache_path="off")
    with pytest.raises(KisTokenError) as caught:
        chain.resolve(cache_path="off", app_key=OTHER.key, app_secret=OTHER.secret)
    assert (caught.value.code, chain.issue_calls) == ("kis-key-refused", 2)


def test_a_call_that_was_never_sent_uses_no_minute(chain: Chain) -> None:
    """Where KIS could not be reached the next process may try at once."""
    chain.supabase.stop()
    chain.kis.production.stop()
    with pytest.raises(IssuerOutage):
        chain.resolve(cache_path="off")
    chain.kis.production.start()

    assert chain.resolve(cache_path="off").source == "oauth"


def test_without_a_private_folder_nobody_issues_alone(chain: Chain, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine on which no lock is safe gets an error that says so, and KIS is not asked; a cached token is used."""
    monkeypatch.setattr(type(chain), "machine", LocalMachine(list))
    chain.supabase.stop()
    with pytest.raises(KisTokenError) as caught:
        chain.resolve()
    assert (caught.value.code, chain.issue_calls) == ("no-private-folder", 0)
    assert "does not answer" in f"{caught.value}"
    chain.cache_token(make_token())
    assert chain.resolve().source == "cache"


# what is issued alone comes home


def issued_alone(chain: Chain) -> tuple[str, str]:
    """The older token that is stored, and the one that this machine issued while the store was out: fingerprints."""
    older = make_token(left=16 * HOUR, age=8 * HOUR)
    chain.kis.production.start()
    chain.supabase.stop()
    newer = chain.resolve().token.token_id
    chain.supabase.start()
    chain.database.put_token(older)
    chain.machine.hold_back(APP_KEY.key_id, utc_now())
    return older.token_id, newer


@pytest.mark.parametrize("mode", ["resolve", "rotate", "check"])
def test_a_token_issued_without_the_store_comes_home(chain: Chain, mode: str) -> None:
    """Although the older stored token looks fresh, the later one is handed out, and stored for the others."""
    _, newer = issued_alone(chain)

    got = chain.resolve(mode=mode)

    assert (got.token.token_id, got.warnings, chain.issue_calls) == (newer, (), 1)
    assert (chain.database.stored_id() == newer) is (mode != "check")
    assert chain.resolve(cache_path="off").token.token_id == (newer if mode != "check" else chain.database.stored_id())


def test_a_reader_whose_token_the_api_rejects_finds_it(chain: Chain, tmp_path: Path) -> None:
    """Another machine's client that still has the older token gets the later one from the store, and issues none."""
    older = chain.resolve().token
    with KISClient(chain.settings(cache_path=str(tmp_path / "other.json")), clock=chain.clock()) as client:
        assert client.token_expires_at == older.expires_at
        chain.pass_time(7 * 3600)
        (chain.folder / "cache.json").unlink()
        chain.machine.hold_back(APP_KEY.key_id, utc_now())
        chain.supabase.stop()
        newer = chain.resolve().token
        assert newer.token_id != older.token_id
        chain.kis.kill_token(older.value)
        chain.supabase.start()
        chain.resolve()
        calls = chain.issue_calls

        answer = client.request(
            "GET",
            PRICE_PATH,
            tr_id=PRICE_TR_ID,
            params={"FID_COND_MRKT_DIV_CODE": "J", "FID_INPUT_ISCD": "005930"},
        )

    assert (answer.status_code, answer.json()["rt_cd"]) == (200, "0")
    assert chain.issue_calls == calls


def test_a_client_without_a_cache_brings_its_token_home(chain: Chain) -> None:
    """A program that issued alone and keeps no cache offers its token from memory when the store is back."""
    chain.supabase.stop()
    clock = chain.clock()
    settings = chain.settings(cache_path="off")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(chain.folder / "private"))
        with KISClient(settings, clock=clock) as client:
            mine = client.token_issued_at
            chain.supabase.start()
            chain.database.put_token(make_token(left=16 * HOUR, age=8 * HOUR))
            clock.jump(600)
            assert client.token_issued_at == mine
    assert chain.issue_calls == 1
    assert chain.resolve(cache_path="off").token.issued_at == mine


def test_a_later_token_that_cannot_be_stored_is_handed_out(chain: Chain) -> None:
    """Where storing it fails, its machine uses it, with a warning; a later run stores it."""
    _, newer = issued_alone(chain)
    save = "/rest/v1/rpc/save_token"
    chain.supabase.server.add_fault(Fault("answer", save, 99, html_response(503)))
    got = chain.resolve()
    assert (got.token.token_id, got.source) == (newer, "cache")
    assert_warned(got, "newer than the stored one")
    mend(chain)

    chain.resolve()
    assert chain.database.stored_id() == newer


LATER = {
    "of another key": lambda: make_token(OTHER.key, left=23 * HOUR, age=HOUR),
    "issued before": lambda: make_token(left=12 * HOUR, age=12 * HOUR),
    "expired": lambda: make_token(left=-MINUTE, age=HOUR),
}


@pytest.mark.parametrize("name", LATER)
def test_no_other_cached_token_takes_the_stored_one_s_place(chain: Chain, name: str) -> None:
    """A cached token of another account, of an earlier issue, or past its end leaves the stored token alone."""
    stored = make_token(left=16 * HOUR, age=8 * HOUR)
    chain.database.put_token(stored)
    chain.cache_token(LATER[name]())

    got = chain.resolve()

    assert (got.token.token_id, got.source, got.warnings) == (stored.token_id, "supabase", ())
    assert chain.store_calls == ["read"]


# what a third review found


@pytest.fixture
def behind_tls(chain: Chain, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hiccuping]:
    """The store behind a relay that ends TLS, as Supabase's gateway does, and that fails when it is told to."""
    path, context = make_certificate(chain.folder)
    monkeypatch.setenv("SSL_CERT_FILE", path)
    with Hiccuping(int(chain.supabase.url.rpartition(":")[2]), context) as relay:
        yield relay


class Hiccuping:
    """A relay with TLS. Its next connections, as many as ``fails``, break off within the handshake."""

    def __init__(self, port: int, context: ssl.SSLContext) -> None:
        self.fails = 0
        self.how = "closed"
        self._port = port
        self._context = context
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"https://127.0.0.1:{self._listener.getsockname()[1]}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._serve, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _serve(self) -> None:
        with suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                threading.Thread(target=self._relay, args=(connection,), daemon=True).start()

    def _relay(self, connection: socket.socket) -> None:
        with connection, suppress(OSError):
            if self.fails:
                self.fails -= 1
                connection.recv(65536)
                if self.how == "plain-502":
                    connection.sendall(b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n")
                return
            with (
                self._context.wrap_socket(connection, server_side=True) as near,
                socket.create_connection(("127.0.0.1", self._port)) as far,
            ):
                back = threading.Thread(target=_copy, args=(far, near), daemon=True)
                back.start()
                _copy(near, far)
                back.join(SECONDS)


def _copy(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):
        while block := source.recv(65536):
            target.sendall(block)
        target.shutdown(socket.SHUT_WR)


@pytest.mark.parametrize("how", ["closed", "plain-502"])
@pytest.mark.parametrize("at", ["read", "begin", "commit"])
def test_a_handshake_that_fails_once_is_repeated(chain: Chain, behind_tls: Hiccuping, at: str, how: str) -> None:
    """A connection that breaks off within TLS is a hiccup like any other, for reads and writes."""
    behind_tls.how = how
    resolver = chain.resolver(supabase_url=behind_tls.url)
    if at != "read":
        store = chain.stores[-1]
        call = getattr(store, at)

        def fail_once(*arguments: object, **named: object) -> object:
            if not chain.told:
                chain.told.append("failed")
                behind_tls.fails = 1
            return call(*arguments, **named)

        setattr(store, at, fail_once)
    else:
        behind_tls.fails = 1

    got = resolver.resolve()

    assert (got.source, got.warnings, chain.issue_calls) == ("oauth", (), 1)
    assert chain.database.stored_id() == got.token.token_id


def test_a_read_only_key_never_issues_alone(chain: Chain) -> None:
    """Its token could never come home: the outage is the error, although app key and secret are given."""
    chain.supabase.stop()
    claims = {"role": "kis_token_reader", "iat": 1, "exp": 9999999999}
    middle = base64.urlsafe_b64encode(json.dumps(claims).encode()).rstrip(b"=").decode()
    with pytest.raises(StoreOutage):
        chain.resolve(supabase_key=f"{ANON_KEY}\neyJhbGciOiJIUzI1NiJ9.{middle}.c2lnbmF0dXJl")
    assert chain.issue_calls == 0


def test_a_client_whose_store_goes_away_after_a_read_issues_nothing(chain: Chain) -> None:
    """A rejected token is looked up once; a store that has answered that is not out, and one timeout is for all."""
    held = chain.resolve(cache_path="off").token
    chain.pass_time(7 * 3600)
    chain.supabase.server.forget()
    clock = chain.clock()
    with KISClient(chain.settings(cache_path="off", timeout="60s"), clock=clock) as client:
        assert client.token_expires_at == held.expires_at
        chain.kis.kill_token(held.value)
        chain.supabase.server.add_fault(Fault("reset", BEGIN, 9999))
        started = clock.monotonic()
        with pytest.raises(StoreOutage):
            client.request("GET", PRICE_PATH, tr_id=PRICE_TR_ID)
    assert chain.issue_calls == 1
    assert clock.monotonic() - started < 61
    assert chain.store_calls.count("read") == 2


@pytest.mark.parametrize("times", [1, 4, 9999])
def test_a_rotation_does_not_renew_for_a_save_that_fails(chain: Chain, times: int) -> None:
    """While the later token comes home, a rotation that is not due issues nothing, whatever becomes of the save."""
    _, newer = issued_alone(chain)
    chain.supabase.server.add_fault(Fault("answer", "/rest/v1/rpc/save_token", times, html_response(503)))
    if times < 99:
        assert chain.resolve(mode="rotate").token.token_id == newer
    else:
        with pytest.raises(StoreOutage):
            chain.resolve(mode="rotate")
    assert chain.issue_calls == 1


@pytest.mark.parametrize("knows", ["of-a-holder", "of-a-lost-answer", "of-its-own-call"])
def test_a_caller_remembers_a_lease_from_the_call_before(chain: Chain, knows: str) -> None:
    """A program, or another job of the machine, that knows of a lease or a call does not issue beside it later."""
    if knows == "of-a-holder":
        Contender(chain.database, label="acme/bot run 7 trade").begin()
    elif knows == "of-a-lost-answer":
        chain.supabase.server.add_fault(Fault("reset", BEGIN, 9999, after=True))
    else:
        chain.kis.production.add_fault(Fault("reset", TOKEN_PATH, after=True))
    clock = chain.clock()
    with pytest.raises(KisTokenError):
        chain.resolve(clock, cache_path="off", timeout="25s")
    calls = chain.issue_calls
    chain.supabase.stop()

    with pytest.raises(IssuerRateLimited):
        chain.resolve(clock, cache_path="off", timeout="25s")
    assert chain.issue_calls == calls == (1 if knows == "of-its-own-call" else 0)
    clock.sleep(75)
    assert chain.resolve(clock, cache_path="off", timeout="25s").source == "oauth"


@pytest.mark.parametrize("seconds", [1, 2, 30, 60])
def test_a_clock_that_is_set_back_lifts_no_minute(chain: Chain, seconds: int) -> None:
    """The minute after a call holds for a machine whose clock goes back, and ends for one whose clock was far ahead."""
    chain.supabase.stop()
    chain.resolve(cache_path="off")
    with pytest.raises(IssuerRateLimited):
        chain.resolve(TurnedClock(wrong_by=-seconds * MINUTE / 60), cache_path="off", timeout="22s")
    assert chain.issue_calls == 1
    chain.kis.advance(61)
    assert chain.resolve(TurnedClock(wrong_by=-HOUR), cache_path="off", timeout="22s").source == "oauth"


def test_a_token_that_a_client_saw_rejected_does_not_come_home(chain: Chain) -> None:
    """It leaves the machine's cache, although it would live longer than the stored one."""
    older, newer = issued_alone(chain)
    stored = chain.database.stored_id()
    with KISClient(chain.settings(), clock=chain.clock()) as client:
        chain.supabase.server.add_fault(Fault("answer", "/rest/v1/rpc/save_token", 99, html_response(503)))
        assert client.access_token
        assert chain.cached_id() == newer
        chain.kis.kill_token(client.access_token)
        client.request("GET", PRICE_PATH, tr_id=PRICE_TR_ID)
    mend(chain)

    assert chain.cached_id() == older == stored
    assert chain.resolve().token.token_id == older
    assert (chain.database.stored_id(), chain.issue_calls) == (older, 1)


def test_a_silent_proxy_is_no_reason_to_issue_alone(chain: Chain, monkeypatch: pytest.MonkeyPatch) -> None:
    """A proxy that does not answer is this machine's trouble: the error is the outage."""
    with black_hole() as url:
        monkeypatch.setenv("HTTPS_PROXY", url)
        with pytest.raises(StoreOutage) as caught:
            chain.resolve(supabase_url="https://example.supabase.co", timeout="22s")
    assert (caught.value.doubtful, chain.issue_calls) == (True, 0)


def test_kis_that_cannot_be_reached_once_costs_another_turn(chain: Chain) -> None:
    """Nothing was sent: the lease is given back and asked for again, once, and there is one call."""
    failures = [IssuerOutage("kis-unreachable", "KIS does not answer (gaierror)", sent=False)]
    issuer = WatchedIssuer(chain, before=lambda: raise_first(failures))

    got = chain.resolve(None, issuer)

    assert (got.source, got.warnings, chain.issue_calls) == ("oauth", (), 1)
    assert chain.database.outcomes() == ["granted", "aborted", "granted", "committed"]


def raise_first(errors: list[IssuerOutage]) -> None:
    """The first error, if there is one left."""
    if errors:
        raise errors.pop()


@pytest.mark.parametrize(
    "inputs", [{"mode": "rotate"}, {"app_key": "", "app_secret": ""}], ids=["rotate", "keys-stored"]
)
def test_a_store_that_is_back_serves_callers_that_issue_nothing_alone(chain: Chain, inputs: dict[str, str]) -> None:
    """After the fast path's outage the store is looked at again, whatever the caller may do without it."""
    chain.database.put_keys()
    token = make_token(left=24 * HOUR - MINUTE, age=MINUTE)
    chain.database.put_token(token)
    chain.supabase.stop()
    resolver = chain.resolver(**inputs)
    view = resolver.look()
    chain.supabase.start()

    assert resolver.resolve(view).token.token_id == token.token_id


def test_a_check_without_the_store_names_the_outage(chain: Chain) -> None:
    """Where nothing is cached, the error of a check is that the store does not answer."""
    chain.supabase.stop()
    with pytest.raises(StoreOutage):
        chain.resolve(mode="check")


# answers without progress


NOWHERE: dict[str, dict[str, object]] = {
    "fresh without a value": {"status": "fresh", "version": 1},
    "fresh and broken": {"status": "fresh", "version": 1, "value": "{}", "expires_at": None},
    "busy until the past": {"status": "busy", "retry_at": "2020-01-01T00:00:00+00:00"},
}


@pytest.mark.parametrize("name", NOWHERE)
def test_answers_that_make_no_progress_have_an_end(chain: Chain, name: str) -> None:
    """A few questions, with pauses between them; then it is an outage, and nobody issues."""
    body = {**NOWHERE[name], "server_now": utc_now().isoformat()}
    chain.supabase.server.add_fault(Fault("answer", BEGIN, 9999, Response(200, body)))
    clock = chain.clock()
    started = clock.monotonic()

    with pytest.raises((StoreOutage, IssuanceError)):
        chain.resolve(clock, timeout="21s")

    assert chain.store_calls.count("begin_issuance") < 60
    assert chain.issue_calls == 0
    assert clock.monotonic() - started < 23


@pytest.mark.parametrize(
    "body",
    [7, [], {"status": {}, "server_now": 5}, {"status": "committed", "server_now": "2027-03-02", "version": "x"}],
    ids=["number", "list", "odd-status", "odd-version"],
)
def test_an_odd_answer_to_commit_does_not_cost_the_token(chain: Chain, body: object) -> None:
    """The token that KIS has given is handed out and cached, with any answer of the store to commit."""
    chain.supabase.server.add_fault(Fault("answer", COMMIT, 999, Response(200, body)))

    got = chain.resolve()

    assert (got.source, chain.cached_id()) == ("oauth", got.token.token_id)
    assert_warned(got, "could not be stored")
