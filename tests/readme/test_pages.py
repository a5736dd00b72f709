"""The blocks of the pages for users work: setup, command, library, migrating and rotation.

The tests read the Korean pages. test_languages.py checks that the English pages have the same blocks.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import psycopg
import pytest

from kis_token.sandbox import PRICE_PATH
from kis_token.token import KST
from tests.command import PYTEST
from tests.readme.newcomer import ACCOUNTS, REPOSITORY, STORED_KEY, Newcomer, assert_shown
from tests.readme.page import blocks_of, codes_of, read_page
from tests.support import HOUR, MINUTE, make_token
from tools.step import CHECKOUT

STORED, CHECKED = codes_of("docs/ko/setup.md", "text")
LISTED, TOLD = codes_of("docs/ko/command.md", "text")
(LAPTOP,) = codes_of("docs/ko/command.md", "sh")
PROGRAM, ASYNC_PROGRAM, TESTS = codes_of("docs/ko/library.md", "python")
MOVED, _ = codes_of("docs/ko/migrating.md", "python")  # the second block is tested in tests/client/test_guide.py
(VARIABLES,) = codes_of("docs/ko/rotation.md", "sh")
(CRONTAB,) = codes_of("docs/ko/rotation.md", "text")


def test_every_block_has_its_test() -> None:
    """The pages have only blocks of sh, text, python and sql. docs/ko/command.md shows the list of commands."""
    pages = {page.name: {block.language for block in blocks_of(page.read_text(encoding="utf-8"))} for page in KOREAN}

    assert {name for name, languages in pages.items() if languages} >= {"setup.md", "command.md", "library.md"}
    assert set().union(*pages.values()) <= {"sh", "text", "python", "sql"}
    assert LISTED.startswith("kis-token init")


KOREAN = sorted((CHECKOUT / "docs" / "ko").glob("*.md"))


def test_set_up_by_hand(newcomer: Newcomer) -> None:
    """The set-up has the outputs that the page shows, no finding is wrong, and GitHub stores only two variables."""
    seen = newcomer.real(newcomer.set_up())

    assert_shown(STORED, seen)
    assert_shown(CHECKED, seen)
    assert "wrong" not in seen
    assert newcomer.github_secrets == {}
    assert newcomer.github_variables == {
        "SUPABASE_URL": newcomer.sandbox.supabase.url,
        "SUPABASE_PUBLISHABLE_KEY": newcomer.sandbox.anon_key,
    }
    assert newcomer.sandbox.kis.counts("production").calls == 0


def test_stored_key(newcomer: Newcomer) -> None:
    """The page's commands store the two secrets of a stored key, without a line break at the end."""
    newcomer.type(STORED_KEY, **newcomer.exported)

    assert newcomer.github_secrets == newcomer.exported


def test_accounts(newcomer: Newcomer) -> None:
    """The commands store a paper account and a second real account. Each slot is listed and gets its own token."""
    newcomer.set_up()
    kis = newcomer.sandbox.kis
    paper, savings = kis.accounts["paper"][0], kis.accounts["production"][1]

    paper_command, savings_command = ACCOUNTS.split("&&")  # each command reads its standard input to the end
    hosts = newcomer.exported | {"KIS_BASE_URL": kis.paper_url}
    first = newcomer.type(paper_command, paper.app_key, paper.app_secret, **hosts)
    second = newcomer.type(savings_command, savings.app_key, savings.app_secret, **newcomer.exported)
    for slot in re.findall(r"`--service ([\w-]+)`", read_page("docs/ko/setup.md")):
        again = REPOSITORY.splitlines()[0].replace(" > ", f" --service {slot} > ")
        newcomer.type(again, **newcomer.exported, **newcomer.way_to_github)
        newcomer.run_sql("kis-token-trust.sql")
    for each, chosen in (("paper", {"environment": "paper"}), ("savings", {"service-name": "kis-savings"})):
        url = kis.paper_url if each == "paper" else kis.production_url
        newcomer.act(f"{each}.yml", workflow_with(chosen), f"--env=KIS_BASE_URL={url}")

    assert first.startswith("stored plain for kis-paper (paper); last day ")
    assert second.startswith("stored plain for kis-savings (production); last day ")
    assert kis.counts("paper").issues == kis.counts("production").issues == 1


def workflow_with(inputs: dict[str, str]) -> str:
    """Return README's workflow of ten jobs, reduced to one job and extended by ``inputs``."""
    (workflow,) = (block.code for block in blocks_of(read_page("README.ko.md")) if block.file == "ten-jobs.yml")
    more = "".join(f"          {name}: {value}\n" for name, value in inputs.items())
    return re.sub(r"    strategy: .*\n", "", workflow).replace("        with:\n", f"        with:\n{more}")


def test_laptop(newcomer: Newcomer) -> None:
    """After a job has issued, the commands print the shown output and do not issue again."""
    newcomer.set_up()
    newcomer.act("job.yml", workflow_with({}))

    seen = newcomer.real(newcomer.type(LAPTOP, **newcomer.exported))

    assert_shown(TOLD, seen)
    assert newcomer.sandbox.kis.counts("production").calls == 1


@pytest.mark.parametrize("program", [PROGRAM, ASYNC_PROGRAM], ids=["KISClient", "KISAuth"])
def test_program_of_the_library(newcomer: Newcomer, program: str) -> None:
    """The page's program gets a token and quotes a price, with one issue."""
    newcomer.set_up()

    assert newcomer.python(program, **newcomer.exported) == "71500\n"
    assert newcomer.sandbox.kis.counts("production").calls == 1
    assert [seen.path for seen in newcomer.sandbox.kis.requests].count(PRICE_PATH) == 1


@pytest.mark.usefixtures("child_processes")
def test_tests_without_an_account(tmp_path: Path) -> None:
    """The page's tests pass in a project without other files."""
    (tmp_path / "test_bot.py").write_text(TESTS)

    done = subprocess.run(
        [*PYTEST, "-q", f"--basetemp={tmp_path / 'base'}"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert "2 passed" in done.stdout, done.stdout


def test_program_that_has_moved(newcomer: Newcomer) -> None:
    """One issue replaces an older script's expired token, whose times are in Korea time without an offset."""
    newcomer.set_up()
    expired = make_token(newcomer.keys[0], left=-MINUTE, age=24 * HOUR + MINUTE)
    end = expired.expires_at.astimezone(KST).replace(tzinfo=None).isoformat()
    with psycopg.connect(newcomer.sandbox.owner_dsn) as connection:
        connection.execute(
            "insert into api_credentials (service_name, credential_type, credential_value, expires_at)"
            " values ('kis', 'access_token', %s, %s::timestamp at time zone 'UTC')",
            (json.dumps({"access_token": expired.value, "expires_at": end, "issued_at": end}), end),
        )

    first = newcomer.python(MOVED, **newcomer.exported)
    second = newcomer.python(MOVED, **newcomer.exported)

    assert first == "no valid token is stored\n71500\n"
    assert re.fullmatch(r"valid until 20\S+\n71500\n", second)
    assert newcomer.sandbox.kis.counts("production").calls == 1


def test_cron_on_a_server(newcomer: Newcomer) -> None:
    """Both crontab lines read the variables from a private file, renew the token, and print nothing on success."""
    newcomer.set_up()
    newcomer.type(VARIABLES, *newcomer.exported.values())
    home = Path(newcomer.variables["HOME"])
    command = home / ".local" / "bin" / "kis-token"
    command.parent.mkdir(parents=True)
    command.symlink_to(Path(sys.executable).with_name("kis-token"))

    lines = [re.sub(r"^(?:\S+ ){5}", "", line) for line in CRONTAB.splitlines()]
    seen = [newcomer.type(f"sh -c '{line}'") for line in lines]

    private = home / ".config" / "kis-token" / "env"
    assert private.stat().st_mode & 0o777 == 0o600
    private.unlink()  # the search for secrets after the test would report a file with a key
    assert (len(lines), set(seen)) == (2, {""})
    assert newcomer.sandbox.kis.counts("production").calls == 1
