"""entrypoint.py as the runner runs it: a child process with action.yml's own script and environment."""

from __future__ import annotations

import importlib.util
import json
import os
import py_compile
import shutil
import signal
import stat
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg
import pytest

import entrypoint
from kis_token.errors import REMEDIES
from kis_token.github.manifest import find_damage, write_manifest
from kis_token.github.runtime import ensure_runtime
from kis_token.github.summary import plain
from kis_token.sandbox import Sandbox
from kis_token.sandbox.loopback import Fault, Response
from kis_token.token import fingerprint
from tests.leaks import LEAKS
from tests.resolver_harness import issue_token
from tests.support import first_of
from tools.step import CHECKOUT, Ended, read_ended, run_step, step_command, step_environment

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from kis_token.sandbox.postgres import EmbeddedPostgres

#: An address where nobody listens: a package index out of reach.
NOWHERE = "http://127.0.0.1:9/simple"
UNREACHABLE_INDEX = {
    "PIP_INDEX_URL": NOWHERE,
    "PIP_EXTRA_INDEX_URL": NOWHERE,
    "PIP_RETRIES": "0",
    "UV_INDEX_URL": NOWHERE,
    "UV_DEFAULT_INDEX": NOWHERE,
    "UV_NO_CACHE": "1",
}


def inputs_of(sandbox: Sandbox, **further: str) -> dict[str, str]:
    """What a workflow gives the action."""
    given = {
        "supabase-url": sandbox.supabase.url,
        "supabase-key": sandbox.service_key,
        "base-url": sandbox.kis.production_url,
    }
    return given | {name.replace("_", "-"): value for name, value in further.items()}


def seen_by_people(ended: Ended) -> str:
    """Log and summary as people see them: the runner shows no add-mask command."""
    lines = [line for line in ended.log.splitlines() if not line.startswith("::add-mask::")]
    return "\n".join([*lines, ended.summary])


def errors(ended: Ended) -> list[str]:
    """The error annotations of a step."""
    return [line for line in ended.log.splitlines() if line.startswith("::error")]


def failure(*codes: str) -> dict[str, str]:
    """The outputs of a step that failed with these codes."""
    hints = dict.fromkeys(REMEDIES[code] for code in codes)
    return {"error-code": ",".join(codes), "error-hint": " ".join(hints)}


def assert_succeeded(ended: Ended, source: str) -> None:
    """The step gave a token, and showed none."""
    assert ended.status == 0, seen_by_people(ended)
    assert ended.public["source"] == source
    shown = ended.outputs["access-token"] in seen_by_people(ended)
    assert not shown, "the token is shown"


def issue_by_step(sandbox: Sandbox, tool_cache: Path, folder: Path) -> Ended:
    """A first resolve, which issues."""
    ended = run_step(inputs_of(sandbox), folder, {"RUNNER_TOOL_CACHE": str(tool_cache)})
    assert_succeeded(ended, "oauth")
    return ended


def age_token(sandbox: Sandbox, seconds: int) -> None:
    """Let the stored token end that many seconds from now; below zero: ago. Its form stops being a JWT for that."""
    value = json.dumps({"access_token": "opaque.token-of-a-test_0123456789", "app_key_id": "0" * 16})
    with psycopg.connect(sandbox.owner_dsn) as connection:
        connection.execute(
            "update api_credentials set credential_value = %s, expires_at = now() + make_interval(secs => %s)"
            " where credential_type = 'access_token'",
            [
                value.replace("0" * 16, fingerprint(sandbox.kis.accounts["production"][0].app_key)),
                seconds,
            ],
        )
        connection.execute("update credential_leases set not_before = null")


def test_warm_resolve_costs_one_request_and_installs_nothing(sandbox: Sandbox, tmp_path: Path) -> None:
    """A fresh token costs one GET, with the package index out of reach and an empty tool cache left empty."""
    token = issue_token(sandbox)
    sandbox.supabase.server.forget()

    ended = run_step(inputs_of(sandbox), tmp_path / "second", UNREACHABLE_INDEX)

    assert_succeeded(ended, "supabase")
    assert [(seen.method, seen.path) for seen in sandbox.supabase.server.seen] == [("GET", "/rest/v1/api_credentials")]
    assert list((tmp_path / "second" / "tools").iterdir()) == []
    assert fingerprint(ended.outputs["access-token"]) == token.token_id
    assert sandbox.kis.counts("production").calls == 1


def test_outputs_are_those_that_action_yml_declares(sandbox: Sandbox, tool_cache: Path, tmp_path: Path) -> None:
    """Both speeds set the same outputs, and with export-credentials and export-env the keys and variables too."""
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


@pytest.mark.usefixtures("runtime")  # with the slow step's home, no index would be found
def test_token_files_are_written_at_both_speeds(sandbox: Sandbox, tool_cache: Path, tmp_path: Path) -> None:
    """token-files is served by the fast path, without packages, and by the slow one, with the same files."""
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
    """A client that is not served is a mistake in the settings."""
    ended = run_step(inputs_of(unasked, token_files=name), tmp_path)
    assert ended.public == failure("invalid-token-files")
    assert unasked.supabase.server.seen == ()


def test_token_file_that_cannot_be_written_fails_the_step(sandbox: Sandbox, tmp_path: Path) -> None:
    """Where a file stands in place of the folder there is an error with its code, and no token among the outputs."""
    issue_token(sandbox)
    (tmp_path / "KIS").touch()
    ended = run_step(inputs_of(sandbox, token_files="kis-auth"), tmp_path / "second", {"HOME": str(tmp_path)})
    assert ended.public == failure("export-failed")
    assert len(errors(ended)) == 1


def test_cached_token_serves_when_supabase_is_down(sandbox: Sandbox, tool_cache: Path, tmp_path: Path) -> None:
    """With Supabase refusing connections a later step of the job gets the cached token, a warning, and no new issue."""
    first = issue_by_step(sandbox, tool_cache, tmp_path)
    sandbox.supabase.stop()

    ended = run_step(inputs_of(sandbox), tmp_path, UNREACHABLE_INDEX)

    assert_succeeded(ended, "cache")
    assert fingerprint(ended.outputs["access-token"]) == fingerprint(first.outputs["access-token"])
    assert "::warning::" in ended.log
    assert sandbox.kis.counts("production").calls == 1


def test_project_over_its_quota_costs_no_packages(sandbox: Sandbox, tmp_path: Path) -> None:
    """The cached token with a warning that names the quota; where nothing is cached the step fails with that."""
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
    """A token that came from Supabase is cached, 0600, for a later step without Supabase."""
    issue_token(sandbox)
    run_step(inputs_of(sandbox), tmp_path / "job")
    cache = tmp_path / "job" / "temp" / ".kis_token_cache.json"
    assert stat.S_IMODE(cache.stat().st_mode) == 0o600
    sandbox.supabase.stop()

    assert_succeeded(run_step(inputs_of(sandbox), tmp_path / "job"), "cache")


def test_stale_token_is_renewed(sandbox: Sandbox, tool_cache: Path, tmp_path: Path) -> None:
    """A token with less life than min-validity is replaced by a new one, in the store as well."""
    issue_token(sandbox)
    sandbox.kis.advance(7 * 3600)
    age_token(sandbox, 300)

    ended = run_step(inputs_of(sandbox), tmp_path / "second", {"RUNNER_TOOL_CACHE": str(tool_cache)})

    assert_succeeded(ended, "oauth")
    assert sandbox.kis.counts("production").calls == 2
    assert_succeeded(run_step(inputs_of(sandbox), tmp_path / "third"), "supabase")


def test_rotate_does_nothing_before_it_is_due(sandbox: Sandbox, tmp_path: Path) -> None:
    """mode: rotate with a young token is one GET that says when it will be due."""
    issue_token(sandbox)
    sandbox.supabase.server.forget()

    ended = run_step(inputs_of(sandbox, mode="rotate"), tmp_path / "second", UNREACHABLE_INDEX)

    assert_succeeded(ended, "supabase")
    assert "rotation: not due before" in ended.log
    assert len(sandbox.supabase.server.seen) == 1


@dataclass(frozen=True)
class TwoColdSteps:
    """Two steps that were started together on a machine without the runtime."""

    sandbox: Sandbox
    tools: Path
    ended: list[Ended]
    #: The command lines of all processes that ran meanwhile.
    commands: set[bytes]


@pytest.fixture(scope="module")
def two_cold_steps(postgres: EmbeddedPostgres, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TwoColdSteps]:
    """The packages are really installed, from the index: once for all tests that judge it."""
    folder = tmp_path_factory.mktemp("cold")
    for name in ("tools", "machine"):
        (folder / name).mkdir()
    commands: set[bytes] = set()
    done = threading.Event()

    def watch() -> None:
        while not done.wait(0.01):
            for process in Path("/proc").glob("[0-9]*"):
                with suppress(OSError):  # ended meanwhile
                    commands.add((process / "cmdline").read_bytes())

    env = {"RUNNER_TOOL_CACHE": str(folder / "tools"), "XDG_CACHE_HOME": str(folder / "machine")}
    with Sandbox(dsn=postgres.create_database()) as sandbox, ThreadPoolExecutor() as pool:
        watcher = pool.submit(watch)
        account = sandbox.kis.accounts["production"][0]
        inputs = inputs_of(sandbox, app_key=account.app_key, app_secret=account.app_secret)
        try:
            steps = [pool.submit(run_step, inputs, folder / name, env) for name in ("one", "two")]
            ended = [step.result() for step in steps]
        finally:
            done.set()
        watcher.result()
        LEAKS.judge_files(folder)
        yield TwoColdSteps(sandbox, folder / "tools", ended, commands)


def test_two_cold_steps_at_once_build_once_and_issue_once(two_cold_steps: TwoColdSteps) -> None:
    """Two jobs that start together on one self-hosted runner share one build of the runtime and one token."""
    ended = two_cold_steps.ended
    assert [step.status for step in ended] == [0, 0], [seen_by_people(step) for step in ended]
    assert len({fingerprint(step.outputs["access-token"]) for step in ended}) == 1
    assert "oauth" in {step.public["source"] for step in ended}
    assert two_cold_steps.sandbox.kis.counts("production").calls == 1
    assert len([path for path in (two_cold_steps.tools / "kis-token-action").iterdir() if path.is_dir()]) == 1


@pytest.mark.skipif(not Path("/proc/self/cmdline").exists(), reason="the process list is read from /proc")
def test_no_secret_is_on_a_command_line(two_cold_steps: TwoColdSteps) -> None:
    """While packages are installed, Supabase is asked and KIS issues, no process has a secret among its arguments."""
    account = two_cold_steps.sandbox.kis.accounts["production"][0]
    tokens = {step.outputs["access-token"] for step in two_cold_steps.ended}
    commands = two_cold_steps.commands

    assert any(b"entrypoint.py" in line for line in commands)
    assert any(b"--target" in line for line in commands)
    for secret in (two_cold_steps.sandbox.service_key, account.app_key, account.app_secret, *tokens):
        assert not any(secret.encode() in line for line in commands), "a secret is on a command line"


def test_stale_token_is_used_when_packages_cannot_be_installed(sandbox: Sandbox, tmp_path: Path) -> None:
    """A token that lives is not withheld because the renewal fails before it begins; a warning says what failed."""
    issue_token(sandbox)
    age_token(sandbox, 300)

    ended = run_step(inputs_of(sandbox), tmp_path / "second", UNREACHABLE_INDEX)

    assert_succeeded(ended, "supabase")
    assert "[runtime-failed]" in ended.log
    assert errors(ended) == []


@pytest.fixture(scope="session")
def runtime(tool_cache: Path) -> Path:
    """The runtime of all tests, built when it is not there yet."""
    files = (CHECKOUT / "requirements.txt", CHECKOUT / "requirements-uv.txt")
    return ensure_runtime(*files, os.environ | {"RUNNER_TOOL_CACHE": str(tool_cache)}, time.monotonic() + 180)


def own(path: Path) -> Path:
    """Break the link to the runtime of all tests, for a test that changes the file in place."""
    copy = path.with_name(f"{path.name}.copy")
    shutil.copy2(path, copy)
    return copy.replace(path)


class Runner:
    """A runner with a runtime that a test may damage, and whose uv installs a whole one.

    Both are links to the files of the runtime of all tests. A test that changes a file in place calls ``own`` first.
    """

    def __init__(self, folder: Path, runtime: Path) -> None:
        self.folder = folder
        self.runtime = folder / "tools" / runtime.parent.name / runtime.name
        self.source = folder / "source"
        self.source.symlink_to(runtime)
        shutil.copytree(runtime, self.runtime, copy_function=os.link)
        uv = folder / "bin" / "uv"
        uv.parent.mkdir()
        uv.write_text(f"""#!{sys.executable} -IS
import os, shutil, sys
from pathlib import Path
with Path({str(folder / "calls")!r}).open("a") as calls:
    calls.write("x")
shutil.copytree({str(self.source)!r}, sys.argv[sys.argv.index("--target") + 1], copy_function=os.link)
""")
        uv.chmod(0o755)
        self.env = UNREACHABLE_INDEX | {
            "RUNNER_TOOL_CACHE": str(folder / "tools"),
            "PATH": f"{uv.parent}{os.pathsep}{os.environ['PATH']}",
        }

    @property
    def builds(self) -> int:
        """How often it was installed."""
        calls = self.folder / "calls"
        return len(calls.read_text()) if calls.exists() else 0

    def let_uv_install_the_same(self) -> None:
        """What is damaged stays so when it is installed anew."""
        self.source.unlink()
        shutil.copytree(self.runtime, self.source, copy_function=os.link)


@pytest.fixture
def runner(tmp_path: Path, runtime: Path) -> Iterator[Runner]:
    """A runner of the test's own."""
    folder = tmp_path / "runner"
    folder.mkdir()
    yield Runner(folder, runtime)
    shutil.rmtree(folder)  # many files, in which secrets would be looked for after the test


def spoil_bytecode(runtime: Path, name: str) -> None:
    """Bytecode that Python takes for good until it reads it."""
    path = Path(py_compile.compile(str(runtime / name), doraise=True) or "")
    path.write_bytes(path.read_bytes()[:16] + bytes(1000))


def cut_bytecode(runtime: Path, name: str) -> None:
    """As a full disk leaves it."""
    path = Path(py_compile.compile(str(runtime / name), doraise=True) or "")
    os.truncate(path, 1000)


def spoil_source(runtime: Path, name: str) -> None:
    """Damage that neither size nor time shows: a disk that lost what it had confirmed."""
    path = own(runtime / name)
    before = path.stat()
    path.write_bytes(bytes(before.st_size))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    Path(importlib.util.cache_from_source(str(path))).unlink(missing_ok=True)


def spoil_compiled(runtime: Path) -> None:
    """The same with machine code."""
    (path,) = runtime.glob("cryptography/hazmat/bindings/_rust.*[od]")
    before = own(path).stat()
    path.write_bytes(bytes(before.st_size))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def cut_compiled(runtime: Path) -> None:
    """Half of it is gone: to load it would kill the process."""
    (path,) = runtime.glob("pydantic_core/_pydantic_core.*[od]")  # .so or .pyd
    os.truncate(own(path), path.stat().st_size // 2)


DAMAGE: dict[str, Callable[[Path], object]] = {
    "source missing": lambda runtime: (runtime / "httpx" / "_client.py").unlink(),
    "source cut": lambda runtime: os.truncate(own(runtime / "requests" / "models.py"), 100),
    "compiled file cut": cut_compiled,
    "bytecode spoilt, loaded at once": lambda runtime: spoil_bytecode(runtime, "actions_toolkit/core.py"),
    "bytecode spoilt, loaded to store": lambda runtime: spoil_bytecode(runtime, "postgrest/__init__.py"),
    "bytecode spoilt, loaded to issue": lambda runtime: spoil_bytecode(runtime, "requests/sessions.py"),
    "bytecode cut, loaded to issue": lambda runtime: cut_bytecode(runtime, "requests/sessions.py"),
    "source spoilt, loaded at once": lambda runtime: spoil_source(runtime, "actions_toolkit/core.py"),
    "source spoilt, loaded to store": lambda runtime: spoil_source(runtime, "postgrest/__init__.py"),
}


@pytest.mark.parametrize("name", first_of(4, DAMAGE))
def test_a_damaged_runtime_is_installed_anew_once(sandbox: Sandbox, runner: Runner, tmp_path: Path, name: str) -> None:
    """Whatever is missing, cut or cannot be loaded: the step goes on with new packages, and issues once."""
    DAMAGE[name](runner.runtime)

    ended = run_step(inputs_of(sandbox), tmp_path / "job", runner.env)

    assert_succeeded(ended, "oauth")
    assert runner.builds == 1
    assert find_damage(runner.runtime) is None
    assert sandbox.kis.counts("production").calls == 1
    assert "Traceback" not in ended.log


def test_without_a_key_nothing_needs_cryptography(sandbox: Sandbox, runner: Runner, tmp_path: Path) -> None:
    """A runtime that has none issues, stores and outputs a token."""
    for name in ("cryptography", "cffi"):
        shutil.rmtree(runner.runtime / name)
    write_manifest(runner.runtime)

    ended = run_step(inputs_of(sandbox), tmp_path / "job", runner.env)

    assert_succeeded(ended, "oauth")
    assert runner.builds == 0


def test_a_runtime_of_another_platform_is_installed_anew(sandbox: Sandbox, runner: Runner, tmp_path: Path) -> None:
    """A tool cache that was copied from another machine has compiled modules under that machine's names."""
    (path,) = runner.runtime.glob("pydantic_core/_pydantic_core.*[od]")
    path.rename(path.with_name("_pydantic_core.cpython-39-aarch64-linux-musl.so"))
    write_manifest(runner.runtime)

    ended = run_step(inputs_of(sandbox), tmp_path / "job", runner.env)

    assert_succeeded(ended, "oauth")
    assert runner.builds == 1


def test_a_runtime_for_another_machine_is_installed_anew(sandbox: Sandbox, runner: Runner, tmp_path: Path) -> None:
    """Machine code that cannot be loaded here, although it is as recorded, where a sealed value needs it."""
    spoil_compiled(runner.runtime)
    key = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="
    with psycopg.connect(sandbox.owner_dsn) as connection:
        connection.execute("delete from api_credentials")
    account = sandbox.kis.accounts["production"][0]
    inputs = inputs_of(sandbox, encryption_key=key, app_key=account.app_key, app_secret=account.app_secret)

    ended = run_step(inputs, tmp_path / "job", runner.env)

    assert_succeeded(ended, "oauth")
    assert runner.builds == 1
    told = [line for line in ended.log.splitlines() if line.startswith("The packages cannot be loaded (")]
    assert told == ["The packages cannot be loaded (_rust). They are installed anew."]


def test_packages_that_can_never_be_loaded_are_one_error(sandbox: Sandbox, runner: Runner, tmp_path: Path) -> None:
    """Where new packages are no better, the step ends after one installation, within its time, and says what it saw."""
    spoil_bytecode(runner.runtime, "actions_toolkit/core.py")
    runner.let_uv_install_the_same()

    ended = run_step(inputs_of(sandbox), tmp_path / "job", runner.env)

    assert ended.public == failure("runtime-failed")
    assert len(errors(ended)) == 1
    assert "installed anew and cannot be loaded (ValueError)" in errors(ended)[0]
    assert runner.builds == 1
    assert "Traceback" not in ended.log


@pytest.mark.skipif(os.name != "posix", reason="modes of this kind are POSIX's")
def test_umask_of_a_group_leaves_the_runtime_whole(sandbox: Sandbox, runner: Runner, tmp_path: Path) -> None:
    """Where users share their group by default, the folders of bytecode that a step makes are no damage to the next."""
    for folder in [*runner.runtime.rglob("__pycache__")]:
        shutil.rmtree(folder)
    before = os.umask(0o002)
    try:
        ended = run_step(inputs_of(sandbox), tmp_path / "job", runner.env)
    finally:
        os.umask(before)

    assert_succeeded(ended, "oauth")
    assert list(runner.runtime.rglob("__pycache__"))
    assert find_damage(runner.runtime) is None
    assert runner.builds == 0


def test_a_stale_token_is_used_when_packages_cannot_be_loaded(sandbox: Sandbox, runner: Runner, tmp_path: Path) -> None:
    """A valid token is not withheld because the packages are damaged."""
    issue_token(sandbox)
    age_token(sandbox, 300)
    spoil_bytecode(runner.runtime, "actions_toolkit/core.py")
    runner.let_uv_install_the_same()

    ended = run_step(inputs_of(sandbox), tmp_path / "second", runner.env)

    assert_succeeded(ended, "supabase")
    assert "[runtime-failed]" in ended.log
    assert errors(ended) == []


def test_the_second_start_has_the_time_of_the_first(sandbox: Sandbox, runner: Runner, tmp_path: Path) -> None:
    """The timeout counts from the first start: it does not begin anew with the packages."""
    started = time.monotonic() - 100
    environment = step_environment(inputs_of(sandbox, timeout="100s"), runner.env, tmp_path / "job")
    command = [sys.executable, "-I", "-S", "-X", "utf8", str(CHECKOUT / "entrypoint.py"), f"--reinstall={started!r}"]

    done = subprocess.run(command, env=environment, capture_output=True, check=False, timeout=60)

    assert done.returncode == 1
    assert b"[timed-out]" in done.stdout


@pytest.mark.skipif(os.name != "posix", reason="modes of this kind are POSIX's")
def test_where_every_place_is_open_the_step_works(sandbox: Sandbox, runner: Runner, tmp_path: Path) -> None:
    """As on GitHub's image for runner pods: home, tool cache and temporary folder below a folder of mode 0777."""
    home = tmp_path / "home"
    for name in ("tools", "temp"):
        (home / name).mkdir(parents=True)
    home.chmod(0o777)
    (tmp_path / "tmp").mkdir()
    (tmp_path / "tmp").chmod(0o1777)
    env = {
        "HOME": str(home),
        "XDG_CACHE_HOME": "",
        "RUNNER_TOOL_CACHE": str(home / "tools"),
        "RUNNER_TEMP": str(home / "temp"),
        "TMPDIR": str(tmp_path / "tmp"),
    }

    ended = run_step(inputs_of(sandbox), tmp_path / "job", runner.env | env)

    assert_succeeded(ended, "oauth")
    # What stays is the private folder with the machine's note of the call, which is empty.
    assert [each.name for each in (tmp_path / "tmp").iterdir()] == [f"kis-token-{os.geteuid()}"]
    assert not (home / "tools" / "kis-token-action").exists()


def test_nothing_outlasts_the_timeout(sandbox: Sandbox, tmp_path: Path) -> None:
    """Where something hangs the step ends at its timeout, with one error line and its code."""
    sandbox.supabase.server.add_fault(Fault("stall"))
    started = time.monotonic()

    ended = run_step(inputs_of(sandbox, timeout="2s"), tmp_path)

    assert ended.public == failure("timed-out")
    assert len(errors(ended)) == 1
    assert time.monotonic() - started < 10


#: A step whose end and timeout come together, with a runner that is slow to read its output.
ENDS_AT_ITS_TIMEOUT = """
import os, threading, time
from datetime import timedelta
from types import SimpleNamespace
import entrypoint
from kis_token.github.workflow import FileWorkflow

reports = threading.Event()

class Long(FileWorkflow):
    def error(self, message):
        reports.set()
        super().error(message + " " * 1_000_000)

def find_token(workflow, end):
    settings = SimpleNamespace(timeout=timedelta(seconds=time.monotonic() - entrypoint.STARTED + 0.05))
    entrypoint.start_watch(settings, Long(os.environ), end)
    reports.wait()
    return 0

entrypoint.find_token = find_token
raise SystemExit(entrypoint.run_step())
"""


@pytest.mark.usefixtures("child_processes")
def test_a_step_that_ends_at_its_timeout_is_not_aborted() -> None:
    """The watch that is reporting when the step ends has its say: Python does not abort over its output."""
    command = [sys.executable, "-c", ENDS_AT_ITS_TIMEOUT]
    environment = os.environ | {"PYTHONPATH": str(CHECKOUT)}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as step:
        with suppress(subprocess.TimeoutExpired):
            step.wait(1)  # its output is longer than the pipe, so it ends before it is read only by being aborted
        assert step.stdout is not None
        said = step.stdout.read()

    assert (step.returncode, said.count(b"[timed-out]"), b"Fatal" in said) == (1, 1, False)


@pytest.mark.skipif(os.name != "posix", reason="a runner cancels by signals on POSIX alone")
@pytest.mark.parametrize(
    ("number", "ignored"),
    first_of(
        2, [(signal.SIGTERM, False), (signal.SIGINT, True), (signal.SIGINT, False), (signal.SIGTERM, True)]
    ),  # ignored, as by a runner in the background
)
def test_cancelled_step_gives_its_turn_back(
    sandbox: Sandbox, tool_cache: Path, tmp_path: Path, number: signal.Signals, *, ignored: bool
) -> None:
    """A step that is cancelled while KIS is slow ends without a traceback, and its lease is free.

    A runner that was started by ``nohup ./run.sh &`` ignores SIGINT, and so do its children until they handle it.
    """
    sandbox.kis.production.add_fault(Fault("stall", "/oauth2/tokenP"))
    environment = step_environment(inputs_of(sandbox), {"RUNNER_TOOL_CACHE": str(tool_cache)}, tmp_path)
    output = tmp_path / "log"
    before = signal.signal(signal.SIGINT, signal.SIG_IGN) if ignored else None
    try:
        log = output.open("w")
        process = subprocess.Popen(step_command(tmp_path), env=environment, stdout=log, stderr=subprocess.STDOUT)
    finally:
        if ignored:
            signal.signal(signal.SIGINT, before)
    with log, process, psycopg.connect(sandbox.owner_dsn, autocommit=True) as connection:
        while not sandbox.kis.production.seen and process.poll() is None:
            pass  # until KIS has been asked
        process.send_signal(number)
        status = process.wait(30)
        lease = connection.execute("select holder, last_error from credential_leases").fetchone()

    assert status == 130
    assert lease == (None, "interrupted")
    assert "Traceback" not in output.read_text()


BAD_INPUTS = {
    "no url": ({"supabase-url": ""}, ["missing-supabase-url"]),
    "blank url": ({"supabase-url": "   "}, ["missing-supabase-url"]),
    "no key": ({"supabase-key": ""}, ["missing-supabase-key"]),
    "blank key": ({"supabase-key": " \n "}, ["missing-supabase-key"]),
    "no URL": ({"supabase-url": "my project"}, ["invalid-supabase-url"]),
    "http elsewhere": ({"supabase-url": "http://example.supabase.co"}, ["invalid-supabase-url"]),
    "password in url": ({"supabase-url": "https://a:b@example.supabase.co"}, ["invalid-supabase-url"]),
    "line break in key": ({"supabase-key": "sb_secret_abcdef\nghijklmnopqrstuvw"}, ["invalid-supabase-key"]),
    "blank in key": ({"supabase-key": "sb_secret_abcdef ghijklmnopqrstuvw"}, ["invalid-supabase-key"]),
    "public key": ({"supabase-key": "sb_publishable_0123456789abcdef"}, ["anon-supabase-key"]),
    "unknown mode": ({"mode": "refresh"}, ["invalid-mode"]),
    "unknown environment": ({"environment": "vts"}, ["invalid-environment"]),
    "no duration": ({"min-validity": "soon"}, ["invalid-duration"]),
    "long min-validity": ({"min-validity": "13h"}, ["invalid-duration"]),
    "no timeout": ({"timeout": "0s"}, ["invalid-duration"]),
    "no boolean": ({"export-env": "maybe"}, ["invalid-boolean"]),
    "bad service": ({"service-name": "kis real"}, ["invalid-service-name"]),
    "bad host": ({"base-url": "ftp://example"}, ["invalid-base-url"]),
    "half a key pair": ({"app-key": "PSabcdefghijklmnopqrstuvwxyz01234567"}, ["incomplete-app-key"]),
    "several at once": (
        {"supabase-url": "", "supabase-key": "", "mode": "x", "environment": "y", "timeout": "z"},
        [
            "invalid-environment",
            "missing-supabase-url",
            "missing-supabase-key",
            "invalid-mode",
            "invalid-duration",
        ],
    ),
}


@pytest.fixture(scope="module")
def unasked(postgres: EmbeddedPostgres) -> Iterator[Sandbox]:
    """A sandbox for all tests in which nothing is asked."""
    with Sandbox(dsn=postgres.create_database()) as sandbox:
        yield sandbox


def assert_faults(ended: Ended, codes: list[str], sandbox: Sandbox, folder: Path) -> None:
    """Each fault is one error line with its code and what to do; exit 1, no traceback, nothing asked or written."""
    assert ended.status == 1
    assert len(errors(ended)) == len(codes)
    for line, code in zip(errors(ended), codes, strict=True):
        assert f"[{code}]" in line
        assert REMEDIES[code] in line
    assert ended.public == failure(*codes)
    assert "Traceback" not in ended.log
    assert sandbox.supabase.server.seen == ()
    assert sandbox.kis.requests == ()
    assert list((folder / "temp").iterdir()) == []
    assert all(plain(REMEDIES[code]) in ended.summary for code in codes)


@pytest.mark.parametrize("case", BAD_INPUTS, ids=str)
def test_bad_input_gives_one_line_for_each_fault(
    unasked: Sandbox, tmp_path: Path, case: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each fault is named before the step's time begins to run: by the program's own code, in this process."""
    changed, codes = BAD_INPUTS[case]
    environment = step_environment(inputs_of(unasked) | changed, UNREACHABLE_INDEX, tmp_path)
    monkeypatch.setattr(os, "environ", environment)
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    monkeypatch.setattr(entrypoint, "start_watch", lambda *_: pytest.fail("these inputs have no fault"))

    status = entrypoint.run_step()

    assert_faults(read_ended(status, "".join(capsys.readouterr()), environment), codes, unasked, tmp_path)


@pytest.mark.parametrize("case", ["no url", "line break in key", "several at once"])
def test_bad_input_of_a_step(unasked: Sandbox, tmp_path: Path, case: str) -> None:
    """The same in a step: one fault, a value of two lines, and several faults."""
    changed, codes = BAD_INPUTS[case]

    ended = run_step(inputs_of(unasked) | changed, tmp_path, UNREACHABLE_INDEX)

    assert_faults(ended, codes, unasked, tmp_path)


def test_blanks_around_values_are_cut_off(sandbox: Sandbox, tmp_path: Path) -> None:
    """A secret that was pasted with a line break at its end works."""
    issue_token(sandbox)
    padded = {"supabase-key": f"  {sandbox.service_key}\n", "supabase-url": f" {sandbox.supabase.url}/ "}

    assert_succeeded(run_step(inputs_of(sandbox) | padded, tmp_path / "second"), "supabase")


def test_pull_request_of_a_fork_is_told_why(unasked: Sandbox, tmp_path: Path) -> None:
    """Without secrets because the pull request comes from a fork, the error says just that."""
    repositories = {"head": {"repo": {"full_name": "fork/bot"}}, "base": {"repo": {"full_name": "someone/bot"}}}
    event = tmp_path / "event.json"
    event.write_text(json.dumps({"pull_request": repositories}))
    env = {"GITHUB_EVENT_NAME": "pull_request", "GITHUB_EVENT_PATH": str(event)}

    ended = run_step({"base-url": unasked.kis.production_url}, tmp_path / "job", env)

    assert ended.public == failure("secrets-withheld")
    assert len(errors(ended)) == 1


def _no_tables(sandbox: Sandbox) -> dict[str, str]:
    with psycopg.connect(sandbox.owner_dsn) as connection:
        connection.execute("drop table api_credentials cascade")
    return {}


def _no_functions(sandbox: Sandbox) -> dict[str, str]:
    with psycopg.connect(sandbox.owner_dsn) as connection:
        connection.execute("drop function begin_issuance")
    return {}


def _guide_table_alone(sandbox: Sandbox) -> dict[str, str]:
    with psycopg.connect(sandbox.owner_dsn) as connection:
        connection.execute("alter table api_credentials drop column version cascade")
    return {}


def _anon_key(sandbox: Sandbox) -> dict[str, str]:
    # A key that does not show what it is, unlike those that begin with sb_publishable_.
    sandbox.supabase.stop()
    key = "0123456789abcdefghijklmnopqrstuvwxyz"
    sandbox.supabase._roles[key] = "anon"
    sandbox.supabase.start()
    return {"supabase-key": key}


def _wrong_key(_: Sandbox) -> dict[str, str]:
    return {"supabase-key": "sb_secret_of-another-project-0123456789"}


def _swapped_environment(sandbox: Sandbox) -> dict[str, str]:
    return {"base-url": sandbox.kis.paper_url}


def _no_keys(sandbox: Sandbox) -> dict[str, str]:
    with psycopg.connect(sandbox.owner_dsn) as connection:
        connection.execute("delete from api_credentials")
    return {}


def _wrong_secret(sandbox: Sandbox) -> dict[str, str]:
    with psycopg.connect(sandbox.owner_dsn) as connection:
        connection.execute("update api_credentials set credential_value = 'x' || credential_value"
                           " where credential_type = 'app_secret'")  # fmt: skip
    return {}


MISTAKES = {
    "store-table-missing": _no_tables,
    "store-column-missing": _guide_table_alone,
    "store-function-missing": _no_functions,
    "store-permission-denied": _anon_key,
    "store-key-rejected": _wrong_key,
    "kis-key-refused": _swapped_environment,
    "kis-secret-refused": _wrong_secret,
    "missing-app-key": _no_keys,
}


@pytest.mark.parametrize("code", first_of(4, MISTAKES))
def test_mistake_in_the_set_up_is_named(sandbox: Sandbox, tool_cache: Path, tmp_path: Path, code: str) -> None:
    """A mistake that only Supabase or KIS can see is one error line with its code and remedy; nothing is stored."""
    changed = MISTAKES[code](sandbox)

    ended = run_step(inputs_of(sandbox) | changed, tmp_path, {"RUNNER_TOOL_CACHE": str(tool_cache)})

    assert ended.status == 1
    assert len(errors(ended)) == 1, seen_by_people(ended)
    assert f"[{code}]" in errors(ended)[0]
    assert REMEDIES[code] in errors(ended)[0]
    assert ended.public == failure(code)
    assert "Traceback" not in ended.log
    assert sandbox.kis.counts("production").issues == 0
    assert not (tmp_path / "temp" / ".kis_token_cache.json").exists()


def test_without_an_output_file_nothing_is_asked(unasked: Sandbox, tmp_path: Path) -> None:
    """Where the output cannot be written the step fails before it asks anybody, with one line and no traceback."""
    ended = run_step(inputs_of(unasked), tmp_path, {"GITHUB_OUTPUT": str(tmp_path / "nowhere" / "output")})

    assert ended.status == 1
    assert [line.split("[")[1].split("]")[0] for line in errors(ended)] == ["output-unwritable"]
    assert "Traceback" not in ended.log
    assert unasked.supabase.server.seen == ()


def test_caller_s_python_plays_no_part(sandbox: Sandbox, tool_cache: Path, tmp_path: Path) -> None:
    """Modules, .pth files and PYTHON variables of the caller are not loaded, on either path."""
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
    """Started without its flags it starts itself again with them."""
    issue_token(sandbox)
    (tmp_path / "sitecustomize.py").write_text("raise SystemExit('the caller was loaded')\n")
    environment = step_environment(inputs_of(sandbox), {"PYTHONPATH": str(tmp_path)}, tmp_path / "second")
    del environment["PYTHONPATH"]  # the first start would load it before any code of ours runs

    done = subprocess.run(
        [sys.executable, str(CHECKOUT / "entrypoint.py")], env=environment, capture_output=True, check=False, timeout=60
    )

    assert done.returncode == 0
    assert "source<<" in Path(environment["GITHUB_OUTPUT"]).read_text()


def test_without_python_the_step_says_so(unasked: Sandbox, tmp_path: Path) -> None:
    """On a machine without Python there is one error line, and the outputs of a failure."""
    path = tmp_path / "bin"
    path.mkdir()

    environment = {"PATH": str(path)}
    ended = run_step(inputs_of(unasked), tmp_path / "job", environment)

    assert ended.status == 1
    assert len(errors(ended)) == 1
    assert "[python-missing]" in errors(ended)[0]
    assert ended.public == failure("python-missing")


def test_token_is_in_no_other_file(sandbox: Sandbox, tool_cache: Path, tmp_path: Path) -> None:
    """After a step the token is in its output and in the cache, and nowhere else in the job's folder."""
    token = issue_by_step(sandbox, tool_cache, tmp_path).outputs["access-token"]

    holders = {path.name for path in tmp_path.rglob("*") if path.is_file() and token.encode() in path.read_bytes()}

    assert holders == {"github_output", ".kis_token_cache.json"}


def test_redirect_is_not_followed(sandbox: Sandbox, tmp_path: Path) -> None:
    """A redirect ends the step at once, with nothing cached; the key is not carried along."""
    away = Response(302, b"", {"Location": sandbox.kis.production_url})
    sandbox.supabase.server.add_fault(Fault("answer", response=away))

    ended = run_step(inputs_of(sandbox), tmp_path)

    assert ended.public == failure("store-redirects")
    assert sandbox.kis.requests == ()
