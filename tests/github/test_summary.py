"""The contents of the job summary. Texts from outside cannot change the summary's structure."""

from __future__ import annotations

import ast
import re
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kis_token.core.resolution import Resolution, TraceEntry
from kis_token.errors import ENTRIES, IssuanceError, IssuerRefused, KisTokenError, SettingsError, StoreOutage
from kis_token.github.failures import describe_failure
from kis_token.github.summary import LONGEST_TEXT, describe_success, plain
from kis_token.remedies import REMEDIES
from kis_token.token import build_token
from tests.github_page import GITHUB
from tests.support import APP_KEY, SERVICE_KEY, make_settings
from tools.step import CHECKOUT

if TYPE_CHECKING:
    from markdown_it.token import Token as Element

    from kis_token.core.resolution import Source

NOON = datetime(2026, 3, 2, 12, 0, tzinfo=timezone.utc)
HOUR = timedelta(hours=1)
OPAQUE = "opaque.token-of-a-test_0123456789"
NOTHING = "\u200b"

#: GitHub drops larger summaries.
LIMIT = 1024 * 1024


def resolution_of(
    *said: tuple[str, str],
    left: timedelta = 3 * HOUR,
    source: Source = "supabase",
    version: int | None = 7,
    refreshed: bool = False,
    expired: bool = False,
    warnings: tuple[str, ...] = (),
) -> Resolution:
    """Return a resolution at noon, with a token of 24 hours. ``version`` is the version of the token's row, or None."""
    end = NOON + left
    token = build_token(OPAQUE, expiries=[end], issued_at=end - 24 * HOUR, version=version)
    trace = tuple(TraceEntry(*each) for each in said)
    return Resolution(token, source, APP_KEY, trace, NOON, refreshed=refreshed, expired=expired, warnings=warnings)


FRESH = """\
<details><summary>✅ <b>3 h 0 min left</b> · from Supabase · no message sent · kis ━┄┄┄┄┄┄┄┄┄</summary>

| token | kis, production, mode resolve |
| --- | --- |
| validity | 24 h 0 min, 12 % left |
| issued | 2026-03-02 00:00:00 KST (2026-03-01 15:00:00 UTC) |
| ends | 2026-03-03 00:00:00 KST (2026-03-02 15:00:00 UTC) |
| next rotation | due since 2026-03-02 20:00:00 KST (2026-03-02 11:00:00 UTC) |

| source | result |
| --- | --- |
| **supabase** (used) | its token is fresh, 3 h 0 min left |
| cache | turned off |

</details>
"""


def test_a_fresh_token() -> None:
    """The line has the time left, the source and KIS's message. The times and each source's result are below it."""
    resolution = resolution_of(("supabase", "its token is fresh, 3 h 0 min left"), ("cache", "turned off"))
    assert describe_success(resolution, make_settings()) == FRESH


OUTAGE = """\
<details><summary>⚠️ <b>12 h 30 min left</b> · from the cache · no message sent · kis-paper ━━━━━┄┄┄┄┄</summary>

| token | kis-paper, paper, mode resolve |
| --- | --- |
| validity | 24 h 0 min, 52 % left |
| issued | 2026-03-02 09:30:00 KST (2026-03-02 00:30:00 UTC) |
| ends | 2026-03-03 09:30:00 KST (2026-03-03 00:30:00 UTC) |
| next rotation | not known: the token was not seen in Supabase |

| source | result |
| --- | --- |
| supabase | No answer \\[store-unreachable\\] |
| **cache** (used) | its token is fresh, 12 h 30 min left |

</details>

> **Warning:** No answer \\[store-unreachable\\]; the cached token is used.
"""


def test_a_cached_token_during_an_outage() -> None:
    """The warning is below the line and is not folded. During an outage, the next rotation is not known."""
    outage = StoreOutage("store-unreachable", "No answer")
    resolution = resolution_of(
        ("supabase", outage.brief),
        ("cache", "its token is fresh, 12 h 30 min left"),
        left=12.5 * HOUR,
        source="cache",
        version=None,
        warnings=(f"{outage.brief}; the cached token is used.",),
    )
    assert describe_success(resolution, make_settings(KIS_ENVIRONMENT="paper")) == OUTAGE


ISSUED = """\
<details><summary>✅ <b>24 h 0 min left</b> · issued now by KIS · KIS sends one message · kis ━━━━━━━━━━</summary>

| token | kis, production, mode force |
| --- | --- |
| validity | 24 h 0 min, 100 % left |
| issued | 2026-03-02 21:00:00 KST (2026-03-02 12:00:00 UTC) |
| ends | 2026-03-03 21:00:00 KST (2026-03-03 12:00:00 UTC) |
| next rotation | due from 2026-03-03 20:00:00 KST (2026-03-03 11:00:00 UTC) |

| source | result |
| --- | --- |
| supabase | no token is stored |
| cache | there is no cache file |
| **oauth** (used) | issued a token |

</details>
"""


def test_a_token_issued_now() -> None:
    """If a token was issued now, the summary shows its whole validity and the time of the next rotation."""
    resolution = resolution_of(
        ("supabase", "no token is stored"),
        ("cache", "there is no cache file"),
        ("oauth", "issued a token"),
        left=24 * HOUR,
        source="oauth",
        refreshed=True,
    )
    assert describe_success(resolution, make_settings(INPUT_MODE="force")) == ISSUED


EXPIRED = """\
<details><summary>⚠️ <b>ended 0 h 20 min ago (expired)</b> · from Supabase · no message sent · kis ┄┄┄┄┄┄┄┄┄┄</summary>

| token | kis, production, mode resolve |
| --- | --- |
| validity | 24 h 0 min, 0 % left |
| issued | 2026-03-01 20:40:00 KST (2026-03-01 11:40:00 UTC) |
| ended | 2026-03-02 20:40:00 KST (2026-03-02 11:40:00 UTC) |
| next rotation | at the next run of the rotation: the token has expired |

| source | result |
| --- | --- |
| **supabase** (used) | its token has expired |
| cache | turned off |

</details>

> **Warning:** An expired token is handed out: Time was up \\[wait-too-long\\]
"""


def test_a_token_handed_out_past_its_end() -> None:
    """With allow-expired, the summary's line begins with the token's end, and a warning has the reason."""
    resolution = resolution_of(
        ("supabase", "its token has expired"),
        ("cache", "turned off"),
        left=timedelta(minutes=-20),
        expired=True,
        warnings=("An expired token is handed out: Time was up [wait-too-long]",),
    )
    assert describe_success(resolution, make_settings(INPUT_ALLOW_EXPIRED="true")) == EXPIRED


NOT_DUE = """\
<details><summary>✅ <b>20 h 0 min left</b> · from Supabase · no message sent · kis ━━━━━━━━┄┄</summary>

| token | kis, production, mode rotate |
| --- | --- |
| validity | 24 h 0 min, 83 % left |
| issued | 2026-03-02 17:00:00 KST (2026-03-02 08:00:00 UTC) |
| ends | 2026-03-03 17:00:00 KST (2026-03-03 08:00:00 UTC) |
| next rotation | due from 2026-03-02 23:00:00 KST (2026-03-02 14:00:00 UTC) |

| source | result |
| --- | --- |
| **supabase** (used) | its token is fresh, 20 h 0 min left |
| cache | turned off |
| rotation | not due before 2026-03-02 23:00:00 KST (2026-03-02 14:00:00 UTC) |

</details>
"""


def test_a_rotation_that_has_nothing_to_do() -> None:
    """The rotation's result and the row "next rotation" have the same time."""
    resolution = resolution_of(
        ("supabase", "its token is fresh, 20 h 0 min left"),
        ("cache", "turned off"),
        ("rotation", "not due before 2026-03-02 23:00:00 KST (2026-03-02 14:00:00 UTC)"),
        left=20 * HOUR,
    )
    assert describe_success(resolution, make_settings(INPUT_MODE="rotate")) == NOT_DUE


NOTHING_VALID = """\
❌ [`no-valid-token`](https://github.com/org/kis-token-action/blob/v1/docs/troubleshooting.md#no-valid-token) \
Neither Supabase nor the cache has a valid token\\
**Next step:** mode: check never issues. Run the step once with mode: resolve. \
[한국어](https://github.com/org/kis-token-action/blob/v1/docs/ko/troubleshooting.md#no-valid-token)

<details><summary>Result of each source</summary>

| source | result |
| --- | --- |
| supabase | no token is stored |
| cache | its token has expired |

</details>
"""


def test_a_check_that_finds_nothing() -> None:
    """A fault's line has its code, with a hyperlink to the code's entry.

    The remedy is below the fault's line, and the sources are folded.
    """
    error = IssuanceError("no-valid-token", "Neither Supabase nor the cache has a valid token", retryable=False)
    trace = [TraceEntry("supabase", "no token is stored"), TraceEntry("cache", "its token has expired")]
    assert describe_failure([error], trace) == NOTHING_VALID


SEVERAL = """\
❌ [`missing-supabase-url`]\
(https://github.com/org/kis-token-action/blob/v1/docs/troubleshooting.md#missing-supabase-url) \
supabase-url (or SUPABASE_URL) is not set\\
**Next step:** Set supabase-url or SUPABASE_URL to the project's URL, https:\u200b//&lt;project&gt;.supabase.co. \
[한국어](https://github.com/org/kis-token-action/blob/v1/docs/ko/troubleshooting.md#missing-supabase-url)

❌ [`invalid-boolean`](https://github.com/org/kis-token-action/blob/v1/docs/troubleshooting.md#invalid-boolean) \
verify is neither true nor false\\
**Next step:** Use true or false. \
[한국어](https://github.com/org/kis-token-action/blob/v1/docs/ko/troubleshooting.md#invalid-boolean)
"""


def test_several_faults() -> None:
    """Each fault has its own line. Without a request, no sources are listed. Angle brackets in a remedy are visible."""
    error = SettingsError(
        [
            ("missing-supabase-url", "supabase-url (or SUPABASE_URL) is not set"),
            ("invalid-boolean", "verify is neither true nor false"),
        ]
    )
    assert describe_failure(error.faults, ()) == SEVERAL


def test_github_keeps_every_tag() -> None:
    """A summary has only three HTML elements, without attributes, because GitHub does not remove these elements."""
    page = describe_success(resolution_of(("supabase", "x")), make_settings())
    assert set(re.findall(r"<[^>]*>", page)) == {
        f"<{end}{name}>" for name in ("details", "summary", "b") for end in ("", "/")
    }


PASSES = "This may be temporary: a later run may succeed.\n"


def test_temporary_failure_is_marked() -> None:
    """The summary marks an outage as temporary, and does not mark a refused key."""
    assert PASSES in describe_failure([StoreOutage("store-unreachable", "No answer")], ())
    assert PASSES not in describe_failure([IssuerRefused("EGW00103")], ())
    assert PASSES not in describe_failure([StoreOutage("store-unreachable", "x"), IssuerRefused("EGW00103")], ())


VALIDITIES = [
    (timedelta(seconds=20), "⚠️ <b>0 h 0 min left (expired)</b>", "━┄┄┄┄┄┄┄┄┄", 0),
    (timedelta(seconds=40), "⚠️ <b>0 h 0 min left (stale)</b>", "━┄┄┄┄┄┄┄┄┄", 0),
    (timedelta(minutes=9), "⚠️ <b>0 h 9 min left (stale)</b>", "━┄┄┄┄┄┄┄┄┄", 0),
    (timedelta(minutes=11), "✅ <b>0 h 11 min left</b>", "━┄┄┄┄┄┄┄┄┄", 0),
    (6 * HOUR, "✅ <b>6 h 0 min left</b>", "━━┄┄┄┄┄┄┄┄", 25),
    (25 * HOUR, "✅ <b>25 h 0 min left</b>", "━━━━━━━━━━", 100),
    (timedelta(0), "⚠️ <b>ended 0 h 0 min ago (expired)</b>", "┄┄┄┄┄┄┄┄┄┄", 0),
]


@pytest.mark.parametrize(("left", "begin", "bar", "percent"), VALIDITIES, ids=str)
def test_validity_is_a_figure_and_a_bar(left: timedelta, begin: str, bar: str, percent: int) -> None:
    """While a token has not ended, its bar is not empty. A wrong clock cannot lengthen the bar."""
    summary = describe_success(resolution_of(("supabase", "x"), left=left), make_settings())
    assert summary.splitlines()[0] == (
        f"<details><summary>{begin} · from Supabase · no message sent · kis {bar}</summary>"
    )
    assert f"| validity | 24 h 0 min, {percent} % left |\n" in summary


def test_only_an_issue_for_a_real_account_sends_a_message() -> None:
    """Only for a token that was issued now for a real account, the summary shows that KIS sends one message."""
    real, paper = make_settings(), make_settings(KIS_ENVIRONMENT="paper")
    issued = resolution_of(("oauth", "issued a token"), source="oauth", refreshed=True)
    again = resolution_of(("oauth", "gave an earlier token again"), source="oauth")

    assert " · issued now by KIS · KIS sends one message · kis " in describe_success(issued, real)
    assert " · issued now by KIS · no message sent · kis-paper " in describe_success(issued, paper)
    assert " · from KIS · no message sent · kis " in describe_success(again, real)


@pytest.mark.parametrize("name", ["GH-12", "www.x.yz", "a_b_c", "x.y--"])
def test_name_of_a_slot_is_seen_as_it_is(name: str) -> None:
    """GitHub finds no issue and no address in the name of a slot, in the line and in the table."""
    page = describe_success(resolution_of(("supabase", "x")), make_settings(KIS_SERVICE_NAME=name))
    assert page.replace(NOTHING, "").count(f"· {name} ━") == 1
    assert f"{name}, production, mode resolve" in texts_of(page)
    assert LINKED.search(page) is None


def test_last_answer_of_a_source_counts() -> None:
    """If Supabase was read twice, the summary uses the result of the last read."""
    found = resolution_of(("supabase", "its token has expired"), ("cache", "turned off"), ("supabase", "another has"))
    summary = describe_success(found, make_settings())
    assert "| supabase | its token has expired |\n" in summary
    assert "| **supabase** (used) | another has |\n" in summary


def test_summary_has_no_secret() -> None:
    """The summary has neither the token nor a key."""
    summary = describe_success(resolution_of(("supabase", "x")), make_settings())
    for secret in (OPAQUE, APP_KEY.key, APP_KEY.secret, SERVICE_KEY):
        assert secret not in summary, "a secret is shown"


def test_entries_are_those_of_the_action_that_is_used() -> None:
    """The hyperlinks to error entries lead to the repository and the release that README.md uses."""
    readme = (CHECKOUT / "README.md").read_text(encoding="utf-8")
    used = set(re.findall(r"uses: ([\w-]+/kis-token-action)@(\S+)", readme))
    assert ENTRIES in {f"https://github.com/{name}/blob/{tag}/docs/troubleshooting.md" for name, tag in used}


#: Pieces that become markup, hyperlinks, mentions or rows, alone or together.
PIECES = (
    *"|`*_~[]()<>!&#@:$\\-+=.1ab \n\r\t",
    *("\u200b", "\u202e", "\u2028", "\ud800", "\x00", "한글", "~~", "```", "**", "<!--", "-->", "www", "gh-", "\n\n"),
    *("![x](https://x.yz/x.png)", "[x](https://x.yz)", "<https://x.yz>", "<img src=x>", "<b>", "</td>", "<x@y.zz>"),
    *("https://x.yz", "www.x.yz", "mailto:x@y.zz", "@octocat", "@org/team", "#12", "GH-12", "org/x#12", ":octocat:"),
    *("&lt;b&gt;", "&#64;octocat", "&#124;", "\\|", "| --- |", "\n# x", "\n> x", "\n- x", "\n[x]: https://x.yz"),
    *("**x**", "*x*", "__x__", "_x_", "~~x~~", "~x~", "`x`", "<br>", "xmpp:x@y.zz"),
)
HOSTILE = st.lists(st.sampled_from(PIECES) | st.characters(), max_size=12).map("".join)

#: Texts without markup that GitHub turns into a hyperlink, a mention or a picture.
LINKED = re.compile(r"@\w|#\d|(?<![^\W_])www\.|://|:[a-z+_-][\w+-]*:|(?<![^\W_])gh-\d|mailto:\w|xmpp:\w", re.IGNORECASE)


def elements(markdown: str) -> list[Element]:
    """Return a list of all elements into which GitHub parses a text."""
    return [inner for block in GITHUB.parse(markdown) for inner in (block, *(block.children or ()))]


def structure_of(markdown: str) -> list[str]:
    """Return the types of all elements of a text."""
    return [element.type for element in elements(markdown)]


def texts_of(markdown: str) -> list[str]:
    """Return the visible texts, without blanks around them and without spaces that have no width."""
    return [element.content.replace(NOTHING, "").strip() for element in elements(markdown) if element.type == "text"]


def seen(text: str) -> str:
    """Return the visible form of a text: one line, without invisible characters."""
    return " ".join("".join(letter if letter.isprintable() else " " for letter in text).split())


def pages_with(text: str) -> tuple[str, str]:
    """Return the summaries of a success and of a failure, with ``text`` in every place that shows foreign text."""
    trace = (TraceEntry("supabase", f"x {text}"), TraceEntry("cache", f"{text} x"))
    found = resolution_of(*((entry.source, entry.text) for entry in trace), warnings=(f"x {text}", f"{text} x"))
    faults = [KisTokenError("wait-too-long", f"x {text}"), KisTokenError("kis-unreachable", f"{text} x")]
    return describe_success(found, make_settings()), describe_failure(faults, trace)


def check(text: str) -> None:
    """Check that ``text`` adds no element to a summary, is shown literally, and mentions no person."""
    for page, harmless in zip(pages_with(text), pages_with(""), strict=True):
        assert structure_of(page) == structure_of(harmless)
        assert texts_of(page).count(seen(f"x {text}")) >= 2
        assert texts_of(page).count(seen(f"{text} x")) >= 2
        for element in elements(page):
            if element.type == "text":
                assert LINKED.search(element.content) is None, element.content


@pytest.mark.parametrize("piece", [ascii(piece) for piece in PIECES])
def test_piece_of_markup_is_seen_as_it_is(piece: str) -> None:
    """A single piece of markup is shown literally: no row, hyperlink, picture or tag appears."""
    check(ast.literal_eval(piece))


@given(HOSTILE)
def test_text_of_others_is_seen_as_it_is(text: str) -> None:
    """Any foreign text is shown literally. GitHub finds no person, issue or address in the text."""
    check(text)


def test_money_is_no_formula() -> None:
    """A text between two dollar signs, which mark GitHub's formulas, is shown literally."""
    assert plain("$x$") == "\\$x\\$"


@given(HOSTILE)
def test_text_can_be_written(text: str) -> None:
    """An unpaired surrogate and line breaks are removed, so that the text can be written as one line."""
    line = plain(text)
    assert len(line.splitlines()) <= 1
    assert line.encode().decode() == line


def test_pieces_would_be_markup() -> None:
    """The parser and the pattern of these tests detect unescaped markup."""
    kinds = structure_of("x ![x](y) <b> [x](y) ~~x~~ `x` **x**\n\n| a |\n| --- |\n| b |")
    assert {"image", "html_inline", "link_open", "s_open", "code_inline", "strong_open", "table_open"} <= set(kinds)
    called = ("@octocat", "#12", "www.x.yz", "https://x.yz", ":octocat:", "GH-12", "mailto:x@y.zz")
    assert all(LINKED.search(each) for each in called)


@pytest.mark.parametrize("code", REMEDIES)
def test_every_code_leads_to_its_entry(code: str) -> None:
    """Each code's hyperlinks lead to a heading of the page in both languages.

    Angle brackets in a remedy are visible.
    """
    page = describe_failure([KisTokenError(code, "x")], ())
    entries = (CHECKOUT / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
    links = [element.attrs["href"] for element in elements(page) if element.type == "link_open"]
    assert links == [f"{ENTRIES}#{code}", f"{ENTRIES.replace('docs/', 'docs/ko/')}#{code}"]
    assert f"\n## `{code}`\n" in entries
    assert f"\n## `{code}`\n" in (CHECKOUT / "docs" / "ko" / "troubleshooting.md").read_text(encoding="utf-8")
    assert seen(REMEDIES[code]) in texts_of(page)


def test_words_are_left_whole() -> None:
    """No escape is inside a word, so GitHub's masks still find a secret."""
    for word in (SERVICE_KEY, APP_KEY.key, APP_KEY.secret, "a-b.c_d+e/f==", "wgh-1", "awww.b"):
        is_unchanged = word in plain(f"x {word} *")
        assert is_unchanged, "a secret would not be masked"


def test_long_text_is_cut_off() -> None:
    """A text in the summary is cut after LONGEST_TEXT characters."""
    assert plain("x" * LONGEST_TEXT) == "x" * LONGEST_TEXT
    assert plain("x" * (LONGEST_TEXT + 1)) == "x" * LONGEST_TEXT + "…"


@pytest.mark.parametrize("letter", ["&", "@", "🀀"])
def test_summary_stays_below_the_limit(letter: str) -> None:
    """A summary of many long texts stays below GitHub's limit, even if every character needs the longest escape."""
    text = letter * 10 * LONGEST_TEXT
    trace = tuple(TraceEntry("supabase", text) for _ in range(10))
    found = resolution_of(*((entry.source, text) for entry in trace), warnings=(text,) * 10)
    faults = [KisTokenError("internal-error", text)] * 30
    for page in (describe_success(found, make_settings()), describe_failure(faults, trace)):
        assert len(page.encode()) < LIMIT / 4
