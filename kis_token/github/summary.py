"""The summary of a workflow step, as GitHub's Markdown: the token's validity and source, or the error and its remedy.

Each result has one line, so that the summaries of ten jobs are readable on one page. The tables with the details are in
a collapsed section below the result's line. The summary does not depend on the page's colour theme. Texts from outside
(names of other machines, answers) are shown literally, never as markup, hyperlink, mention or picture.
"""

from __future__ import annotations

import re
from datetime import timedelta

from kis_token.core.rotation import due_at
from kis_token.token import State, in_both_zones, in_hours

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from kis_token.config import Settings
    from kis_token.core.resolution import Resolution, TraceEntry

#: The length, in characters, at which a text is cut: GitHub drops a summary of more than 1 MiB.
LONGEST_TEXT = 1000
#: The length, in characters, of the bar that shows which share of a token's lifetime is left.
BAR = 10

_SOURCES = {"supabase": "from Supabase", "cache": "from the cache", "oauth": "from KIS"}
_ESCAPES = str.maketrans({"<": "&lt;", ">": "&gt;", "&": "&amp;", **{letter: f"\\{letter}" for letter in "\\`*[]|~$"}})
#: An underscore after a letter begins no markup, so it is not escaped: GitHub's masks do not find an escaped secret.
_UNDERSCORE = re.compile(r"(?<![^\W_])_")
#: Matches the beginnings of words from which GitHub makes links and pictures: names of people and issues, :name:, and
#: addresses. GitHub makes these links and pictures after it has rendered the Markdown, so an escape in the Markdown
#: does not prevent a link or a picture.
_LINKED = re.compile(r"[@#](?=\S)|:(?=[^\s\d])|(?<![^\W_])(?:www(?=\.)|gh(?=-\d))", re.IGNORECASE)
#: A zero-width space. If a name or an address contains a zero-width space, GitHub does not make a link from it.
_NOTHING = "\u200b"


def describe_success(resolution: Resolution, settings: Settings) -> str:
    """Return the summary of a token: one line, and the warnings.

    The times and the results of the sources are in a collapsed section.
    """
    token, now = resolution.token, resolution.now
    state = token.state(now, settings.min_validity)
    left, whole = token.remaining(now), token.expires_at - token.issued_at
    share = min(max(left / whole, 0.0), 1.0)
    rows = {
        "validity": f"{in_hours(whole)}, {int(share * 100)} % left",
        "issued": in_both_zones(token.issued_at),
        "ends" if left > timedelta() else "ended": in_both_zones(token.expires_at),
        "next rotation": _rotation(resolution, settings, state),
    }
    mark = "✅" if state is State.FRESH and not resolution.warnings else "⚠️"
    validity = f"{in_hours(left)} left" if left > timedelta() else f"ended {in_hours(-left)} ago"
    line = [
        f"{mark} <b>{validity if state is State.FRESH else f'{validity} ({state.value})'}</b>",
        "issued now by KIS" if resolution.refreshed else _SOURCES[resolution.source],
        # KIS messages the owner of a real account at each issue.
        "KIS sends one message" if resolution.refreshed and settings.environment == "production" else "no message sent",
        f"{_unlinked(settings.service_name)} {_bar(share)}",
    ]
    whose = f"{plain(settings.service_name)}, {settings.environment}, mode {settings.mode}"
    return page(
        *folded(
            " · ".join(line),
            _table(["token", whose], [[name, said] for name, said in rows.items()]),
            sources_table(resolution.trace, resolution.source),
        ),
        *quoted(resolution.warnings),
    )


def plain(text: str) -> str:
    """Return ``text`` escaped for one line or one table cell of Markdown, so that GitHub shows ``text`` literally.

    Line breaks and invisible characters become blanks. A text of more than LONGEST_TEXT characters is cut.
    """
    words = "".join(letter if letter.isprintable() else " " for letter in text).split()
    line = " ".join(words)
    line = line if len(line) <= LONGEST_TEXT else f"{line[:LONGEST_TEXT]}…"
    return _UNDERSCORE.sub(r"\\_", _unlinked(line).translate(_ESCAPES))


def _unlinked(text: str) -> str:
    return _LINKED.sub(rf"\g<0>{_NOTHING}", text)


def page(*blocks: list[str]) -> str:
    """Return the blocks as one text. Each block ends with an empty line, so that other steps can add to the summary."""
    return "\n".join(line for block in blocks if block for line in (*block, ""))


def folded(line: str, *blocks: list[str]) -> tuple[list[str], ...]:
    """Return ``blocks`` as a collapsed section. ``line``, which is HTML, is the section's heading."""
    return ([f"<details><summary>{line}</summary>"], *blocks, ["</details>"])


def quoted(warnings: Sequence[str]) -> list[list[str]]:
    """Return warnings as quotations."""
    return [[f"> **Warning:** {plain(warning)}"] for warning in warnings]


def _table(heads: list[str], rows: list[list[str]]) -> list[str]:
    return [f"| {' | '.join(cells)} |" for cells in (heads, ["---"] * len(heads), *rows)]


def sources_table(trace: Sequence[TraceEntry], source: str | None = None) -> list[str]:
    """Return a table with the result of each source. The last entry of ``source`` is marked as the token's source."""
    used = max((place for place, entry in enumerate(trace) if entry.source == source), default=None)
    rows = [
        [f"**{entry.source}** (used)" if place == used else entry.source, plain(entry.text)]
        for place, entry in enumerate(trace)
    ]
    return _table(["source", "result"], rows)


def _bar(share: float) -> str:
    """Return a bar that shows the fraction ``share``. The constant `BAR` is the bar's length in characters.

    If ``share`` is above 0, the bar has at least one filled character.
    """
    filled = max(round(share * BAR), 1) if share else 0
    return "━" * filled + "┄" * (BAR - filled)


def _rotation(resolution: Resolution, settings: Settings, state: State) -> str:
    """Return a text: the time from which the nightly job renews the token, or the reason why that time is not known."""
    if resolution.token.version is None:
        return "not known: the token was not seen in Supabase"
    if state is State.EXPIRED:
        return "at the next run of the rotation: the token has expired"
    due = due_at(resolution.token, settings.refresh_after)
    return f"due {'from' if due > resolution.now else 'since'} {in_both_zones(due)}"
