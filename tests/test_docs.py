"""The documents agree with the code."""

from __future__ import annotations

import re

import pytest
import yaml

from kis_token.remedies import REMEDIES
from tools.step import CHECKOUT

ACTION = yaml.safe_load((CHECKOUT / "action.yml").read_text(encoding="utf-8"))
README = (CHECKOUT / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("kind", ["inputs", "outputs"])
def test_readme_has_every_input_and_output(kind: str) -> None:
    """The README's tables name exactly the inputs and outputs of action.yml, in their order."""
    section = README.split(f"## {kind.capitalize()}\n")[1].split("\n## ")[0]

    assert re.findall(r"^\| `([a-z-]+)`", section, re.MULTILINE) == list(ACTION[kind])


def test_every_input_reaches_the_program() -> None:
    """Each input is mapped into the environment under its own name, and no input is inside the script."""
    step = ACTION["runs"]["steps"][0]
    given = {name: value for name, value in step["env"].items() if name.startswith("INPUT_")}

    assert given == {
        "INPUT_" + name.upper().replace("-", "_"): f"${{{{ inputs.{name} }}}}" for name in ACTION["inputs"]
    }
    assert "${{" not in step["run"]


#: For each page of errors: the first words of an entry's four parts, and the link to the page in the other language.
ENTRIES = {
    "docs/troubleshooting.md": (
        ("Seen as:", "Why:", "How to tell:", "Remedy:"),
        "[한국어](ko/troubleshooting.md#{})",
    ),
    "docs/ko/troubleshooting.md": (
        ("나타나는 문구:", "원인:", "확인 방법:", "해결 방법:"),
        "[English](../troubleshooting.md#{})",
    ),
}


def entries_of(page: str) -> dict[str, str]:
    """Return the entries of a page of errors, by their codes."""
    text = (CHECKOUT / page).read_text(encoding="utf-8")
    return dict(re.findall(r"^## `([a-z-]+)`\n\n(.+?)\n(?=\n## |\Z)", text, re.MULTILINE | re.DOTALL))


@pytest.mark.parametrize("page", ENTRIES)
def test_index_of_the_entries(page: str) -> None:
    """The index of a page of errors has one link to each entry."""
    text = (CHECKOUT / page).read_text(encoding="utf-8")
    index = text.split("\n## ")[1]

    found = re.findall(r"\[`([a-z-]+)`\]\(#([a-z-]+)\)", index)
    assert sorted(found) == sorted((code, code) for code in REMEDIES)


@pytest.mark.parametrize("page", ENTRIES)
def test_every_error_code_has_an_entry(page: str) -> None:
    """Each code has an entry: a summary, the four parts in their order, and a link to the other language."""
    leads, link = ENTRIES[page]
    parts = [rf"\*\*{re.escape(lead)}\*\*[ \n]+\S.+?\n\n" for lead in leads]
    form = re.compile(rf"(?:> .+\n)+\n{parts[0]}{parts[1]}{parts[2]}{parts[3]}(?P<link>\[.+)", re.DOTALL)

    entries = entries_of(page)
    assert list(entries) == list(REMEDIES)
    for code, entry in entries.items():
        found = form.fullmatch(entry)
        assert found is not None, code
        assert found["link"] == link.format(code)
        causes = entry.split(f"**{leads[1]}**\n\n")[1].split("\n\n")[0]
        assert causes.startswith("- "), code


def test_summary_of_an_entry_is_the_hint_of_the_error() -> None:
    """The English entry begins with the error's hint, so that a search for the log's text finds the entry."""
    for code, entry in entries_of("docs/troubleshooting.md").items():
        quoted = " ".join(line.removeprefix("> ") for line in entry.split("\n\n")[0].splitlines())
        assert quoted.replace("`", "") == REMEDIES[code], code
        assert entry.split("**Remedy:** ")[1] != REMEDIES[code], code


def test_entries_have_the_same_texts_in_both_languages() -> None:
    """The texts that a user sees in the log are quoted alike, and the same number of causes is named."""
    english, korean = (entries_of(page) for page in ENTRIES)
    for code, entry in english.items():
        quotes, translated = (
            re.findall(r"“([^”]+)”", " ".join(text.split("\n\n**")[1].split())) for text in (entry, korean[code])
        )
        assert quotes == translated, code
        assert entry.count("\n- ") == korean[code].count("\n- "), code


def test_every_raised_code_is_known() -> None:
    """Every code that is raised anywhere has a remedy, and every remedy belongs to a code that is raised."""
    files = (path for path in CHECKOUT.glob("kis_token/**/*.py") if path.parent.name != "sandbox")
    source = "\n".join(path.read_text(encoding="utf-8") for path in files)
    source += (CHECKOUT / "entrypoint.py").read_text(encoding="utf-8")
    source += (CHECKOUT / "action.yml").read_text(encoding="utf-8")
    elsewhere = re.sub(r"REMEDIES: dict.*?\n}\n", "", source, flags=re.DOTALL)
    # The code of these errors is built from the input's name.
    by_name = {f"invalid-{name}" for name in ("environment", "mode", "on-store-outage")}

    unused = [code for code in REMEDIES if code not in by_name and not re.search(rf"\b{code}\b", elsewhere)]

    assert unused == []
