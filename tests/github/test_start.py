"""kis_token/github/start.sh as the step runs it: which Python becomes the step, on machines with good and bad ones.

The shells are those of this machine that a runner may have as ``sh``. Bad Pythons are scripts, files, real old versions
where this machine has them, and links to this Python's own library with a part of it left out.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import yaml

from kis_token.errors import REMEDIES
from tests.support import first_of
from tools.step import CHECKOUT, read_pairs

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = [
    pytest.mark.skipif(os.name != "posix", reason="the stand-ins are scripts with an interpreter line"),
    pytest.mark.usefixtures("child_processes"),
]

ACTION = yaml.safe_load((CHECKOUT / "action.yml").read_text(encoding="utf-8"))
START = "kis_token/github/start.sh"
STEP = ACTION["runs"]["steps"][0]
GOOD = Path(sys.executable).resolve()
VERSION = ".".join(map(str, sys.version_info[:3]))

#: The shells that may be a runner's sh, with the options that the runner gives them.
SHELLS = {
    name: [path, *options, "-e"]
    for name, options in {"dash": [], "bash": [], "busybox": ["sh"]}.items()
    if (path := shutil.which(name))
}
#: The first of the names that a step looks for.
FIRST = "python3"


@dataclass(frozen=True)
class Ended:
    """How the script ended."""

    status: int
    log: str
    outputs: dict[str, str]


class Machine:
    """A machine with the Pythons that a test puts on its path, and a program that says which one it runs on."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.places = [folder / "first place", folder / "second"]
        for place in (*self.places, folder / "temp", folder / "action" / "kis_token" / "github", folder / "tools"):
            place.mkdir(parents=True)
        (folder / "action" / START).symlink_to(CHECKOUT / START)
        self.program = folder / "action" / "entrypoint.py"
        self.program.write_text("import sys\nprint('runs on', sys.executable, *sys.argv[1:], flush=True)\n")

    def add_script(self, name: str, text: str, place: int = 0) -> Path:
        """A program that is a script."""
        path = self.places[place] / name
        path.write_text(text)
        path.chmod(0o755)
        return path

    def add_link(self, name: str, target: Path, place: int = 1) -> Path:
        """A link to a program."""
        path = self.places[place] / name
        path.symlink_to(target)
        return path

    def run(self, shell: str = "dash", *, path: str | None = None, **env: str) -> Ended:
        """Run the step's script as the runner does."""
        script = self.folder / "step.sh"
        script.write_text(STEP["run"])
        output = self.folder / "output"
        output.write_text("")
        done = subprocess.run(
            [*SHELLS.get(shell, ["/bin/sh", "-e"]), str(script)],
            cwd=self.folder,
            env={
                "PATH": os.pathsep.join(map(str, self.places)) + ":/usr/sbin" if path is None else path,
                "GITHUB_ACTION_PATH": str(self.program.parent),
                "GITHUB_OUTPUT": str(output),
                "RUNNER_OS": "Linux",
                "RUNNER_TEMP": str(self.folder / "temp"),
                "RUNNER_TOOL_CACHE": str(self.folder / "tools"),
                **env,
            },
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=60,
            check=False,
        )
        return Ended(done.returncode, done.stdout.decode(errors="replace"), read_pairs(output))


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    """A machine with the programs that a system has, and no Python."""
    machine = Machine(tmp_path / "a machine")
    for name in ("rm", "readlink", "sleep"):
        machine.add_link(name, Path(shutil.which(name) or ""))
    return machine


def make_installation(folder: Path, *, without: tuple[str, ...] = (), broken: tuple[str, ...] = ()) -> Path:
    """A copy of this Python by links, without some names of its library; ``broken`` ones raise ImportError."""
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


def old_python(version: str) -> Path:
    """A real Python of another version on this machine."""
    root = Path(os.environ.get("PYENV_ROOT", "~/.pyenv")).expanduser() / "versions"
    found = sorted(root.glob(f"{version}.*/bin/python"))
    if not found:
        pytest.skip(f"there is no Python {version} on this machine")
    return found[0].resolve()


def foreign_binary(machine: Machine) -> None:
    """The start of an ELF file for a machine of another kind."""
    path = machine.places[0] / FIRST
    path.write_bytes(b"\x7fELF\x02\x01\x01" + bytes(9) + b"\x02\x00\xf3\x00\x01" + bytes(400))
    path.chmod(0o755)


def wrapper_of_lost_interpreter(machine: Machine) -> None:
    """The python of an environment whose Python was removed."""
    machine.add_script(FIRST, "#!/nowhere/python3.12\n")


#: A python3 that cannot run the step, and the reason that an error gives.
BAD: dict[str, tuple[Callable[[Machine], object] | str, str]] = {
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
def test_bad_python_is_passed_over(machine: Machine, case: str, shell: str) -> None:
    """A first python3 that cannot run the step is no reason to fail: the good one beside it becomes the step."""
    bad, reason = BAD[case]
    if callable(bad):
        bad(machine)
    else:
        machine.add_script(FIRST, bad)

    alone = machine.run(shell)
    good = machine.add_link("python3.12", GOOD)
    both = machine.run(shell)

    assert alone.status == 1
    assert alone.log.startswith("::error::No Python that was found can be used: ")
    assert f"{machine.places[0]}/{FIRST}: {reason}" in alone.log
    assert alone.log.count("\n") == 1
    assert alone.outputs == {"error-code": "python-missing", "error-hint": REMEDIES["python-missing"]}
    assert (both.status, both.log.startswith(f"runs on {good} ")) == (0, True), both.log
    assert list((machine.folder / "temp").iterdir()) == []


@pytest.mark.parametrize("name", [FIRST, "python"])
@pytest.mark.parametrize("version", ["2.7", "3.6", "3.7", "3.8", "3.9"])
def test_old_python_is_passed_over(machine: Machine, version: str, name: str) -> None:
    """A real Python that is too old, by a link or as its own program, is named with its version."""
    old = old_python(version)
    machine.add_link(name, old, place=0)

    alone = machine.run()
    directly = machine.run(path=f"{old.parent}:{machine.places[1]}")
    good = machine.add_link("python3.13", GOOD)
    both = machine.run()

    assert f"{machine.places[0]}/{name}: Python {version}." in alone.log
    assert f"{old.parent}/{'python' if version == '2.7' else FIRST}: Python {version}." in directly.log
    assert (alone.status, directly.status) == (1, 1)
    assert (both.status, both.log.startswith(f"runs on {good} ")) == (0, True), both.log


@pytest.mark.parametrize("version", ["3.10", "3.12", "3.13"])
def test_real_python_of_another_version_is_used(machine: Machine, version: str) -> None:
    """Each version from 3.10 on runs the program, by a link and as its own program."""
    python = old_python(version)
    link = machine.add_link(FIRST, python)

    assert machine.run().log.startswith(f"runs on {link} ")
    assert machine.run(path=f"{python.parent}").log.startswith(f"runs on {python.parent}/{FIRST} ")


def test_hanging_python_is_given_up(machine: Machine) -> None:
    """A python that never answers, with a child of its own that keeps its output open, is given up after a time."""
    sleep = shutil.which("sleep")
    (machine.places[1] / "sleep").unlink()
    machine.add_script("sleep", f"#!/bin/sh\n[ $1 = 20 ] || exit 1\nexec {sleep} 0.2\n", place=1)
    machine.add_script(FIRST, f"#!/bin/sh\n{sleep} 30\n")

    alone = machine.run()
    good = machine.add_link("python3.12", GOOD)
    both = machine.run("bash")

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
    machine: Machine, without: tuple[str, ...], broken: tuple[str, ...], reason: str
) -> None:
    """Debian's minimal Python, one whose OpenSSL is gone, and their kind: found out by the program, and named."""
    bad = make_installation(machine.folder / "usr", without=without, broken=broken)
    (machine.program.parent / "entrypoint.py").unlink()
    (machine.program.parent / "entrypoint.py").symlink_to(CHECKOUT / "entrypoint.py")
    for module in [*(CHECKOUT / "kis_token").iterdir(), *(CHECKOUT / "kis_token" / "github").glob("*.py")]:
        if module.name not in ("github", "__pycache__"):
            (machine.program.parent / module.relative_to(CHECKOUT)).symlink_to(module)
    path = f"{bad.parent}:{machine.places[1]}"
    inputs = {"INPUT_SUPABASE_URL": "http://127.0.0.1:9", "INPUT_SUPABASE_KEY": "sb_secret_0123456789abcdef"}

    alone = machine.run(path=path, **inputs, INPUT_MODE="check", INPUT_TIMEOUT="60s")
    machine.add_link("python3.12", GOOD)
    both = machine.run(path=path, **inputs, INPUT_MODE="check", INPUT_TIMEOUT="3s")

    errors = [line for line in alone.log.splitlines() if not line.startswith("::add-mask::")]
    assert len(errors) == 1, alone.log
    assert f"{bad}: Python {reason}" in errors[0]
    assert alone.outputs["error-code"] == "python-missing"
    assert both.outputs["error-code"] != "python-missing", both.log
    assert "Traceback" not in both.log


def test_python_that_lacks_a_module_is_an_error_where_none_other_is(machine: Machine) -> None:
    """Started by hand, the program has no script to go back to: it names the module, with the code."""
    bad = make_installation(machine.folder / "usr", without=("json",))
    output = machine.folder / "output"
    command = [str(bad), "-I", "-S", "-X", "utf8", str(CHECKOUT / "entrypoint.py")]

    done = subprocess.run(command, env={"GITHUB_OUTPUT": str(output)}, capture_output=True, check=False, timeout=60)

    assert done.returncode == 1
    assert done.stdout.decode().startswith(f"::error::{bad} cannot load its module json [python-missing]. ")
    assert read_pairs(output) == {"error-code": "python-missing", "error-hint": REMEDIES["python-missing"]}


def test_wrapper_that_prints_is_used(machine: Machine) -> None:
    """A script that says something and then is Python works: the Python behind it is started directly, and once."""
    count = machine.folder / "count"
    machine.add_script(FIRST, f"#!/bin/sh\nprintf 'welcome'\necho x >> '{count}'\nexec '{GOOD}' \"$@\"\n")

    ended = machine.run()

    assert (ended.status, ended.log.startswith(f"runs on {GOOD} ")) == (0, True), ended.log
    assert count.read_text() == "x\n"


def test_wrapper_stays_where_its_python_needs_it(machine: Machine) -> None:
    """Where the Python behind a wrapper cannot be judged by its place, the wrapper itself becomes the step."""
    odd = machine.folder / "odd" / "python"
    odd.parent.mkdir()
    odd.symlink_to(GOOD)
    wrapper = machine.add_script(FIRST, f"#!/bin/sh\nexec '{odd}' \"$@\"\n")

    assert f"--python={wrapper}\n" in machine.run().log


def test_virtual_environment_is_used(machine: Machine) -> None:
    """The python of a virtual environment is a link to an installation, and works like it."""
    subprocess.run([GOOD, "-m", "venv", "--without-pip", machine.folder / "venv"], check=True)
    path = f"{machine.folder}/venv/bin:{machine.places[1]}"

    assert machine.run(path=path).log.startswith(f"runs on {machine.folder}/venv/bin/{FIRST} ")


def test_installation_without_its_library_is_passed_over(machine: Machine) -> None:
    """A binary whose library is gone cannot start at all; the next one is used."""
    bad = make_installation(machine.folder / "usr", without=("encodings",))
    alone = machine.run(path=f"{bad.parent}:{machine.places[1]}")
    good = machine.add_link("python3.12", GOOD)

    assert f"{bad}: exit status 1 [python-missing]" in alone.log
    assert machine.run(path=f"{bad.parent}:{machine.places[1]}").log.startswith(f"runs on {good} ")


def test_links_to_nothing_folders_and_plain_files_are_no_pythons(machine: Machine) -> None:
    """What cannot be started is not tried and not named."""
    machine.add_link(FIRST, machine.folder / "nowhere", place=0)
    (machine.places[1] / FIRST).mkdir()
    (machine.places[0] / "python").write_text("#!/bin/sh\n")

    ended = machine.run()

    assert (ended.status, ended.log) == (
        1,
        f"::error::Python was not found [python-missing]. {REMEDIES['python-missing']}\n",
    )


def test_same_name_in_a_later_place_is_used(machine: Machine) -> None:
    """A shim is passed over for the python3 of the next place on the path."""
    machine.add_script(FIRST, "#!/bin/sh\nexit 127\n")
    good = machine.add_link(FIRST, GOOD)

    assert machine.run().log.startswith(f"runs on {good} ")


def test_tool_cache_is_the_last_place(machine: Machine) -> None:
    """A Python that actions/setup-python has left on the runner is used when the path has none."""
    bad, good = (machine.folder / "tools" / "Python" / version / "x64" / "bin" for version in ("3.10.1", "3.12.9"))
    for folder in (bad, good):
        folder.mkdir(parents=True)
    (bad / FIRST).write_text("#!/bin/sh\nexit 1\n")
    (bad / FIRST).chmod(0o755)
    (good / FIRST).symlink_to(GOOD)
    machine.add_script(FIRST, "#!/bin/sh\nexit 127\n")

    assert machine.run().log.startswith(f"runs on {good / FIRST} ")
    assert "Python was not found" in machine.run(path="/nowhere", RUNNER_TOOL_CACHE="").log


def test_python_of_the_job_s_own_folder_is_not_run(machine: Machine) -> None:
    """Relative and empty places of the path are the checkout's: its files do not become the step."""
    (machine.folder / FIRST).write_text("#!/bin/sh\necho caught\n")
    (machine.folder / FIRST).chmod(0o755)

    ended = machine.run(path=f":.:{machine.folder.name}/..::{machine.places[1]}:")

    assert "Python was not found" in ended.log


@pytest.mark.parametrize("name", ["with blanks", "st*r", "per%cent", "semi;colon", "quo'te", '"quotes"', "back\\slash"])
def test_folder_of_any_name_serves(machine: Machine, name: str) -> None:
    """A folder on the path may have any name but one with a colon."""
    place = machine.folder / name
    place.mkdir()
    (place / FIRST).symlink_to(GOOD)

    assert machine.run(path=f"{place}:{machine.places[1]}").log.startswith(f"runs on {place}/{FIRST} ")


def test_windows_looks_for_python_first_and_for_its_launcher_last(machine: Machine) -> None:
    """On Windows python3 is often the stub; without either the launcher py finds an installed Python."""
    machine.add_script("python", f"#!/bin/sh\nexec '{machine.folder}/p' \"$@\"\n")
    (machine.folder / "p").symlink_to(GOOD)
    machine.add_script(FIRST, "#!/bin/sh\nexit 49\n")
    first = machine.run(RUNNER_OS="Windows").log
    (machine.places[0] / "python").unlink()
    launcher = machine.add_script("py", f"#!/bin/sh\n[ $1 = -3 ] && shift && exec '{machine.folder}/p' \"$@\"\n")
    last = machine.run(RUNNER_OS="Windows").log

    assert f"--python={machine.places[0]}/python\n" in first
    assert f"--python={launcher}\n" in last


def test_words_for_the_program_are_kept(machine: Machine) -> None:
    """What an earlier Python found out goes on: when the step began, and which Pythons cannot be used."""
    bad = machine.add_link(FIRST, GOOD, place=0)
    good = machine.add_link("python3.12", GOOD)
    unusable = f"/usr/bin/python: Python without _ctypes; {bad}: Python without json"
    script = CHECKOUT / START

    done = subprocess.run(
        ["/bin/sh", script, "--started=12.5", f"--unusable={unusable}"],
        env={"PATH": os.pathsep.join(map(str, machine.places)), "GITHUB_ACTION_PATH": str(machine.program.parent)},
        capture_output=True,
        check=False,
        timeout=60,
    )

    assert done.stdout.decode() == f"runs on {good} --python={good} --started=12.5 --unusable={unusable}\n"


def test_step_is_the_python_itself(machine: Machine) -> None:
    """The script becomes Python: a runner's signal reaches the program, whatever the shell was told to ignore."""
    machine.add_link(FIRST, GOOD)
    machine.program.write_text("import os\nprint(os.getpid())\n")
    (machine.folder / "step.sh").write_text(STEP["run"])
    environment = {"PATH": os.pathsep.join(map(str, machine.places)), "GITHUB_ACTION_PATH": str(machine.program.parent)}

    with subprocess.Popen(
        ["/bin/sh", "-e", str(machine.folder / "step.sh")], env=environment, stdout=subprocess.PIPE, text=True
    ) as step:
        told, _ = step.communicate(timeout=60)

    assert int(told) == step.pid


def test_shell_is_there_on_every_system() -> None:
    """The step is for sh, which each system has, and for bash on Windows; the script has no word of bash alone."""
    assert STEP["shell"] == "${{ runner.os == 'Windows' && 'bash' || 'sh' }}"
    for shell in SHELLS.values():
        subprocess.run([*shell[:-1], "-n", CHECKOUT / START], check=True)


def test_secrets_are_no_paths_to_git_s_bash() -> None:
    """Git's bash on Windows rewrites what looks like a path of its own, but for variables of these beginnings."""
    kept = STEP["env"]["MSYS2_ENV_CONV_EXCL"].split(";")

    assert kept == ["INPUT_", "KIS_", "SUPABASE_", "ACTIONS_"]
    assert all(name.startswith(tuple(kept)) for name in STEP["env"] if name != "MSYS2_ENV_CONV_EXCL")
