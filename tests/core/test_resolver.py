"""The chain of store, cache and issuing, with the real store, an emulated KIS over HTTP and a real cache file."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from kis_token.errors import IssuanceError, IssuerOutage, TokenError
from kis_token.sandbox.kis_http import TOKEN_PATH, error_response, html_response
from kis_token.sandbox.loopback import Fault
from kis_token.token import in_both_zones
from tests.resolver_harness import OTHER, GivesAgain, expired_token, stale_token
from tests.support import APP_KEY, HOUR, MINUTE, make_token

if TYPE_CHECKING:
    from datetime import timedelta

    from kis_token.token import Token
    from tests.resolver_harness import Chain


def test_nothing_stored_is_issued_and_stored_twice(chain: Chain) -> None:
    """On an empty slot there is one tokenP call, and the token is in Supabase and in the cache."""
    got = chain.resolve()

    assert (got.source, got.refreshed, got.expired, got.warnings) == ("oauth", True, False, ())
    assert chain.issue_calls == 1
    assert chain.database.stored_id() == got.token.token_id == chain.cached_id()
    assert got.token.version == chain.database.row()["version"]
    assert chain.store_calls == ["read", "begin_issuance", "commit_issuance"]


def test_warm_is_one_read(chain: Chain) -> None:
    """If the stored token is fresh, the caller makes one GET and no call to KIS, and caches the token."""
    token = make_token()
    chain.database.put_token(token)

    got = chain.resolve()

    assert (got.token.token_id, got.source, got.refreshed) == (token.token_id, "supabase", False)
    assert (chain.store_calls, chain.issue_calls) == (["read"], 0)
    assert chain.cached_id() == token.token_id


@pytest.mark.parametrize("stored", [stale_token(), expired_token()], ids=["stale", "expired"])
def test_stale_and_expired_tokens_are_renewed(chain: Chain, stored: Token) -> None:
    """A stale or expired token is renewed with one tokenP call."""
    chain.database.put_token(stored)

    got = chain.resolve()

    assert (got.source, got.refreshed, chain.issue_calls) == ("oauth", True, 1)
    assert chain.database.stored_id() == got.token.token_id != stored.token_id


def test_a_token_that_ends_before_its_column_says(chain: Chain) -> None:
    """If Korea time without a zone makes the column nine hours late, an expired token is still not used."""
    token = expired_token()
    chain.database.put("access_token", token.to_json(), token.expires_at + 9 * HOUR)

    got = chain.resolve()

    assert (got.source, chain.issue_calls) == ("oauth", 1)
    assert chain.database.stored_id() == got.token.token_id


@pytest.mark.parametrize(
    "fault",
    [
        Fault("answer", TOKEN_PATH, response=error_response("EGW00105", TOKEN_PATH)),
        Fault("answer", TOKEN_PATH, response=html_response(503)),
        Fault("reset", TOKEN_PATH),
    ],
    ids=["refused", "maintenance", "reset"],
)
def test_a_stale_token_is_used_when_kis_gives_no_token(chain: Chain, fault: Fault) -> None:
    """If the renewal fails, the valid token is still used; a warning names the reason."""
    token = stale_token()
    chain.database.put_token(token)
    chain.kis.production.add_fault(fault)

    got = chain.resolve()

    assert (got.token.token_id, got.source, got.refreshed) == (token.token_id, "supabase", False)
    assert "not renewed" in got.warnings[0]
    assert chain.issue_calls == 1


def test_a_stale_token_is_used_when_kis_is_down(chain: Chain) -> None:
    """If KIS does not answer, the valid token is used, and the lease ends so that the next caller can try at once."""
    token = stale_token()
    chain.database.put_token(token)
    chain.kis.production.stop()

    assert chain.resolve().token.token_id == token.token_id
    assert chain.database.lease()["last_error"] == "kis-unreachable"
    chain.kis.production.start()
    assert chain.resolve().source == "oauth"


def test_expired_and_no_kis_is_an_error(chain: Chain) -> None:
    """If no token is valid and KIS does not answer, the issuer's error is raised."""
    chain.database.put_token(expired_token())
    chain.kis.production.stop()
    with pytest.raises(IssuerOutage):
        chain.resolve()


def test_another_token_that_is_stored_replaces_a_refused_one(chain: Chain) -> None:
    """If a caller's token was rejected and another token is stored, the stored one is used; KIS is not called."""
    token = make_token()
    chain.database.put_token(token)
    chain.cache_token(stale_token())

    got = chain.replace(stale_token())

    assert (got.token.token_id, got.source, chain.store_calls) == (token.token_id, "supabase", ["read"])


def test_a_refused_token_is_replaced_once(chain: Chain) -> None:
    """If the stored token was rejected, one new token is issued for all callers that report it."""
    token = make_token(left=16 * HOUR, age=8 * HOUR)
    chain.database.put_token(token)
    chain.cache_token(token)

    first, second = (chain.replace(token) for _ in range(2))

    assert (first.source, first.refreshed, second.source) == ("oauth", True, "supabase")
    assert first.token.token_id == second.token.token_id == chain.database.stored_id() == chain.cached_id()
    assert chain.issue_calls == 1


@pytest.mark.parametrize("is_stored", [True, False])
@pytest.mark.parametrize("is_down", [False, True])
def test_a_refused_token_that_kis_repeats_is_an_error(chain: Chain, *, is_stored: bool, is_down: bool) -> None:
    """If KIS repeats a rejected token, it is not handed out or stored; the error says when KIS gives another one."""
    token = make_token(left=22 * HOUR, age=2 * HOUR)
    if is_stored:
        chain.database.put_token(token)
    before = chain.database.row()
    if is_down:
        chain.supabase.stop()

    with pytest.raises(IssuanceError) as caught:
        chain.replace(token, GivesAgain(token))

    assert (caught.value.code, caught.value.retryable) == ("token-repeated", False)
    assert in_both_zones(token.issued_at + 6 * HOUR) in f"{caught.value}"
    assert chain.database.row() == before


def test_stored_keys_come_first(chain: Chain) -> None:
    """Keys in Supabase have precedence over the keys of the settings, and are handed out with the token."""
    chain.database.put_keys()

    got = chain.resolve(app_key=OTHER.key, app_secret=OTHER.secret)

    assert got.app_key is not None
    assert got.app_key.credential_id == APP_KEY.credential_id
    assert got.source == "oauth"


def test_no_keys_anywhere(chain: Chain) -> None:
    """If no keys are known, no token is issued, and the caller gets an error. A fresh stored token needs no keys."""
    with pytest.raises(IssuanceError) as caught:
        chain.resolve(app_key="", app_secret="")
    assert caught.value.code == "missing-app-key"
    chain.database.put_token(make_token())
    assert chain.resolve(app_key="", app_secret="").source == "supabase"


@pytest.mark.parametrize(
    "value",
    [
        "",
        "{",
        "[]",
        "null",
        "{}",
        '{"access_token": ""}',
        '{"access_token": 17}',
        '{"access_token": "short"}',
        '{"access_token": "spaces in the middle of the token"}',
        "eyJ0eXAiOiJKV1QifQ.e30.c2lnbmF0dXJlLXRoYXQtaXMtbG9uZy1lbm91Z2g",
    ],
)
@pytest.mark.parametrize("left", [23 * HOUR, None], ids=["dated", "undated"])
def test_unusable_rows_are_replaced(chain: Chain, value: str, left: timedelta | None) -> None:
    """A row with an unusable value is replaced with one tokenP call, even if its column has a late end."""
    chain.database.put("access_token", value, make_token(left=left).expires_at if left else None)

    got = chain.resolve()

    assert (got.source, got.refreshed, chain.issue_calls) == ("oauth", True, 1)
    assert chain.store_calls == ["read", "begin_issuance", "commit_issuance"]
    assert chain.database.stored_id() == got.token.token_id


def test_a_token_without_dates_is_replaced(chain: Chain) -> None:
    """A token without an end in the row, the JSON or its claims is replaced."""
    chain.database.put("access_token", json.dumps({"access_token": "opaque-token-0123456789-abcdef"}))

    assert chain.resolve().source == "oauth"


def test_a_token_of_another_key_is_an_error(chain: Chain) -> None:
    """A valid token of another app key is not replaced: two accounts would replace each other's tokens for ever."""
    chain.database.put_token(make_token(OTHER.key))
    with pytest.raises(TokenError) as caught:
        chain.resolve()
    assert (caught.value.code, chain.issue_calls) == ("token-of-another-key", 0)


def test_a_token_of_another_environment_is_an_error(chain: Chain) -> None:
    """A token whose JSON names the paper environment is an error for production, and is not replaced."""
    token = make_token()
    value = json.dumps({**json.loads(token.to_json()), "environment": "paper"})
    chain.database.put("access_token", value, token.expires_at)
    with pytest.raises(TokenError) as caught:
        chain.resolve()
    assert (caught.value.code, chain.issue_calls) == ("token-of-another-environment", 0)


def test_an_expired_token_of_another_key_is_replaced(chain: Chain) -> None:
    """An expired token of another key is replaced, so that a change of keys works."""
    chain.database.put_token(make_token(OTHER.key, left=-MINUTE, age=25 * HOUR))

    assert chain.resolve().source == "oauth"
