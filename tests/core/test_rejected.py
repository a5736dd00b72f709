"""Rejected and revoked tokens that have not expired: no caller uses them, in any mode and with any key."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from typing import TYPE_CHECKING

import psycopg
import pytest

from kis_token.admin.revoke import revoke
from kis_token.client.credential_manager import SupabaseCredentialManager
from kis_token.errors import IssuanceError, KisTokenError, StoreMisconfigured
from kis_token.kis.api import KISIssuer
from kis_token.store.sealing import make_vault
from kis_token.store.supabase import SupabaseStore
from kis_token.token import KST, fingerprint
from tests.resolver_harness import ENCRYPTION_KEY, WatchedIssuer
from tests.support import APP_KEY, HOUR, MINUTE, SERVICE_KEY, make_token
from tools.step import run_step

if TYPE_CHECKING:
    from pathlib import Path

    from kis_token.core.ports import Begun
    from kis_token.sandbox import Sandbox
    from kis_token.token import Token
    from tests.resolver_harness import Chain

SIX_HOURS = 6 * 3600 + 60
SEALING = {"KIS_TOKEN_ENCRYPTION_KEY": ENCRYPTION_KEY}


def store_of(chain: Chain) -> SupabaseStore:
    """The store with the service key."""
    store = SupabaseStore(chain.supabase.url, SERVICE_KEY)
    chain.stores.append(store)
    return store


def end_token(chain: Chain, **inputs: str) -> None:
    """End the stored token as ``kis-token revoke`` does."""
    settings = chain.settings(**inputs)
    issuer = KISIssuer(chain.kis.production_url, "production")
    assert revoke(settings, store_of(chain), issuer, make_vault(settings.encryption_keys), chain.clock()) is not None


def revoked_token(chain: Chain) -> Token:
    """Store a token that was issued 7 hours ago, and revoke it. KIS now issues another token."""
    token = make_token(age=7 * HOUR, left=17 * HOUR)
    chain.database.put_token(token)
    end_token(chain)
    return token


def as_stored(chain: Chain, token: Token) -> Token:
    """The token with the version of its row."""
    return replace(token, version=int(chain.database.row()["version"]))


def test_revoke_six_hours_and_revoke_again_brings_the_first_back_nowhere(chain: Chain) -> None:
    """After the second revocation, a machine that has the first token in its cache does not use or store it."""
    first = chain.resolve().token
    end_token(chain)
    chain.pass_time(SIX_HOURS)
    second = chain.resolve().token
    end_token(chain)
    chain.pass_time(SIX_HOURS)
    chain.cache_token(first)  # another machine's file

    third = chain.resolve()
    assert third.source == "oauth"
    assert chain.database.stored_id() == third.token.token_id
    assert third.token.token_id not in {first.token_id, second.token_id}
    assert store_of(chain).read("kis").rejected == {first.token_id, second.token_id}


@pytest.mark.parametrize("env", [{}, SEALING], ids=["plain", "sealed"])
def test_a_revoked_token_is_not_saved_by_the_guide_s_manager(
    chain: Chain, caplog: pytest.LogCaptureFixture, env: dict[str, str]
) -> None:
    """save_kis_token returns False for a revoked token and logs the reason; it saves another token."""
    token, other = revoked_token(chain), make_token()
    chain.database.owner.execute("delete from api_credentials where credential_type = 'access_token'")
    manager = SupabaseCredentialManager(chain.supabase.url, SERVICE_KEY, env=env)
    with caplog.at_level(logging.WARNING, "kis_token"):
        assert manager.save_kis_token(token.value, token.expires_at, token.issued_at) is False

    assert chain.database.row() == {}
    assert [record.getMessage() for record in caplog.records if record.name == "kis_token"] == [
        "KIS rejects the token, so it was not stored in kis"
    ]
    assert manager.save_kis_token(other.value, other.expires_at, other.issued_at) is True


@pytest.mark.parametrize("keys", [{}, SEALING], ids=["plain", "sealed"])
def test_save_of_a_revoked_token_stores_nothing(chain: Chain, keys: dict[str, str]) -> None:
    """For a revoked token, plain or sealed, `save` returns False and stores nothing."""
    token = revoked_token(chain)
    settings = chain.settings(**({"encryption_key": ENCRYPTION_KEY} if keys else {}))
    form = make_vault(settings.encryption_keys).seal(token.to_json(), "kis", "access_token")

    assert store_of(chain).save("kis", token, form) is False
    assert chain.database.row()["is_active"] is False


def test_check_on_a_machine_that_has_a_revoked_token_cached(chain: Chain) -> None:
    """`check` finds no valid token, and the trace says that KIS rejects the cached token."""
    chain.cache_token(revoked_token(chain))
    chain.cache_token(make_token(left=-HOUR))  # has no effect: the cached token has a later end
    with pytest.raises(IssuanceError) as caught:
        chain.resolve(mode="check")
    assert caught.value.code == "no-valid-token"

    view = chain.resolver(mode="check").look()
    assert [(entry.source, entry.text) for entry in view.trace] == [
        ("supabase", "no token is stored"),
        ("cache", "KIS rejects its token"),
    ]


def test_a_machine_without_app_key_that_has_a_revoked_token_cached(chain: Chain) -> None:
    """A caller without an app key gets an error, and not the revoked token of its cache."""
    chain.cache_token(revoked_token(chain))
    with pytest.raises(IssuanceError) as caught:
        chain.resolve(app_key="", app_secret="")
    assert caught.value.code == "missing-app-key"


def test_the_program_s_quick_path_knows_a_revoked_token(sandbox: Sandbox, tool_cache: Path, tmp_path: Path) -> None:
    """The fast path of entrypoint.py does not use a cached token that was revoked: `check` fails."""
    inputs = {
        "supabase-url": sandbox.supabase.url,
        "supabase-key": sandbox.service_key,
        "base-url": sandbox.kis.production_url,
    }
    variables = {"RUNNER_TOOL_CACHE": str(tool_cache)}
    issued = run_step(inputs, tmp_path, variables)
    assert issued.status == 0
    assert run_step(inputs | {"mode": "check"}, tmp_path, variables).public["source"] == "supabase"
    with psycopg.connect(sandbox.owner_dsn) as connection:
        connection.execute(
            "select public.revoke_token('kis', version, %s, 'an owner') from public.api_credentials"
            " where credential_type = 'access_token'",
            [fingerprint(issued.outputs["access-token"])],
        )
    ended = run_step(inputs | {"mode": "check"}, tmp_path, variables)

    assert (ended.status, ended.outputs["error-code"]) == (1, "no-valid-token")
    (cached,) = tmp_path.rglob(".kis_token_cache.json")
    assert fingerprint(json.loads(cached.read_text())["access_token"]) == fingerprint(issued.outputs["access-token"])


@pytest.mark.parametrize("mode", ["resolve", "rotate", "force", "check"])
def test_a_revoked_token_that_a_client_of_the_guide_upserts(chain: Chain, mode: str) -> None:
    """A revoked token that a client wrote into the row is never used, and the modes that issue replace it."""
    token = revoked_token(chain)
    chain.database.put_token(token)
    chain.cache_token(token)
    if mode == "check":
        with pytest.raises(IssuanceError) as caught:
            chain.resolve(mode=mode)
        assert caught.value.code == "no-valid-token"
        return
    resolution = chain.resolve(mode=mode)

    assert (resolution.source, resolution.refreshed) == ("oauth", True)
    assert chain.database.stored_id() == resolution.token.token_id != token.token_id
    assert chain.cached_id() == resolution.token.token_id


@pytest.mark.parametrize("mode", ["resolve", "check"])
def test_a_token_that_the_api_rejected_is_known_to_other_machines(chain: Chain, mode: str) -> None:
    """If the API rejects a token on one machine, other machines learn this from their read of the store."""
    token = chain.resolve().token
    chain.pass_time(70)
    with pytest.raises(IssuanceError) as caught:
        chain.replace(token)  # within 6 hours KIS repeats the token
    assert caught.value.code == "token-repeated"
    chain.cache_token(token)

    with pytest.raises(IssuanceError) as caught:
        chain.resolve(mode=mode)
    assert caught.value.code == ("no-valid-token" if mode == "check" else "token-repeated")


def test_a_revoked_token_in_the_guide_s_flat_cache_file(chain: Chain) -> None:
    """A revoked token is recognised in a cache file of the guide's form, with times without a zone."""
    token = revoked_token(chain)
    end = token.expires_at.astimezone(KST).replace(tzinfo=None).isoformat()
    (chain.folder / "cache.json").write_text(
        json.dumps({"access_token": token.value, "expires_at": end, "issued_at": end}), encoding="utf-8"
    )
    (chain.folder / "cache.json").chmod(0o600)

    assert chain.cache().read().token_id == token.token_id
    assert chain.resolve().token.token_id != token.token_id


@pytest.mark.parametrize("mode", ["resolve", "check"])
def test_an_expired_token_that_is_rejected_is_not_allowed_either(chain: Chain, mode: str) -> None:
    """`allow-expired` hands out a token that has just expired, but not if it is known to be rejected."""
    token = make_token(left=-MINUTE, age=24 * HOUR)
    chain.database.put_token(token)
    chain.refuse_issue("EGW00103", times=9)
    assert chain.resolve(mode=mode, allow_expired="true").expired
    store = store_of(chain)
    assert store.revoke("kis", as_stored(chain, token), "an owner")
    chain.database.put_token(token)
    chain.pass_time(16 * 60)

    with pytest.raises(KisTokenError):
        chain.resolve(mode=mode, allow_expired="true")


def test_a_token_revoked_after_the_read_is_not_used(chain: Chain, monkeypatch: pytest.MonkeyPatch) -> None:
    """If a token is revoked between read and begin, begin reports this, and the caller does not use the token."""
    token = make_token(age=7 * HOUR, left=5 * MINUTE)
    chain.database.put_token(token)
    chain.cache_token(token)
    resolver = chain.resolver()
    begin = chain.stores[-1].begin

    def revoke_first(*arguments: object, **named: object) -> Begun:
        store_of(chain).revoke("kis", as_stored(chain, token), "an owner")
        return begin(*arguments, **named)  # type: ignore[arg-type]  # whatever it is called with

    monkeypatch.setattr(chain.stores[-1], "begin", revoke_first)
    chain.refuse_issue("EGW00103", times=1)

    with pytest.raises(KisTokenError) as caught:
        resolver.resolve()
    assert caught.value.code == "kis-key-refused"


def test_a_token_revoked_during_a_lease_is_not_handed_out(chain: Chain) -> None:
    """If the owner revokes a repeated token before the commit, the holder gets an error instead of that token."""
    token = chain.resolve().token
    chain.database.owner.execute("delete from api_credentials where credential_type = 'access_token'")
    (chain.folder / "cache.json").unlink()
    chain.pass_time(70)
    issuer = WatchedIssuer(chain, after=lambda given: store_of(chain).revoke("kis", given, "an owner"))
    with pytest.raises(IssuanceError) as caught:
        chain.resolve(chain.clock(), issuer)

    assert caught.value.code == "token-repeated"
    assert chain.database.row() == {}
    assert store_of(chain).read("kis").rejected == {token.token_id}


def test_a_cached_token_revoked_during_a_lease_leads_to_an_issue(chain: Chain, monkeypatch: pytest.MonkeyPatch) -> None:
    """If commit reports the cached token as rejected, the caller asks for another lease and issues a token."""
    token = make_token(age=7 * HOUR, left=17 * HOUR)
    chain.cache_token(token)
    resolver = chain.resolver()
    commit = chain.stores[-1].commit

    def revoke_first(*arguments: object, **named: object) -> object:
        store_of(chain).revoke("kis", token, "an owner")
        return commit(*arguments, **named)  # type: ignore[arg-type]  # whatever it is called with

    monkeypatch.setattr(chain.stores[-1], "commit", revoke_first)
    resolution = resolver.resolve()

    assert (resolution.source, resolution.token.token_id != token.token_id) == ("oauth", True)


def test_the_guide_s_valid_token_is_not_a_rejected_one(chain: Chain) -> None:
    """get_kis_valid_token returns None for a rejected token; get_kis_token returns the token.

    get_credentials omits the row that remembers the rejected tokens.
    """
    token = revoked_token(chain)
    chain.database.put_keys()
    chain.database.put_token(token)
    manager = SupabaseCredentialManager(chain.supabase.url, SERVICE_KEY, env={})

    assert manager.get_kis_valid_token() is None
    found = manager.get_kis_token()
    assert found is not None
    assert fingerprint(found["access_token"]) == token.token_id
    assert (manager.get_credentials("kis") or {}).keys() == {"app_key", "app_secret", "access_token"}


@pytest.mark.parametrize("value", ["", "[]", "no JSON", "1", "[" * 5000, '{"0123456789abcdef": 7}'])
def test_a_memory_that_cannot_be_read_breaks_nothing(chain: Chain, value: str) -> None:
    """If the row of the rejected tokens has an invalid value, it counts as empty: the stored token is used."""
    token = make_token()
    chain.database.put_token(token)
    chain.database.put("rejected_tokens", value)

    assert chain.resolve().token.token_id == token.token_id


def test_a_project_of_version_1_0_0_works_as_before(chain: Chain, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the functions of version 1.0.0, a token can be saved, and a rejected token is still recognised."""
    store, token = store_of(chain), make_token()
    ask, asked = store._rpc, list[str]()

    def older(function: str, **arguments: object) -> dict[str, object]:
        asked.append(function)
        if "token_id" in arguments and function == "save_token":
            raise StoreMisconfigured("store-function-missing", "Supabase lacks the functions that govern issuing")
        answer = dict(ask(function, **arguments))
        answer.pop("rejected_token_ids", None)
        return answer

    monkeypatch.setattr(store, "_rpc", older)
    assert store.save("kis", token, token.to_json()) is True
    assert asked == ["save_token", "save_token"]
    assert chain.database.stored_id() == token.token_id
    store.revoke("kis", as_stored(chain, token), "an owner")
    begun = store.begin(
        "kis",
        "00000000-0000-0000-0000-000000000001",
        "a laptop",
        APP_KEY,
        min_remaining=10 * MINUTE,
    )
    assert begun.rejected_token_ids == {token.token_id}
