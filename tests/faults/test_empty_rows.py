"""A row whose value is null, empty or blank counts as absent in every part of the project."""

from __future__ import annotations

import base64
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from kis_token.admin.check import examine
from kis_token.admin.revoke import revoke
from kis_token.admin.set_keys import seal, set_app_key
from kis_token.admin.status import collect
from kis_token.client.credential_manager import SupabaseCredentialManager
from kis_token.errors import KisTokenError
from kis_token.kis.api import KISIssuer
from kis_token.sandbox.postgrest import PostgRESTStandIn
from kis_token.store.sealing import make_vault
from kis_token.store.supabase import SupabaseStore
from tests.faults.helpers import error_of
from tests.resolver_harness import ENCRYPTION_KEY
from tests.support import ANON_KEY, APP_KEY, HOUR, SERVICE_KEY, Database, TurnedClock, make_token, utc_now

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kis_token.sandbox.database import MigratedDatabases
    from tests.resolver_harness import Chain

#: A JWT of the role kis_token_reader, with a made-up signature.
_CLAIMS = base64.urlsafe_b64encode(b'{"role":"kis_token_reader"} ').decode()
READER = f"eyJhbGciOiJIUzI1NiJ9.{_CLAIMS}.c2lnbmF0dXJl"

empty = pytest.mark.parametrize("value", [None, "", " \n\t"], ids=["null", "empty", "blanks"])
sealed = pytest.mark.parametrize("encryption_key", ["", ENCRYPTION_KEY], ids=["plain", "sealed"])


@pytest.fixture(scope="module")
def nullable(databases: MigratedDatabases) -> Iterator[Database]:
    """A project whose table allows null as a value."""
    with databases.borrow() as project, Database(project) as database:
        database.owner.execute("alter table api_credentials alter column credential_value drop not null")
        yield database


@pytest.fixture(scope="module")
def stand_in(nullable: Database) -> Iterator[PostgRESTStandIn]:
    """Supabase for the project of `nullable`."""
    keys = {READER: "kis_token_reader"}
    with PostgRESTStandIn(
        nullable.project.api, service_key=SERVICE_KEY, anon_key=ANON_KEY, further_keys=keys
    ) as supabase:
        yield supabase


@pytest.fixture
def own(chain: Chain, nullable: Database, stand_in: PostgRESTStandIn) -> Iterator[Chain]:
    """A chain on the project of `nullable`, with empty tables."""
    nullable.clear()
    own = replace(chain, supabase=stand_in, database=nullable, stores=[])
    yield own
    for store in own.stores:
        store.close()


def put(chain: Chain, value: str | None, *names: str) -> None:
    """Store rows that have this value and an end in a day."""
    for name in names or ("app_key", "app_secret", "access_token"):
        chain.database.put(name, value, utc_now() + 24 * HOUR)  # type: ignore[arg-type]  # null is the subject here


def store_of(chain: Chain) -> SupabaseStore:
    """The store with the service key."""
    store = SupabaseStore(chain.supabase.url, SERVICE_KEY)
    chain.stores.append(store)
    return store


@empty
@sealed
def test_the_given_keys_are_used(own: Chain, value: str | None, encryption_key: str) -> None:
    """If the stored keys are empty, the caller issues with the given keys, in one call, and stores the token."""
    put(own, value)

    got = own.resolve(encryption_key=encryption_key)

    assert (got.source, got.token.app_key_id, got.warnings, own.issue_calls) == ("oauth", APP_KEY.key_id, (), 1)
    assert own.resolve(encryption_key=encryption_key, cache_path="off").source == "supabase"


@empty
def test_without_given_keys_there_are_none(own: Chain, value: str | None) -> None:
    """If the stored keys are empty and none are given, the error is the missing app key, and KIS is not called."""
    put(own, value)

    assert error_of(own, app_key="", app_secret="", cache_path="off").code == "missing-app-key"
    assert not own.kis.requests


@empty
def test_half_of_a_pair_is_ignored(own: Chain, value: str | None) -> None:
    """If the stored key is empty and only a secret is stored, the given pair is used."""
    own.database.put("app_secret", "c2VjcmV0LW9mLWEtdGVzdA==")
    put(own, value, "app_key")

    assert own.resolve().token.app_key_id == APP_KEY.key_id


@empty
def test_a_reader_sees_no_token(own: Chain, value: str | None) -> None:
    """A caller with a read-only key finds no token in an empty row, and gets an error because it cannot issue."""
    put(own, value)
    error = error_of(own, supabase_key=f"{ANON_KEY}\n{READER}", app_key="", app_secret="", cache_path="off")

    assert error.code == "store-read-only"


@empty
@sealed
def test_check_finds_none_stored(own: Chain, value: str | None, encryption_key: str) -> None:
    """For empty rows, `check` reports that app key and token are not stored, and reports no broken seal."""
    put(own, value)
    settings = own.settings(encryption_key=encryption_key)
    issuer = KISIssuer(settings.base_url, settings.environment)
    found = {finding.what: finding for finding in examine(settings, store_of(own), issuer, TurnedClock())}

    assert found["app key"].said == "given, not stored"
    assert found["token"].said.startswith("not stored")
    assert "sealing" not in found


@empty
def test_another_slot_s_empty_token_is_not_valid(own: Chain, value: str | None) -> None:
    """If another slot with the same app key has a null token, `check` reports no conflict."""
    own.resolve(service_name="kis-second", cache_path="off")
    own.database.put_keys()
    own.database.owner.execute(
        "update api_credentials set credential_value = %s where service_name = 'kis-second'", (value,)
    )
    settings = own.settings()
    issuer = KISIssuer(settings.base_url, settings.environment)
    findings = list(examine(settings, store_of(own), issuer, TurnedClock()))

    wrong = [finding.code for finding in findings if finding.state == "wrong"]
    # For a blank value, begin_issuance also reports a conflict: the functions judge the token by its column.
    assert wrong == ([] if value is None else ["key-in-two-slots"])


def test_status_shows_no_token(own: Chain) -> None:
    """`status` shows no token for a row with null, even if the column of the row has an end."""
    put(own, None)
    status = collect(own.settings(), store_of(own), make_vault(()), only="kis")

    assert [(slot.token, slot.expires_at) for slot in status.slots] == [("none", None)]


@empty
def test_seal_leaves_them(own: Chain, value: str | None) -> None:
    """`seal` seals the rows that have a value, and skips the empty rows."""
    put(own, value)
    own.database.put("app_key", APP_KEY.key)

    assert seal(own.settings(encryption_key=ENCRYPTION_KEY), store_of(own)) == ["app_key"]


@empty
@sealed
def test_set_keys_stores_a_pair_in_their_place(own: Chain, value: str | None, encryption_key: str) -> None:
    """`set-keys` can store keys in place of empty rows."""
    put(own, value)
    settings = own.settings(encryption_key=encryption_key)
    vault = make_vault(settings.encryption_keys)
    set_app_key(settings, store_of(own), vault)

    own_key = own.resolve(encryption_key=encryption_key, app_key="", app_secret="").token.app_key_id
    assert own_key == APP_KEY.key_id


@empty
def test_nothing_is_revoked(own: Chain, value: str | None) -> None:
    """`revoke` finds no token in an empty row."""
    put(own, value)
    settings = own.settings()
    issuer = KISIssuer(settings.base_url, settings.environment)

    assert revoke(settings, store_of(own), issuer, make_vault(()), TurnedClock()) is None


@empty
@sealed
def test_the_manager_has_none(own: Chain, value: str | None, encryption_key: str) -> None:
    """For empty rows, the guide's getters return None; a token can still be saved."""
    put(own, value)
    env = {"KIS_TOKEN_ENCRYPTION_KEY": encryption_key} if encryption_key else {}
    manager = SupabaseCredentialManager(own.supabase.url, SERVICE_KEY, env=env)

    assert manager.get_credentials("kis") is None
    assert manager.get_kis_credentials() is None
    assert (manager.get_kis_token(), manager.get_kis_valid_token()) == (None, None)
    token = make_token(left=30 * HOUR)
    assert manager.save_kis_token(token.value, token.expires_at, token.issued_at) is True
    found = manager.get_kis_valid_token()
    assert found is not None
    assert found["access_token"] == token.value


@pytest.mark.parametrize("half", ["app_key", "app_secret"])
def test_set_app_key_takes_no_blanks(own: Chain, half: str) -> None:
    """The SQL function refuses a blank key or secret with 22023, and stores nothing."""
    key, secret = (" \t" if name == half else "x" for name in ("app_key", "app_secret"))
    with pytest.raises(KisTokenError) as caught:
        store_of(own).set_app_key("kis", key, secret, "production", keeps_token=True)

    assert "22023" in caught.value.args[0]
    assert own.database.owner.execute("select from api_credentials").fetchall() == []
