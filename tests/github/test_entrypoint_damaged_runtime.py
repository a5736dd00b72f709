"""A step whose packages are damaged installs them again, once."""

from __future__ import annotations

import importlib.util
import os
import py_compile
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg
import pytest

from kis_token.github.runtime_manifest import find_damage, write_manifest
from tests.github.entrypoint_steps import Runner, age_token, assert_succeeded, errors, failure, inputs_of
from tests.resolver_harness import issue_token
from tests.support import first_of
from tools.step import CHECKOUT, run_step, step_environment

if TYPE_CHECKING:
    from collections.abc import Callable

    from kis_token.sandbox import Sandbox


def own(path: Path) -> Path:
    """Replace the hard link by a copy, for a test that changes the file in place."""
    copy = path.with_name(f"{path.name}.copy")
    shutil.copy2(path, copy)
    return copy.replace(path)


def spoil_bytecode(runtime: Path, name: str) -> None:
    """Damage bytecode so that Python accepts its header and fails to read the rest."""
    path = Path(py_compile.compile(str(runtime / name), doraise=True) or "")
    path.write_bytes(path.read_bytes()[:16] + bytes(1000))


def cut_bytecode(runtime: Path, name: str) -> None:
    """Truncate bytecode, as a full disk does."""
    path = Path(py_compile.compile(str(runtime / name), doraise=True) or "")
    os.truncate(path, 1000)


def spoil_source(runtime: Path, name: str) -> None:
    """Overwrite a file but keep its size and time, as if a disk had lost data after it confirmed the write."""
    path = own(runtime / name)
    before = path.stat()
    path.write_bytes(bytes(before.st_size))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    Path(importlib.util.cache_from_source(str(path))).unlink(missing_ok=True)


def spoil_compiled(runtime: Path) -> None:
    """Overwrite a compiled module, but keep its size and time."""
    (path,) = runtime.glob("cryptography/hazmat/bindings/_rust.*[od]")
    before = own(path).stat()
    path.write_bytes(bytes(before.st_size))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def cut_compiled(runtime: Path) -> None:
    """Remove half of a compiled module. An import of the rest would kill the process."""
    (path,) = runtime.glob("charset_normalizer/md.*[od]")  # .so or .pyd
    os.truncate(own(path), path.stat().st_size // 2)


DAMAGE: dict[str, Callable[[Path], object]] = {
    "source missing": lambda runtime: (runtime / "requests" / "adapters.py").unlink(),
    "source cut": lambda runtime: os.truncate(own(runtime / "requests" / "models.py"), 100),
    "compiled file cut": cut_compiled,
    "bytecode spoilt, loaded at once": lambda runtime: spoil_bytecode(runtime, "actions_toolkit/core.py"),
    "bytecode spoilt, loaded to issue": lambda runtime: spoil_bytecode(runtime, "requests/sessions.py"),
    "bytecode cut, loaded to issue": lambda runtime: cut_bytecode(runtime, "requests/sessions.py"),
    "source spoilt, loaded at once": lambda runtime: spoil_source(runtime, "actions_toolkit/core.py"),
}


@pytest.mark.parametrize("name", first_of(4, DAMAGE))
def test_a_damaged_runtime_is_installed_anew_once(sandbox: Sandbox, runner: Runner, tmp_path: Path, name: str) -> None:
    """If files are missing, truncated or cannot be loaded, the step installs the packages again and issues once."""
    DAMAGE[name](runner.runtime)

    ended = run_step(inputs_of(sandbox), tmp_path / "job", runner.env)

    assert_succeeded(ended, "oauth")
    assert runner.builds == 1
    assert find_damage(runner.runtime) is None
    assert sandbox.kis.counts("production").calls == 1
    assert "Traceback" not in ended.log


@pytest.mark.matrix
@pytest.mark.parametrize("spoil", [spoil_bytecode, spoil_source])
def test_a_package_for_issuing_without_the_store_is_installed_anew(
    sandbox: Sandbox, runner: Runner, tmp_path: Path, spoil: Callable[[Path, str], None]
) -> None:
    """If the store is down and filelock cannot be loaded, the packages are installed again. One token is issued."""
    spoil(runner.runtime, "filelock/__init__.py")
    account = sandbox.kis.accounts["production"][0]
    inputs = inputs_of(sandbox, app_key=account.app_key, app_secret=account.app_secret, timeout="40s")
    sandbox.supabase.stop()

    ended = run_step(inputs, tmp_path / "job", runner.env)

    assert_succeeded(ended, "oauth")
    assert runner.builds == 1
    assert find_damage(runner.runtime) is None
    assert sandbox.kis.counts("production").calls == 1
    assert "Traceback" not in ended.log


def rename_compiled(runtime: Path) -> None:
    """Give a compiled module its file name of another machine, as if the tool cache was copied from that machine."""
    (path,) = runtime.glob("_cffi_backend.*[od]")
    path.rename(path.with_name("_cffi_backend.cpython-39-aarch64-linux-musl.so"))
    write_manifest(runtime)


OF_ANOTHER_MACHINE = {"_rust": spoil_compiled, "_cffi_backend": rename_compiled}


@pytest.mark.parametrize("module", OF_ANOTHER_MACHINE)
def test_a_runtime_for_another_machine_is_installed_anew(
    sandbox: Sandbox, sealing_runner: Runner, tmp_path: Path, module: str
) -> None:
    """If a step seals and a compiled module is for another machine, the step installs the packages again."""
    OF_ANOTHER_MACHINE[module](sealing_runner.runtime)
    key = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="
    with psycopg.connect(sandbox.owner_dsn) as connection:
        connection.execute("delete from api_credentials")
    account = sandbox.kis.accounts["production"][0]
    inputs = inputs_of(sandbox, encryption_key=key, app_key=account.app_key, app_secret=account.app_secret)

    ended = run_step(inputs, tmp_path / "job", sealing_runner.env)

    assert_succeeded(ended, "oauth")
    assert sealing_runner.builds == 1
    assert sandbox.kis.counts("production").calls == 1
    with psycopg.connect(sandbox.owner_dsn) as connection:
        outcomes = connection.execute("select outcome from credential_issuances order by id").fetchall()
    assert outcomes == [("granted",), ("committed",)], "the lease was taken before the packages were known to work"
    told = [line for line in ended.log.splitlines() if line.startswith("The packages cannot be loaded (")]
    assert told == [f"The packages cannot be loaded ({module}). They are installed again."]


def test_packages_that_can_never_be_loaded_are_one_error(sandbox: Sandbox, runner: Runner, tmp_path: Path) -> None:
    """If the newly installed packages cannot be loaded, the step fails with the reason and does not install again."""
    spoil_bytecode(runner.runtime, "actions_toolkit/core.py")
    runner.let_uv_install_the_same()

    ended = run_step(inputs_of(sandbox), tmp_path / "job", runner.env)

    assert ended.public == failure("runtime-failed")
    assert len(errors(ended)) == 1
    assert "installed again and cannot be loaded (ValueError)" in errors(ended)[0]
    assert runner.builds == 1
    assert "Traceback" not in ended.log


def test_a_stale_token_is_used_when_packages_cannot_be_loaded(sandbox: Sandbox, runner: Runner, tmp_path: Path) -> None:
    """A valid token is output even if the packages are damaged."""
    issue_token(sandbox)
    age_token(sandbox, 300)
    spoil_bytecode(runner.runtime, "actions_toolkit/core.py")
    runner.let_uv_install_the_same()

    ended = run_step(inputs_of(sandbox), tmp_path / "second", runner.env)

    assert_succeeded(ended, "supabase")
    assert "[runtime-failed]" in ended.log
    assert errors(ended) == []


def test_the_second_start_has_the_time_of_the_first(sandbox: Sandbox, runner: Runner, tmp_path: Path) -> None:
    """If the step starts itself again, its timeout still counts from the first start."""
    started = time.monotonic() - 100
    environment = step_environment(inputs_of(sandbox, timeout="100s"), runner.env, tmp_path / "job")
    command = [sys.executable, "-I", "-S", "-X", "utf8", str(CHECKOUT / "entrypoint.py"), f"--reinstall={started!r}"]

    done = subprocess.run(command, env=environment, capture_output=True, check=False, timeout=60)

    assert done.returncode == 1
    assert b"[timed-out]" in done.stdout
