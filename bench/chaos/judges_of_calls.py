"""The judges of tokenP calls: the time between calls, the leases, and how long the callers waited for the store."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from bench.chaos.records import Begin, Call, Records, Start


#: KIS accepts one tokenP call of an app key in this time, in seconds.
MINUTE = 60.0
#: The project promises at most this time between begin and tokenP, in seconds.
LONGEST_START = 5.0
#: FOR_ISSUING is the part of a caller's time that is kept for issuing. LONGEST_RETRY_TIME is the longest time that a
#: caller waits for the store.
FOR_ISSUING, LONGEST_RETRY_TIME = 20.0, 45.0
#: If the store works for this many seconds, a caller must reach it: pauses take at most 7.5 s, and a stall takes 15 s.
WELL = 40.0


def with_lease(records: Records) -> list[tuple[Call, Begin]]:
    """Return the calls of tokenP that were made with a lease, each with its grant.

    A caller has a lease if the last answer to its begin was a grant, and the answer reached the caller.
    """
    leased = []
    for call in sorted(records.calls, key=lambda call: call.at):
        asked = [each for each in records.begins if each.by == call.by and each.at <= call.at]
        last = max(asked, key=lambda each: each.at, default=None)
        if last is not None and last.status == "granted" and last.delivered:
            leased.append((call, last))
    return leased


def close_calls(records: Records) -> list[str]:
    """Return the tokenP calls with leases less than a minute apart, whatever KIS answered."""
    return _close(records, is_excused=False)


def calls_after_sleep(records: Records) -> list[str]:
    """Return the close calls of processes that were suspended between their last check of the clock and the call."""
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
    """Yield the calls of tokenP that were made without a lease, each with the start of its caller's attempt."""
    leased = {id(call) for call, _ in with_lease(records)}
    for call in sorted(records.calls, key=lambda call: call.at):
        began = [each for each in records.starts if each.by == call.by and each.at <= call.at]
        if id(call) not in leased and began:
            yield call, max(began, key=lambda each: each.at)


def alone_beside_the_store(records: Records) -> list[str]:
    """Return calls without a lease by callers that got a correct answer from the store in the same attempt.

    Such a caller knows that the store works, and may know of another caller's lease. The time between calls and KIS's
    answers do not matter.
    """
    return [
        f"{call.by} called without a lease {call.at - heard:.1f} s after an answer of the store"
        for call, start in alone(records)
        if (heard := _heard(records, start, call.at)) is not None
        and not records.suspended(start.caller, start.at, call.at)
    ]


def alone_in_a_hiccup(records: Records) -> list[str]:
    """Return calls without a lease by callers that did not wait long enough, or that the store would have answered.

    A caller waits long enough if it waits for half of the time that it does not need for issuing, at most 45 s.
    """
    return [
        f"{call.by} called without a lease {call.at - start.at:.1f} s after its start "
        f"(retry time: {retry_time(start):.1f})"
        for call, start in alone(records)
        if (
            call.at - start.at < retry_time(start) - 1
            or any(end - begin >= WELL for begin, end in _well(records, start.at, call.at))
        )
        and not records.suspended(start.caller, start.at, call.at)
    ]


def failed_in_a_hiccup(records: Records) -> list[str]:
    """Return failures of callers that got no answer from Supabase and did not wait long enough."""
    starts = {(each.by, each.caller): each for each in records.starts}
    return [
        f"{each.by} failed with {each.code} after {each.ended - each.began:.1f} s (retry time: {retry_time(start):.1f})"
        for each in records.without_token()
        if each.code == "store-unreachable"
        and (start := starts.get((each.by, each.caller))) is not None
        and each.ended - each.began < retry_time(start) - 1
    ]


def retry_time(start: Start) -> float:
    """Return how long a caller without a token asks a store that does not answer.

    The result is half of the time that issuing does not need, but at most ``LONGEST_RETRY_TIME``.
    """
    useful = start.timeout - min(1.0, start.timeout / 5)
    return min((useful - FOR_ISSUING if useful > FOR_ISSUING else useful) / 2, LONGEST_RETRY_TIME)


def _heard(records: Records, start: Start, until: float) -> float | None:
    """Return the time of the store's last correct answer to this attempt before ``until``, or None."""
    times = [each.at for each in records.reads if each.caller == start.caller]
    times += [each.at for each in records.begins if each.by == start.by and each.delivered and each.status is not None]
    return max((at for at in times if start.at <= at <= until), default=None)


def _well(records: Records, begin: float, end: float) -> Iterator[tuple[float, float]]:
    """Yield the parts of a time span in which the store worked."""
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
    """Return tokenP calls less than a minute after another call, if one or both had no lease."""
    leased = {id(call) for call, _ in with_lease(records)}
    calls = sorted(records.calls, key=lambda call: call.at)
    return [
        f"{second.by} called {second.at - first.at:.1f} s after {first.by}"
        for first, second in pairwise(calls)
        if second.at - first.at < MINUTE and not (id(first) in leased and id(second) in leased)
    ]


def close_calls_of_one_machine(records: Records) -> list[str]:
    """Return tokenP calls less than a minute after a call of the same machine, if both had no lease."""
    leased = {id(call) for call, _ in with_lease(records)}
    return [
        f"{second.by} called {second.at - first.at:.1f} s after {first.by}"
        for first, second in _close_on_a_machine(records, [call for call in records.calls if id(call) not in leased])
        if not records.suspended(_number(first), first.at - MINUTE, first.at)
    ]


def close_calls_beside_a_lease(records: Records) -> list[str]:
    """Return tokenP calls less than a minute after a call of the same machine, if only one of the two had a lease."""
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
    """Return the caller's number."""
    return int(call.by.partition(".")[0])


def issued_twice(records: Records) -> list[str]:
    """Return new tokens less than a minute after another new token. The owner gets a message for each new token."""
    made = sorted((each for each in records.issued.values() if each.own), key=lambda each: each.begins)
    return [
        f"{second.token} was made {second.begins - first.begins:.0f} s after {first.token}"
        for first, second in pairwise(made)
        if second.begins - first.begins < MINUTE
    ]
