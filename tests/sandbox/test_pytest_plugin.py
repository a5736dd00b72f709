"""The fixtures for users' tests, in separate runs of pytest on a small project."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

import kis_token.sandbox
from tests.command import PYTEST

if TYPE_CHECKING:
    from pathlib import Path

#: A bot as a user writes it: it imports nothing of this project.
BOT = """
import os, subprocess, sys
import requests

def token():
    command = [sys.executable, "-m", "kis_token", "get"]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

def quote(account, token):
    headers = {"authorization": "Bearer " + token, "appkey": account.app_key, "appsecret": account.app_secret,
               "tr_id": "FHKST01010100"}
    answer = requests.get(os.environ["KIS_BASE_URL"] + "/uapi/domestic-stock/v1/quotations/inquire-price",
                          {"FID_COND_MRKT_DIV_CODE": "J", "FID_INPUT_ISCD": "005930"}, headers=headers, timeout=5)
    return answer.json()["msg_cd"]
"""

CAUTIOUS = "[pytest]\nfilterwarnings = error\naddopts = --strict-markers --strict-config\n"


#: Settings in the environment of the run.
AROUND = {"KIS_APP_KEY": "somebody", "KIS_BASE_URL": "https://example.invalid", "NO_PROXY": "intern.example"}

pytestmark = pytest.mark.usefixtures("child_processes")


def start(folder: Path, files: dict[str, str], *options: str, **variables: str) -> subprocess.Popen[str]:
    """Start some tests in a separate run, in a project with strict settings."""
    folder.mkdir(exist_ok=True)
    for name, text in {"bot.py": BOT, "pytest.ini": CAUTIOUS, **files}.items():
        (folder / name).write_text(text)
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("KIS_", "SUPABASE_", "PYTEST_"))}
    return subprocess.Popen(
        [*PYTEST, f"--basetemp={folder / 'base'}", "-v", *options],
        cwd=folder,
        env=kept | variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def run(folder: Path, files: dict[str, str], *options: str, **variables: str) -> str:
    """Return the output of a run."""
    with start(folder, files, *options, **variables) as child:
        said, _ = child.communicate(timeout=120)
    return said


def outcomes(said: str, file: str) -> list[str]:
    """Return the outcomes of a file's tests, in their order."""
    return re.findall(rf"^{file}::\w+ ([A-Z]+)", said, re.MULTILINE)


USING = """
import os
from bot import quote, token

def test_bot(kis_sandbox):
    account = kis_sandbox.kis.accounts["production"][0]
    assert quote(account, token()) == "MCA00000"
    assert kis_sandbox.kis.counts("production").issues == 1

def test_another(kis_sandbox):
    account = kis_sandbox.kis.accounts["production"][0]
    value = token()
    kis_sandbox.kis.kill_token(value)
    assert quote(account, value) == "EGW00121"
    assert kis_sandbox.kis.counts("production").issues == 1

def test_paper(kis_sandbox, monkeypatch):
    monkeypatch.setenv("KIS_ENVIRONMENT", "paper")
    monkeypatch.setenv("KIS_BASE_URL", kis_sandbox.kis.paper_url)
    assert quote(kis_sandbox.kis.accounts["paper"][0], token()) == "MCA00000"
    assert kis_sandbox.kis.counts("paper").issues == 1
    assert kis_sandbox.kis.counts("production").calls == 0

def test_without(monkeypatch):
    left = [name for name in os.environ if name.startswith(("KIS_", "SUPABASE_"))]
    assert sorted(left) == ["KIS_APP_KEY", "KIS_BASE_URL"]  # those around the run
"""


def test_each_test_has_a_sandbox_of_its_own(both_runs: tuple[str, str]) -> None:
    """Programs under test find KIS and Supabase by the environment, and each test gets its own token."""
    assert outcomes(both_runs[0], "test_using.py") == ["PASSED"] * 4, both_runs[0]


SURROUNDED = """
import os
import pytest

BEFORE = {name: os.environ.get(name) for name in ("KIS_APP_KEY", "KIS_BASE_URL", "SUPABASE_URL", "NO_PROXY")}

def check_inside(kis_sandbox, monkeypatch):
    assert "KIS_APP_KEY" not in os.environ
    assert os.environ["KIS_BASE_URL"] == kis_sandbox.kis.production_url
    assert os.environ["SUPABASE_URL"] == kis_sandbox.supabase.url
    assert os.environ["NO_PROXY"] == "intern.example,127.0.0.1"
    monkeypatch.setenv("KIS_BASE_URL", kis_sandbox.kis.paper_url)

def check_outside():
    assert {name: os.environ.get(name) for name in BEFORE} == BEFORE
    assert BEFORE["SUPABASE_URL"] is None and None not in (BEFORE["KIS_APP_KEY"], BEFORE["KIS_BASE_URL"])

def test_one_order(kis_sandbox, monkeypatch):
    check_inside(kis_sandbox, monkeypatch)

def test_after_one():
    check_outside()

def test_other_order(monkeypatch, kis_sandbox):
    check_inside(kis_sandbox, monkeypatch)

def test_after_other():
    check_outside()
"""


def test_the_environment_is_the_sandbox_s_and_then_as_before(both_runs: tuple[str, str]) -> None:
    """In a test with the sandbox, the environment has only the sandbox's settings.

    After the test, the environment has its earlier settings again.

    The order of fixtures has no effect.
    """
    assert outcomes(both_runs[0], "test_surrounded.py") == ["PASSED"] * 4, both_runs[0]


FURTHER_ACCOUNTS = """
import pytest
from bot import quote, token
from kis_token.sandbox import Account, KISEmulator

@pytest.fixture
def kis_emulator():
    return KISEmulator(production=[Account(), Account()], paper=[])

def test_savings(kis_sandbox, monkeypatch):
    first, savings = kis_sandbox.kis.accounts["production"]
    kis_sandbox.store_keys("kis-savings", savings)
    monkeypatch.setenv("KIS_SERVICE_NAME", "kis-savings")
    monkeypatch.setenv("KIS_TOKEN_CACHE", "off")
    value = token()
    assert quote(savings, value) == "MCA00000"
    assert quote(first, value) == "EGW00121"
"""


def test_the_emulator_can_be_another(both_runs: tuple[str, str]) -> None:
    """A project's own fixture ``kis_emulator`` decides the accounts; an environment may be without accounts."""
    assert outcomes(both_runs[0], "test_accounts.py") == ["PASSED"], both_runs[0]


ONE_MANAGER = """
from kis_token import get_supabase_manager

def check(kis_sandbox):
    stored = get_supabase_manager().get_kis_credentials()
    assert stored["app_key"] == kis_sandbox.kis.accounts["production"][0].app_key

def test_first(kis_sandbox):
    check(kis_sandbox)

def test_second(kis_sandbox):
    check(kis_sandbox)

def test_without(monkeypatch):
    monkeypatch.delenv("KIS_APP_KEY")  # without the secret it is a fault
    assert not get_supabase_manager().is_available()
"""


def test_the_one_manager_is_the_test_s_own(both_runs: tuple[str, str]) -> None:
    """A bot that uses the guide's functions finds the sandbox of its own test, and not that of an earlier test."""
    assert outcomes(both_runs[0], "test_manager.py") == ["PASSED"] * 3, both_runs[0]


TIDY = """
import psycopg
from pathlib import Path

def databases(kis_sandbox):
    with psycopg.connect(kis_sandbox.owner_dsn) as connection:
        rows = connection.execute("select datname from pg_database where datname like 'sandbox%'").fetchall()
    return len(rows)

def test_first(kis_sandbox):
    with psycopg.connect(kis_sandbox.owner_dsn, autocommit=True) as connection:
        connection.execute("drop table api_credentials cascade")
    assert databases(kis_sandbox) == 2

def test_second(kis_sandbox):
    with psycopg.connect(kis_sandbox.owner_dsn) as connection:
        assert connection.execute("select count(*) from api_credentials").fetchone() == (4,)
        connection.execute("insert into api_credentials (service_name, credential_type, credential_value)"
                           " values ('other', 'note', 'left behind')")
    assert databases(kis_sandbox) == 2

def test_third(kis_sandbox):
    with psycopg.connect(kis_sandbox.owner_dsn) as connection:
        rows = connection.execute("select id from api_credentials order by id").fetchall()
    assert rows == [(1,), (2,), (3,), (4,)]
    assert databases(kis_sandbox) == 2
"""


def test_a_spoilt_database_spoils_one_test(both_runs: tuple[str, str]) -> None:
    """A database that a test spoils is deleted.

    All tests that do not spoil it share one database, which is a copy of a template.
    """
    assert outcomes(both_runs[0], "test_tidy.py") == ["PASSED"] * 3, both_runs[0]


AT_ONCE = """
import socket
from bot import quote, token

def test_bot(kis_sandbox):
    with socket.create_connection(("127.0.0.1", MEETING)) as meeting:
        meeting.recv(1)  # both runs are in the middle of their test
    assert quote(kis_sandbox.kis.accounts["production"][0], token()) == "MCA00000"
    assert kis_sandbox.kis.counts("production").issues == 1
"""


def test_runs_at_the_same_time_do_not_meet(both_runs: tuple[str, str]) -> None:
    """Two concurrent runs, like workers of pytest-xdist, have separate servers, databases and tokens."""
    assert [outcomes(said, "test_at_once.py") for said in both_runs] == [["PASSED"]] * 2, both_runs


@pytest.fixture(scope="module")
def both_runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """Return the outputs of two concurrent runs: of all tests above, and of the one test in which the runs overlap."""
    folder = tmp_path_factory.mktemp("runs")
    with socket.create_server(("127.0.0.1", 0)) as meeting, ThreadPoolExecutor(2) as pool:
        meeting.settimeout(60)
        at_once = {"test_at_once.py": AT_ONCE.replace("MEETING", str(meeting.getsockname()[1]))}
        above = {
            "test_using.py": USING,
            "test_surrounded.py": SURROUNDED,
            "test_accounts.py": FURTHER_ACCOUNTS,
            "test_manager.py": ONE_MANAGER,
            "test_tidy.py": TIDY,
        }
        first = pool.submit(run, folder / "one", at_once | above, **AROUND)
        second = pool.submit(run, folder / "two", at_once)
        for connection in [meeting.accept()[0] for _ in range(2)]:
            with connection:
                connection.sendall(b"!")
        return first.result(), second.result()


WITHOUT_EXTRA = """
import sys
sys.modules["psycopg"] = None  # as if it were not installed

def test_bot(kis_sandbox):
    pass
"""


def test_a_missing_extra_is_reported(tmp_path: Path) -> None:
    """Without the extra the test fails with the command that installs it, and without a traceback."""
    said = run(tmp_path, {"test_bot.py": WITHOUT_EXTRA})

    assert outcomes(said, "test_bot.py") == ["ERROR"]
    assert "kis_sandbox needs the package psycopg" in said
    assert "pip install 'kis-token[sandbox]'" in said
    assert "pytest_plugin.py" not in said


def test_fixtures_are_listed(tmp_path: Path) -> None:
    """``pytest --fixtures`` lists both fixtures of the plugin, each with the first line of its docstring."""
    said = run(tmp_path, {}, "--fixtures")

    assert re.search(r"^kis_sandbox\b.*\n +A sandbox for one test", said, re.MULTILINE)
    assert re.search(r"^kis_emulator\b.*\n +The KIS emulator that", said, re.MULTILINE)


LOAD = """
import sys
import pytest
before = set(sys.modules)
import kis_token.sandbox.pytest_plugin
print("\\n".join(sorted(set(sys.modules) - before)))
"""


def test_the_plugin_loads_nothing() -> None:
    """In a project that does not use the fixtures, the installed plugin imports only three small modules."""
    done = subprocess.run(
        [sys.executable, "-I", "-c", LOAD], capture_output=True, text=True, check=True, timeout=60
    ).stdout.split()

    assert done == ["kis_token", "kis_token.sandbox", "kis_token.sandbox.pytest_plugin"]


@pytest.mark.parametrize("name", kis_token.sandbox.__all__)
def test_every_public_name_is_there(name: str) -> None:
    """Each name of ``__all__`` can be imported from the package, and dir() lists the name."""
    assert getattr(kis_token.sandbox, name) is not None
    assert name in dir(kis_token.sandbox)


def test_other_names_are_not_there() -> None:
    """An unknown name is an AttributeError, as in any module."""
    with pytest.raises(AttributeError, match="no attribute 'Nonsense'"):
        _ = kis_token.sandbox.Nonsense  # type: ignore[attr-defined]  # the unknown name is the test
