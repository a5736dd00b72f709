"""A runner with a runtime, a machine with stand-ins for installers, and a machine without Python."""

from __future__ import annotations

import shlex
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from kis_token.sandbox import Sandbox
from tests.github.bare_machine import BareMachine
from tests.github.entrypoint_steps import Runner
from tests.github.installer_machine import PYTHON, Machine

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kis_token.sandbox.postgres import EmbeddedPostgres


@pytest.fixture
def runner(tmp_path: Path, runtime: Path) -> Iterator[Runner]:
    """A runner of one test, for steps that do not seal."""
    yield from _lend_runner(tmp_path / "runner", runtime)


@pytest.fixture
def sealing_runner(tmp_path: Path, sealing_runtime: Path) -> Iterator[Runner]:
    """A runner of one test, for steps that seal."""
    yield from _lend_runner(tmp_path / "runner", sealing_runtime)


def _lend_runner(folder: Path, runtime: Path) -> Iterator[Runner]:
    folder.mkdir()
    yield Runner(folder, runtime)
    shutil.rmtree(folder)  # the search for secrets after a test would read every file


@pytest.fixture(scope="module")
def unasked(postgres: EmbeddedPostgres) -> Iterator[Sandbox]:
    """A sandbox for tests that send no request."""
    with Sandbox(dsn=postgres.create_database()) as sandbox:
        yield sandbox


@pytest.fixture
def machine(tmp_path: Path, child_processes: None) -> Machine:  # noqa: ARG001 - its installers
    """A machine without installers."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "requirements.txt").write_text("package==1 --hash=sha256:00\n")
    return Machine(tmp_path)


@pytest.fixture
def no_pip(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    """A Python without pip; its base Python also lacks pip."""
    bare = machine.folder / "bare"
    # Only find_spec('pip') fails, because other programs call find_spec for other packages.
    script = f"""#!/bin/sh\ncase "$*" in *"find_spec('pip')"*) exit 1;; esac\nexec {shlex.quote(PYTHON)} "$@"\n"""
    bare.write_text(script)
    bare.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(bare))
    monkeypatch.setattr(sys, "_base_executable", str(machine.folder / "none"), raising=False)


@pytest.fixture
def bare_machine(tmp_path: Path) -> BareMachine:
    """A machine with the programs of a usual system, but without Python."""
    machine = BareMachine(tmp_path / "a machine")
    for name in ("rm", "readlink", "sleep"):
        machine.add_link(name, Path(shutil.which(name) or ""))
    return machine
