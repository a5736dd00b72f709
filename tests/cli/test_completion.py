"""The completion of the command line in a shell, set up by the lines of docs/command.md."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from kis_token.cli.group import COMMANDS
from kis_token.config import TOKEN_FILE_CLIENTS
from tests.command import kis_token
from tools.step import CHECKOUT

if TYPE_CHECKING:
    from pathlib import Path

PAGE = (CHECKOUT / "docs" / "command.md").read_text(encoding="utf-8")
#: The values of _KIS_TOKEN_COMPLETE that print a shell's script.
SOURCES = re.findall(r"_KIS_TOKEN_COMPLETE=(\w+_source) kis-token", PAGE)

pytestmark = pytest.mark.usefixtures("child_processes")


def completed(words: str) -> list[str]:
    """Return the completions that bash gets for the last word."""
    env = {"_KIS_TOKEN_COMPLETE": "bash_complete", "COMP_WORDS": words, "COMP_CWORD": f"{len(words.split(' ')) - 1}"}
    ended = kis_token(env)
    assert (ended.returncode, ended.stderr) == (0, "")
    return [line.removeprefix("plain,") for line in ended.stdout.splitlines()]


@pytest.mark.parametrize(
    ("words", "names"),
    [
        ("kis-token s", ["status", "set-keys", "seal", "sql", "sandbox"]),
        ("kis-token ", list(COMMANDS)),
        ("kis-token get --environment ", ["production", "paper"]),
        ("kis-token set-keys --no", ["--no-verify"]),
        ("kis-token export ", list(TOKEN_FILE_CLIENTS)),
        ("kis-token export kis", ["kis-auth", "kis-trader"]),
        ("kis-token export kis-auth kis", ["kis-trader"]),
    ],
)
def test_words_are_completed(words: str, names: list[str]) -> None:
    """Commands, options, choices and the clients of ``export`` are completed.

    A client that is already in the command line is not offered again.
    """
    assert sorted(completed(words)) == sorted(names)


@pytest.mark.parametrize("source", SOURCES)
def test_each_shell_gets_its_script(source: str) -> None:
    """For each shell in docs/command.md, the command prints a script that completes kis-token."""
    ended = kis_token({"_KIS_TOKEN_COMPLETE": source})
    assert (ended.returncode, ended.stderr) == (0, "")
    assert "kis-token" in ended.stdout
    assert source.replace("_source", "_complete") in ended.stdout


@pytest.mark.skipif(shutil.which("bash") is None, reason="this machine has no bash")
def test_line_of_the_page_works_in_bash(tmp_path: Path) -> None:
    """After bash has run the line of docs/command.md, bash completes kis-token."""
    (line,) = re.findall(r"`(eval [^`]*bash_source[^`]*)`", PAGE)
    program = tmp_path / "kis-token"
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m kis_token "$@"\n')
    program.chmod(0o755)
    done = subprocess.run(
        ["bash", "--noprofile", "--norc", "-c", f'PATH="{tmp_path}:$PATH"; {line}; complete -p kis-token'],
        cwd=CHECKOUT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, "kis-token" in done.stdout) == (0, True), done.stderr
