"""The chaos's table: the events, the findings that must be zero, and the limits of the design."""

from __future__ import annotations

import textwrap
from collections import Counter
from typing import TYPE_CHECKING

from bench.chaos.judges import JUDGES, LIMITS
from bench.chaos.judges_of_calls import slept, with_lease

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from bench.chaos.records import Call, Records

_TOO_EARLY = "EGW00133"
_WIDTH, _LINE = 46, 118

#: Events that are only counted, and the names of their rows.
_COUNTED = {
    "killed": "killed",
    "suspended": "suspended",
    "store": "store: faults",
    "store: lost": "store: lost answers",
    "KIS": "KIS: faults",
    "cache": "cache: faults",
    "row": "row: faults",
}

#: At most this many findings of a judge are printed.
_TOLD = 5


def report(records: Records, passed: float) -> tuple[list[str], bool]:
    """Return the table's lines, and whether all rows that must be zero are zero. ``passed`` is in simulated seconds."""
    found = {name: judge(records) for name, judge in JUDGES.items()}
    found["callers that did not end"] = [f"{records.hung} were killed"] * records.hung
    lines = [
        *(_row(name, value) for name, value in _figures(records, passed)),
        "",
        "Must be zero:",
        *(_row(name, str(len(each))) for name, each in found.items()),
        "",
        "Limits of the design:",
        *(_row(name, str(len(judge(records)))) for name, judge in LIMITS.items()),
        *(f"{name}: {each}" for name, every in found.items() for each in every[:_TOLD]),
    ]
    return lines, not any(found.values())


def _figures(records: Records, passed: float) -> Iterator[tuple[str, str]]:
    attempts, tallies = records.attempts, records.tallies
    days, hours = divmod(int(passed // 3600), 24)
    yield "simulated time", f"{days} d {hours} h, {_count(tallies, 'time')[1]} jumps"
    got = [each for each in attempts if each.token is not None]
    yield "attempts with a result", str(len(attempts))
    yield "got a token", f"{len(got)}: {_told(str(each.source) for each in got)}"
    for mode in ("resolve", "replace", "rotate", "force"):
        codes = [str(each.code or "crash") for each in attempts if each.mode == mode and each.token is None]
        yield f"got no token ({mode})", f"{len(codes)}{': ' if codes else ''}{_told(codes)}"
    for where, name in _COUNTED.items():
        kinds, total = _count(tallies, where)
        yield name, f"{total}: {_told(kinds.elements())}"
    yield "tokens that KIS ended early", str(len(records.killed))
    leased = with_lease(records)
    calls = {id(call) for call, _ in leased}
    yield "tokenP calls with a lease", _calls(call for call in records.calls if id(call) in calls)
    yield "tokenP calls without a lease", _calls(call for call in records.calls if id(call) not in calls)
    for how, asleep in (("", False), (", suspended", True)):
        times = [call.at - grant.at for call, grant in leased if slept(records, call, grant) is asleep]
        yield f"longest from grant to tokenP{how}", f"{max(times, default=0):.1f} s"
    outside = sum(write.outside for write in records.writes)
    yield "writes of the token row", f"{len(records.writes) - outside}, and {outside} by outsiders"


def _calls(calls: Iterable[Call]) -> str:
    def fate(call: Call) -> str:
        if call.token is None:
            return str(call.code)
        return ("new" if call.is_new else "given again") + (", answer lost" if call.code is not None else "")

    fates = [fate(call) for call in calls]
    return f"{len(fates)}: {_told(fates)}"


def _count(tallies: Iterable[object], where: str) -> tuple[Counter[str], int]:
    kinds = Counter(str(getattr(each, "kind", "")) for each in tallies if getattr(each, "where", "") == where)
    return kinds, kinds.total()


def _told(kinds: Iterable[str]) -> str:
    return ", ".join(f"{times} {kind}" for kind, times in Counter(kinds).most_common())


def _row(name: str, value: str) -> str:
    first, *more = textwrap.wrap(value, _LINE - _WIDTH - 1)
    return "\n".join([f"{name:<{_WIDTH}} {first}", *(f"{'':<{_WIDTH}} {each}" for each in more)])
