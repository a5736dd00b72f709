"""Debugging shows no secret: step debugging, debug logs, dumps, and tracebacks with local variables."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import traceback
from typing import TYPE_CHECKING

import psycopg
import pytest

from kis_token.config import Settings
from kis_token.core.ports import Begun, Committed
from kis_token.core.resolution import Resolution, View
from kis_token.core.slot import PlainVault, Row, Slot
from kis_token.errors import TokenError
from kis_token.kis.api import KISIssuer
from kis_token.local.cache import FileCache
from kis_token.sandbox.kis_http import TOKEN_PATH, error_response
from kis_token.sandbox.loopback import Fault, Response
from kis_token.store.sealing import SealingVault
from kis_token.store.supabase import SupabaseStore
from kis_token.token import AppKey, Token
from tests.leak_capture import chain_of
from tests.leaks import LEAKS
from tests.resolver_harness import ENCRYPTION_KEY, Chain, WatchedIssuer, expired_token
from tests.secret_patterns import without_masks
from tests.support import HOUR, first_of, make_token, utc_now, wait_until
from tools.step import Ended, run_step

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from kis_token.sandbox import Sandbox

STEP_DEBUGGING = {"RUNNER_DEBUG": "1", "ACTIONS_STEP_DEBUG": "true", "ACTIONS_RUNNER_DEBUG": "true"}


def shows_secret(*said: str) -> bool:
    """Whether a readable text contains a secret."""
    return LEAKS.patterns.are_in(without_masks("\n".join(said).encode()))


def debug(sandbox: Sandbox, tool_cache: Path, folder: Path, **changed: str) -> Ended:
    """Run a step with GitHub's step debugging turned on."""
    account = sandbox.kis.accounts["production"][0]
    inputs = {
        "supabase-url": sandbox.supabase.url,
        "supabase-key": sandbox.service_key,
        "app-key": account.app_key,
        "app-secret": account.app_secret,
        "base-url": sandbox.kis.production_url,
        "export-env": "true",
        "export-credentials": "true",
    }
    inputs |= {name.replace("_", "-"): value for name, value in changed.items()}
    return run_step(inputs, folder, STEP_DEBUGGING | {"RUNNER_TOOL_CACHE": str(tool_cache)})


@pytest.mark.parametrize("service_name", ["kis", "sealed"])
def test_step_debugging_shows_no_secret(sandbox: Sandbox, tool_cache: Path, tmp_path: Path, service_name: str) -> None:
    """Log and summary of a step have no secret, for an issued, a stored, a forced and a cached token."""
    sealed = {"encryption_key": ENCRYPTION_KEY} if service_name == "sealed" else {}
    for source, mode in (("oauth", "resolve"), ("supabase", "resolve"), ("oauth", "force"), ("cache", "resolve")):
        if mode == "force":
            pass_time(sandbox, 7 * 3600)
        if source == "cache":
            sandbox.supabase.stop()
        ended = debug(sandbox, tool_cache, tmp_path, service_name=service_name, mode=mode, verify="true", **sealed)
        shown, there = shows_secret(ended.log, ended.summary), shows_secret(*ended.outputs.values())
        assert not shown, f"a secret is shown: {mode} from {source}"
        assert (ended.status, ended.public.get("source"), there) == (0, source, True)


def pass_time(sandbox: Sandbox, seconds: float) -> None:
    """Let time pass for KIS, and let the lease permit the next issue at once."""
    sandbox.kis.advance(seconds)
    with psycopg.connect(sandbox.owner_dsn) as connection:
        connection.execute("update credential_leases set not_before = null, issued_at = null")


def _no_supabase(sandbox: Sandbox) -> dict[str, str]:
    sandbox.supabase.stop()
    return {"on_store_outage": "fail", "timeout": "21s"}  # 20 s are reserved for KIS, so one second is left for retries


def _stalled(sandbox: Sandbox) -> dict[str, str]:
    sandbox.supabase.server.add_fault(Fault("stall"))
    return {"timeout": "2s"}


def _refused(sandbox: Sandbox) -> dict[str, str]:
    sandbox.kis.production.add_fault(Fault("answer", TOKEN_PATH, response=error_response("EGW00105", TOKEN_PATH)))
    return {}


def _cut_off(sandbox: Sandbox) -> dict[str, str]:
    sandbox.kis.production.add_fault(Fault("truncate", TOKEN_PATH))
    return {}


def _quoting(sandbox: Sandbox) -> dict[str, str]:
    """Make Supabase quote the key in its error: the error page of a gateway might do this."""
    body = {"code": "22023", "message": f"no such key: {sandbox.service_key}", "details": None, "hint": None}
    sandbox.supabase.server.add_fault(Fault("answer", "/rest/v1/rpc/", response=Response(400, body)))
    return {}


FAILURES: dict[str, Callable[[Sandbox], dict[str, str]]] = {
    "store-unreachable": _no_supabase,
    "store-key-rejected": lambda _: {"supabase_key": "sb_secret_of-another-project-0123456789"},
    "store-rejected": _quoting,
    "anon-supabase-key": lambda sandbox: {"supabase_key": sandbox.anon_key},
    "invalid-supabase-key": lambda sandbox: {"supabase_key": f"{sandbox.service_key} {sandbox.service_key}"},
    "invalid-supabase-url": lambda sandbox: {"supabase_url": f"https://a:{sandbox.service_key}@example.supabase.co"},
    "invalid-app-secret": lambda sandbox: {"app_secret": "two\n" + sandbox.kis.accounts["production"][0].app_secret},
    "invalid-encryption-key": lambda _: {"encryption_key": f"{ENCRYPTION_KEY}\n{ENCRYPTION_KEY}x"},
    "plain-with-key": lambda _: {"encryption_key": ENCRYPTION_KEY},
    "kis-secret-refused": _refused,
    "kis-unreachable": _cut_off,
    "no-valid-token": lambda _: {"mode": "check"},
    "timed-out or wait-too-long": _stalled,
}


@pytest.mark.parametrize("code", first_of(5, FAILURES))
def test_step_debugging_of_a_failure_shows_no_secret(
    sandbox: Sandbox, tool_cache: Path, tmp_path: Path, code: str
) -> None:
    """Log, summary and outputs of any failed step have no secret and no traceback."""
    changed = FAILURES[code](sandbox)

    ended = debug(sandbox, tool_cache, tmp_path, **changed)

    assert (ended.status, ended.public.get("error-code") in code.split(" or ")) == (1, True)
    shown = shows_secret(ended.log, ended.summary, *ended.outputs.values())
    assert not shown, "a secret is shown"
    assert "Traceback" not in ended.log


#: A program that logs everything, including the output of http.client.
TALKATIVE = """
import http.client, logging, os, sys, time
http.client.HTTPConnection.debuglevel = 1
logging.basicConfig(level=logging.DEBUG)
from kis_token.config import Settings
from kis_token.wiring import open_resolver
print("begun", flush=True)
with open_resolver(Settings.from_env(os.environ), time.monotonic(), print) as resolver:
    resolver.resolve()
"""


def talk(chain: Chain, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run the program TALKATIVE in Python's development mode."""
    return subprocess.run(
        [sys.executable, "-X", "dev", "-c", TALKATIVE],
        env=os.environ | chain.variables | variables,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_debug_logs_show_no_secret(chain: Chain) -> None:
    """A program with the root logger at DEBUG and http.client's debugging on shows no secret."""
    variables = {"INPUT_VERIFY": "true", "KIS_TOKEN_ENCRYPTION_KEY": ENCRYPTION_KEY}
    cold, warm = talk(chain, **variables), talk(chain, **variables)

    assert (cold.returncode, warm.returncode, chain.issue_calls) == (0, 0, 1)
    assert "DEBUG:urllib3" in cold.stderr
    shown = shows_secret(cold.stdout, cold.stderr, warm.stdout, warm.stderr)
    assert not shown, "a secret is shown"


def test_traceback_of_a_program_shows_no_secret(chain: Chain) -> None:
    """The traceback of an error that a program does not catch shows no secret."""
    chain.refuse_issue("EGW00105")

    ended = talk(chain)

    assert "IssuerRefused" in ended.stderr
    shown = shows_secret(ended.stdout, ended.stderr)
    assert not shown, "a secret is shown"


@pytest.mark.skipif(os.name != "posix", reason="a dump is asked for by a signal")
def test_dump_of_all_threads_shows_no_secret(chain: Chain) -> None:
    """The dump of a program that is aborted while KIS is slow shows its threads' stacks and no secret."""
    chain.kis.production.add_fault(Fault("stall", TOKEN_PATH))
    with subprocess.Popen(
        [sys.executable, "-X", "dev", "-c", TALKATIVE],
        env=os.environ | chain.variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as program:
        wait_until(lambda: chain.kis.production.seen or program.poll() is not None)
        program.send_signal(signal.SIGABRT)
        said = program.communicate(timeout=30)

    assert "Fatal Python error: Aborted" in said[1]
    assert "in issue" in said[1]
    shown = shows_secret(*said)
    assert not shown, "a secret is shown"


def test_no_repr_shows_a_secret(chain: Chain) -> None:
    """After a resolution, no object of the library shows a secret in its repr."""
    token = make_token()
    chain.database.put_keys()
    chain.database.put_token(expired_token())
    resolver = chain.resolver()
    view = resolver.look()
    kept = [
        *(view, resolver, resolver.resolve(view), resolver.look(), chain.resolver(encryption_key=ENCRYPTION_KEY)),
        *(chain.stores[0].read("kis"), chain.cache()),
        Begun("fresh", utc_now(), 1, value=token.to_json(), expires_at="x"),
        Committed("fenced", 1, token.to_json(), "x"),
        Row(token.to_json(), None, 1),
    ]
    ours = [each for each in gc.get_objects() if is_ours(each)]

    assert kept
    assert {type(each) for each in ours} >= {
        *(Settings, Token, AppKey, Row, Slot, Begun, Committed, View, Resolution),
        *(SupabaseStore, KISIssuer, FileCache, PlainVault, SealingVault),
    }
    assert {type(each).__name__ for each in ours if shows_secret(repr(each))} == set()


def is_ours(each: object) -> bool:
    """Whether an object belongs to the library and not to the sandbox."""
    module = str(getattr(type(each), "__module__", ""))
    return module.startswith("kis_token.") and not module.startswith("kis_token.sandbox")


def test_error_about_a_damaged_cache_holds_none_of_it(tmp_path: Path) -> None:
    """The error about an undecodable cache file does not contain the file's content."""
    path = tmp_path / "cache.json"
    path.touch(mode=0o600)
    path.write_bytes(make_token().to_json().encode() + b"\xff")
    with pytest.raises(TokenError) as caught:
        FileCache(path, PlainVault(), "kis").read()

    shown = shows_secret(*map(repr, chain_of(caught.value)))
    assert not shown, "the token is shown"


@pytest.mark.parametrize("is_after", [False, True], ids=["before tokenP", "after tokenP"])
def test_local_variables_of_the_chain_show_no_secret(chain: Chain, *, is_after: bool) -> None:
    """If the chain fails, a traceback with local variables, as an error tracker sends it, shows no secret."""

    def fail(*_: object) -> None:
        raise ZeroDivisionError

    issuer = WatchedIssuer(chain, after=fail) if is_after else WatchedIssuer(chain, before=fail)
    chain.database.put_token(make_token(left=HOUR / 12, age=23 * HOUR))
    with pytest.raises(ZeroDivisionError) as caught:
        chain.resolve(None, issuer)

    frames = traceback.TracebackException.from_exception(caught.value, capture_locals=True).stack
    of_the_chain = [frame for frame in frames if "/kis_token/" in frame.filename]
    assert {"resolve", "_renew", "run", "_use", "issue"} <= {frame.name for frame in of_the_chain}
    assert {frame.name for frame in of_the_chain if shows_secret(*(frame.locals or {}).values())} == set()
