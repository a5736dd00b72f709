"""The rows of the store in memory: a stored value, and a slot's lease with its rejected tokens."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING

from kis_token.token import fingerprint

if TYPE_CHECKING:
    import uuid


#: A rejected token without a known expiry is remembered for LONGEST_LIFE. Every rejected token is remembered for at
#: least LEAST_MEMORY (issuance_reject).
LONGEST_LIFE, LEAST_MEMORY = timedelta(days=90), timedelta(days=1)
#: A slot remembers at most this many rejected tokens (issuance_reject).
MOST_REJECTED = 100
# This value replaces null in the times of a lease. This value counts as a past time.
LONG_AGO = datetime.min.replace(tzinfo=timezone.utc)


@dataclass(frozen=True, slots=True)
class StoredRow:
    """A row of api_credentials. The default represents a missing or inactive row."""

    value: str = field(default="", repr=False)
    expires_at: datetime | None = None
    is_active: bool = False
    version: int = 0

    def outlives(self, moment: datetime) -> bool:
        """Whether the value expires after ``moment``."""
        return self.expires_at is not None and self.expires_at > moment


@dataclass(slots=True)
class LeaseRow:
    """A row of credential_leases. The times in this row have the same meaning as the columns."""

    service_name: str
    fence: int = 0
    holder: uuid.UUID | None = field(default=None, repr=False)
    holder_label: str | None = None
    lease_until: datetime = LONG_AGO
    not_before: datetime = LONG_AGO
    # The last version of any row at the time of the grant. This version replaces granted_at, because a test's clock may
    # stand still.
    granted_version: int = 0
    token_id: str | None = None
    token_version: int | None = None
    issued_at: datetime = LONG_AGO
    app_key_id: str | None = None
    # The tokens that are remembered as rejected, with their expiry. The database has these tokens in the row
    # rejected_tokens.
    rejected: dict[str, datetime] = field(default_factory=dict)
    refused_credential_id: str | None = None
    refused_until: datetime = LONG_AGO
    last_error: str | None = None

    def stored_id(self, row: StoredRow) -> str | None:
        """Return the fingerprint of the token in the row, which may be sealed. Returns None if it is unknown."""
        return self.token_id if self.token_version == row.version else plain_token_id(row.value)

    def rejected_ids(self, now: datetime) -> frozenset[str]:
        """Return the tokens that are remembered as rejected, as issuance_rejected_ids does."""
        return frozenset(token_id for token_id, end in self.rejected.items() if end > now)

    def reject(self, token_id: str, ends_at: datetime | None, now: datetime) -> None:
        """Remember a token as rejected until it expires, as issuance_reject does."""
        kept = {each: end for each, end in self.rejected.items() if end > now}
        known = kept.pop(token_id, None)
        told = None if ends_at is None else min(max(ends_at, now + LEAST_MEMORY), now + LONGEST_LIFE)
        ends = [end for end in (known, told) if end is not None] or [now + LONGEST_LIFE]
        last = sorted(kept, key=kept.__getitem__)[1 - MOST_REJECTED :]
        self.rejected = {**{each: kept[each] for each in last}, token_id: max(ends)}


def plain_token_id(value: str) -> str | None:
    """Return the fingerprint of a plain token, as issuance_plain_token_id does. The token may be any text."""
    try:
        token = json.loads(value)["access_token"]
    except (ValueError, TypeError, LookupError, RecursionError):
        return None
    return fingerprint(token) if isinstance(token, str) and token else None
