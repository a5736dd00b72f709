"""The summary of a workflow step, as GitHub's Markdown: the token's life and the chain, or what failed and the remedy.

Tables, text and a bar of block characters: nothing that depends on a theme. What comes from elsewhere (names of other
machines, answers) is shown as the text that it is and never as markup, link, mention or picture.
"""

from __future__ import annotations

import re
from datetime import timedelta
from typing import TYPE_CHECKING

from kis_token.core.rotation import due_at
from kis_token.token import State, in_both_zones, in_hours

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kis_token.config import Settings
    from kis_token.core.resolution import Resolution, TraceEntry
    from kis_token.errors import KisTokenError

#: Where an error code is explained. GitHub does not tell a composite action which repository it is from, so this is the
#: name under which README.md says to use it.
ENTRIES = "https://github.com/org/kis-token-action/blob/v1/docs/troubleshooting.md"

#: No text is longer, whatever a machine calls itself: GitHub drops a summary of more than 1 MiB.
LONGEST_TEXT = 1000
#: The bar's length in characters.
BAR = 20

_SOURCES = {"supabase": "from Supabase", "cache": "from the cache", "oauth": "from KIS"}
_ESCAPES = str.maketrans({"<": "&lt;", ">": "&gt;", "&": "&amp;", **{letter: f"\\{letter}" for letter in "\\`*[]|~$"}})
#: After a letter it begins no markup. Words are left whole, or GitHub's masks would not find a secret that is one.
_UNDERSCORE = re.compile(r"(?<![^\W_])_")
#: GitHub looks for these in the text that is left when Markdown is done, where no escape helps: names of people, issues
#: and pictures (:name:), and addresses.
_LINKED = re.compile(r"[@#](?=\S)|:(?=[^\s\d])|(?<![^\W_])(?:www(?=\.)|gh(?=-\d))", re.IGNORECASE)
#: A space without width: it ends such a name before it begins.
_NOTHING = "\u200b"


def describe_success(resolution: Resolution, settings: Settings) -> str:
    """A token that was handed out: its state, warnings, life, times, next rotation, and the answer of each source."""
    token, now = resolution.token, resolution.now
    state = token.state(now, settings.min_validity)
    mark = "✅" if state is State.FRESH and not resolution.warnings else "⚠️"
    source = "issued now by KIS" if resolution.refreshed else _SOURCES[resolution.source]
    rows = {
        "life": _life(token.expires_at - token.issued_at, token.remaining(now)),
        "issued": in_both_zones(token.issued_at),
        "ends" if token.remaining(now) > timedelta() else "ended": in_both_zones(token.expires_at),
        "next rotation": _rotation(resolution, settings, state),
    }
    whose = f"{plain(settings.service_name)}, {settings.environment}, mode {settings.mode}"
    return _page(
        f"{mark} KIS access token: {state.value}, {source}",
        *_quoted(resolution.warnings),
        _table(["token", whose], [[name, said] for name, said in rows.items()]),
        _chain(resolution.trace, resolution.source),
    )


def describe_failure(faults: Sequence[KisTokenError], trace: Sequence[TraceEntry], warnings: Sequence[str] = ()) -> str:
    """A failure: each fault with its code, which leads to its entry in the documents, and the remedy; the chain.

    ``warnings`` were gathered on the way.
    """
    rows = [[f"[`{fault.code}`]({ENTRIES}#{fault.code})", plain(fault.args[0]), plain(fault.hint)] for fault in faults]
    passes = all(fault.retryable for fault in faults)
    return _page(
        "❌ KIS access token: failed",
        *_quoted(warnings),
        _table(["error", "what happened", "what to do"], rows),
        ["This may pass by itself: the same run may succeed a little later."] if passes else [],
        _chain(trace) if trace else [],
    )


def plain(text: str) -> str:
    """``text`` for one line of GitHub's Markdown, a table's cell included: what is seen is what was given.

    Line breaks and invisible characters become blanks, and what is very long is cut off.
    """
    words = "".join(letter if letter.isprintable() else " " for letter in text).split()
    line = " ".join(words)
    line = line if len(line) <= LONGEST_TEXT else f"{line[:LONGEST_TEXT]}…"
    return _UNDERSCORE.sub(r"\\_", _LINKED.sub(rf"\g<0>{_NOTHING}", line).translate(_ESCAPES))


def _page(title: str, *blocks: list[str]) -> str:
    """Blocks of lines with an empty line between them, and one at the end, for what other steps may add."""
    return "\n".join(line for block in ([f"### {title}"], *blocks) if block for line in (*block, ""))


def _quoted(warnings: Sequence[str]) -> list[list[str]]:
    return [[f"> **Warning:** {plain(warning)}"] for warning in warnings]


def _table(heads: list[str], rows: list[list[str]]) -> list[str]:
    return [f"| {' | '.join(cells)} |" for cells in (heads, ["---"] * len(heads), *rows)]


def _chain(trace: Sequence[TraceEntry], source: str | None = None) -> list[str]:
    """What each source answered; the last one of the name ``source`` gave the token."""
    used = max((place for place, entry in enumerate(trace) if entry.source == source), default=None)
    rows = [
        [f"**{entry.source}** (used)" if place == used else entry.source, plain(entry.text)]
        for place, entry in enumerate(trace)
    ]
    return _table(["link", "what it said"], rows)


def _life(whole: timedelta, left: timedelta) -> str:
    """The part of its life that a token has left: in words and, for the eye, as a bar."""
    share = min(max(left / whole, 0.0), 1.0)
    filled = max(round(share * BAR), 1) if share else 0
    bar = f"`{'█' * filled}{'░' * (BAR - filled)}`"
    if not share:
        return f"ended {in_hours(-left)} ago {bar}"
    return f"{in_hours(left)} of {in_hours(whole)} left ({int(share * 100)} %) {bar}"


def _rotation(resolution: Resolution, settings: Settings, state: State) -> str:
    """When the nightly job renews the token, if it is the one that the job will find."""
    if resolution.token.version is None:
        return "not known: the token was not seen in Supabase"
    if state is State.EXPIRED:
        return "at its next run: the token has expired"
    due = due_at(resolution.token, settings.refresh_after)
    return f"due {'from' if due > resolution.now else 'since'} {in_both_zones(due)}"
