"""README.ko.md is complete: a newcomer who does its steps, block by block, gets the shown results.

README.md has the same blocks; test_languages.py checks that.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import psycopg
import pytest
import yaml

from kis_token.sandbox import PRICE_PATH
from kis_token.token import KST
from tests.command import PYTEST
from tests.readme.conftest import Newcomer, blocks_of, read_page
from tests.support import HOUR, MINUTE, make_token
from tests.workflows.conftest import readable
from tools.step import CHECKOUT

BLOCKS = blocks_of(read_page("README.ko.md"))
WORKFLOWS = {block.file: block.code for block in BLOCKS if block.file}
PROGRAMS = [block.code for block in BLOCKS if block.language == "python" and "def test_" not in block.code]
TESTS = [block.code for block in BLOCKS if block.language == "python" and "def test_" in block.code]
COMMANDS = [block.code for block in BLOCKS if block.language == "sh"]
OUTPUTS = [block.code for block in BLOCKS if block.language == "text"]

#: The numbers of the command blocks.
DEMO, INSTALL, PROJECT, KEYS, CHECK, REPOSITORY, STORED_KEY, ACCOUNTS, LAPTOP = range(9)
#: The numbers of the output blocks. The list of commands is no output; tests/cli/test_help.py compares it.
STORED, CHECKED, FIRST, SECOND, LISTED, TOLD = range(6)
#: Not run: they are no commands.
PICTURES = [block for block in BLOCKS if block.language == "mermaid"]


def act(newcomer: Newcomer, name: str, *arguments: str, event: str = "workflow_dispatch") -> str:
    """Commit a workflow of the page and start it; return the log. The run succeeds and shows no secret.

    Jobs get what GitHub gives them: the stored secrets and variables, and ID tokens if they have the permission.
    """
    project, kis = newcomer.project, newcomer.sandbox.kis
    (project.repository / ".github" / "workflows" / name).write_text(WORKFLOWS[name])
    url = kis.paper_url if "--job=paper" in arguments else kis.production_url
    given = [f"--env=KIS_BASE_URL={url}"]
    given += [f"--var={each}={value}" for each, value in newcomer.github_variables.items()]
    if may_have_id_tokens(WORKFLOWS[name]):
        given += [f"--env={each}={value}" for each, value in newcomer.sandbox.github.variables().items()]
    secrets = dict.fromkeys(newcomer.exported, "") | newcomer.github_secrets
    done = project.run(newcomer.sandbox, name, event, *given, *arguments, secrets=secrets)

    assert done.returncode == 0, readable(done.stdout)
    shown = [secret for secret in (*newcomer.keys, newcomer.sandbox.service_key) if secret in done.stdout]
    assert len(shown) == 0
    return "\n".join(re.findall(r"\| (.*)$", done.stdout, re.MULTILINE))


def may_have_id_tokens(workflow: str) -> bool:
    """Whether each job has the permission, of its own or of the workflow."""
    page = yaml.safe_load(workflow)
    permissions = [job.get("permissions", page["permissions"]) for job in page["jobs"].values()]
    return all(each.get("id-token") == "write" for each in permissions)


def assert_shown(picture: str, seen: str) -> None:
    """Each line of the picture was seen, in its order; ``…`` stands for others. Times and widths may differ."""

    def comparable(line: str) -> str:
        line = re.sub(r"\d+", "0", line)
        return re.sub(r" +", " ", re.sub(r"\S+ run 0 \w+", "<job>", line)).strip()

    rest = iter([comparable(line) for line in seen.splitlines()])
    for line in picture.splitlines():
        if line != "…" and line:
            assert comparable(line) in rest, f"{line!r} was not seen, or not there:\n{seen}"


def set_up(newcomer: Newcomer) -> str:
    """Do the set-up up to the workflow; return the last terminal's output."""
    newcomer.type(COMMANDS[INSTALL])
    newcomer.run_sql()
    typed = "".join(COMMANDS[number] for number in (PROJECT, KEYS, CHECK))
    seen = newcomer.type(typed, *newcomer.exported.values(), *newcomer.keys)
    given = newcomer.exported | newcomer.way_to_github
    seen += newcomer.type(COMMANDS[REPOSITORY], newcomer.sandbox.anon_key, **given)
    newcomer.run_sql("kis-token-trust.sql")
    return seen


def test_every_block_is_run_or_has_a_reason() -> None:
    """The tests here run all blocks of the page, except two pictures that are no commands."""
    assert len(COMMANDS) == LAPTOP + 1
    assert len(OUTPUTS) == TOLD + 1
    assert set(WORKFLOWS) == {"quote.yml", "two-jobs.yml", "accounts.yml", "rotate-token.yml", "not-for-forks.yml"}
    assert (len(PROGRAMS), len(TESTS), len(PICTURES)) == (2, 1, 1)
    assert {block.language for block in BLOCKS} == {"mermaid", "sh", "text", "yaml", "python"}
    assert [block for block in BLOCKS if block.language == "yaml" and not block.file] == []


@pytest.mark.usefixtures("child_processes")
def test_demo() -> None:
    """``make`` knows the three commands. None is run: two would start this run again, one would install again."""
    targets = re.findall(r"^make (\w+) ", COMMANDS[DEMO], re.MULTILINE)
    done = subprocess.run(
        ["make", "--dry-run", *targets], cwd=CHECKOUT, capture_output=True, text=True, timeout=60, check=True
    )

    assert targets == ["demo", "quick", "test"]
    assert "-m tools.demo" in done.stdout
    assert "-m pytest" in done.stdout


def test_first_day(newcomer: Newcomer) -> None:
    """The set-up leads to a quotation with one issue and no secret in GitHub; all outputs look as on the page."""
    seen = newcomer.real(set_up(newcomer))
    assert newcomer.github_secrets == {}
    first = act(newcomer, "quote.yml")
    second = act(newcomer, "quote.yml")
    later = newcomer.real(newcomer.type(COMMANDS[LAPTOP], **newcomer.exported))
    program = newcomer.python(PROGRAMS[1], **newcomer.exported)

    assert_shown(OUTPUTS[STORED], seen)
    assert_shown(OUTPUTS[CHECKED], seen)
    assert "wrong" not in seen
    assert newcomer.github_variables == {
        "SUPABASE_URL": newcomer.sandbox.supabase.url,
        "SUPABASE_PUBLISHABLE_KEY": newcomer.sandbox.anon_key,
    }
    assert_shown(OUTPUTS[FIRST], first)
    assert_shown(OUTPUTS[SECOND], second)
    assert_shown(OUTPUTS[TOLD], later)
    assert program == "71500\n"
    assert newcomer.sandbox.kis.counts("production").calls == 1
    quotations = [seen for seen in newcomer.sandbox.kis.requests if seen.path == PRICE_PATH and seen.status == 200]
    assert len(quotations) == 3


def test_two_jobs(newcomer: Newcomer) -> None:
    """Both jobs get the same token by one issue, and its end is passed from job to job."""
    set_up(newcomer)

    assert "the same token, valid until 20" in act(newcomer, "two-jobs.yml")
    assert newcomer.sandbox.kis.counts("production").calls == 1


def test_accounts(newcomer: Newcomer) -> None:
    """The commands store a paper account and a second real one, and each gets its own token."""
    set_up(newcomer)
    kis = newcomer.sandbox.kis
    paper, savings = kis.accounts["paper"][0], kis.accounts["production"][1]

    paper_command, savings_command = COMMANDS[ACCOUNTS].split("&&")  # each reads all that a pipe has
    at_paper = {"KIS_BASE_URL": kis.paper_url}  # a real machine does not set it: the environment has its own host
    first = newcomer.type(paper_command, paper.app_key, paper.app_secret, **newcomer.exported | at_paper)
    second = newcomer.type(savings_command, savings.app_key, savings.app_secret, **newcomer.exported)
    for slot in ("kis-paper", "kis-savings"):
        again = COMMANDS[REPOSITORY].splitlines()[0].replace(" > ", f" --service {slot} > ")
        newcomer.type(again, **newcomer.exported, **newcomer.way_to_github)
        newcomer.run_sql("kis-token-trust.sql")
    act(newcomer, "accounts.yml", "--job=paper")
    act(newcomer, "accounts.yml", "--job=savings")

    assert first.startswith("stored plain for kis-paper (paper); last day 20")
    assert second.startswith("stored plain for kis-savings (production); last day 20")
    assert kis.counts("paper").issues == kis.counts("production").issues == 1


def test_rotation(newcomer: Newcomer) -> None:
    """The nightly workflow, started by a tick, issues the first token. It needs no secret."""
    set_up(newcomer)
    gh = newcomer.project.commands / "gh"
    gh.write_text("#!/bin/sh\n")  # the rotation speaks to GitHub as well: tests/workflows/test_rotate.py looks at that

    act(newcomer, "rotate-token.yml", event="schedule")

    assert newcomer.sandbox.kis.counts("production").calls == 1


@pytest.mark.parametrize(("repository", "calls"), [("stranger/bot", 0), ("someone/bot", 1)])
def test_forks(newcomer: Newcomer, tmp_path: Path, repository: str, calls: int) -> None:
    """With a stored key, the job is skipped for a fork's pull request, and runs for one of the repository itself."""
    set_up(newcomer)
    newcomer.type(COMMANDS[STORED_KEY], **newcomer.exported)
    assert newcomer.github_secrets == newcomer.exported
    event = tmp_path / "event.json"
    event.write_text(json.dumps({"pull_request": {"head": {"repo": {"full_name": repository}}}}))

    act(
        newcomer,
        "not-for-forks.yml",
        f"--eventpath={event}",
        "--env=GITHUB_REPOSITORY=someone/bot",
        event="pull_request",
    )

    assert newcomer.sandbox.kis.counts("production").calls == calls


def test_program_that_has_moved(newcomer: Newcomer) -> None:
    """An expired token of an older script, in Korea time without an offset, is replaced once for all callers."""
    set_up(newcomer)
    program = PROGRAMS[0]
    expired = make_token(newcomer.keys[0], left=-MINUTE, age=24 * HOUR + MINUTE)
    end = expired.expires_at.astimezone(KST).replace(tzinfo=None).isoformat()
    with psycopg.connect(newcomer.sandbox.owner_dsn) as connection:
        connection.execute(
            "insert into api_credentials (service_name, credential_type, credential_value, expires_at)"
            " values ('kis', 'access_token', %s, %s::timestamp at time zone 'UTC')",
            (json.dumps({"access_token": expired.value, "expires_at": end, "issued_at": end}), end),
        )

    first = newcomer.python(program, **newcomer.exported)
    second = newcomer.python(program, **newcomer.exported)

    assert first == "no valid token is stored\n71500\n"
    assert re.fullmatch(r"valid until 20\S+\n71500\n", second)
    assert newcomer.sandbox.kis.counts("production").calls == 1


@pytest.mark.usefixtures("child_processes")
def test_tests_without_an_account(tmp_path: Path) -> None:
    """The page's tests pass in an otherwise empty project."""
    (tmp_path / "test_bot.py").write_text(TESTS[0])

    done = subprocess.run(
        [*PYTEST, "-q", f"--basetemp={tmp_path / 'base'}"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert "2 passed" in done.stdout, done.stdout


@pytest.mark.usefixtures("child_processes")
def test_workflows_are_clean(tmp_path: Path) -> None:
    """No linter reports a fault in a workflow that is copied from the page."""
    for name, text in WORKFLOWS.items():
        (tmp_path / name).write_text(text)
    files = [tmp_path / name for name in WORKFLOWS]
    linter = Path(sys.executable).with_name("actionlint")

    done = subprocess.run([linter, *files], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)

    assert (done.returncode, done.stdout) == (0, "")
