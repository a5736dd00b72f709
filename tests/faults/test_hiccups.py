"""A short failure of the store costs no token and no second tokenP call."""

from __future__ import annotations

import socket
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from kis_token.client.kis_client import KISClient
from kis_token.errors import IssuanceError, IssuerOutage, StoreOutage
from kis_token.sandbox.kis_http import html_response
from kis_token.sandbox.loopback import Fault, Response
from tests.faults.helpers import ABORT, BEGIN, COMMIT, TABLE, assert_warned
from tests.faults.hiccups import Hiccuping
from tests.faults.test_store import OUTAGES
from tests.resolver_harness import WatchedIssuer, stale_token
from tests.support import HOUR, MINUTE, TurnedClock, make_token, utc_now
from tools.certificate import make_certificate

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.resolver_harness import Chain


HICCUPS = {
    **{name: fault for name, fault in OUTAGES.items() if name != "redirect"},  # a redirect is never a short failure
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
    """Return the inputs of a job that passes the keys, or of a job whose keys are in the store."""
    if keys == "given":
        return {}
    chain.database.put_keys()
    return {"app_key": "", "app_secret": ""}


def refuse_once(chain: Chain, clock: TurnedClock) -> None:
    """Let the store refuse connections until the caller's first pause."""
    chain.supabase.stop()

    def start(_: float) -> None:
        chain.supabase.start()

    clock.on_sleep = start


@hiccups
@keys
def test_one_read_that_fails_once_costs_no_token(chain: Chain, name: str, keys: str) -> None:
    """If a read fails once, it is repeated within a second, and the stored token is used without a warning."""
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
    """If the store refuses connections for a moment, the stored token is still used."""
    inputs = inputs_of(chain, keys)
    token = make_token()
    chain.database.put_token(token)
    clock = chain.clock()
    refuse_once(chain, clock)

    got = chain.resolve(clock, **inputs)

    assert (got.token.token_id, got.warnings, chain.issue_calls) == (token.token_id, (), 0)
    assert sum(clock.slept) < 1


def test_a_name_server_that_fails_once_costs_no_token(chain: Chain, monkeypatch: pytest.MonkeyPatch) -> None:
    """If the store's name cannot be resolved for a moment, the stored token is still used."""
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
    """If several reads fail, a caller without a token repeats the read, logs one line and uses the stored token."""
    token = make_token()
    chain.database.put_token(token)
    chain.supabase.server.add_fault(replace(OUTAGES["503"], times=times))

    got = chain.resolve()

    assert (got.token.token_id, got.warnings, chain.issue_calls) == (token.token_id, (), 0)
    assert len(chain.told) == 1
    assert "trying again" in chain.told[0]


@pytest.mark.parametrize("mode", ["rotate", "force", "check"])
def test_one_read_that_fails_once_spoils_no_other_mode(chain: Chain, mode: str) -> None:
    """If a read fails once, `rotate`, `force` and `check` repeat it and continue without a warning."""
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
    """If begin or commit fails, it is repeated: there is one tokenP call, one stored token and no warning."""
    chain.supabase.server.add_fault(Fault("reset", path, times, after=after))

    got = chain.resolve()

    assert (got.source, got.warnings, chain.issue_calls) == ("oauth", (), 1)
    assert chain.database.stored_id() == got.token.token_id
    assert chain.database.outcomes()[-2:] == ["granted", "committed"]


def test_an_abort_that_fails_once_delays_no_caller(chain: Chain) -> None:
    """If abort fails once, it is repeated and ends the lease, so the next caller issues at once."""
    chain.kis.production.stop()
    chain.supabase.server.add_fault(Fault("reset", ABORT))
    with pytest.raises(IssuerOutage):
        chain.resolve()
    chain.kis.production.start()
    clock = chain.clock()

    assert (chain.resolve(clock).source, clock.slept) == ("oauth", [])


def test_a_valid_cached_token_is_waited_for_no_longer_than_a_second(chain: Chain) -> None:
    """In an outage, a caller with a valid cached token waits less than a second for the store."""
    token = stale_token()
    chain.cache_token(token)
    chain.supabase.stop()
    clock = chain.clock()

    got = chain.resolve(clock)

    assert (got.token.token_id, got.source) == (token.token_id, "cache")
    assert 0 < sum(clock.slept) < 1


@pytest.mark.parametrize("mode", ["rotate", "force"])
def test_a_renewal_is_patient_although_a_token_is_cached(chain: Chain, mode: str) -> None:
    """`rotate` and `force` wait for the store, although a token is cached."""
    chain.cache_token(make_token())
    chain.database.put_token(stale_token())
    chain.supabase.server.add_fault(replace(OUTAGES["reset"], times=6))

    assert chain.resolve(mode=mode).warnings == ()


def test_a_program_with_a_valid_token_is_not_held_up(chain: Chain) -> None:
    """In an outage, a client with a stale token and no cache does not wait for the store, and issues no token."""
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


@pytest.fixture
def behind_tls(chain: Chain, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hiccuping]:
    """The store behind a TLS relay whose handshakes can fail."""
    path, context = make_certificate(chain.folder)
    monkeypatch.setenv("SSL_CERT_FILE", path)
    with Hiccuping(int(chain.supabase.url.rpartition(":")[2]), context) as relay:
        yield relay


@pytest.mark.parametrize("how", ["closed", "plain-502"])
@pytest.mark.parametrize("at", ["read", "begin", "commit"])
def test_a_handshake_that_fails_once_is_repeated(chain: Chain, behind_tls: Hiccuping, at: str, how: str) -> None:
    """If the TLS handshake of a read or a write fails once, the call is repeated."""
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


def test_kis_that_cannot_be_reached_once_costs_another_lease(chain: Chain) -> None:
    """If KIS cannot be reached once, the caller gives the lease back, gets another lease, and makes one call."""
    failures = [IssuerOutage("kis-unreachable", "KIS does not answer (gaierror)", sent=False)]
    issuer = WatchedIssuer(chain, before=lambda: raise_first(failures))

    got = chain.resolve(None, issuer)

    assert (got.source, got.warnings, chain.issue_calls) == ("oauth", (), 1)
    assert chain.database.outcomes() == ["granted", "aborted", "granted", "committed"]


def raise_first(errors: list[IssuerOutage]) -> None:
    """Raise one of the errors and remove it from the list. If no error is left, do nothing."""
    if errors:
        raise errors.pop()


NOWHERE: dict[str, dict[str, object]] = {
    "fresh without a value": {"status": "fresh", "version": 1},
    "fresh and broken": {"status": "fresh", "version": 1, "value": "{}", "expires_at": None},
    "busy until the past": {"status": "busy", "retry_at": "2020-01-01T00:00:00+00:00"},
}


@pytest.mark.parametrize("name", NOWHERE)
def test_answers_that_make_no_progress_have_an_end(chain: Chain, name: str) -> None:
    """If the answers of begin allow no progress, the caller fails after some tries with pauses, and does not issue."""
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
def test_an_invalid_answer_to_commit_does_not_cost_the_token(chain: Chain, body: object) -> None:
    """If the answer to commit is invalid, the caller still uses and caches the issued token, with a warning."""
    chain.supabase.server.add_fault(Fault("answer", COMMIT, 999, Response(200, body)))

    got = chain.resolve()

    assert (got.source, chain.cached_id()) == ("oauth", got.token.token_id)
    assert_warned(got, "could not be stored")


def test_a_fresh_cached_token_does_not_wait_for_a_store_that_refuses(chain: Chain) -> None:
    """With a fresh cached token, a refused connection is not repeated; other failures are repeated within a second."""
    token = make_token()
    chain.cache_token(token)
    chain.supabase.server.add_fault(replace(OUTAGES["reset"], times=9))
    clock = chain.clock()
    assert (chain.resolve(clock).source, 0 < sum(clock.slept) < 1) == ("cache", True)
    chain.supabase.stop()
    clock = chain.clock()

    got = chain.resolve(clock)

    assert (got.token.token_id, got.source, clock.slept) == (token.token_id, "cache", [])
