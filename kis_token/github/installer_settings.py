"""The machine's settings of pip and uv that name a package index, or that a connection to an index needs.

If a setting of pip or uv is not for an index or for a connection, this module leaves the setting out, in variables and
in files. For example, a setting for a constraint, an installation prefix, a cut-off date or a platform would prevent
the installation of the locked packages into a private folder. This module needs only the standard library.
"""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_PIP_SETTINGS = frozenset(
    {
        "cache-dir",
        "cert",
        "client-cert",
        "config-file",  # `read_pip_settings` reads the named file, and then sets PIP_CONFIG_FILE to os.devnull
        "default-timeout",
        "extra-index-url",
        "find-links",
        "index-url",
        "keyring-provider",
        "no-cache-dir",
        "no-index",
        "proxy",
        "retries",
        "timeout",
        "trusted-host",
        "use-deprecated",  # The value legacy-certs selects the certificates that pip trusts.
        "use-feature",  # The value truststore selects the certificates that pip trusts.
    }
)
_UV_PIP_SETTINGS = frozenset(
    {"extra-index-url", "find-links", "index-strategy", "index-url", "keyring-provider", "no-index"}
)
_UV_SETTINGS = _UV_PIP_SETTINGS | {
    "allow-insecure-host",
    "concurrent-downloads",
    "http-proxy",
    "https-proxy",
    "index",
    "native-tls",
    "no-proxy",
    "offline",
    "system-certs",
}
_UV_VARIABLE = re.compile(
    r"UV_(DEFAULT_INDEX|INDEX(_\w+)?|EXTRA_INDEX_URL|FIND_LINKS|NO_INDEX|KEYRING_PROVIDER|INSECURE_HOST|CREDENTIALS_DIR"
    r"|NATIVE_TLS|SYSTEM_CERTS|OFFLINE|CONCURRENT_DOWNLOADS|CACHE_DIR|NO_CACHE|HTTP_\w+|REQUEST_TIMEOUT|\w+_ENDPOINT_URL)"
)
#: The variables that make Python report another platform.
_PLATFORM_VARIABLES = ("_PYTHON_HOST_PLATFORM", "_PYTHON_SYSCONFIGDATA_NAME")


_ASK_PIP = """
import importlib.util, runpy, sys
if importlib.util.find_spec('pip') is None:
    sys.exit(1)
sys.argv[1:] = ["--no-input", "config", "list"]
try:
    runpy.run_module("pip", run_name="__main__", alter_sys=True)
except SystemExit:
    pass
"""


#: The variables that this module sets for `pip config list`. With the user's values of PIP_ISOLATED, PIP_QUIET and so
#: on, pip could read fewer files, print nothing, or run on another Python.
_ASKING = {"PIP_ISOLATED": "0", "PIP_USER": "0", "PIP_QUIET": "0", "_PIP_RUNNING_IN_SUBPROCESS": "1"}


def select_variables(env: Mapping[str, str]) -> dict[str, str]:
    """Return ``env`` with only those settings of pip and uv that name a package index or that a connection needs."""
    kept = {name: value for name, value in env.items() if _is_kept(name.upper())}
    return {
        name: _with_absolute_paths(value) if "FIND_LINKS" in name.upper() else value for name, value in kept.items()
    }


def _with_absolute_paths(places: str) -> str:
    return re.sub(r"[^\s,]+", lambda found: _absolute(found[0], Path.cwd()), places)


def _is_kept(name: str) -> bool:
    if name.startswith("PIP_"):
        return name[4:].replace("_", "-").lower() in _PIP_SETTINGS
    if name.startswith("UV_"):
        return _UV_VARIABLE.fullmatch(name) is not None
    return name not in _PLATFORM_VARIABLES


def read_pip_settings(python: str, env: Mapping[str, str]) -> dict[str, str] | None:
    """Return ``env`` with variables that replace pip's configuration files, or None if ``python`` has no pip.

    The settings come from ``pip config list``. ``env`` must be a result of ``select_variables``. A variable takes
    precedence over a file. Raises OSError or SubprocessError if pip cannot be run.
    """
    answer = subprocess.run(  # noqa: S603 - this module chooses the arguments
        [python, "-I", "-c", _ASK_PIP],
        env={**env, **_ASKING},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=20,
        check=False,
    )
    if answer.returncode != 0:
        return None
    found: dict[str, str] = {}
    for section in ("global", "install"):  # the section install takes precedence over the section global
        for name, value in re.findall(rf"(?m)^{section}\.([\w-]+)=(.*)$", answer.stdout.decode(errors="replace")):
            if name in _PIP_SETTINGS:
                found["PIP_" + name.replace("-", "_").upper()] = ast.literal_eval(value.strip())
    return {**select_variables(found), **env, "PIP_CONFIG_FILE": os.devnull}


def write_uv_file(env: Mapping[str, str], folder: Path) -> dict[str, str]:
    """Write the selected settings of uv's files to a new file in ``folder``, and return UV_CONFIG_FILE with its path.

    If this Python has no reader for TOML, no file is written, and UV_CONFIG_FILE names the first of uv's own files.
    """
    settings: dict[str, Any] = {}
    for path in _uv_files(env):
        found = _read_toml(path)
        if found is None:
            return {"UV_CONFIG_FILE": f"{path}"}
        _merge(settings, _select(found, _UV_SETTINGS, path.parent))
        if isinstance(found.get("pip"), dict):
            _merge(settings.setdefault("pip", {}), _select(found["pip"], _UV_PIP_SETTINGS, path.parent))
    file = folder / "uv.toml"
    file.write_text("".join(f"{name} = {_to_toml(value)}\n" for name, value in settings.items()), encoding="utf-8")
    return {"UV_CONFIG_FILE": f"{file}"}


def _uv_files(env: Mapping[str, str]) -> Iterator[Path]:
    """Yield the paths of uv's configuration files.

    If UV_CONFIG_FILE is set, uv reads only the file that UV_CONFIG_FILE names. If UV_CONFIG_FILE is not set, uv reads
    the user's file and the system's file.

    uv's settings in a project are not used.
    """
    if env.get("UV_NO_CONFIG", "").lower() in ("1", "true", "yes", "y", "on", "t"):
        return
    if env.get("UV_CONFIG_FILE"):
        yield Path(env["UV_CONFIG_FILE"]).absolute()
        return
    if sys.platform == "win32":
        users, system = env.get("APPDATA"), [env.get("PROGRAMDATA") or "C:\\ProgramData"]
    else:
        users = env.get("XDG_CONFIG_HOME") or (f"{env['HOME']}/.config" if env.get("HOME") else None)
        system = [*(env.get("XDG_CONFIG_DIRS") or "/etc/xdg").split(":"), "/etc"]
    if users:
        yield from (path for path in [Path(users, "uv", "uv.toml")] if path.is_file())
    yield from [path for each in system if (path := Path(each, "uv", "uv.toml")).is_file()][:1]


def _read_toml(path: Path) -> dict[str, Any] | None:
    """Return the settings of a file; {} if the file cannot be read, and None if this Python has no reader for TOML."""
    if sys.version_info >= (3, 11):
        import tomllib

        try:
            return tomllib.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
    return None


def _select(found: Mapping[str, Any], names: frozenset[str], folder: Path) -> dict[str, Any]:
    kept = {name: value for name, value in found.items() if name in names}
    if isinstance(kept.get("find-links"), list):
        kept["find-links"] = [_absolute(f"{each}", folder) for each in kept["find-links"]]
    return kept


def _merge(settings: dict[str, Any], more: Mapping[str, Any]) -> None:
    """Add the settings of a further file as uv does: keep the value of the first file, but join lists."""
    for name, value in more.items():
        before = settings.setdefault(name, value)
        if before is not value and isinstance(before, list) and isinstance(value, list):
            settings[name] = before + value


def _absolute(place: str, folder: Path) -> str:
    """Return a path that is relative to ``folder`` as an absolute path, because installers run in another folder.

    A URL is returned unchanged.
    """
    return f"{folder / place}" if "://" not in place and (folder / place).exists() else place


def _to_toml(value: object) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(name)} = {_to_toml(each)}" for name, each in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_to_toml, value)) + "]"
    return json.dumps(value, ensure_ascii=False, default=str)
