"""A token that was issued without the store is stored as soon as the store answers again."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from kis_token.client.kis_client import KISClient
from kis_token.errors import StoreOutage
from kis_token.sandbox.kis_http import PRICE_PATH, PRICE_TR_ID, html_response
from kis_token.sandbox.loopback import Fault
from tests.faults.helpers import assert_warned
from tests.faults.test_store import mend
from tests.resolver_harness import OTHER
from tests.support import APP_KEY, HOUR, MINUTE, make_token, utc_now

if TYPE_CHECKING:
    from pathlib import Path

    from tests.resolver_harness import Chain


def issued_alone(chain: Chain) -> tuple[str, str]:
    """Issue a token in an outage. Return the fingerprints of an older token, now stored, and of the issued token."""
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
    """A token that was issued in an outage is used instead of an older fresh one; every mode but `check` stores it."""
    _, newer = issued_alone(chain)

    got = chain.resolve(mode=mode)

    assert (got.token.token_id, got.warnings, chain.issue_calls) == (newer, (), 1)
    assert (chain.database.stored_id() == newer) is (mode != "check")
    assert chain.resolve(cache_path="off").token.token_id == (newer if mode != "check" else chain.database.stored_id())


def test_a_reader_whose_token_the_api_rejects_finds_it(chain: Chain, tmp_path: Path) -> None:
    """If a client's older token is rejected, the client gets the later token from the store, and does not issue."""
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
    """A client without a cache stores the token that it issued in an outage as soon as the store answers again."""
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
    """If the later token cannot be stored, its machine uses it with a warning; a later run stores it."""
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
    """A cached token that is expired, older or of another account does not replace the stored token."""
    stored = make_token(left=16 * HOUR, age=8 * HOUR)
    chain.database.put_token(stored)
    chain.cache_token(LATER[name]())

    got = chain.resolve()

    assert (got.token.token_id, got.source, got.warnings) == (stored.token_id, "supabase", ())
    assert chain.store_calls == ["read"]


@pytest.mark.parametrize("times", [1, 4, 9999])
def test_a_rotation_does_not_renew_for_a_save_that_fails(chain: Chain, times: int) -> None:
    """If the save of the later token fails, a rotation that is not due does not issue."""
    _, newer = issued_alone(chain)
    chain.supabase.server.add_fault(Fault("answer", "/rest/v1/rpc/save_token", times, html_response(503)))
    if times < 99:
        assert chain.resolve(mode="rotate").token.token_id == newer
    else:
        with pytest.raises(StoreOutage):
            chain.resolve(mode="rotate")
    assert chain.issue_calls == 1


def test_a_token_that_a_client_saw_rejected_does_not_come_home(chain: Chain) -> None:
    """If KIS rejects the later token, the older stored token is cached and used, although it ends sooner."""
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
