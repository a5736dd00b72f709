"""The help of the command, and the errors for invalid command lines."""

from __future__ import annotations

import re
import subprocess
import sys

import click
import pytest

from kis_token.cli import group
from kis_token.cli.group import COMMANDS
from kis_token.cli.help_examples import TaughtCommand
from tests.command import kis_token, kis_token_here
from tools.step import CHECKOUT

NAMES = list(COMMANDS)
SECRET = "PSa1b2c3d4e5f6g7h8"


@pytest.mark.usefixtures("child_processes")
def test_help_and_page_have_the_same_commands() -> None:
    """The help and docs/command.md have the same commands in the same order."""
    page = (CHECKOUT / "docs" / "command.md").read_text(encoding="utf-8")
    section = page.split("## All commands\n")[1].split("\n## ")[0]
    written = re.findall(r"^kis-token ([a-z-]+)", section, re.MULTILINE)
    ended = kis_token({}, "--help")
    listed = re.findall(r"^  ([a-z-]+)  ", ended.stdout.split("Commands:\n")[1].split("\n\n")[0], re.MULTILINE)

    assert ended.returncode == 0
    assert list(dict.fromkeys(written)) == listed == NAMES


@pytest.mark.parametrize("name", COMMANDS)
def test_help_teaches(name: str) -> None:
    """Each command's help describes the command and ends with examples, one per line."""
    command = group.kis_token.get_command(click.Context(group.kis_token), name)
    assert isinstance(command, TaughtCommand)
    assert command.name == name
    ended = kis_token_here({}, name, "--help")

    assert (ended.returncode, ended.stderr) == (0, "")
    assert ended.stdout.startswith(f"Usage: kis-token {name}")
    assert ended.stdout.endswith("Examples:\n" + "".join(f"  {example}\n" for example in command.examples))
    assert any(f"kis-token {name}" in example for example in command.examples)


@pytest.mark.usefixtures("child_processes")
def test_a_command_loads_no_other_command() -> None:
    """``kis-token get`` does not load the modules of other commands, or modules that only other commands need."""
    code = "import sys; from kis_token.cli import main; main(['get', '--help']); print(*sys.modules, file=sys.stderr)"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(ended.stderr.split())
    assert "kis_token.cli.token_commands" in loaded
    others = ("init_command", "key_commands", "setup_commands", "trust_command")
    assert not loaded & {*(f"kis_token.cli.{name}" for name in others), "subprocess", "http.client"}


def test_exit_statuses_are_said() -> None:
    """The help and docs/command.md have the same exit statuses."""
    text = " ".join(kis_token_here({}, "--help").stdout.split())
    assert "0 done; 1 an error, which is explained; 2 invalid command line; 130 interrupted" in text
    page = (CHECKOUT / "docs" / "command.md").read_text(encoding="utf-8")
    assert re.findall(r"^\| ([\d, ]+) \|", page.split("| exit status |")[1], re.MULTILINE) == [
        "0",
        "1",
        "2",
        "126, 127",
        "130",
    ]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((SECRET,), "the command is missing or unknown"),
        ((f"--{SECRET}",), "an option does not belong to this command"),
        (("get", SECRET), "this command does not take these arguments"),
        (("set-keys", SECRET, SECRET), "this command does not take these arguments"),
        (("get", f"--{SECRET}"), "an option does not belong to this command"),
        (("get", f"--app-key={SECRET}"), "an option does not belong to this command"),
        (("get", f"-{SECRET}"), "an option does not belong to this command"),
        (("get", f"--json={SECRET}"), "an option has no value, or has a value that it does not take"),
        (("get", "--service"), "an option has no value, or has a value that it does not take"),
        (("get", "--environment", SECRET), "--environment takes production or paper"),
        (("trust", "--access", SECRET), "--access takes token, keys or issue"),
        (("set-keys", "--expires", SECRET), "--expires takes a day that has not passed, as YYYY-MM-DD"),
        (("exec", f"--{SECRET}", "--", "true"), "an option does not belong to this command"),
        (("exec",), "'[--] CMD...' is missing"),
        (("export",), "'CLIENT...' is missing"),
        (("refresh",), "'--force' is missing"),
    ],
)
def test_invalid_command_line_is_not_repeated(arguments: tuple[str, ...], said: str) -> None:
    """For an invalid command line, usage and fault are printed, but no argument: it may be a key. The status is 2."""
    assert_not_repeated(kis_token_here({}, *arguments), said)


@pytest.mark.usefixtures("child_processes")
def test_bare_command_shows_the_help() -> None:
    """Without a subcommand, ``kis-token`` prints the help on standard error and ends with status 2."""
    bare, asked = kis_token({}), kis_token({}, "--help")
    assert (bare.returncode, bare.stdout, bare.stderr) == (2, "", asked.stdout)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("stauts",), "the command is missing or unknown; did you mean status?"),
        (("set-key",), "the command is missing or unknown; did you mean set-keys?"),
        (("sandbx", SECRET), "the command is missing or unknown; did you mean sandbox?"),
        (
            ("status", "--jsno", SECRET),
            "an option does not belong to this command; did you mean --json?",
        ),
        (
            ("set-keys", "--noverify"),
            "an option does not belong to this command; did you mean --no-verify?",
        ),
        (
            ("get", "--enviroment", SECRET),
            "an option does not belong to this command; did you mean --environment?",
        ),
    ],
)
def test_near_names_are_suggested(arguments: tuple[str, ...], said: str) -> None:
    """If a command or option is mistyped, the error suggests similar names and does not print the mistyped word."""
    assert_not_repeated(kis_token_here({}, *arguments), said)


def test_choices_are_listed() -> None:
    """The error for ``--environment real`` names the two environments."""
    ended = kis_token_here({}, "status", "--environment", "real")
    assert (ended.returncode, ended.stderr.splitlines()[-1]) == (2, "error: --environment takes production or paper")


@pytest.mark.usefixtures("child_processes")
def test_invalid_command_line_of_a_process_is_not_repeated() -> None:
    """The command in its own process does not print an invalid command line either."""
    assert_not_repeated(kis_token({}, SECRET, f"--{SECRET}"), "the command is missing or unknown")


def assert_not_repeated(ended: subprocess.CompletedProcess[str], said: str) -> None:
    """Check for status 2, and for usage and fault without any part of the command line."""
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr.endswith(f"error: {said}\n")
    assert SECRET not in ended.stderr
    if "has no value" not in said:
        assert ended.stderr.startswith("Usage: kis-token")


def test_a_service_name_that_cannot_be_is_not_repeated_either() -> None:
    """The value of ``--service`` is checked like KIS_SERVICE_NAME, and the error does not print the value."""
    ended = kis_token_here({"SUPABASE_URL": "https://x.supabase.co"}, "get", "--service", f"{SECRET} x")

    assert (ended.returncode, "[invalid-service-name]" in ended.stderr) == (1, True)
    assert SECRET not in ended.stderr
