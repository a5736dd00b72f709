"""Install locked packages into a folder: with the machine's uv, else with a uv that pip fetches, else with pip.

Standard library alone. An installer gets none of our secrets, does not touch the Python it runs on, and takes only
wheels with a known hash.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from configparser import ConfigParser
from configparser import Error as ConfigError
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from kis_token.errors import EnvironmentFault
from kis_token.folders import walk
from kis_token.trust import VARIABLES, collect

if TYPE_CHECKING:
    from collections.abc import Mapping

_SECRET_VARIABLES = ("INPUT_", "KIS_", "SUPABASE_", "GITHUB_", "ACTIONS_")

#: The caller's settings that would install something else, elsewhere, or nothing.
_MISLEADING_VARIABLES = frozenset(
    f"PIP_{name}"
    for name in ("ABI", "DRY_RUN", "IMPLEMENTATION", "PLATFORM", "PREFIX", "PYTHON", "PYTHON_VERSION", "ROOT", "TARGET")
)

#: What the chain imports by name.
PACKAGES = (
    "actions_toolkit",
    "cryptography",
    "filelock",
    "httpx",
    "platformdirs",
    "pydantic_core",
    "requests",
    "supabase",
)
# What is compiled may be for another machine, and is loaded. For the rest, which the hashes vouch for, it is enough to
# be there: importing it all would take a second.
_TRY_IMPORTS = f"""
import importlib.util, sys
sys.path.insert(0, sys.argv[1])
import cryptography.hazmat.bindings._rust, pydantic_core
sys.exit(next((f"there is no {{name}}" for name in {PACKAGES} if not importlib.util.find_spec(name)), None))
"""


def install(requirements: Path, uv_requirements: Path, target: Path, env: Mapping[str, str], limit: float) -> None:
    """Install ``requirements`` into ``target``, by the quickest of the three ways that works.

    ``target`` is in a folder that no other user can write; so are the installers' temporary files, beside it.
    ``uv_requirements`` pins the uv that pip fetches. ``limit`` is a reading of time.monotonic. Raises EnvironmentFault.
    """
    temporary = target.with_name(f"{target.name}-tmp")
    temporary.mkdir(mode=0o700)
    try:
        _install(requirements, uv_requirements, target, _clean_environment(env, temporary), limit)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _install(requirements: Path, uv_requirements: Path, target: Path, env: dict[str, str], limit: float) -> None:
    uv = shutil.which("uv", path=env.get("PATH"))
    lack = "there is no uv"
    if uv:
        trouble = _try(_uv_install(uv, requirements, target), target, env, limit, share=0.5)
        if trouble is None:
            return
        lack = f"uv failed: {trouble}"
    python = _python_with_pip(env, lack)
    fetched = target.with_name(f"{target.name}-uv")
    try:
        if _run(_pip_install(python, uv_requirements, fetched), target, env, limit, share=0.5) is None:
            uv = next((f"{path}" for path in fetched.glob("*/uv*") if path.stem == "uv" and path.is_file()), None)
            if uv and _try(_uv_install(uv, requirements, target), target, env, limit, share=0.5) is None:
                return
    finally:
        shutil.rmtree(fetched, ignore_errors=True)
    trouble = _try(_pip_install(python, requirements, target), target, env, limit)
    if trouble is not None:
        raise EnvironmentFault("runtime-failed", f"The packages could not be installed: {trouble}")


def _clean_environment(env: Mapping[str, str], temporary: Path) -> dict[str, str]:
    """What an installer needs: proxies, certificates, its own settings. Not our secrets."""
    kept = {
        name: value
        for name, value in env.items()
        if not name.upper().startswith(_SECRET_VARIABLES) and name.upper() not in _MISLEADING_VARIABLES
    }
    # Settings of the caller's that a folder of our own contradicts.
    overrides = {
        "PIP_USER": "0",
        "PIP_REQUIRE_VIRTUALENV": "0",
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
        "UV_LINK_MODE": "copy",  # links would break when the cache they lead to is cleaned
        "TMPDIR": f"{temporary}",  # both unpack there, and check hashes before that
    }
    return _with_certificates(kept, temporary) | overrides | _uv_cache(env)


def _with_certificates(env: dict[str, str], temporary: Path) -> dict[str, str]:
    """The environment in which uv and pip trust the same certificates as this project; see `trust`.

    By themselves, uv takes SSL_CERT_FILE and SSL_CERT_DIR in the place of the system's certificates and does not know
    the other variables. pip before 24.2 does not know the system's certificates, and takes REQUESTS_CA_BUNDLE in the
    place of all others. So both get one file with all of them, uv as the only file of a folder.
    """
    # uv brings certificates of its own, which a company's proxy does not go by.
    env = {"UV_SYSTEM_CERTS": "1", "UV_NATIVE_TLS": "1"} | env
    own = [env.get("PIP_CERT", ""), *_of_pip_s_settings(env)]
    is_told = any([*map(env.get, VARIABLES), *own])
    if not is_told and sys.platform in ("win32", "darwin"):
        return env  # these systems' stores are no files; uv and newer pips know them
    certificates = collect(env, own)
    if not certificates:
        return env
    file = temporary / "certificates" / "00000000.0"  # a name by which uv takes it for a folder's certificate
    file.parent.mkdir(mode=0o700)
    file.write_bytes(certificates)
    kept = {name: value for name, value in env.items() if name not in VARIABLES or (name == "SSL_CERT_FILE" and value)}
    return kept | {"PIP_CERT": f"{file}"} | ({"SSL_CERT_DIR": f"{file.parent}"} if is_told else {})


def _of_pip_s_settings(env: Mapping[str, str]) -> list[str]:
    """The files that ``cert`` names in pip's settings, which PIP_CERT hides."""
    homes = [env["HOME"]] if env.get("HOME") else []
    folders = [env.get("XDG_CONFIG_HOME"), env.get("APPDATA"), *(f"{home}/.config" for home in homes)]
    folders += [f"{home}/Library/Application Support" for home in homes]
    files = [f"{folder}/pip/{name}" for folder in folders if folder for name in ("pip.conf", "pip.ini")]
    settings = ConfigParser(interpolation=None, strict=False)
    with suppress(ConfigError, OSError, ValueError):
        settings.read(["/etc/pip.conf", f"{sys.prefix}/pip.conf", *(f"{home}/.pip/pip.conf" for home in homes), *files])
        settings.read(env.get("PIP_CONFIG_FILE", ""))
    return [settings.get(section, "cert", fallback="") for section in ("global", "install")]


def _uv_cache(env: Mapping[str, str]) -> dict[str, str]:
    """The cache that uv uses anyway if no other user can change it, or none: uv does not check what it finds there."""
    home = Path(env["HOME"], ".cache") if env.get("HOME") else None
    parent = Path(env["XDG_CACHE_HOME"]) if env.get("XDG_CACHE_HOME") else home
    cache = Path(env["UV_CACHE_DIR"]) if env.get("UV_CACHE_DIR") else parent and parent / "uv"
    if sys.platform == "win32":
        return {}
    if cache is not None:
        with suppress(OSError):
            return {"UV_CACHE_DIR": f"{walk(cache, make=True)}"}
    return {"UV_NO_CACHE": "1"}


def _try(command: list[str], target: Path, env: dict[str, str], limit: float, share: float = 1.0) -> str | None:
    """Install and see that it can be used: an installer's word is not enough. None, or what went wrong."""
    shutil.rmtree(target, ignore_errors=True)
    trouble = _run(command, target, env, limit, share)
    if trouble is not None:
        return trouble
    return _run([sys.executable, "-I", "-S", "-c", _TRY_IMPORTS, f"{target}"], target, env, limit)


def _python_with_pip(env: Mapping[str, str], lack: str) -> str:
    """This Python or, where it is a virtual environment without pip, the one that it was made from."""
    looking = "import importlib.util as u, sys; sys.exit(u.find_spec('pip') is None)"
    # Before Python 3.11 only the link that a virtual environment's Python is leads to the other one.
    base = getattr(sys, "_base_executable", sys.executable)
    for python in dict.fromkeys((sys.executable, base, os.path.realpath(sys.executable))):
        with suppress(OSError, subprocess.TimeoutExpired):
            if not subprocess.call([python, "-I", "-c", looking], env=dict(env), stdin=subprocess.DEVNULL, timeout=10):  # noqa: S603 - ours
                return python
    raise EnvironmentFault("pip-missing", f"This Python has no pip, and {lack}")


def _uv_install(uv: str, requirements: Path, target: Path) -> list[str]:
    # Wheels only: building a source package would run code that no hash covers.
    return [uv, "pip", "install", "--quiet", "--no-deps", "--require-hashes", "--only-binary", ":all:",
            "--no-python-downloads", "--python", sys.executable, "--target", f"{target}",
            "-r", f"{requirements}"]  # fmt: skip


def _pip_install(python: str, requirements: Path, target: Path) -> list[str]:
    return [python, "-I", "-m", "pip", "install", "--quiet", "--no-input", "--no-deps", "--require-hashes",
            "--only-binary", ":all:", "--no-compile", "--target", f"{target}", "-r", f"{requirements}"]  # fmt: skip


def _run(command: list[str], target: Path, env: dict[str, str], limit: float, share: float = 1.0) -> str | None:
    """None when it worked, else its last words. It may take ``share`` of the time until ``limit``."""
    left = limit - time.monotonic()
    if left <= 0:
        raise EnvironmentFault("timed-out", "There was no time left to install the Python packages")
    try:
        process = subprocess.Popen(  # noqa: S603 - our own arguments
            command,
            cwd=target.parent,  # away from the caller's project, whose settings are not for this
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            start_new_session=True,  # so that its children can be ended with it
        )
    except OSError as error:
        return type(error).__name__
    with process:
        try:
            _, words = process.communicate(timeout=left * share)
        except BaseException as error:
            _end(process)
            if isinstance(error, subprocess.TimeoutExpired):
                return "it took too long"
            raise
    if process.returncode == 0:
        return None
    lines = [line for line in words.decode(errors="replace").splitlines() if line.strip()]
    # An index address can hold a password.
    return re.sub(r"//[^/\s@]*@", "//***@", lines[-1].strip())[:300] if lines else f"status {process.returncode}"


def _end(process: subprocess.Popen[bytes]) -> None:
    """Kill it and, where the system has process groups, its children."""
    with suppress(OSError):
        if sys.platform == "win32":
            process.kill()
        else:
            os.killpg(process.pid, signal.SIGKILL)
