"""The job's summary: what people look at first. Markdown that GitHub shows on light and dark alike.

No colours and no pictures: words, tables, and a bar of characters with its figure beside it. Whatever comes from
outside (names of other machines, of rows, of files) is text, and never markup.
"""

from __future__ import annotations

import re
from datetime import timedelta, timezone
from typing import TYPE_CHECKING

from kis_token.rotation import due_at
from kis_token.token import KST

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from datetime import datetime

    from kis_token.config import Settings
    from kis_token.errors import KisTokenError
    from kis_token.lookup import Link, Resolution

#: Where each error code has an entry. A composite action does not learn its own repository's name when it runs.
ENTRIES = "https://github.com/org/kis-token-action/blob/v1/docs/troubleshooting.md"

#: A day, at an hour a character.
_BAR = 24

#: What would be a person, an issue or a link to GitHub even in plain text. A space without width parts it.
_LIVELY = re.compile(r"@|#(?=\d)|GH-(?=\d)|:(?=//)|www(?=\.)", re.IGNORECASE)
_MARKUP = re.compile(r"[\\`*_\[\]|~]")


def describe_success(resolution: Resolution, settings: Settings) -> str:
    """What was handed out, how long it lives, and what each link said."""
    token, warnings = resolution.token, resolution.warnings
    sign = "❌" if resolution.expired else "⚠️" if warnings else "✅"
    how = "issued now" if resolution.refreshed else f"from {resolution.source}"
    due = None if resolution.expired else due_at(token, settings.refresh_after)
    bar = _bar(token.expires_at - resolution.now, token.expires_at - token.issued_at)
    times = [("issued", token.issued_at), ("ends", token.expires_at), ("next rotation", due)]
    return "\n".join(
        [
            f"### {sign} KIS access token: {how}",
            "",
            f"{bar} · {settings.environment} · service `{settings.service_name}`",
            "",
            *_table(("", "Korea time", "UTC"), [_times(name, at, resolution.now) for name, at in times if at]),
            "",
            *_chain(resolution.links),
            *[f"\n> **Warning:** {plain(warning)}" for warning in warnings],
            "",
        ]
    )


def describe_failure(faults: Iterable[KisTokenError], links: Sequence[Link]) -> str:
    """What went wrong and what to do about it, fault by fault, and what each link said."""
    lines = ["### ❌ KIS access token: failed", ""]
    for fault in faults:
        entry = f"[`{fault.code}`]({ENTRIES}#{fault.code})"
        lines += [f"- **{plain(f'{fault.args[0]}')}** ({entry})  ", f"  {plain(fault.hint)}"]
    return "\n".join([*lines, "", *(_chain(links) if links else []), ""])


def plain(text: str) -> str:
    """``text`` in one line, as GitHub shows it when nothing in it is markup, a link or a name."""
    one_line = " ".join(text.split()).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return _LIVELY.sub(lambda found: f"{found[0]}\u200b", _MARKUP.sub(r"\\\g<0>", one_line))


def _bar(left: timedelta, life: timedelta) -> str:
    """The life that is left, as a bar of a day and in words."""
    left = max(left, timedelta())
    part = min(left / life, 1.0) if life > timedelta() else 0.0
    full = round(part * _BAR)
    minutes = int(left.total_seconds()) // 60
    return f"`{'█' * full}{'░' * (_BAR - full)}` **{minutes // 60} h {minutes % 60} min left** ({part:.0%})"


def _times(name: str, moment: datetime, now: datetime) -> tuple[str, ...]:
    note = " (due)" if name == "next rotation" and moment <= now else ""
    return (name + note, *(f"{moment.astimezone(zone):%Y-%m-%d %H:%M:%S}" for zone in (KST, timezone.utc)))


def _chain(links: Iterable[Link]) -> list[str]:
    return _table(("link", "said"), [(plain(link.name), plain(link.said)) for link in links])


def _table(titles: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    return [f"| {' | '.join(cells)} |" for cells in (titles, ["---"] * len(titles), *rows)]
