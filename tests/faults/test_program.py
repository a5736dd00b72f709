"""The time that an outage of Supabase adds to a step that runs the action's program."""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING

import pytest

from tests.faults.helpers import black_hole
from tests.resolver_harness import stale_token
from tests.secret_patterns import without_masks
from tests.support import SERVICE_KEY, make_token
from tools.step import Ended, run_step

if TYPE_CHECKING:
    from pathlib import Path

    from tests.resolver_harness import Chain

#: A package index without a server, because no test of this file may install a package.
NOWHERE = {"PIP_INDEX_URL": "http://127.0.0.1:9/simple", "UV_DEFAULT_INDEX": "http://127.0.0.1:9/simple"}


def timed_step(chain: Chain, folder: Path, **inputs: str) -> tuple[Ended, float]:
    """Run a step; return its result and its duration in seconds."""
    given = {
        "supabase-url": chain.supabase.url,
        "supabase-key": SERVICE_KEY,
        "base-url": chain.kis.production_url,
        "cache-path": str(chain.folder / "cache.json"),
        **{name.replace("_", "-"): value for name, value in inputs.items()},
    }
    started = time.monotonic()
    ended = run_step(given, folder, NOWHERE)
    return ended, time.monotonic() - started


@pytest.fixture
def start_up(chain: Chain, tmp_path: Path) -> float:
    """Return the seconds of a step that finds a fresh token in Supabase. Then cache a stale token."""
    chain.database.put_token(make_token())
    chain.supabase.start()
    taken = min(timed_step(chain, tmp_path / f"plain-{number}", cache_path="off")[1] for number in range(3))
    chain.cache_token(stale_token())
    return taken


def assert_cached_token(chain: Chain, ended: Ended) -> None:
    """Assert that the cached token is the output, with a warning, and that KIS was not called."""
    assert (ended.status, ended.public.get("source"), chain.issue_calls) == (0, "cache", 0)
    assert "[store-unreachable]; the cached token is used." in ended.log


def assert_costs_less(chain: Chain, folder: Path, start_up: float, limit: float, **inputs: str) -> None:
    """Assert that a step outputs the cached token at most ``limit`` seconds later than a plain start.

    The step is repeated, because on a slow machine a step with a timeout may end without a token.
    """
    quickest = limit + start_up
    for number in range(12):
        ended, taken = timed_step(chain, folder / f"{number}", **inputs)
        if "timeout" not in inputs or taken < limit + start_up:
            assert_cached_token(chain, ended)
        quickest = min(quickest, taken)
        if quickest < limit + start_up:
            break
    assert quickest < limit + start_up


def test_refused_costs_less_than_a_second(chain: Chain, tmp_path: Path, start_up: float) -> None:
    """If Supabase refuses connections, a step takes at most 1 s longer than a plain start."""
    chain.supabase.stop()
    assert_costs_less(chain, tmp_path, start_up, 1)


def test_a_black_hole_costs_less_than_six_seconds(chain: Chain, tmp_path: Path, start_up: float) -> None:
    """If connections to Supabase get no answer, a step takes at most 6 s longer than a plain start."""
    with black_hole() as url:
        assert_costs_less(chain, tmp_path, start_up, 6, supabase_url=url)


def test_a_short_timeout_leaves_time_for_the_cached_token(chain: Chain, tmp_path: Path, start_up: float) -> None:
    """If the timeout is shorter than the 5 s of a read, the step still outputs the cached token in time."""
    seconds = min(2 + math.ceil(start_up), 4)  # a longer timeout on a busy machine
    with black_hole() as url:
        assert_costs_less(chain, tmp_path, start_up, seconds, supabase_url=url, timeout=f"{seconds}s")


def test_with_nothing_the_timeout_is_the_end(chain: Chain, tmp_path: Path) -> None:
    """Without any token, the step ends at its timeout with one error, which names the part that did not answer."""
    said, log, taken = "Supabase did not answer within", "", math.inf
    seconds = 12  # a read may take 5 s; the rest is for the start on a busy machine
    with black_hole() as url:
        for number in range(6):  # a busy machine may need the second that is kept for the output
            ended, taken = timed_step(chain, tmp_path / f"{number}", supabase_url=url, timeout=f"{seconds}s")
            log = without_masks(ended.log.encode()).decode()
            assert (ended.status, chain.issue_calls, ended.public["error-code"]) == (1, 0, "timed-out")
            assert [line for line in log.splitlines() if line.startswith("::error")][1:] == []
            if said in log and taken < seconds + 1 + 2:
                break

    assert said in log
    assert taken < seconds + 1 + 2  # a second for the output, and two for a slow machine
