"""Two steps that need the packages install them only once, in a place that no other user can change."""

from __future__ import annotations

import os
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from kis_token.github.runtime_manifest import find_damage
from kis_token.sandbox import Sandbox
from kis_token.token import fingerprint
from tests.github.entrypoint_steps import (
    UNREACHABLE_INDEX,
    Runner,
    age_token,
    assert_succeeded,
    errors,
    inputs_of,
    seen_by_people,
)
from tests.leaks import LEAKS
from tests.resolver_harness import issue_token
from tools.step import Ended, run_step

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kis_token.sandbox.postgres import EmbeddedPostgres


@dataclass(frozen=True)
class TwoColdSteps:
    """The results of two steps that were started together on a machine without the runtime."""

    sandbox: Sandbox
    tools: Path
    ended: list[Ended]
    #: The command lines of all processes that ran during these steps.
    commands: set[bytes]


@pytest.fixture(scope="module")
def two_cold_steps(postgres: EmbeddedPostgres, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TwoColdSteps]:
    """Really install the packages from the index, once for all tests that use them."""
    folder = tmp_path_factory.mktemp("cold")
    for name in ("tools", "machine"):
        (folder / name).mkdir()
    commands: set[bytes] = set()
    done = threading.Event()

    def watch() -> None:
        while not done.wait(0.05):
            for process in Path("/proc").glob("[0-9]*"):
                with suppress(OSError):  # the process has ended in the meantime
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
    """No process has a secret in its arguments during the installation, the requests to Supabase and the issue."""
    account = two_cold_steps.sandbox.kis.accounts["production"][0]
    tokens = {step.outputs["access-token"] for step in two_cold_steps.ended}
    commands = two_cold_steps.commands

    assert any(b"entrypoint.py" in line for line in commands)
    assert any(b"--target" in line for line in commands)
    for secret in (two_cold_steps.sandbox.service_key, account.app_key, account.app_secret, *tokens):
        assert not any(secret.encode() in line for line in commands), "a secret is on a command line"


def test_stale_token_is_used_when_packages_cannot_be_installed(sandbox: Sandbox, tmp_path: Path) -> None:
    """If the packages cannot be installed, a valid token is output, and a warning has the reason."""
    issue_token(sandbox)
    age_token(sandbox, 300)

    ended = run_step(inputs_of(sandbox), tmp_path / "second", UNREACHABLE_INDEX)

    assert_succeeded(ended, "supabase")
    assert "[runtime-failed]" in ended.log
    assert errors(ended) == []


def test_without_a_key_nothing_needs_cryptography(sandbox: Sandbox, runner: Runner, tmp_path: Path) -> None:
    """A runtime without cryptography issues, stores and outputs a token."""
    assert not [name for name in ("cryptography", "cffi") if (runner.runtime / name).exists()]

    ended = run_step(inputs_of(sandbox), tmp_path / "job", runner.env)

    assert_succeeded(ended, "oauth")
    assert runner.builds == 0


@pytest.mark.skipif(os.name != "posix", reason="modes of this kind are POSIX's")
def test_umask_of_a_group_leaves_the_runtime_whole(sandbox: Sandbox, runner: Runner, tmp_path: Path) -> None:
    """If the umask lets a group write, the next step does not take a step's new bytecode folders for damage."""
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


@pytest.mark.skipif(os.name != "posix", reason="modes of this kind are POSIX's")
def test_where_every_place_is_open_the_step_works(sandbox: Sandbox, runner: Runner, tmp_path: Path) -> None:
    """A step works on GitHub's image for runner pods, where all usual places are below a folder of mode 0777."""
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
    # Only the private folder stays. The folder's only file, the machine's record of the tokenP call, is empty.
    assert [each.name for each in (tmp_path / "tmp").iterdir()] == [f"kis-token-{os.geteuid()}"]
    assert not (home / "tools" / "kis-token-action").exists()
