"""entrypoint.py as the runner runs it: a child process with action.yml's own script and environment."""

from __future__ import annotations

import stat
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from kis_token.sandbox.loopback import Fault, Response
from kis_token.token import fingerprint
from tests.github.entrypoint_steps import (
    UNREACHABLE_INDEX,
    age_token,
    assert_succeeded,
    errors,
    failure,
    inputs_of,
    seen_by_people,
)
from tests.resolver_harness import issue_token
from tools.step import CHECKOUT, Ended, run_step, step_environment

if TYPE_CHECKING:
    from kis_token.sandbox import Sandbox


def issue_by_step(sandbox: Sandbox, tool_cache: Path, folder: Path) -> Ended:
    """Run a step with ``mode: resolve``, which issues the first token."""
    ended = run_step(inputs_of(sandbox), folder, {"RUNNER_TOOL_CACHE": str(tool_cache)})
    assert_succeeded(ended, "oauth")
    return ended


def test_warm_resolve_costs_one_request_and_installs_nothing(sandbox: Sandbox, tmp_path: Path) -> None:
    """A fresh token costs one GET. A step with a fresh token needs no package index and leaves the tool cache empty."""
    token = issue_token(sandbox)
    sandbox.supabase.server.forget()

    ended = run_step(inputs_of(sandbox), tmp_path / "second", UNREACHABLE_INDEX)

    assert_succeeded(ended, "supabase")
    assert [(seen.method, seen.path) for seen in sandbox.supabase.server.seen] == [("GET", "/rest/v1/api_credentials")]
    assert list((tmp_path / "second" / "tools").iterdir()) == []
    assert fingerprint(ended.outputs["access-token"]) == token.token_id
    assert sandbox.kis.counts("production").calls == 1


def test_outputs_are_those_that_action_yml_declares(sandbox: Sandbox, tool_cache: Path, tmp_path: Path) -> None:
    """The fast and the slow path set the same outputs. export-credentials adds the keys, export-env the variables."""
    names = {
        "access-token",
        "expires-at",
        "issued-at",
        "expires-in",
        "source",
        "refreshed",
        "expired",
        "environment",
        "base-url",
    }
    account = sandbox.kis.accounts["production"][0]
    slow = issue_by_step(sandbox, tool_cache, tmp_path / "slow")
    fast = run_step(inputs_of(sandbox, export_env="true", export_credentials="true"), tmp_path / "fast")

    assert_succeeded(fast, "supabase")
    assert set(slow.public) == names
    assert set(fast.public) == names | {"app-key", "app-secret"}
    assert set(fast.variables) == {"KIS_ACCESS_TOKEN", "KIS_BASE_URL", "KIS_APP_KEY", "KIS_APP_SECRET"}
    assert fingerprint(fast.outputs["app-key"]) == fingerprint(account.app_key)
    assert fingerprint(fast.outputs["app-secret"]) == fingerprint(account.app_secret)
    assert slow.variables == {}
    assert (slow.outputs["refreshed"], fast.outputs["refreshed"]) == ("true", "false")
    assert fast.outputs["expires-at"].endswith("+00:00")
    for secret in (account.app_key, account.app_secret, sandbox.service_key):
        shown, masked = secret in seen_by_people(fast), f"::add-mask::{secret}" in fast.log
        assert masked
        assert not shown, "a secret is shown"


@pytest.mark.usefixtures("runtime")  # the runtime is built before the step, whose home configures no package index
def test_token_files_are_written_at_both_speeds(sandbox: Sandbox, tool_cache: Path, tmp_path: Path) -> None:
    """The fast path, without packages, and the slow path write the same token files."""
    home = tmp_path / "home"
    home.mkdir()
    inputs = inputs_of(sandbox, token_files="kis-auth, kis-trader")
    places = {"HOME": str(home), "XDG_CACHE_HOME": ""}
    issue_token(sandbox)

    fast = run_step(inputs, tmp_path / "second", UNREACHABLE_INDEX | places)
    assert_succeeded(fast, "supabase")
    files = {path: path.read_text() for path in home.rglob("*") if path.is_file()}
    sandbox.kis.advance(7 * 3600)
    age_token(sandbox, 300)
    slow = run_step(inputs, tmp_path / "third", {"RUNNER_TOOL_CACHE": str(tool_cache)} | places)
    assert_succeeded(slow, "oauth")

    assert {path.name[:5] for path in files} == {"KIS20", "real-"}
    for ended, contents in ((fast, list(files.values())), (slow, [path.read_text() for path in files])):
        holds = [ended.outputs["access-token"] in content for content in contents]
        assert all(holds), "another token"
        assert "token files written for kis-auth, kis-trader" in ended.log
    assert {stat.S_IMODE(path.stat().st_mode) for path in files} == {0o600}


@pytest.mark.parametrize("name", ["mojito2", "pykis"])
def test_unknown_token_file_fails_before_anything_is_asked(unasked: Sandbox, tmp_path: Path, name: str) -> None:
    """An unsupported client in token-files is a configuration error, and no request is sent."""
    ended = run_step(inputs_of(unasked, token_files=name), tmp_path)
    assert ended.public == failure("invalid-token-files")
    assert unasked.supabase.server.seen == ()


def test_token_file_that_cannot_be_written_fails_the_step(sandbox: Sandbox, tmp_path: Path) -> None:
    """If a file has the name of the folder, the step fails with export-failed, and its outputs have no token."""
    issue_token(sandbox)
    (tmp_path / "KIS").touch()
    ended = run_step(inputs_of(sandbox, token_files="kis-auth"), tmp_path / "second", {"HOME": str(tmp_path)})
    assert ended.public == failure("export-failed")
    assert len(errors(ended)) == 1


def test_cached_token_serves_when_supabase_is_down(sandbox: Sandbox, tool_cache: Path, tmp_path: Path) -> None:
    """If Supabase refuses connections, a later step outputs the cached token with a warning, and issues no token."""
    first = issue_by_step(sandbox, tool_cache, tmp_path)
    sandbox.supabase.stop()

    ended = run_step(inputs_of(sandbox), tmp_path, UNREACHABLE_INDEX)

    assert_succeeded(ended, "cache")
    assert fingerprint(ended.outputs["access-token"]) == fingerprint(first.outputs["access-token"])
    assert "::warning::" in ended.log
    assert sandbox.kis.counts("production").calls == 1


def test_project_over_its_quota_costs_no_packages(sandbox: Sandbox, tmp_path: Path) -> None:
    """The step outputs the cached token, and a warning names the quota. Without a cached token, the step fails."""
    issue_token(sandbox)
    run_step(inputs_of(sandbox), tmp_path / "job")
    message = "Service for this project is restricted due to the following violations: exceed_egress_quota."
    sandbox.supabase.server.add_fault(Fault("answer", times=99, response=Response(402, {"message": message})))

    ended = run_step(inputs_of(sandbox), tmp_path / "job", UNREACHABLE_INDEX)
    without = run_step(inputs_of(sandbox), tmp_path / "other", UNREACHABLE_INDEX)

    assert_succeeded(ended, "cache")
    assert "(HTTP 402 Payment Required): exceed_egress_quota [store-restricted]" in ended.log
    assert without.public == failure("store-restricted")
    assert sandbox.kis.counts("production").calls == 1


def test_warm_resolve_fills_the_cache(sandbox: Sandbox, tmp_path: Path) -> None:
    """A token from Supabase is cached, with mode 0600, for a later step without Supabase."""
    issue_token(sandbox)
    run_step(inputs_of(sandbox), tmp_path / "job")
    cache = tmp_path / "job" / "temp" / ".kis_token_cache.json"
    assert stat.S_IMODE(cache.stat().st_mode) == 0o600
    sandbox.supabase.stop()

    assert_succeeded(run_step(inputs_of(sandbox), tmp_path / "job"), "cache")


def test_stale_token_is_renewed(sandbox: Sandbox, tool_cache: Path, tmp_path: Path) -> None:
    """A token that is valid for less than min-validity is replaced by a new one, also in the store."""
    issue_token(sandbox)
    sandbox.kis.advance(7 * 3600)
    age_token(sandbox, 300)

    ended = run_step(inputs_of(sandbox), tmp_path / "second", {"RUNNER_TOOL_CACHE": str(tool_cache)})

    assert_succeeded(ended, "oauth")
    assert sandbox.kis.counts("production").calls == 2
    assert_succeeded(run_step(inputs_of(sandbox), tmp_path / "third"), "supabase")


def test_rotate_does_nothing_before_it_is_due(sandbox: Sandbox, tmp_path: Path) -> None:
    """With ``mode: rotate`` and a young token, the step sends one GET and reports when the token is due."""
    issue_token(sandbox)
    sandbox.supabase.server.forget()

    ended = run_step(inputs_of(sandbox, mode="rotate"), tmp_path / "second", UNREACHABLE_INDEX)

    assert_succeeded(ended, "supabase")
    assert "rotation: not due before" in ended.log
    assert len(sandbox.supabase.server.seen) == 1


def test_without_an_output_file_nothing_is_asked(unasked: Sandbox, tmp_path: Path) -> None:
    """If the output file cannot be written, the step fails before any request, with one line and no traceback."""
    ended = run_step(inputs_of(unasked), tmp_path, {"GITHUB_OUTPUT": str(tmp_path / "nowhere" / "output")})

    assert ended.status == 1
    assert [line.split("[")[1].split("]")[0] for line in errors(ended)] == ["output-unwritable"]
    assert "Traceback" not in ended.log
    assert unasked.supabase.server.seen == ()


def test_token_is_in_no_other_file(sandbox: Sandbox, tool_cache: Path, tmp_path: Path) -> None:
    """After a step, the token is in its output and in the cache, and in no other file of the job's folder."""
    token = issue_by_step(sandbox, tool_cache, tmp_path).outputs["access-token"]

    holders = {path.name for path in tmp_path.rglob("*") if path.is_file() and token.encode() in path.read_bytes()}

    assert holders == {"github_output", ".kis_token_cache.json"}


def test_redirect_is_not_followed(sandbox: Sandbox, tmp_path: Path) -> None:
    """A redirect ends the step at once. Nothing is cached, and the target of the redirect does not get the key."""
    away = Response(302, b"", {"Location": sandbox.kis.production_url})
    sandbox.supabase.server.add_fault(Fault("answer", response=away))

    ended = run_step(inputs_of(sandbox), tmp_path)

    assert ended.public == failure("store-redirects")
    assert sandbox.kis.requests == ()


def test_caller_s_python_plays_no_part(sandbox: Sandbox, tool_cache: Path, tmp_path: Path) -> None:
    """Neither the fast nor the slow path loads the caller's modules, .pth files or PYTHON variables."""
    trap = tmp_path / "trap"
    trap.mkdir()
    for name in ("json", "sitecustomize", "usercustomize", "requests", "supabase", "kis_token"):
        (trap / f"{name}.py").write_text("raise SystemExit('the caller was loaded')\n")
    env = {
        "PYTHONPATH": str(trap),
        "PYTHONHOME": "",
        "PYTHONSTARTUP": str(trap / "json.py"),
        "PYTHONIOENCODING": "ascii",
        "RUNNER_TOOL_CACHE": str(tool_cache),
    }
    assert_succeeded(run_step(inputs_of(sandbox), tmp_path / "slow", env), "oauth")
    assert_succeeded(run_step(inputs_of(sandbox), tmp_path / "fast", env), "supabase")


def test_started_plainly_it_insists_on_isolation(sandbox: Sandbox, tmp_path: Path) -> None:
    """If entrypoint.py is started without the options that isolate Python, it starts itself again with the options."""
    issue_token(sandbox)
    (tmp_path / "sitecustomize.py").write_text("raise SystemExit('the caller was loaded')\n")
    environment = step_environment(inputs_of(sandbox), {"PYTHONPATH": str(tmp_path)}, tmp_path / "second")
    del environment["PYTHONPATH"]  # Python would load sitecustomize.py before any code of this project

    done = subprocess.run(
        [sys.executable, str(CHECKOUT / "entrypoint.py")], env=environment, capture_output=True, check=False, timeout=60
    )

    assert done.returncode == 0
    assert "source<<" in Path(environment["GITHUB_OUTPUT"]).read_text()


def test_without_python_the_step_says_so(unasked: Sandbox, tmp_path: Path) -> None:
    """A machine without Python gives one error line and the outputs of a failure."""
    path = tmp_path / "bin"
    path.mkdir()

    environment = {"PATH": str(path)}
    ended = run_step(inputs_of(unasked), tmp_path / "job", environment)

    assert ended.status == 1
    assert len(errors(ended)) == 1
    assert "[python-missing]" in errors(ended)[0]
    assert ended.public == failure("python-missing")


@pytest.mark.usefixtures("child_processes")
def test_a_module_is_loaded_when_it_is_used() -> None:
    """The first access to an attribute loads the module, for each importer and for every form of import."""
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); import entrypoint; entrypoint.load_when_used('colorsys')\n"
        "import colorsys as early\n"
        "assert 'rgb_to_hsv' not in vars(early)\n"
        "from colorsys import rgb_to_hsv\n"
        "import colorsys as late\n"
        "assert late is not early and late.__spec__.name == 'colorsys'\n"
        "assert early.rgb_to_hsv is late.rgb_to_hsv is rgb_to_hsv and early.ONE_THIRD == late.ONE_THIRD\n"
        "assert not hasattr(early, 'nothing')\n"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-c", code, str(CHECKOUT)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.skipif(sys.version_info >= (3, 13), reason="there, dataclasses uses inspect for each class")
def test_warm_step_does_not_load_inspect(sandbox: Sandbox, tmp_path: Path) -> None:
    """A step with a fresh token does not load Python's module inspect."""
    issue_token(sandbox)
    environment = step_environment(inputs_of(sandbox), UNREACHABLE_INDEX, tmp_path)
    command = [sys.executable, "-I", "-S", "-X", "utf8", "-X", "importtime", str(CHECKOUT / "entrypoint.py")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    loaded = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines() if line.startswith("import time:")}
    assert "dataclasses" in loaded
    assert not loaded & {"inspect", "ast", "dis", "tokenize"}
