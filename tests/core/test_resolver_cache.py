"""The chain and its cache: which cached tokens are used, stored again or ignored."""

from __future__ import annotations

import base64
import json
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from kis_token.errors import IssuerOutage, IssuerRateLimited, StoreOutage, TokenError
from kis_token.local.machine_lock import LocalMachine
from kis_token.store.supabase import SupabaseStore
from tests.resolver_harness import ENCRYPTION_KEY, OTHER, GivesAgain, stale_token
from tests.support import APP_KEY, HOUR, MINUTE, make_token, utc_now

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager
    from datetime import datetime

    from kis_token.core.slot import Slot
    from kis_token.token import AppKey, Token
    from tests.resolver_harness import Chain


def test_a_cached_token_is_put_back(chain: Chain) -> None:
    """A fresh cached token that Supabase has lost is stored again; KIS is not called."""
    token = make_token()
    chain.cache_token(token)

    got = chain.resolve()

    assert (got.token.token_id, got.source, got.refreshed) == (token.token_id, "cache", False)
    assert (chain.database.stored_id(), chain.issue_calls) == (token.token_id, 0)


def test_a_cached_token_is_put_back_within_the_minute(chain: Chain) -> None:
    """A token row that is lost within a minute of the issue is restored from the cache at once, without KIS."""
    first = chain.resolve()
    chain.database.owner.execute("delete from api_credentials where credential_type = 'access_token'")

    again = chain.resolve()

    assert (again.source, again.token.token_id) == ("cache", first.token.token_id)
    assert chain.database.stored_id() == first.token.token_id
    assert chain.issue_calls == 1


@pytest.mark.parametrize("is_down", [False, True])
def test_a_token_given_again_is_not_called_new(chain: Chain, *, is_down: bool) -> None:
    """If KIS repeats a token that is two hours old, refreshed is false, with or without Supabase."""
    token = make_token(left=22 * HOUR, age=2 * HOUR)
    if is_down:
        chain.supabase.stop()

    got = chain.resolve(None, GivesAgain(token))

    assert (got.token.token_id, got.source, got.refreshed) == (token.token_id, "oauth", False)
    assert "again" in got.trace[-1].text


def test_a_cached_token_newer_than_a_stale_one_is_put_back(chain: Chain) -> None:
    """A fresh cached token replaces a stale stored one; KIS is not called."""
    chain.database.put_token(stale_token())
    token = make_token()
    chain.cache_token(token)

    assert chain.resolve().source == "cache"
    assert (chain.database.stored_id(), chain.issue_calls) == (token.token_id, 0)


def test_a_stale_cached_token_is_not_put_back(chain: Chain) -> None:
    """A stale cached token is not stored: a new one is issued."""
    chain.cache_token(stale_token())

    assert chain.resolve().source == "oauth"


def test_a_cached_token_of_another_key_is_a_miss(chain: Chain) -> None:
    """While the store works, another account's cached token is ignored: a new token is issued."""
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
    """In an outage, two accounts with one cache would replace each other's token, so the second gets an error."""
    owner = OTHER if "app_key" in writer else APP_KEY
    token = replace(make_token(owner.key), environment="production")
    chain.cache(**writer).write(token)
    chain.supabase.stop()

    with pytest.raises(TokenError) as caught:
        chain.resolve(**reader)

    assert (caught.value.code, chain.issue_calls) == (code, 0)
    assert chain.cache(**writer).read().token_id == token.token_id


def test_an_opaque_cached_token_is_not_put_into_the_store(chain: Chain) -> None:
    """A cached token whose app key is unknown may belong to a previous key: it is used only in an outage."""
    value = {"access_token": "opaque-made-up-token-0123456789", "expires_at": "2099-01-01T00:00:00Z"}
    (chain.folder / "cache.json").write_text(json.dumps(value))
    (chain.folder / "cache.json").chmod(0o600)

    got = chain.resolve()

    assert (got.source, got.token.app_key_id) == ("oauth", APP_KEY.key_id)


def test_keys_that_differ_from_the_stored_ones_cause_a_warning(chain: Chain) -> None:
    """If the given keys differ from the stored ones, the stored keys are used, with a warning."""
    chain.database.put_keys()
    chain.database.put_token(make_token())

    assert chain.resolve().warnings == ()
    got = chain.resolve(app_key=OTHER.key, app_secret=OTHER.secret)
    assert got.app_key == APP_KEY
    assert "differ from the keys stored for kis" in got.warnings[0]


def test_an_expired_cached_token_of_another_key_is_replaced(chain: Chain) -> None:
    """An expired cached token of another key is replaced; allow-expired does not hand it out."""
    chain.cache_token(make_token(OTHER.key, left=-MINUTE, age=25 * HOUR))
    chain.supabase.stop()
    assert chain.resolve(allow_expired="true").source == "oauth"

    chain.machine.hold_back(APP_KEY.key_id, utc_now())
    chain.kis.production.stop()
    (chain.folder / "cache.json").write_text(make_token(OTHER.key, left=-MINUTE, age=25 * HOUR).to_json())
    with pytest.raises(IssuerOutage):
        chain.resolve(allow_expired="true")


def test_the_store_s_last_answer_before_an_issue_is_used(chain: Chain, monkeypatch: pytest.MonkeyPatch) -> None:
    """If the store answers only the read under the machine's lock, the token from that read is handed out."""
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
    """Without the store, two calls of a machine are a minute apart, even if the first connected for a long time."""
    chain.supabase.stop()
    clock, asked = chain.clock(), []

    class SlowIssuer:
        """An issuer that connects slowly and sends the call, but gets no answer."""

        def issue(self, _: AppKey, __: datetime, may_send: Callable[[], bool] | None = None) -> Token:
            clock.jump(takes)
            assert may_send is not None
            assert may_send()
            asked.append(clock.monotonic())
            raise IssuerOutage("kis-unreachable", "KIS does not answer", sent=True)

        def verify(self, *_: object) -> None:
            """Not called."""

    with pytest.raises(IssuerOutage):
        chain.resolve(clock, SlowIssuer(), cache_path="off", timeout="40s")
    clock.jump(45.0 - 9.5)  # the next caller first waits 9.5 s for the store
    with pytest.raises(IssuerRateLimited):
        chain.resolve(clock, SlowIssuer(), cache_path="off", timeout="40s")
    clock.jump(60.0)
    with pytest.raises(IssuerOutage):
        chain.resolve(clock, SlowIssuer(), cache_path="off", timeout="40s")

    assert len(asked) == 2
    assert asked[1] - asked[0] > 60


@pytest.mark.parametrize("content", ["", "{", "[]", "\x00", '{"access_token": 5}'])
def test_a_broken_cache_heals(chain: Chain, content: str) -> None:
    """A cache file with unusable content is a miss, and the new token replaces it."""
    (chain.folder / "cache.json").write_text(content, encoding="utf-8")

    assert chain.resolve().token.token_id == chain.cached_id()
