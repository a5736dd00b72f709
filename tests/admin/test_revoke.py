"""The revocation of a slot's token at KIS, in the store and in the cache, and the time after the revocation."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

from kis_token.admin.revoke import Revoked, revoke
from kis_token.errors import IssuanceError, IssuerOutage, KisTokenError, StoreOutage, TokenError
from kis_token.kis.api import KISIssuer
from kis_token.sandbox.kis_http import REVOKE_PATH
from kis_token.sandbox.loopback import Fault, Response
from kis_token.store.sealing import make_vault
from kis_token.store.supabase import SupabaseStore
from tests.resolver_harness import ENCRYPTION_KEY, OTHER
from tests.support import APP_KEY, SERVICE_KEY, Caller, issue_by_functions, make_token, utc_now

if TYPE_CHECKING:
    from kis_token.admin.revoke import Revoker
    from kis_token.token import AppKey, Token
    from tests.resolver_harness import Chain


def end_token(chain: Chain, issuer: Revoker | None = None, /, **inputs: str) -> Revoked | None:
    """Revoke the token as ``kis-token revoke`` does."""
    settings = chain.settings(**inputs)
    store = SupabaseStore(chain.supabase.url, SERVICE_KEY)
    chain.stores.append(store)
    issuer = issuer or KISIssuer(chain.kis.production_url, "production")
    return revoke(settings, store, issuer, make_vault(settings.encryption_keys), chain.clock())


def test_token_is_revoked_everywhere(chain: Chain) -> None:
    """After a revocation, KIS rejects the token, its row is inactive, and the cache file is removed."""
    token = chain.resolve().token
    revoked = end_token(chain)

    assert revoked is not None
    assert (revoked.was_valid, revoked.is_inactive) == (True, True)
    assert KISIssuer(chain.kis.production_url, "production").verify(token, APP_KEY) == "EGW00121"
    assert chain.database.row()["is_active"] is False
    assert not (chain.folder / "cache.json").exists()


def test_the_time_in_which_kis_repeats_it_is_known(chain: Chain) -> None:
    """For six hours after the issue, KIS repeats the token, and callers get an error.

    Six hours after the issue, a caller gets a new token.
    """
    token = chain.resolve().token
    revoked = end_token(chain)
    assert revoked is not None
    assert revoked.repeated_until == token.issued_at + timedelta(hours=6)
    chain.pass_time(70)
    for calls in (1, 0):
        before = chain.issue_calls
        with pytest.raises(IssuanceError) as caught:
            chain.resolve()
        assert (caught.value.code, chain.issue_calls - before) == ("token-repeated", calls)
    assert chain.database.row()["is_active"] is False
    chain.pass_time(6 * 3600)

    assert chain.resolve().token.token_id != token.token_id


def test_another_machine_s_cache_does_not_bring_it_back(chain: Chain) -> None:
    """If a machine's cache has the revoked token, the machine never uses or stores the token again."""
    token = chain.resolve().token
    end_token(chain)
    chain.cache_token(token)  # another machine's file
    with pytest.raises(IssuanceError) as caught:
        chain.resolve(timeout="30s")
    assert caught.value.code == "wait-too-long"  # a new issue is not allowed within a minute of the last one
    chain.pass_time(70)
    chain.cache_token(token)
    with pytest.raises(IssuanceError) as caught:
        chain.resolve()
    assert caught.value.code == "token-repeated"
    assert chain.database.row()["is_active"] is False
    chain.pass_time(6 * 3600)
    chain.cache_token(token)

    assert chain.resolve().token.token_id != token.token_id


def test_a_lease_under_way_does_not_store_it(chain: Chain) -> None:
    """If KIS gives the revoked token to a lease holder again, the holder's commit does not store the token."""
    token = chain.resolve().token
    chain.pass_time(70)
    caller = Caller(chain.database)
    assert caller.begin(rejected_version=int(chain.database.row()["version"]))["status"] == "granted"
    end_token(chain)

    assert caller.commit(token)["status"] == "unchanged"
    assert chain.database.row()["is_active"] is False


def test_log_names_the_revoking_caller(chain: Chain) -> None:
    """The revocation's event in the log has the label of the revoking caller, and not of the issuing caller."""
    token = make_token()
    issue_by_functions(chain.database, token)
    end_token(chain)

    store = SupabaseStore(chain.supabase.url, SERVICE_KEY)
    chain.stores.append(store)
    (last, first) = store.issuance_status("kis", 2)["issuances"][:2]
    assert (last["outcome"], last["token_id"], last["holder_label"]) == (
        "revoked",
        token.token_id,
        chain.settings().label,
    )
    assert (first["outcome"], first["holder_label"]) == ("committed", "acme/bot run 7 trade")


def test_old_token_is_not_repeated(chain: Chain) -> None:
    """If the revoked token was issued more than six hours ago, the next caller gets a new token at once."""
    token = make_token(age=timedelta(hours=7), left=timedelta(hours=17))
    chain.database.put_token(token)
    revoked = end_token(chain)

    assert revoked == Revoked(was_valid=False, is_inactive=True, repeated_until=None)
    assert chain.resolve().token.token_id != token.token_id


def test_nothing_stored(chain: Chain) -> None:
    """If no token is stored, KIS is not called."""
    assert end_token(chain) is None
    assert chain.kis.requests == ()


class Interrupted:
    """A revoker that calls KIS and then stops the store."""

    def __init__(self, chain: Chain) -> None:
        self._chain = chain

    def revoke(self, token: Token, app_key: AppKey) -> bool:
        """One revokeP call."""
        was_valid = KISIssuer(self._chain.kis.production_url, "production").revoke(token, app_key)
        self._chain.supabase.stop()
        return was_valid


def test_it_may_be_repeated_when_the_store_fails(chain: Chain) -> None:
    """If the store fails after the call of KIS, the command fails. A second revocation makes the row inactive."""
    chain.resolve()
    with pytest.raises(StoreOutage):
        end_token(chain, Interrupted(chain))
    chain.supabase.start()
    assert chain.database.row()["is_active"] is True

    again = end_token(chain)
    assert again is not None
    assert again.is_inactive
    assert chain.database.row()["is_active"] is False


def test_row_that_changed_meanwhile_stays(chain: Chain) -> None:
    """If another caller has stored a newer token, the newer token stays active."""
    token = replace(chain.resolve().token, version=int(chain.database.row()["version"]))
    chain.database.put_token(make_token())
    store = SupabaseStore(chain.supabase.url, SERVICE_KEY)
    chain.stores.append(store)

    assert store.revoke("kis", token, "somebody") is False
    assert chain.database.row()["is_active"] is True


def test_another_token_in_the_cache_stays(chain: Chain) -> None:
    """Only the revoked token is removed from the cache."""
    chain.database.put_token(make_token())
    other = make_token()
    chain.cache_token(other)
    end_token(chain)

    assert chain.cached_id() == other.token_id


def test_sealed_slot(chain: Chain) -> None:
    """A sealed token is revoked only with the encryption key. Without the encryption key, the revocation fails."""
    chain.resolve(encryption_key=ENCRYPTION_KEY)
    with pytest.raises(TokenError) as caught:
        end_token(chain)
    assert caught.value.code == "sealed-without-key"
    assert chain.database.row()["is_active"] is True

    revoked = end_token(chain, encryption_key=ENCRYPTION_KEY)
    assert revoked is not None
    assert revoked.was_valid


def test_another_account_s_token_is_left_alone(chain: Chain) -> None:
    """A token of another app key is neither sent to KIS nor changed."""
    chain.database.put_token(make_token(OTHER.key))
    with pytest.raises(TokenError) as caught:
        end_token(chain)
    assert caught.value.code == "token-of-another-key"
    assert chain.kis.requests == ()
    assert chain.database.row()["is_active"] is True


def test_without_keys(chain: Chain) -> None:
    """If no app key is given, a revocation uses the stored key. If no app key is stored, the revocation fails."""
    chain.database.put_token(make_token())
    with pytest.raises(KisTokenError) as caught:
        end_token(chain, app_key="", app_secret="")
    assert caught.value.code == "missing-app-key"
    chain.database.put_keys()
    assert end_token(chain, app_key="", app_secret="") is not None


def test_kis_that_does_not_answer_leaves_all_as_it_was(chain: Chain) -> None:
    """If KIS does not answer the revocation, the row stays active, because the token may still be valid."""
    chain.resolve()
    chain.kis.production.add_fault(Fault("answer", REVOKE_PATH, 1, Response(500, b"down")))
    with pytest.raises(IssuerOutage):
        end_token(chain)
    assert chain.database.row()["is_active"] is True
    assert chain.cache().read().is_valid(utc_now())
