"""Supabase fails at the first read or at a later point of the chain, with and without a valid token."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from psycopg import sql

from kis_token.errors import IssuerOutage, StoreError, StoreMisconfigured, StoreOutage
from kis_token.sandbox.kis_http import TOKEN_PATH, html_response
from kis_token.sandbox.loopback import Fault, LoopbackServer, Response
from kis_token.sandbox.postgrest import PostgRESTStandIn
from tests.faults import helpers
from tests.faults.helpers import (
    ABORT,
    BEGIN,
    COMMIT,
    NO_SUPABASE,
    TABLE,
    assert_warned,
    error_of,
    rows,
    stored_stays,
)
from tests.races.caller_processes import SECONDS
from tests.races.concurrent_callers import held
from tests.resolver_harness import Chain, WatchedIssuer, stale_token
from tests.support import ANON_KEY, SERVICE_KEY, make_token

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from kis_token.sandbox.emulator import KISEmulator
    from tests.support import Database

#: Supabase's text for a project over its quota.
RESTRICTED = "Service for this project is restricted due to the following violations: {}. Upgrade the plan."

OUTAGES = {
    "reset": Fault("reset"),
    "broken-off": Fault("truncate"),
    "500": Fault("answer", response=Response(500, {"message": "Internal server error"})),
    "503": Fault("answer", response=html_response(503)),
    "520": Fault("answer", response=html_response(520)),
    "522": Fault("answer", response=html_response(522)),
    "540": Fault("answer", response=Response(540, {"message": "Project paused"})),
    "429": Fault("answer", response=Response(429, {"message": "Too many requests"})),
    "403-page": Fault("answer", response=html_response(403)),
    "html-200": Fault("answer", response=html_response(200)),
    "empty-200": Fault("answer", response=Response(200)),
    "other-json": Fault("answer", response=Response(200, {"message": "hello"})),
}
#: Answers that a repetition does not change, and their error codes.
PERSISTENT = {
    "402": (Response(402, {"message": RESTRICTED.format("exceed_egress_quota")}), "store-restricted"),
    "404": (html_response(404), "store-not-supabase"),
    "redirect": (Response(302, b"", {"Location": "https://example.com/"}), "store-redirects"),
}
#: These answers show that a part of Supabase works, so no caller issues without the store.
GATEWAYS = ("429", "403-page", *PERSISTENT)
OUTAGES |= {name: Fault("answer", response=response) for name, (response, _) in PERSISTENT.items()}
#: The outages whose error code is not ``store-unreachable``.
CODES = {"540": "store-paused", **{name: code for name, (_, code) in PERSISTENT.items()}}

#: Answers that report a configuration error, and their error codes.
CONFIGURATION_ERRORS = {
    "401": (Response(401, {"message": "Invalid API key"}), "store-key-rejected"),
    "legacy-key": (Response(401, {"message": "Legacy API keys are disabled"}), "store-legacy-keys-disabled"),
    "no-table": (Response(404, {"code": "PGRST205", "message": "no table"}), "store-table-missing"),
    "two-functions": (Response(300, {"code": "PGRST203", "message": "x"}), "store-function-ambiguous"),
}

#: One outage of each kind: request not sent, answer lost, error answer, invalid answer.
OUTCOMES = ("refused", "unresolvable", "reset", "503", "html-200", "402")

#: Only the first read can fail because the name cannot be resolved.
AFTER_THE_READ = ("refused", *OUTAGES)
READ = ("unresolvable", *AFTER_THE_READ)

each_way_of_a_read = pytest.mark.parametrize("name", [name for name in READ if name not in GATEWAYS])
each_outcome = helpers.each_outcome(AFTER_THE_READ, OUTCOMES)
each_outcome_of_a_read = helpers.each_outcome(READ, OUTCOMES)
misconfigured = pytest.mark.parametrize("name", CONFIGURATION_ERRORS)


def postgrest_error(status: int, code: str) -> Response:
    """Return an error answer of PostgREST."""
    return Response(status, {"code": code, "message": "x", "details": None, "hint": None})


def code_of(name: str) -> str:
    """Return the error code of the outage ``name`` in brackets, as in a message."""
    return f"[{CODES.get(name, 'store-unreachable')}]"


def fail(chain: Chain, name: str, path: str = "/") -> dict[str, str]:
    """Cause the outage until ``mend``; return the inputs with which a caller meets the outage."""
    if name == "unresolvable":
        return {"supabase_url": NO_SUPABASE}
    if name == "refused":
        chain.supabase.stop()
    else:
        chain.supabase.server.add_fault(replace(OUTAGES[name], path=path, times=99))
    return {}


def err(chain: Chain, name: str, path: str = "/") -> str:
    """Cause the configuration error; return its code."""
    response, code = CONFIGURATION_ERRORS[name]
    chain.supabase.server.add_fault(Fault("answer", path, 99, response))
    return code


def mend(chain: Chain) -> None:
    """End the outage."""
    chain.supabase.server.clear_faults()
    chain.supabase.start()


# from the beginning


@each_outcome_of_a_read
@pytest.mark.parametrize("policy", ["issue", "fail"])
def test_cached_token_is_used(chain: Chain, name: str, policy: str) -> None:
    """In an outage, a valid cached token is used with a warning; KIS is not called."""
    token = stale_token()
    chain.cache_token(token)
    chain.database.put_token(make_token())
    inputs = fail(chain, name)

    with stored_stays(chain):
        got = chain.resolve(on_store_outage=policy, **inputs)

    assert (got.token.token_id, got.source, chain.issue_calls) == (token.token_id, "cache", 0)
    assert_warned(got, code_of(name), "the cached token is used")


@each_way_of_a_read
def test_without_a_cached_token_one_is_issued(chain: Chain, name: str) -> None:
    """Without a cached token, the machine makes one tokenP call and caches the token; a later run stores it."""
    inputs = fail(chain, name)

    with stored_stays(chain):
        got = chain.resolve(**inputs)
        again = chain.resolve(**inputs)

    assert (got.source, got.refreshed, chain.issue_calls) == ("oauth", True, 1)
    assert (again.source, again.token.token_id) == ("cache", got.token.token_id)
    assert_warned(got, code_of(name), "other machines do not see")
    mend(chain)
    assert chain.resolve().source == "cache"
    assert (chain.database.stored_id(), chain.issue_calls) == (got.token.token_id, 1)


@pytest.mark.parametrize("name", GATEWAYS)
def test_a_gateway_that_works_is_no_reason_to_issue_alone(chain: Chain, name: str) -> None:
    """Without a cached token, a redirect or a 4xx answer is the error, and the caller does not issue.

    If a repetition cannot help, the caller gives up within a second.
    """
    clock = chain.clock()
    fail(chain, name)

    with stored_stays(chain), pytest.raises(StoreOutage) as caught:
        chain.resolve(clock)

    assert (code_of(name) in f"{caught.value}", chain.issue_calls) == (True, 0)
    assert f"HTTP {OUTAGES[name].response.status}" in f"{caught.value}"
    assert (sum(clock.slept) < 1) is (name in PERSISTENT)
    mend(chain)
    assert (chain.resolve().source, chain.issue_calls) == ("oauth", 1)


def test_one_refusal_of_a_gateway_among_the_tries_is_enough(chain: Chain) -> None:
    """If a gateway answers one try with 429, the caller does not issue, even if all later tries get 503."""
    chain.supabase.server.add_fault(replace(OUTAGES["429"], path=TABLE))
    chain.supabase.server.add_fault(replace(OUTAGES["503"], path=TABLE, times=99))

    error = error_of(chain)

    assert ("HTTP 503" in f"{error}", chain.issue_calls) == (True, 0)


def test_a_gateway_that_refuses_the_last_look_is_enough(chain: Chain) -> None:
    """If a gateway answers the read under the machine's lock, the caller does not issue without the store."""
    resolver = chain.resolver()
    fail(chain, "503")
    view = resolver.look()
    mend(chain)
    for name in ("503", "403-page"):  # the first read of resolve, and the one under the lock
        chain.supabase.server.add_fault(replace(OUTAGES[name], path=TABLE))

    with pytest.raises(StoreOutage) as caught:
        resolver.resolve(view)

    assert ("HTTP 403" in f"{caught.value}", chain.issue_calls) == (True, 0)


def test_a_restored_table_that_postgrest_does_not_know_yet(chain: Chain) -> None:
    """A read that fails because the table is unknown is repeated once, after a pause, with a log line."""
    token = make_token()
    chain.database.put_token(token)
    clock = chain.clock()
    missing = postgrest_error(404, "PGRST205")
    chain.supabase.server.add_fault(Fault("answer", TABLE, response=missing))

    got = chain.resolve(clock)

    assert (got.token.token_id, got.warnings, clock.slept) == (token.token_id, (), [2.0])
    assert [line for line in chain.told if "[store-table-missing]" in line and "once more" in line] == chain.told


@pytest.mark.parametrize("path", [BEGIN, COMMIT], ids=["begin", "commit"])
def test_functions_that_postgrest_does_not_know_yet(chain: Chain, path: str) -> None:
    """If PostgREST does not know a function yet, the call is repeated after a pause, and one token is stored."""
    clock = chain.clock()
    chain.supabase.server.add_fault(Fault("answer", path, response=postgrest_error(404, "PGRST202")))

    got = chain.resolve(clock)

    assert (got.source, got.warnings, clock.slept, chain.issue_calls) == ("oauth", (), [2.0], 1)
    assert chain.database.stored_id() == got.token.token_id


def test_a_read_only_database(make_database: Callable[[], Database], kis: KISEmulator, tmp_path: Path) -> None:
    """A stale token of a read-only database is used with a warning, and KIS is not called.

    Without a valid token, the caller gets an error within a second. The error names a full disk as the usual cause.
    """
    project = make_database()
    name = project.owner.info.dbname
    with PostgRESTStandIn(project.project.api, service_key=SERVICE_KEY, anon_key=ANON_KEY) as supabase:
        chain = Chain(supabase, kis, project, tmp_path)
        clock, token = chain.clock(), stale_token()
        setting = sql.SQL("alter database {} set default_transaction_read_only = on").format(sql.Identifier(name))
        project.owner.execute(setting)
        supabase.stop()
        supabase.start()

        with pytest.raises(StoreOutage) as caught:
            chain.resolve(clock)
        assert (caught.value.code, sum(clock.slept) < 1, chain.issue_calls) == ("store-database-read-only", True, 0)
        assert "usually because its disk is full (HTTP 405 25006)" in f"{caught.value}"
        project.put_token(token)  # this connection is older than the setting, so it can write
        got = chain.resolve()
        assert (got.token.token_id, got.source, chain.issue_calls) == (token.token_id, "supabase", 0)
        assert_warned(got, "[store-database-read-only]")
        for store in chain.stores:
            store.close()


@each_outcome_of_a_read
def test_told_to_fail_nothing_is_issued(chain: Chain, name: str) -> None:
    """With ``on-store-outage: fail`` and no cached token, the caller gets the outage as the error."""
    inputs = fail(chain, name)

    with stored_stays(chain):
        error = error_of(chain, on_store_outage="fail", **inputs)

    assert isinstance(error, StoreOutage)
    assert (code_of(name), error.retryable, chain.issue_calls) == (f"[{error.code}]", name not in PERSISTENT, 0)


@misconfigured
def test_a_configuration_error_fails_despite_a_cached_token(chain: Chain, name: str) -> None:
    """A configuration error fails even when a cached token exists: falling back would hide it."""
    chain.cache_token(make_token())
    chain.database.put_token(stale_token())
    code = err(chain, name)

    with stored_stays(chain):
        error = error_of(chain)

    assert isinstance(error, StoreMisconfigured)
    assert (error.code, error.retryable, chain.issue_calls) == (code, False, 0)
    assert len(chain.store_calls) == (2 if name == "no-table" else 1)  # PostgREST may learn of a new table late


# after the read, at begin


@each_outcome
def test_a_stale_token_outlives_begin(chain: Chain, name: str) -> None:
    """If begin fails, the stale token that was read is used with a warning; KIS is not called."""
    token = stale_token()
    chain.database.put_token(token)
    resolver = chain.resolver()
    view = resolver.look()
    fail(chain, name, BEGIN)

    with stored_stays(chain):
        got = resolver.resolve(view)

    assert (got.token.token_id, got.source, chain.issue_calls) == (token.token_id, "supabase", 0)
    assert_warned(got, code_of(name))


@each_outcome
@pytest.mark.parametrize("policy", ["issue", "fail"])
def test_a_store_that_has_answered_is_not_out(chain: Chain, name: str, policy: str) -> None:
    """If begin fails after a successful read and no token is valid, the caller gets the error and does not issue.

    If a repetition can help, the caller repeats begin until its time is over. A later caller gets a lease, at once or
    when a lost lease has ended.
    """
    clock = chain.clock()
    resolver = chain.resolver(clock, on_store_outage=policy)
    view, started = resolver.look(), clock.monotonic()
    fail(chain, name, BEGIN)

    with stored_stays(chain), pytest.raises(StoreOutage) as caught:
        resolver.resolve(view)

    assert (f"[{caught.value.code}]", chain.issue_calls) == (code_of(name), 0)
    assert (clock.monotonic() - started > 120) is (name not in PERSISTENT)
    mend(chain)
    assert (chain.resolve().source, chain.issue_calls) == ("oauth", 1)


@misconfigured
def test_a_configuration_error_at_begin(chain: Chain, name: str) -> None:
    """A configuration error at begin is a warning if a stale token can be used; without a token, it is the error."""
    code = err(chain, name, BEGIN)
    with stored_stays(chain):
        assert error_of(chain).code == code
    token = stale_token()
    chain.database.put_token(token)

    with stored_stays(chain):
        got = chain.resolve()

    assert (got.token.token_id, got.source, chain.issue_calls) == (token.token_id, "supabase", 0)
    assert_warned(got, f"[{code}]")


# after tokenP


@each_outcome
@pytest.mark.parametrize("policy", ["issue", "fail"])
def test_an_issued_token_outlives_commit(chain: Chain, name: str, policy: str) -> None:
    """If commit fails, the issued token is used with a warning and cached; a later run stores it without a call."""
    chain.database.put_token(stale_token())
    before = rows(chain.database)
    issuer = WatchedIssuer(chain, after=lambda _: fail(chain, name, COMMIT))

    got = chain.resolve(None, issuer, on_store_outage=policy)

    assert (got.source, got.refreshed, chain.cached_id()) == ("oauth", True, got.token.token_id)
    assert_warned(got, "could not be stored", code_of(name))
    has_effect = name == "broken-off"  # commit stored the token, but its answer was cut off
    assert (rows(chain.database) != before) is has_effect
    mend(chain)
    chain.pass_time(71)
    assert chain.resolve().token.token_id == chain.database.stored_id() == got.token.token_id
    assert chain.issue_calls == 1


@misconfigured
def test_an_issued_token_outlives_a_configuration_error_at_commit(chain: Chain, name: str) -> None:
    """If commit reports a configuration error, the issued token is used with a warning and cached."""
    code = err(chain, name, COMMIT)

    with stored_stays(chain):
        got = chain.resolve()

    assert (got.source, got.refreshed, chain.cached_id()) == ("oauth", True, got.token.token_id)
    assert_warned(got, "could not be stored", f"[{code}]")
    mend(chain)
    chain.pass_time(71)
    assert chain.resolve().source == "cache"
    assert (chain.database.stored_id(), chain.issue_calls) == (got.token.token_id, 1)


@pytest.mark.parametrize("mode", ["rotate", "force"])
@pytest.mark.parametrize("fault", ["401", "503"])
def test_a_rotation_that_cannot_be_stored_fails(chain: Chain, fault: str, mode: str) -> None:
    """If commit fails, `rotate` and `force` raise the error, because other machines have the older token.

    The new token is cached, and a later run stores it.
    """
    chain.database.put_token(stale_token())
    code = err(chain, fault, COMMIT) if fault == "401" else "store-unreachable"
    issuer = WatchedIssuer(chain, after=lambda _: fail(chain, fault, COMMIT) if fault == "503" else None)
    with stored_stays(chain), pytest.raises(StoreError) as caught:
        chain.resolve(None, issuer, mode=mode)
    assert caught.value.code == code
    mend(chain)
    chain.pass_time(71)
    assert chain.resolve().token.token_id == chain.database.stored_id() == chain.cached_id()
    assert chain.issue_calls == 1


@each_outcome
def test_an_abort_that_is_lost(chain: Chain, name: str) -> None:
    """If abort fails, the error is KIS's failure. The lease ends when its time is over, and the log says so."""
    chain.kis.production.add_fault(Fault("answer", TOKEN_PATH, response=html_response(503)))
    resolver = chain.resolver(None, WatchedIssuer(chain, before=lambda: fail(chain, name, ABORT)))

    with stored_stays(chain), pytest.raises(IssuerOutage) as caught:
        resolver.resolve()

    assert caught.value.code == "kis-answer-unusable"
    assert "lapses by itself" in chain.told[-1]
    mend(chain)
    clock = chain.clock()
    assert (chain.resolve(clock).source, chain.issue_calls) == ("oauth", 2)
    assert 50 < sum(clock.slept) < 75


# slow


@pytest.mark.parametrize("path", [TABLE, BEGIN, TOKEN_PATH, COMMIT], ids=["read", "begin", "tokenP", "commit"])
def test_a_slow_answer_is_waited_for(chain: Chain, path: str) -> None:
    """A slow answer is used like a quick one: no warning, no second request."""
    server: LoopbackServer = chain.kis.production if path == TOKEN_PATH else chain.supabase.server
    with ThreadPoolExecutor(1) as pool:
        with held(server, path) as arrived:
            future = pool.submit(chain.resolve)
            assert arrived.wait(SECONDS)
            assert not future.done()
        got = future.result(SECONDS)

    assert (got.source, got.warnings, chain.issue_calls) == ("oauth", (), 1)
    assert chain.store_calls == ["read", "begin_issuance", "commit_issuance"]
    assert chain.database.stored_id() == got.token.token_id
