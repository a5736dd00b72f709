"""One tokenP call for many callers, although the store fails or loses answers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from kis_token.sandbox.kis_http import html_response
from kis_token.sandbox.loopback import Fault, Response
from tests.resolver_harness import WatchedIssuer
from tests.support import HOUR, MINUTE, Caller, make_token

if TYPE_CHECKING:
    from tests.resolver_harness import Chain

BEGIN = "/rest/v1/rpc/begin_issuance"
COMMIT = "/rest/v1/rpc/commit_issuance"


@pytest.mark.parametrize("kind", ["reset", "truncate"])
def test_a_lost_commit_is_repeated(chain: Chain, kind: str) -> None:
    """If commit's answer is lost, commit is sent again; the store recognises it and stores the token once."""
    chain.supabase.server.add_fault(Fault(kind, COMMIT, after=True))  # type: ignore[arg-type]  # from the table

    got = chain.resolve()

    assert (got.source, got.refreshed, got.warnings, chain.issue_calls) == ("oauth", True, (), 1)
    assert chain.database.outcomes() == ["granted", "committed"]
    assert chain.database.stored_id() == got.token.token_id
    assert chain.store_calls.count("commit_issuance") == 2


def test_a_commit_that_cannot_be_made(chain: Chain) -> None:
    """If the store fails after the tokenP call, the token is used with a warning and cached."""
    chain.supabase.server.add_fault(Fault("answer", COMMIT, 99, html_response(503)))

    got = chain.resolve()

    assert (got.source, got.refreshed, chain.issue_calls) == ("oauth", True, 1)
    assert "could not be stored" in got.warnings[0]
    assert chain.cached_id() == got.token.token_id
    assert chain.store_calls.count("commit_issuance") > 4


def test_the_next_caller_stores_an_unstored_token(chain: Chain) -> None:
    """If a token is only in the cache, the machine's next caller stores it when that caller gets a lease."""
    chain.supabase.server.add_fault(Fault("answer", COMMIT, 99, html_response(503)))
    token_id = chain.resolve().token.token_id
    chain.supabase.server.clear_faults()
    chain.pass_time(71)

    assert chain.resolve().source == "cache"
    assert (chain.database.stored_id(), chain.issue_calls) == (token_id, 1)


@pytest.mark.parametrize("kind", ["reset", "truncate"])
def test_a_lost_grant_is_asked_for_again(chain: Chain, kind: str) -> None:
    """If begin's answer is lost, the same holder asks again and gets the same lease: one grant, one call."""
    chain.supabase.server.add_fault(Fault(kind, BEGIN, after=True))  # type: ignore[arg-type]  # from the table

    got = chain.resolve()

    assert (got.source, got.warnings, chain.issue_calls) == ("oauth", (), 1)
    assert chain.database.outcomes() == ["granted", "committed"]


def test_a_lost_no_is_not_taken_for_a_yes(chain: Chain) -> None:
    """If begin's answer is lost while another caller has the lease, the caller waits and does not call KIS."""
    holder = Caller(chain.database)
    holder.begin()
    token = make_token()
    chain.supabase.server.add_fault(Fault("reset", BEGIN))
    clock = chain.clock()
    clock.on_sleep = lambda _: holder.commit(token) if len(clock.slept) == 3 else None

    assert chain.resolve(clock).token.token_id == token.token_id
    assert chain.issue_calls == 0


def test_a_fenced_commit_takes_the_newer_token(chain: Chain) -> None:
    """If a client without a lease stores a newer token during the call, the caller uses the newer token."""
    newer = make_token(left=30 * HOUR)
    issuer = WatchedIssuer(chain, after=lambda _: chain.database.put_token(newer))

    got = chain.resolve(None, issuer)
    assert (got.token.token_id, got.source, got.refreshed) == (newer.token_id, "supabase", False)
    assert chain.database.stored_id() == newer.token_id


def test_functions_missing_do_not_stop_a_valid_token(chain: Chain) -> None:
    """If the second migration is missing, a stale token is still used; a warning names the folder of the files."""
    token = make_token(left=5 * MINUTE, age=23 * HOUR)
    chain.database.put_token(token)
    missing = {"code": "PGRST202", "message": "Could not find the function", "details": None, "hint": None}
    chain.supabase.server.add_fault(Fault("answer", BEGIN, 2, Response(404, missing)))

    got = chain.resolve()
    assert (got.token.token_id, chain.issue_calls) == (token.token_id, 0)
    assert "sql/" in got.warnings[0]


@pytest.mark.parametrize("body", [b"[" * 100_000, b"\xff\xfe", b'{"status": NaN', b"1" * 5000])
def test_an_answer_that_cannot_be_read_does_not_cost_the_token(chain: Chain, body: bytes) -> None:
    """If the answer to commit is unreadable, the issued token is still used, with a warning."""
    chain.supabase.server.add_fault(Fault("answer", COMMIT, 99, Response(200, body)))

    got = chain.resolve()

    assert (got.source, got.refreshed, chain.cached_id()) == ("oauth", True, got.token.token_id)
    assert "could not be stored" in got.warnings[0]


# a row that changes without a new token


@pytest.mark.parametrize("mode", ["rotate", "force"])
def test_a_rotation_is_not_taken_in_by_a_new_version(chain: Chain, mode: str) -> None:
    """If a client rewrites the row with the same token between read and begin, that token is still renewed."""
    token = make_token(left=MINUTE, age=24 * HOUR)
    chain.database.put_token(token)
    resolver = chain.resolver(mode=mode)
    view = resolver.look()
    chain.database.put("access_token", f" {token.to_json()}", token.expires_at)

    got = resolver.resolve(view)

    assert (got.source, got.refreshed, chain.issue_calls) == ("oauth", True, 1)
    assert chain.database.stored_id() == got.token.token_id


def test_a_waiter_is_not_taken_in_by_a_new_version(chain: Chain) -> None:
    """A caller that waits for a new token does not use the old token when the row of that token is rewritten."""
    token = make_token(left=5 * MINUTE, age=23 * HOUR)
    chain.database.put_token(token)
    holder, newer = Caller(chain.database), make_token()
    holder.begin()
    clock = chain.clock()
    deeds = [lambda: chain.database.put("access_token", f" {token.to_json()}", token.expires_at), bool]
    clock.on_sleep = lambda _: deeds.pop(0)() if deeds else holder.commit(newer)

    got = chain.resolve(clock)

    assert got.token.token_id == newer.token_id
