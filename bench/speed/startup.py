"""``python -m bench.speed.startup``: the cost of a step compared with alternatives, and the parts of its time.

Supabase and KIS are the sandbox, over https on loopback, in a separate process; no delay is added. All compared
commands run in turns. A figure is the median of all rounds, from the start of a process to its end. All commands read
the machine's own certificates, as on a real machine. Our files have no bytecode, because a runner fetches them for each
job. Only in the rows about an installed library do they have bytecode. The packages of the script with requests have no
bytecode either, except in the row "compiled". The bare scripts start with the action's own flags, but without the shell
that starts the action.
"""

from __future__ import annotations

import argparse
import os
import platform
import signal
import sys
from typing import TYPE_CHECKING

from bench.speed import system_certificates
from bench.speed.breakdown import measure_parts
from bench.speed.contestants import HERE, PLAIN_PYTHON, Contestant, Course, Took, copy_distributions, open_course, race
from bench.speed.installs import measure_installs
from bench.tables import Row, render

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    _Comparison = tuple[str, str, str, float | None]

ROUNDS = 5
#: Short rounds are repeated this many times as often as other rounds.
CHEAP = 3

#: Settings with which pip and uv cannot reach a package index.
NO_INDEX = dict.fromkeys(("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "UV_DEFAULT_INDEX"), "http://127.0.0.1:9/simple")

#: The packages that ``pip install requests`` installs.
REQUESTS = ("requests", "urllib3", "certifi", "idna", "charset-normalizer")

_LIBRARY = "from kis_token import get_token; get_token()"

#: The rows: the case, this project's command, the alternative's command, and the highest allowed ratio (None: no
#: target). The functions below define the names of the commands.
FRESH: tuple[_Comparison, ...] = (
    ("fresh token, nothing installed", "action", "bare script", 1.3),
    ("fresh token, with export-credentials and export-env", "action, exports", "bare script", 1.4),
    ("`rotate` while no renewal is due, nothing installed", "action, rotate", "bare script", 1.4),
    ("fresh sealed token, nothing installed, no package index", "action, sealed", "action", 1.35),
    ("fresh token, nothing installed", "action", "script with requests", 0.7),
    ("fresh token, nothing installed", "action", "script with requests, compiled", None),
    ("fresh token, keyless job", "action, keyless", "action", 1.25),
    ("fresh sealed token, keyless job", "action, keyless and sealed", "action, keyless", 1.35),
    ("Supabase refuses connections, token in the cache, nothing installed", "action, no Supabase", "bare script", 1.3),
)
INSTALLED: tuple[_Comparison, ...] = (
    ("`kis-token get`, fresh token", "kis-token get", "guide", 0.22),
    ("`from kis_token import get_token`, fresh token", "library", "guide", 0.22),
    ("the step issues a token, runtime installed", "action, issues", "guide, issues", 1.0),
)


def main(arguments: list[str] | None = None) -> int:
    """Print the tables. Returns 0 if every target holds."""
    parser = argparse.ArgumentParser(prog="python -m bench.speed.startup", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="omit the rows that install packages, and the parts")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help=f"rounds of each; {ROUNDS} by default")
    options = parser.parse_args(arguments)
    system_certificates.enter("bench.speed.startup", sys.argv[1:] if arguments is None else arguments)
    print(f"{os.cpu_count()} cores, Python {platform.python_version()}, {platform.system()} {platform.machine()}.\n")
    with open_course() as course:
        rows = measure(course, options.rounds, quick=options.quick)
        print(render(rows), flush=True)
        if not options.quick:
            print("", *measure_parts(course), sep="\n\n")
    return 0 if all(row.holds for row in rows) else 1


def measure(course: Course, rounds: int, *, quick: bool) -> list[Row]:
    """Return all rows. If ``quick`` is True, the rows that install packages are left out."""
    fresh = race(course, fresh_contestants(course), CHEAP * rounds)
    rows = [
        *compare(FRESH, fresh),
        Row("HTTP requests of a step with a fresh stored token", [count_requests(course)], at_most=1, unit=""),
        *compare(INSTALLED, race(course, installed_contestants(course), rounds)),
    ]
    if not quick:
        rows += measure_installs(course, [each.seconds for each in fresh["action"]], rounds)
    return rows


def compare(rows: Sequence[_Comparison], took: Mapping[str, list[Took]]) -> list[Row]:
    """Return the rows with the measured figures."""
    seconds = {name: [each.seconds for each in all_of_it] for name, all_of_it in took.items()}
    return [Row(what, seconds[ours], at_most, other, seconds[other]) for what, ours, other, at_most in rows]


def fresh_contestants(course: Course) -> list[Contestant]:
    """Return the commands that find a fresh or a cached token."""
    cached = course.action("action, no Supabase")
    course.run(cached)  # fills the cache
    packages = copy_distributions(course.folder / "requests", *REQUESTS)
    requests_script = (sys.executable, f"{HERE / 'bare_requests.py'}")
    trust = course.trust
    return [
        course.program("bare script", *PLAIN_PYTHON, f"{HERE / 'bare.py'}"),
        course.action("action"),
        course.action("action, exports", export_credentials="true", export_env="true"),
        course.action("action, rotate", mode="rotate"),
        course.sealed("action, sealed", env=NO_INDEX),
        course.keyless("action, keyless"),
        course.keyless("action, keyless and sealed", sealed=True),
        course.program("script with requests", *requests_script, packages=packages, cold=(packages,), env=trust),
        course.program("script with requests, compiled", *requests_script, env=trust),
        course.action("action, no Supabase", before=("down",), after=("up",), source="cache", keeps=("temp",)),
    ]


def installed_contestants(course: Course) -> list[Contestant]:
    """Return the commands for which all packages are already installed."""
    tools = {"RUNNER_TOOL_CACHE": f"{course.tools}"}
    guide = (sys.executable, "-m", "bench.guide")
    return [
        course.program("guide", *guide, env=course.trust),
        course.program("kis-token get", sys.executable, "-m", "kis_token", "get"),
        course.program("library", sys.executable, "-c", _LIBRARY),
        course.program("guide, issues", *guide, env=course.trust, before=("empty",)),
        course.action("action, issues", env=tools, before=("empty",), source="oauth"),
    ]


def count_requests(course: Course) -> int:
    """Return the number of requests that a warm resolve sends to Supabase and KIS."""
    course.servers.ask("count")
    course.run(course.action("action"))
    return sum(course.servers.ask("count"))


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    sys.exit(main())
