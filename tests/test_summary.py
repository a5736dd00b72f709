"""The job's summary: what it says in each case, and that nothing from outside is markup."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from kis_token.errors import REMEDIES, IssuanceError, KisTokenError
from kis_token.lookup import Link
from kis_token.summary import ENTRIES, describe_failure, describe_success, plain
from tests.support import HOUR, make_settings, make_token
from tests.test_publish import NOON, resolution_of
from tools.step import CHECKOUT

if TYPE_CHECKING:
    from markdown_it.token import Token as Part

GITHUB = MarkdownIt("gfm-like")
assert GITHUB.linkify is not None
GITHUB.linkify.set({"fuzzy_link": False})  # GitHub makes no link of a mere name with a dot


def parts(markdown: str) -> list[Part]:
    """What GitHub makes of it, one after the other, with what is inside."""
    return [part for each in GITHUB.parse(markdown) for part in (each, *(each.children or ()))]


def shown(markdown: str) -> str:
    """The text that people read, without what cannot be seen."""
    pieces = [part.content for part in parts(markdown) if part.type in ("text", "code_inline", "text_special")]
    return "".join(pieces).replace("\u200b", "")


def test_a_fresh_token() -> None:
    """A bar with its figure, the times in both zones, the next rotation, and a row for each link."""
    resolution = resolution_of()
    assert describe_success(resolution, make_settings()).splitlines() == [
        "### ✅ KIS access token: from supabase",
        "",
        "`███░░░░░░░░░░░░░░░░░░░░░` **3 h 0 min left** (12%) · production · service `kis`",
        "",
        "|  | Korea time | UTC |",
        "| --- | --- | --- |",
        "| issued | 2026-03-02 00:00:00 | 2026-03-01 15:00:00 |",
        "| ends | 2026-03-03 00:00:00 | 2026-03-02 15:00:00 |",
        "| next rotation (due) | 2026-03-02 20:00:00 | 2026-03-02 11:00:00 |",
        "",
        "| link | said |",
        "| --- | --- |",
        "| supabase | its token is fresh, 3 h 0 min left |",
        "| cache | turned off |",
    ]


def test_a_token_that_was_issued_now() -> None:
    """It says so, and the bar is full."""
    token = make_token(age=timedelta(), left=24 * HOUR, now=NOON)
    lines = describe_success(resolution_of(token=token, refreshed=True, source="oauth"), make_settings()).splitlines()

    assert lines[0] == "### ✅ KIS access token: issued now"
    assert lines[2].startswith(f"`{'█' * 24}` **24 h 0 min left** (100%)")
    assert lines[8] == "| next rotation | 2026-03-03 20:00:00 | 2026-03-03 11:00:00 |"


def test_warnings() -> None:
    """A token with a warning bears another sign, and each warning is a paragraph of its own."""
    text = describe_success(resolution_of(warnings=("The clock is off.", "It was not renewed.")), make_settings())

    assert text.startswith("### ⚠️ KIS access token: from supabase\n")
    assert text.endswith("\n> **Warning:** The clock is off.\n\n> **Warning:** It was not renewed.\n")
    assert sum(part.type == "blockquote_open" for part in parts(text)) == 2


def test_an_expired_token() -> None:
    """What was handed out past its end is told as that: an empty bar, no life, no rotation."""
    token = make_token(left=-timedelta(minutes=5), age=24 * HOUR, now=NOON)
    text = describe_success(resolution_of(token=token, expired=True, warnings=("x",)), make_settings())

    assert text.startswith(
        "### ❌ KIS access token: from supabase\n\n`░░░░░░░░░░░░░░░░░░░░░░░░` **0 h 0 min left** (0%)"
    )
    assert "next rotation" not in text


def test_a_failure() -> None:
    """Error, code with a link to its entry, remedy, and what each link said."""
    error = IssuanceError("wait-too-long", "Time was up", retryable=True)
    assert describe_failure([error], (Link("supabase", "no token is stored"),)).splitlines() == [
        "### ❌ KIS access token: failed",
        "",
        f"- **Time was up** ([`wait-too-long`]({ENTRIES}#wait-too-long))  ",
        f"  {REMEDIES['wait-too-long']}",
        "",
        "| link | said |",
        "| --- | --- |",
        "| supabase | no token is stored |",
    ]


def test_several_faults() -> None:
    """A line for each; without links there is no table."""
    text = describe_failure([KisTokenError("invalid-mode", "first"), KisTokenError("invalid-boolean", "second")], ())
    items = [part for part in parts(text) if part.type == "list_item_open"]

    assert len(items) == 2
    assert not any(part.type == "table_open" for part in parts(text))


@pytest.mark.parametrize("code", REMEDIES)
def test_every_code_leads_to_its_entry(code: str) -> None:
    """The link's anchor is a heading of the page, and the remedy is shown to the letter."""
    text = describe_failure([KisTokenError(code, "x")], ())
    entries = (CHECKOUT / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
    (link,) = (part for part in parts(text) if part.type == "link_open")

    assert link.attrs["href"] == f"{ENTRIES}#{code}"
    assert f"\n## `{code}`\n" in entries
    assert REMEDIES[code] in shown(text)


def test_entries_are_those_of_the_action_that_is_used() -> None:
    """The page is looked for where README.md has people take the action from."""
    readme = (CHECKOUT / "README.md").read_text(encoding="utf-8")
    (used,) = set(re.findall(r"uses: (org/[\w-]+)@v1$", readme, re.MULTILINE))
    assert f"https://github.com/{used}/blob/v1/docs/troubleshooting.md" == ENTRIES


NASTY = st.text(st.sampled_from("ab1@#:/.w<>|`*_~[]()!\\&; \n\t-한😀") | st.characters(), max_size=60)


@given(NASTY)
def test_what_comes_from_outside_is_text(text: str) -> None:
    """Whatever a label holds, it is a cell's text: no link, picture, tag or row more, and no name to notify."""
    markdown = describe_failure([KisTokenError("wait-too-long", text)], (Link("supabase", text),))
    found = parts(markdown)
    kinds = {part.type for part in found}

    assert kinds.isdisjoint({"html_inline", "html_block", "image", "em_open", "s_open", "fence", "code_block"})
    assert [part.type for part in found].count("link_open") == 1
    assert [part.type for part in found].count("tr_open") == 2
    assert [part.type for part in found].count("td_open") == 2
    assert not re.search(r"@\w|#\d|://|www\.", plain(text))


@given(st.text(st.characters(categories=["L", "N", "P", "S"]), min_size=1, max_size=60))
def test_what_comes_from_outside_is_read_as_it_is(text: str) -> None:
    """People see the very letters, whatever they would mean in Markdown."""
    read = shown(describe_failure([KisTokenError("wait-too-long", "x")], (Link("a", f"so: {text}."),)))
    assert f"so: {text}." in read
