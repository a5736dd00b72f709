"""Run the action's step as GitHub's runner does: with the script and the environment of action.yml only.

A composite step gets no INPUT_ variables by itself, so the environment here has only those that action.yml maps.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

if TYPE_CHECKING:
    from collections.abc import Mapping

SECRET_OUTPUTS = ("access-token", "app-key", "app-secret")
CHECKOUT = Path(__file__).resolve().parents[1]

# Variables of every runner, and those that this machine may need to reach its package index.
_KEPT = re.compile(
    r"PATH|HOME|XDG_CACHE_HOME|TMPDIR|LANG|SYSTEMROOT|SSL_CERT_\w+|PIP_\w+|UV_\w+|(?:https?|all|no)_proxy",
    re.IGNORECASE,
)
_INPUT = re.compile(r"\$\{\{ inputs\.([a-z-]+) \}\}")
_PAIR = re.compile(r"^([^\n<]+)<<(\S+)\n(.*?)\n\2$", re.DOTALL | re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Ended:
    """The result of a step. The repr shows no output, because an output may be a token."""

    status: int
    log: str = field(repr=False)
    outputs: dict[str, str] = field(repr=False)
    variables: dict[str, str] = field(repr=False)
    summary: str = field(repr=False)

    @property
    def public(self) -> dict[str, str]:
        """The outputs, in which secrets are masked, for assertions that print the compared values."""
        return {name: "***" if name in SECRET_OUTPUTS else value for name, value in self.outputs.items()}


@cache
def _action() -> dict[str, Any]:
    read: dict[str, Any] = yaml.safe_load((CHECKOUT / "action.yml").read_text(encoding="utf-8"))
    return read


def kept_environment() -> dict[str, str]:
    """Return those variables of this process that a step gets as well."""
    return {name: value for name, value in os.environ.items() if _KEPT.fullmatch(name)}


def step_environment(inputs: Mapping[str, str], env: Mapping[str, str], folder: Path) -> dict[str, str]:
    """Return the step's environment: the runner's, ``env``, and action.yml's variables for ``inputs``."""
    action = _action()
    unknown = inputs.keys() - action["inputs"].keys()
    if unknown:
        raise ValueError(f"action.yml has no such inputs: {', '.join(sorted(unknown))}")
    given = {name: inputs.get(name, declared.get("default", "")) for name, declared in action["inputs"].items()}
    mapped = {
        name: _INPUT.sub(lambda match: given[match[1]], text)
        for name, text in action["runs"]["steps"][0]["env"].items()
    }
    for name in ("temp", "tools"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    files = {}
    for name in ("GITHUB_OUTPUT", "GITHUB_ENV", "GITHUB_STEP_SUMMARY"):
        file = folder / name.lower()
        file.write_text("")
        files[name] = str(file)
    runner = {
        "CI": "true",
        "GITHUB_ACTIONS": "true",
        "GITHUB_ACTION_PATH": str(CHECKOUT),
        "GITHUB_REPOSITORY": "someone/bot",
        "GITHUB_RUN_ID": "1234567890",
        "GITHUB_JOB": "trade",
        "RUNNER_OS": "Linux",
        "RUNNER_TEMP": str(folder / "temp"),
        "RUNNER_TOOL_CACHE": str(folder / "tools"),
    }
    return {**kept_environment(), **runner, **files, **env, **mapped}


def step_command(folder: Path) -> list[str]:
    """Write the step's script into ``folder``, and return the command: the shell as the runner starts it."""
    script = folder / "step.sh"
    script.write_text(_action()["runs"]["steps"][0]["run"], encoding="utf-8")
    if os.name == "nt":
        bash = shutil.which("bash") or "bash"  # from PATH, because Windows would choose another bash
        return [bash, "--noprofile", "--norc", "-e", "-o", "pipefail", str(script)]
    return [shutil.which("sh") or "sh", "-e", str(script)]


def run_step(
    inputs: Mapping[str, str], folder: Path, env: Mapping[str, str] | None = None, *, seconds: float = 120
) -> Ended:
    """Run the step with ``inputs``. The step's files are in ``folder``. Steps of one job use the same folder."""
    environment = step_environment(inputs, env or {}, folder)
    done = subprocess.run(  # noqa: S603 - our own script
        step_command(folder),
        env=environment,
        cwd=folder,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=seconds,
        check=False,
    )
    return read_ended(done.returncode, done.stdout.decode(errors="replace"), environment)


def read_ended(status: int, log: str, environment: Mapping[str, str]) -> Ended:
    """Return the result of an ended step, from the files that ``environment`` names."""
    return Ended(
        status=status,
        log=log,
        outputs=read_pairs(Path(environment["GITHUB_OUTPUT"])),
        variables=read_pairs(Path(environment["GITHUB_ENV"])),
        summary=Path(environment["GITHUB_STEP_SUMMARY"]).read_text(encoding="utf-8"),
    )


def read_pairs(file: Path) -> dict[str, str]:
    """Read GitHub's multi-line form ``name<<delimiter``, and the short form ``name=value``."""
    text = file.read_text(encoding="utf-8") if file.exists() else ""
    pairs = {match[1]: match[3] for match in _PAIR.finditer(text)}
    plain = (line.partition("=") for line in _PAIR.sub("", text).splitlines() if "=" in line)
    return pairs | {name: value for name, _, value in plain}
