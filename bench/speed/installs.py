"""The cost of steps that install packages first: steps of this project, and steps with the guide's packages.

Each installation runs twice: from the package index, with an empty cache, and from a folder with the same files. The
difference between the two is the download. No step finds uv on its PATH.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from bench.tables import Row

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from bench.speed.contestants import Contestant, Course

#: The packages that a reader of the guide installs.
PLAIN = ("supabase", "requests", "actions-toolkit")

_MAKE = "python3 -m venv venv && exec venv/bin/python -m pip install --quiet " + " ".join(PLAIN)
_FETCH = (
    "python3 -m venv venv && venv/bin/python -m pip download --quiet --dest plain {plain}"
    " && exec venv/bin/python -m pip download --quiet --dest locked --no-deps --require-hashes --only-binary :all:"
    " -r {action}/requirements.txt"
)

_THEIRS = "new venv, then pip install, then guide"


@dataclass(frozen=True, slots=True)
class Source:
    """A source of packages, as settings for the guide's installation and for this project's.

    ``seconds`` has the measured seconds.
    """

    plain: Mapping[str, str]
    locked: Mapping[str, str]
    seconds: dict[str, list[float]]


def measure_installs(course: Course, fresh: Sequence[float], rounds: int) -> list[Row]:
    """Return the rows of steps that install packages. ``fresh`` has the seconds of our warm resolve."""
    index, local = Source({}, {}, {}), _from_folder(fetch(course))
    for _ in range(rounds):
        for source in (index, local):
            _install_all(course, source)

    def row(what: str, ours: str, other: str, at_most: float) -> Row:
        return Row(
            what,
            index.seconds[ours],
            at_most,
            f"{_THEIRS}{', issues' if other == 'guide, issues' else ''}",
            index.seconds[other],
            local=local.seconds.get(ours, ()),
            others_local=local.seconds[other],
        )

    index.seconds["action"] = list(fresh)  # a fresh token needs no download
    return [
        row("fresh token, nothing installed", "action", "guide", 0.02),
        row("the step issues a token, nothing installed", "issues", "guide, issues", 0.2),
        row("the step issues and seals a token, nothing installed", "sealed, issues", "guide, issues", 0.3),
    ]


def fetch(course: Course) -> Path:
    """Return a folder with all files to install: ``plain`` and ``locked``."""
    script = _FETCH.format(plain=" ".join(PLAIN), action=course.action_copy)
    fetching = course.program("fetch", "bash", "-ec", script)
    course.run(fetching)
    return fetching.folder


def plain_install(course: Course, env: Mapping[str, str]) -> Contestant:
    """Return the command for a fresh virtual environment with the guide's packages."""
    return course.program("plain install", "bash", "-ec", _MAKE, env={**_caches(course), **env})


def _caches(course: Course) -> dict[str, str]:
    """Return settings under which pip and uv keep no cache."""
    return {"PIP_NO_CACHE_DIR": "1", "UV_NO_CACHE": "1", "XDG_CACHE_HOME": f"{course.folder / 'no-cache'}"}


def _from_folder(folder: Path) -> Source:
    """Limit pip and uv to the folder. uv has no variable for this limit, so uv gets a configuration file."""

    def at(part: str) -> dict[str, str]:
        files, configuration = folder / part, folder / f"{part}.toml"
        configuration.write_text(f"[pip]\nno-index = true\nfind-links = ['{files}']\n", encoding="utf-8")
        return {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": f"{files}", "UV_CONFIG_FILE": f"{configuration}"}

    return Source(at("plain"), at("locked"), {})


def _install_all(course: Course, source: Source) -> None:
    """Run one round of all installations."""
    locked = {**_caches(course), **source.locked}
    took = {
        "sealed, issues": course.run(
            course.sealed("sealed issues, cold", locked, before=("empty",), mode="force")
        ).seconds,
        "issues": course.run(course.action("issues, cold", env=locked, before=("empty",), source="oauth")).seconds,
    }
    install = plain_install(course, source.plain)
    installed = course.run(install).seconds
    guide = (f"{install.folder / 'venv' / 'bin' / 'python'}", "-m", "bench.guide")
    took["guide"] = installed + course.run(course.program("guide, cold", *guide, env=course.trust)).seconds
    issuing = course.program("guide issues, cold", *guide, env=course.trust, before=("empty",))
    took["guide, issues"] = installed + course.run(issuing).seconds
    for name, seconds in took.items():
        source.seconds.setdefault(name, []).append(seconds)
