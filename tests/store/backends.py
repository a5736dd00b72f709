"""The stores on which the tests of this folder run, and a caller that uses a store."""

from __future__ import annotations

import uuid
from datetime import timedelta
from typing import TYPE_CHECKING, Protocol

from bench.year.memory_store import MemoryStore
from kis_token.token import AppKey
from tests.support import APP_KEY, MINUTE, TurnedClock

if TYPE_CHECKING:
    from datetime import datetime

    from kis_token.core.ports import Begun, Committed, Store
    from kis_token.core.slot import Row
    from kis_token.store.supabase import SupabaseStore
    from kis_token.token import Token
    from tests.support import Database

SECOND = timedelta(seconds=1)
SERVICES = ("kis", "kis-second")
OTHER_KEY = AppKey("PSz9y8x7w6v5u4t3s2r1q0p9o8n7m6l5k4j3", "b3RoZXI=")
CORRECTED = AppKey(APP_KEY.key, "Y29ycmVjdGVk")
SEALED = "enc:v1:0a1b2c3d:bm9uY2VjaXBoZXJ0YWc="
SEALED_AGAIN = "enc:v1:0a1b2c3d:b3RoZXJjaXBoZXJ0YWc="


class Backend(Protocol):
    """A store under test, and the means to change its time, its rows and its table."""

    @property
    def store(self) -> Store:
        """The store under test."""

    def pass_time(self, seconds: float) -> None:
        """Let time pass for the leases only. Tokens do not age, so a test makes them with the needed age."""

    def put(
        self, service: str, credential_type: str, value: str, expires_at: datetime | None = None, *, active: bool = True
    ) -> int:
        """Store a row as a client without a lease does. Returns the row's version."""

    def outcomes(self, service: str) -> list[str]:
        """The recorded outcomes of a slot, oldest first."""

    def take_rows(self, *, does: bool) -> None:
        """Make the table accept rows, or refuse them."""


class SupabaseBackend:
    """The real store, and the database behind it."""

    def __init__(self, store: SupabaseStore, database: Database) -> None:
        self.store: Store = store
        self._database = database

    def pass_time(self, seconds: float) -> None:
        """Age the leases."""
        for service in SERVICES:
            self._database.age(seconds, service)

    def put(
        self, service: str, credential_type: str, value: str, expires_at: datetime | None = None, *, active: bool = True
    ) -> int:
        """Upsert the row."""
        return self._database.put(credential_type, value, expires_at, service=service, active=active)

    def outcomes(self, service: str) -> list[str]:
        """The outcomes in the log."""
        return self._database.outcomes(service)

    def take_rows(self, *, does: bool) -> None:
        """Add or remove a constraint."""
        self._database.owner.execute("alter table api_credentials drop constraint if exists none")
        if not does:
            self._database.owner.execute("alter table api_credentials add constraint none check (false) not valid")


class MemoryBackend:
    """The store in memory, and its clock."""

    def __init__(self) -> None:
        self._clock = TurnedClock()
        self._memory = MemoryStore(self._clock)
        self.store: Store = self._memory
        self.pass_time = self._clock.jump
        self.put = self._memory.put
        self.outcomes = self._memory.outcomes

    def take_rows(self, *, does: bool) -> None:
        """Set whether the store accepts rows."""
        self._memory.takes_rows = does


class Caller:
    """One attempt to issue, with its own holder id."""

    def __init__(
        self, backend: Backend, *, service: str = "kis", app_key: AppKey = APP_KEY, label: str = "acme/bot run 7 trade"
    ) -> None:
        self.holder = str(uuid.uuid4())
        self.fence = 0
        self._store = backend.store
        self._service = service
        self._app_key = app_key
        self._label = label

    def begin(
        self,
        *,
        min_remaining: timedelta = 10 * MINUTE,
        rejected_version: int | None = None,
        rejected_token_id: str | None = None,
        keys_version: int | None = None,
    ) -> Begun:
        """Ask for the lease, and keep the fence."""
        begun = self._store.begin(
            self._service,
            self.holder,
            self._label,
            self._app_key,
            min_remaining=min_remaining,
            rejected_version=rejected_version,
            rejected_token_id=rejected_token_id,
            keys_version=keys_version,
        )
        self.fence = begun.fence or self.fence
        return begun

    def commit(self, token: Token, stored_form: str | None = None, *, rejected: bool = False) -> Committed:
        """End the lease with a token, in plain JSON unless another form is given."""
        stored_form = token.to_json() if stored_form is None else stored_form
        return self._store.commit(self._service, self.holder, self.fence, token, stored_form, rejected=rejected)

    def abort(
        self, error_code: str = "EGW00133", cooldown: timedelta = 61 * SECOND, *, refused: AppKey | None = None
    ) -> None:
        """End the lease without a token."""
        self._store.abort(
            self._service,
            self.holder,
            self.fence,
            cooldown=cooldown,
            error_code=error_code,
            refused_credential_id=None if refused is None else refused.credential_id,
        )


def put_token(backend: Backend, token: Token, *, service: str = "kis", active: bool = True) -> int:
    """Store a token without a lease. Returns its version."""
    return backend.put(service, "access_token", token.to_json(), token.expires_at, active=active)


def issue(backend: Backend, token: Token, stored_form: str | None = None, *, service: str = "kis") -> int:
    """Begin and commit. Returns the version of the token."""
    caller = Caller(backend, service=service)
    assert caller.begin().status == "granted"
    committed = caller.commit(token, stored_form)
    assert committed.status == "committed"
    assert committed.version is not None
    return committed.version


def reject(backend: Backend, token: Token, *, service: str = "kis") -> None:
    """Make the slot remember a token as rejected, by a lease that ends without a new token."""
    caller = Caller(backend, service=service)
    assert caller.begin(rejected_token_id=token.token_id).status == "granted"
    caller.abort("out-of-time", timedelta())


def stored(backend: Backend, service: str = "kis") -> Row | None:
    """The row of the slot's token."""
    return backend.store.read(service).rows.get("access_token")


def stored_value(backend: Backend, service: str = "kis") -> str | None:
    """The stored value of the slot's token."""
    row = stored(backend, service)
    return None if row is None else row.value


def wait_of(begun: Begun) -> float:
    """Seconds until the caller may ask again."""
    assert (begun.status, begun.fence, begun.value) == ("busy", None, None)
    assert begun.retry_at is not None
    return (begun.retry_at - begun.server_now).total_seconds()
