"""The runtime's folder: built once, whole or not at all, in a place that is ours, without our secrets.

The installers are stand-ins: programs that note how they were called and make a folder, or fail as told.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import pytest

from kis_token.bootstrap import PACKAGES, RESERVE_SECONDS, ensure_runtime, runtime_name
from kis_token.errors import EnvironmentFault

if TYPE_CHECKING:
    from collections.abc import Mapping

if sys.platform == "win32":
    pytest.skip("the stand-ins for installers are scripts with an interpreter line", allow_module_level=True)

CHECKOUT = Path(__file__).resolve().parents[1]
PYTHON = sys.executable  # some tests change what sys says
SECRETS = {
    "INPUT_SUPABASE_KEY": "sb_secret_made-up-for-the-tests_4f7Qx0Zt2",
    "INPUT_APP_SECRET": "c2VjcmV0LW9mLWEtdGVzdA==",
    "SUPABASE_SERVICE_ROLE_KEY": "sb_secret_made-up-for-the-tests_4f7Qx0Zt2",
    "SUPABASE_SECRET_KEY": "sb_secret_another-one-0123456789",
    "KIS_APP_KEY": "PSabcdefghijklmnopqrstuvwxyz01234567",
    "KIS_APP_SECRET": "c2VjcmV0LW9mLWEtdGVzdA==",
    "KIS_TOKEN_ENCRYPTION_KEY": "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=",
    "Kis_Access_Token": "opaque.token-of-a-test_0123456789",
}

NOTHING: Mapping[str, str] = MappingProxyType({})

#: Notes its call, makes the target, and then does as it is told: nothing more, fail, or wait.
INSTALLER = """#!{python} -IS
import json, os, signal, sys
from pathlib import Path
if "-c" in sys.argv:
    sys.exit(0)  # asked whether there is a pip
here = Path({folder!r})
with open(here / "calls", "a") as calls:
    calls.write(json.dumps({{"name": {name!r}, "argv": sys.argv[1:], "cwd": os.getcwd(), "env": dict(os.environ),
                            "pid": os.getpid()}}) + "\\n")
target = Path(sys.argv[sys.argv.index("--target") + 1])
target.mkdir(parents=True)
(target / "half").write_text("half")
{then}
(target / "half").rename(target / "whole")
for package in (*{packages!r}, "cryptography/hazmat/bindings/_rust"):
    (target / package).mkdir(parents=True, exist_ok=True)
    (target / package / "__init__.py").touch()
"""

WAIT = "signal.pause()"
LINGER = "signal.signal(signal.SIGALRM, lambda *_: None); signal.setitimer(signal.ITIMER_REAL, 0.3); signal.pause()"
FETCH_UV = """
if target.name.endswith("-uv"):
    (target / "bin").mkdir()
    (target / "bin" / "uv").write_text({uv!r})
    (target / "bin" / "uv").chmod(0o755)
"""

ENSURE = """
import os, sys, time
from pathlib import Path
from kis_token.bootstrap import ensure_runtime
folder = Path(sys.argv[1])
print(ensure_runtime(folder / "requirements.txt", folder / "requirements-uv.txt", os.environ, time.monotonic() + 90))
"""


def fail(words: str) -> str:
    """What a failing installer does."""
    return f"sys.exit({words!r})"


@dataclass(frozen=True)
class Machine:
    """A machine with nothing on its path but what a test puts there."""

    folder: Path

    @property
    def env(self) -> dict[str, str]:
        """A job's environment."""
        return {"PATH": str(self.folder / "bin"), "RUNNER_TOOL_CACHE": str(self.folder / "tools")}

    @property
    def root(self) -> Path:
        """Where the runtimes are."""
        return self.folder / "tools" / "kis-token-action"

    def script(self, name: str, then: str = "") -> str:
        """The text of an installer."""
        return INSTALLER.format(python=PYTHON, folder=str(self.folder), name=name, then=then, packages=PACKAGES)

    def put(self, name: str, then: str = "") -> Path:
        """Put an installer on the path."""
        path = self.folder / "bin" / name
        path.write_text(self.script(name, then))
        path.chmod(0o755)
        return path

    def calls(self, *member: str) -> list[Any]:
        """What the installers noted: a member of each call, their names unless told otherwise."""
        noted = self.folder / "calls"
        lines = noted.read_text().splitlines() if noted.exists() else []
        return [json.loads(line)[member[0] if member else "name"] for line in lines]

    def ensure(self, seconds: float = 90, env: Mapping[str, str] = NOTHING) -> Path:
        """Find or build the runtime, with further variables."""
        files = (self.folder / "requirements.txt", self.folder / "requirements-uv.txt")
        return ensure_runtime(*files, {**self.env, **env}, time.monotonic() + seconds)

    def start(self) -> subprocess.Popen[str]:
        """The same in another process."""
        command = [PYTHON, "-c", ENSURE, str(self.folder)]
        return subprocess.Popen(command, cwd=CHECKOUT, env=self.env, stdout=subprocess.PIPE, text=True)

    def wait_for_calls(self, count: int) -> None:
        """Until that many installers run, or it has been too long."""
        deadline = time.monotonic() + 20
        while len(self.calls()) < count:
            assert time.monotonic() < deadline, "no installer was started"

    def folders(self) -> list[str]:
        """What is there of runtimes, whole or not."""
        return sorted(path.name for path in self.root.iterdir() if path.is_dir())


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    """A machine without installers."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "requirements.txt").write_text("package==1 --hash=sha256:00\n")
    (tmp_path / "requirements-uv.txt").write_text("uv==1 --hash=sha256:00\n")
    return Machine(tmp_path)


@pytest.fixture
def pip(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    """A Python whose pip fetches a uv that works."""
    python = machine.put("python", FETCH_UV.format(uv=machine.script("fetched uv")))
    monkeypatch.setattr(sys, "executable", str(python))


@pytest.fixture
def no_pip(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    """A Python without pip, which was made from none that has it."""
    bare = machine.folder / "bare"
    # Only the question for pip is answered with no: other programs may look for packages too.
    script = f"""#!/bin/sh\ncase "$*" in *"find_spec('pip')"*) exit 1;; esac\nexec {shlex.quote(PYTHON)} "$@"\n"""
    bare.write_text(script)
    bare.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(bare))
    monkeypatch.setattr(sys, "_base_executable", str(machine.folder / "none"), raising=False)


def test_built_once_and_found_again(machine: Machine) -> None:
    """The first call installs, the second finds the folder, whose name says for which lock and Python it is."""
    machine.put("uv")
    first, second = machine.ensure(), machine.ensure()
    assert first == second == machine.root / runtime_name(b"package==1 --hash=sha256:00\n")
    assert (first / "whole").exists()
    assert machine.calls() == ["uv"]


def test_another_lock_is_another_folder(machine: Machine) -> None:
    """A release with other packages does not touch those of the last; line ends make no difference."""
    machine.put("uv")
    machine.ensure()
    (machine.folder / "requirements.txt").write_bytes(b"package==2 --hash=sha256:00\n")
    machine.ensure()
    (machine.folder / "requirements.txt").write_bytes(b"package==2 --hash=sha256:00\r\n")
    machine.ensure()
    assert machine.calls() == ["uv", "uv"]
    assert len(machine.folders()) == 2


def test_only_what_the_lock_names_is_installed(machine: Machine) -> None:
    """Hashes are required, sources are not built, nothing else is pulled in, and this Python is the one meant."""
    machine.put("uv")
    machine.ensure()
    (arguments,) = machine.calls("argv")
    assert {"--require-hashes", "--no-deps", "--only-binary", "--no-python-downloads"} <= set(arguments)
    assert arguments[arguments.index("--only-binary") + 1] == ":all:"
    assert arguments[arguments.index("--python") + 1] == sys.executable
    assert arguments[arguments.index("-r") + 1] == str(machine.folder / "requirements.txt")


@pytest.mark.usefixtures("pip")
def test_no_secret_is_in_an_installer_s_environment(machine: Machine) -> None:
    """What belongs to us stays with us; proxies, certificates and the installer's own settings are passed on."""
    machine.put("uv", fail("no"))
    passed = {"HTTPS_PROXY": "http://proxy.example:3128", "SSL_CERT_FILE": "/ca.pem", "PIP_INDEX_URL": "https://index"}
    machine.ensure(env={**SECRETS, **passed, "PIP_USER": "1"})
    environments = machine.calls("env")
    assert machine.calls() == ["uv", "python", "fetched uv"]
    for environment in environments:
        assert passed.items() <= environment.items()
        assert environment["PIP_USER"] == "0"
        assert not any(secret in json.dumps(environment) for secret in SECRETS.values()), "a secret is passed on"


def test_caller_s_project_plays_no_part(machine: Machine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Installers do not run in the job's folder, whose settings are meant for something else."""
    machine.put("uv")
    monkeypatch.chdir(tmp_path)
    machine.ensure()
    assert machine.calls("cwd") == [str(machine.root)]


@pytest.mark.usefixtures("pip")
def test_without_uv_pip_fetches_one(machine: Machine) -> None:
    """A machine without uv gets one from pip, for this build alone."""
    assert (machine.ensure() / "whole").exists()
    assert machine.calls() == ["python", "fetched uv"]
    assert machine.calls("argv")[0][:4] == ["-I", "-m", "pip", "install"]
    assert len(machine.folders()) == 1


@pytest.mark.usefixtures("pip")
def test_uv_that_fails_is_replaced(machine: Machine) -> None:
    """An old or broken uv on the path is no reason to fail, and nothing it left stays."""
    machine.put("uv", fail("error: unexpected argument"))
    runtime = machine.ensure()
    assert sorted(path.name for path in runtime.iterdir()) == sorted([*PACKAGES, "whole"])
    assert machine.calls() == ["uv", "python", "fetched uv"]


def test_where_no_uv_works_pip_installs(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    """A uv that cannot run here leaves pip itself."""
    python = machine.put("python", FETCH_UV.format(uv=machine.script("fetched uv", fail("no"))))
    monkeypatch.setattr(sys, "executable", str(python))
    assert (machine.ensure() / "whole").exists()
    assert machine.calls() == ["python", "fetched uv", "python"]
    assert {"--require-hashes", "--only-binary", "--no-deps"} <= set(machine.calls("argv")[2])


def test_failure_is_one_error_with_the_last_words(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nothing works the installer's last line says why, without the index's password, and nothing stays."""
    words = "noise\nCould not reach https://kim:hunter2-hunter2@index.example/simple\n\n"
    monkeypatch.setattr(sys, "executable", str(machine.put("python", fail(words))))
    with pytest.raises(EnvironmentFault) as caught:
        machine.ensure()
    assert caught.value.code == "runtime-failed"
    assert caught.value.args[0].endswith(": Could not reach https://***@index.example/simple")
    assert machine.folders() == []


@pytest.mark.usefixtures("no_pip")
def test_installer_s_word_is_not_enough(machine: Machine) -> None:
    """A uv that says it worked and installed nothing, or what this machine cannot load, is one that failed."""
    machine.put("uv", "sys.exit(0)")
    with pytest.raises(EnvironmentFault) as nothing:
        machine.ensure()
    lines = (
        "(target / 'pydantic_core.py').write_text('import no_such_module')",
        "(target / 'cryptography/hazmat/bindings').mkdir(parents=True)",
        "(target / 'cryptography/hazmat/bindings/_rust.py').touch()",
        "(target / 'half').unlink()",
        "sys.exit(0)",
    )
    machine.put("uv", "; ".join(lines))
    with pytest.raises(EnvironmentFault) as broken:
        machine.ensure()
    # There is no pip to fall back to, so both end there; what was wrong with uv is told.
    assert (nothing.value.code, broken.value.code) == ("pip-missing", "pip-missing")
    assert "No module named" in f"{nothing.value}"
    assert "No module named" in f"{broken.value}"
    assert machine.folders() == []


def test_damaged_runtime_is_built_again(machine: Machine) -> None:
    """A folder that lost a package since it was built is no finished one."""
    machine.put("uv")
    runtime = machine.ensure()
    shutil.rmtree(runtime / "supabase")
    assert (machine.ensure() / "supabase").is_dir()
    assert machine.calls() == ["uv", "uv"]


@pytest.mark.parametrize("variable", ["PIP_TARGET", "PIP_ROOT", "PIP_DRY_RUN", "PIP_PLATFORM", "UV_LINK_MODE"])
def test_caller_s_settings_do_not_mislead_an_installer(machine: Machine, variable: str) -> None:
    """Settings that would install something else, elsewhere or nothing do not reach an installer."""
    machine.put("uv")
    machine.ensure(env={variable: "symlink", "PIP_INDEX_URL": "http://127.0.0.1:9/simple"})
    (env,) = machine.calls("env")
    assert env.get(variable) in (None, "copy")
    assert env["PIP_INDEX_URL"] == "http://127.0.0.1:9/simple"


@pytest.mark.usefixtures("pip")
def test_hanging_uv_leaves_time_for_pip(machine: Machine) -> None:
    """A uv that hangs is ended, with its children, while there is time left for the next way."""
    machine.put("uv", WAIT)
    assert (machine.ensure(seconds=RESERVE_SECONDS + 4) / "whole").exists()
    assert machine.calls()[0] == "uv"
    with pytest.raises(ProcessLookupError):
        os.kill(machine.calls("pid")[0], 0)


@pytest.mark.usefixtures("no_pip")
def test_python_without_pip_is_one_clear_error(machine: Machine) -> None:
    """With neither pip nor uv the error says just that."""
    with pytest.raises(EnvironmentFault) as caught:
        machine.ensure()
    assert caught.value.code == "pip-missing"
    assert caught.value.args[0] == "This Python has no pip, and there is no uv"
    assert machine.folders() == []


@pytest.mark.usefixtures("no_pip")
def test_uv_that_fails_without_pip_is_told_in_its_own_words(machine: Machine) -> None:
    """Where there is a uv the error says why that one did not do."""
    machine.put("uv", fail("error: no route to the index"))
    with pytest.raises(EnvironmentFault) as caught:
        machine.ensure()
    assert caught.value.args[0] == "This Python has no pip, and uv failed: error: no route to the index"


@pytest.mark.usefixtures("no_pip")
def test_virtual_environment_without_pip_uses_that_of_its_python(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A virtual environment of uv's has no pip, but the Python that it was made from may."""
    python = machine.put("python", FETCH_UV.format(uv=machine.script("fetched uv")))
    monkeypatch.setattr(sys, "_base_executable", str(python), raising=False)
    assert (machine.ensure() / "whole").exists()
    assert machine.calls() == ["python", "fetched uv"]


def test_two_at_once_build_once(machine: Machine) -> None:
    """Two processes that start together share one build, and both have it when it is whole."""
    machine.put("uv", LINGER)
    processes = [machine.start() for _ in range(3)]
    ended = [process.communicate(timeout=60)[0].strip() for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0]
    assert set(ended) == {str(machine.ensure())}
    assert machine.calls() == ["uv"]


def test_killed_build_is_never_taken_for_a_finished_one(machine: Machine) -> None:
    """A job that dies in the middle of a build leaves nothing that the next would use, and no lock."""
    machine.put("uv", WAIT)
    process = machine.start()
    machine.wait_for_calls(1)
    process.kill()
    process.communicate()
    machine.put("uv")
    runtime = machine.ensure()
    os.kill(machine.calls("pid")[0], signal.SIGKILL)
    assert sorted(path.name for path in runtime.iterdir()) == sorted([*PACKAGES, "whole"])
    assert machine.folders() == [runtime.name]
    assert machine.calls() == ["uv", "uv"]


def test_leftovers_are_cleared_away(machine: Machine) -> None:
    """What an earlier job left half built is removed before the next build; other releases' folders stay."""
    machine.put("uv")
    name = runtime_name((machine.folder / "requirements.txt").read_bytes())
    for leftover in (f"{name}.partial-1", f"{name}.partial-1-uv", "another-release"):
        (machine.root / leftover / "inside").mkdir(parents=True)
    machine.root.chmod(0o700)
    machine.ensure()
    assert machine.folders() == sorted([name, "another-release"])


def test_build_that_takes_too_long_is_given_up(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    """The step's time limit holds for the installers as well, all together, and what they left is removed."""
    machine.put("uv", WAIT)
    monkeypatch.setattr(sys, "executable", str(machine.put("python", WAIT)))
    started = time.monotonic()
    with pytest.raises(EnvironmentFault) as caught:
        machine.ensure(RESERVE_SECONDS + 2)
    assert caught.value.code == "runtime-failed"
    assert "too long" in caught.value.args[0]
    assert time.monotonic() - started < 20
    assert machine.folders() == []
    assert set(machine.calls()) == {"uv", "python"}


def test_without_time_left_no_installer_is_started(machine: Machine) -> None:
    """Where the time is up already the error says so at once."""
    machine.put("uv")
    with pytest.raises(EnvironmentFault) as caught:
        machine.ensure(RESERVE_SECONDS)
    assert caught.value.code == "timed-out"
    assert machine.calls() == []


def test_waiting_for_another_build_is_bounded(machine: Machine) -> None:
    """A job whose neighbour never finishes fails with the reason when its time is up."""
    machine.put("uv", WAIT)
    process = machine.start()
    machine.wait_for_calls(1)
    with pytest.raises(EnvironmentFault) as caught:
        machine.ensure(0)
    process.kill()
    process.communicate()
    os.kill(machine.calls("pid")[0], signal.SIGKILL)
    assert caught.value.args[0] == "Another job is still installing the packages"


@pytest.mark.parametrize("mode", [0o777, 0o770, 0o702], ids=oct)
def test_folder_that_others_may_write_is_not_trusted(machine: Machine, mode: int) -> None:
    """Packages that another user may have put there are not loaded: the next place is taken."""
    machine.put("uv")
    trap = machine.root / runtime_name((machine.folder / "requirements.txt").read_bytes())
    trap.mkdir(parents=True)
    machine.root.chmod(mode)
    runtime = machine.ensure(env={"RUNNER_TEMP": str(machine.folder / "temp")})
    assert runtime.parent == machine.folder / "temp" / "kis-token-action"


@pytest.mark.parametrize(("mode", "is_used"), [(0o777, False), (0o1777, True)], ids=["open", "sticky"])
def test_place_on_open_ground_is_passed_by(machine: Machine, mode: int, is_used: bool) -> None:  # noqa: FBT001 - a table
    """Where all may rename the folder above, another's could come in its place between a look and the loading."""
    machine.put("uv")
    machine.root.parent.mkdir()
    machine.root.parent.chmod(mode)
    runtime = machine.ensure(env={"RUNNER_TEMP": str(machine.folder / "temp")})
    assert runtime.is_relative_to(machine.root) is is_used


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root can give a folder away")
def test_folder_of_another_user_is_not_trusted(machine: Machine) -> None:
    """Nor is a folder that belongs to somebody else."""
    machine.put("uv")
    machine.root.mkdir(parents=True, mode=0o700)
    os.chown(machine.root, 65534, 65534)
    with pytest.raises(EnvironmentFault) as caught:
        machine.ensure()
    assert (caught.value.code, machine.calls()) == ("runtime-failed", [])
    elsewhere = machine.folder / "temp"
    assert machine.ensure(env={"RUNNER_TEMP": str(elsewhere)}).is_relative_to(elsewhere)


def test_folder_is_closed_to_others(machine: Machine) -> None:
    """Whatever the umask, nobody else may write where packages are loaded from."""
    machine.put("uv")
    before = os.umask(0)
    try:
        machine.ensure()
    finally:
        os.umask(before)
    assert machine.root.stat().st_mode & 0o077 == 0


PLACES = ["RUNNER_TOOL_CACHE", "XDG_CACHE_HOME", "HOME", "RUNNER_TEMP"]


@pytest.mark.parametrize("place", PLACES)
def test_place_is_the_first_that_can_be_used(machine: Machine, place: str) -> None:
    """The tool cache, then the user's cache folder, then the job's own; where a file is in the way, the next."""
    machine.put("uv")
    (machine.folder / "file").write_text("")
    places = {
        name: str(machine.folder / ("file" if PLACES.index(name) < PLACES.index(place) else name)) for name in PLACES
    }
    if place == "HOME":
        del places["XDG_CACHE_HOME"]
    assert machine.ensure(env=places).is_relative_to(machine.folder / place)


def test_nowhere_to_build_is_one_clear_error(machine: Machine) -> None:
    """Without any folder the error has its code."""
    (machine.folder / "tools").write_text("")
    with pytest.raises(EnvironmentFault) as caught:
        machine.ensure()
    assert caught.value.code == "runtime-failed"
