"""The shared store in memory. It implements `ports.Store` by the rules of sql/, on a clock that is passed in.

Tests that need neither PostgreSQL nor HTTP use this store. Its rules, names and order are those of
sql/002_issuance.sql. If this module and the SQL differ, the SQL is right. All times are timezone-aware, in UTC.
"""

from __future__ import annotations

import re
import threading
import uuid
from collections import defaultdict
from contextlib import contextmanager
from datetime import datetime, timedelta, timezone
from functools import partial
from typing import TYPE_CHECKING

from bench.year.memory_rows import LONG_AGO, LeaseRow, StoredRow, plain_token_id
from kis_token.config import SERVICE_NAME
from kis_token.core.ports import Begun, Committed
from kis_token.core.slot import Row, Slot
from kis_token.errors import StoreMisconfigured, StoreOutage
from kis_token.store.slot_query import LARGEST_VALUE, TYPES, store_error
from kis_token.token import REISSUE_WINDOW

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kis_token.core.ports import CommitStatus
    from kis_token.sandbox.kis_rules import Clock
    from kis_token.token import AppKey, Token


#: The length of a lease (begin_issuance).
LEASE = timedelta(seconds=60)
#: The least time from one grant to the next, even if the holder's process ends (begin_issuance).
BETWEEN_GRANTS = timedelta(seconds=70)
#: The least time from a commit to the next grant (commit_issuance).
AFTER_COMMIT = timedelta(seconds=61)
#: The time for which a refused key and secret are not tried again (abort_issuance).
AFTER_REFUSAL = timedelta(minutes=15)
#: The longest cool-down. A longer cool-down is an error (abort_issuance).
LONGEST_COOLDOWN = timedelta(hours=1)
#: The issue time of a token may be at most this far in the future. A later issue time is an error (commit_issuance).
FURTHEST_ISSUE = timedelta(days=1)
#: The maximum length of a label (begin_issuance) and of an error code (abort_issuance).
LABEL_LENGTH, ERROR_CODE_LENGTH = 200, 100
#: The sealed form that issuance_check_token requires.
SEALED = re.compile(r"enc:v1:[^:]+:[A-Za-z0-9_=-]+")


class MemoryStore:
    """A `ports.Store` in memory, thread-safe and empty at first.

    The calls of the protocol raise StoreMisconfigured for arguments that the database refuses. While ``is_down`` is
    True, these calls raise StoreOutage. While ``takes_rows`` is False, no lease is granted and no row is stored. `put`
    and `outcomes` are for tests, and always work.
    """

    def __init__(self, clock: Clock) -> None:
        self.is_down = False
        self.takes_rows = True
        self._clock = clock
        self._rows: dict[tuple[str, str], StoredRow] = {}
        self._leases: dict[str, LeaseRow] = {}
        self._outcomes: defaultdict[str, list[str]] = defaultdict(list)
        self._last_version = 0
        self._lock = threading.Lock()

    def put(
        self, service: str, credential_type: str, value: str, expires_at: datetime | None = None, *, active: bool = True
    ) -> int:
        """Store a row without a lease, as other clients do. Returns its version, which is new if the row changed."""
        with self._lock:
            return self._write((service, credential_type), value, expires_at, active=active).version

    def outcomes(self, service: str) -> list[str]:
        """Return the outcomes in credential_issuances for a slot, oldest first."""
        with self._lock:
            return list(self._outcomes[service])

    def read(self, service_name: str) -> Slot:
        """Return all active rows of a slot, and the store's time."""
        with self._transaction() as now:
            rows = ((name, self._active(service_name, name)) for name in TYPES)
            shown = {name: Row(row.value, _text(row.expires_at), row.version) for name, row in rows if row.is_active}
            lease = self._leases.get(service_name)
            return Slot(shown, now, frozenset(lease.rejected) if lease is not None else frozenset())

    def begin(  # noqa: PLR0911 - one return for each answer
        self,
        service_name: str,
        holder: str,
        label: str,
        app_key: AppKey,
        *,
        min_remaining: timedelta,
        rejected_version: int | None = None,
        rejected_token_id: str | None = None,
        keys_version: int | None = None,
    ) -> Begun:
        """Ask for a lease, as begin_issuance does."""
        with self._transaction() as now:
            caller, lease, row = _parse_holder(holder), self._lease(service_name), self._active(service_name)
            _refuse_unless(min_remaining >= timedelta())
            other = self._other_lease(app_key.key_id, service_name)
            version, expires_at = row.version or None, _text(row.expires_at)
            stored_id, rejected_ids = lease.stored_id(row), lease.rejected_ids(now)
            answer = partial(
                Begun,
                server_now=now,
                version=version,
                expires_at=expires_at,
                last_error=lease.last_error,
                rejected_token_ids=rejected_ids,
            )
            if keys_version not in (None, self._active(service_name, "app_key").version):
                return answer("changed")
            if self._active(other.service_name).outlives(now):
                return answer("conflict", holder_label=other.service_name)
            is_known = lease.token_version == row.version
            if (
                row.outlives(now)
                and row.version != rejected_version
                and (stored_id is None or stored_id not in rejected_ids | {rejected_token_id})
                and (row.outlives(now + min_remaining) or (is_known and now - lease.issued_at < REISSUE_WINDOW))
            ):
                return answer("fresh", value=row.value)
            if lease.holder == caller and lease.lease_until > now:
                return answer("granted", fence=lease.fence)
            for each in (lease, other):
                if each.lease_until > now:
                    return answer("busy", retry_at=each.lease_until, holder_label=each.holder_label)
            is_refused = lease.refused_credential_id == app_key.credential_id
            retry_at = max(lease.not_before, other.not_before, lease.refused_until if is_refused else LONG_AGO)
            if retry_at > now:
                return answer("busy", retry_at=retry_at)
            self._check_that_it_stores()  # issuance_prove
            # At this point, the other slot's token has expired and its lease has ended. So the app key moves to this
            # slot.
            other.app_key_id, lease.app_key_id = None, app_key.key_id
            lease.fence += 1
            lease.holder, lease.holder_label = caller, label[:LABEL_LENGTH]
            lease.lease_until, lease.not_before = now + LEASE, now + BETWEEN_GRANTS
            lease.granted_version = self._last_version
            if rejected_token_id is not None:
                lease.reject(rejected_token_id, row.expires_at if stored_id == rejected_token_id else None, now)
            self._outcomes[service_name].append("granted")
            return answer("granted", fence=lease.fence, rejected_token_ids=lease.rejected_ids(now))

    def commit(
        self, service_name: str, holder: str, fence: int, token: Token, stored_form: str, *, rejected: bool
    ) -> Committed:
        """Store the token of a lease, and end the lease, as commit_issuance does."""
        with self._transaction() as now:
            caller, lease, row = _parse_holder(holder), self._lease(service_name), self._active(service_name)
            is_remembered = token.token_id in lease.rejected_ids(now)
            if lease.fence == fence and lease.holder is None and lease.token_id == token.token_id:
                return _committed("committed", row, is_remembered)  # a repeated call: the first answer was lost
            if lease.fence != fence or lease.holder != caller:
                return _committed("fenced", row, is_remembered)
            _check_token(stored_form, token, now)
            _refuse_unless(token.issued_at <= now + FURTHEST_ISSUE)
            is_stored = lease.stored_id(row) == token.token_id
            is_rejected = (rejected and is_stored) or is_remembered
            status: CommitStatus
            if is_rejected or (is_stored and row.expires_at is not None):
                status = "unchanged"
            elif row.version > lease.granted_version and row.outlives(token.expires_at):
                status = "fenced"  # a client without a lease has written a newer token
            else:
                status = "committed"
                self._check_that_it_stores()
                row = self._write((service_name, "access_token"), stored_form, token.expires_at)

            self._outcomes[service_name].append(status)
            if status == "unchanged":
                lease.not_before = token.issued_at + REISSUE_WINDOW if is_rejected else LONG_AGO
            lease.not_before = max(lease.not_before, now + AFTER_COMMIT)
            if is_stored or status == "committed":
                lease.token_id, lease.token_version, lease.issued_at = token.token_id, row.version, token.issued_at
            lease.holder, lease.lease_until, lease.refused_credential_id = None, LONG_AGO, None
            lease.last_error = "token-repeated" if is_rejected else None
            return _committed(status, row, is_remembered)

    def save(
        self,
        service_name: str,
        token: Token,
        stored_form: str,
        *,
        replaces_version: int | None = None,
        keys_version: int | None = None,
    ) -> bool:
        """Store a token without a lease, as save_token does."""
        with self._transaction() as now:
            lease = self._lease(service_name)
            _check_token(stored_form, token, now)
            if (plain_token_id(stored_form) or token.token_id) in lease.rejected_ids(now):
                return False
            row = self._active(service_name)
            if keys_version not in (None, self._active(service_name, "app_key").version):
                return True
            if row.version == replaces_version or row.expires_at is None or token.expires_at > row.expires_at:
                self._check_that_it_stores()
                self._write((service_name, "access_token"), stored_form, token.expires_at)
                self._outcomes[service_name].append("saved")
            return True

    def abort(
        self,
        service_name: str,
        holder: str,
        fence: int,
        *,
        cooldown: timedelta,
        error_code: str,
        refused_credential_id: str | None = None,
    ) -> None:
        """End a lease without a token, as abort_issuance does."""
        with self._transaction() as now:
            caller, lease = _parse_holder(holder), self._lease(service_name)
            _refuse_unless(timedelta() <= cooldown <= LONGEST_COOLDOWN)
            if lease.fence == fence and lease.holder == caller:
                self._outcomes[service_name].append("aborted")
                lease.holder, lease.lease_until, lease.not_before = None, LONG_AGO, now + cooldown
                lease.last_error = error_code[:ERROR_CODE_LENGTH]
                if refused_credential_id is not None:
                    lease.refused_credential_id, lease.refused_until = refused_credential_id, now + AFTER_REFUSAL

    def _check_that_it_stores(self) -> None:
        if not self.takes_rows:
            raise StoreMisconfigured("store-cannot-store", "The store in memory does not accept rows")

    @contextmanager
    def _transaction(self) -> Iterator[datetime]:
        """Run one call at a time. Yields the time at which this call starts."""
        with self._lock:
            if self.is_down:
                raise StoreOutage("store-unreachable", "The store in memory is down")
            yield self._clock.now()

    def _lease(self, service_name: str) -> LeaseRow:
        _refuse_unless(SERVICE_NAME.fullmatch(service_name))
        return self._leases.setdefault(service_name, LeaseRow(service_name))

    def _other_lease(self, app_key_id: str, service_name: str) -> LeaseRow:
        """Return the lease of another slot with the app key, or an ended lease if there is no such slot."""
        leases = (each for each in self._leases.values() if each.app_key_id == app_key_id)
        return next((each for each in leases if each.service_name != service_name), LeaseRow(""))

    def _active(self, service_name: str, credential_type: str = "access_token") -> StoredRow:
        row = self._rows.get((service_name, credential_type))
        return row if row is not None and row.is_active else StoredRow()

    def _write(
        self, key: tuple[str, str], value: str, expires_at: datetime | None, *, active: bool = True
    ) -> StoredRow:
        """Upsert a row, and set its version as the trigger of sql/001_api_credentials.sql does."""
        row = self._rows.get(key)
        if row is None or (row.value, row.expires_at, row.is_active) != (value, expires_at, active):
            self._last_version += 1
            row = self._rows[key] = StoredRow(value, expires_at, active, self._last_version)
        return row


def _committed(status: CommitStatus, row: StoredRow, is_rejected: bool) -> Committed:  # noqa: FBT001 - private, and named so
    value = row.value if status == "fenced" and row.is_active else None
    return Committed(status, row.version or None, value, _text(row.expires_at), is_rejected)


def _text(moment: datetime | None) -> str | None:
    return None if moment is None else moment.astimezone(timezone.utc).isoformat()


def _check_token(stored_form: str, token: Token, now: datetime) -> None:
    _refuse_unless(len(stored_form) <= LARGEST_VALUE)
    _refuse_unless(SEALED.fullmatch(stored_form) or plain_token_id(stored_form))
    _refuse_unless(token.expires_at > now)


def _parse_holder(holder: str) -> uuid.UUID:
    try:
        return uuid.UUID(holder)
    except ValueError:
        raise store_error(400, "22P02") from None  # invalid_text_representation


def _refuse_unless(sensible: object) -> None:
    """Raise the error that `supabase` raises if the database refuses an argument."""
    if not sensible:
        raise store_error(400, "22023")  # invalid_parameter_value
