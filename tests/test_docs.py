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


def test_every_error_code_has_an_entry() -> None:
    """Each code has an entry with its remedy in the troubleshooting page, and no other entry exists."""
    page = (CHECKOUT / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
    entries = dict(re.findall(r"^## `([a-z-]+)`\n\n(.+?)(?=\n## |\Z)", page, re.MULTILINE | re.DOTALL))

    assert list(entries) == list(REMEDIES)
    for code, remedy in REMEDIES.items():
        assert remedy in entries[code], code


def test_every_raised_code_is_known() -> None:
    """Every code that is raised anywhere has a remedy, and every remedy belongs to a code that is raised."""
    files = (path for path in CHECKOUT.glob("kis_token/**/*.py") if path.parent.name != "sandbox")
    source = "\n".join(path.read_text(encoding="utf-8") for path in files)
    source += (CHECKOUT / "entrypoint.py").read_text(encoding="utf-8")
    source += (CHECKOUT / "action.yml").read_text(encoding="utf-8")
    elsewhere = re.sub(r"REMEDIES: dict.*?\n}\n", "", source, flags=re.DOTALL)
    by_name = {f"invalid-{name}" for name in ("environment", "mode", "on-store-outage")}  # built from the input's name

    unused = [code for code in REMEDIES if code not in by_name and not re.search(rf"\b{code}\b", elsewhere)]

    assert unused == []
