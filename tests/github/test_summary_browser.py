"""The summaries in a real browser: ten jobs on one page, and a failure, in both themes and on two widths."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest

from kis_token.core.resolution import TraceEntry
from kis_token.errors import IssuanceError, SettingsError
from kis_token.github.failures import describe_failure
from kis_token.github.summary import describe_success
from tests.browser import Frame, find_browser, measure
from tests.github.test_summary import HOUR, resolution_of
from tests.github_page import page_of
from tests.support import make_settings

if TYPE_CHECKING:
    from collections.abc import Iterator

SCREEN, TELEPHONE = 1012, 390
#: The frames of a page: each width in each theme.
VIEWS = [(width, dark) for width in (SCREEN, TELEPHONE) for dark in (False, True)]
#: The minimum contrast of normal text in WCAG.
READABLE = 4.5
#: The height of one line of text in pixels.
LINE = 24.0

#: The visible properties of a page. The script runs in each frame.
SCRIPT = """(document) => ({
  overflows: overflows(document),
  height: document.documentElement.scrollHeight,
  jobs: [...document.querySelectorAll("summary")].map((line) => {
    const bar = /[━┄█]+/.exec(line.textContent)?.[0] ?? "";
    return {
      text: line.textContent,
      height: line.getBoundingClientRect().height,
      isOpen: line.parentElement.open,
      shows: [...line.parentElement.querySelectorAll("td")].filter((cell) => cell.checkVisibility()).length,
      bar: boxes(line, bar).map((box) => box.width),
      ink: bar && ink(line, bar),
    };
  }),
  contrasts: [...document.querySelectorAll("summary, summary b, p, td, th, a, code")].map(contrast),
  visible: document.body.innerText,
})"""

WARNING = "Supabase does not answer [store-unreachable]; the cached token is used."
LONG = "update public.credential_callers set access = 'token' where repository = 'someone/bot' " * 3


def ten_jobs() -> Iterator[str]:
    """Yield the summaries of ten jobs of one run: one issued, eight took the stored token, one the cached token."""
    settings = make_settings()
    results = ("supabase", "its token is fresh, 23 h 55 min left"), ("cache", "turned off")
    yield describe_success(
        resolution_of(*results, ("oauth", "issued"), source="oauth", left=24 * HOUR, refreshed=True), settings
    )
    for minutes in range(8):
        left = 24 * HOUR - timedelta(minutes=minutes * minutes * 20)
        yield describe_success(resolution_of(*results, left=left), settings)
    cached = resolution_of(("supabase", WARNING), ("cache", LONG), source="cache", version=None, warnings=(WARNING,))
    yield describe_success(cached, settings)


def failure() -> str:
    """Return the summary of a failed step with a long message."""
    settings = SettingsError([("missing-supabase-url", "supabase-url (or SUPABASE_URL) is not set")])
    other = IssuanceError("no-valid-token", f"Neither Supabase nor the cache has a valid token {LONG}", retryable=False)
    return describe_failure([*settings.faults, other], [TraceEntry("supabase", LONG)], (WARNING,))


@pytest.fixture(scope="module")
def seen(child_processes: None, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:  # noqa: ARG001 - declares it
    """The measured properties of each page in each view, by page name, width and theme."""
    if find_browser() is None:
        pytest.skip("this machine has no Chrome and no Chromium")
    pages = {"jobs": "\n".join(ten_jobs()), "failure": failure()}
    html = {name: page_of(markdown) for name, markdown in pages.items()}
    html["blocks"] = page_of(f"<details><summary>{'█' * 10}</summary></details>")
    html["opened"] = html["jobs"].replace("<details>", "<details open>")
    frames = {
        f"{name} {width} {dark}": Frame(page, width, dark) for width, dark in VIEWS for name, page in html.items()
    }
    return measure(frames, SCRIPT, tmp_path_factory.mktemp("summary"))


@pytest.mark.parametrize("dark", [False, True])
def test_ten_jobs_are_ten_lines(seen: dict[str, Any], dark: bool) -> None:  # noqa: FBT001 - a case
    """On a screen, the summary of each job is one line, and the tables of a job are folded.

    The page of ten jobs fits into half of a window.
    """
    page = seen[f"jobs {SCREEN} {dark}"]
    assert len(page["jobs"]) == 10
    for job in page["jobs"]:
        assert (job["height"], job["isOpen"], job["shows"]) == (LINE, False, 0), job["text"]
    assert page["height"] <= 540


@pytest.mark.parametrize(("width", "dark"), VIEWS)
@pytest.mark.parametrize("name", ["jobs", "opened", "failure"])
def test_page_is_readable(seen: dict[str, Any], name: str, width: int, dark: bool) -> None:  # noqa: FBT001 - a case
    """Even with long texts, no page is wider than its window. Each text has enough contrast to its background."""
    page = seen[f"{name} {width} {dark}"]
    assert not page["overflows"]
    assert min(page["contrasts"]) >= READABLE


@pytest.mark.parametrize(("width", "dark"), VIEWS)
def test_bars_can_be_compared(seen: dict[str, Any], width: int, dark: bool) -> None:  # noqa: FBT001 - a case
    """Each bar is on one line. The bars of ten jobs have the same width, whatever validity the tokens have left."""
    bars = [job["bar"] for job in seen[f"jobs {width} {dark}"]["jobs"]]
    widths = [bar[0] for bar in bars]
    assert [len(bar) for bar in bars] == [1] * 10
    assert max(widths) - min(widths) <= 0.1 * max(widths)  # the bar's two characters may come from different fonts
    assert 60 <= max(widths) <= 200


def test_bar_does_not_look_like_redacted_text(seen: dict[str, Any]) -> None:
    """A full bar covers at most 25 % of its area. Block characters cover more than 60 %, like redacted text."""
    full, blocks = (seen[name]["jobs"][0]["ink"] for name in (f"jobs {SCREEN} False", f"blocks {SCREEN} False"))
    assert 0.02 <= full <= 0.25
    assert blocks > 0.6


@pytest.mark.parametrize("width", [SCREEN, TELEPHONE])
def test_line_opens_to_the_tables(seen: dict[str, Any], width: int) -> None:
    """An opened job shows the times and each source's result."""
    for job in seen[f"opened {width} False"]["jobs"]:
        assert (job["isOpen"], job["shows"] >= 12) == (True, True)


@pytest.mark.parametrize("width", [SCREEN, TELEPHONE])
def test_nothing_to_act_upon_is_folded(seen: dict[str, Any], width: int) -> None:
    """Warnings, errors and remedies are visible without a click. Each source's result is folded."""
    assert WARNING in seen[f"jobs {width} False"]["visible"]
    page = seen[f"failure {width} False"]
    for text in (WARNING, "missing-supabase-url", "supabase-url (or SUPABASE_URL) is not set", "no-valid-token"):
        assert text in page["visible"]
    assert page["visible"].count("Next step:") == 2
    assert [(job["text"], job["shows"]) for job in page["jobs"]] == [("Result of each source", 0)]
