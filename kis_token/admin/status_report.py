"""The output of ``kis-token status``: JSON for programs, tables for people."""

from __future__ import annotations

from dataclasses import asdict
from datetime import timedelta, timezone
from typing import TYPE_CHECKING, Any

from kis_token.token import KST, in_hours

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from kis_token.admin.callers import CallersList
    from kis_token.admin.status import Event, SlotStatus, Status

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
    """Return the members for programs. Each time is in ISO 8601 in UTC, and in Korea time under a name with _kst."""

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


def as_text(status: Status) -> list[str]:
    """Return the lines for people: the slots and the last events, with each time in Korea time and in UTC."""
    slots = [
        {
            "slot": slot.service,
            "environment": slot.environment,
            "token": slot.token,
            "left": _ahead(slot.expires_at, status.now),
            "age": _ahead(status.now, slot.issued_at),
            **_in_both(slot.expires_at, "ends"),
            **_in_both(slot.rotation_due_at, "rotation due"),
            "issued by": slot.issued_by,
            "issuing now": slot.issuing,
            "last error": slot.last_error,
        }
        for slot in status.slots
    ]
    events = [
        {
            **_in_both(event.happened_at, "when"),
            "slot": event.service,
            "outcome": _OUTCOMES.get(event.outcome, event.outcome)
            + (f" ({event.error_code})" if event.error_code else ""),
            "by": event.by,
        }
        for event in status.events
    ]
    return [
        *(_table(slots) or ["There is no slot yet."]),
        "",
        *(_table(events) or ["There is no event yet."]),
    ]


def callers_as_json(found: CallersList) -> dict[str, Any]:
    """The members ``callers`` and ``issuer_keys`` for programs, with times as in `as_json`."""

    def members(item: object) -> dict[str, Any]:
        fields: dict[str, Any] = {}
        for name, value in asdict(item).items():  # type: ignore[call-overload]  # each item is a dataclass
            fields |= _times(name, value) if name in ("valid_until", "added_at") else {name: value}
        return fields

    return {"callers": [*map(members, found.callers)], "issuer_keys": [*map(members, found.keys)]}


def callers_as_text(found: CallersList) -> list[str]:
    """Return the lines for people: the callers, and the keys of their issuers, in the form of `as_text`."""
    callers = [
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
            **_in_both(caller.valid_until, "until"),
            "without effect": _MISFITS[caller.misfit],
        }
        for caller in found.callers
    ]
    keys = [
        {"issuer": key.issuer, "key": key.kid, "bits": f"{key.bits}", **_in_both(key.added_at, "stored")}
        for key in found.keys
    ]
    return [*(_table(callers) or ["No caller without a key is listed."]), "", *(_table(keys) or ["No key is stored."])]


def _table(rows: Sequence[dict[str, str | None]]) -> list[str]:
    """Return lines with the members' names as headings. A column without any value is left out."""
    names = [name for name in (rows[0] if rows else ()) if any(row[name] for row in rows)]
    cells = [[name.upper() for name in names], *([row[name] or "-" for name in names] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return ["  ".join(map(str.ljust, line, widths)).rstrip() for line in cells] if rows else []


def _in_both(moment: datetime | None, name: str) -> dict[str, str | None]:
    """Return a time to the minute as two members, one for each zone."""
    zones = {"kst": KST, "utc": timezone.utc}
    return {
        f"{name} ({zone})": f"{moment.astimezone(offset):%m-%d %H:%M}" if moment else None
        for zone, offset in zones.items()
    }


def _ahead(later: datetime | None, earlier: datetime | None) -> str | None:
    """Return the time from ``earlier`` to ``later``, but "0 h 0 min" for a negative time; None if one is missing."""
    return in_hours(max(later - earlier, timedelta())) if later and earlier else None


def _times(name: str, moment: datetime | None) -> dict[str, str | None]:
    if moment is None:
        return {name: None, f"{name}_kst": None}
    return {
        name: moment.astimezone(timezone.utc).isoformat(timespec="seconds"),
        f"{name}_kst": moment.astimezone(KST).isoformat(timespec="seconds"),
    }
