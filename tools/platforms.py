"""Check that the index has a wheel of each locked package for every platform and Python that GitHub hosts.

The program makes dry runs of uv, which ask the package index for wheels and download nothing.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[1]

PYTHONS = ("3.10", "3.11", "3.12", "3.13", "3.14")

#: uv's names for the platforms of GitHub's runners, and for the C library of Alpine's job containers.
PLATFORMS = (
    "x86_64-unknown-linux-gnu",
    "aarch64-unknown-linux-gnu",
    "x86_64-unknown-linux-musl",
    "aarch64-unknown-linux-musl",
    "x86_64-apple-darwin",
    "aarch64-apple-darwin",
    "x86_64-pc-windows-msvc",
    "aarch64-pc-windows-msvc",
)

#: The platforms on which CI runs the tests.
TESTED = ("x86_64-unknown-linux-gnu", "aarch64-apple-darwin", "x86_64-pc-windows-msvc")

#: The platforms and Pythons without a wheel of cffi. The package cffi is needed only by a step that seals.
UNSUPPORTED = frozenset({("aarch64-pc-windows-msvc", "3.10")})


def find_missing(uv: str, lock: Path, platform: str, python: str) -> str | None:
    """Return uv's error if a package of ``lock`` lacks a wheel for ``platform`` and ``python``; None without a gap."""
    with tempfile.TemporaryDirectory() as folder:
        command = [uv, "pip", "install", "--quiet", "--dry-run", "--no-deps", "--require-hashes",
                   "--only-binary", ":all:", "--python-platform", platform, "--python-version", python,
                   "--python", sys.executable, "--target", f"{folder}/none", "-r", f"{lock}"]  # fmt: skip
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)  # noqa: S603 - ours
    return None if done.returncode == 0 else re.sub(r"\s+", " ", done.stderr).strip()


def main() -> int:
    """Check each lock for its platforms and Pythons, and return the exit status."""
    cells = [
        *((lock, platform, python) for lock in ("requirements.txt",) for platform in PLATFORMS for python in PYTHONS),
        *(("requirements-uv.txt", platform, PYTHONS[0]) for platform in PLATFORMS),
        *(("requirements-dev.txt", platform, python) for platform in TESTED for python in PYTHONS),
    ]
    uv = f"{Path(sys.argv[1]).absolute()}"
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda cell: find_missing(uv, CHECKOUT / cell[0], *cell[1:]), cells))
    wrong = 0
    for (lock, platform, python), words in zip(cells, found, strict=True):
        is_unsupported = lock == "requirements.txt" and (platform, python) in UNSUPPORTED
        if (words is not None) is not is_unsupported:
            wrong += 1
            print(f"{lock}, {platform}, Python {python}: {words or 'has all wheels, but the table says it lacks some'}")
    print(f"{len(cells) - wrong} of {len(cells)} combinations of lock, platform and Python are as expected.")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
