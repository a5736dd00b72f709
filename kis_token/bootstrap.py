"""The runtime: a folder with the locked packages, built once for a lock, a Python and a platform, then found again.

Standard library alone, and it never touches the Python it runs on. A folder under its final name is complete: it is
built under another name and renamed. Two that start at once build once: the lock they take is the system's, so it ends
with its holder.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import signal
import subprocess
import sys
import sysconfig
import time
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from kis_token.errors import EnvironmentFault
from kis_token.folders import is_on_open_ground, make_private

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

#: What is left of the time limit for the work itself once the runtime is there.
RESERVE_SECONDS = 25.0

_SECRET_VARIABLES = ("INPUT_", "KIS_", "SUPABASE_", "GITHUB_", "ACTIONS_")

#: The caller's settings that would install something else, elsewhere, or nothing.
_MISLEADING_VARIABLES = frozenset(
    f"PIP_{name}"
    for name in ("ABI", "DRY_RUN", "IMPLEMENTATION", "PLATFORM", "PREFIX", "PYTHON", "PYTHON_VERSION", "ROOT", "TARGET")
)

#: What the chain imports by name. A folder that lacks one of them was damaged since it was built.
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


def ensure_runtime(requirements: Path, uv_requirements: Path, env: Mapping[str, str], deadline: float) -> Path:
    """The folder with the packages of ``requirements``, built when it is not there yet.

    ``uv_requirements`` pins the uv that is fetched when the machine has none. ``deadline`` is a reading of
    time.monotonic. Raises EnvironmentFault.
    """
    name = runtime_name(requirements.read_bytes())
    try:
        root = _usable_root(env).resolve()
        runtime = root / name
        if _is_complete(runtime):
            return runtime
        limit = deadline - RESERVE_SECONDS
        with _locked(root / f"{name}.lock", limit):
            if not _is_complete(runtime):
                _build(requirements, uv_requirements, runtime, _clean_environment(env), limit)
    except OSError as error:
        raise EnvironmentFault("runtime-failed", f"The packages have no place ({type(error).__name__})") from error
    return runtime


def _is_complete(runtime: Path) -> bool:
    return all((runtime / package).is_dir() for package in PACKAGES)


def _build(requirements: Path, uv_requirements: Path, runtime: Path, env: dict[str, str], limit: float) -> None:
    for leftover in runtime.parent.glob(f"{runtime.name}.partial-*"):
        shutil.rmtree(leftover, ignore_errors=True)
    partial = runtime.with_name(f"{runtime.name}.partial-{os.getpid()}")
    try:
        _install(requirements, uv_requirements, partial, env, limit)
        shutil.rmtree(runtime, ignore_errors=True)  # a damaged one
        partial.replace(runtime)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def runtime_name(requirements: bytes) -> str:
    """The folder's name: another lock, Python, platform or C library, another folder."""
    digest = hashlib.sha256(requirements.replace(b"\r\n", b"\n")).hexdigest()[:16]
    abi = sysconfig.get_config_var("SOABI") or sys.implementation.cache_tag
    return f"{digest}-{abi}-{sysconfig.get_platform()}"


def _usable_root(env: Mapping[str, str]) -> Path:
    """The first place that this user can write and no other user could have prepared."""
    for folder in _candidates(env):
        root = folder / "kis-token-action"
        if is_on_open_ground(root):
            continue
        try:
            make_private(root)
            status = root.stat()
        except OSError:
            continue
        ours = not hasattr(os, "geteuid") or (status.st_uid == os.geteuid() and not status.st_mode & 0o022)
        if ours and os.access(root, os.W_OK):
            return root
    raise EnvironmentFault("runtime-failed", "There is no folder to install packages into")


def _candidates(env: Mapping[str, str]) -> Iterator[Path]:
    if env.get("RUNNER_TOOL_CACHE"):
        yield Path(env["RUNNER_TOOL_CACHE"])
    if sys.platform == "win32":
        if env.get("LOCALAPPDATA"):
            yield Path(env["LOCALAPPDATA"])
    elif env.get("XDG_CACHE_HOME"):
        yield Path(env["XDG_CACHE_HOME"])
    elif env.get("HOME"):
        yield Path(env["HOME"]) / ("Library/Caches" if sys.platform == "darwin" else ".cache")
    if env.get("RUNNER_TEMP"):
        yield Path(env["RUNNER_TEMP"])


@contextmanager
def _locked(path: Path, limit: float) -> Iterator[None]:
    """Hold a lock that ends with this process. Raises EnvironmentFault when ``limit`` comes first."""
    with path.open("a+b") as file:
        while not _try_lock(file.fileno()):
            if time.monotonic() > limit:
                raise EnvironmentFault("runtime-failed", "Another job is still installing the packages")
            time.sleep(0.1)
        yield  # closing the file gives the lock back


def _try_lock(handle: int) -> bool:
    try:
        if sys.platform == "win32":
            import msvcrt

            msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _clean_environment(env: Mapping[str, str]) -> dict[str, str]:
    """What an installer needs: proxies, certificates, its own settings. Not our secrets."""
    kept = {
        name: value
        for name, value in env.items()
        if not name.upper().startswith(_SECRET_VARIABLES) and name.upper() not in _MISLEADING_VARIABLES
    }
    # uv brings certificates of its own, which a company's proxy does not go by; pip uses the system's anyway.
    certificates = {"UV_SYSTEM_CERTS": "1", "UV_NATIVE_TLS": "1"}
    # Settings of the caller's that a folder of our own contradicts.
    overrides = {
        "PIP_USER": "0",
        "PIP_REQUIRE_VIRTUALENV": "0",
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
        "UV_LINK_MODE": "copy",  # links would break when the cache they lead to is cleaned
    }
    return certificates | kept | overrides


def _install(requirements: Path, uv_requirements: Path, target: Path, env: dict[str, str], limit: float) -> None:
    """With uv when there is one, else with a uv that pip fetches, else with pip: each is several times slower."""
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
