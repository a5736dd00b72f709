"""Read the list of keyless callers and the stored keys of their issuers, and find entries that have no effect.

``kis-token status --callers`` and ``kis-token check`` use this module. Nothing is changed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from kis_token.admin.finding import note, ok, wrong_as
from kis_token.admin.issuer_keys import fetch_keys
from kis_token.admin.status import word
from kis_token.errors import GitHubError, KisTokenError, StoreMisconfigured
from kis_token.store.function_call import foreign
from kis_token.token import instant_or_none, parse_instant

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from datetime import datetime

    from kis_token.admin.finding import Finding
    from kis_token.admin.issuer_keys import PublishedKeys
    from kis_token.store.keyless_store import KeylessStore
    from kis_token.store.supabase import SupabaseStore

#: The reason why a row gives access to no job: ``audience`` if the row's audience is the URL of another project,
#: ``ended`` if the row's ``valid_until`` has passed.
Misfit = Literal["audience", "ended"]


@dataclass(frozen=True, slots=True)
class ListedCaller:
    """A row of ``credential_callers`` with the columns of that table.

    ``misfit`` is the reason why the row gives access to no job, or None if the row gives access.
    """

    id: int
    service: str
    access: str
    audience: str
    repository_owner_id: str
    repository_id: str
    ref: str
    events: tuple[str, ...]
    runner_environment: str
    environment: str | None
    workflow: str | None
    job_workflow_ref: str | None
    issuer: str
    valid_until: datetime | None
    note: str | None
    misfit: Misfit | None

    @property
    def name(self) -> str:
        """The repository's name that the row records, or the repository's ID if the row records no name."""
        return self.note or f"repository {self.repository_id}"


@dataclass(frozen=True, slots=True)
class StoredKey:
    """A row of ``credential_issuer_keys``. ``modulus_sha256`` is in hex."""

    issuer: str
    kid: str
    bits: int
    modulus_sha256: str
    added_at: datetime


@dataclass(frozen=True, slots=True)
class CallersList:
    """The callers of one slot or of all slots, and the stored keys of all issuers."""

    callers: tuple[ListedCaller, ...]
    keys: tuple[StoredKey, ...]


def list_callers(store: SupabaseStore, audience: str, *, only: str | None = None) -> CallersList:
    """Read the callers of all slots, or of the one slot that ``only`` names, in one request.

    ``audience`` is this project's URL. Raises StoreError. The error's code is ``store-function-missing`` if sql/007 has
    not been run.
    """
    found = store.callers_status(only)
    try:
        now = parse_instant(found["server_now"])
        callers = tuple(_caller(row, audience, now) for row in found["callers"])
        keys = tuple(
            StoredKey(
                f"{row['issuer']}", f"{row['kid']}", int(row["bits"]), f"{row['modulus_sha256']}",
                parse_instant(row["added_at"]),
            )
            for row in found["keys"]
        )  # fmt: skip
    except (KeyError, TypeError, ValueError) as error:
        raise foreign("credential_callers_status") from error
    return CallersList(callers, keys)


def examine_callers(store: SupabaseStore, audience: str) -> Iterator[Finding]:
    """Yield the findings on the listed callers and their issuers' keys. Raises StoreOutage.

    An empty list of callers gives no finding.
    """
    try:
        found = list_callers(store, audience)
    except StoreMisconfigured as error:
        if error.is_function_missing:
            said = "the database has no list of keyless callers"
            yield note("callers", said, "If jobs are to work without a key, run all files of sql/ in order.")
        else:
            yield wrong_as("callers", error)
        return
    for caller in found.callers:
        yield _examine(caller, audience)
    for issuer in sorted({caller.issuer for caller in found.callers}):
        stored = {key.kid: key for key in found.keys if key.issuer == issuer}
        try:
            published = fetch_keys(issuer)
        except GitHubError as error:
            yield _not_compared(error)
            continue
        yield from _compare(published, stored)


def examine_issuer(store: KeylessStore, service_name: str) -> Iterator[Finding]:
    """Yield the findings on the stored public keys of this job's issuer. The job has no key of Supabase.

    The database shows the names of the issuer's keys to a job without a key of Supabase. Raises StoreError.
    """
    issuer, kids = store.issuer_keys(service_name)
    try:
        missing = fetch_keys(issuer).missing_from(kids)
    except GitHubError as error:
        yield _not_compared(error)
        return
    yield _lacking(issuer, missing) if missing else ok("issuer keys", f"all of {issuer} are stored")


def _examine(caller: ListedCaller, audience: str) -> Finding:
    row = f"row {caller.id}, {caller.name} on {caller.ref} for the slot {caller.service}"
    if caller.misfit == "audience":
        said = f"{row}: its audience is {caller.audience}, and SUPABASE_URL is {audience}"
        return wrong_as("callers", KisTokenError("id-token-audience", said))
    if caller.misfit == "ended" and caller.valid_until is not None:
        remedy = "Delete the row, or change its column valid_until."
        return note("callers", f"{row}: it ended on {caller.valid_until:%Y-%m-%d}", remedy)
    return ok("callers", f"{row}: access {caller.access}")


def _compare(published: PublishedKeys, stored: dict[str, StoredKey]) -> Iterator[Finding]:
    """Yield the differences between the keys that an issuer publishes and this issuer's keys in the database."""
    missing = published.missing_from(stored)
    others = [key.kid for key in published.keys if key.kid in stored and stored[key.kid].modulus_sha256 != key.digest]
    if missing:
        yield _lacking(published.issuer, missing)
    if others:
        said = f"the database has other keys than {published.issuer} under these names: {_names(others)}"
        yield wrong_as("issuer keys", KisTokenError("id-token-unknown", said))
    withdrawn = stored.keys() - {key.kid for key in published.keys}
    if withdrawn:
        said = f"{published.issuer} does not publish these stored keys any more: {_names(sorted(withdrawn))}"
        remedy = "Delete the rows of these keys from credential_issuer_keys, because a stored key stays trusted."
        yield note("issuer keys", said, remedy)
    if not missing and not others:
        yield ok("issuer keys", f"all {len(published.keys)} of {published.issuer} are stored")


def _lacking(issuer: str, missing: Iterable[str]) -> Finding:
    said = f"{issuer} publishes keys that the database lacks: {_names(missing)}"
    return wrong_as("issuer keys", KisTokenError("id-token-key-unknown", said))


def _not_compared(error: GitHubError) -> Finding:
    """Return the note that the stored keys could not be compared, because GitHub does not answer."""
    return note("issuer keys", f"the stored keys were not compared with the published keys: {error.brief}", error.hint)


def _names(kids: Iterable[str]) -> str:
    return ", ".join(kids)


def _caller(row: dict[str, Any], audience: str, now: datetime) -> ListedCaller:
    valid_until = instant_or_none(row["valid_until"])
    ended = valid_until is not None and valid_until <= now
    return ListedCaller(
        id=int(row["id"]),
        service=f"{row['service_name']}",
        access=f"{row['access']}",
        audience=f"{row['audience']}",
        repository_owner_id=f"{row['repository_owner_id']}",
        repository_id=f"{row['repository_id']}",
        ref=f"{row['ref']}",
        events=tuple(f"{event}" for event in row["events"]),
        runner_environment=f"{row['runner_environment']}",
        environment=word(row["environment"]),
        workflow=word(row["workflow"]),
        job_workflow_ref=word(row["job_workflow_ref"]),
        issuer=f"{row['issuer']}",
        valid_until=valid_until,
        note=word(row["note"]),
        misfit="audience" if row["audience"] != audience else "ended" if ended else None,
    )
