"""The steps of a release that call GitHub, with a stand-in for the command gh."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from tests.workflows.conftest import add_command, find_step, needs_scripts, run_script
from tools.step import CHECKOUT

if TYPE_CHECKING:
    from pathlib import Path

WORKFLOW = yaml.safe_load((CHECKOUT / ".github" / "workflows" / "release.yml").read_text(encoding="utf-8"))
JOBS: dict[str, Any] = WORKFLOW["jobs"]
COMMIT = "0" * 39 + "1"

pytestmark = [needs_scripts, pytest.mark.usefixtures("child_processes")]

#: A stand-in for gh with tags and releases. The stand-in records each requested change. If ``down`` is set, every call
#: fails.
GH = """
import json, os, sys
from pathlib import Path
state = Path(__file__).with_name("github.json")
github = json.loads(state.read_text())
arguments = [each for each in sys.argv[1:] if each not in ("--silent", "--paginate")]
if github.get("down"):
    sys.exit(1)
elif arguments[1].startswith("repos/org/action/git/matching-refs/tags/"):
    print(*[tag for tag in github["tags"] if tag.startswith(arguments[1].rpartition("/")[2])], sep="\\n")
elif arguments[1].startswith("repos/org/action/releases/tags/"):
    print(github["immutable"])
elif arguments[1].startswith("repos/org/action/releases?"):
    print(*[str(draft).lower() for tag, draft in github["releases"] if tag == os.environ["TAG"]], sep="\\n")
else:
    github["asked"].append(arguments)
    state.write_text(json.dumps(github))
    tag = arguments[3].rpartition("/")[2]
    sys.exit(arguments[2] == "PATCH" and tag not in github["tags"])
"""


def run(step: str, folder: Path, tag: str, **github: object) -> tuple[int, list[list[str]]]:
    """Run the script of a step. Return its exit status and the changes that it requested from GitHub."""
    state = folder / "github.json"
    state.write_text(json.dumps({"asked": [], **github}))
    add_command(folder, "gh", GH)
    env = {"GH_REPO": "org/action", "TAG": tag, "GITHUB_SHA": COMMIT}
    done = run_script(find_step("release.yml", step)["run"], folder, env)
    asked: list[list[str]] = json.loads(state.read_text())["asked"]
    return done.returncode, asked


MOVE = "Move it, unless a newer release has it"
PATCH = ["api", "--method", "PATCH", "repos/org/action/git/refs/tags/v1", "-f", f"sha={COMMIT}", "-F", "force=true"]
POST = ["api", "--method", "POST", "repos/org/action/git/refs", "-f", "ref=refs/tags/v1", "-f", f"sha={COMMIT}"]


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
    """The first release makes the tag v1, and each newer release moves v1. A release for an older line keeps v1."""
    assert run(MOVE, tmp_path, tag, tags=tags) == (0, asked)


@pytest.mark.parametrize("tag", ["v1.99-test", "v1.3.0.bak", "v1.4.0-rc.1", "v1.99", "v1.5.0+build", "v1.6.0v1.7.0"])
def test_only_tags_of_releases_keep_the_major_tag_back(tmp_path: Path, tag: str) -> None:
    """A tag of a pre-release, or a tag made by hand, does not count as a newer release."""
    assert run(MOVE, tmp_path, "v1.3.0", tags=["v1", "v1.2.0", "v1.3.0", tag]) == (0, [PATCH])


def test_unreadable_tags_are_not_taken_for_a_newer_release(tmp_path: Path) -> None:
    """If GitHub does not list the tags, the step fails, because v1 could stay at an older release unnoticed."""
    assert run(MOVE, tmp_path, "v1.0.0", tags=[], down=True) == (1, [])


CREATE = ["release", "create", "v1.0.0", "--draft", "--verify-tag", "--title", "v1.0.0"]
CREATE += ["--notes-file", "release/notes.md", "release/dist/a.whl"]
UPLOAD = ["release", "upload", "v1.0.0", "--clobber", "release/dist/a.whl"]
SHOW = ["release", "edit", "v1.0.0", "--draft=false"]


@pytest.mark.parametrize(
    ("releases", "status", "asked"),
    [
        ([], 0, [CREATE, SHOW]),
        ([("v0.9.0", False), ("v2.0.0", True)], 0, [CREATE, SHOW]),
        ([("v1.0.0", True)], 0, [UPLOAD, SHOW]),
        ([("v1.0.0", False), ("v0.9.0", False)], 0, []),
        ([("v1.0.0", True), ("v1.0.0", True)], 1, []),
        ([("v1.0.0", True), ("v1.0.0", False)], 1, []),
    ],
    ids=["nothing is there", "others are there", "a draft", "published", "two drafts", "published, and a draft"],
)
def test_release_can_be_run_again_from_any_state(
    tmp_path: Path, releases: list[tuple[str, bool]], status: int, asked: list[list[str]]
) -> None:
    """If a tag's release is a draft, it gets new files and is published.

    If a tag's release is already published, it stays. If a tag has two releases, the step fails.
    """
    (tmp_path / "release" / "dist").mkdir(parents=True)
    (tmp_path / "release" / "dist" / "a.whl").touch()

    assert run("Publish", tmp_path, "v1.0.0", releases=releases) == (status, asked)


def test_release_is_not_made_when_github_does_not_list_them(tmp_path: Path) -> None:
    """If GitHub does not list the releases, the step fails and changes nothing."""
    assert run("Publish", tmp_path, "v1.0.0", releases=[], down=True) == (1, [])


@pytest.mark.skipif(shutil.which("jq") is None, reason="gh has a jq of its own; the test asks the machine's")
def test_state_of_a_release_is_read_from_the_list() -> None:
    """The filter of the list of releases prints only the states of one tag's releases.

    If a tag has no release, the filter prints nothing.
    """
    (jq,) = re.findall(r"/releases\?per_page=100\" --jq '([^']+)'", find_step("release.yml", "Publish")["run"])
    releases = [{"tag_name": "v1.0.0", "draft": True}, {"tag_name": "v1.0.0-rc.1", "draft": False}]

    def read(tag: str) -> str:
        done = subprocess.run(
            [shutil.which("jq") or "jq", "--raw-output", jq],
            env=os.environ | {"TAG": tag},
            input=json.dumps(releases),
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
        return done.stdout

    assert (read("v1.0.0"), read("v2.0.0")) == ("true\n", "")


def test_build_can_be_run_again() -> None:
    """The files of a new build replace those of an earlier attempt. Every script runs in a shell with pipefail."""
    (upload,) = [step for step in JOBS["build"]["steps"] if "upload-artifact" in step.get("uses", "")]

    assert upload["with"]["overwrite"] is True
    assert WORKFLOW["defaults"] == {"run": {"shell": "bash"}}


@pytest.mark.parametrize(("immutable", "status"), [("true", 0), ("false", 1), ("null", 1)])
def test_release_that_can_be_changed_ends_it(tmp_path: Path, immutable: str, status: int) -> None:
    """If immutable releases are off in the repository, the step fails, so that no file is uploaded to the index."""
    assert run("It is immutable", tmp_path, "v1.0.0", immutable=immutable) == (status, [])


def test_nothing_is_published_unchecked() -> None:
    """The order of the jobs is: checks, attestation, release, index, and last the tag v1."""
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
