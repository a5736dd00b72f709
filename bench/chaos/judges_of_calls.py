"""The judges of tokenP calls: how far apart they are, with which lease, and how patient their callers were."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from bench.chaos.records import Begin, Call, Records, Start


#: KIS's minute.
MINUTE = 60.0
#: The project promises that no more time passes between begin and tokenP.
LONGEST_START = 5.0
#: What a caller keeps of its time for issuing, and its longest patience with the store.
FOR_ISSUING, LONGEST_PATIENCE = 20.0, 45.0
#: A store that has been well for so long has been asked meanwhile: pauses are 7.5 s at the most, a stall takes 15 s.
WELL = 40.0


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
    return records.suspended(_number(call), grant.at, call.at)


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
        and not records.suspended(start.caller, start.at, call.at)
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
        and not records.suspended(start.caller, start.at, call.at)
    ]


def failed_in_a_hiccup(records: Records) -> list[str]:
    """Callers who got no token since Supabase did not answer, and who had not waited out their patience."""
    starts = {(each.by, each.caller): each for each in records.starts}
    return [
        f"{each.by} failed with {each.code} after {each.ended - each.began:.1f} s (patience: {patience(start):.1f})"
        for each in records.without_token()
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
        if not records.suspended(_number(first), first.at - MINUTE, first.at)
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
