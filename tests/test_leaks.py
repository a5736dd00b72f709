"""The watch over leaks can see: it finds every form of a secret in every place, names the place, and nothing else."""

from __future__ import annotations

import base64
import json
import os
import re
import secrets
import subprocess
import sys
from typing import TYPE_CHECKING
from urllib.parse import quote, quote_plus

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.chain import ENCRYPTION_KEY
from tests.conftest import SECRETS
from tests.needles import Needles, without_masks
from tests.support import ACCOUNT, SERVICE_KEY, make_token
from tools.step import CHECKOUT

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from kis_token.sandbox.emulator import KISEmulator

ENCODINGS: dict[str, Callable[[str], str]] = {
    "plain": str,
    "JSON": json.dumps,
    "JSON with escaped slashes": lambda text: json.dumps(text).replace("/", "\\/"),
    "URL": quote,
    "URL without slashes": lambda text: quote(text, safe=""),
    "form": quote_plus,
    "URL in small letters": lambda text: re.sub("%..", lambda match: match[0].lower(), quote(text, safe="")),
    "base64": lambda text: base64.b64encode(text.encode()).decode(),
    "base64 for URLs": lambda text: base64.urlsafe_b64encode(text.encode()).decode(),
}

#: A run of tests of its own, which knows one secret, from its environment. Some package is called tests as well.
CONFTEST = f"""
import os, sys, types
tests = types.ModuleType("tests")
tests.__path__ = [{str(CHECKOUT / "tests")!r}]
sys.modules["tests"] = tests
from tests import leaks

def pytest_configure(config):
    leaks.watch(config)
    leaks.LEAKS.add(os.environ["SECRET"])
"""

IMPORTS = """
import json, logging, os, subprocess, sys, tempfile
from pathlib import Path
import pytest
from tests.leaks import LEAKS

SECRET = os.environ["SECRET"]
SAY = "import os; print(os.environ['SECRET'])"
"""

LEAKING = f"""{IMPORTS}
def test_prints():
    print("it is", SECRET)

def test_complains():
    print(f"<{{SECRET}}>", file=sys.stderr)

def test_logs():
    logging.getLogger("some.library").debug("header %s", SECRET)

def test_captures(capsys):
    print(SECRET)
    capsys.readouterr()

def test_expects():
    with pytest.raises(KeyError):
        try:
            raise ValueError(SECRET)
        except ValueError as error:
            raise KeyError from error

@pytest.fixture
def tidy():
    yield
    print(SECRET)

def test_tidies(tidy):
    pass

@pytest.mark.parametrize("_", [1], ids=[SECRET])
def test_names(_):
    pass

def test_hears_child():
    subprocess.run([sys.executable, "-c", SAY], capture_output=True)

def test_hears_errors():
    subprocess.run(["sh", "-c", 'echo "$SECRET" >&2'], stderr=subprocess.PIPE, text=True)

def test_reads_line():
    with subprocess.Popen([sys.executable, "-c", SAY], stdout=subprocess.PIPE, text=True) as child:
        child.stdout.readline()

def test_reads_lines():
    with subprocess.Popen([sys.executable, "-c", SAY], stdout=subprocess.PIPE) as child:
        for line in child.stdout:
            pass

def test_starts():
    subprocess.run([sys.executable, "-c", "", SECRET])

def test_has_grandchild():
    command = '"$0" -c "input()" "$SECRET"; true'
    with subprocess.Popen(["sh", "-c", command, sys.executable], stdin=subprocess.PIPE) as child:
        while not any("test_has_grandchild" in finding for finding in LEAKS.found):
            try:
                child.wait(0.02)
            except subprocess.TimeoutExpired:
                pass
        child.communicate(b"go")

def test_writes(tmp_path):
    (tmp_path / "summary.md").write_text(f"| token | {{SECRET}} |")

def test_deletes():
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "short-lived").write_text(SECRET)

def test_shows_cache(tmp_path):
    (tmp_path / "cache.json").write_text(json.dumps({{"access_token": SECRET}}))
    (tmp_path / "cache.json").chmod(0o640)

def test_shares(tmp_path_factory):
    (tmp_path_factory.mktemp("shared") / "file").write_text(SECRET)
"""

#: Where each of them is found out.
PLACES = {
    "test_prints": "Captured stdout call",
    "test_complains": "Captured stderr call",
    "test_logs": "Captured log call",
    "test_captures": "its captured output",
    "test_expects": "the text of ValueError, which it expects",
    "test_tidies": "Captured stdout teardown",
    "test_hears_child": "the stdout of ",
    "test_hears_errors": "the stderr of ",
    "test_reads_line": "the stdout of ",
    "test_reads_lines": "the stdout of ",
    "test_starts": "the command line ",
    "test_has_grandchild": "the command line ",
    "test_writes": "the file ",
    "test_deletes": "the file ",
    "test_shows_cache": "the file ",
}
FINDINGS = (*(f"test_some.py::{test}: {place}" for test, place in PLACES.items()), "*** its id", "between the tests: ")

SILENT = f"""{IMPORTS}
def test_masks_before_it_prints():
    print("::add-mask::" + SECRET)
    subprocess.run(["sh", "-c", 'echo "::add-mask::$SECRET"'], capture_output=True)

def test_keeps_files(tmp_path):
    (tmp_path / "GITHUB_OUTPUT").write_text(SECRET)
    (tmp_path / "github_env").write_text(SECRET)
    cache = tmp_path / "cache.json"
    cache.touch(mode=0o600)
    cache.write_text(json.dumps({{"access_token": SECRET}}))

def test_hands_over():
    done = subprocess.run([sys.executable, "-c", "import sys; sys.stdin.read()"], input=SECRET.encode())
    assert done.returncode == 0
"""


def run(folder: Path, tests: str, *options: str) -> tuple[int, list[str], bool]:
    """A run of its own of some tests: its status, its findings, and whether it shows the secret."""
    # Unknown to the run that this is part of, which would find it too.
    secret = f'{secrets.token_hex(4)}+/"=&{secrets.token_hex(12)}'
    (folder / "conftest.py").write_text(CONFTEST)
    (folder / "test_some.py").write_text(tests)
    (folder / "pytest.ini").write_text("[pytest]\nlog_level = DEBUG\n")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", f"--basetemp={folder / 'base'}", *options],
        cwd=folder,
        env={**os.environ, "SECRET": secret, "PYTEST_ADDOPTS": ""},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    findings = [line.removeprefix("LEAK ") for line in done.stdout.splitlines() if line.startswith("LEAK ")]
    return done.returncode, findings, secret in done.stdout + done.stderr


def test_every_place_is_watched(tmp_path: Path) -> None:
    """Tests that leak in any place pass, but the run fails; each place is named with its test, the secret is not."""
    status, findings, shown = run(tmp_path, LEAKING)

    assert status == pytest.ExitCode.TESTS_FAILED
    assert [each for each in FINDINGS if not any(finding.startswith(each) for finding in findings)] == []
    assert [finding for finding in findings if not finding.startswith(FINDINGS)] == []
    assert not shown, "the secret is shown"


def test_one_leak_is_enough(tmp_path: Path) -> None:
    """A part of the tests is watched like the whole: one finding fails the run, and there is no other."""
    status, findings, _ = run(tmp_path, LEAKING, "-k", "test_logs")

    assert (status, findings) == (pytest.ExitCode.TESTS_FAILED, ["test_some.py::test_logs: Captured log call"])


def test_failure_that_shows_a_secret_is_found(tmp_path: Path) -> None:
    """A test that fails and shows a secret while it explains itself is named as well."""
    status, findings, _ = run(tmp_path, f"{IMPORTS}\ndef test_compares():\n    assert SECRET == ''\n")

    assert status == pytest.ExitCode.TESTS_FAILED
    assert findings == ["test_some.py::test_compares: its failure"]


def test_what_is_allowed_is_no_finding(tmp_path: Path) -> None:
    """Masks, a step's outputs and variables, a cache for its owner alone, and what a pipe hands over are fine."""
    status, findings, shown = run(tmp_path, SILENT)

    assert (status, findings, shown) == (pytest.ExitCode.OK, [], False)


secret_texts = st.text(st.characters(codec="ascii", categories=["L", "N", "P", "S"]), min_size=24, max_size=60)
other_texts = st.text(st.characters(codec="utf-8"), max_size=9)


@pytest.mark.parametrize("encoding", ENCODINGS)
@given(secret=secret_texts, before=other_texts, behind=other_texts)
def test_every_form_is_found(encoding: str, secret: str, before: str, behind: str) -> None:
    """A secret is found in every encoding, wherever it stands in what was encoded, until it is forgotten."""
    needles = Needles()
    data = ENCODINGS[encoding](before + secret + behind).encode()
    assert not needles.are_in(data)
    needles.add(secret, lasting=False)
    assert needles.are_in(data)
    needles.forget()
    assert not needles.are_in(data)


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_made_up_secrets_are_known(kis: KISEmulator, encoding: str) -> None:
    """Tokens of the emulator and of the tests, all secret keys of Supabase and an encryption key are found."""
    token = kis._rules["production"].issue(ACCOUNT.app_key, ACCOUNT.app_secret).value
    needles = Needles()
    needles.add(ENCRYPTION_KEY, lasting=True)
    needles.add_bytes(base64.b64decode(ENCRYPTION_KEY))
    for secret in (token, make_token().value, "opaque.token-of-a-test_0", SERVICE_KEY, "sb_secret_x", ENCRYPTION_KEY):
        found = needles.are_in(ENCODINGS[encoding](f"so: {secret}").encode())
        assert found
    shown = needles.are_in(repr((base64.b64decode(ENCRYPTION_KEY),)).encode())
    assert shown


@pytest.mark.parametrize(
    "part", ["kis_token", "docs", "sql", "README.md", "README.ko.md", "action.yml", "entrypoint.py"]
)
def test_what_is_no_secret_is_not_found(part: str) -> None:
    """Nothing in what the project ships looks like one of the secrets."""
    needles = Needles()
    for secret in SECRETS:
        needles.add(secret, lasting=True)
    path = CHECKOUT / part
    # Not bytecode, which is not shipped and may put any byte behind the head of a secret's form.
    files = [path] if path.is_file() else [each for each in path.rglob("*") if each.suffix not in ("", ".pyc")]

    assert files
    assert [file.name for file in files if needles.are_in(file.read_bytes())] == []


def test_only_whole_mask_commands_are_taken_out() -> None:
    """What stands before the command, or on another line, is seen."""
    assert without_masks(b"::add-mask::one\ntwo\n three ::add-mask::four\n") == b"\ntwo\n three ::add-mask::four\n"
