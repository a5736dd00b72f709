"""docs/init.md names all options, the installers and the editor's warning, and describes the SQL correctly."""

from __future__ import annotations

import re

from kis_token.cli.init_command import init
from kis_token.setup.sql_paste import WARNING
from tools.step import CHECKOUT

PAGE = " ".join((CHECKOUT / "docs" / "init.md").read_text(encoding="utf-8").split())


def test_page_has_every_option() -> None:
    """Each option of the command is on the page."""
    options = [name for parameter in init.params for name in parameter.opts]

    assert [name for name in options if f"`{name}" not in PAGE] == []


def test_page_installs_without_the_system_python() -> None:
    """The page names uv first, then pipx, and uvx for a trial.

    The page does not name pip, because many systems forbid pip (PEP 668).
    """
    order = [PAGE.index(each) for each in ("uv tool install kis-token", "pipx install kis-token", "uvx kis-token init")]

    assert order == sorted(order)
    assert "pip install kis-token" not in PAGE


def test_page_and_command_have_the_same_warning() -> None:
    """The page quotes the editor's warning in the same words as the command."""
    assert WARNING in PAGE


def test_sql_drops_no_table_and_deletes_no_row() -> None:
    """Outside of functions, the files of sql/ drop only functions and policies, as the page promises."""
    for file in sorted((CHECKOUT / "sql").glob("*.sql")):
        text = re.sub(r"(\$\w*\$).*?\1", "", file.read_text(encoding="utf-8"), flags=re.DOTALL)
        commands = re.findall(r"^\s*(drop|truncate|delete)\b (?:if exists )?(\w+)", text, re.MULTILINE)

        assert {(verb, kind) for verb, kind in commands} <= {("drop", "function"), ("drop", "policy")}, file.name


def test_quotation_is_that_of_the_readme() -> None:
    """The README shows the workflow that init writes, except for the first line."""
    readme = (CHECKOUT / "README.md").read_text(encoding="utf-8")
    shown = readme.split("# .github/workflows/quote.yml\n", 1)[1].split("```", 1)[0]
    written = (CHECKOUT / "docs" / "examples" / "init" / "quote.yml").read_text(encoding="utf-8")

    assert written.split("\n", 1)[1] == shown
