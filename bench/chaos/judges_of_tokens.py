"""The judges of tokens: tokens that callers got, tokens that callers should have got, and stored tokens."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from bench.chaos.records import Stored

if TYPE_CHECKING:
    from bench.chaos.records import Attempt, Records, Write


#: The project promises that a token that it returns is valid for at least this many seconds.
LEAST_USEFUL = 30.0
#: A judge expects a caller to get a token only if the token was valid for this many seconds more.
MARGIN = 10.0
#: If a read and a write are less than this many seconds apart, their order is unknown.
UNSURE = 2.0


def rejected_tokens(records: Records) -> list[str]:
    """Return tokens that KIS would reject, if the caller could know this: foreign, expired or rejected tokens."""
    return [
        f"{each.by} got {_told(fault)}"
        for each in records.attempts
        if each.token is not None
        and (fault := _fault(records, each)) is not None
        and not (fault == "expired" and records.suspended(each.caller, each.began, each.ended))
    ]


def expired_in_sleep(records: Records) -> list[str]:
    """Return tokens that expired while the process that was about to hand them out was suspended."""
    return [
        f"{each.by} slept until its token had expired"
        for each in records.attempts
        if each.token is not None
        and _fault(records, each) == "expired"
        and records.suspended(each.caller, each.began, each.ended)
    ]


def killed_tokens(records: Records) -> list[str]:
    """Return tokens that callers got after KIS had ended them early, if KIS had not rejected the token before."""
    return [
        f"{each.by} got a token that KIS had ended"
        for each in records.attempts
        if each.token is not None and each.token != each.rejected and _was_killed(records, each.token, each.ended)
    ]


def killed_beside_another(records: Records) -> list[str]:
    """Return the findings of `killed_tokens` in which the store had just given the caller another, good token."""
    return [
        f"{each.by} got {each.token}, which KIS had ended, although the store held {shown.token}"
        for each in records.attempts
        if each.token not in (None, each.rejected)
        and _was_killed(records, each.token, each.ended)
        and (shown := _shown(records, each)) is not None
        and shown.token != each.token
        and not _was_killed(records, shown.token, each.ended)
        and _serves(records, each, shown)
    ]


def killed_beside_cached(records: Records) -> list[str]:
    """Return tokens that KIS had ended, although the caller's own cache held the token that ended them."""
    return [
        f"{each.by} got {each.token}, which KIS had ended, although its cache held {each.cached}"
        for each in records.attempts
        if each.mode == "resolve"
        and each.token != each.cached
        and _was_killed(records, each.token, each.began)
        and each.cached is not None
        and not _was_killed(records, each.cached, each.ended)
        and _serves(records, each, Stored(each.cached, math.inf))
    ]


def _was_killed(records: Records, token: str | None, at: float) -> bool:
    return records.killed.get(token or "", at) < at


def _fault(records: Records, attempt: Attempt) -> str | None:
    issued = records.issued.get(attempt.token or "")
    if issued is None:
        return "unknown"
    if not issued.own:
        return "another key's"
    if attempt.token == attempt.rejected:
        return "rejected"
    return "expired" if attempt.ended >= issued.ends else None


def _told(fault: str) -> str:
    return {
        "unknown": "a token that KIS never issued",
        "another key's": "a token of another key",
        "rejected": "the token that KIS had rejected",
        "expired": "an expired token",
    }[fault]


def older_over_newer(records: Records) -> list[str]:
    """Return the project's writes that replaced a good token by a token that expires earlier."""
    return [
        f"at {write.at:.0f} {write.after.token} was stored over {write.before.token}"
        for write in records.writes
        if not write.outside and _is_older(records, write)
    ]


def _is_older(records: Records, write: Write) -> bool:
    before, after = (records.issued.get(each.token or "") for each in (write.before, write.after))
    if before is None or not before.own:
        return False  # the old value is unreadable or not a token of this key, so any new value is better
    looks_valid = write.before.ends is not None and write.before.ends > write.at + LEAST_USEFUL
    is_valid = looks_valid and before.ends > write.at and records.killed.get(before.token, write.at) >= write.at
    return is_valid and (after is None or after.ends < before.ends)


def nonsense_stored(records: Records) -> list[str]:
    """Return the project's writes of a value that is not a valid token of this key."""
    return [
        f"at {write.at:.0f} {write.after.token} was stored"
        for write in records.writes
        if not write.outside
        and not (
            (issued := records.issued.get(write.after.token or "")) is not None
            and issued.own
            and issued.ends > write.at
            and write.after.ends is not None
        )
    ]


def failed_with_cache(records: Records) -> list[str]:
    """Return failures of callers whose cache held a valid token during the whole attempt."""
    return [
        f"{each.by} failed with {each.code} although its cache held {each.cached}"
        for each in records.without_token()
        if each.cached is not None
        and not _was_killed(records, each.cached, each.ended)
        and _serves(records, each, Stored(each.cached, math.inf))
    ]


def failed_with_store(records: Records) -> list[str]:
    """Return failures of callers whose last correct answer from the store contained a valid token.

    A token that KIS had ended does not count, because the store may have reported it as rejected.
    """
    return [
        f"{each.by} failed with {each.code} although the store held {shown.token}"
        for each in records.without_token()
        if (shown := _shown(records, each)) is not None
        and not _was_killed(records, shown.token, each.ended)
        and _serves(records, each, shown)
    ]


def _shown(records: Records, attempt: Attempt) -> Stored | None:
    """Return the store's row at its last answer to this caller.

    Returns None if there is no answer, or if the row is uncertain.
    """
    reads = [each.at for each in records.reads if each.caller == attempt.caller]
    last = max((at for at in reads if attempt.began <= at <= attempt.ended), default=None)
    if last is None or any(abs(write.at - last) < UNSURE for write in records.writes):
        return None
    return next((write.after for write in reversed(records.writes) if write.at < last), None)


def _serves(records: Records, attempt: Attempt, held: Stored) -> bool:
    """Whether the caller could have used the token at the end of the attempt and for some time after it."""
    issued = records.issued.get(held.token or "")
    if issued is None or not issued.own or held.token == attempt.rejected or held.ends is None:
        return False
    return min(issued.ends, held.ends) > attempt.ended + LEAST_USEFUL + MARGIN
