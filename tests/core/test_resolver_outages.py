"""The chain while Supabase does not work."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from kis_token.errors import (
    IssuerError,
    IssuerOutage,
    IssuerRateLimited,
    StoreMisconfigured,
    StoreOutage,
)
from kis_token.sandbox.kis_http import html_response
from kis_token.sandbox.loopback import Fault
from tests.resolver_harness import stale_token
from tests.support import APP_KEY, make_token, utc_now

if TYPE_CHECKING:
    from tests.resolver_harness import Chain


def test_down_with_a_cached_token(chain: Chain) -> None:
    """In an outage any valid cached token is used, with a warning, and KIS is not called."""
    token = stale_token()
    chain.cache_token(token)
    chain.supabase.stop()

    got = chain.resolve()

    assert (got.token.token_id, got.source, chain.issue_calls) == (token.token_id, "cache", 0)
    assert "the cached token is used" in got.warnings[0]


def test_down_with_nothing_issues_once(chain: Chain) -> None:
    """In an outage without a cached token, callers of one machine share one call under the machine's lock."""
    chain.supabase.stop()
    with ThreadPoolExecutor(6) as pool:
        got = list(pool.map(lambda _: chain.resolve(), range(6)))

    assert chain.issue_calls == 1
    assert len({each.token.token_id for each in got}) == 1
    assert sorted(each.source for each in got) == ["cache"] * 5 + ["oauth"]
    assert all(each.warnings for each in got)


def test_down_and_kis_says_not_now(chain: Chain) -> None:
    """In an outage, EGW00133 is final: if forty jobs called KIS a second time, that would make eighty calls."""
    chain.supabase.stop()
    chain.refuse_issue("EGW00133")
    with pytest.raises(Exception, match="EGW00133"):
        chain.resolve()
    assert chain.issue_calls == 1


@pytest.mark.parametrize("code", ["EGW00133", "EGW00105", "EGW00999"])
def test_down_and_a_failed_call_is_noted_on_the_machine(chain: Chain, code: str) -> None:
    """If a call returns no token, no process of the machine calls KIS for a minute; then the next process may."""
    chain.supabase.stop()
    chain.refuse_issue(code)
    with pytest.raises(IssuerError):
        chain.resolve()

    for _ in range(3):
        with pytest.raises(IssuerRateLimited, match="no caller on this machine may call KIS"):
            chain.resolve()
    assert chain.issue_calls == 1
    chain.machine.hold_back(APP_KEY.key_id, utc_now())
    chain.kis.advance(61)
    assert (chain.resolve().source, chain.issue_calls) == ("oauth", 2)


def test_down_and_kis_as_well_is_tried_by_each(chain: Chain) -> None:
    """If a call was never sent, no process has to wait: when KIS answers again, the next process gets a token."""
    chain.supabase.stop()
    chain.kis.production.stop()
    with pytest.raises(IssuerOutage):
        chain.resolve()
    chain.kis.production.start()
    assert chain.resolve().source == "oauth"


def test_down_with_the_keys_inside_is_called_an_outage(chain: Chain) -> None:
    """If only Supabase has the keys, the error is the outage of Supabase, not a missing key."""
    chain.supabase.stop()
    with pytest.raises(StoreOutage):
        chain.resolve(app_key="", app_secret="")
    assert chain.issue_calls == 0


def test_down_with_on_store_outage_fail(chain: Chain) -> None:
    """With ``on-store-outage: fail``, no token is issued; a cached token is still used."""
    chain.supabase.stop()
    with pytest.raises(StoreOutage):
        chain.resolve(on_store_outage="fail")
    chain.cache_token(make_token())
    assert chain.resolve(on_store_outage="fail").source == "cache"
    assert chain.issue_calls == 0


def test_down_without_a_cache(chain: Chain) -> None:
    """If the cache is turned off, a caller still issues a token in an outage."""
    chain.supabase.stop()

    assert chain.resolve(cache_path="off").source == "oauth"


def test_down_at_begin_uses_the_token_that_was_read(chain: Chain) -> None:
    """If Supabase fails between read and begin, the caller uses the stale token that it has read."""
    token = stale_token()
    chain.database.put_token(token)
    chain.supabase.server.add_fault(Fault("answer", "/rest/v1/rpc/begin", 99, html_response(503)))

    got = chain.resolve()
    assert (got.token.token_id, bool(got.warnings), chain.issue_calls) == (token.token_id, True, 0)


def test_misconfigured_does_not_fall_back(chain: Chain) -> None:
    """A key of another Supabase project is a configuration error, even if a token is cached."""
    chain.cache_token(make_token())
    with pytest.raises(StoreMisconfigured):
        chain.resolve(supabase_key="sb_secret_of_another_project")
    assert chain.issue_calls == 0


def test_a_page_is_not_an_empty_table(chain: Chain) -> None:
    """A proxy's page with status 200 is an outage, not a slot without a token."""
    chain.supabase.server.add_fault(Fault("answer", times=9, response=html_response(200)))
    chain.cache_token(make_token())

    assert chain.resolve().source == "cache"
