"""The SQL that the project still needs: the migrations, and the statement that gives the repository's jobs access.

No key of the API may create tables or list callers. So the user pastes the SQL into Supabase's SQL editor, and this
module checks the project until the SQL has taken effect.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from kis_token.admin.callers import list_callers
from kis_token.admin.trust_sql import caller_sql, keys_sql, transaction
from kis_token.errors import StoreMisconfigured, StoreOutage
from kis_token.store.migrations import migrations, outdated

if TYPE_CHECKING:
    from collections.abc import Callable

    from kis_token.admin.issuer_keys import PublishedKeys
    from kis_token.admin.trust_sql import Caller
    from kis_token.core.ports import Clock
    from kis_token.store.supabase import SupabaseStore

#: The errors that no longer occur after the files of sql/ have been run.
CURED_BY_SQL = {
    "store-table-missing",
    "store-column-missing",
    "store-function-missing",
    "store-function-ambiguous",
    "store-schema-outdated",
    "store-permission-denied",  # tables without grants: `connection` has checked that the key is a secret key
}

#: The seconds between two checks of the project, and the seconds after which this run ends the wait.
LOOK_SECONDS = 3.0
LONGEST_WAIT_SECONDS = 1800.0


@dataclass(frozen=True, slots=True)
class Access:
    """The access that the repository's jobs must get, and the keys of the jobs' issuer."""

    caller: Caller
    published: PublishedKeys


@dataclass(frozen=True, slots=True)
class Lacking:
    """The missing parts of the project: ``what`` describes the parts to users, and ``sql`` adds the parts."""

    what: str
    sql: str


def find_lacking(store: SupabaseStore, service_name: str, access: Access | None) -> Lacking | None:
    """Return the missing parts of the project, or None if all SQL has taken effect. Raises StoreError."""
    parts = []
    is_current = _is_current(store, service_name)
    if not is_current:
        files = [f"-- {path.name}\n\n{path.read_text(encoding='utf-8')}" for path in migrations()]
        parts.append(("the tables and functions", "\n".join(files)))
    if access is not None and not (is_current and _is_listed(store, access)):
        statement = transaction(caller_sql(access.caller), keys_sql(access.published))
        parts.append((f"the access of {access.caller.repository.name}", statement))
    if not parts:
        return None
    return Lacking(" and ".join(what for what, _ in parts), "\n".join(sql for _, sql in parts))


def wait_until_complete(look: Callable[[], Lacking | None], clock: Clock) -> None:
    """Call ``look`` every few seconds until ``look`` returns None. A short outage does not end the wait.

    Raises StoreMisconfigured ``store-table-missing`` after half an hour.
    """
    end = clock.monotonic() + LONGEST_WAIT_SECONDS
    while True:
        try:
            if look() is None:
                return
        except StoreOutage as outage:
            if outage.lasting:
                raise
        if clock.monotonic() >= end:
            raise not_run()
        clock.sleep(LOOK_SECONDS)


def not_run() -> StoreMisconfigured:
    """Return the error for SQL that has not taken effect."""
    return StoreMisconfigured("store-table-missing", "The SQL that kis-token init has written was not run yet")


def _is_current(store: SupabaseStore, service_name: str) -> bool:
    try:
        store.read(service_name)
        return outdated(store.schema_version()) is None
    except StoreMisconfigured as error:
        if error.code not in CURED_BY_SQL:
            raise
        return False


def _is_listed(store: SupabaseStore, access: Access) -> bool:
    """Whether the list of callers has ``access.caller`` with each of the caller's events.

    If the database lacks any key of the list ``access.published``, returns False.
    """
    caller = access.caller
    try:
        found = list_callers(store, caller.audience, only=caller.service_name)
    except StoreMisconfigured as error:
        if not error.is_function_missing:
            raise
        return False
    is_there = any(
        (each.repository_id, each.repository_owner_id) == (caller.repository.repository_id, caller.repository.owner_id)
        and (each.ref, each.audience, each.issuer) == (caller.ref, caller.audience, caller.issuer)
        and each.access == caller.access
        and each.runner_environment == caller.runner_environment
        and (each.environment, each.workflow, each.job_workflow_ref, each.misfit) == (None, None, None, None)
        and set(caller.events) <= set(each.events)
        for each in found.callers
    )
    kids = [key.kid for key in found.keys if key.issuer == caller.issuer]
    return is_there and not access.published.missing_from(kids)
