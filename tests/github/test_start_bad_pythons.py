"""kis_token/github/start.sh skips each Python that cannot run the step. An error names the skipped Pythons.

Bad Pythons are scripts, files, real old versions if this machine has them, and symbolic links to this Python's own
library with a part left out.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sysconfig
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from kis_token.remedies import REMEDIES
from tests.github.bare_machine import FIRST, GOOD, SHELLS, BareMachine, old_python
from tests.support import first_of
from tools.step import CHECKOUT, read_pairs

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = [
    pytest.mark.skipif(os.name != "posix", reason="the stand-ins are scripts with an interpreter line"),
    pytest.mark.usefixtures("child_processes"),
]


def make_installation(folder: Path, *, without: tuple[str, ...] = (), broken: tuple[str, ...] = ()) -> Path:
    """Copy this Python by links, without the modules in ``without``; modules in ``broken`` raise ImportError."""
    library = Path(sysconfig.get_path("stdlib"))
    copy = folder / "lib" / library.name
    for source in (library, library / "lib-dynload"):
        into = copy / source.relative_to(library)
        into.mkdir(parents=True)
        for path in source.iterdir():
            name = path.name.partition(".")[0]
            if name in ("lib-dynload", "__pycache__", *without):
                continue
            if name in broken:
                (into / path.name).write_text(f"raise ImportError('no shared object', name={name!r})\n")
            else:
                (into / path.name).symlink_to(path)
    for path in library.parent.glob("libpython*"):
        (folder / "lib" / path.name).symlink_to(path)
    python = folder / "bin" / "python3"
    python.parent.mkdir()
    shutil.copy2(GOOD, python)
    return python


def foreign_binary(bare_machine: BareMachine) -> None:
    """Add a python3 that is the start of an ELF file for another kind of machine."""
    path = bare_machine.places[0] / FIRST
    path.write_bytes(b"\x7fELF\x02\x01\x01" + bytes(9) + b"\x02\x00\xf3\x00\x01" + bytes(400))
    path.chmod(0o755)


def wrapper_of_lost_interpreter(bare_machine: BareMachine) -> None:
    """Add the python3 of a virtual environment whose base Python was removed."""
    bare_machine.add_script(FIRST, "#!/nowhere/python3.12\n")


#: A python3 that cannot run the step, and the reason that an error gives.
BAD: dict[str, tuple[Callable[[BareMachine], object] | str, str]] = {
    "pyenv shim without its version": (
        "#!/bin/sh\necho \"pyenv: version '3.13.9' is not installed\" >&2\nexit 127\n",
        "exit status 127",
    ),
    "xcode-select stub": ("#!/bin/sh\necho 'xcode-select: note: No developer tools' >&2\nexit 1\n", "exit status 1"),
    "Store stub": ("#!/bin/sh\necho 'Python was not found; run without arguments'\nexit 49\n", "exit status 49"),
    "asdf shim": ("#!/bin/sh\necho 'No version is set for command python3' >&2\nexit 126\n", "exit status 126"),
    "program that does nothing": ("#!/bin/sh\nexit 0\n", "exit status 0"),
    "empty file": ("", "exit status 0"),
    "program that says that it is new": ("#!/bin/sh\necho 'Python 3.13.0'\n", "exit status 0"),
    "crash": ("#!/bin/sh\nkill -SEGV $$\n", "exit status 139"),
    "interpreter is gone": (wrapper_of_lost_interpreter, "exit status 12"),
    "binary for another machine": (foreign_binary, "exit status "),
}


@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.parametrize("case", BAD)
def test_bad_python_is_passed_over(bare_machine: BareMachine, case: str, shell: str) -> None:
    """If the first python3 cannot run the step, the usable Python after it runs the step."""
    bad, reason = BAD[case]
    if callable(bad):
        bad(bare_machine)
    else:
        bare_machine.add_script(FIRST, bad)

    alone = bare_machine.run(shell)
    good = bare_machine.add_link("python3.12", GOOD)
    both = bare_machine.run(shell)

    assert alone.status == 1
    assert alone.log.startswith("::error::No usable Python was found: ")
    assert f"{bare_machine.places[0]}/{FIRST}: {reason}" in alone.log
    assert alone.log.count("\n") == 1
    assert alone.outputs == {"error-code": "python-missing", "error-hint": REMEDIES["python-missing"]}
    assert (both.status, both.log.startswith(f"runs on {good} ")) == (0, True), both.log
    assert list((bare_machine.folder / "temp").iterdir()) == []


@pytest.mark.parametrize("name", [FIRST, "python"])
@pytest.mark.parametrize("version", ["2.7", "3.6", "3.7", "3.8", "3.9"])
def test_old_python_is_passed_over(bare_machine: BareMachine, version: str, name: str) -> None:
    """A real Python that is too old is skipped, as a link and as the program itself. The error has its version."""
    old = old_python(version)
    bare_machine.add_link(name, old, place=0)

    alone = bare_machine.run()
    directly = bare_machine.run(path=f"{old.parent}:{bare_machine.places[1]}")
    good = bare_machine.add_link("python3.13", GOOD)
    both = bare_machine.run()

    assert f"{bare_machine.places[0]}/{name}: Python {version}." in alone.log
    assert f"{old.parent}/{'python' if version == '2.7' else FIRST}: Python {version}." in directly.log
    assert (alone.status, directly.status) == (1, 1)
    assert (both.status, both.log.startswith(f"runs on {good} ")) == (0, True), both.log


def test_hanging_python_is_given_up(bare_machine: BareMachine) -> None:
    """A Python that hangs is skipped after a time limit, even if its child keeps the output open."""
    sleep = shutil.which("sleep")
    (bare_machine.places[1] / "sleep").unlink()
    bare_machine.add_script("sleep", f"#!/bin/sh\n[ $1 = 20 ] || exit 1\nexec {sleep} 0.2\n", place=1)
    bare_machine.add_script(FIRST, f"#!/bin/sh\n{sleep} 30\n")

    alone = bare_machine.run()
    good = bare_machine.add_link("python3.12", GOOD)
    both = bare_machine.run("bash")

    assert f"{FIRST}: no answer in 20 s [python-missing]" in alone.log
    assert alone.log.count("\n") == 1
    assert both.log.startswith(f"runs on {good} ")


@pytest.mark.parametrize(
    ("without", "broken", "reason"),
    first_of(
        3,
        [
            (("json",), (), "without json"),
            (("_ssl",), (), "without _ssl"),
            ((), ("ssl",), "without ssl"),
            (("ssl", "json"), (), "without "),
            (("_socket",), (), "without _socket"),
            (("hashlib",), (), "without hashlib"),
        ],
    ),
)
def test_python_that_lacks_a_module_is_passed_over(
    bare_machine: BareMachine, without: tuple[str, ...], broken: tuple[str, ...], reason: str
) -> None:
    """A Python that lacks a module is skipped and named, for example Debian's minimal Python or one without OpenSSL."""
    bad = make_installation(bare_machine.folder / "usr", without=without, broken=broken)
    (bare_machine.program.parent / "entrypoint.py").unlink()
    (bare_machine.program.parent / "entrypoint.py").symlink_to(CHECKOUT / "entrypoint.py")
    for module in [*(CHECKOUT / "kis_token").iterdir(), *(CHECKOUT / "kis_token" / "github").glob("*.py")]:
        if module.name not in ("github", "__pycache__"):
            (bare_machine.program.parent / module.relative_to(CHECKOUT)).symlink_to(module)
    path = f"{bad.parent}:{bare_machine.places[1]}"
    inputs = {"INPUT_SUPABASE_URL": "http://127.0.0.1:9", "INPUT_SUPABASE_KEY": "sb_secret_0123456789abcdef"}

    alone = bare_machine.run(path=path, **inputs, INPUT_MODE="check", INPUT_TIMEOUT="60s")
    bare_machine.add_link("python3.12", GOOD)
    both = bare_machine.run(path=path, **inputs, INPUT_MODE="check", INPUT_TIMEOUT="3s")

    errors = [line for line in alone.log.splitlines() if not line.startswith("::add-mask::")]
    assert len(errors) == 1, alone.log
    assert f"{bad}: Python {reason}" in errors[0]
    assert alone.outputs["error-code"] == "python-missing"
    assert both.outputs["error-code"] != "python-missing", both.log
    assert "Traceback" not in both.log


def test_python_that_lacks_a_module_is_an_error_without_another(bare_machine: BareMachine) -> None:
    """If entrypoint.py was not started by start.sh, no other Python is tried: the error names the missing module."""
    bad = make_installation(bare_machine.folder / "usr", without=("json",))
    output = bare_machine.folder / "output"
    command = [str(bad), "-I", "-S", "-X", "utf8", str(CHECKOUT / "entrypoint.py")]

    done = subprocess.run(command, env={"GITHUB_OUTPUT": str(output)}, capture_output=True, check=False, timeout=60)

    assert done.returncode == 1
    assert done.stdout.decode().startswith(f"::error::{bad} cannot load its module json [python-missing]. ")
    assert read_pairs(output) == {"error-code": "python-missing", "error-hint": REMEDIES["python-missing"]}


def test_installation_without_its_library_is_passed_over(bare_machine: BareMachine) -> None:
    """A Python whose standard library is missing cannot start, and the next Python is used."""
    bad = make_installation(bare_machine.folder / "usr", without=("encodings",))
    alone = bare_machine.run(path=f"{bad.parent}:{bare_machine.places[1]}")
    good = bare_machine.add_link("python3.12", GOOD)

    assert f"{bad}: exit status 1 [python-missing]" in alone.log
    assert bare_machine.run(path=f"{bad.parent}:{bare_machine.places[1]}").log.startswith(f"runs on {good} ")


def test_links_to_nothing_folders_and_plain_files_are_no_pythons(bare_machine: BareMachine) -> None:
    """Broken links, folders and files that cannot be executed are neither tried nor named."""
    bare_machine.add_link(FIRST, bare_machine.folder / "nowhere", place=0)
    (bare_machine.places[1] / FIRST).mkdir()
    (bare_machine.places[0] / "python").write_text("#!/bin/sh\n")

    ended = bare_machine.run()

    assert (ended.status, ended.log) == (
        1,
        f"::error::Python was not found [python-missing]. {REMEDIES['python-missing']}\n",
    )
