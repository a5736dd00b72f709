"""Holders that end, sleep or lose answers at any point of a lease cause no two calls in a minute and no lost token."""

from __future__ import annotations

import signal
import sys
from contextlib import contextmanager, suppress
from datetime import timedelta
from itertools import pairwise, product
from typing import TYPE_CHECKING

import pytest

from kis_token.errors import KisTokenError
from kis_token.kis.api import KISIssuer
from kis_token.sandbox.kis_http import TOKEN_PATH
from kis_token.sandbox.loopback import Fault
from tests.races.caller_processes import SECONDS, Child
from tests.races.concurrent_callers import BEGIN, COMMIT, held
from tests.support import APP_KEY, utc_now

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kis_token.sandbox.loopback import LoopbackServer
    from tests.resolver_harness import Chain

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals kill and stop the holders")

#: The time between two calls: KIS's minute, and a second for its clock.
APART = timedelta(seconds=61)

#: The ways to lose an answer: the request is lost, the answer is lost after the request's effect, or the answer is cut
#: short.
LOSSES = [
    fault
    for path in (BEGIN, TOKEN_PATH, COMMIT)
    for fault in (Fault("reset", path), Fault("reset", path, after=True), Fault("truncate", path))
]

#: All pairs of losses, except two begins that never arrive: such a pair is an outage, in which only the callers of one
#: machine share a call.
PAIRS = [
    (first, second)
    for (number, first), (other, second) in product(enumerate(LOSSES), repeat=2)
    if (first.path == second.path or number < other) and not number == other == 0
]


def is_same_loss(first: Fault, second: Fault) -> bool:
    """Whether two answers are lost in the same way."""
    return (first.kind, first.after) == (second.kind, second.after)


#: The test runs with each loss alone and with all pairs of losses. The default run has only the pairs of equal losses.
LOST = [
    *((loss,) for loss in LOSSES),
    *(pair if is_same_loss(*pair) else pytest.param(pair, marks=pytest.mark.matrix) for pair in PAIRS),
]


@pytest.fixture
def child() -> Iterator[Child]:
    """A process for one test."""
    with Child() as child:
        yield child


def server_of(chain: Chain, path: str) -> LoopbackServer:
    """Return the server that answers requests to ``path``."""
    return chain.kis.production if path == TOKEN_PATH else chain.supabase.server


@contextmanager
def stuck_at(chain: Chain, child: Child, path: str, *, before: bool = False) -> Iterator[None]:
    """During the block, hold the process at a request to ``path``: the process gets no answer."""
    child.prepare(chain)
    child.wait_until_ready()
    with held(server_of(chain, path), path, before=before) as arrived:
        child.go()
        assert arrived.wait(SECONDS)
        yield


def assert_all_is_well(chain: Chain) -> None:
    """Assert that no two calls were within a minute, and that one GET reads the newest token from the store."""
    times = [seen.at for seen in chain.kis.requests if seen.path == TOKEN_PATH]
    assert all(later - sooner >= APART for sooner, later in pairwise(times))
    assert "EGW00133" not in {seen.code for seen in chain.kis.requests}
    chain.supabase.server.forget()
    got = chain.resolve(cache_path="off")
    assert chain.store_calls == ["read"]
    # For 6 hours KIS returns its newest token to every caller.
    chain.kis.advance(APART.total_seconds())
    newest = KISIssuer(chain.kis.production_url, "production").issue(APP_KEY, utc_now())
    assert got.token.token_id == newest.token_id == chain.database.stored_id()


# killed


@pytest.mark.parametrize(
    ("path", "fault", "calls"),
    [
        pytest.param(BEGIN, None, 1, id="granted"),
        pytest.param(TOKEN_PATH, Fault("reset", TOKEN_PATH), 2, id="sent, but not issued"),
        pytest.param(TOKEN_PATH, None, 2, id="issued"),
        pytest.param(COMMIT, Fault("reset", COMMIT), 2, id="answered, but not stored"),
        pytest.param(COMMIT, None, 1, id="stored"),
    ],
)
def test_killed(chain: Chain, child: Child, path: str, fault: Fault | None, calls: int) -> None:
    """After a holder is killed at any point, the next caller gets and stores the token, with at most one more call."""
    if fault is not None:
        server_of(chain, path).add_fault(fault)
    with stuck_at(chain, child, path):
        child.end(signal.SIGKILL)
    clock = chain.clock()

    got = chain.resolve(clock, cache_path="off")

    assert (chain.issue_calls, chain.database.stored_id()) == (calls, got.token.token_id)
    assert sum(clock.slept) < 75
    assert_all_is_well(chain)


def test_an_ended_holder_s_begin_arrives_late(chain: Chain, child: Child) -> None:
    """If a killed holder's begin arrives late, the next caller waits for the end of the lease, and issues once."""
    with stuck_at(chain, child, BEGIN, before=True):
        child.end(signal.SIGKILL)

    assert chain.resolve(chain.clock(), cache_path="off").refreshed
    assert chain.issue_calls == 1
    assert_all_is_well(chain)


def test_an_ended_holder_s_commit_arrives_late(chain: Chain, child: Child) -> None:
    """A late commit of a killed holder does not overwrite the newer token of another caller."""
    with stuck_at(chain, child, COMMIT, before=True):
        child.end(signal.SIGKILL)
        chain.pass_time(7 * 3600)
        newer = chain.resolve(cache_path="off")

    assert (newer.refreshed, chain.database.stored_id()) == (True, newer.token.token_id)
    assert chain.database.outcomes() == ["granted", "granted", "committed"]
    assert_all_is_well(chain)


def test_sigterm(chain: Chain, child: Child) -> None:
    """A holder that gets SIGTERM gives its lease back. The next caller then waits until KIS's minute is over."""
    with stuck_at(chain, child, TOKEN_PATH):
        assert child.end(signal.SIGTERM) == 130
    assert chain.database.outcomes() == ["granted", "aborted"]
    clock = chain.clock()

    got = chain.resolve(clock, cache_path="off")

    assert (got.source, chain.issue_calls) == ("oauth", 2)
    assert sum(clock.slept) < 62
    assert_all_is_well(chain)


# suspended


@pytest.mark.parametrize("seconds", [75, 7 * 3600], ids=["75 s", "7 h"])
@pytest.mark.parametrize(("path", "before"), [(TOKEN_PATH, False), (COMMIT, True)], ids=["tokenP", "commit"])
def test_suspended(chain: Chain, child: Child, path: str, seconds: int, *, before: bool) -> None:
    """A holder that is suspended until its lease has ended then uses the token that another caller has stored."""
    with stuck_at(chain, child, path, before=before):
        child.signal(signal.SIGSTOP)
        chain.pass_time(seconds)
        other = chain.resolve(cache_path="off")
    child.signal(signal.SIGCONT)
    woken = child.outcome()

    assert (woken["token_id"], woken["source"], woken["refreshed"]) == (other.token.token_id, "supabase", False)
    assert chain.issue_calls == 2
    assert_all_is_well(chain)


# lost answers


def describe(faults: tuple[Fault, ...]) -> str:
    """Return the test's name in the report."""
    return ", ".join(f"{each.path.rpartition('/')[2]} {each.kind}{' after its effect' * each.after}" for each in faults)


@pytest.mark.parametrize("faults", LOST, ids=describe)
def test_lost_answers(chain: Chain, faults: tuple[Fault, ...]) -> None:
    """Each lost answer of KIS costs one further call. Any other lost answer costs no further call."""
    for fault in faults:
        server_of(chain, fault.path).add_fault(fault)
    for _ in range(len(faults) + 1):
        with suppress(KisTokenError):
            chain.resolve(chain.clock(), cache_path="off")

    lost = [fault.path for fault in faults]
    assert chain.issue_calls == 1 + lost.count(TOKEN_PATH)
    assert chain.database.outcomes().count("granted") == chain.issue_calls
    assert_all_is_well(chain)
