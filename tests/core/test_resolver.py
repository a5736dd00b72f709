"""The chain: store, cache, a turn to issue. With the real store, a KIS over HTTP and a real cache file."""

from __future__ import annotations

import base64
import json
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

from kis_token.errors import IssuanceError, IssuerOutage, IssuerRateLimited, StoreOutage, TokenError
from kis_token.local.machine_lock import LocalMachine
from kis_token.sandbox.kis_http import TOKEN_PATH, error_response, html_response
from kis_token.sandbox.loopback import Fault
from kis_token.store.supabase import SupabaseStore
from kis_token.token import in_both_zones
from tests.resolver_harness import ENCRYPTION_KEY, OTHER, dead_token, stale_token
from tests.support import APP_KEY, HOUR, MINUTE, make_token, utc_now

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager
    from datetime import datetime

    from kis_token.core.slot import Slot
    from kis_token.token import AppKey, Token
    from tests.resolver_harness import Chain


# one caller


def test_nothing_stored_is_issued_and_stored_twice(chain: Chain) -> None:
    """On an empty slot there is one tokenP call, and the token is in Supabase and in the cache."""
    got = chain.resolve()

    assert (got.source, got.refreshed, got.expired, got.warnings) == ("oauth", True, False, ())
    assert chain.issue_calls == 1
    assert chain.database.stored_id() == got.token.token_id == chain.cached_id()
    assert got.token.version == chain.database.row()["version"]
    assert chain.store_calls == ["read", "begin_issuance", "commit_issuance"]


def test_warm_is_one_read(chain: Chain) -> None:
    """A fresh stored token costs one GET and no call of KIS, and is kept in the cache."""
    token = make_token()
    chain.database.put_token(token)

    got = chain.resolve()

    assert (got.token.token_id, got.source, got.refreshed) == (token.token_id, "supabase", False)
    assert (chain.store_calls, chain.issue_calls) == (["read"], 0)
    assert chain.cached_id() == token.token_id


@pytest.mark.parametrize("stored", [stale_token(), dead_token()], ids=["stale", "expired"])
def test_what_is_not_fresh_is_renewed(chain: Chain, stored: Token) -> None:
    """A stale and an expired token are replaced by one new token."""
    chain.database.put_token(stored)

    got = chain.resolve()

    assert (got.source, got.refreshed, chain.issue_calls) == ("oauth", True, 1)
    assert chain.database.stored_id() == got.token.token_id != stored.token_id


def test_a_token_that_ends_before_its_column_says(chain: Chain) -> None:
    """A column nine hours late, as naive Korea times make it, does not keep an expired token in use."""
    token = dead_token()
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
def test_a_stale_token_is_used_when_kis_gives_none(chain: Chain, fault: Fault) -> None:
    """A token that lives is not withheld because its renewal failed; a warning says why."""
    token = stale_token()
    chain.database.put_token(token)
    chain.kis.production.add_fault(fault)

    got = chain.resolve()

    assert (got.token.token_id, got.source, got.refreshed) == (token.token_id, "supabase", False)
    assert "not renewed" in got.warnings[0]
    assert chain.issue_calls == 1


def test_a_stale_token_is_used_when_kis_is_down(chain: Chain) -> None:
    """The same when nobody listens at KIS, and the turn is given back for others to try at once."""
    token = stale_token()
    chain.database.put_token(token)
    chain.kis.production.stop()

    assert chain.resolve().token.token_id == token.token_id
    assert chain.database.lease()["last_error"] == "kis-unreachable"
    chain.kis.production.start()
    assert chain.resolve().source == "oauth"


def test_expired_and_no_kis_is_an_error(chain: Chain) -> None:
    """With nothing that lives, the issuer's error is the answer."""
    chain.database.put_token(dead_token())
    chain.kis.production.stop()
    with pytest.raises(IssuerOutage):
        chain.resolve()


# a token that KIS has refused


def test_another_token_that_is_stored_replaces_a_refused_one(chain: Chain) -> None:
    """Who was refused with an older token goes on with the stored one; KIS is not asked."""
    token = make_token()
    chain.database.put_token(token)
    chain.cache_token(stale_token())

    got = chain.replace(stale_token())

    assert (got.token.token_id, got.source, chain.store_calls) == (token.token_id, "supabase", ["read"])


def test_a_refused_token_is_replaced_once(chain: Chain) -> None:
    """The stored token itself was refused: one new one is issued, for all who come with the refused one."""
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
    """Within 6 h of its issue KIS gives it again: it is not handed out, not stored, and the error says until when."""
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


# the cache


def test_a_cached_token_is_put_back(chain: Chain) -> None:
    """A fresh cached token that Supabase lost is stored again; KIS is not asked."""
    token = make_token()
    chain.cache_token(token)

    got = chain.resolve()

    assert (got.token.token_id, got.source, got.refreshed) == (token.token_id, "cache", False)
    assert (chain.database.stored_id(), chain.issue_calls) == (token.token_id, 0)


def test_a_cached_token_is_put_back_though_nobody_may_issue(chain: Chain) -> None:
    """A token row that is lost within the minute of an issue comes back from the cache at once, without KIS."""
    first = chain.resolve()
    chain.database.owner.execute("delete from api_credentials where credential_type = 'access_token'")

    again = chain.resolve()

    assert (again.source, again.token.token_id) == ("cache", first.token.token_id)
    assert chain.database.stored_id() == first.token.token_id
    assert chain.issue_calls == 1


class GivesAgain:
    """KIS within 6 hours of an issue that nobody kept: the same token comes back."""

    def __init__(self, token: Token) -> None:
        self._token = token

    def issue(self, app_key: AppKey, now: datetime, may_send: Callable[[], bool] | None = None) -> Token:
        """The token of before."""
        assert may_send is None or may_send()
        assert (app_key.key_id, self._token.remaining(now) > timedelta()) == (self._token.app_key_id, True)
        return self._token

    def verify(self, token: Token, app_key: AppKey) -> str | None:
        """Nothing speaks against it."""
        assert token.app_key_id == app_key.key_id
        return None


@pytest.mark.parametrize("is_down", [False, True])
def test_a_token_given_again_is_not_called_new(chain: Chain, *, is_down: bool) -> None:
    """What KIS had issued two hours before is handed out, and not called refreshed, with Supabase and without."""
    token = make_token(left=22 * HOUR, age=2 * HOUR)
    if is_down:
        chain.supabase.stop()

    got = chain.resolve(None, GivesAgain(token))

    assert (got.token.token_id, got.source, got.refreshed) == (token.token_id, "oauth", False)
    assert "again" in got.links[-1].said


def test_a_cached_token_newer_than_a_stale_one_is_put_back(chain: Chain) -> None:
    """A fresh cached token replaces a stale stored one; KIS is not asked."""
    chain.database.put_token(stale_token())
    token = make_token()
    chain.cache_token(token)

    assert chain.resolve().source == "cache"
    assert (chain.database.stored_id(), chain.issue_calls) == (token.token_id, 0)


def test_a_stale_cached_token_is_not_put_back(chain: Chain) -> None:
    """A cached token that is itself stale is no substitute for a new one."""
    chain.cache_token(stale_token())

    assert chain.resolve().source == "oauth"


def test_a_cached_token_of_another_key_is_a_miss(chain: Chain) -> None:
    """What another account left in the cache is neither used nor stored, and not in the way while the store works."""
    chain.cache_token(make_token(OTHER.key))

    got = chain.resolve()
    assert (got.source, got.token.app_key_id) == ("oauth", APP_KEY.key_id)


@pytest.mark.parametrize(
    ("writer", "reader", "code"),
    [
        ({"app_key": OTHER.key, "app_secret": OTHER.secret}, {}, "token-of-another-key"),
        ({}, {"environment": "paper", "service_name": "kis"}, "token-of-another-environment"),
        ({"encryption_key": ENCRYPTION_KEY}, {}, "sealed-without-key"),
        ({}, {"encryption_key": ENCRYPTION_KEY}, "plain-with-key"),
        ({"encryption_key": ENCRYPTION_KEY}, {"encryption_key": base64.b64encode(bytes(32)).decode()}, "seal-broken"),
    ],
)
def test_a_cache_of_another_s_is_an_error_without_the_store(
    chain: Chain, writer: dict[str, str], reader: dict[str, str], code: str
) -> None:
    """Two accounts with one cache would issue in turns while Supabase is down: instead, the second is told why."""
    owner = OTHER if "app_key" in writer else APP_KEY
    token = replace(make_token(owner.key), environment="production")
    chain.cache(**writer).write(token)
    chain.supabase.stop()

    with pytest.raises(TokenError) as caught:
        chain.resolve(**reader)

    assert (caught.value.code, chain.issue_calls) == (code, 0)
    assert chain.cache(**writer).read().token_id == token.token_id


def test_an_opaque_cached_token_is_not_put_into_the_store(chain: Chain) -> None:
    """A cached token that does not say whose it is may belong to a key before: it is used alone, without the store."""
    value = {"access_token": "opaque-made-up-token-0123456789", "expires_at": "2099-01-01T00:00:00Z"}
    (chain.folder / "cache.json").write_text(json.dumps(value))
    (chain.folder / "cache.json").chmod(0o600)

    got = chain.resolve()

    assert (got.source, got.token.app_key_id) == ("oauth", APP_KEY.key_id)


def test_keys_that_are_not_the_stored_ones_are_told(chain: Chain) -> None:
    """The stored keys count, and whoever gives others learns of it."""
    chain.database.put_keys()
    chain.database.put_token(make_token())

    assert chain.resolve().warnings == ()
    got = chain.resolve(app_key=OTHER.key, app_secret=OTHER.secret)
    assert got.app_key == APP_KEY
    assert "are not those stored for kis" in got.warnings[0]


def test_a_dead_cached_token_of_another_key_is_in_nobody_s_way(chain: Chain) -> None:
    """What is over is replaced, whoever it belonged to; and it is not handed out as just expired either."""
    chain.cache_token(make_token(OTHER.key, left=-MINUTE, age=25 * HOUR))
    chain.supabase.stop()
    assert chain.resolve(allow_expired="true").source == "oauth"

    chain.machine.hold_back(APP_KEY.key_id, utc_now())
    chain.kis.production.stop()
    (chain.folder / "cache.json").write_text(make_token(OTHER.key, left=-MINUTE, age=25 * HOUR).to_json())
    with pytest.raises(IssuerOutage):
        chain.resolve(allow_expired="true")


def test_the_store_s_last_answer_before_an_issue_is_used(chain: Chain, monkeypatch: pytest.MonkeyPatch) -> None:
    """The store answers once, to the look under the machine's lock, and is out again: its token is handed out."""
    token = make_token()
    chain.database.put_token(token)
    read, lock, answers = SupabaseStore.read, LocalMachine.lock, [0]

    def flapping(store: SupabaseStore, service_name: str) -> Slot:
        if not answers[0]:
            raise StoreOutage("store-unreachable", "Supabase does not answer")
        answers[0] -= 1
        return read(store, service_name)

    def locked(machine: LocalMachine, app_key_id: str, seconds: float) -> AbstractContextManager[None]:
        answers[0] = 1
        return lock(machine, app_key_id, seconds)

    monkeypatch.setattr(SupabaseStore, "read", flapping)
    monkeypatch.setattr(LocalMachine, "lock", locked)

    got = chain.resolve(cache_path="off")

    assert (got.token.token_id, got.source, chain.issue_calls) == (token.token_id, "supabase", 0)


@pytest.mark.parametrize("takes", [2.0, 14.0, 600.0])
def test_the_machine_s_minute_is_counted_from_the_call_s_end(chain: Chain, takes: float) -> None:
    """A call without the store may leave long after it was noted; the next one is a minute after it all the same."""
    chain.supabase.stop()
    clock, asked = chain.clock(), []

    class SlowIssuer:
        """The names and the connection take their time; then the call leaves, and KIS's answer is lost."""

        def issue(self, _: AppKey, __: datetime, may_send: Callable[[], bool] | None = None) -> Token:
            clock.jump(takes)
            assert may_send is not None
            assert may_send()
            asked.append(clock.monotonic())
            raise IssuerOutage("kis-unreachable", "KIS does not answer", sent=True)

        def verify(self, *_: object) -> None:
            """Not asked."""

    with pytest.raises(IssuerOutage):
        chain.resolve(clock, SlowIssuer(), cache_path="off", timeout="40s")
    clock.jump(45.0 - 9.5)  # the next one's patience with the store is 9.5 s
    with pytest.raises(IssuerRateLimited):
        chain.resolve(clock, SlowIssuer(), cache_path="off", timeout="40s")
    clock.jump(60.0)
    with pytest.raises(IssuerOutage):
        chain.resolve(clock, SlowIssuer(), cache_path="off", timeout="40s")

    assert len(asked) == 2
    assert asked[1] - asked[0] > 60


@pytest.mark.parametrize("content", ["", "{", "[]", "\x00", '{"access_token": 5}'])
def test_a_broken_cache_heals(chain: Chain, content: str) -> None:
    """A cache file of any content is a miss, and holds the token afterwards."""
    (chain.folder / "cache.json").write_text(content, encoding="utf-8")

    assert chain.resolve().token.token_id == chain.cached_id()


# keys


def test_stored_keys_come_first(chain: Chain) -> None:
    """Keys in Supabase win over those in the settings, and are handed out with the token."""
    chain.database.put_keys()

    got = chain.resolve(app_key=OTHER.key, app_secret=OTHER.secret)

    assert got.app_key is not None
    assert got.app_key.credential_id == APP_KEY.credential_id
    assert got.source == "oauth"


def test_no_keys_anywhere(chain: Chain) -> None:
    """Without keys nothing can be issued, and that is said; a fresh token needs none."""
    with pytest.raises(IssuanceError) as caught:
        chain.resolve(app_key="", app_secret="")
    assert caught.value.code == "missing-app-key"
    chain.database.put_token(make_token())
    assert chain.resolve(app_key="", app_secret="").source == "supabase"


# rows that nobody can use


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
    """A row that no reader can use, however long its column says it lives, is replaced with one call."""
    chain.database.put("access_token", value, make_token(left=left).expires_at if left else None)

    got = chain.resolve()

    assert (got.source, got.refreshed, chain.issue_calls) == ("oauth", True, 1)
    assert chain.store_calls == ["read", "begin_issuance", "commit_issuance"]
    assert chain.database.stored_id() == got.token.token_id


def test_a_token_without_dates_is_replaced(chain: Chain) -> None:
    """A token that says nowhere when it ends is not trusted."""
    chain.database.put("access_token", json.dumps({"access_token": "opaque-token-0123456789-abcdef"}))

    assert chain.resolve().source == "oauth"


def test_a_token_of_another_key_is_an_error(chain: Chain) -> None:
    """A living token of another app key is not replaced: two fleets would do that to each other for ever."""
    chain.database.put_token(make_token(OTHER.key))
    with pytest.raises(TokenError) as caught:
        chain.resolve()
    assert (caught.value.code, chain.issue_calls) == ("token-of-another-key", 0)


def test_a_token_of_another_environment_is_an_error(chain: Chain) -> None:
    """A token that says it is for paper is not used for real, nor replaced."""
    token = make_token()
    value = json.dumps({**json.loads(token.to_json()), "environment": "paper"})
    chain.database.put("access_token", value, token.expires_at)
    with pytest.raises(TokenError) as caught:
        chain.resolve()
    assert (caught.value.code, chain.issue_calls) == ("token-of-another-environment", 0)


def test_a_dead_token_of_another_key_is_replaced(chain: Chain) -> None:
    """Once another key's token is dead, the change of keys goes through."""
    chain.database.put_token(make_token(OTHER.key, left=-MINUTE, age=25 * HOUR))

    assert chain.resolve().source == "oauth"
