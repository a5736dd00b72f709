"""``python -m bench.speed.breakdown``: the parts of the time that a command takes.

A ladder is a list of programs. Each program does the work of the previous program and of one further part. The cost of
a part is the difference between the medians of its program and of the previous program. All programs run in turns.
"""

from __future__ import annotations

import argparse
import compileall
import shutil
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bench.speed import system_certificates
from bench.speed.contestants import PLAIN_PYTHON, Contestant, Course, middle, open_course, race
from bench.speed.imports import ASKED
from bench.tables import markdown

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from bench.speed.contestants import Took

ROUNDS = 9

_SHELL = ("sh", "-e", "-c", 'exec "$@"', "sh")

_IMPORTS = f"import {', '.join(ASKED)}; "
#: The two contexts of a step. If the machine has a prepared folder of certificates, OpenSSL reads a certificate of this
#: folder when it needs the certificate. If variables name certificates, OpenSSL reads all certificates.
_AS_NEEDED = "ssl.create_default_context(capath=ssl.get_default_verify_paths().openssl_capath)"
_ALL = "ssl.create_default_context()"
_ADDRESS = "urllib.parse.urlsplit(os.environ['SUPABASE_URL']).netloc"
_CONNECTED = f"c = http.client.HTTPSConnection({_ADDRESS}, context=t); c.connect(); "
_ASKED = (
    "k = os.environ['SUPABASE_SERVICE_ROLE_KEY'];"
    " c.request('GET', '/rest/v1/api_credentials?select=credential_type,credential_value,expires_at,version"
    "&service_name=eq.kis&is_active=is.true', headers={'apikey': k, 'Authorization': 'Bearer ' + k});"
    " json.loads(c.getresponse().read())"
)
_CLIENT = "import os; from supabase import create_client; "
_CREATED = "create_client(os.environ['SUPABASE_URL'], os.environ['SUPABASE_SERVICE_ROLE_KEY'])"


@dataclass(frozen=True, slots=True)
class Ladder:
    """A command in parts: the name of each part, with the program that does the work up to this part."""

    title: str
    rungs: Sequence[tuple[str, Contestant]]

    def table(self, took: Mapping[str, Sequence[Took]]) -> str:
        """Return the parts with their milliseconds and shares, and the total."""
        reached = [1000 * middle(took[contestant.name]) for _, contestant in self.rungs]
        parts = [after - before for before, after in zip([0.0, *reached], reached, strict=False)]
        lines = [
            (name, f"{part:.1f}", f"{part / reached[-1]:.0%}")
            for (name, _), part in zip(self.rungs, parts, strict=True)
        ]
        return markdown((self.title, "ms", "share"), [*lines, ("total", f"{reached[-1]:.1f}", "100%")])


def main(arguments: list[str] | None = None) -> int:
    """Print the tables. The exit status does not depend on the figures."""
    parser = argparse.ArgumentParser(prog="python -m bench.speed.breakdown", description=__doc__)
    parser.add_argument("--rounds", type=int, default=ROUNDS, help=f"rounds of each; {ROUNDS} by default")
    options = parser.parse_args(arguments)
    system_certificates.enter("bench.speed.breakdown", sys.argv[1:] if arguments is None else arguments)
    with open_course() as course:
        print(*measure_parts(course, options.rounds), sep="\n\n")
    return 0


def measure_parts(course: Course, rounds: int = ROUNDS) -> list[str]:
    """Return the tables, as Markdown."""
    tables = []
    for ladder in (_warm(course), _command(course), _issuing(course), _guide(course)):
        took = race(course, [contestant for _, contestant in ladder.rungs], rounds)
        tables.append(ladder.table(took))
    return tables


def _warm(course: Course) -> Ladder:
    compiled = shutil.copytree(course.action_copy, f"{course.folder / 'compiled'}")
    compileall.compile_dir(compiled, quiet=1)
    context = f"{_IMPORTS}t = {_AS_NEEDED if course.is_in_system else _ALL}; "

    def plain(name: str, code: str) -> Contestant:
        return course.program(f"warm, {name}", *_SHELL, *PLAIN_PYTHON, "-c", code)

    return Ladder(
        "fresh token, nothing installed",
        [
            ("shell", course.program("warm, shell", *_SHELL, "true")),
            ("Python", plain("python", "")),
            ("imports of the standard library", plain("imports", _IMPORTS)),
            ("preparing TLS", plain("context", context)),
            ("connection and handshake", plain("connection", context + _CONNECTED)),
            ("request and answer", plain("request", context + _CONNECTED + _ASKED)),
            ("our own code", course.action("warm, with bytecode", env={"GITHUB_ACTION_PATH": compiled}, cold=())),
            ("compiling our code", course.action("warm, without bytecode")),
        ],
    )


def _command(course: Course) -> Ladder:
    def python(name: str, *arguments: str) -> Contestant:
        return course.program(f"get, {name}", sys.executable, *arguments)

    return Ladder(
        "kis-token get, fresh token",
        [
            ("start of Python, with `.pth` files of packages", python("python", "-c", "")),
            (
                "imports of `click` and of our commands",
                python("cli", "-c", "import kis_token.cli, kis_token.cli.token_commands"),
            ),
            ("imports of the chain", python("chain", "-c", "import kis_token.cli, kis_token.wiring")),
            ("certificates, request, output", python("whole", "-m", "kis_token", "get")),
        ],
    )


def _issuing(course: Course) -> Ladder:
    packages = next(path for path in (course.tools / "kis-token-action").iterdir() if path.is_dir())
    found = (
        f"import sys; sys.path[:0] = [{f'{course.action_copy}'!r}, {f'{packages}'!r}]; import kis_token.github.action; "
    )
    tools = {"RUNNER_TOOL_CACHE": f"{course.tools}"}

    def plain(name: str, code: str) -> Contestant:
        return course.program(f"issues, {name}", *_SHELL, *PLAIN_PYTHON, "-c", code, cold=(course.action_copy,))

    return Ladder(
        "the step issues a token, runtime installed",
        [
            ("shell and Python", plain("python", "")),
            ("imports of our code and its dependencies", plain("action", found)),
            (
                "reading, lease, tokenP, storing, output",
                course.action("issues, whole", env=tools, before=("empty",), source="oauth"),
            ),
        ],
    )


def _guide(course: Course) -> Ladder:
    def python(name: str, code: str) -> Contestant:
        return course.program(f"guide, {name}", sys.executable, "-c", code, env=course.trust)

    return Ladder(
        "bench/guide.py, fresh token, for comparison",
        [
            ("start of Python, with `.pth` files of packages", python("python", "")),
            ("imports", python("imports", "import bench.guide")),
            ("making the client", python("client", f"import bench.guide; {_CLIENT}{_CREATED}")),
            (
                "two requests, output",
                course.program("guide, whole", sys.executable, "-m", "bench.guide", env=course.trust),
            ),
        ],
    )


if __name__ == "__main__":
    sys.exit(main())
