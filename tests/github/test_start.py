"""kis_token/github/start.sh as the step runs it: the choice of the Python.

The tests use each shell of this machine that a runner may have as ``sh``.
"""

from __future__ import annotations

import os
import subprocess

import pytest

from tests.github.bare_machine import FIRST, GOOD, SHELLS, START, STEP, BareMachine, old_python
from tools.step import CHECKOUT

pytestmark = [
    pytest.mark.skipif(os.name != "posix", reason="the stand-ins are scripts with an interpreter line"),
    pytest.mark.usefixtures("child_processes"),
]


@pytest.mark.parametrize("version", ["3.10", "3.12", "3.13"])
def test_real_python_of_another_version_is_used(bare_machine: BareMachine, version: str) -> None:
    """A Python of each version from 3.10 runs the program, started by a symbolic link or directly."""
    python = old_python(version)
    link = bare_machine.add_link(FIRST, python)

    assert bare_machine.run().log.startswith(f"runs on {link} ")
    assert bare_machine.run(path=f"{python.parent}").log.startswith(f"runs on {python.parent}/{FIRST} ")


def test_wrapper_that_prints_is_used(bare_machine: BareMachine) -> None:
    """If a wrapper prints text and runs Python, the wrapper runs once, and the step starts that Python directly."""
    count = bare_machine.folder / "count"
    bare_machine.add_script(FIRST, f"#!/bin/sh\nprintf 'welcome'\necho x >> '{count}'\nexec '{GOOD}' \"$@\"\n")

    ended = bare_machine.run()

    assert (ended.status, ended.log.startswith(f"runs on {GOOD} ")) == (0, True), ended.log
    assert count.read_text() == "x\n"


def test_wrapper_stays_where_its_python_needs_it(bare_machine: BareMachine) -> None:
    """If the Python behind a wrapper has no library beside it, the step starts the wrapper."""
    target = bare_machine.folder / "elsewhere" / "python"
    target.parent.mkdir()
    target.symlink_to(GOOD)
    wrapper = bare_machine.add_script(FIRST, f"#!/bin/sh\nexec '{target}' \"$@\"\n")

    assert f"--python={wrapper}\n" in bare_machine.run().log


def test_virtual_environment_is_used(bare_machine: BareMachine) -> None:
    """The python of a virtual environment is a symbolic link to an installation, and works like it."""
    subprocess.run([GOOD, "-m", "venv", "--without-pip", bare_machine.folder / "venv"], check=True)
    path = f"{bare_machine.folder}/venv/bin:{bare_machine.places[1]}"

    assert bare_machine.run(path=path).log.startswith(f"runs on {bare_machine.folder}/venv/bin/{FIRST} ")


def test_same_name_in_a_later_place_is_used(bare_machine: BareMachine) -> None:
    """A shim is skipped, and the python3 in the next folder of PATH is used."""
    bare_machine.add_script(FIRST, "#!/bin/sh\nexit 127\n")
    good = bare_machine.add_link(FIRST, GOOD)

    assert bare_machine.run().log.startswith(f"runs on {good} ")


def test_tool_cache_is_the_last_place(bare_machine: BareMachine) -> None:
    """If PATH has no Python, a Python that actions/setup-python has installed is used."""
    bad, good = (bare_machine.folder / "tools" / "Python" / version / "x64" / "bin" for version in ("3.10.1", "3.12.9"))
    for folder in (bad, good):
        folder.mkdir(parents=True)
    (bad / FIRST).write_text("#!/bin/sh\nexit 1\n")
    (bad / FIRST).chmod(0o755)
    (good / FIRST).symlink_to(GOOD)
    bare_machine.add_script(FIRST, "#!/bin/sh\nexit 127\n")

    assert bare_machine.run().log.startswith(f"runs on {good / FIRST} ")
    assert "Python was not found" in bare_machine.run(path="/nowhere", RUNNER_TOOL_CACHE="").log


def test_python_of_the_job_s_own_folder_is_not_run(bare_machine: BareMachine) -> None:
    """Relative and empty entries of PATH mean the checkout. A python3 in the checkout is never run."""
    (bare_machine.folder / FIRST).write_text("#!/bin/sh\necho caught\n")
    (bare_machine.folder / FIRST).chmod(0o755)

    ended = bare_machine.run(path=f":.:{bare_machine.folder.name}/..::{bare_machine.places[1]}:")

    assert "Python was not found" in ended.log


@pytest.mark.parametrize("name", ["with blanks", "st*r", "per%cent", "semi;colon", "quo'te", '"quotes"', "back\\slash"])
def test_folder_of_any_name_serves(bare_machine: BareMachine, name: str) -> None:
    """A folder on the PATH may have any name without a colon."""
    place = bare_machine.folder / name
    place.mkdir()
    (place / FIRST).symlink_to(GOOD)

    assert bare_machine.run(path=f"{place}:{bare_machine.places[1]}").log.startswith(f"runs on {place}/{FIRST} ")


def test_windows_looks_for_python_first_and_for_its_launcher_last(bare_machine: BareMachine) -> None:
    """On Windows, ``python`` is tried before ``python3``, which is often a stub. The launcher ``py`` is tried last."""
    bare_machine.add_script("python", f"#!/bin/sh\nexec '{bare_machine.folder}/p' \"$@\"\n")
    (bare_machine.folder / "p").symlink_to(GOOD)
    bare_machine.add_script(FIRST, "#!/bin/sh\nexit 49\n")
    first = bare_machine.run(RUNNER_OS="Windows").log
    (bare_machine.places[0] / "python").unlink()
    launcher = bare_machine.add_script(
        "py", f"#!/bin/sh\n[ $1 = -3 ] && shift && exec '{bare_machine.folder}/p' \"$@\"\n"
    )
    last = bare_machine.run(RUNNER_OS="Windows").log

    assert f"--python={bare_machine.places[0]}/python\n" in first
    assert f"--python={launcher}\n" in last


def test_words_for_the_program_are_kept(bare_machine: BareMachine) -> None:
    """The script passes its arguments --started and --unusable on to the Python that it selects."""
    bad = bare_machine.add_link(FIRST, GOOD, place=0)
    good = bare_machine.add_link("python3.12", GOOD)
    unusable = f"/usr/bin/python: Python without _ctypes; {bad}: Python without json"
    script = CHECKOUT / START

    done = subprocess.run(
        ["/bin/sh", script, "--started=12.5", f"--unusable={unusable}"],
        env={
            "PATH": os.pathsep.join(map(str, bare_machine.places)),
            "GITHUB_ACTION_PATH": str(bare_machine.program.parent),
        },
        capture_output=True,
        check=False,
        timeout=60,
    )

    assert done.stdout.decode() == f"runs on {good} --python={good} --started=12.5 --unusable={unusable}\n"


def test_step_is_the_python_itself(bare_machine: BareMachine) -> None:
    """The step's Python replaces the process of the shell, so that Python gets every signal of the runner."""
    bare_machine.add_link(FIRST, GOOD)
    bare_machine.program.write_text("import os\nprint(os.getpid())\n")
    (bare_machine.folder / "step.sh").write_text(STEP["run"])
    environment = {
        "PATH": os.pathsep.join(map(str, bare_machine.places)),
        "GITHUB_ACTION_PATH": str(bare_machine.program.parent),
    }

    with subprocess.Popen(
        ["/bin/sh", "-e", str(bare_machine.folder / "step.sh")], env=environment, stdout=subprocess.PIPE, text=True
    ) as step:
        told, _ = step.communicate(timeout=60)

    assert int(told) == step.pid


def test_shell_is_there_on_every_system() -> None:
    """The step uses ``sh``, and bash on Windows. start.sh has no syntax that only bash knows."""
    assert STEP["shell"] == "${{ runner.os == 'Windows' && 'bash' || 'sh' }}"
    for shell in SHELLS.values():
        subprocess.run([*shell[:-1], "-n", CHECKOUT / START], check=True)


def test_secrets_are_no_paths_to_git_s_bash() -> None:
    """Git's bash on Windows rewrites variables that look like paths, except variables with a listed prefix."""
    kept = STEP["env"]["MSYS2_ENV_CONV_EXCL"].split(";")

    assert kept == ["INPUT_", "KIS_", "SUPABASE_", "ACTIONS_"]
    assert all(name.startswith(tuple(kept)) for name in STEP["env"] if name != "MSYS2_ENV_CONV_EXCL")
