"""The three output forms of ``kis-token get``, and the options that select another slot."""

from __future__ import annotations

import json
import subprocess
import sys
from datetime import datetime
from typing import TYPE_CHECKING

import pytest

from kis_token.sandbox.database import migrations_folder
from kis_token.token import fingerprint
from tests.command import PROGRAM, clean, kis_token, kis_token_here
from tests.support import make_token

if TYPE_CHECKING:
    from kis_token.sandbox import Sandbox
    from tests.resolver_harness import Chain

SHOW = "import hashlib, os; print(hashlib.sha256(os.environ['KIS_ACCESS_TOKEN'].encode()).hexdigest()[:16])"


def test_json_has_the_outputs(chain: Chain) -> None:
    """``--json`` prints one object with the token, its times and its source. The JSON object has no app key."""
    first = kis_token_here(chain.variables, "get", "--json")
    again = kis_token(chain.variables, "get", "--json")

    assert (first.returncode, again.returncode) == (0, 0), first.stderr + again.stderr
    issued, stored = json.loads(first.stdout), json.loads(again.stdout)
    token = chain.cache().read()
    assert fingerprint(issued.pop("access_token")) == fingerprint(stored.pop("access_token")) == token.token_id
    assert datetime.fromisoformat(issued["expires_at"]) == token.expires_at
    assert datetime.fromisoformat(issued["issued_at"]) == token.issued_at
    assert 86000 < issued["expires_in"] <= 86400
    assert (issued["source"], issued["refreshed"], issued["expired"]) == ("oauth", True, False)
    assert (stored["source"], stored["refreshed"]) == ("supabase", False)
    assert (stored["environment"], stored["service_name"]) == ("production", "kis")
    assert stored["base_url"] == chain.kis.production_url
    assert set(issued) == {
        "expires_at",
        "issued_at",
        "expires_in",
        "source",
        "refreshed",
        "expired",
        "environment",
        "service_name",
        "base_url",
    }


def test_lines_for_a_shell(chain: Chain) -> None:
    """A shell that evaluates the output of ``get --env`` has the token and KIS's host as variables."""
    chain.database.put_token(make_token())
    command = " ".join(PROGRAM)
    script = f'set -a; eval "$({command} get --env)"; echo "$KIS_BASE_URL"; exec {sys.executable} -c "{SHOW}"'

    ended = subprocess.run(
        ["sh", "-c", script], env=clean(chain.variables), capture_output=True, text=True, timeout=60, check=False
    )

    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.split() == [chain.kis.production_url, chain.database.stored_id()]


def test_another_slot_by_option(chain: Chain) -> None:
    """``--service`` overrides KIS_SERVICE_NAME."""
    chain.database.put_token(make_token(), service="kis-second")

    ended = kis_token_here(chain.variables | {"KIS_SERVICE_NAME": "kis"}, "status", "--service", "kis-second", "--json")
    exit_status = kis_token(
        chain.variables, "exec", "--service", "kis-second", "--", "sh", "-c", "echo $KIS_SERVICE_NAME"
    )

    assert [slot["service"] for slot in json.loads(ended.stdout)["slots"]] == ["kis-second"]
    assert exit_status.stdout == "kis-second\n"
    assert chain.issue_calls == 0


def test_paper_by_option(sandbox: Sandbox) -> None:
    """``--environment paper`` selects the paper account, its slot and its host, also for the program of ``exec``."""
    env = {name: value for name, value in sandbox.variables.items() if name != "KIS_ENVIRONMENT"}
    env["KIS_BASE_URL"] = env["KIS_SANDBOX_PAPER_URL"]

    ended = kis_token(
        env, "exec", "--environment", "paper", "--", "sh", "-c", "echo $KIS_ENVIRONMENT $KIS_SERVICE_NAME $KIS_BASE_URL"
    )

    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.split() == ["paper", "kis-paper", env["KIS_BASE_URL"]]
    assert (sandbox.kis.counts("paper").calls, sandbox.kis.counts("production").calls) == (1, 0)


def test_sql_in_order() -> None:
    """``sql`` prints all migrations in the order of their names. ``sql --directory`` prints the folder."""
    printed, folder = kis_token_here({}, "sql"), kis_token_here({}, "sql", "--directory")

    assert folder.stdout == f"{migrations_folder()}\n"
    files = sorted(migrations_folder().glob("*.sql"))
    places = [printed.stdout.index(path.read_text(encoding="utf-8")) for path in files]
    assert len(files) >= 4
    assert places == sorted(places)


@pytest.mark.skipif(sys.platform == "win32", reason="homes as POSIX has them")
@pytest.mark.parametrize("home", [None, "/proc", "relative"])
def test_user_without_a_home_gets_a_token_and_one_note(
    chain: Chain, monkeypatch: pytest.MonkeyPatch, home: str | None
) -> None:
    """A pod with an arbitrary uid has no entry in passwd, and HOME may be unset or another user's folder.

    If no cache folder can be used, ``get`` works and reports this once, and ``check`` reports it.
    """
    import pwd

    def forget(_: int) -> None:
        raise KeyError

    monkeypatch.setattr(pwd, "getpwuid", forget)
    for name in ("HOME", "XDG_CACHE_HOME", "RUNNER_TEMP"):
        monkeypatch.delenv(name, raising=False)
    env = {name: value for name, value in chain.variables.items() if name != "KIS_TOKEN_CACHE"}
    env |= {} if home is None else {"HOME": home}
    chain.database.put_keys()

    first, again = kis_token_here(env, "get"), kis_token_here(env, "get")
    checked = kis_token_here(env, "check")

    assert (first.returncode, again.returncode, chain.issue_calls) == (0, 0, 1), first.stderr
    assert first.stderr.count("[cache-unwritable]") == again.stderr.count("[cache-unwritable]") == 1
    assert again.stderr.count("\n") == 1
    assert "internal-error" not in first.stderr + again.stderr + checked.stdout
    assert "cache" in checked.stdout
