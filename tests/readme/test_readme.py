"""The blocks of README.ko.md work, and their output is the shown output.

test_languages.py checks that README.md has the same blocks.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from kis_token.sandbox import PRICE_PATH
from tests.readme.newcomer import Newcomer, assert_shown
from tests.readme.page import blocks_of, codes_of, read_page, workflows_of
from tools.step import CHECKOUT

PAGE = "README.ko.md"
WORKFLOWS = workflows_of(PAGE)
INIT, DEMO = codes_of(PAGE, "sh")
FIRST, SECOND = codes_of(PAGE, "text")
#: The limits of the page, in lines: its length, and the line before which its first workflow ends.
LONGEST, WORKFLOW_SHOWN = 260, 60


def test_every_block_is_run() -> None:
    """The page has only the blocks that this module's tests run."""
    assert set(WORKFLOWS) == {"quote.yml", "ten-jobs.yml", "rotate-token.yml"}
    assert {block.language for block in blocks_of(read_page(PAGE))} == {"sh", "text", "yaml"}
    assert [block for block in blocks_of(read_page(PAGE), "yaml") if not block.file] == []


@pytest.mark.parametrize("page", ["README.md", "README.ko.md"])
def test_page_is_a_door(page: str) -> None:
    """The page has at most ``LONGEST`` lines, and its first workflow ends before line ``WORKFLOW_SHOWN``."""
    text = read_page(page)

    assert len(text.splitlines()) <= LONGEST
    assert len(text.split("```yaml\n")[1].split("```")[0].splitlines()) + text.split("```yaml\n")[0].count("\n") < (
        WORKFLOW_SHOWN
    )


@pytest.mark.parametrize("name", ["quote.yml", "rotate-token.yml"])
def test_workflow_is_the_one_that_init_writes(name: str) -> None:
    """The page's workflow is the same as the file that ``kis-token init`` writes, apart from comments."""
    written, shown = map(yaml.safe_load, (read_page(f"docs/examples/init/{name}"), WORKFLOWS[name]))

    assert written == shown


def test_set_up_is_that_of_the_page_about_init() -> None:
    """The page has the same commands as docs/init.md, which tests/setup runs."""
    (commands, *_) = codes_of("docs/init.md", "sh")

    assert [line.partition("#")[0].split() for line in INIT.splitlines()] == [
        line.partition("#")[0].split() for line in commands.splitlines()
    ]


@pytest.mark.usefixtures("child_processes")
def test_demo() -> None:
    """The Makefile has both targets of the page.

    The test does not run the targets, because ``make test`` would run the test again.
    """
    targets = re.findall(r"^make (\w+) ", DEMO, re.MULTILINE)
    done = subprocess.run(
        ["make", "--dry-run", *targets], cwd=CHECKOUT, capture_output=True, text=True, timeout=60, check=True
    )

    assert targets == ["demo", "test"]
    assert "-m tools.demo" in done.stdout
    assert "-m pytest" in done.stdout


def test_first_day(newcomer: Newcomer) -> None:
    """After the set-up, two runs make one issue, without a secret in GitHub. Their logs look as on the page."""
    newcomer.set_up()
    assert newcomer.github_secrets == {}
    first = newcomer.act("quote.yml", WORKFLOWS["quote.yml"])
    second = newcomer.act("quote.yml", WORKFLOWS["quote.yml"])

    assert_shown(FIRST, first)
    assert_shown(SECOND, second)
    assert newcomer.sandbox.kis.counts("production").calls == 1
    quotations = [seen for seen in newcomer.sandbox.kis.requests if seen.path == PRICE_PATH and seen.status == 200]
    assert len(quotations) == 2


def test_ten_jobs(newcomer: Newcomer) -> None:
    """Ten jobs at the same time make one tokenP call, and the program of each job gets a token."""
    newcomer.set_up()

    seen = newcomer.act("ten-jobs.yml", WORKFLOWS["ten-jobs.yml"])

    assert seen.count("token from ") == 10
    program = f"your program, with a token for {newcomer.sandbox.kis.production_url}"
    assert seen.splitlines().count(program) == 10
    assert newcomer.sandbox.kis.counts("production").calls == 1


def test_rotation(newcomer: Newcomer) -> None:
    """The rotation, started by a tick, issues the first token without a secret."""
    newcomer.set_up()
    gh = newcomer.project.commands / "gh"
    gh.write_text("#!/bin/sh\n")  # the rotation's workflow also calls gh: see tests/workflows/test_rotate.py

    newcomer.act("rotate-token.yml", WORKFLOWS["rotate-token.yml"], event="schedule")

    assert newcomer.sandbox.kis.counts("production").calls == 1


@pytest.mark.usefixtures("child_processes")
def test_workflows_are_clean(tmp_path: Path) -> None:
    """No linter reports a fault in a workflow that is copied from the page."""
    for name, text in WORKFLOWS.items():
        (tmp_path / name).write_text(text)
    files = [tmp_path / name for name in WORKFLOWS]
    linter = Path(sys.executable).with_name("actionlint")

    done = subprocess.run([linter, *files], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)

    assert (done.returncode, done.stdout) == (0, "")
