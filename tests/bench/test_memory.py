"""The benchmarks of one caller measure the right things. The figures of these benchmarks are not tested."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import pytest

from bench.speed import memory
from bench.speed.contestants import Course, open_course
from bench.speed.installs import PLAIN
from bench.speed.startup import FRESH, INSTALLED, count_requests, fresh_contestants

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture(scope="module")
def course(child_processes: None) -> Iterator[Course]:  # noqa: ARG001 - it starts some
    """One course for all tests of this file."""
    with open_course() as opened:
        yield opened


def test_a_warm_resolve_is_small_and_the_guide_is_not(course: Course) -> None:
    """The measured peak is the command's own peak.

    The command's peak is below that of this process, which starts the command.
    """
    row = memory.measure_memory(course, 1)
    assert 5 < row.ours[0] < 40 < row.others[0]


def test_every_contestant_does_its_task(course: Course) -> None:
    """Each command ends and has the expected source; any other result is an error."""
    contestants = fresh_contestants(course)
    assert {name for _, *pair, _ in FRESH for name in pair} <= {each.name for each in contestants}
    for contestant in contestants:
        assert course.run(contestant).seconds > 0
    assert count_requests(course) == 1
    with pytest.raises(RuntimeError, match="ended with 0"):
        course.run(course.action("action", source="oauth"))
    with pytest.raises(RuntimeError, match="ended with 3"):
        course.run(course.program("fails", sys.executable, "-c", "raise SystemExit(3)"))


def test_a_runner_has_no_bytecode_of_ours(course: Course) -> None:
    """Before each run, the bytecode in the action's copy is removed. The bytecode in this checkout is not removed."""
    folder = course.action_copy / "kis_token" / "store" / "__pycache__"
    folder.mkdir(exist_ok=True)
    (folder / "mark").touch()
    course.run(course.action("action"))
    assert not (folder / "mark").exists()


def test_size_counts_files_with_bytecode_or_without(tmp_path: Path) -> None:
    """The size is in MiB, and includes all subfolders."""
    for name, size in (("a/b/module.py", 2**20), ("a/b/__pycache__/module.pyc", 2**19)):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(bytes(size))
    assert memory.size_of(tmp_path, bytecode=True) == 1.5
    assert memory.size_of(tmp_path, bytecode=False) == 1.0


def test_targets_are_unchanged() -> None:
    """If a target changes, this test must be changed, too."""
    assert [target for *_, target in FRESH] == [1.3, 1.4, 1.4, 1.35, 0.7, None, 1.25, 1.35, 1.3]
    assert [target for *_, target in INSTALLED] == [0.22, 0.22, 1.0]
    assert PLAIN == ("supabase", "requests", "actions-toolkit")
