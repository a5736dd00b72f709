"""Callers that start together: threads, processes, a laptop beside a runner.

However many callers start together, they make one call to KIS.
"""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from kis_token.clock import SystemClock
from kis_token.errors import IssuanceError
from kis_token.sandbox.kis_http import TOKEN_PATH
from kis_token.token import fingerprint
from tests.races.caller_process import resolve_without
from tests.races.caller_processes import SECONDS, Child
from tests.races.concurrent_callers import (
    BEGIN,
    SharedClock,
    at_once,
    gathered,
    held,
    new_round,
    resolutions,
)
from tests.resolver_harness import ENCRYPTION_KEY, expired_token, stale_token
from tests.support import ACCOUNT, HOUR, SERVICE_KEY, Caller, in_rounds, make_token, wait_until
from tools.step import CHECKOUT, run_step

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from kis_token.token import Token
    from tests.races.concurrent_callers import Outcome
    from tests.resolver_harness import Chain

THREADS = 16
PROCESSES = 8

STATES = ("nothing", "stale", "expired", "rejected")


class EagerClock(SystemClock):
    """The machine's clock, with waits that are ten times shorter."""

    def jitter(self, low: float, high: float) -> float:
        """Return a tenth of ``low``."""
        return super().jitter(low, high) / 10


@pytest.fixture(scope="module")
def children() -> Iterator[list[Child]]:
    """Processes that have started already."""
    if sys.platform == "win32":
        pytest.skip("Windows can wait only for sockets together, not for pipes")
    with ExitStack() as stack:
        yield [stack.enter_context(Child()) for _ in range(PROCESSES)]


def issue_ago(chain: Chain, age: timedelta, **inputs: str) -> Token:
    """Issue and store a token ``age`` ago, make the API reject the token now, and return the token."""
    chain.kis._clock._offset -= age  # ShiftedClock can only be set forward
    token = chain.resolve(None, None, cache_path="off", **inputs).token
    chain.kis.advance(age.total_seconds())
    chain.pass_time(71)
    chain.kis.kill_token(token.value)
    return token


def bring_about(state: str, chain: Chain) -> str | None:
    """Put the slot into a state. Returns the rejected token for the state "rejected"."""
    if state == "rejected":
        return issue_ago(chain, 7 * HOUR).value
    if state != "nothing":
        chain.database.put_token({"stale": stale_token, "expired": expired_token}[state]())
        # Add a lease row, which exists after any issue. If concurrent callers must insert this row, they wait for each
        # other, which would hide a race.
        holder = Caller(chain.database)
        holder.begin()
        holder.abort(cooldown=timedelta())
    return None


def run(children: list[Child], chain: Chain, *, rejected: str | None = None, **inputs: str) -> list[dict[str, Any]]:
    """Start all callers at one moment, and return their results."""
    for child in children:
        child.prepare(chain, rejected=rejected, **inputs)
    for child in children:
        child.wait_until_ready()
    for child in children:
        child.go()
    return [child.outcome() for child in children]


# four reasons to issue


@pytest.mark.parametrize("cache", ["off", "cache.json"], ids=["machines of their own", "one machine"])
@pytest.mark.parametrize("state", STATES)
def test_processes(chain: Chain, children: list[Child], state: str, cache: str) -> None:
    """One of eight processes calls KIS, and all get the token that this process stores."""
    rejected = bring_about(state, chain)
    before = chain.issue_calls
    cache_path = cache if cache == "off" else str(chain.folder / cache)

    with gathered(chain.supabase.server, BEGIN, PROCESSES):
        got = run(children, chain, rejected=rejected, cache_path=cache_path)

    assert chain.issue_calls == before + 1
    assert {each.get("token_id") for each in got} == {chain.database.stored_id()}, got
    assert [each["refreshed"] for each in got].count(True) == 1
    assert {each["source"] for each in got} <= {"oauth", "supabase"}


def test_processes_of_one_machine_without_the_store(chain: Chain, children: list[Child]) -> None:
    """Without Supabase, one process calls KIS, and all other processes take the token from the cache."""
    chain.supabase.stop()

    # The timeout is enough for some seconds of waiting and, on a slow machine, for the start and the lock.
    got = run(children, chain, cache_path=str(chain.folder / "cache.json"), timeout="40s")

    assert chain.issue_calls == 1
    assert {each.get("token_id") for each in got} == {chain.cached_id()}, got
    assert sorted(each["source"] for each in got) == ["cache"] * (PROCESSES - 1) + ["oauth"]


@in_rounds(2, 10)
@pytest.mark.parametrize("state", STATES)
def test_threads(chain: Chain, state: str, rounds: int) -> None:
    """In each round, one of sixteen callers calls KIS, and all get the token that this caller stores."""
    for _ in range(rounds):
        with new_round(chain) as fresh:
            rejected = bring_about(state, fresh)
            before = fresh.issue_calls
            callers = [fresh.resolver(EagerClock(), cache_path="off") for _ in range(THREADS)]
            calls = [partial(resolve_without, each, rejected) for each in callers]

            with gathered(fresh.supabase.server, BEGIN, THREADS):
                got = resolutions(at_once(calls))

            assert fresh.issue_calls == before + 1
            assert {each.token.token_id for each in got} == {fresh.database.stored_id()}
            assert [each.refreshed for each in got].count(True) == 1


@pytest.fixture(scope="session")
def runner(runtime: Path, tool_cache: Path) -> dict[str, str]:  # noqa: ARG001 - it is built
    """The variables of a runner on which the action has run before."""
    return {"RUNNER_TOOL_CACHE": str(tool_cache)}


def test_a_laptop_beside_a_runner(chain: Chain, runner: dict[str, str], tmp_path: Path) -> None:
    """The command ``get`` gets the token that the action's step is issuing.

    The command's log names the step. KIS is called once.

    On a busy machine the step may need a second lease before it calls KIS.
    """
    variables = chain.variables | {"USER": "somebody", "HOSTNAME": "laptop"}
    inputs = {
        "supabase-url": chain.supabase.url,
        "supabase-key": SERVICE_KEY,
        "app-key": ACCOUNT.app_key,
        "app-secret": ACCOUNT.app_secret,
        "base-url": chain.kis.production_url,
    }

    with ThreadPoolExecutor() as pool, held(chain.kis.production, TOKEN_PATH) as is_issuing:
        running = pool.submit(run_step, inputs, tmp_path / "runner", runner)
        assert is_issuing.wait(SECONDS)
        leases = chain.store_calls.count("begin_issuance")
        getting = pool.submit(
            subprocess.run,
            [sys.executable, "-m", "kis_token", "get"],
            cwd=CHECKOUT,
            env={name: value for name, value in os.environ.items() if not name.startswith("GITHUB_")} | variables,
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=False,
        )
        # The command waits for the holder, and reads the row.
        wait_until(
            lambda: chain.store_calls.count("begin_issuance") > leases and chain.store_calls[-1] == "read",
        )
    step, command = running.result(), getting.result()

    assert (step.status, command.returncode) == (0, 0), command.stderr
    tokens = {fingerprint(step.outputs["access-token"]), fingerprint(command.stdout.strip())}
    assert (tokens, chain.issue_calls) == ({chain.database.stored_id()}, 1)
    assert (step.public["source"], step.public["refreshed"]) == ("oauth", "true")
    assert "someone/bot run 1234567890 trade is issuing a token" in command.stderr


@in_rounds(2, 10)
def test_rotations_among_readers(chain: Chain, rounds: int) -> None:
    """Two concurrent rotations make one call.

    Readers get the old token or the new one, and later readers the new one.
    """
    for _ in range(rounds):
        with new_round(chain) as fresh:
            old = make_token(left=12 * HOUR, age=12 * HOUR)
            fresh.database.put_token(old)
            rotations, readers = (
                [fresh.resolver(EagerClock(), None, cache_path="off", **inputs) for _ in range(number)]
                for number, inputs in ((2, {"mode": "rotate", "refresh_after": "8h"}), (14, {}))
            )

            with gathered(fresh.supabase.server, BEGIN, len(rotations)):
                got = resolutions(at_once([each.resolve for each in (*rotations, *readers)]))

            new = fresh.database.stored_id()
            assert (fresh.issue_calls, [each.refreshed for each in got].count(True)) == (1, 1)
            assert {each.token.token_id for each in got[:2]} == {new} != {old.token_id}
            assert {each.token.token_id for each in got[2:]} <= {old.token_id, new}
            assert fresh.resolve(cache_path="off").token.token_id == new


# a rejected token that KIS gives again


@pytest.mark.parametrize("is_stored", [True, False], ids=["stored", "deleted"])
@pytest.mark.parametrize("encryption_key", ["", ENCRYPTION_KEY], ids=["plain", "sealed"])
def test_repeated(chain: Chain, encryption_key: str, *, is_stored: bool) -> None:
    """Until 6 h after the issue, KIS is called once, all callers fail and the row stays.

    As soon as 6 h are over, KIS issues another token.
    """
    inputs = {"encryption_key": encryption_key, "cache_path": "off"}
    rejected = issue_ago(chain, 2 * HOUR, encryption_key=encryption_key)
    if not is_stored:
        chain.database.owner.execute("delete from api_credentials where credential_type = 'access_token'")
    row = chain.database.row()

    def replace_at_once() -> list[Outcome]:
        clock = SharedClock(PROCESSES, chain.pass_time)
        callers = [chain.resolver(clock, None, **inputs) for _ in range(PROCESSES)]
        return at_once([partial(resolve_without, each, rejected.value) for each in callers], clock)

    for minutes in (0, 225):  # at the second time, 15 minutes of the 6 h are left
        chain.pass_time(minutes * 60)
        got = replace_at_once()
        assert {each.code if isinstance(each, IssuanceError) else each for each in got} == {"token-repeated"}
        assert (chain.issue_calls, chain.database.row()) == (2, row)
    chain.pass_time(15 * 60)
    new = resolutions(replace_at_once())

    assert (chain.issue_calls, chain.kis.counts("production").issues) == (3, 2)
    assert {each.token.token_id for each in new} == {chain.resolve(None, None, **inputs).token.token_id}
    assert new[0].token.token_id != rejected.token_id
    assert [each.refreshed for each in new].count(True) == 1


def test_a_rejected_token_is_not_stored_from_a_cache(chain: Chain) -> None:
    """If the rejected token's row is deleted, a caller with this token in its cache does not store it or use it."""
    rejected = issue_ago(chain, 2 * HOUR)
    chain.database.owner.execute("delete from api_credentials where credential_type = 'access_token'")
    with pytest.raises(IssuanceError, match="token-repeated"):
        chain.replace(rejected, cache_path="off")
    chain.cache_token(rejected)

    with pytest.raises(IssuanceError, match="token-repeated"):
        chain.resolve()
    assert chain.database.stored_id() is None
