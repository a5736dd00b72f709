"""The runtime's installation: by uv or pip, without this project's secrets, and without the caller's settings."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest

from kis_token.errors import EnvironmentFault
from kis_token.github.installer import PACKAGES
from kis_token.github.runtime import RESERVE_SECONDS
from kis_token.github.runtime_manifest import MANIFEST
from tests.github.installer_machine import WAIT, Machine, fail

if sys.platform == "win32":
    pytest.skip("the stand-ins for installers are scripts with an interpreter line", allow_module_level=True)


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

CRYPTOGRAPHY_LOCK = "package==1 --hash=sha256:00\ncryptography==50.0.2 \\\n    --hash=sha256:00\n"


@pytest.fixture
def pip(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    """A Python whose pip works."""
    monkeypatch.setattr(sys, "executable", str(machine.put("python")))


@pytest.mark.usefixtures("pip")
def test_no_secret_is_in_an_installer_s_environment(machine: Machine) -> None:
    """An installer gets proxies, certificates and its own settings, but none of this project's secrets."""
    machine.put("uv", fail("no"))
    passed = {"HTTPS_PROXY": "http://proxy.example:3128", "SSL_CERT_FILE": "/ca.pem", "PIP_INDEX_URL": "https://index"}
    machine.ensure(env={**SECRETS, **passed, "PIP_USER": "1"})
    environments = machine.calls("env")
    assert machine.calls() == ["uv", "python"]
    for environment in environments:
        assert passed.items() <= environment.items()
        assert environment["PIP_USER"] == "0"
        assert not any(secret in json.dumps(environment) for secret in SECRETS.values()), "a secret is passed on"


def test_caller_s_project_plays_no_part(machine: Machine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Installers do not run in the job's folder, because settings in this folder are for the job's own project."""
    machine.put("uv")
    monkeypatch.chdir(tmp_path)
    machine.ensure()
    assert machine.calls("cwd") == [str(machine.root)]


@pytest.mark.usefixtures("pip")
def test_without_uv_pip_installs(machine: Machine) -> None:
    """On a machine without uv, pip installs, and accepts only wheels with the lock's hashes."""
    assert (machine.ensure() / "whole").exists()
    assert machine.calls() == ["python"]
    arguments = machine.calls("argv")[0]
    assert arguments[:4] == ["-I", "-m", "pip", "install"]
    assert {"--require-hashes", "--only-binary", "--no-deps"} <= set(arguments)
    assert len(machine.folders()) == 1


@pytest.mark.usefixtures("pip")
def test_uv_that_fails_is_replaced(machine: Machine) -> None:
    """If the uv on the path is old or broken, pip installs, and the files of uv's attempt are removed."""
    machine.put("uv", fail("error: unexpected argument"))
    runtime = machine.ensure()
    assert sorted(path.name for path in runtime.iterdir()) == sorted([*PACKAGES, "cryptography", MANIFEST, "whole"])
    assert machine.calls() == ["uv", "python"]


def test_failure_is_one_error_with_the_last_words(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    """If all installers fail, the error has the last line of output without the index's password. No folder stays."""
    words = "noise\nCould not reach https://kim:hunter2-hunter2@index.example/simple\n\n"
    monkeypatch.setattr(sys, "executable", str(machine.put("python", fail(words))))
    with pytest.raises(EnvironmentFault) as caught:
        machine.ensure()
    assert caught.value.code == "runtime-failed"
    assert caught.value.args[0].endswith(": Could not reach https://***@index.example/simple")
    assert machine.folders() == []


@pytest.mark.usefixtures("no_pip")
def test_installer_s_word_is_not_enough(machine: Machine) -> None:
    """If the packages are missing or cannot be loaded, an installer that reports success counts as failed."""
    (machine.folder / "requirements.txt").write_text(CRYPTOGRAPHY_LOCK)
    machine.put("uv", "sys.exit(0)")
    with pytest.raises(EnvironmentFault) as nothing:
        machine.ensure()
    lines = (
        f"[(target / name).mkdir() for name in {PACKAGES}]",
        "(target / 'cryptography/hazmat/bindings').mkdir(parents=True)",
        "(target / 'cryptography/hazmat/bindings/_rust.py').write_text('import no_such_module')",
        "(target / 'half').unlink()",
        "sys.exit(0)",
    )
    machine.put("uv", "; ".join(lines))
    with pytest.raises(EnvironmentFault) as broken:
        machine.ensure()
    # Without pip, no installer replaces uv, so the error has uv's fault in both cases.
    assert (nothing.value.code, broken.value.code) == ("pip-missing", "pip-missing")
    assert f"there is no {PACKAGES[0]}" in f"{nothing.value}"
    assert "No module named 'no_such_module'" in f"{broken.value}"
    assert machine.folders() == []


NO_WHEEL = """
if "\\ncryptography==" in open(sys.argv[sys.argv.index("-r") + 1]).read():
    sys.exit("error: No solution found\\n  cause: Because cryptography==50.0.2 has no usable wheels, so it cannot be.")
"""


@pytest.mark.usefixtures("no_pip")
def test_steps_without_a_key_have_a_runtime_of_their_own(machine: Machine) -> None:
    """A step without a key installs no cryptography.

    If cryptography has no wheel, a step with a key fails, and the error names cryptography.
    """
    (machine.folder / "requirements.txt").write_text(CRYPTOGRAPHY_LOCK)
    machine.put("uv", NO_WHEEL)
    runtime = machine.ensure(seals=False)
    with pytest.raises(EnvironmentFault) as caught:
        machine.ensure()
    assert caught.value.code == "platform-unsupported"
    assert caught.value.args[0].startswith("cryptography 50.0.2 has no wheel for Python 3.")
    assert machine.calls() == ["uv"] * 2
    assert machine.ensure(seals=False) == runtime
    machine.put("uv")
    assert machine.ensure() != runtime
    assert machine.ensure(seals=False) == runtime
    assert machine.calls() == ["uv"] * 3


@pytest.mark.parametrize("variable", ["PIP_TARGET", "PIP_ROOT", "PIP_DRY_RUN", "PIP_PLATFORM", "UV_LINK_MODE"])
def test_caller_s_settings_do_not_mislead_an_installer(machine: Machine, variable: str) -> None:
    """A setting that would change the packages or their folder, or prevent the installation, reaches no installer."""
    machine.put("uv")
    machine.ensure(env={variable: "symlink", "PIP_INDEX_URL": "http://127.0.0.1:9/simple"})
    (env,) = machine.calls("env")
    assert env.get(variable) in (None, "copy")
    assert env["PIP_INDEX_URL"] == "http://127.0.0.1:9/simple"


@pytest.mark.usefixtures("pip")
def test_installers_temporary_files_are_private(machine: Machine) -> None:
    """Installers unpack packages in a folder that no other user can change, and leave no temporary file."""
    machine.put("uv", fail("no"))
    open_folder = machine.folder / "open"
    open_folder.mkdir()
    open_folder.chmod(0o777)
    runtime = machine.ensure(env={"TMPDIR": str(open_folder)})
    assert len(machine.calls()) == 2
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
    """If other users can change uv's cache, uv runs without a cache, because uv does not check cached files."""
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
    """If HOME is not set, uv runs without a cache, because the folder of uv's cache is unknown."""
    machine.put("uv")
    machine.ensure()
    assert machine.calls("env")[0]["UV_NO_CACHE"] == "1"


@pytest.mark.usefixtures("pip")
def test_hanging_uv_leaves_time_for_pip(machine: Machine) -> None:
    """If uv hangs, uv and its children are ended early enough for pip to install."""
    machine.put("uv", WAIT)
    assert (machine.ensure(seconds=RESERVE_SECONDS + 4) / "whole").exists()
    assert machine.calls()[0] == "uv"
    with pytest.raises(ProcessLookupError):
        os.kill(machine.calls("pid")[0], 0)


@pytest.mark.usefixtures("no_pip")
def test_python_without_pip_is_one_clear_error(machine: Machine) -> None:
    """If pip and uv are missing, the error names both."""
    with pytest.raises(EnvironmentFault) as caught:
        machine.ensure()
    assert caught.value.code == "pip-missing"
    assert caught.value.args[0] == "This Python has no pip, and there is no uv"
    assert machine.folders() == []


@pytest.mark.usefixtures("no_pip")
def test_uv_that_fails_without_pip_is_told_in_its_own_words(machine: Machine) -> None:
    """If uv fails and pip is missing, the error quotes uv's message."""
    machine.put("uv", fail("error: no route to the index"))
    with pytest.raises(EnvironmentFault) as caught:
        machine.ensure()
    assert caught.value.args[0] == "This Python has no pip, and uv failed: error: no route to the index"


@pytest.mark.usefixtures("no_pip")
def test_virtual_environment_without_pip_uses_that_of_its_python(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If a virtual environment has no pip (for example, one that uv made), the pip of its base Python is used."""
    monkeypatch.setattr(sys, "_base_executable", str(machine.put("python")), raising=False)
    assert (machine.ensure() / "whole").exists()
    assert machine.calls() == ["python"]
