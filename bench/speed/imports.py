"""``python -m bench.speed.imports``: the modules that a warm resolve imports, and those that ASKED does not explain.

The step's own program runs with a real answer, with the flags of action.yml, and with Python's record of imports. The
table has each module's own milliseconds and the kilobytes of its file. A module is listed as unasked if it is not in
ASKED and no module in ASKED imports it. If there is such a module, the exit status is 1.
"""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from bench.speed.contestants import open_course
from bench.tables import markdown

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

#: The modules of the standard library that a warm resolve uses, and their purpose.
ASKED = {
    "__future__": "types that are not evaluated",
    "base64": "the claims of a token",
    "binascii": "the claims of a token",
    "contextlib": "ignored errors, closed files",
    "dataclasses": "settings, token, slot",
    "datetime": "the end of a token",
    "email.utils": "the time in the answer",
    "encodings.idna": "the form of a host name",
    "enum": "a token's states",
    "gc": "no collection in a short run",
    "hashlib": "fingerprints",
    "http.client": "the request",
    "json": "the answer",
    "math": "settings that are numbers",
    "os": "environment and files",
    "pathlib": "the path of the cache",
    "re": "the form of settings",
    "signal": "a cancelled run",
    "ssl": "the connection",
    "stat": "the owner of the cache",
    "threading": "the time limit",
    "urllib.parse": "addresses",
}

_RECORD = re.compile(r"^import time: +(\d+) \| +\d+ \| *(\S+)$", re.MULTILINE)
_FLAGS = ("-I", "-S", "-X", "utf8", "-X", "importtime")


@dataclass(frozen=True, slots=True)
class Imported:
    """A module, its milliseconds without its imports, and the bytes of its file."""

    name: str
    milliseconds: float
    size: int


def record(python: str, program: Path, env: Mapping[str, str]) -> list[Imported]:
    """Return the imports of ``program`` beyond those of a bare ``python``. Raises CalledProcessError."""
    known = {name for _, name in _imports([python, *_FLAGS, "-c", ""], env)}
    sizes = (
        (name, microseconds, _size(name, program))
        for microseconds, name in _imports([python, *_FLAGS, f"{program}"], env)
    )
    return [
        Imported(name, int(microseconds) / 1000, size)
        for name, microseconds, size in sizes
        if size is not None and name not in known
    ]


def unasked(python: str, imported: Iterable[Imported], env: Mapping[str, str]) -> list[str]:
    """Return the modules that are not of this project, not in ASKED, and not imported by a module in ASKED."""
    asked = {name for _, name in _imports([python, *_FLAGS, "-c", f"import {', '.join(ASKED)}"], env)}
    return [each.name for each in imported if each.name.partition(".")[0] != "kis_token" and each.name not in asked]


def _imports(command: list[str], env: Mapping[str, str]) -> list[tuple[str, str]]:
    return _RECORD.findall(_run(command, env))


def _run(command: list[str], env: Mapping[str, str]) -> str:
    done = subprocess.run(  # noqa: S603 - our own program
        command,
        env=dict(env),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        encoding="utf-8",
        timeout=60,
        check=True,
    )
    return done.stderr


def _size(name: str, program: Path) -> int | None:
    """Return the bytes of a module's file, 0 for a module that is a part of Python, and None for an unknown module."""
    if name.partition(".")[0] == "kis_token":
        path = program.parent / name.replace(".", "/")
        return next(file.stat().st_size for file in (path.with_suffix(".py"), path / "__init__.py") if file.is_file())
    try:
        found = importlib.util.find_spec(name)
    except ModuleNotFoundError:
        found = None  # Python's attempt to import the module failed
    if found is None:
        return None
    return Path(found.origin).stat().st_size if found.has_location and found.origin else 0


def render(imported: Iterable[Imported]) -> str:
    """Return the modules as a Markdown table, slowest first, and the total."""
    listed = sorted(imported, key=lambda each: -each.milliseconds)
    total = Imported(f"all {len(listed)}", sum(each.milliseconds for each in listed), sum(each.size for each in listed))
    cells = [(each.name, f"{each.milliseconds:.1f}", f"{each.size / 1024:.0f}") for each in (*listed, total)]
    return markdown(("module", "ms", "KiB"), cells)


def main() -> int:
    """Print the table. Returns 0 if no module is unasked."""
    with open_course() as course:
        contestant = course.action("action")
        course.run(contestant)
        imported = record(sys.executable, course.action_copy / "entrypoint.py", contestant.env)
        surprises = unasked(sys.executable, imported, contestant.env)
    print(render(imported), "\nUnasked:", *surprises or ["none"])
    return 1 if surprises else 0


if __name__ == "__main__":
    sys.exit(main())
