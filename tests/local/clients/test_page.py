"""docs/clients.md describes the use of each client."""

from __future__ import annotations

import re

import yaml

from kis_token.config import TOKEN_FILE_CLIENTS
from tools.step import CHECKOUT

PAGE = (CHECKOUT / "docs" / "clients.md").read_text(encoding="utf-8")
INPUTS = yaml.safe_load((CHECKOUT / "action.yml").read_text(encoding="utf-8"))["inputs"]


def test_each_client_has_its_section_and_its_workflow() -> None:
    """Each client has a row, a section, the command, and steps that use the action with its name."""
    for client in TOKEN_FILE_CLIENTS:
        section = PAGE.split(f"\n## {client}\n")[1].split("\n## ")[0]
        (workflow,) = re.findall(r"```yaml\n(.*?)```", section, re.DOTALL)
        step = next(each for each in yaml.safe_load(workflow)["steps"] if "uses" in each)
        assert step["with"]["token-files"] == client
        assert set(step["with"]) <= set(INPUTS)
        assert f"kis-token export {client}`" in section
        assert f"\n| `{client}` |" in PAGE
        assert client in INPUTS["token-files"]["description"]


def test_tested_releases_are_those_of_the_page() -> None:
    """The page names the releases of the packages with which the tests run."""
    lock = (CHECKOUT / "requirements-dev.txt").read_text(encoding="utf-8")
    for client in ("python-kis", "kis-trader"):
        (release,) = re.findall(rf"^{client}==(\S+)", lock, re.MULTILINE)
        assert f"| {release} |" in PAGE
