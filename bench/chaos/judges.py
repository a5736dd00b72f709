"""Who judges the chaos. Each goes by what KIS, database and machine have noted, and returns what it found.

None asks the product: a token's life is what KIS made it, a lease is what the database granted.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import TYPE_CHECKING

from bench.chaos.records import Stored
from bench.chaos.simulated_time import CHILD, MIXED

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from bench.chaos.records import Attempt, Begin, Call, Records, Start, Write

#: KIS's minute.
MINUTE = 60.0
#: What the project promises: a token with less is not handed out, from asking to tokenP no longer.
LEAST_USEFUL = 30.0
LONGEST_START = 5.0
#: Judges that say "it was there" want it there for so much longer.
MARGIN = 10.0
#: A write so near to a read may have come before or after it.
UNSURE = 2.0

#: What a caller keeps of its time for issuing, and its longest patience with the store.
FOR_ISSUING, LONGEST_PATIENCE = 20.0, 45.0
#: A store that has been well for so long has been asked meanwhile: pauses are 7.5 s at the most, a stall takes 15 s.
WELL = 40.0


def refused_tokens(records: Records) -> list[str]:
    """Tokens handed out that KIS would refuse, and that could be known: not its own, another key's, dead, refused."""
    return [
        f"{each.by} got {_told(fault)}"
        for each in records.attempts
        if each.token is not None
        and (fault := _fault(records, each)) is not None
        and not (fault == "dead" and _suspended(records, each.caller, each.began, each.ended))
    ]


def dead_in_sleep(records: Records) -> list[str]:
    """Tokens that died while the process that was about to hand them out was suspended. Nobody can help that."""
    return [
        f"{each.by} slept until its token was dead"
        for each in records.attempts
        if each.token is not None
        and _fault(records, each) == "dead"
        and _suspended(records, each.caller, each.began, each.ended)
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


def answers_of_another(records: Records) -> list[str]:
    """Answers of the API that belonged to another process of the same bot, after a fork."""
    return [each.kind for each in records.tallies if each.where == MIXED]


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


def with_lease(records: Records) -> list[tuple[Call, Begin]]:
    """The calls of tokenP that were made with a lease, each with its grant.

    A caller has a lease when the last answer to its question was a grant that reached it.
    """
    leased = []
    for call in sorted(records.calls, key=lambda call: call.at):
        asked = [each for each in records.begins if each.by == call.by and each.at <= call.at]
        last = max(asked, key=lambda each: each.at, default=None)
        if last is not None and last.status == "granted" and last.delivered:
            leased.append((call, last))
    return leased


def close_calls(records: Records) -> list[str]:
    """Calls of tokenP made with leases within a minute of each other, whatever KIS answered."""
    return _close(records, is_excused=False)


def calls_after_sleep(records: Records) -> list[str]:
    """The same, where the process was suspended between its last look at the clock and the call."""
    return _close(records, is_excused=True)


def _close(records: Records, *, is_excused: bool) -> list[str]:
    leased = with_lease(records)
    return [
        f"{second.by} called {second.at - first.at:.1f} s after {first.by}"
        for (first, grant_of_first), (second, grant_of_second) in pairwise(leased)
        if second.at - first.at < MINUTE
        and is_excused
        == (_slept_in_lease(records, first, grant_of_first) or _slept_in_lease(records, second, grant_of_second))
    ]


def slept(records: Records, call: Call, grant: Begin) -> bool:
    """Whether the caller was suspended between its grant and its call."""
    return _suspended(records, _number(call), grant.at, call.at)


def _slept_in_lease(records: Records, call: Call, grant: Begin) -> bool:
    return call.at - grant.at > LONGEST_START and slept(records, call, grant)


def alone(records: Records) -> Iterator[tuple[Call, Start]]:
    """The calls of tokenP that were made without a lease, each with the beginning of its caller's attempt."""
    leased = {id(call) for call, _ in with_lease(records)}
    for call in sorted(records.calls, key=lambda call: call.at):
        began = [each for each in records.starts if each.by == call.by and each.at <= call.at]
        if id(call) not in leased and began:
            yield call, max(began, key=lambda each: each.at)


def alone_beside_the_store(records: Records) -> list[str]:
    """Calls without a lease by callers to whom the store had given a true answer in the same attempt.

    Such a caller knows that the store is there, and may know of another's lease. How far apart calls are, and what KIS
    answered, does not matter.
    """
    return [
        f"{call.by} called without a lease {call.at - heard:.1f} s after an answer of the store"
        for call, start in alone(records)
        if (heard := _heard(records, start, call.at)) is not None
        and not _suspended(records, start.caller, start.at, call.at)
    ]


def alone_in_a_hiccup(records: Records) -> list[str]:
    """Calls without a lease by callers who had not waited out their patience, or whom a well store would have answered.

    The patience is half of the time that a caller does not need for issuing, at most 45 s.
    """
    return [
        f"{call.by} called without a lease {call.at - start.at:.1f} s after its start (patience: {patience(start):.1f})"
        for call, start in alone(records)
        if (
            call.at - start.at < patience(start) - 1
            or any(end - begin >= WELL for begin, end in _well(records, start.at, call.at))
        )
        and not _suspended(records, start.caller, start.at, call.at)
    ]


def failed_in_a_hiccup(records: Records) -> list[str]:
    """Callers who got no token since Supabase did not answer, and who had not waited out their patience."""
    starts = {(each.by, each.caller): each for each in records.starts}
    return [
        f"{each.by} failed with {each.code} after {each.ended - each.began:.1f} s (patience: {patience(start):.1f})"
        for each in _without_token(records)
        if each.code == "store-unreachable"
        and (start := starts.get((each.by, each.caller))) is not None
        and each.ended - each.began < patience(start) - 1
    ]


def patience(start: Start) -> float:
    """For how long a caller without a token asks a store that does not answer: half of what issuing does not need.

    At most ``LONGEST_PATIENCE``.
    """
    useful = start.timeout - min(1.0, start.timeout / 5)
    return min((useful - FOR_ISSUING if useful > FOR_ISSUING else useful) / 2, LONGEST_PATIENCE)


def _heard(records: Records, start: Start, until: float) -> float | None:
    """When the store last gave this attempt a true answer before ``until``."""
    times = [each.at for each in records.reads if each.caller == start.caller]
    times += [each.at for each in records.begins if each.by == start.by and each.delivered and each.status is not None]
    return max((at for at in times if start.at <= at <= until), default=None)


def _well(records: Records, begin: float, end: float) -> Iterator[tuple[float, float]]:
    """The parts of a time in which the store was well."""
    since: float | None = begin
    for each in sorted(records.healths, key=lambda each: each.at):
        if each.at <= begin:
            since = begin if each.is_well else None
        elif each.at < end and each.is_well:
            since = each.at
        elif each.at < end and since is not None:
            yield since, each.at
            since = None
    if since is not None:
        yield since, end


def close_calls_alone(records: Records) -> list[str]:
    """Calls of tokenP within a minute of another, of which at least one was made without a lease."""
    leased = {id(call) for call, _ in with_lease(records)}
    calls = sorted(records.calls, key=lambda call: call.at)
    return [
        f"{second.by} called {second.at - first.at:.1f} s after {first.by}"
        for first, second in pairwise(calls)
        if second.at - first.at < MINUTE and not (id(first) in leased and id(second) in leased)
    ]


def close_calls_of_one_machine(records: Records) -> list[str]:
    """Those of them in which both calls came from one machine, and neither had a lease."""
    leased = {id(call) for call, _ in with_lease(records)}
    return [
        f"{second.by} called {second.at - first.at:.1f} s after {first.by}"
        for first, second in _close_on_a_machine(records, [call for call in records.calls if id(call) not in leased])
        if not _suspended(records, _number(first), first.at - MINUTE, first.at)
    ]


def close_calls_beside_a_lease(records: Records) -> list[str]:
    """Those of them in which both came from one machine, and one of the two had a lease."""
    leased = {id(call) for call, _ in with_lease(records)}
    return [
        f"{second.by} called {second.at - first.at:.1f} s after {first.by}"
        for first, second in _close_on_a_machine(records, records.calls)
        if (id(first) in leased) is not (id(second) in leased)
    ]


def _close_on_a_machine(records: Records, calls: list[Call]) -> Iterator[tuple[Call, Call]]:
    machines: dict[int, list[Call]] = {}
    for call in sorted(calls, key=lambda call: call.at):
        machines.setdefault(_number(call) % records.machines, []).append(call)
    for of_one in machines.values():
        yield from ((first, second) for first, second in pairwise(of_one) if second.at - first.at < MINUTE)


def _number(call: Call) -> int:
    """The caller's."""
    return int(call.by.partition(".")[0])


def issued_twice(records: Records) -> list[str]:
    """New tokens of the key within a minute of another: what reached the owner twice."""
    made = sorted((each for each in records.issued.values() if each.own), key=lambda each: each.begins)
    return [
        f"{second.token} was made {second.begins - first.begins:.0f} s after {first.token}"
        for first, second in pairwise(made)
        if second.begins - first.begins < MINUTE
    ]


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


def tracebacks(records: Records) -> list[str]:
    """Exceptions that are none of the project's own, ``internal-error``, and whatever was written to stderr."""
    found = [f"{each.by}: {each.crash}" for each in records.attempts if each.crash is not None]
    found += [f"{each.by}: internal-error" for each in records.attempts if each.code == "internal-error"]
    return found + ([records.stderr] if records.stderr else [])


def failed_with_cache(records: Records) -> list[str]:
    """Callers who got no token although a living one, which KIS had not ended, was in their cache all the time."""
    return [
        f"{each.by} failed with {each.code} although its cache held {each.cached}"
        for each in _without_token(records)
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
        for each in _without_token(records)
        if (shown := _shown(records, each)) is not None
        and not _was_killed(records, shown.token, each.ended)
        and _serves(records, each, shown)
    ]


def _without_token(records: Records) -> list[Attempt]:
    """Those who wanted a token, not a renewal."""
    return [each for each in records.attempts if each.token is None and each.mode in ("resolve", "replace")]


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


def _suspended(records: Records, caller: int, begin: float, end: float) -> bool:
    number = caller % CHILD
    return any(each.caller == number and each.begin < end and each.end > begin for each in records.stops)


#: What must not happen, by the row of the table that counts it.
JUDGES: dict[str, Callable[[Records], list[str]]] = {
    "tokens handed out that KIS would refuse": refused_tokens,
    "tokenP calls with leases within a minute": close_calls,
    "tokenP without a lease, beside the store": alone_beside_the_store,
    "tokenP without a lease, in a hiccup": alone_in_a_hiccup,
    "tokenP within a minute, alone on one machine": close_calls_of_one_machine,
    "new tokens within a minute": issued_twice,
    "older tokens stored over newer": older_over_newer,
    "other things stored than living tokens": nonsense_stored,
    "tracebacks and other errors": tracebacks,
    "no token, although the cache held one": failed_with_cache,
    "no token, although the store gave one": failed_with_store,
    "no token, given up in a hiccup": failed_in_a_hiccup,
    "ended by KIS, with the later one in the cache": killed_beside_cached,
    "answers of another process, after a fork": answers_of_another,
}

#: What nobody can prevent, or the design does not claim to.
LIMITS: dict[str, Callable[[Records], list[str]]] = {
    "handed out after KIS had ended it early": killed_tokens,
    "  of them with a good one in the store": killed_beside_another,
    "handed out dead after a suspension": dead_in_sleep,
    "tokenP within a minute, one without a lease": close_calls_alone,
    "  of them both from one machine": close_calls_beside_a_lease,
    "tokenP within a minute, after a suspension": calls_after_sleep,
}
