"""``kis-token init --yes``: from the environment to the first token, and a second run that changes nothing."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from kis_token.sandbox.kis_http import APPROVAL_PATH, TOKEN_PATH
from kis_token.setup.sql_paste import WARNING
from tests.workflows.conftest import needs_scripts
from tools.step import CHECKOUT

if TYPE_CHECKING:
    from tests.github_network import GitHubNetwork
    from tests.setup.conftest import Laptop

pytestmark = [needs_scripts, pytest.mark.usefixtures("plain_network")]


def states(ended: subprocess.CompletedProcess[str]) -> list[tuple[str, str]]:
    """The state and the subject of each line."""
    return re.findall(r"^(\w+) +(\w[\w -]*): ", ended.stdout, re.MULTILINE)


def test_first_token_in_one_command(ready_laptop: Laptop) -> None:
    """One command checks and stores the keys, writes the workflows, issues the token, and reads it from Supabase."""
    ended = ready_laptop.init("--with-secret", **ready_laptop.keys)

    assert (ended.returncode, ended.stderr) == (0, "The first token is ready.\n\n")
    assert states(ended) == [
        ("ok", "supabase"),
        ("ok", "tables"),
        ("new", "app key"),
        ("ok", "check"),
        ("new", "workflow"),
        ("new", "workflow"),
        ("todo", "secret"),
        ("todo", "secret"),
        ("new", "token"),
        ("ok", "token"),
    ]
    first, second = ended.stdout.splitlines()[-2:]
    assert re.fullmatch(r"new    token: oauth, [0-9a-f]{16}, valid until 20\d\d-\d\d-\d\d \d\d:\d\d KST", first)
    assert second == "ok     token: supabase, the same token"
    assert [seen.path for seen in ready_laptop.sandbox.kis.requests if seen.path != "/"] == [APPROVAL_PATH, TOKEN_PATH]
    assert ready_laptop.slot["app_key"] == ready_laptop.account.app_key
    assert json.loads(ready_laptop.slot["access_token"])["access_token"] not in ended.stdout


def test_second_run_changes_nothing(ready_laptop: Laptop) -> None:
    """A second run stores, writes, sets and issues nothing, whether the environment has the keys or not."""
    ready_laptop.install_gh()
    given = ("--with-secret", "--repository", "acme/bot")
    ready_laptop.init(*given, **ready_laptop.keys)
    calls = ready_laptop.sandbox.kis.counts("production").calls
    slot, secrets = ready_laptop.slot, ready_laptop.gh_has("secret")
    files = {path: path.stat().st_mtime_ns for path in ready_laptop.repository.rglob("*.yml")}

    again = [ready_laptop.init(*given, **ready_laptop.keys), ready_laptop.init(*given)]

    for ended in again:
        assert ended.returncode == 0
        assert {state for state, _ in states(ended)} == {"ok", "kept"}
        assert [state for state, what in states(ended) if what == "token"] == ["ok", "ok"]
    assert (ready_laptop.sandbox.kis.counts("production").calls, ready_laptop.slot == slot) == (calls, True)
    assert ready_laptop.gh_has("secret") == secrets
    assert {path: path.stat().st_mtime_ns for path in ready_laptop.repository.rglob("*.yml")} == files


def test_all_that_is_missing_is_one_error(laptop: Laptop) -> None:
    """Without any variable, one error lists all missing variables.

    The command asks no question and calls no service.
    """
    ended = laptop.run("init", "--yes", "--directory", str(laptop.repository))

    codes = re.findall(r"^error: .*\[([a-z-]+)\]\. \w", ended.stderr, re.MULTILINE)
    assert (ended.returncode, ended.stdout) == (1, "")
    assert codes == [
        "missing-supabase-url",
        "missing-supabase-key",
        "missing-app-key",
        "missing-repository",
        "no-public-key",
    ]
    assert laptop.sandbox.kis.requests == ()


def test_keys_are_missing_in_supabase_too(ready_laptop: Laptop) -> None:
    """If Supabase and the environment both lack the account's keys, the error names the missing keys."""
    ended = ready_laptop.init("--with-secret")

    assert (ended.returncode, "[missing-app-key]" in ended.stderr) == (1, True)


@pytest.mark.parametrize(
    ("wrong", "code"),
    [
        ({"KIS_APP_KEY": "PS" + "x" * 30}, "invalid-app-key"),
        ({"KIS_APP_SECRET": "********"}, "invalid-app-secret"),
        ({"KIS_APP_KEY": "PSzyxwvutsrqponmlkjihgfedcba76543210"}, "kis-key-refused"),
        ({"SUPABASE_SERVICE_ROLE_KEY": "sb_secret_of_another_project"}, "store-key-rejected"),
        ({"SUPABASE_SERVICE_ROLE_KEY": "sb_publishable_key"}, "anon-supabase-key"),
        ({"SUPABASE_URL": "https://supabase.com/dashboard/projects"}, "invalid-supabase-url"),
    ],
)
def test_wrong_values_are_not_stored(ready_laptop: Laptop, wrong: dict[str, str], code: str) -> None:
    """A value of the wrong form, and keys that KIS or Supabase refuses, end the run before anything is stored."""
    ended = ready_laptop.init("--with-secret", **{**ready_laptop.keys, **wrong})

    assert (ended.returncode, f"[{code}]" in ended.stderr) == (1, True), ended.stderr
    assert ready_laptop.slot == {}
    assert not ready_laptop.workflow("quote.yml").exists()


def test_sql_to_paste(laptop: Laptop) -> None:
    """If the tables are missing, a private file has the SQL, the output has the steps, and a later run continues."""
    before = laptop.init("--with-secret", **laptop.keys)
    mode = laptop.sql_file.stat().st_mode
    laptop.paste_sql()
    after = laptop.init("--with-secret", **laptop.keys)

    assert (before.returncode, "[store-table-missing]" in before.stderr) == (1, True)
    assert str(laptop.sql_file) in before.stderr
    assert WARNING in before.stderr
    assert mode & 0o077 == 0
    assert (after.returncode, states(after)[-1]) == (0, ("ok", "token"))


def test_without_a_stored_key(laptop: Laptop, network: GitHubNetwork) -> None:
    """The file to paste also lists the repository's jobs, and gh sets the variables. GitHub stores no secret."""
    laptop.install_gh()
    given = ("--repository", "acme/bot")
    keys = {**laptop.keys, "SUPABASE_PUBLISHABLE_KEY": laptop.sandbox.anon_key}
    before = laptop.init(*given, **keys)
    laptop.paste_sql()
    after = laptop.init(*given, **keys)
    again = laptop.init(*given, **keys)

    assert "the tables and functions and the access of acme/bot" in before.stderr
    assert (after.returncode, ("ok", "caller") in states(after)) == (0, True), after.stderr
    assert laptop.gh_has("variable") == {
        "SUPABASE_URL": laptop.sandbox.supabase.url,
        "SUPABASE_PUBLISHABLE_KEY": laptop.sandbox.anon_key,
    }
    assert laptop.gh_has("secret") == {}
    for name in ("quote.yml", "rotate-token.yml"):
        assert laptop.workflow(name).read_text() == (CHECKOUT / "docs/examples/init" / name).read_text()
    assert {state for state, _ in states(again)} == {"ok"}
    assert network.asked


def test_tables_without_the_caller(ready_laptop: Laptop, network: GitHubNetwork) -> None:
    """If only the access of the repository's jobs is missing, the file has only the SQL of ``kis-token trust``."""
    keys = {**ready_laptop.keys, "SUPABASE_PUBLISHABLE_KEY": ready_laptop.sandbox.anon_key}
    before = ready_laptop.init("--repository", "acme/bot", **keys)
    printed = ready_laptop.run("trust", "acme/bot", "--access", "issue", **ready_laptop.project).stdout

    assert before.returncode == 1
    assert "Supabase lacks the access of acme/bot. " in before.stderr
    assert ready_laptop.sql_file.read_text() == printed != ""
    assert network.issuer.keys


def test_repository_of_the_folder(ready_laptop: Laptop, network: GitHubNetwork) -> None:
    """If no repository is given, the remote "origin" names the repository."""
    ready_laptop.use_git("git@github.com:acme/bot.git")
    keys = {**ready_laptop.keys, "SUPABASE_PUBLISHABLE_KEY": ready_laptop.sandbox.anon_key}

    assert "the access of acme/bot" in ready_laptop.init(**keys).stderr
    assert network.asked[-1] == "/repos/acme/bot"


def test_default_branch_is_listed(ready_laptop: Laptop, network: GitHubNetwork) -> None:
    """GitHub runs schedules on the default branch, so the statement lists that branch, whatever its name is."""
    network.default_branch = "trunk"
    keys = {**ready_laptop.keys, "SUPABASE_PUBLISHABLE_KEY": ready_laptop.sandbox.anon_key}
    ready_laptop.init("--repository", "acme/bot", **keys)

    assert "'refs/heads/trunk'" in ready_laptop.sql_file.read_text()


def test_existing_files_stay(ready_laptop: Laptop) -> None:
    """A workflow file with other contents is not changed, and the run names the file.

    A workflow file that is missing is written.
    """
    file = ready_laptop.workflow("quote.yml")
    file.parent.mkdir(parents=True)
    file.write_text("name: mine\n")

    ended = ready_laptop.init("--with-secret", **ready_laptop.keys)

    assert file.read_text() == "name: mine\n"
    assert "kept   workflow: .github/workflows/quote.yml has other contents" in ended.stdout
    assert "new    workflow: .github/workflows/rotate-token.yml" in ended.stdout


def test_other_stored_keys_stay(ready_laptop: Laptop) -> None:
    """Keys in Supabase that differ from those of the environment are not replaced: the run names both, and stops."""
    ready_laptop.init("--with-secret", **ready_laptop.keys)
    other = ready_laptop.sandbox.kis.accounts["production"][1]

    ended = ready_laptop.init("--with-secret", KIS_APP_KEY=other.app_key, KIS_APP_SECRET=other.app_secret)

    assert (ended.returncode, ("kept", "app key") in states(ended)) == (1, True)
    assert ready_laptop.slot["app_key"] == ready_laptop.account.app_key


def test_other_variables_of_the_repository_stay(ready_laptop: Laptop) -> None:
    """A variable that has another value, and a secret, are not replaced.

    The run names each kept variable and secret.
    """
    ready_laptop.install_gh()
    (ready_laptop.commands / "secrets").write_text("SUPABASE_URL=https://other.supabase.co\n")

    ended = ready_laptop.init("--with-secret", "--repository", "acme/bot", **ready_laptop.keys)

    assert "kept   secret: SUPABASE_URL is there." in ended.stdout
    assert "new    secret: SUPABASE_SERVICE_ROLE_KEY is set" in ended.stdout
    assert ready_laptop.gh_has("secret")["SUPABASE_URL"] == "https://other.supabase.co"
    assert ready_laptop.gh_has("secret")["SUPABASE_SERVICE_ROLE_KEY"] == ready_laptop.sandbox.service_key
    calls = (ready_laptop.commands / "calls").read_text()
    assert "secret set SUPABASE_SERVICE_ROLE_KEY --repo acme/bot\n" in calls  # the value is not in the arguments


def test_dry_run_changes_nothing(ready_laptop: Laptop) -> None:
    """``--dry-run`` prints the planned changes, makes none of them, and does not call KIS."""
    ready_laptop.install_gh()

    ended = ready_laptop.init("--with-secret", "--dry-run", "--repository", "acme/bot", **ready_laptop.keys)

    assert ended.returncode == 0
    assert [what for state, what in states(ended) if state == "would"] == [
        "app key", "token", "workflow", "workflow", "secret", "secret",
    ]  # fmt: skip
    assert ready_laptop.slot == {}
    assert ready_laptop.gh_has("secret") == {}
    assert list(ready_laptop.repository.iterdir()) == []
    assert ready_laptop.sandbox.kis.requests == ()


def test_dry_run_without_tables(laptop: Laptop) -> None:
    """If the tables are missing, a dry run reports the missing tables, ends, and writes no file."""
    ended = laptop.init("--with-secret", "--dry-run", **laptop.keys)

    assert (ended.returncode, states(ended)[-1]) == (0, ("would", "tables"))
    assert not laptop.sql_file.exists()


def test_fault_of_the_setup_stops_the_run(ready_laptop: Laptop) -> None:
    """If the check finds a fault, the run names the fault and its remedy, and issues no token."""
    import psycopg

    with psycopg.connect(ready_laptop.sandbox.owner_dsn) as connection:
        connection.execute("drop function public.save_token")

    ended = ready_laptop.init("--with-secret", **ready_laptop.keys)

    assert (ended.returncode, "wrong  tables: there is no function save_token" in ended.stderr) == (1, True)
    assert ready_laptop.sandbox.kis.counts("production").calls == 0


def test_slot_is_named_in_the_workflows(ready_laptop: Laptop) -> None:
    """Workflows of a slot that is not the default name environment and slot."""
    paper = ready_laptop.sandbox.kis.accounts["paper"][0]
    keys = {"KIS_APP_KEY": paper.app_key, "KIS_APP_SECRET": paper.app_secret}
    url = {"KIS_BASE_URL": ready_laptop.sandbox.kis.paper_url}

    ended = ready_laptop.init("--with-secret", "--environment", "paper", "--service", "kis-try", **keys, **url)

    assert ended.returncode == 0, ended.stderr
    assert (
        "          environment: paper\n          service-name: kis-try\n"
        in ready_laptop.workflow("quote.yml").read_text()
    )
    linter = Path(sys.executable).with_name("actionlint")
    files = [ready_laptop.workflow(name) for name in ("quote.yml", "rotate-token.yml")]
    done = subprocess.run([linter, *files], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (0, "")
    assert (
        "    with: { environment: paper, service-name: kis-try }\n"
        in ready_laptop.workflow("rotate-token.yml").read_text()
    )


def test_without_a_terminal(laptop: Laptop) -> None:
    """Without a terminal the command cannot ask a question, so its error names --yes."""
    ended = laptop.run("init")

    assert (ended.returncode, "--yes" in ended.stderr) == (2, True)
