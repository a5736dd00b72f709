"""GitHub's files and commands: both implementations of Workflow write the same text, and no text becomes a command."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kis_token.errors import EnvironmentFault
from kis_token.github.action import ToolkitWorkflow
from kis_token.github.workflow_commands import FileWorkflow, escape, require_file

if TYPE_CHECKING:
    from kis_token.github.ports import Workflow

CHECKOUT = Path(__file__).resolve().parents[2]
FILES = ("GITHUB_OUTPUT", "GITHUB_ENV", "GITHUB_STEP_SUMMARY")
NASTY = "100% of\r\n::error::it | %0A\tü 한국"

CALLS = [
    ("mask", "opaque.token-of-a-test_0123456789"),
    ("mask", "first-line-of-a-secret\nsecond-line\r\n\n  \nthird"),
    ("mask", "a%b"),
    ("mask", ""),
    ("output", "access-token", "opaque.token-of-a-test_0123456789"),
    ("output", "nasty", NASTY),
    ("output", "empty", ""),
    ("output", "forged", "x\nghadelimiter_1\nexpired<<E\ntrue\nE"),
    ("export", "KIS_TEST_VARIABLE", NASTY),
    ("summarize", f"### Title\n\n{NASTY}\n"),
    ("error", "plain"),
    ("error", NASTY),
    ("warning", NASTY),
    ("info", "plain"),
    ("info", NASTY),
    ("info", ""),
]

CALL_BOTH = """
import json, os, sys
if sys.argv[1] == "toolkit":
    from kis_token.github.action import ToolkitWorkflow
    workflow = ToolkitWorkflow()
else:
    from kis_token.github.workflow_commands import FileWorkflow
    workflow = FileWorkflow(os.environ)
for name, *arguments in json.load(sys.stdin):
    getattr(workflow, name)(*arguments)
"""


def runner_files(folder: Path) -> dict[str, str]:
    """Return the files that a runner makes for each step."""
    folder.mkdir(exist_ok=True)
    paths = {name: folder / name.lower() for name in FILES}
    for path in paths.values():
        path.write_text("")
    return {name: str(path) for name, path in paths.items()}


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """The files of a step, with the environment variables that name them."""
    made = runner_files(tmp_path)
    for name, path in made.items():
        monkeypatch.setenv(name, path)
    monkeypatch.setenv("KIS_TEST_VARIABLE", "")  # the toolkit also sets exported variables in this process
    return made


@pytest.fixture(params=["file", "toolkit"])
def workflow(request: pytest.FixtureRequest, files: dict[str, str]) -> Workflow:
    """Each of the two implementations of Workflow."""
    return FileWorkflow(files) if request.param == "file" else ToolkitWorkflow()


def without_delimiters(text: str) -> str:
    """Return a file's text with every random delimiter replaced by ``DELIMITER``."""
    return re.sub(r"ghadelimiter_[0-9a-f-]{32,36}", "DELIMITER", text)


def pairs_of(path: str) -> dict[str, str]:
    """Return the names and values that the runner reads from a file."""
    text = (
        Path(path).read_bytes().decode().replace("\r\n", "\n")
        if os.linesep != "\n"
        else Path(path).read_bytes().decode()
    )
    found: dict[str, str] = {}
    while text:
        match = re.match(r"(?P<name>[^\n]*?)<<(?P<end>[^\n]*)\n(?P<value>.*?)\n(?P=end)\n", text, re.DOTALL)
        assert match is not None, "the runner could not read the file"
        found[match["name"]] = match["value"]
        text = text[match.end() :]
    return found


@pytest.mark.usefixtures("child_processes")
def test_both_writers_say_the_same(tmp_path: Path) -> None:
    """FileWorkflow and ToolkitWorkflow write the same files and commands, except for the delimiters."""
    said = []
    for name in ("file", "toolkit"):
        files = runner_files(tmp_path / name)
        done = subprocess.run(
            [sys.executable, "-X", "utf8", "-c", CALL_BOTH, name],
            input=json.dumps(CALLS).encode(),
            cwd=CHECKOUT,
            env={**os.environ, **files},
            capture_output=True,
            check=True,
            timeout=60,
        )
        contents = {each: without_delimiters(Path(path).read_bytes().decode()) for each, path in files.items()}
        said.append((done.stdout.decode(), done.stderr.decode(), contents))
    assert said[0] == said[1]
    assert said[0][2]["GITHUB_OUTPUT"].count("DELIMITER") == 8
    assert all(said[0][2].values())


@pytest.mark.usefixtures("files")
def test_each_line_of_a_secret_is_masked(workflow: Workflow, capsys: pytest.CaptureFixture[str]) -> None:
    """Each line of a secret has its own mask. Empty lines have no mask, because an empty mask would hide everything."""
    workflow.mask("first-line\nsecond%line\n\n \r\n")
    assert capsys.readouterr().out.splitlines() == ["::add-mask::first-line", "::add-mask::second%25line"]


@pytest.mark.usefixtures("child_processes")
def test_mask_is_out_before_it_returns(tmp_path: Path) -> None:
    """A mask is flushed: the runner reads it even if the process ends right after the mask."""
    for name in ("file", "toolkit"):
        code = f"{CALL_BOTH}\nos._exit(0)"
        done = subprocess.run(
            [sys.executable, "-c", code, name],
            input=json.dumps([["mask", "opaque.token"]]).encode(),
            cwd=CHECKOUT,
            env={**os.environ, **runner_files(tmp_path)},
            capture_output=True,
            check=True,
            timeout=60,
        )
        assert done.stdout.split() == [b"::add-mask::opaque.token"]


def test_values_arrive_as_they_were(workflow: Workflow, files: dict[str, str]) -> None:
    """Outputs and variables keep line breaks, percent signs and Korean letters."""
    workflow.output("nasty", NASTY.replace("\r", ""))
    workflow.output("empty", "")
    workflow.export("KIS_TEST_VARIABLE", "a\nb")
    assert pairs_of(files["GITHUB_OUTPUT"]) == {"nasty": NASTY.replace("\r", ""), "empty": ""}
    assert pairs_of(files["GITHUB_ENV"]) == {"KIS_TEST_VARIABLE": "a\nb"}


@given(st.text(st.characters(codec="utf-8", exclude_characters="\r")))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50)
def test_no_value_can_set_another_output(workflow: Workflow, files: dict[str, str], value: str) -> None:
    """The runner reads any value as one output with that value."""
    Path(files["GITHUB_OUTPUT"]).write_text("")
    workflow.output("one", value)
    assert pairs_of(files["GITHUB_OUTPUT"]) == {"one": value}


def test_delimiter_is_new_each_time(workflow: Workflow, files: dict[str, str]) -> None:
    """The delimiter is new for each value, so no value can contain it."""
    for _ in range(20):
        workflow.output("name", "value")
    delimiters = re.findall(r"name<<(\S+)", Path(files["GITHUB_OUTPUT"]).read_text())
    assert len(set(delimiters)) == 20


@pytest.mark.usefixtures("files")
@pytest.mark.parametrize("kind", ["error", "warning"])
def test_annotation_is_one_line(workflow: Workflow, capsys: pytest.CaptureFixture[str], kind: str) -> None:
    """Line breaks in a message are escaped, so that no part of it is a command."""
    getattr(workflow, kind)(NASTY)
    assert capsys.readouterr().out == f"::{kind}::100%25 of%0D%0A::error::it | %250A\tü 한국\n"


COMMANDS = ["::set-output name=x::y", "  ::add-mask::e", "\t::stop-commands::x", "a\n::error::b", "x ##[error]y"]
COMMANDS += ["##[add-mask]e", "a\r::error::b", "a\u2028::error::b", "\u3000::error::b", "\ufeff::error::b"]


@pytest.mark.usefixtures("files")
@pytest.mark.parametrize("text", COMMANDS, ids=repr)
def test_log_line_is_never_a_command(workflow: Workflow, capsys: pytest.CaptureFixture[str], text: str) -> None:
    """A log line contains no command. The runner would accept ``::`` after blanks, and ``##[`` anywhere."""
    workflow.info(text)
    shown = capsys.readouterr().out
    assert shown
    for line in re.split(r"[\r\n]", shown):
        assert not line.strip("\ufeff" + " \t\v\f\u3000\u2028\u2029\x85\xa0").startswith("::")
        assert "##[" not in line


@pytest.mark.usefixtures("files")
def test_log_line_stays_as_it_is(workflow: Workflow, capsys: pytest.CaptureFixture[str]) -> None:
    """A log line that is not a command is printed unchanged."""
    workflow.info("supabase: its token is fresh, 3 h 2 min left\nKIS::issue")
    assert capsys.readouterr().out == "supabase: its token is fresh, 3 h 2 min left\nKIS::issue\n"


def test_summary_is_added_to(workflow: Workflow, files: dict[str, str]) -> None:
    """A new text is added to the summary, and earlier text stays."""
    workflow.summarize("first")
    workflow.summarize("second")
    assert Path(files["GITHUB_STEP_SUMMARY"]).read_text().split() == ["first", "second"]


def test_no_summary_is_no_error(workflow: Workflow, files: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """If the runner has no file for summaries, no summary is written and no error is raised."""
    monkeypatch.delenv("GITHUB_STEP_SUMMARY")
    del files["GITHUB_STEP_SUMMARY"]
    workflow.summarize("text")


@pytest.mark.parametrize("place", ["none", "a folder", "unset", "empty"])
def test_output_without_a_file_is_a_fault_of_the_machine(tmp_path: Path, place: str) -> None:
    """If GITHUB_OUTPUT names no file, an output is one clear error, and no file is made."""
    paths = {"none": {"GITHUB_OUTPUT": str(tmp_path / "x")}, "a folder": {"GITHUB_OUTPUT": str(tmp_path)}}
    env = paths.get(place, {"GITHUB_OUTPUT": ""} if place == "empty" else {})
    with pytest.raises(EnvironmentFault) as caught:
        FileWorkflow(env).output("name", "opaque.token-of-a-test_0123456789")
    assert caught.value.code == "output-unwritable"
    assert "opaque" not in f"{caught.value}"
    assert list(tmp_path.iterdir()) == []


def test_file_that_can_be_written_is_required_and_enough(files: dict[str, str]) -> None:
    """If the file can be written, ``require_file`` returns and does not change the file."""
    require_file(files, "GITHUB_OUTPUT")
    assert Path(files["GITHUB_OUTPUT"]).read_text() == ""


@given(st.text())
def test_escaped_text_is_one_line_and_can_be_read_back(text: str) -> None:
    """Percent signs and line breaks are escaped, and the runner restores the original text."""
    escaped = escape(text)
    assert "\n" not in escaped
    assert "\r" not in escaped
    assert escaped.replace("%0A", "\n").replace("%0D", "\r").replace("%25", "%") == text
