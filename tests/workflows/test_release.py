"""The steps of a release that speak to GitHub, against a stand-in for its command."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from tools.step import CHECKOUT

if TYPE_CHECKING:
    from pathlib import Path

WORKFLOW = yaml.safe_load((CHECKOUT / ".github" / "workflows" / "release.yml").read_text(encoding="utf-8"))
JOBS: dict[str, Any] = WORKFLOW["jobs"]
COMMIT = "0" * 39 + "1"

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="the stand-in is a script with an interpreter line")

#: Knows the tags, and whether releases are immutable; notes what it is asked to change.
GH = """
import json, os, sys
from pathlib import Path
state = Path(__file__).with_name("github.json")
github = json.loads(state.read_text())
arguments = [each for each in sys.argv[2:] if each not in ("--silent", "--paginate")]
if arguments[0].startswith("repos/org/action/git/matching-refs/tags/"):
    print(*[tag for tag in github["tags"] if tag.startswith(arguments[0].rpartition("/")[2])], sep="\\n")
elif arguments[0].startswith("repos/org/action/releases/tags/"):
    print(github["immutable"])
else:
    github["asked"].append(arguments)
    state.write_text(json.dumps(github))
    tag = arguments[2].rpartition("/")[2]
    sys.exit(arguments[1] == "PATCH" and tag not in github["tags"])
"""


def run(step: str, folder: Path, tag: str, **github: object) -> tuple[int, list[list[str]]]:
    """Run the script of the step of that name; its status, and what GitHub was asked to change."""
    (script,) = [each["run"] for job in JOBS.values() for each in job.get("steps", ()) if each.get("name") == step]
    state = folder / "github.json"
    state.write_text(json.dumps({"asked": [], **github}))
    gh = folder / "gh"
    gh.write_text(f"#!{sys.executable}\n{GH}")
    gh.chmod(0o755)
    done = subprocess.run(
        [shutil.which("bash") or "bash", "-e", "-o", "pipefail", "-c", script],
        env={
            "PATH": f"{folder}{os.pathsep}{os.environ['PATH']}",
            "GH_REPO": "org/action",
            "TAG": tag,
            "GITHUB_SHA": COMMIT,
        },
        capture_output=True,
        check=False,
    )
    asked: list[list[str]] = json.loads(state.read_text())["asked"]
    return done.returncode, asked


MOVE = "Move it, unless a newer release has it"
PATCH = ["--method", "PATCH", "repos/org/action/git/refs/tags/v1", "-f", f"sha={COMMIT}", "-F", "force=true"]
POST = ["--method", "POST", "repos/org/action/git/refs", "-f", "ref=refs/tags/v1", "-f", f"sha={COMMIT}"]


@pytest.mark.parametrize(
    ("tag", "tags", "asked"),
    [
        ("v1.0.0", ["v1.0.0"], [PATCH, POST]),
        ("v1.10.0", ["v1", "v1.9.0", "v1.10.0", "v2.0.0", "v10.0.0"], [PATCH]),
        ("v1.9.1", ["v1", "v1.9.0", "v1.9.1", "v1.10.0"], []),
    ],
    ids=["the first", "the newest", "an older line"],
)
def test_major_tag_goes_to_the_newest(tmp_path: Path, tag: str, tags: list[str], asked: list[list[str]]) -> None:
    """v1 is made by the first release and moved by each newer one; a repair of an older line leaves it."""
    assert run(MOVE, tmp_path, tag, tags=tags) == (0, asked)


@pytest.mark.parametrize(("immutable", "status"), [("true", 0), ("false", 1), ("null", 1)])
def test_release_that_can_be_changed_ends_it(tmp_path: Path, immutable: str, status: int) -> None:
    """Where the repository's setting is off, nothing goes to the index and the tag does not move."""
    assert run("It is immutable", tmp_path, "v1.0.0", immutable=immutable) == (status, [])


def test_nothing_is_published_unchecked() -> None:
    """The release waits for the attestation and that for the checks; the index for the release; v1 for all."""
    needs = {
        name: set([job["needs"]] if isinstance(job.get("needs"), str) else job.get("needs", ()))
        for name, job in JOBS.items()
    }

    assert needs == {
        "build": set(),
        "checks": {"build"},
        "attest": {"build", "checks"},
        "release": {"attest"},
        "index": {"release"},
        "major": {"release", "index"},
    }
    assert JOBS["checks"]["uses"] == "./.github/workflows/ci.yml"
