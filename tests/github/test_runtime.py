"""The runtime's folder: built once, whole or not at all, in a place that is ours, without our secrets.

The installers are stand-ins: programs that note how they were called and make a folder, or fail as told.
"""

from __future__ import annotations

import errno
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import pytest

from kis_token.errors import EnvironmentFault
from kis_token.github import runtime as bootstrap
from kis_token.github.installer import PACKAGES
from kis_token.github.manifest import MANIFEST, find_damage, write_manifest
from kis_token.github.runtime import RESERVE_SECONDS, ensure_runtime, forget_runtime, runtime_name

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

if sys.platform == "win32":
    pytest.skip("the stand-ins for installers are scripts with an interpreter line", allow_module_level=True)

CHECKOUT = Path(__file__).resolve().parents[2]
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
from kis_token.github.runtime import ensure_runtime
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

    def ensure(
        self,
        seconds: float = 90,
        env: Mapping[str, str] = NOTHING,
        end: ExitStack | None = None,
        *,
        seals: bool = True,
    ) -> Path:
        """Find or build the runtime, with further variables; with ``end``, also one for this run alone."""
        files = (self.folder / "requirements.txt", self.folder / "requirements-uv.txt")
        at_end = end.callback if end is not None else None
        return ensure_runtime(*files, {**self.env, **env}, time.monotonic() + seconds, at_end, seals=seals)

    def start(self, before: str = "") -> subprocess.Popen[str]:
        """The same in another process, which runs ``before`` first."""
        command = [PYTHON, "-c", before + ENSURE, str(self.folder)]
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
def machine(tmp_path: Path, child_processes: None) -> Machine:  # noqa: ARG001 - its installers
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
    assert sorted(path.name for path in runtime.iterdir()) == sorted([*PACKAGES, MANIFEST, "whole"])
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


CRYPTOGRAPHY_LOCK = "package==1 --hash=sha256:00\ncryptography==50.0.2 \\\n    --hash=sha256:00\n"
NO_WHEEL = """
if "\\ncryptography==" in open(sys.argv[sys.argv.index("-r") + 1]).read():
    sys.exit("error: No solution found\\n  cause: Because cryptography==50.0.2 has no usable wheels, so it cannot be.")
"""


@pytest.mark.usefixtures("no_pip")
def test_runtime_that_cannot_seal_is_for_steps_without_a_key(machine: Machine) -> None:
    """A step with an encryption key does not use it, and says which package has no wheel; the others keep it."""
    (machine.folder / "requirements.txt").write_text(CRYPTOGRAPHY_LOCK)
    machine.put("uv", NO_WHEEL)
    runtime = machine.ensure(seals=False)
    assert machine.calls() == ["uv", "uv"]
    with pytest.raises(EnvironmentFault) as caught:
        machine.ensure()
    assert caught.value.code == "platform-unsupported"
    assert caught.value.args[0].startswith("cryptography 50.0.2 has no wheel for Python 3.")
    assert machine.ensure(seals=False) == runtime
    assert machine.calls() == ["uv"] * 3
    machine.put("uv")
    assert machine.ensure() == runtime
    assert machine.ensure(seals=False) == runtime
    assert machine.calls() == ["uv"] * 4


@pytest.mark.parametrize("machine_name", ["arm64", "x86_64"])
def test_on_macos_each_machine_has_its_runtime(monkeypatch: pytest.MonkeyPatch, machine_name: str) -> None:
    """One Python of two machines has one name for both; the packages are for one of them."""
    seen = os.uname_result(("Darwin", "runner", "24.0", "", machine_name))
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr("sysconfig.get_platform", lambda: "macosx-11.0-universal2")
    monkeypatch.setattr("os.uname", lambda: seen)
    assert f"-macosx-11.0-universal2-{machine_name}" in runtime_name(b"package==1\n")


def move_away(runtime: Path) -> Path:
    """Leave its place empty."""
    runtime.rename(runtime.with_name("away"))
    return runtime


DAMAGE: dict[str, Callable[[Path], object]] = {
    "package missing": lambda runtime: shutil.rmtree(runtime / "supabase"),
    "file missing": lambda runtime: (runtime / "supabase" / "__init__.py").unlink(),
    "file cut": lambda runtime: os.truncate(runtime / "whole", 2),
    "file empty": lambda runtime: os.truncate(runtime / "whole", 0),
    "file changed": lambda runtime: (runtime / "whole").write_text("HALF"),
    "file added": lambda runtime: (runtime / "sitecustomize.py").touch(),
    "file open to others": lambda runtime: (runtime / "whole").chmod(0o666),
    "manifest missing": forget_runtime,
    "manifest cut": lambda runtime: os.truncate(runtime / MANIFEST, 100),
    "file in its place": lambda runtime: move_away(runtime).touch(),
    "link in its place": lambda runtime: move_away(runtime).symlink_to("away"),
    "dangling link in its place": lambda runtime: move_away(runtime).symlink_to("nowhere"),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_damaged_runtime_is_built_again(machine: Machine, name: str) -> None:
    """A folder that is not as it was built is built anew, once, and nothing of the damaged one stays."""
    machine.put("uv")
    runtime = machine.ensure()
    DAMAGE[name](runtime)
    assert find_damage(machine.ensure()) is None
    assert machine.ensure() == runtime
    assert machine.calls() == ["uv", "uv"]
    assert {each for each in machine.folders() if each != "away"} == {runtime.name}


def test_a_runtime_that_is_damaged_again_is_one_clear_error(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the disk spoils what was just installed, the error says what was seen, after one build."""

    def write_and_spoil(folder: Path) -> None:
        write_manifest(folder)
        os.truncate(folder / "whole", 1)

    machine.put("uv")
    monkeypatch.setattr(bootstrap, "write_manifest", write_and_spoil)
    with pytest.raises(EnvironmentFault) as caught:
        machine.ensure()
    assert caught.value.code == "runtime-failed"
    assert caught.value.args[0].endswith("right after their installation: whole has 1 bytes instead of 4")
    assert machine.calls() == ["uv"]


def test_a_copied_runtime_is_used(machine: Machine) -> None:
    """One that was copied without its times, such as from an image, is whole."""
    machine.put("uv")
    runtime = machine.ensure()
    shutil.copytree(runtime, runtime.with_name("copy"), copy_function=shutil.copyfile)
    shutil.rmtree(runtime)
    runtime.with_name("copy").rename(runtime)
    assert machine.ensure() == runtime
    assert machine.calls() == ["uv"]


def test_another_c_library_is_another_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    """A tool cache that machines with different C libraries share has a folder for each; not all have a version."""
    names = set()
    for version in ("glibc 2.31", "glibc 2.39", None):
        monkeypatch.setattr(os, "confstr", lambda _, version=version: version)
        names.add(runtime_name(b""))
    monkeypatch.delattr(os, "confstr")
    names.add(runtime_name(b""))
    assert len(names) == 3
    assert all(re.fullmatch(r"[\w.-]+", name) for name in names)


def test_runtime_that_a_scanner_has_open_is_renamed_later(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    """The finished folder is not lost because another program has it open for a moment."""
    machine.put("uv")
    monkeypatch.setattr("kis_token.local.private_files.time.sleep", lambda _: None)
    refusals = iter([True, True])
    rename = Path.rename

    def refuse_at_first(path: Path, target: Path) -> Path:
        if next(refusals, False):
            raise PermissionError(13, "open elsewhere")
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", refuse_at_first)
    assert find_damage(machine.ensure()) is None
    assert machine.calls() == ["uv"]
    assert len(machine.folders()) == 1


@pytest.mark.parametrize("variable", ["PIP_TARGET", "PIP_ROOT", "PIP_DRY_RUN", "PIP_PLATFORM", "UV_LINK_MODE"])
def test_caller_s_settings_do_not_mislead_an_installer(machine: Machine, variable: str) -> None:
    """Settings that would install something else, elsewhere or nothing do not reach an installer."""
    machine.put("uv")
    machine.ensure(env={variable: "symlink", "PIP_INDEX_URL": "http://127.0.0.1:9/simple"})
    (env,) = machine.calls("env")
    assert env.get(variable) in (None, "copy")
    assert env["PIP_INDEX_URL"] == "http://127.0.0.1:9/simple"


@pytest.mark.usefixtures("pip")
def test_installers_temporary_files_are_private(machine: Machine) -> None:
    """Packages are unpacked where no other user can change them, and nothing of it stays."""
    machine.put("uv", fail("no"))
    open_folder = machine.folder / "open"
    open_folder.mkdir()
    open_folder.chmod(0o777)
    runtime = machine.ensure(env={"TMPDIR": str(open_folder)})
    assert len(machine.calls()) == 3
    for env in machine.calls("env"):
        assert Path(env["TMPDIR"]).parent == machine.root
        assert not Path(env["TMPDIR"]).exists()
    assert machine.folders() == [runtime.name]


@pytest.mark.parametrize(
    ("variable", "mode"),
    [
        *(("UV_CACHE_DIR", mode) for mode in (0o700, 0o755, 0o1777, 0o775, 0o777)),
        *((variable, mode) for variable in ("XDG_CACHE_HOME", "HOME") for mode in (0o700, 0o777)),
        *(
            pytest.param(variable, mode, marks=pytest.mark.matrix)
            for variable in ("XDG_CACHE_HOME", "HOME")
            for mode in (0o755, 0o1777, 0o775)
        ),
    ],
)
def test_uv_s_cache_is_used_only_where_others_cannot_change_it(machine: Machine, variable: str, mode: int) -> None:
    """From there it copies without a look at hashes: another user's files would become part of the runtime."""
    machine.put("uv")
    folder = machine.folder / "cache"
    folder.mkdir()
    folder.chmod(mode)
    below = {"UV_CACHE_DIR": "", "XDG_CACHE_HOME": "uv", "HOME": ".cache/uv"}[variable]
    machine.ensure(env={variable: str(folder)})
    (env,) = machine.calls("env")
    if mode in (0o775, 0o777):
        assert env["UV_NO_CACHE"] == "1"
    else:
        assert env["UV_CACHE_DIR"] == str(folder / below)
        assert "UV_NO_CACHE" not in env


def test_without_a_home_uv_has_no_cache(machine: Machine) -> None:
    """Where it would be is not known."""
    machine.put("uv")
    machine.ensure()
    assert machine.calls("env")[0]["UV_NO_CACHE"] == "1"


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
    assert sorted(path.name for path in runtime.iterdir()) == sorted([*PACKAGES, MANIFEST, "whole"])
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


@pytest.mark.parametrize("name", ["ENOLCK", "EOPNOTSUPP", "ENOSYS", "EINVAL", "EIO"])
def test_without_locks_it_is_built_without_one(machine: Machine, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """A file system that knows no locks is not waited for, and what others may be building there is left alone."""

    def refuse(*_: object) -> None:
        raise OSError(getattr(errno, name), "no locks here")

    machine.put("uv")
    folder = runtime_name((machine.folder / "requirements.txt").read_bytes())
    (machine.root / f"{folder}.partial-1").mkdir(parents=True)
    machine.root.chmod(0o700)
    monkeypatch.setattr("fcntl.flock", refuse)
    machine.ensure(RESERVE_SECONDS + 5)
    assert machine.folders() == [folder, f"{folder}.partial-1"]
    assert machine.calls() == ["uv"]


def test_two_at_once_without_locks(machine: Machine) -> None:
    """Each builds for itself, and all have a whole runtime."""
    no_locks = """
import errno, fcntl
def refuse(*_):
    raise OSError(errno.ENOLCK, "no locks here")
fcntl.flock = refuse
"""
    machine.put("uv", LINGER)
    processes = [machine.start(no_locks) for _ in range(3)]
    ended = [process.communicate(timeout=60)[0].strip() for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0]
    assert set(ended) == {str(machine.ensure())}
    assert machine.folders() == [Path(ended[0]).name]


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


@pytest.mark.parametrize(
    ("depth", "mode"),
    [
        *((1, mode) for mode in (0o775, 0o770, 0o777, 0o2775)),
        *((depth, 0o775) for depth in (2, 3)),
        *(pytest.param(depth, mode, marks=pytest.mark.matrix) for depth in (2, 3) for mode in (0o770, 0o777, 0o2775)),
    ],
)
def test_place_below_a_folder_that_others_may_write_is_passed_by(machine: Machine, mode: int, depth: int) -> None:
    """However far up it is: any member of its group could swap what lies below."""
    machine.put("uv")
    tools = machine.folder / "a" / "b" / "c"
    tools.mkdir(parents=True)
    (tools, *tools.parents)[depth - 1].chmod(mode)
    env = {"RUNNER_TOOL_CACHE": str(tools), "RUNNER_TEMP": str(machine.folder / "temp")}
    assert machine.ensure(env=env).is_relative_to(machine.folder / "temp")


needs_root = pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root can give a folder away"
)


@needs_root
@pytest.mark.parametrize("mode", [0o700, 0o755])
@pytest.mark.parametrize("depth", [0, 1, 2])
def test_place_below_a_folder_of_another_user_is_passed_by(machine: Machine, mode: int, depth: int) -> None:
    """However far up it is: its owner could swap what lies below. With nowhere else to go there is an error."""
    machine.put("uv")
    machine.root.mkdir(parents=True)
    for folder in (machine.root, machine.root.parent):
        folder.chmod(0o700)
    tools = machine.folder / "far" / "tools"
    tools.parent.mkdir(mode=0o755)
    machine.root.parent.rename(tools)
    owned = (tools / machine.root.name, tools, tools.parent)[depth]
    os.chown(owned, 65534, 65534)
    owned.chmod(mode)
    with pytest.raises(EnvironmentFault) as caught:
        machine.ensure(env={"RUNNER_TOOL_CACHE": str(tools)})
    assert (caught.value.code, machine.calls()) == ("runtime-failed", [])
    assert f"({owned}" in caught.value.args[0]
    assert "belongs to another user" in caught.value.args[0]
    env = {"RUNNER_TOOL_CACHE": str(tools), "RUNNER_TEMP": str(machine.folder / "temp")}
    assert machine.ensure(env=env).is_relative_to(machine.folder / "temp")


@needs_root
def test_place_behind_a_link_to_another_user_s_folder_is_passed_by(machine: Machine) -> None:
    """The folder that a link leads to is looked at, and those above it."""
    machine.put("uv")
    (machine.folder / "his" / "inside").mkdir(parents=True)
    os.chown(machine.folder / "his", 65534, -1)
    (machine.folder / "mine").mkdir(mode=0o700)
    (machine.folder / "mine" / "link").symlink_to(machine.folder / "his" / "inside")
    tools = machine.folder / "mine" / "link" / "tools"
    env = {"RUNNER_TOOL_CACHE": str(tools), "RUNNER_TEMP": str(machine.folder / "temp")}
    assert machine.ensure(env=env).is_relative_to(machine.folder / "temp")
    assert list((machine.folder / "his" / "inside").iterdir()) == []


@pytest.fixture
def swapped() -> Iterator[Path]:
    """A tool cache that another user swaps for his own all the time: both lie in a folder that is open to him."""
    with tempfile.TemporaryDirectory() as folder:
        top = Path(folder)
        for name, owner in (("tools", 0), ("his", 65534)):
            (top / name / "kis-token-action").mkdir(parents=True, mode=0o700)
            os.chown(top / name, owner, -1)
            os.chown(top / name / "kis-token-action", owner, -1)
        top.chmod(0o777)
        child = os.fork()
        if not child:
            with suppress(BaseException):
                os.setgroups([])
                os.setgid(65534)
                os.setuid(65534)
                while top.exists():
                    for source, target in (("tools", "away"), ("his", "tools"), ("tools", "his"), ("away", "tools")):
                        (top / source).rename(top / target)
            os._exit(0)
        yield top / "tools"
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


@needs_root
def test_a_folder_that_is_swapped_all_the_time_is_never_used(machine: Machine, swapped: Path) -> None:
    """Whatever moment is caught, no path below it is returned, and nothing is written there."""
    machine.put("uv")
    env = {"RUNNER_TOOL_CACHE": str(swapped), "RUNNER_TEMP": str(machine.folder / "temp")}
    owners = set()
    for _ in range(300):
        assert machine.ensure(env=env).is_relative_to(machine.folder / "temp")
        with suppress(FileNotFoundError):
            owners.add(swapped.stat().st_uid)
    assert owners == {0, 65534}, "it was not swapped"
    assert [name for *_, files in os.walk(swapped.parent) for name in files] == []


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


def open_home(machine: Machine) -> dict[str, str]:
    """As on GitHub's own image for runner pods: all usual places lie below a folder of mode 0777."""
    home = machine.folder / "home"
    for name in ("tools", "temp", ".cache"):
        (home / name).mkdir(parents=True)
    home.chmod(0o777)
    (machine.folder / "tmp").mkdir()
    (machine.folder / "tmp").chmod(0o1777)
    places = {"RUNNER_TOOL_CACHE": "tools", "RUNNER_TEMP": "temp", "HOME": ""}
    return {name: str(home / place) for name, place in places.items()} | {"TMPDIR": str(machine.folder / "tmp")}


def test_where_all_places_are_open_a_folder_for_this_run_is_made(machine: Machine) -> None:
    """It is private, new for each run, and gone at its end; nothing is left in the open places."""
    machine.put("uv")
    env = open_home(machine)
    used = set()
    for _ in range(2):
        with ExitStack() as end:
            runtime = machine.ensure(env=env, end=end)
            assert find_damage(runtime) is None
            assert runtime.parent.parent == machine.folder / "tmp"
            assert runtime.parent.stat().st_mode & 0o777 == 0o700
            used.add(runtime)
        assert list((machine.folder / "tmp").iterdir()) == []
    assert len(used) == 2
    assert [path for path in (machine.folder / "home").rglob("*") if path.is_file()] == []


@pytest.mark.usefixtures("no_pip")
def test_folder_for_this_run_is_removed_after_a_failure_too(machine: Machine) -> None:
    """Also where no installer works."""
    env = open_home(machine)
    machine.put("uv", fail("no"))
    with pytest.raises(EnvironmentFault), ExitStack() as end:
        machine.ensure(RESERVE_SECONDS + 3, env, end)
    assert list((machine.folder / "tmp").iterdir()) == []


def test_folder_of_a_run_that_was_killed_is_removed_by_a_later_one(machine: Machine) -> None:
    """After a day; a younger one may be in use, and other names are not ours."""
    machine.put("uv")
    env = open_home(machine)
    old, young, other = (
        machine.folder / "tmp" / f"{name}-1" for name in ("kis-token-action", "kis-token-action-2", "x")
    )
    for each in (old, young, other):
        (each / "inside").mkdir(parents=True)
    for each in (old, other):
        os.utime(each, (0, 0))
    with ExitStack() as end:
        machine.ensure(env=env, end=end)
    assert sorted((machine.folder / "tmp").iterdir()) == sorted([young, other])


def test_open_temporary_folder_is_passed_by(machine: Machine) -> None:
    """One that is not sticky is no better than the others: the system's is taken."""
    machine.put("uv")
    env = open_home(machine)
    (machine.folder / "tmp").chmod(0o777)
    with ExitStack() as end:
        runtime = machine.ensure(env=env, end=end)
        assert not runtime.is_relative_to(machine.folder)
        assert find_damage(runtime) is None
    assert not runtime.exists()


def test_without_a_place_each_folder_is_named_with_its_fault(machine: Machine) -> None:
    """The error lists all that were tried and why each was refused; a name that is no text can be printed."""
    env = open_home(machine)
    file = machine.folder / "file"
    file.touch()
    places = {"RUNNER_TOOL_CACHE": f"{file}/\udcff", "XDG_CACHE_HOME": str(machine.folder / "home" / ".cache")}
    with pytest.raises(EnvironmentFault) as caught:
        machine.ensure(env=env | places)
    seen = caught.value.args[0]
    assert seen == (
        "There is no folder to install packages into: "
        f"{file}/\ufffd ({file}: Not a directory); "
        f"{machine.folder}/home/.cache ({machine.folder}/home: other users may write it); "
        f"{machine.folder}/home/temp ({machine.folder}/home: other users may write it)"
    )


def test_without_a_variable_the_error_says_so(machine: Machine) -> None:
    """There is nothing to name then."""
    files = (machine.folder / "requirements.txt", machine.folder / "requirements-uv.txt")
    with pytest.raises(EnvironmentFault, match="no variable names one"):
        ensure_runtime(*files, {}, time.monotonic() + 90)


def test_nowhere_to_build_is_one_clear_error(machine: Machine) -> None:
    """Without any folder the error has its code."""
    (machine.folder / "tools").write_text("")
    with pytest.raises(EnvironmentFault) as caught:
        machine.ensure()
    assert caught.value.code == "runtime-failed"
