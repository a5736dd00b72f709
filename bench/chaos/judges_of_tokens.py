"""The judges of tokens: which ones were handed out, withheld and stored."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from bench.chaos.records import Stored

if TYPE_CHECKING:
    from bench.chaos.records import Attempt, Records, Write


#: The project promises that no token with less is handed out.
LEAST_USEFUL = 30.0
#: Judges that say "it was there" want it there for so much longer.
MARGIN = 10.0
#: A write so near to a read may have come before or after it.
UNSURE = 2.0


def refused_tokens(records: Records) -> list[str]:
    """Tokens handed out that KIS would refuse, and that could be known: not its own, another key's, dead, refused."""
    return [
        f"{each.by} got {_told(fault)}"
        for each in records.attempts
        if each.token is not None
        and (fault := _fault(records, each)) is not None
        and not (fault == "dead" and records.suspended(each.caller, each.began, each.ended))
    ]


def dead_in_sleep(records: Records) -> list[str]:
    """Tokens that died while the process that was about to hand them out was suspended. Nobody can help that."""
    return [
        f"{each.by} slept until its token was dead"
        for each in records.attempts
        if each.token is not None
        and _fault(records, each) == "dead"
        and records.suspended(each.caller, each.began, each.ended)
    ]


def killed_tokens(records: Records) -> list[str]:
    """Tokens handed out after KIS had ended them before their time, to somebody whom KIS had not told."""
    return [
        f"{each.by} got a token that KIS had ended"
        for each in records.attempts
        if each.token is not None and each.token != each.refused and _was_killed(records, each.token, each.ended)
    ]


def killed_beside_another(records: Records) -> list[str]:
    """Those of them that were handed out although the store had just shown their caller another good one."""
    return [
        f"{each.by} got {each.token}, which KIS had ended, although the store held {shown.token}"
        for each in records.attempts
        if each.token not in (None, each.refused)
        and _was_killed(records, each.token, each.ended)
        and (shown := _shown(records, each)) is not None
        and shown.token != each.token
        and not _was_killed(records, shown.token, each.ended)
        and _serves(records, each, shown)
    ]


def killed_beside_cached(records: Records) -> list[str]:
    """Tokens that KIS had ended, handed out although the caller's own cache held the one that ended them."""
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
    if attempt.token == attempt.refused:
        return "refused"
    return "dead" if attempt.ended >= issued.ends else None


def _told(fault: str) -> str:
    return {
        "unknown": "a token that KIS never issued",
        "another key's": "a token of another key",
        "refused": "the very token that KIS had refused it",
        "dead": "a token past its end",
    }[fault]


def older_over_newer(records: Records) -> list[str]:
    """Writes of the project's own that replaced a token by one that ends earlier, although the first was good."""
    return [
        f"at {write.at:.0f} {write.after.token} was stored over {write.before.token}"
        for write in records.writes
        if not write.outside and _is_older(records, write)
    ]


def _is_older(records: Records, write: Write) -> bool:
    before, after = (records.issued.get(each.token or "") for each in (write.before, write.after))
    if before is None or not before.own:
        return False  # unreadable, or no token of this key: whatever replaces it is better
    looks_alive = write.before.ends is not None and write.before.ends > write.at + LEAST_USEFUL
    lives = looks_alive and before.ends > write.at and records.killed.get(before.token, write.at) >= write.at
    return lives and (after is None or after.ends < before.ends)


def nonsense_stored(records: Records) -> list[str]:
    """Writes of the project's own of something that is no living token of this key."""
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
    """Callers who got no token although a living one, which KIS had not ended, was in their cache all the time."""
    return [
        f"{each.by} failed with {each.code} although its cache held {each.cached}"
        for each in records.without_token()
        if each.cached is not None
        and not _was_killed(records, each.cached, each.ended)
        and _serves(records, each, Stored(each.cached, math.inf))
    ]


def failed_with_store(records: Records) -> list[str]:
    """Callers who got no token although the store's last true answer to them held a living one.

    One that KIS had ended is none: the store may have told them so.
    """
    return [
        f"{each.by} failed with {each.code} although the store held {shown.token}"
        for each in records.without_token()
        if (shown := _shown(records, each)) is not None
        and not _was_killed(records, shown.token, each.ended)
        and _serves(records, each, shown)
    ]


def _shown(records: Records, attempt: Attempt) -> Stored | None:
    """What the store held when it last answered this caller; None when it did not, or when nobody can be sure."""
    reads = [each.at for each in records.reads if each.caller == attempt.caller]
    last = max((at for at in reads if attempt.began <= at <= attempt.ended), default=None)
    if last is None or any(abs(write.at - last) < UNSURE for write in records.writes):
        return None
    return next((write.after for write in reversed(records.writes) if write.at < last), None)


def _serves(records: Records, attempt: Attempt, held: Stored) -> bool:
    """Whether it would have done for this caller, and for some time longer."""
    issued = records.issued.get(held.token or "")
    if issued is None or not issued.own or held.token == attempt.refused or held.ends is None:
        return False
    return min(issued.ends, held.ends) > attempt.ended + LEAST_USEFUL + MARGIN
