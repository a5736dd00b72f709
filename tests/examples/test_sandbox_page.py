"""The snippets of docs/sandbox.md work unchanged."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from kis_token.sandbox.kis_http import MESSAGES
from tests.command import PYTEST
from tools.step import CHECKOUT

if TYPE_CHECKING:
    from kis_token.sandbox import Sandbox

PAGE = (CHECKOUT / "docs" / "sandbox.md").read_text(encoding="utf-8")
SNIPPETS = re.findall(r"^```(\w+)\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
TESTS = [code for language, code in SNIPPETS if language == "python" and "def test_" in code]
SCRIPTS = [code for language, code in SNIPPETS if language == "python" and "def test_" not in code]
COMMANDS = [code for language, code in SNIPPETS if language == "sh"]


def run(folder: Path, *command: str) -> None:
    """Run a user's command in an environment where kis-token is installed."""
    env = {name: value for name, value in os.environ.items() if not name.startswith(("KIS_", "SUPABASE_", "PYTEST_"))}
    env["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{env['PATH']}"
    done = subprocess.run(
        command,
        cwd=folder,
        env=env,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout


def test_snippets_are_found() -> None:
    """docs/sandbox.md has tests, programs and commands. The only other block is the installation."""
    assert min(len(TESTS), len(SCRIPTS), len(COMMANDS)) >= 2
    others = [code for language, code in SNIPPETS if language not in ("python", "sh")]
    assert others == ["pip install 'kis-token[sandbox]'\n"]


@pytest.mark.usefixtures("child_processes")
def test_snippets_for_tests_pass(tmp_path: Path) -> None:
    """The page's tests pass in a project that has no other files."""
    for number, code in enumerate(TESTS):
        (tmp_path / f"test_snippet_{number}.py").write_text(code)
    (tmp_path / "pytest.ini").write_text("[pytest]\nfilterwarnings = error\n")

    run(tmp_path, *PYTEST, "-q", f"--basetemp={tmp_path / 'base'}")


@pytest.mark.usefixtures("child_processes")
@pytest.mark.parametrize("number", range(len(SCRIPTS)))
def test_scripts_run(tmp_path: Path, number: int) -> None:
    """Each of the page's programs runs to its end."""
    (tmp_path / "snippet.py").write_text(SCRIPTS[number])

    run(tmp_path, sys.executable, "snippet.py")


@pytest.mark.usefixtures("child_processes")
@pytest.mark.parametrize("number", range(len(COMMANDS)))
def test_commands_run(tmp_path: Path, number: int) -> None:
    """Each of the page's shell commands succeeds."""
    run(tmp_path, "sh", "-euc", COMMANDS[number])


def test_codes_are_those_of_the_emulator() -> None:
    """The page's table has the EGW codes of the emulator, without the codes of the service behind KIS's gateway."""
    section = PAGE.split("## How to make KIS fail")[1]

    assert re.findall(r"^\| `(EGW\d+)`", section, re.MULTILINE) == sorted(
        code for code in MESSAGES if code.startswith("EGW")
    )


def test_variables_are_those_of_the_sandbox(sandbox: Sandbox) -> None:
    """The page's table has exactly the variables that the sandbox gives to programs."""
    section = PAGE.split("## As a command")[1].split("\n## ")[0]
    cells = re.findall(r"^\| (`[^|]*) \|", section, re.MULTILINE)

    assert set(re.findall(r"`(\w+)`", " ".join(cells))) == set(sandbox.variables)
