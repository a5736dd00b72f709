"""The store in memory: its own behaviour. tests/store covers the behaviour that all stores share."""

from __future__ import annotations

import uuid
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import TYPE_CHECKING

import pytest

from bench.year.memory_store import MemoryStore
from kis_token.errors import StoreOutage
from tests.store.backends import (
    Caller,
    MemoryBackend,
    put_token,
)
from tests.support import APP_KEY, HOUR, MINUTE, make_token, utc_now

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

    from kis_token.core.ports import Begun


class StillClock:
    """A clock that does not move."""

    def __init__(self) -> None:
        self._now = utc_now()

    def now(self) -> datetime:
        """Return the time at which the clock was created."""
        return self._now


def test_a_store_that_is_down() -> None:
    """While the store is down, every call raises StoreOutage, but a test can write rows.

    After the outage, the store still has its rows.
    """
    store, holder, token = MemoryStore(StillClock()), str(uuid.uuid4()), make_token()
    store.is_down = True
    version = store.put("kis", "access_token", token.to_json(), token.expires_at)
    calls: list[Callable[[], object]] = [
        lambda: store.read("kis"),
        lambda: store.begin("kis", holder, "a laptop", APP_KEY, min_remaining=MINUTE),
        lambda: store.commit("kis", holder, 1, token, token.to_json(), rejected=False),
        lambda: store.save("kis", token, token.to_json()),
        lambda: store.abort("kis", holder, 1, cooldown=MINUTE, error_code="EGW00133"),
    ]
    for call in calls:
        with pytest.raises(StoreOutage) as caught:
            call()
        assert (caught.value.code, caught.value.retryable) == ("store-unreachable", True)
    assert store.outcomes("kis") == []
    store.is_down = False
    assert store.read("kis").rows["access_token"].version == version


class InterruptedClock:
    """A clock whose first reader is interrupted by another caller."""

    def __init__(self, come_in: Callable[[], Future[Begun]]) -> None:
        self._come_in: Callable[[], Future[Begun]] | None = come_in
        self.others: list[Future[Begun]] = []

    def now(self) -> datetime:
        """Return the present time.

        At the first reading, another caller begins and, if it need not wait, also ends before the reading.
        """
        if self._come_in is not None:
            come_in, self._come_in = self._come_in, None
            self.others.append(come_in())
            wait(self.others, timeout=0.05)
        return utc_now()


def test_threads_run_one_at_a_time() -> None:
    """A call that begins during another call waits for the end of that call, so one of two threads gets the lease."""
    with ThreadPoolExecutor(1) as pool:
        clock = InterruptedClock(lambda: pool.submit(begin))
        store = MemoryStore(clock)

        def begin() -> Begun:
            return store.begin("kis", str(uuid.uuid4()), "a thread", APP_KEY, min_remaining=MINUTE)

        assert begin().status == "granted"
        assert [other.result().status for other in clock.others] == ["busy"]


@pytest.mark.parametrize(("is_before", "status"), [(True, "committed"), (False, "fenced")], ids=["before", "meanwhile"])
def test_a_clock_that_stands_still(is_before: bool, status: str) -> None:  # noqa: FBT001 - a table
    """Even if the clock stands still, a row from before the lease differs from a row from within the lease."""
    store, holder, token = MemoryStore(StillClock()), str(uuid.uuid4()), make_token()
    newer = make_token(left=48 * HOUR)

    def put() -> int:
        return store.put("kis", "access_token", newer.to_json(), newer.expires_at)

    version = put() if is_before else None
    store.begin("kis", holder, "a laptop", APP_KEY, min_remaining=MINUTE, rejected_version=version)
    if not is_before:
        put()

    assert store.commit("kis", holder, 1, token, token.to_json(), rejected=False).status == status


def test_nothing_in_memory_shows_secrets() -> None:
    """The representations of the store contain no token, no key and no holder's id."""
    backend, token = MemoryBackend(), make_token()
    backend.put("kis", "app_secret", APP_KEY.secret)
    caller = Caller(backend)
    caller.begin()
    put_token(backend, token)

    shown = repr(vars(backend.store))
    assert not any(secret in shown for secret in (token.value, APP_KEY.key, APP_KEY.secret, caller.holder))
