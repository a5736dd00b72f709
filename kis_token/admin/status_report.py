"""The output of ``kis-token status``: JSON for programs, tables for people."""

from __future__ import annotations

import textwrap
from dataclasses import asdict
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any

from kis_token.core.app_key_expiry import RENEWAL, warn_of_key_end
from kis_token.token import KST, in_hours

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kis_token.admin.callers import CallersList
    from kis_token.admin.status import Event, SlotStatus, Status

_ZONES = {"kst": KST, "utc": timezone.utc}
#: The indent of each line after the first line, if the text of a row is printed as several lines.
_INDENT = "  "
_Row = dict[str, "str | datetime | None"]

_OUTCOMES = {
    "granted": "started, not finished",
    "committed": "issued a token",
    "unchanged": "KIS gave the same token again",
    "fenced": "finished too late, not stored",
    "aborted": "no token",
    "saved": "stored without a lease",
    "revoked": "revoked at KIS",
}

_MISFITS = {"audience": "another project's audience", "ended": "it has ended", None: None}


def as_json(status: Status) -> dict[str, Any]:
    """Return the members of the JSON output.

    Each time is in ISO 8601: in UTC, and again in Korea time under a name that ends with _kst.
    """

    def members(item: SlotStatus | Event) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for name, value in asdict(item).items():
            found |= _times(name, value) if name.endswith("_at") else {name: value}
        return found

    return {
        **_times("now", status.now),
        "slots": [members(slot) for slot in status.slots],
        "events": [members(event) for event in status.events],
    }


def as_text(status: Status, width: int | None = None) -> list[str]:
    """Return the lines for people: the slots and the last events, with each time in Korea time and in UTC.

    The lines are tables with headings in capitals. A table that is wider than ``width`` columns becomes a list whose
    lines fit. If ``width`` is None, tables can have any width.
    """
    slots: list[_Row] = [
        {
            "slot": slot.service,
            "environment": slot.environment,
            "token": slot.token,
            "left": _ahead(slot.expires_at, status.now),
            "age": _ahead(status.now, slot.issued_at),
            "ends": slot.expires_at,
            "rotation due": slot.rotation_due_at,
            "issued by": slot.issued_by,
            "issuing now": slot.issuing,
            "last error": slot.last_error,
        }
        for slot in status.slots
    ]
    events: list[_Row] = [
        {
            "when": event.happened_at,
            "slot": event.service,
            "outcome": _OUTCOMES.get(event.outcome, event.outcome)
            + (f" ({event.error_code})" if event.error_code else ""),
            "by": event.by,
        }
        for event in status.events
    ]
    return [
        *(_table(slots, width) or ["There is no slot yet."]),
        "",
        *(_table(events, width, is_packed=True) or ["There is no event yet."]),
    ]


def key_warnings(status: Status) -> list[str]:
    """Return a warning with its remedy for each slot whose app key expires soon or has expired."""
    said = (warn_of_key_end(slot.service, slot.app_key_expires_at, status.now) for slot in status.slots)
    return [f"{each}. {RENEWAL}" for each in said if each]


def callers_as_json(found: CallersList) -> dict[str, Any]:
    """Return the members ``callers`` and ``issuer_keys`` of the JSON output, with times in the form of `as_json`."""

    def members(item: object) -> dict[str, Any]:
        fields: dict[str, Any] = {}
        for name, value in asdict(item).items():  # type: ignore[call-overload]  # each item is a dataclass
            fields |= _times(name, value) if name in ("valid_until", "added_at") else {name: value}
        return fields

    return {"callers": [*map(members, found.callers)], "issuer_keys": [*map(members, found.keys)]}


def callers_as_text(found: CallersList, width: int | None = None) -> list[str]:
    """Return the lines for people: the callers, and the keys of their issuers, in the form of `as_text`."""
    callers: list[_Row] = [
        {
            "row": f"{caller.id}",
            "slot": caller.service,
            "access": caller.access,
            "repository": caller.name,
            "ref": caller.ref,
            "events": ",".join(caller.events),
            "runner": caller.runner_environment,
            "environment": caller.environment,
            "workflow": caller.workflow,
            "reusable workflow": caller.job_workflow_ref,
            "until": caller.valid_until,
            "without effect": _MISFITS[caller.misfit],
        }
        for caller in found.callers
    ]
    keys: list[_Row] = [
        {"issuer": key.issuer, "key": key.kid, "bits": f"{key.bits}", "stored": key.added_at} for key in found.keys
    ]
    return [
        *(_table(callers, width) or ["The list of callers without a key is empty."]),
        "",
        *(_table(keys, width) or ["No key is stored."]),
    ]


def _table(rows: Sequence[_Row], width: int | None, *, is_packed: bool = False) -> list[str]:
    """Return a table with the columns' names as headings, or a list if the table is wider than ``width``.

    A column that has no value in any row is left out. If ``is_packed`` is true, the list shows values without the
    names of their columns.
    """
    expanded = [_in_columns(row, rows) for row in rows]
    names = [name for name in (expanded[0] if rows else ()) if any(row[name] for row in expanded)]
    cells = [[name.upper() for name in names], *([row[name] or "-" for name in names] for row in expanded)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = ["  ".join(map(str.ljust, line, widths)).rstrip() for line in cells] if rows else []
    is_narrow = width is not None and any(len(line) > width for line in lines)
    if width is None or not is_narrow:
        return lines
    return [line for row in rows for line in (_packed(row, width) if is_packed else _listed(row, width))]


def _in_columns(row: _Row, rows: Sequence[_Row]) -> dict[str, str | None]:
    """Return the row's cells. A time has two cells, one for each zone."""
    cells: dict[str, str | None] = {}
    for name, value in row.items():
        if any(isinstance(each[name], datetime) for each in rows):
            for zone, offset in _ZONES.items():
                cells[f"{name} ({zone})"] = _in_zone(value, offset) if isinstance(value, datetime) else None
        elif not isinstance(value, datetime):
            cells[name] = value
    return cells


def _listed(row: _Row, width: int) -> list[str]:
    """Return the row as lines of at most ``width`` characters: the first value, then all other values with names."""
    longest = max(map(len, row))
    (_, first), *others = ((name, _in_one(value)) for name, value in row.items())
    lines = _wrapped(first, width)
    for name, value in others:
        if value is not None:
            lines += _wrapped(f"{_INDENT}{name:<{longest}}  {value}", width, " " * (len(_INDENT) + longest + 2))
    return lines


def _packed(row: _Row, width: int) -> list[str]:
    """Return the values of the row as lines of at most ``width`` characters, and leave out the values' names."""
    first, *others = map(_in_one, row.values())
    said = ", ".join(value for value in others if value is not None)
    return _wrapped(first, width) + _wrapped(f"{_INDENT}{said}", width, _INDENT)


def _wrapped(text: str | None, width: int, indent: str = "") -> list[str]:
    return textwrap.wrap(f"{text}", width, subsequent_indent=indent, break_on_hyphens=False)


def _in_one(value: str | datetime | None) -> str | None:
    """Return the text of a row's value. If the value is a time, the text has the time in Korea time and in UTC."""
    if not isinstance(value, datetime):
        return value
    return ", ".join(f"{_in_zone(value, offset)} {zone.upper()}" for zone, offset in _ZONES.items())


def _in_zone(moment: datetime, zone: timezone) -> str:
    """Return a time in a zone, without its seconds."""
    return f"{moment.astimezone(zone):%m-%d %H:%M}"


def _ahead(later: datetime | None, earlier: datetime | None) -> str | None:
    """Return the duration from ``earlier`` to ``later``, at least "0 h 0 min".

    Return None if one of the times is None.
    """
    return in_hours(max(later - earlier, timedelta())) if later and earlier else None


def _times(name: str, moment: datetime | None) -> dict[str, str | None]:
    if moment is None:
        return {name: None, f"{name}_kst": None}
    return {
        name: moment.astimezone(timezone.utc).isoformat(timespec="seconds"),
        f"{name}_kst": moment.astimezone(KST).isoformat(timespec="seconds"),
    }
