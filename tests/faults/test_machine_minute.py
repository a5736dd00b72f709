"""Without the store, the callers of one machine make one tokenP call a minute, with or without a cache."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from kis_token.errors import IssuerOutage, IssuerRateLimited, KisTokenError
from kis_token.local.machine_lock import LocalMachine
from kis_token.sandbox.kis_http import TOKEN_PATH
from kis_token.sandbox.loopback import Fault
from tests.faults.helpers import BEGIN
from tests.resolver_harness import OTHER
from tests.support import HOUR, MINUTE, Caller, TurnedClock, make_token

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.resolver_harness import Chain


CACHES: dict[str, Callable[[Path], str]] = {
    "off": lambda _: "off",
    "cannot-be-made": lambda folder: str(folder / "a-file" / "below" / "cache.json"),
    "a-folder-in-its-place": lambda folder: str(folder / "a-folder"),
}


@pytest.mark.parametrize("cache", CACHES)
def test_five_callers_of_one_machine_without_a_cache_make_one_call(chain: Chain, cache: str) -> None:
    """Without a cache, one caller gets the token; the other four get an error that KIS must not be called yet."""
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
    assert all("no caller on this machine may call KIS for" in each for each in got[:4])


def test_callers_with_caches_of_their_own_make_one_call(chain: Chain) -> None:
    """Two jobs on one machine, each with its own cache file, make only one call together."""
    chain.supabase.stop()
    assert chain.resolve(cache_path=str(chain.folder / "a.json")).source == "oauth"
    with pytest.raises(IssuerRateLimited):
        chain.resolve(cache_path=str(chain.folder / "b.json"))
    assert chain.issue_calls == 1


def test_another_account_of_the_machine_is_not_kept_waiting(chain: Chain) -> None:
    """KIS allows one call a minute for each app key, so a call with another app key does not have to wait."""
    chain.supabase.stop()
    chain.resolve(cache_path="off")
    with pytest.raises(KisTokenError) as caught:
        chain.resolve(cache_path="off", app_key=OTHER.key, app_secret=OTHER.secret)
    assert (caught.value.code, chain.issue_calls) == ("kis-key-refused", 2)


def test_a_call_that_was_never_sent_uses_no_minute(chain: Chain) -> None:
    """If KIS could not be reached, the next process may try at once."""
    chain.supabase.stop()
    chain.kis.production.stop()
    with pytest.raises(IssuerOutage):
        chain.resolve(cache_path="off")
    chain.kis.production.start()

    assert chain.resolve(cache_path="off").source == "oauth"


def test_without_a_private_folder_no_caller_issues_alone(chain: Chain, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a private folder for the lock, a caller does not call KIS and gets an error; a cached token is used."""
    monkeypatch.setattr(type(chain), "machine", LocalMachine(list))
    chain.supabase.stop()
    with pytest.raises(KisTokenError) as caught:
        chain.resolve()
    assert (caught.value.code, chain.issue_calls) == ("no-private-folder", 0)
    assert "does not answer" in f"{caught.value}"
    chain.cache_token(make_token())
    assert chain.resolve().source == "cache"


@pytest.mark.parametrize("knows", ["of-a-holder", "of-a-lost-answer", "of-its-own-call"])
def test_a_caller_remembers_a_lease_from_the_call_before(chain: Chain, knows: str) -> None:
    """In an outage, no caller issues for a minute after a caller of the same machine met a lease or called KIS."""
    if knows == "of-a-holder":
        Caller(chain.database, label="acme/bot run 7 trade").begin()
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
    """If the clock goes back a minute after a call, callers still wait; if it goes back an hour, they do not."""
    chain.supabase.stop()
    chain.resolve(cache_path="off")
    with pytest.raises(IssuerRateLimited):
        chain.resolve(TurnedClock(wrong_by=-seconds * MINUTE / 60), cache_path="off", timeout="22s")
    assert chain.issue_calls == 1
    chain.kis.advance(61)
    assert chain.resolve(TurnedClock(wrong_by=-HOUR), cache_path="off", timeout="22s").source == "oauth"
