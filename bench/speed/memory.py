"""``python -m bench.speed.memory``: the memory of a warm resolve, and the size of the runtime on disk.

Memory is the peak of a command or of one of its child processes. The size is that of all files after the installation.
pip compiles all modules at once. The runtime's installation compiles only the modules that its trial run imports. One
row compares the sizes without bytecode.
"""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from bench.speed import system_certificates
from bench.speed.contestants import Course, open_course, race
from bench.speed.installs import PLAIN
from bench.tables import Row, render

if TYPE_CHECKING:
    from pathlib import Path

ROUNDS = 5

_UNIT = "MiB"


def main(arguments: list[str] | None = None) -> int:
    """Print the table. Returns 0 if every target holds."""
    parser = argparse.ArgumentParser(prog="python -m bench.speed.memory", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="omit the row that installs packages")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help=f"rounds of each; {ROUNDS} by default")
    options = parser.parse_args(arguments)
    system_certificates.enter("bench.speed.memory", sys.argv[1:] if arguments is None else arguments)
    with open_course() as course:
        rows = [measure_memory(course, options.rounds)]
        if not options.quick:
            rows += measure_disk(course)
    print(render(rows))
    return 0 if all(row.holds for row in rows) else 1


def measure_memory(course: Course, rounds: int) -> Row:
    """Return the row with the peak memory of a step with a fresh stored token and of the guide's algorithm."""
    guide = course.program("guide", sys.executable, "-m", "bench.guide", env=course.trust)
    took = race(course, [course.action("action"), guide], rounds)
    ours, theirs = ([each.kilobytes / 1024 for each in took[name]] for name in ("action", "guide"))
    return Row("peak memory of a step with a fresh stored token", ours, 0.4, "guide", theirs, unit=_UNIT)


def measure_disk(course: Course) -> list[Row]:
    """Return the rows with the sizes of the runtime and of ``pip install --target`` of the guide's packages.

    The row that compares the sizes without bytecode has no target.
    """
    plain = course.program("plain folder", "python3", "-m", "pip", "install", "--quiet", "--target", "plain", *PLAIN)
    course.run(plain)
    theirs = plain.folder / "plain"
    return [
        Row(
            f"size of the runtime on disk, {title}",
            [size_of(course.tools, bytecode=bytecode)],
            at_most,
            "plain install",
            [size_of(theirs, bytecode=bytecode)],
            unit=_UNIT,
        )
        for title, bytecode, at_most in (("as installed", True, 0.25), ("without bytecode", False, None))
    ]


def size_of(folder: Path, *, bytecode: bool) -> float:
    """Return the size of all files below ``folder`` in MiB, with or without bytecode."""
    files = (path for path in folder.rglob("*") if path.is_file() and (bytecode or path.parent.name != "__pycache__"))
    return sum(path.stat().st_size for path in files) / 2**20


if __name__ == "__main__":
    sys.exit(main())
