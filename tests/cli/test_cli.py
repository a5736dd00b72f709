"""The command kis-token: each subcommand runs at least once as a child process."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from kis_token.core.app_key_expiry import default_last_day
from kis_token.errors import ENTRIES
from kis_token.remedies import REMEDIES
from kis_token.sandbox.kis_http import PRICE_PATH, TOKEN_PATH
from kis_token.token import fingerprint, looks_like_token
from tests.command import PROGRAM, clean, kis_token, kis_token_here
from tests.resolver_harness import OTHER, issue_token
from tests.support import ACCOUNT, HOUR, SERVICE_KEY, make_token, utc_now
from tools.step import CHECKOUT

if TYPE_CHECKING:
    from kis_token.sandbox import Sandbox
    from tests.resolver_harness import Chain


def test_get_prints_the_token_alone(sandbox: Sandbox) -> None:
    """``get`` prints only the token on standard output. A second ``get`` prints the same token without a new issue."""
    first = kis_token(sandbox.variables, "get")
    second = kis_token(sandbox.variables, "get")

    assert first.returncode == second.returncode == 0
    assert looks_like_token(first.stdout.removesuffix("\n"))
    same = first.stdout == second.stdout
    assert same
    assert sandbox.kis.counts("production").calls == 1


def test_get_names_missing_settings() -> None:
    """If settings are missing, each fault is one error line with code, remedy and address, and the exit status is 1."""
    ended = kis_token_here({}, "get")

    assert ended.returncode == 1
    assert ended.stdout == ""
    codes = {"missing-supabase-url": "supabase-url (or SUPABASE_URL)"}
    codes["missing-supabase-key"] = "supabase-key (or SUPABASE_SERVICE_ROLE_KEY)"
    assert ended.stderr.splitlines() == [
        f"error: {what} is not set [{code}]. {REMEDIES[code]} {ENTRIES}#{code}" for code, what in codes.items()
    ]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no device that is always full")
@pytest.mark.parametrize("command", ["get", "keygen", "sql", "status"])
def test_a_full_device_is_one_error(sandbox: Sandbox, command: str) -> None:
    """If standard output cannot be written, the only error is that of the command, which ends with status 1."""
    issue_token(sandbox)
    with Path("/dev/full").open("w") as full:
        ended = subprocess.run(
            [*PROGRAM, command],
            env=clean(sandbox.variables),
            stdin=subprocess.DEVNULL,
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            timeout=60,
            check=False,
        )
    assert (ended.returncode, ended.stderr.splitlines()) == (1, ["error: the system reports: No space left on device"])


#: A program that runs one of this project's programs, and raises KeyboardInterrupt at the import of a given module.
INTERRUPT = """
import builtins, runpy, sys
imported, at, program = builtins.__import__, sys.argv[1], sys.argv[2]
def hook(name, *rest, **named):
    if name == at:
        raise KeyboardInterrupt
    return imported(name, *rest, **named)
builtins.__import__ = hook
sys.argv = [program, "get"]
if program.endswith(".py"):
    runpy.run_path(program, run_name="__main__")
else:
    runpy.run_module(program, run_name="__main__")
"""


@pytest.mark.parametrize(
    ("program", "module"),
    [
        ("kis_token", "click"),
        ("kis_token", "kis_token.cli.group"),
        ("kis_token", "kis_token.wiring"),
        (str(CHECKOUT / "entrypoint.py"), "signal"),
        (str(CHECKOUT / "entrypoint.py"), "kis_token.errors"),
        (str(CHECKOUT / "entrypoint.py"), "kis_token.config"),
    ],
)
@pytest.mark.usefixtures("child_processes")
def test_ctrl_c_within_the_first_imports_is_quiet(program: str, module: str) -> None:
    """If Ctrl-C is pressed during the first imports, command and action end with status 130 and without a traceback."""
    flags = ["-I", "-S", "-X", "utf8"] if program.endswith(".py") else []
    ended = subprocess.run(
        [sys.executable, *flags, "-c", INTERRUPT, module, program],
        cwd=CHECKOUT,
        env=clean({"SUPABASE_URL": "http://127.0.0.1:9", "SUPABASE_SERVICE_ROLE_KEY": SERVICE_KEY}),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (ended.returncode, "Traceback" in ended.stderr) == (130, False)


def test_get_uses_the_user_s_cache_folder(sandbox: Sandbox, tmp_path: Path) -> None:
    """Outside a job, the token is cached in the user's cache folder. If Supabase is down, the cached token is used."""
    env = {name: value for name, value in sandbox.variables.items() if name != "KIS_TOKEN_CACHE"}
    env |= {"XDG_CACHE_HOME": str(tmp_path), "HOME": str(tmp_path), "RUNNER_TEMP": ""}
    issue_token(sandbox)
    first = kis_token(env, "get")
    sandbox.supabase.stop()
    second = kis_token(env, "get")

    # The check leaves out the empty file that records the machine's last tokenP call.
    assert [path.name for path in tmp_path.rglob("*") if path.is_file() and path.stat().st_size] == [
        ".kis_token_cache.json"
    ]
    assert second.returncode == 0
    same = first.stdout == second.stdout
    assert same
    assert "warning: " in second.stderr


def test_rotate_says_when_it_will_be_due(chain: Chain) -> None:
    """``rotate`` renews a due token, and prints when the next rotation is due. ``rotate`` prints no token."""
    chain.database.put_token(make_token(left=12 * HOUR, age=12 * HOUR))
    env = chain.variables | {"KIS_TOKEN_REFRESH_AFTER": "8h"}

    renewed = kis_token(env, "rotate", "--verify")
    again = kis_token_here(env | {"KIS_TOKEN_REFRESH_AFTER": "23h"}, "rotate")

    assert (renewed.returncode, again.returncode) == (0, 0), renewed.stderr + again.stderr
    assert renewed.stdout.startswith("renewed (oauth: issued a token); valid until 20")
    assert again.stdout.startswith("not renewed (rotation: not due before 20")
    assert chain.issue_calls == 1
    paths = [seen.path for seen in chain.kis.requests]
    assert paths == [TOKEN_PATH, PRICE_PATH]
    token = chain.cache().read().value
    shown = token in renewed.stdout + renewed.stderr + again.stdout + again.stderr
    assert not shown


def test_rotate_that_fails_has_a_status(chain: Chain) -> None:
    """If KIS refuses a rotation's keys, ``rotate`` fails, even if a valid token is stored."""
    chain.database.put_token(make_token(left=12 * HOUR, age=12 * HOUR))
    chain.refuse_issue("EGW00105")

    ended = kis_token_here(chain.variables | {"KIS_TOKEN_REFRESH_AFTER": "8h"}, "rotate")

    assert (ended.returncode, ended.stdout) == (1, "")
    assert "[kis-secret-refused]" in ended.stderr


def test_refresh_wants_to_be_forced(chain: Chain) -> None:
    """``refresh --force`` renews a valid token. ``refresh`` without the option is an invalid command line."""
    chain.database.put_token(make_token(left=16 * HOUR, age=8 * HOUR))

    assert kis_token_here(chain.variables, "refresh").returncode == 2
    assert chain.issue_calls == 0
    forced = kis_token(chain.variables, "refresh", "--force")
    assert forced.returncode == 0, forced.stderr
    assert forced.stdout.startswith("renewed")
    assert chain.issue_calls == 1


def test_refresh_within_six_hours_says_so(chain: Chain) -> None:
    """If KIS gives the same token again, ``refresh`` succeeds and prints that the token was not renewed."""
    chain.resolve()
    chain.pass_time(3600)

    forced = kis_token_here(chain.variables, "refresh", "--force")

    assert forced.returncode == 0, forced.stderr
    assert forced.stdout.startswith("not renewed (oauth: gave the stored token again)")


def test_keys_are_set_from_the_environment_or_standard_input(chain: Chain) -> None:
    """``set-keys`` stores keys from the environment or from two lines of standard input, and never prints the keys."""
    keyless = {name: value for name, value in chain.variables.items() if not name.startswith("KIS_APP_")}

    from_environment = kis_token_here(chain.variables, "set-keys")
    given = f"{OTHER.key}\n{OTHER.secret}\n"
    from_input = kis_token(keyless, "set-keys", "--no-verify", standard_input=given)

    assert (from_environment.returncode, from_input.returncode) == (0, 0), from_environment.stderr + from_input.stderr
    last_day = default_last_day(utc_now())
    assert from_environment.stdout == f"stored plain for kis (production); last day {last_day} in Korea\n"
    stored = chain.resolver(app_key="", app_secret="").look().app_key
    is_stored = stored == OTHER
    assert is_stored
    shown = from_environment.stdout + from_environment.stderr + from_input.stdout + from_input.stderr
    for secret in (ACCOUNT.app_key, ACCOUNT.app_secret, OTHER.key, OTHER.secret):
        assert secret not in shown


def test_keys_that_cannot_be_are_refused(chain: Chain) -> None:
    """If a key or both keys are missing, or a key has a blank, the error has a code, and no key is stored."""
    keyless = {name: value for name, value in chain.variables.items() if not name.startswith("KIS_APP_")}

    for given, code in [("", "missing-app-key"), ("PSa1\n", "incomplete-app-key"), ("PS a1\ns\n", "invalid-app-key")]:
        ended = kis_token_here(keyless, "set-keys", standard_input=given)
        assert (ended.returncode, ended.stdout) == (1, "")
        assert f"[{code}]" in ended.stderr
    assert chain.resolver(app_key="", app_secret="").look().app_key is None


def test_sealing_from_nothing_to_a_changed_key(chain: Chain) -> None:
    """The token stays the same through ``keygen``, ``set-keys``, ``get`` and ``seal`` under a new key."""
    chain.database.put_keys()
    first = kis_token_here(chain.variables, "get")
    keys = [kis_token_here({}, "keygen").stdout.strip() for _ in range(2)]
    old, both = ({"KIS_TOKEN_ENCRYPTION_KEY": text} for text in (keys[0], f"{keys[1]}\n{keys[0]}"))

    refused = kis_token_here(chain.variables | old, "get")
    sealed = kis_token(chain.variables | old, "seal")
    opened = kis_token_here(chain.variables | old, "get")
    resealed = kis_token_here(chain.variables | both, "seal")
    again = kis_token_here(chain.variables | both, "seal")
    last = kis_token_here(chain.variables | {"KIS_TOKEN_ENCRYPTION_KEY": keys[1]}, "get")

    assert (refused.returncode, "[plain-with-key]" in refused.stderr, "kis-token seal" in refused.stderr) == (
        1,
        True,
        True,
    )
    assert sealed.stdout == resealed.stdout == "kis: sealed access_token, app_key, app_secret\n"
    assert again.stdout == "kis: nothing is left to seal\n"
    same = first.stdout == opened.stdout == last.stdout
    assert same
    assert chain.issue_calls == 1
    without = kis_token_here(chain.variables, "get")
    assert (without.returncode, "[sealed-without-key]" in without.stderr) == (1, True)
    for secret in keys:
        assert secret not in sealed.stdout + sealed.stderr + resealed.stdout + resealed.stderr + refused.stderr


def test_export_writes_the_clients_files(chain: Chain, tmp_path: Path) -> None:
    """``export`` writes the named clients' files. ``export`` does not print the token or the names of the files."""
    chain.database.put_token(make_token())
    env = chain.variables | {"HOME": str(tmp_path), "USERPROFILE": str(tmp_path), "XDG_CACHE_HOME": ""}

    ended = kis_token(env, "export", "kis-trader", "koreainvestment_cli")

    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.startswith("written for kis-trader, koreainvestment-cli; valid until 20")
    token = chain.cache().read()
    (trader,) = (tmp_path / ".cache" / "kis-trader" / "tokens").iterdir()
    assert fingerprint(json.loads(trader.read_text())["access_token"]) == token.token_id
    assert trader.name not in ended.stdout + ended.stderr
    assert (tmp_path / ".kis-cli" / "tokens.json").is_file()


def test_export_for_an_unknown_client_issues_nothing(chain: Chain) -> None:
    """``export`` refuses an unknown client, and mojito2, whose file has the app secret, before any request."""
    for name in ("mojito2", "pykrx"):
        ended = kis_token_here(chain.variables, "export", name)
        assert (ended.returncode, "[invalid-token-files]" in ended.stderr) == (1, True)
    assert chain.issue_calls == 0
