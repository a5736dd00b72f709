"""The repository's outside: links, workflows, releases, forms and the page for contributors."""

from __future__ import annotations

import re
import subprocess
import sys
import tarfile
import zipfile
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from tools.release import notes
from tools.step import CHECKOUT

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

GITHUB = CHECKOUT / ".github"
WORKFLOWS = sorted((GITHUB / "workflows").glob("*.yml"))
YAML = [*WORKFLOWS, *GITHUB.glob("actions/*/action.yml"), CHECKOUT / "action.yml"]
PAGES = [
    page
    for folder in (".", "docs", "docs/ko", "docs/examples", ".github")
    for page in sorted((CHECKOUT / folder).glob("*.md"))
]


def read(path: Path) -> str:
    """Return the text of a file."""
    return path.read_text(encoding="utf-8")


def jobs() -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield all jobs of all workflows, each with a name for the test's report."""
    for workflow in WORKFLOWS:
        for name, job in yaml.safe_load(read(workflow))["jobs"].items():
            yield f"{workflow.name}: {name}", job


# documents


def prose(page: str) -> str:
    """Return a page without its code blocks."""
    return re.sub(r"^( *)```.*?^\1```$", "", page, flags=re.MULTILINE | re.DOTALL)


def anchors(page: str) -> set[str]:
    """Return the anchors that GitHub makes of a page's headings. The anchor of a repeated heading has a number."""
    seen: dict[str, int] = {}
    found = set()
    for heading in re.findall(r"^#+ (.+?) *$", prose(page), re.MULTILINE):
        text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading)
        slug = re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-")
        found.add(f"{slug}-{seen[slug]}" if slug in seen else slug)
        seen[slug] = seen.get(slug, 0) + 1
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(CHECKOUT)))
def test_links_lead_somewhere(page: Path) -> None:
    """Every link from a document to a place in the repository leads to an existing file and heading."""
    for target in re.findall(r"\]\((?!https?:|mailto:)([^)\s]+)\)", prose(read(page))):
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), target
        assert not anchor or anchor in anchors(read(file)), target


def test_named_files_and_targets_exist() -> None:
    """Every file and every make target that CONTRIBUTING.md names exists."""
    page = read(CHECKOUT / "CONTRIBUTING.md")
    targets = set(re.findall(r"^([a-z-]+):", read(CHECKOUT / "Makefile"), re.MULTILINE))
    paths = re.findall(r"`((?:tests|tools|kis_token|docs)/[\w./*-]+)`", page)

    assert paths
    assert [path for path in paths if not list(CHECKOUT.glob(path))] == []
    assert set(re.findall(r"`make ([a-z-]+)`", page)) <= targets


@pytest.mark.parametrize("form", ["bug", "idea"])
def test_forms_ask_for_no_secret(form: str) -> None:
    """Both forms warn against pasting a token; the defect form asks for the error's code and a confirmation."""
    text = read(GITHUB / "ISSUE_TEMPLATE" / f"{form}.yml")
    required = [
        field["id"]
        for field in yaml.safe_load(text)["body"]
        if field.get("validations", {}).get("required") or "required: true" in yaml.safe_dump(field)
    ]

    assert re.search(r"[Nn]ever paste a token", text)
    assert form != "bug" or {"code", "clean"} <= set(required)


# workflows: our own rules, which neither actionlint nor zizmor checks


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda path: path.name)
def test_workflows_grant_nothing_by_default(workflow: Path) -> None:
    """A workflow itself has no permission, and each permission of a job has its reason in a comment."""
    text = read(workflow)

    assert "\npermissions: {}\n" in text
    assert re.findall(r"^ +[a-z-]+: (?:read|write)$", text, re.MULTILINE) == []


def test_jobs_end() -> None:
    """Every job has a time limit.

    A job that calls a workflow needs no limit, because the jobs of that workflow have limits.
    """
    assert [name for name, job in jobs() if "timeout-minutes" not in job and "uses" not in job] == []


def test_actions_are_pinned_alike() -> None:
    """All uses of an action of another project have the same pin: a commit, with the version in a comment."""
    pinned: dict[str, set[str]] = {}
    for file in YAML:
        for action, pin in re.findall(r"uses: ([^.\s@][^\s@]*)@(.+)$", read(file), re.MULTILINE):
            if not action.startswith("org/kis-token-action"):
                pinned.setdefault("/".join(action.split("/")[:2]), set()).add(pin)

    assert pinned
    assert [pins for pins in pinned.values() if len(pins) > 1] == []
    for (pin,) in pinned.values():
        assert re.fullmatch(r"[0-9a-f]{40} # v\d+\.\d+\.\d+", pin), pin


# releases

PYPROJECT = '[project]\nversion = "1.2.3"\n'
CHANGELOG = """# Changelog

## [Unreleased]

## [1.2.3] - 2026-03-02

### Fixed

- One thing.

## [1.2.2] - 2026-03-01

- Another.

[1.2.3]: https://example.com
"""


def test_notes_are_the_changelog_s() -> None:
    """The notes of a release are the changelog's text below its heading, up to the next heading or to the links."""
    assert notes("v1.2.3", PYPROJECT, CHANGELOG) == "### Fixed\n\n- One thing.\n"
    assert notes("v1.2.2", PYPROJECT.replace("1.2.3", "1.2.2"), CHANGELOG) == "- Another.\n"


@pytest.mark.parametrize(
    ("tag", "changelog"),
    [
        ("v1.2.4", CHANGELOG),
        ("1.2.3", CHANGELOG),
        ("v1.2.3", CHANGELOG.replace("## [1.2.3] - 2026-03-02", "## [1.2.3]")),
        ("v1.2.3", CHANGELOG.replace("2026-03-02", "soon")),
        ("v1.2.3", CHANGELOG.replace("### Fixed\n\n- One thing.\n", "")),
    ],
    ids=["another version", "no v", "no date", "no real date", "nothing said"],
)
def test_no_release_without_its_entry(tag: str, changelog: str) -> None:
    """A tag is refused if it is not pyproject's version, or if the changelog has no entry for it."""
    with pytest.raises(ValueError):  # noqa: PT011 - its text is for people
        notes(tag, PYPROJECT, changelog)


@pytest.mark.usefixtures("child_processes")
def test_this_version_is_still_to_come() -> None:
    """For the version in pyproject.toml, the program prints the changelog's entry, or an error without an entry."""
    version = re.search(r'^version = "(.+)"$', read(CHECKOUT / "pyproject.toml"), re.MULTILINE)
    assert version is not None
    done = subprocess.run(
        [sys.executable, "-m", "tools.release", f"v{version[1]}"],
        cwd=CHECKOUT,
        capture_output=True,
        text=True,
        check=False,
    )

    is_known = f"## [{version[1]}] - " in read(CHECKOUT / "CHANGELOG.md")
    assert (done.returncode, bool(done.stdout)) == ((0, True) if is_known else (1, False))
    assert is_known or done.stderr.startswith("::error::CHANGELOG.md has no entry")


@pytest.mark.usefixtures("child_processes")
def test_sdist_is_enough_for_the_wheel(tmp_path: Path) -> None:
    """The sdist builds a wheel with the SQL, the workflows and the type marker.

    Neither sdist nor wheel contains a test.
    """

    def build(target: str, source: Path) -> Path:
        command = [
            sys.executable,
            "-m",
            "hatchling",
            "build",
            "--target",
            target,
            "--directory",
            str(tmp_path / target),
        ]
        subprocess.run(command, cwd=source, capture_output=True, check=True)
        (built,) = (tmp_path / target).iterdir()
        return built

    with tarfile.open(build("sdist", CHECKOUT)) as archive:
        archive.extractall(tmp_path / "source", filter="data")
    (source,) = (tmp_path / "source").iterdir()
    with zipfile.ZipFile(build("wheel", source)) as wheel:
        shipped = set(wheel.namelist())

    modules = {
        f"kis_token/{path.relative_to(CHECKOUT / 'kis_token').as_posix()}"
        for path in CHECKOUT.glob("kis_token/**/*.py")
    }
    tables = {f"kis_token/sql/{path.name}" for path in CHECKOUT.glob("sql/*.sql")}
    workflows = {f"kis_token/workflows/{path.name}" for path in CHECKOUT.glob("docs/examples/init/*")}
    assert {name for name in shipped if ".dist-info/" not in name} == {
        "kis_token/py.typed",
        *modules,
        *tables,
        *workflows,
    }
    assert {path.name for path in source.iterdir()} == {
        *(
            "kis_token",
            "sql",
            "docs",
            "pyproject.toml",
            "README.md",
            "CHANGELOG.md",
            "LICENSE",
            "PKG-INFO",
            ".gitignore",
        ),
    }
