"""Every example in docs/examples works unchanged: workflows under act, against the sandbox."""

from __future__ import annotations

import ast
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg
import pytest

from kis_token.sandbox import PRICE_PATH, Account, KISEmulator, Sandbox
from tests.command import PYTEST
from tests.workflows.conftest import readable
from tools.step import CHECKOUT

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kis_token.sandbox import Environment
    from kis_token.sandbox.database import MigratedDatabases
    from tests.workflows.conftest import Project

EXAMPLES = CHECKOUT / "docs" / "examples"
PRICE = "71500"
WORKFLOWS_OF_INIT = sorted(path.name for path in (EXAMPLES / "init").iterdir())


def take(folder: Path, *names: str) -> None:
    """Copy examples into a user's repository: workflows into .github/workflows, programs into the top folder."""
    for name in names:
        shutil.copy(EXAMPLES / name, folder / ".github" / "workflows" if name.endswith(".yml") else folder)


def run(
    project: Project,
    sandbox: Sandbox,
    workflow: str,
    *,
    environment: Environment = "production",
    secrets: dict[str, str] | None = None,
    event: str = "workflow_dispatch",
    arguments: tuple[str, ...] = (),
) -> list[str]:
    """Run a workflow and return its programs' output. Check that the workflow succeeds and that its log has no secret.

    A job with the permission ``id-token: write`` gets the two variables of a keyless set-up, but no key of Supabase.
    The examples name no host, because KIS's own hosts are the defaults. In the tests, KIS_BASE_URL names the sandbox.
    """
    url = sandbox.kis.production_url if environment == "production" else sandbox.kis.paper_url
    given = [f"--env=KIS_BASE_URL={url}", "--platform=self-hosted=-self-hosted", *arguments]
    if "id-token: write }" in (EXAMPLES / workflow).read_text(encoding="utf-8"):
        variables = {"SUPABASE_URL": sandbox.supabase.url, "SUPABASE_PUBLISHABLE_KEY": sandbox.anon_key}
        given += [f"--var={name}={value}" for name, value in variables.items()]
        given += [f"--env={name}={value}" for name, value in sandbox.github.variables().items()]
        secrets = {"SUPABASE_URL": "", "SUPABASE_SERVICE_ROLE_KEY": ""} | (secrets or {})
    done = project.run(sandbox, workflow, event, *given, secrets=secrets)

    assert done.returncode == 0, readable(done.stdout)
    shown = [secret for secret in secrets_of(sandbox) if secret in done.stdout]
    assert len(shown) == 0
    return sorted(re.findall(r"\d{6}: \d+$", done.stdout, re.MULTILINE))


def secrets_of(sandbox: Sandbox) -> Iterator[str]:
    """Yield the values that no log may show."""
    for accounts in sandbox.kis.accounts.values():
        for account in accounts:
            yield from (account.app_key, account.app_secret)
    yield sandbox.service_key
    with psycopg.connect(sandbox.owner_dsn) as connection:
        for (value,) in connection.execute("select credential_value from api_credentials where expires_at is not null"):
            yield from re.findall(r"[\w-]+\.[\w-]+\.[\w-]+", value)


def quotations(sandbox: Sandbox, environment: Environment = "production") -> int:
    """Return the number of price requests that KIS answered with status 200."""
    return sum(
        seen.path == PRICE_PATH and seen.status == 200 and seen.environment == environment
        for seen in sandbox.kis.requests
    )


def cannot_make_environments() -> bool:
    """Whether the machine's python3, which the workflow uses, cannot make virtual environments."""
    return bool(subprocess.call(["python3", "-c", "import ensurepip"], stderr=subprocess.DEVNULL))


#: A stand-in for the machine's Python. This Python and its virtual environments have the packages of the tests, so that
#: no index is needed.
PYTHON = """#!/bin/sh
if [ "$1 $2" = "-m venv" ]; then
  mkdir -p "$3/bin"
  cp "$0" "$3/bin/python"
  printf '#!/bin/sh\\ntest "$*" = "install --quiet {package}"\\n' > "$3/bin/pip"
  chmod +x "$3/bin/pip"
else
  exec {python} "$@"
fi
"""


def add_python(project: Project, package: str) -> None:
    """Put the stand-in PYTHON first on the PATH of the steps."""
    python = project.commands / "python3"
    python.write_text(PYTHON.replace("{package}", package).replace("{python}", sys.executable))
    python.chmod(0o755)


@pytest.mark.parametrize("makes_environment", [False, pytest.param(True, marks=pytest.mark.matrix)])
def test_quote_with_requests(project: Project, sandbox: Sandbox, makes_environment: bool) -> None:  # noqa: FBT001 - a table
    """A Python program in a virtual environment reads the outputs and quotes prices, after one issue."""
    sandbox.trust()
    take(project.repository, "quote.yml", "quote.py")
    if not makes_environment:
        add_python(project, "requests")
    elif cannot_make_environments():
        pytest.skip("python3 has no venv; install python3-venv")

    assert run(project, sandbox, "quote.yml") == [f"000660: {PRICE}", f"005930: {PRICE}"]
    assert sandbox.kis.counts("production").issues == 1


def test_client(project: Project, sandbox: Sandbox) -> None:
    """If no token is stored, KISClient issues one. After KIS has ended the token, KISClient gets a new token."""
    sandbox.trust()
    take(project.repository, "client.yml", "watch.py")
    add_python(project, "kis-token")

    first = run(project, sandbox, "client.yml")
    sandbox.kis.kill_tokens(sandbox.kis.accounts["production"][0].app_key)
    sandbox.advance(7 * 3600)
    second = run(project, sandbox, "client.yml")

    assert first == second == [f"000660: {PRICE}", f"005930: {PRICE}"]
    assert sandbox.kis.counts("production").issues == 2


@pytest.mark.parametrize("name", WORKFLOWS_OF_INIT)
def test_workflows_of_init(project: Project, sandbox: Sandbox, name: str) -> None:
    """The workflows that init writes issue the first token, both without and with a stored key."""
    is_keyless = "with-secret" not in name
    project.add_workflow(EXAMPLES / "init" / name)
    given = [f"--env=KIS_BASE_URL={sandbox.kis.production_url}"]
    secrets = {}
    if is_keyless:
        sandbox.trust()
        secrets = {"SUPABASE_URL": "", "SUPABASE_SERVICE_ROLE_KEY": ""}
        given += [f"--var=SUPABASE_URL={sandbox.supabase.url}", f"--var=SUPABASE_PUBLISHABLE_KEY={sandbox.anon_key}"]
        given += [f"--env={each}={value}" for each, value in sandbox.github.variables().items()]
    gh = project.commands / "gh"
    gh.write_text("#!/bin/sh\n")  # the rotation's workflow also calls gh
    gh.chmod(0o755)

    done = project.run(sandbox, name, "workflow_dispatch", *given, secrets=secrets)

    assert done.returncode == 0, readable(done.stdout)
    assert len([secret for secret in secrets_of(sandbox) if secret in done.stdout]) == 0
    assert sandbox.kis.counts("production").calls == 1
    assert quotations(sandbox) == 1  # one price request: by the program, or by the rotation that verifies the new token


def test_async_program(tmp_path: Path, sandbox: Sandbox) -> None:
    """Concurrent quotations share one issue. After KIS has ended the token, the program gets a new token."""
    for issues in (1, 2):
        done = subprocess.run(
            [sys.executable, str(EXAMPLES / "watch_async.py"), "005930", "000660", "035420"],
            cwd=tmp_path,
            env=sandbox.environment(os.environ),
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

        assert done.returncode == 0, done.stderr
        assert done.stdout.splitlines() == [f"{stock}: {PRICE}" for stock in ("005930", "000660", "035420")]
        assert sandbox.kis.counts("production").issues == issues
        sandbox.kis.kill_tokens(sandbox.kis.accounts["production"][0].app_key)
        sandbox.advance(7 * 3600)


def test_matrix(project: Project, sandbox: Sandbox) -> None:
    """All jobs get the same token: there is one tokenP call, and each job quotes."""
    sandbox.trust()
    take(project.repository, "matrix.yml", "quote.sh")

    assert run(project, sandbox, "matrix.yml") == [f"000660: {PRICE}", f"005930: {PRICE}", f"035420: {PRICE}"]
    assert sandbox.kis.counts("production").calls == 1


def test_accounts(project: Project, databases: MigratedDatabases) -> None:
    """Each account has its own token, issued with its own keys."""
    main, savings = Account(), Account()
    take(project.repository, "accounts.yml", "quote.sh")

    with (
        databases.borrow() as migrated,
        Sandbox(project=migrated, kis=KISEmulator(production=[main, savings])) as sandbox,
    ):
        sandbox.store_keys("kis-savings", savings)
        sandbox.trust("kis")
        sandbox.trust("kis-savings")
        assert run(project, sandbox, "accounts.yml") == [f"005930: {PRICE}"] * 2
        assert sandbox.kis.counts("production").issues == 2


def test_paper(project: Project, sandbox: Sandbox) -> None:
    """Paper trading calls the paper environment, and never the real environment."""
    sandbox.trust("kis-paper")
    take(project.repository, "paper.yml", "quote.sh")

    assert run(project, sandbox, "paper.yml", environment="paper") == [f"005930: {PRICE}"]
    assert quotations(sandbox, "paper") == 1
    assert {seen.environment for seen in sandbox.kis.requests} == {"paper"}


def test_self_hosted(project: Project, sandbox: Sandbox) -> None:
    """If Supabase is down, the second job uses the token that the first job has cached on the runner."""
    sandbox.trust()
    take(project.repository, "self-hosted.yml", "quote.sh")
    account = sandbox.kis.accounts["production"][0]
    secrets = {"KIS_APP_KEY": account.app_key, "KIS_APP_SECRET": account.app_secret}

    first = run(project, sandbox, "self-hosted.yml", secrets=secrets)
    sandbox.supabase.stop()
    second = run(project, sandbox, "self-hosted.yml", secrets=secrets)

    assert (first, second) == ([f"005930: {PRICE}"], [f"005930: {PRICE}"])
    assert sandbox.kis.counts("production").calls == 1


def test_two_jobs(project: Project, sandbox: Sandbox) -> None:
    """Both jobs get the same token from one issue. The first job passes the token's end to the second job."""
    sandbox.trust()
    take(project.repository, "two-jobs.yml")

    run(project, sandbox, "two-jobs.yml")

    assert sandbox.kis.counts("production").calls == 1


@pytest.mark.parametrize(("repository", "calls"), [("stranger/bot", 0), ("someone/bot", 1)])
def test_pull_request(project: Project, sandbox: Sandbox, tmp_path: Path, repository: str, calls: int) -> None:
    """With a stored key, the job runs for the repository's own pull request, and is skipped for a fork's."""
    take(project.repository, "pull-request.yml", "quote.sh")
    event = tmp_path / "event.json"
    event.write_text(json.dumps({"pull_request": {"head": {"repo": {"full_name": repository}}}}))

    arguments = (f"--eventpath={event}", "--env=GITHUB_REPOSITORY=someone/bot")
    seen = run(project, sandbox, "pull-request.yml", event="pull_request", arguments=arguments)

    assert seen == [f"005930: {PRICE}"] * calls
    assert sandbox.kis.counts("production").calls == calls


def test_enterprise_server(project: Project, sandbox: Sandbox) -> None:
    """The workflow runs with the action from the server's own copy of the repository."""
    take(project.repository, "ghes.yml", "quote.sh")

    assert run(project, sandbox, "ghes.yml") == [f"005930: {PRICE}"]


@pytest.mark.skipif(shutil.which("node") is None, reason="the example is in JavaScript, and node is not installed")
def test_other_languages(project: Project, sandbox: Sandbox) -> None:
    """Programs in two languages read the token and the keys from environment variables."""
    sandbox.trust()
    take(project.repository, "other-languages.yml", "quote.sh", "quote.mjs")

    assert run(project, sandbox, "other-languages.yml") == [
        f"{stock}: {PRICE}" for stock in ("000660", "005930", "035420")
    ]


def test_programs_report_kis_s_code(tmp_path: Path, sandbox: Sandbox) -> None:
    """If KIS rejects the token, each of the three programs fails and prints KIS's code."""
    account = sandbox.kis.accounts["production"][0]
    keys = {"KIS_APP_KEY": account.app_key, "KIS_APP_SECRET": account.app_secret, "KIS_ACCESS_TOKEN": "x.y.z"}
    programs = [(sys.executable, "quote.py"), ("sh", "quote.sh"), ("node", "quote.mjs")]
    for interpreter, name in programs:
        if shutil.which(interpreter) is None:
            continue
        done = subprocess.run(
            [interpreter, str(EXAMPLES / name), "005930"],
            cwd=tmp_path,
            env=sandbox.environment(os.environ) | keys,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 1, name
        assert "KIS refused" in done.stderr, name
        assert "EGW00121" in done.stderr, name


def test_laptop(tmp_path: Path, sandbox: Sandbox) -> None:
    """On a laptop, a command gets the token and the keys as environment variables."""
    for name in ("laptop.sh", "quote.sh"):
        shutil.copy(EXAMPLES / name, tmp_path)

    done = subprocess.run(
        ["sh", "laptop.sh", "005930"],
        cwd=tmp_path,
        env=sandbox.environment(os.environ)
        | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert (done.returncode, done.stdout) == (0, f"005930: {PRICE}\n"), done.stderr
    assert sandbox.kis.counts("production").issues == 1


@pytest.mark.usefixtures("child_processes")
def test_tests_without_an_account(tmp_path: Path) -> None:
    """The example of a user's test passes in a folder with the tested program."""
    for name in ("test_bot.py", "quote.py"):
        shutil.copy(EXAMPLES / name, tmp_path)

    done = subprocess.run(
        [*PYTEST, "-q", f"--basetemp={tmp_path / 'base'}"],
        cwd=tmp_path,
        env=os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert "2 passed" in done.stdout, done.stdout


def used_by_tests() -> set[str]:
    """Return all texts in this module's source, among them the names of the used examples."""
    constants = (node for node in ast.walk(ast.parse(Path(__file__).read_text())) if isinstance(node, ast.Constant))
    return {node.value for node in constants if isinstance(node.value, str)}


def test_every_example_is_run_and_listed() -> None:
    """Each file of docs/examples is used by a test of this module, and linked in the folder's README."""
    names = {path.name for path in EXAMPLES.iterdir() if path.is_file() and path.name != "README.md"}
    listed = set(re.findall(r"\]\(([\w.-]+)\)", (EXAMPLES / "README.md").read_text(encoding="utf-8")))

    assert names
    assert names - used_by_tests() == set()
    assert names == listed


@pytest.mark.parametrize("path", sorted(filter(Path.is_file, EXAMPLES.rglob("*"))), ids=lambda path: path.name)
def test_every_example_begins_with_its_explanation(path: Path) -> None:
    """The first line of each file is its explanation."""
    assert re.match(r"# \w|// \w|\"\"\"\w", path.read_text(encoding="utf-8"))
