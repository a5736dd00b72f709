"""Pages in a headless browser of this machine: a script measures them, and a picture shows them.

Each page is an iframe of one large page, because a headless window is never narrower than 500 pixels. One start of the
browser, which takes 2 to 3 s, measures any number of pages.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

#: Chrome and Chromium: the names of their commands, and their paths on macOS and Windows.
COMMANDS = ("google-chrome", "google-chrome-stable", "chromium", "chromium-browser", "chrome")
PLACES = (
    "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
    r"C:\Program Files\Google\Chrome\Application\chrome.exe",
)

#: The height of the picture in pixels. A longer page is measured as a whole, and its picture is cut off.
PICTURE_HEIGHT = 3000
GAP = 16

#: Functions for the scripts. A length is in CSS pixels.
HELPERS = r"""
const channels = (colour) => colour.match(/[\d.]+/g).map(Number);
const luminance = (colour) => {
  const [red, green, blue] = channels(colour).map((value) => value / 255)
    .map((value) => value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4);
  return 0.2126 * red + 0.7152 * green + 0.0722 * blue;
};
/** The colour behind an element: the background of the nearest element that has an opaque one. */
const behind = (element) => {
  for (let each = element; each; each = each.parentElement) {
    const colour = getComputedStyle(each).backgroundColor;
    if ((channels(colour)[3] ?? 1) === 1) return colour;
  }
  return "rgb(255, 255, 255)";
};
/** WCAG's contrast of an element's text: 1 to 21. Normal text needs 4.5. */
const contrast = (element) => {
  const both = [getComputedStyle(element).color, behind(element)].map(luminance).sort((one, other) => other - one);
  return (both[0] + 0.05) / (both[1] + 0.05);
};
/** The boxes of a text inside an element, one for each line. An empty list if the text is not there, or is hidden. */
const boxes = (element, text) => {
  const document = element.ownerDocument;
  const walker = document.createTreeWalker(element, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const start = walker.currentNode.data.indexOf(text);
    if (start < 0) continue;
    const range = document.createRange();
    range.setStart(walker.currentNode, start);
    range.setEnd(walker.currentNode, start + text.length);
    return [...range.getClientRects()];
  }
  return [];
};
/** The share of a text's box that is drawn: a row of full blocks has nearly 1. */
const ink = (element, text) => {
  const [box] = boxes(element, text);
  const canvas = Object.assign(element.ownerDocument.createElement("canvas"), { width: box.width, height: box.height });
  const brush = canvas.getContext("2d");
  brush.font = getComputedStyle(element).font;
  brush.textBaseline = "middle";
  brush.fillText(text, 0, box.height / 2);
  const { data } = brush.getImageData(0, 0, canvas.width, canvas.height);
  let drawn = 0;
  for (let at = 3; at < data.length; at += 4) drawn += data[at] / 255;
  return (4 * drawn) / data.length;
};
/** Whether a reader would have to scroll the page sideways. */
const overflows = (document) => document.documentElement.scrollWidth > document.documentElement.clientWidth;
"""

#: In an iframe, ``prefers-color-scheme`` follows the iframe's own colour scheme.
_PAGE = """<!doctype html>
<meta charset="utf-8">
<style>
  body {{ margin: 0; display: flex; align-items: flex-start; gap: {gap}px; background: #888 }}
  iframe {{ border: 0; flex: none }}
</style>
{iframes}
<script>
{helpers}
const measure = {script};
addEventListener("load", () => {{
  const found = {{}};
  for (const frame of document.querySelectorAll("iframe")) {{
    frame.style.height = `${{frame.contentDocument.documentElement.scrollHeight}}px`;
    try {{
      found[frame.id] = measure(frame.contentDocument);
    }} catch (error) {{
      found[frame.id] = {{ error: `${{error}}` }};
    }}
  }}
  const result = Object.assign(document.createElement("script"), {{ id: "found", type: "application/json" }});
  result.textContent = JSON.stringify(found).replaceAll("<", "\\\\u003c");
  document.body.append(result);
}});
</script>
"""
_FOUND = re.compile(r'<script id="found" type="application/json">(.*?)</script>', re.DOTALL)


@dataclass(frozen=True, slots=True)
class Frame:
    """A page in a window of ``width`` CSS pixels. With ``dark``, the reader of the page prefers a dark theme."""

    html: str
    width: int = 1012
    dark: bool = False


def find_browser() -> str | None:
    """Return the path of this machine's Chrome or Chromium, or None without one."""
    named = (shutil.which(name) for name in (*COMMANDS, *PLACES))
    return next((path for path in named if path is not None), None)


def measure(frames: Mapping[str, Frame], script: str, folder: Path) -> dict[str, Any]:
    """Return the result of ``script`` for each frame, by the frame's name.

    ``script`` is a JavaScript function of a document, which returns a value for JSON and may use `HELPERS`. ``folder``
    gets ``picture.png``, with all frames side by side, for people. Needs the fixture child_processes and a browser.
    """
    browser = find_browser()
    assert browser is not None
    page = folder / "page.html"
    page.write_text(_page_of(frames, script), encoding="utf-8")
    width = sum(frame.width + GAP for frame in frames.values())
    done = subprocess.run(
        [
            browser,
            "--headless",
            "--no-sandbox",  # safe for the tests' own pages; root cannot use the browser's sandbox
            "--disable-gpu",
            "--hide-scrollbars",
            f"--user-data-dir={folder / 'profile'}",
            f"--window-size={width},{PICTURE_HEIGHT}",
            f"--screenshot={folder / 'picture.png'}",
            "--dump-dom",
            page.as_uri(),
        ],
        capture_output=True,
        encoding="utf-8",
        timeout=120,
        check=False,
    )
    result = _FOUND.search(done.stdout)
    assert result is not None, f"{browser} ended with {done.returncode}: {done.stderr[-2000:]}"
    found: dict[str, Any] = json.loads(result[1])
    faults = {name: value["error"] for name, value in found.items() if isinstance(value, dict) and "error" in value}
    assert not faults, faults
    return found


def _page_of(frames: Mapping[str, Frame], script: str) -> str:
    iframes = "\n".join(
        f'<iframe id="{escape(name)}" srcdoc="{escape(frame.html)}" '
        f'style="width: {frame.width}px; color-scheme: {"dark" if frame.dark else "light"}"></iframe>'
        for name, frame in frames.items()
    )
    return _PAGE.format(gap=GAP, iframes=iframes, helpers=HELPERS, script=script)
