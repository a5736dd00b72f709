"""Install locked packages into a folder, with the machine's uv or with pip.

This module needs only the standard library. An installer gets no secret of this project and installs only wheels with
a known hash. The Python that runs the step is not changed.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import sysconfig
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from kis_token.errors import EnvironmentFault
from kis_token.github.installer_certificates import with_certificates
from kis_token.github.installer_settings import read_pip_settings, select_variables, write_uv_file
from kis_token.local.private_folders import walk

if TYPE_CHECKING:
    from collections.abc import Mapping

_SECRET_VARIABLES = ("INPUT_", "KIS_", "SUPABASE_", "GITHUB_", "ACTIONS_")

#: The packages that the chain imports, by their import names.
PACKAGES = ("actions_toolkit", "filelock", "platformdirs", "requests")
#: Matches the requirements of a lock file that are needed only for sealing.
_SEALING = re.compile(r"(?m)^(?:cryptography|cffi|pycparser)==(?:.*\\\n)*.*\n")
_LOAD_SEALING = "import sys; sys.path.insert(0, sys.argv[1]); import cryptography.hazmat.bindings._rust"
#: uv's message if the index has the locked version of a package, but no wheel of that version for this Python.
_NO_WHEEL = re.compile(r"([\w.-]+)(?:\{[^}]*\})?==(\S+) has no (?:\S+ )?wheels")


def without_sealing(lock: str) -> str:
    """Return ``lock``, the text of a lock file, without the packages that only sealing needs."""
    return _SEALING.sub("", lock)


def install(lock: str, target: Path, env: Mapping[str, str], limit: float) -> None:
    """Install the requirements of ``lock`` into ``target``, with the machine's uv or, if that fails, with pip.

    ``target`` must be in a folder that no other user can write. The installers' temporary files are beside ``target``.
    ``limit`` is the time limit, a value of ``time.monotonic``. Raises EnvironmentFault.
    """
    temporary = target.with_name(f"{target.name}-tmp")
    temporary.mkdir(mode=0o700)
    try:
        requirements = temporary / "requirements.txt"
        requirements.write_text(lock, encoding="utf-8")
        seals = _SEALING.search(lock) is not None
        _Installation(requirements, seals, target, _clean_environment(env, temporary), limit).run()
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@dataclass
class _Installation:
    """One installation: requirements, target folder, and the errors of the installers so far."""

    requirements: Path
    seals: bool
    target: Path
    env: dict[str, str]
    limit: float
    troubles: list[str] = field(default_factory=list)

    def run(self) -> None:
        """Try uv, if this machine has uv, and then pip. Raises EnvironmentFault if no installer succeeds."""
        uv = shutil.which("uv", path=self.env.get("PATH"))
        if uv and self._succeeds(_uv_install(uv, self.requirements, self.target), share=0.5):
            return
        if not self._succeeds(_pip_install(self._find_pip(), self.requirements, self.target)):
            self._raise_if_unsupported()
            message = f"The packages could not be installed for {_describe_python()}: {self.troubles[-1]}"
            raise EnvironmentFault("runtime-failed", message)

    def _succeeds(self, command: list[str], share: float = 1.0) -> bool:
        """Run ``command``, and return whether the packages can be used afterwards.

        The installer's exit status is not enough, because an installer can report success with unusable packages.
        """
        shutil.rmtree(self.target, ignore_errors=True)
        trouble = _run(command, self.target, self.env, self.limit, share) or self._find_lack()
        if trouble is not None:
            self.troubles.append(trouble)
        return trouble is None

    def _find_lack(self) -> str | None:
        """Return, as text, the reason why the packages in ``target`` cannot be used; None if they can be used.

        The function does not check the files' hashes, because the installer has checked the hashes already. A compiled
        module may be for another machine, so a child process tries to load it.
        """
        for name in PACKAGES:
            if not (self.target / name).is_dir():
                return f"there is no {name}"
        if not self.seals:
            return None
        loading = [sys.executable, "-I", "-S", "-c", _LOAD_SEALING, f"{self.target}"]
        return _run(loading, self.target, self.env, self.limit)

    def _find_pip(self) -> str:
        """Return the path of a Python with pip: this Python or, in a virtual environment without pip, its base Python.

        Raises EnvironmentFault ``pip-missing`` or ``platform-unsupported``.
        """
        # Before Python 3.11, only the symbolic link in a virtual environment shows the environment's base Python.
        base = getattr(sys, "_base_executable", sys.executable)
        for python in dict.fromkeys((sys.executable, base, os.path.realpath(sys.executable))):
            with suppress(OSError, subprocess.TimeoutExpired):
                settings = read_pip_settings(python, self.env)
                if settings is not None:
                    self.env = settings
                    return python
        self._raise_if_unsupported()
        lack = f"uv failed: {self.troubles[-1]}" if self.troubles else "there is no uv"
        raise EnvironmentFault("pip-missing", f"This Python has no pip, and {lack}")

    def _raise_if_unsupported(self) -> None:
        found = next(filter(None, map(_NO_WHEEL.search, self.troubles)), None)
        if found:
            message = f"{found[1]} {found[2]} has no wheel for {_describe_python()}"
            raise EnvironmentFault("platform-unsupported", message)


def _describe_python() -> str:
    """Return version, platform and ABI of this Python, which decide whether a wheel fits."""
    abi = sysconfig.get_config_var("SOABI") or sys.implementation.cache_tag
    return f"Python {sys.version_info.major}.{sys.version_info.minor} on {sysconfig.get_platform()} ({abi})"


def _clean_environment(env: Mapping[str, str], temporary: Path) -> dict[str, str]:
    """Return the variables for an installer: proxies, certificates and indexes, but no secret of this project."""
    kept = {name: value for name, value in env.items() if not name.upper().startswith(_SECRET_VARIABLES)}
    overrides = {
        "PIP_USER": "0",  # on some Linux distributions, pip installs packages into the user's home folder by default
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
        "UV_LINK_MODE": "copy",  # A link into uv's cache would break when the cache is cleaned.
        "TMPDIR": f"{temporary}",  # After uv and pip have checked the hashes, they unpack packages into this folder.
    }
    reached = with_certificates(select_variables(kept), temporary)
    return reached | overrides | _uv_cache(env) | write_uv_file(env, temporary)


def _uv_cache(env: Mapping[str, str]) -> dict[str, str]:
    """Return the variables that make uv use its usual cache, or no cache if another user can change the usual one.

    uv does not check the hashes of cached files again.
    """
    home = Path(env["HOME"], ".cache") if env.get("HOME") else None
    parent = Path(env["XDG_CACHE_HOME"]) if env.get("XDG_CACHE_HOME") else home
    cache = Path(env["UV_CACHE_DIR"]) if env.get("UV_CACHE_DIR") else parent and parent / "uv"
    if sys.platform == "win32":
        return {}
    if cache is not None:
        with suppress(OSError):
            return {"UV_CACHE_DIR": f"{walk(cache, make=True)}"}
    return {"UV_NO_CACHE": "1"}


def _uv_install(uv: str, requirements: Path, target: Path) -> list[str]:
    # uv and pip install only wheels, because building a source package would run code that no hash covers.
    return [uv, "pip", "install", "--quiet", "--no-deps", "--require-hashes", "--only-binary", ":all:",
            "--no-python-downloads", "--python", sys.executable, "--target", f"{target}",
            "-r", f"{requirements}"]  # fmt: skip


def _pip_install(python: str, requirements: Path, target: Path) -> list[str]:
    return [python, "-I", "-m", "pip", "install", "--quiet", "--no-input", "--no-deps", "--require-hashes",
            "--only-binary", ":all:", "--no-compile", "--target", f"{target}", "-r", f"{requirements}"]  # fmt: skip


def _run(command: list[str], target: Path, env: dict[str, str], limit: float, share: float = 1.0) -> str | None:
    """Run ``command``. Its time limit is the fraction ``share`` of the time that is left until ``limit``.

    The result is None after success, and the last paragraph of the command's output after a failure.
    """
    left = limit - time.monotonic()
    if left <= 0:
        raise EnvironmentFault("timed-out", "There was no time left to install the Python packages")
    try:
        process = subprocess.Popen(  # noqa: S603 - this module chooses the arguments
            command,
            cwd=target.parent,  # The caller's project is not used, because it may have settings for uv and pip.
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            start_new_session=True,  # makes a process group, so that `_end` also kills the children
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
    # The URL of a package index can contain a password.
    text = re.sub(r"//[^/\s@]*@", "//***@", words.decode(errors="replace"))
    return _last_paragraph(text)[:300] or f"status {process.returncode}"


def _last_paragraph(text: str) -> str:
    """Return the last unindented line and all lines below it, joined into one line and without uv's hints."""
    said = re.split(r"(?m)^\s*hint:", text.rstrip())[0]
    return " ".join(re.split(r"\n(?=\S)|\u2570\u2500\u25b6", said.rstrip())[-1].split())


def _end(process: subprocess.Popen[bytes]) -> None:
    """Kill the process and, if the system has process groups, also the process's children."""
    with suppress(OSError):
        if sys.platform == "win32":
            process.kill()
        else:
            os.killpg(process.pid, signal.SIGKILL)
