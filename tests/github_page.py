"""Markdown as GitHub shows it, with GitHub's dialect and with a stylesheet for its sizes and colours in both themes."""

from __future__ import annotations

import logging

from markdown_it import MarkdownIt

logging.getLogger("markdown_it").setLevel(logging.INFO)  # this library logs every rule that it tries

GITHUB = MarkdownIt("gfm-like")
assert GITHUB.linkify is not None
GITHUB.linkify.set({"fuzzy_link": False})  # GitHub makes no hyperlink of a name with a dot

#: The parts of GitHub's stylesheet that place and colour the elements of this project's pages.
STYLE = """
:root { color-scheme: light dark; --text: #1f2328; --page: #fff; --muted: #59636e; --line: #d1d9e0; --link: #0969da;
        --code: #eff1f3; --stripe: #f6f8fa }
@media (prefers-color-scheme: dark) {
  :root { --text: #f0f6fc; --page: #0d1117; --muted: #9198a1; --line: #3d444d; --link: #4493f8; --code: #262c36;
          --stripe: #151b23 }
}
body { margin: 0; padding: 16px; color: var(--text); background: var(--page); overflow-wrap: break-word;
       font: 16px/1.5 -apple-system, BlinkMacSystemFont, "Segoe UI", "Noto Sans", Helvetica, Arial, sans-serif }
p, blockquote, ul, ol, table, pre, details { margin: 0 0 16px }
h1, h2, h3 { margin: 24px 0 16px; line-height: 1.25 }
a { color: var(--link) }
summary { cursor: pointer }
blockquote { padding: 0 1em; color: var(--muted); border-left: .25em solid var(--line) }
blockquote > :last-child { margin-bottom: 0 }
code { padding: .2em .4em; font: 85% ui-monospace, SFMono-Regular, Menlo, monospace; background: var(--code);
       border-radius: 6px; white-space: break-spaces }
pre { padding: 16px; overflow: auto; font-size: 85%; line-height: 1.45; background: var(--stripe); border-radius: 6px }
pre > code { padding: 0; font-size: 100%; white-space: pre; background: none }
table { display: block; width: max-content; max-width: 100%; overflow: auto; border-collapse: collapse }
th, td { padding: 6px 13px; border: 1px solid var(--line) }
tr { background: var(--page) }
tr:nth-child(2n) { background: var(--stripe) }
img { max-width: 100% }
"""


def page_of(markdown: str) -> str:
    """Return the HTML page that GitHub shows for ``markdown``."""
    return f'<!doctype html><meta charset="utf-8"><style>{STYLE}</style><body>{GITHUB.render(markdown)}</body>'
