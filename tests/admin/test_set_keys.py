"""An account's keys are stored, sealed and changed, and running callers continue."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

from kis_token.admin.set_keys import make_encryption_key, seal, set_app_key
from kis_token.core.slot import SEALED_PREFIX
from kis_token.errors import AppKeyChanged, KisTokenError, StoreOutage
from kis_token.store.sealing import SealingVault, make_vault
from kis_token.store.supabase import SupabaseStore
from kis_token.token import AppKey
from tests.resolver_harness import OTHER
from tests.support import ACCOUNT, APP_KEY, MINUTE, SERVICE_KEY, Caller, make_token

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from kis_token.core.ports import Begun
    from kis_token.core.resolution import View
    from kis_token.core.slot import Slot
    from kis_token.token import Token
    from tests.resolver_harness import Chain

OLD, NEW = (base64.b64encode(bytes([number]) * 32).decode() for number in (1, 2))
TYPES = ("access_token", "app_key", "app_secret")


@dataclass
class Owner:
    """The owner of a slot's keys, with methods that seal and store the keys."""

    chain: Chain
    store: SupabaseStore

    def seal(self, *keys: str) -> list[str]:
        """Seal the stored values."""
        return seal(self.chain.settings(encryption_key="\n".join(keys)), self.store)

    def set_app_key(self, app_key: AppKey = APP_KEY, **inputs: str) -> bool:
        """Store keys."""
        settings = self.chain.settings(app_key=app_key.key, app_secret=app_key.secret, **inputs)
        return set_app_key(settings, self.store, make_vault(settings.encryption_keys))

    @property
    def stored(self) -> dict[str, str]:
        """The stored value of every row, by type."""
        return {name: row.value for name, row in self.store.read_all("kis").rows.items()}


@pytest.fixture
def owner(chain: Chain) -> Iterator[Owner]:
    """The owner of the slot, with a separate connection to the store."""
    store = SupabaseStore(chain.supabase.url, SERVICE_KEY)
    yield Owner(chain, store)
    store.close()


def test_made_keys_are_keys(chain: Chain) -> None:
    """Each new encryption key is valid in the settings, and no two keys are equal."""
    keys = {make_encryption_key() for _ in range(10)}
    assert len(keys) == 10
    assert len(chain.settings(encryption_key="\n".join(keys)).encryption_keys) == 10


def test_made_keys_are_no_paths(chain: Chain, monkeypatch: pytest.MonkeyPatch) -> None:
    """No new key has a slash, because Git's bash on Windows rewrites paths. Older keys with a slash are accepted."""
    monkeypatch.setattr("secrets.token_bytes", lambda length: b"\xff" * length)

    made, older = make_encryption_key(), base64.b64encode(b"\xff" * 32).decode()

    assert (made[:2], older[:2]) == ("__", "//")
    assert chain.settings(encryption_key=made).encryption_keys == chain.settings(encryption_key=older).encryption_keys


def test_everything_is_sealed_and_goes_on(owner: Owner) -> None:
    """Sealing replaces the stored values. A caller with the encryption key continues without a new issue."""
    token = make_token()
    owner.chain.database.put_keys()
    owner.chain.database.put_token(token)

    assert owner.seal(OLD) == list(TYPES)

    assert all(value.startswith(SEALED_PREFIX) for value in owner.stored.values())
    assert set(owner.stored) == set(TYPES)
    resolution = owner.chain.resolve(encryption_key=OLD, app_key="", app_secret="")
    assert (resolution.token.token_id, resolution.app_key) == (token.token_id, APP_KEY)
    assert owner.chain.issue_calls == 0


def test_sealing_is_repeatable(owner: Owner) -> None:
    """A value that is already sealed with the first encryption key does not change."""
    owner.chain.database.put_keys()
    owner.seal(OLD)
    before = owner.stored
    assert owner.seal(OLD) == []
    assert owner.stored == before


def test_seal_is_changed_for_a_new_key(owner: Owner) -> None:
    """With the new key before the old key, all values are sealed with the new key. Then the old key is not needed."""
    owner.chain.database.put_keys()
    owner.chain.database.put_token(make_token())
    owner.seal(OLD)

    assert owner.seal(NEW, OLD) == list(TYPES)
    assert owner.chain.resolve(encryption_key=NEW).source == "supabase"
    assert owner.seal(NEW) == []


def test_inactive_rows_are_sealed(owner: Owner) -> None:
    """Sealing also seals an inactive token, because a dump contains it."""
    owner.chain.database.put_token(make_token(), active=False)
    assert owner.seal(OLD) == ["access_token"]


def test_sealing_that_was_interrupted_is_taken_up(owner: Owner, monkeypatch: pytest.MonkeyPatch) -> None:
    """If sealing is interrupted, the next run seals the other rows. Each row is complete at every moment."""
    owner.chain.database.put_keys()
    owner.chain.database.put_token(make_token())
    done: list[str] = []
    reseal = owner.store.reseal

    def reseal_one(service: str, name: str, form: str, *, replaces_version: int) -> bool:
        if done:
            raise KeyboardInterrupt
        done.append(name)
        return reseal(service, name, form, replaces_version=replaces_version)

    monkeypatch.setattr(owner.store, "reseal", reseal_one)
    with pytest.raises(KeyboardInterrupt):
        owner.seal(OLD)
    monkeypatch.undo()

    assert [name for name in TYPES if owner.stored[name].startswith(SEALED_PREFIX)] == done
    assert owner.seal(OLD) == [name for name in TYPES if name not in done]


def change_on_read(owner: Owner, monkeypatch: pytest.MonkeyPatch, times: int, change: Callable[[], object]) -> None:
    """Call ``change`` after each of the first ``times`` reads."""
    left = [change] * times
    read_all = owner.store.read_all

    def read(service: str) -> Slot:
        slot = read_all(service)
        if left:
            left.pop()()
        return slot

    monkeypatch.setattr(owner.store, "read_all", read)


def test_token_that_is_renewed_meanwhile_is_not_brought_back(owner: Owner, monkeypatch: pytest.MonkeyPatch) -> None:
    """If a row changes after sealing has read the row, sealing reads it again and seals the newer value."""
    owner.chain.database.put_token(make_token())
    newer = make_token()
    change_on_read(owner, monkeypatch, 1, lambda: owner.chain.database.put_token(newer))

    assert owner.seal(OLD) == ["access_token"]
    assert owner.chain.resolve(encryption_key=OLD).token.token_id == newer.token_id


def test_row_that_never_rests_is_given_up(owner: Owner, monkeypatch: pytest.MonkeyPatch) -> None:
    """If a row changes at every attempt, sealing fails."""
    owner.chain.database.put_token(make_token())
    change_on_read(owner, monkeypatch, 99, lambda: owner.chain.database.put_token(make_token()))
    with pytest.raises(StoreOutage, match="kept changing"):
        owner.seal(OLD)


@pytest.mark.parametrize("keys", [(NEW,), (NEW, base64.b64encode(bytes(32)).decode())])
def test_lost_key_is_told(owner: Owner, keys: tuple[str, ...]) -> None:
    """If no given key unseals a value, the error names the value's row, and no row changes."""
    owner.chain.database.put_keys()
    owner.seal(OLD)
    before = owner.stored
    with pytest.raises(KisTokenError, match="app_key of kis") as caught:
        owner.seal(*keys)
    assert caught.value.code == "seal-broken"
    assert owner.stored == before


def test_damaged_seal_is_told_although_it_is_current(owner: Owner) -> None:
    """If a value is damaged, sealing fails, even if the value was sealed with the current key."""
    owner.chain.database.put_keys()
    owner.seal(OLD)
    owner.chain.database.put("app_secret", owner.stored["app_secret"][:-8])
    with pytest.raises(KisTokenError, match="app_secret of kis") as caught:
        owner.seal(OLD)
    assert caught.value.code == "seal-broken"


@pytest.mark.parametrize("form", ["enc:v2:ab:cd", "ENC:v1:ab:cd", " enc:v1:ab:cd"])
def test_seal_of_another_form_is_not_sealed_again(owner: Owner, form: str) -> None:
    """If a value has a seal of a later release, or a damaged prefix of a seal, sealing fails and keeps the value."""
    owner.chain.database.put("app_key", form)
    with pytest.raises(KisTokenError, match="app_key of kis") as caught:
        owner.seal(OLD)
    assert (caught.value.code, owner.stored["app_key"]) == ("seal-broken", form)


def test_sealing_wants_a_key(owner: Owner) -> None:
    """Sealing fails without an encryption key."""
    with pytest.raises(KisTokenError) as caught:
        owner.seal()
    assert caught.value.code == "missing-encryption-key"


def test_keys_are_stored_plain_or_sealed(owner: Owner) -> None:
    """If no encryption key is set, keys are stored plain. If it is set, each value is sealed for its own row."""
    owner.set_app_key()
    assert owner.stored == {"app_key": APP_KEY.key, "app_secret": APP_KEY.secret}
    owner.set_app_key(encryption_key=OLD)
    vault = SealingVault((bytes([1]) * 32,))
    assert vault.unseal(owner.stored["app_secret"], "kis", "app_secret") == APP_KEY.secret


def test_sealed_slot_is_not_made_plain_by_accident(owner: Owner) -> None:
    """If the slot is sealed, set_app_key without the encryption key fails, and all rows stay sealed."""
    owner.chain.database.put_keys()
    owner.chain.database.put_token(make_token())
    owner.seal(OLD)
    before = owner.stored
    with pytest.raises(KisTokenError) as caught:
        owner.set_app_key()
    assert caught.value.code == "sealed-without-key"
    assert owner.stored == before
    assert owner.chain.resolve(encryption_key=OLD).source == "supabase"


def test_keys_that_are_sealed_for_the_first_time_keep_their_token(owner: Owner) -> None:
    """If a plain slot gets sealed keys, the plain token of the same app key stays, and is used after it is sealed."""
    token = make_token()
    owner.chain.database.put_keys()
    owner.chain.database.put_token(token)
    assert owner.set_app_key(encryption_key=OLD) is False
    assert owner.seal(OLD) == ["access_token"]
    assert owner.chain.resolve(encryption_key=OLD).token.token_id == token.token_id


def test_old_token_under_a_lost_seal_is_skipped(owner: Owner) -> None:
    """If no given key unseals an inactive token, sealing skips this token."""
    owner.chain.database.put_keys()
    owner.chain.database.put_token(make_token())
    owner.seal(OLD)
    owner.set_app_key(encryption_key=NEW)
    assert owner.seal(NEW) == []


@pytest.mark.parametrize("encryption_key", ["", OLD])
def test_changed_key_gets_a_token_of_its_own(owner: Owner, encryption_key: str) -> None:
    """If an owner stores another account's keys, the old token becomes inactive.

    After the account has changed, the next caller issues with the new key.
    """
    chain = owner.chain
    owner.set_app_key(OTHER, encryption_key=encryption_key)
    old = make_token(OTHER.key)
    vault = make_vault(chain.settings(encryption_key=encryption_key).encryption_keys)
    chain.database.put("access_token", vault.seal(old.to_json(), "kis", "access_token"), old.expires_at)
    assert chain.resolve(encryption_key=encryption_key).token.token_id == old.token_id

    assert owner.set_app_key(APP_KEY, encryption_key=encryption_key) is True

    resolution = chain.resolve(encryption_key=encryption_key)
    assert (resolution.source, resolution.token.app_key_id) == ("oauth", APP_KEY.key_id)
    assert chain.issue_calls == 1


def test_token_of_the_same_key_stays(owner: Owner) -> None:
    """A corrected secret deactivates no token, because the token belongs to the key."""
    token = make_token()
    owner.chain.database.put_keys(AppKey(ACCOUNT.app_key, "d3Jvbmc="))
    owner.chain.database.put_token(token)
    assert owner.set_app_key() is False
    assert owner.chain.resolve().token.token_id == token.token_id


def test_opaque_token_stays_with_the_stored_key(owner: Owner) -> None:
    """A token without claims belongs to the key that is stored with it."""
    owner.chain.database.put_keys()
    value = '{"access_token": "opaque-made-up-token-0123456789", "expires_at": "2099-01-01T00:00:00Z"}'
    owner.chain.database.put("access_token", value)
    assert owner.set_app_key() is False
    assert owner.set_app_key(OTHER) is True


def test_keys_under_a_lost_seal_can_be_set_anew(owner: Owner) -> None:
    """If the encryption key is lost, keys can be stored with a new one. A token under the lost key becomes inactive."""
    owner.chain.database.put_keys()
    owner.chain.database.put_token(make_token())
    owner.seal(OLD)
    assert owner.set_app_key(encryption_key=NEW) is True
    assert owner.chain.resolve(encryption_key=NEW).source == "oauth"


def test_keys_are_needed(owner: Owner) -> None:
    """If no app key and no secret is given, set_app_key fails and stores no key."""
    with pytest.raises(KisTokenError) as caught:
        owner.set_app_key(AppKey("", ""))
    assert caught.value.code == "missing-app-key"
    assert owner.stored == {}


def old_account(owner: Owner) -> Chain:
    """Store OTHER's keys in the slot, and return the chain. The emulated KIS accepts the keys of both accounts."""
    owner.set_app_key(OTHER)
    return owner.chain


def test_lease_that_is_asked_for_after_the_change_has_the_new_key(owner: Owner) -> None:
    """If the keys change after a caller has read the slot, the caller reads again and issues with the new key."""
    chain = old_account(owner)
    resolver = chain.resolver(app_key="", app_secret="")
    view = resolver.look()
    owner.set_app_key(APP_KEY)

    got = resolver.resolve(view)

    assert (got.source, got.token.app_key_id, got.app_key) == ("oauth", APP_KEY.key_id, APP_KEY)
    assert chain.resolve().token.token_id == got.token.token_id


def test_waiting_caller_continues_with_the_new_key(owner: Owner) -> None:
    """If the keys change while a caller waits for the lease, the caller issues with the new key."""
    chain = old_account(owner)
    assert Caller(chain.database, app_key=OTHER).begin()["status"] == "granted"
    clock = chain.clock()

    def change_once(seconds: float) -> None:
        if len(clock.slept) == 1:
            owner.set_app_key(APP_KEY)
        chain.pass_time(seconds)

    clock.on_sleep = change_once

    got = chain.resolve(clock, app_key="", app_secret="")

    assert (got.source, got.token.app_key_id, chain.issue_calls) == ("oauth", APP_KEY.key_id, 1)


def test_cached_token_of_the_old_key_is_not_put_back(owner: Owner) -> None:
    """If the keys change, a machine does not store its cached token of the old key."""
    chain = old_account(owner)
    chain.cache_token(make_token(OTHER.key, left=MINUTE))
    holder = Caller(chain.database, app_key=OTHER)
    holder.begin()
    holder.abort()
    resolver = chain.resolver(app_key="", app_secret="")
    view = resolver.look()
    begin = chain.stores[-1].begin

    def begin_and_change(*arguments: Any, **named: Any) -> Begun:  # noqa: ANN401 - the store's own
        begun = begin(*arguments, **named)
        owner.set_app_key(APP_KEY)
        return begun

    chain.stores[-1].begin = begin_and_change  # type: ignore[method-assign]  # the change comes right after the answer
    resolver.resolve(view)

    assert chain.database.row() == {}


def test_slot_whose_keys_never_rest_is_given_up(owner: Owner) -> None:
    """If the keys change at every attempt, the caller fails, and no token is issued."""
    chain = old_account(owner)
    resolver = chain.resolver(app_key="", app_secret="")
    look = resolver.look

    def look_and_change(
        rejected_id: str | None = None, *, held: Token | None = None, read: Callable[[], Slot] | None = None
    ) -> View:
        view = look(rejected_id, held=held, read=read)
        owner.set_app_key(OTHER if view.app_key == APP_KEY else APP_KEY)
        return view

    resolver.look = look_and_change  # type: ignore[method-assign]  # the change comes right after the look
    with pytest.raises(AppKeyChanged) as caught:
        resolver.resolve()
    assert (caught.value.code, chain.issue_calls) == ("app-key-changed", 0)
