"""The measured commands: how each command starts, its environment, and the state before each round.

This project's code runs from two copies. The first copy has the files of the action. Its bytecode is deleted before
each round, because a runner fetches the action for each job. The second copy has the library, and keeps its bytecode.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from importlib.metadata import distribution
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, NamedTuple

from bench.speed import system_certificates
from bench.speed.servers import SEALED_SLOT, open_servers
from tools.step import CHECKOUT, kept_environment, read_pairs, step_command, step_environment

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from bench.children import Child
    from bench.speed.servers import Question

HERE = Path(__file__).parent

#: The time limit of one run, in seconds. This time is long enough for an installation over a slow network.
LONGEST_SECONDS = 180.0

#: The command of a Python with the standard library alone, with the flags of the action's Python.
PLAIN_PYTHON = ("python3", "-I", "-S", "-X", "utf8")


class Took(NamedTuple):
    """The cost of a run: its seconds, and its peak memory in kilobytes."""

    seconds: float
    kilobytes: int


@dataclass(frozen=True, slots=True)
class Contestant:
    """A command to measure. The repr does not show the environment, which contains a key.

    ``folder`` is the folder of the command's job. Before each run, the folder is emptied except for the names in
    ``keeps``. Before each run, the servers get the requests ``before``. After each run, the servers get the requests
    ``after``. ``source`` is the expected value of the output ``source``. ``cold`` are folders whose bytecode is deleted
    before each run.
    """

    name: str
    command: tuple[str, ...]
    env: Mapping[str, str] = field(repr=False)
    folder: Path
    before: tuple[Question, ...] = ()
    after: tuple[Question, ...] = ()
    source: str | None = None
    keeps: tuple[str, ...] = ()
    cold: tuple[Path, ...] = ()


class Course:
    """The servers, the copies and the environment that all measured commands share. ``open_course`` makes it."""

    def __init__(self, folder: Path, servers: Child) -> None:
        self.folder = folder
        self.servers = servers
        self.variables: dict[str, str] = servers.hear()
        self.encryption_key = self.variables.pop("KIS_TOKEN_ENCRYPTION_KEY")
        self.public_key = self.variables.pop("KEYLESS_KEY")
        names = ("ACTIONS_ID_TOKEN_REQUEST_URL", "ACTIONS_ID_TOKEN_REQUEST_TOKEN")
        self.permission = {name: self.variables.pop(name) for name in names}
        #: Variables that name the servers' certificate, for programs whose libraries do not use the system's
        #: certificates.
        self.trust = self._trust()
        self.env = {**kept_environment(), **self.trust, "PATH": self._path()}
        self.env = self._without_variables(self.env)
        if any(name.lower().endswith("_proxy") for name in self.env):
            self.env["NO_PROXY"] = self.env["no_proxy"] = "127.0.0.1"
        self.action_copy = folder / "action"
        self.library_copy = folder / "library"
        for copy in (self.action_copy, self.library_copy):
            shutil.copytree(CHECKOUT / "kis_token", copy / "kis_token", ignore=shutil.ignore_patterns("__pycache__"))
        for name in ("action.yml", "entrypoint.py", "requirements.txt"):
            shutil.copy(CHECKOUT / name, self.action_copy)
        (self.library_copy / "bench").mkdir()
        for name in ("__init__.py", "guide.py"):
            shutil.copy(CHECKOUT / "bench" / name, self.library_copy / "bench")

    def _trust(self) -> dict[str, str]:
        """Return the variables with which a command reads this machine's certificates and the servers' certificate.

        Reading the machine's certificates is a large part of the cost of TLS.
        """
        bundle = self.folder / "certificates.pem"
        import certifi

        known = os.environ.get("SSL_CERT_FILE") or certifi.where()
        certificate = Path(self.variables.pop("CERTIFICATE"))
        bundle.write_bytes(Path(known).read_bytes() + certificate.read_bytes())
        #: Whether the servers' certificate is in the system's folder. If not, variables name the certificate.
        self.is_in_system = system_certificates.add(certificate)
        return dict.fromkeys(("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE"), f"{bundle}")

    def _without_variables(self, env: dict[str, str]) -> dict[str, str]:
        """Return ``env`` without the variables that name certificates, if the system's certificates are enough."""
        return system_certificates.without_variables(env) if self.is_in_system else env

    def _path(self) -> str:
        """Return a PATH without uv, and with a python3 that is not a shim, because a shim takes additional time."""
        binaries = self.folder / "bin"
        binaries.mkdir()
        (binaries / "python3").symlink_to(os.path.realpath(sys.executable))
        system = (place for place in os.defpath.split(os.pathsep) if place and not shutil.which("uv", path=place))
        return os.pathsep.join((f"{binaries}", *system))

    def action(
        self,
        name: str,
        *,
        env: Mapping[str, str] | None = None,
        before: tuple[Question, ...] = (),
        after: tuple[Question, ...] = (),
        source: str = "supabase",
        keeps: tuple[str, ...] = (),
        cold: tuple[Path, ...] | None = None,
        **inputs: str,
    ) -> Contestant:
        """Return the action's command. The names of ``inputs`` have underscores in place of hyphens.

        The other arguments have the meaning of the fields of `Contestant`.
        """
        folder = self._job(name)
        given = {
            "supabase-url": self.variables["SUPABASE_URL"],
            "supabase-key": self.variables["SUPABASE_SERVICE_ROLE_KEY"],
            "base-url": self.variables["KIS_BASE_URL"],
            **{key.replace("_", "-"): value for key, value in inputs.items()},
        }
        environment = {**self.env, "GITHUB_ACTION_PATH": f"{self.action_copy}", **(env or {})}
        return Contestant(
            name,
            tuple(step_command(folder)),
            self._without_variables(step_environment(given, environment, folder)),
            folder,
            before,
            after,
            source=source,
            keeps=keeps,
            cold=(self.action_copy,) if cold is None else cold,
        )

    def sealed(
        self, name: str, env: Mapping[str, str] | None = None, before: tuple[Question, ...] = (), mode: str = "resolve"
    ) -> Contestant:
        """Return the action's command for a slot with sealed values."""
        source = "oauth" if mode == "force" else "supabase"
        slot = {"service_name": SEALED_SLOT, "encryption_key": self.encryption_key}
        return self.action(name, env=env, before=before, source=source, mode=mode, **slot)

    def keyless(self, name: str, *, sealed: bool = False) -> Contestant:
        """Return the action's command with the public key and the permission for ID tokens."""
        slot = {"service_name": SEALED_SLOT, "encryption_key": self.encryption_key} if sealed else {}
        return self.action(name, env=self.permission, supabase_key=self.public_key, **slot)

    def program(
        self,
        name: str,
        *command: str,
        packages: Path | None = None,
        env: Mapping[str, str] | None = None,
        before: tuple[Question, ...] = (),
        cold: tuple[Path, ...] = (),
    ) -> Contestant:
        """Return a command that has its settings in variables, and that imports from ``packages``.

        The default of ``packages`` is the copy of this project's library.
        """
        folder = self._job(name)
        environment = {
            **self.env,
            **self.variables,
            "PYTHONPATH": f"{packages or self.library_copy}",
            "KIS_TOKEN_CACHE": f"{folder / 'cache.json'}",
            "GITHUB_OUTPUT": f"{folder / 'github_output'}",
            **(env or {}),
        }
        return Contestant(name, command, environment, folder, before, cold=cold)

    def _job(self, name: str) -> Path:
        return _made(self.folder / "jobs" / re.sub(r"\W+", "-", name))

    def run(self, contestant: Contestant) -> Took:
        """Run the command once. Raises RuntimeError if the run fails, or if its token has another source."""
        for path in contestant.folder.glob("*"):
            if path.name not in ("step.sh", *contestant.keeps):
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        for name in ("temp", "tools"):
            (contestant.folder / name).mkdir(exist_ok=True)
        for name in ("github_output", "github_env", "github_step_summary"):
            (contestant.folder / name).touch()
        for copy in contestant.cold:
            forget_bytecode(copy)
        for question in contestant.before:
            self.servers.ask(question)
        status, seconds, kilobytes, log = _launch(contestant)
        for question in contestant.after:
            self.servers.ask(question)
        outputs = read_pairs(contestant.folder / "github_output")
        if status or (contestant.source is not None and outputs.get("source") != contestant.source):
            shown = [line for line in log.splitlines() if not line.startswith("::add-mask::")]
            raise RuntimeError("\n".join([f"{contestant.name} ended with {status}", *shown[-20:]]))
        return Took(seconds, kilobytes)

    @cached_property
    def tools(self) -> Path:
        """A tool cache with the runtime. The action has built the runtime, with the checkout's uv if there is one."""
        tools = _made(self.folder / "tools")
        uv, cache = CHECKOUT / "build" / "uv" / "bin", CHECKOUT / "build" / "uv-cache"
        path = os.pathsep.join((self.env["PATH"], f"{uv}"))
        env = {"RUNNER_TOOL_CACHE": f"{tools}", "PATH": path, "UV_CACHE_DIR": f"{cache}"}
        self.run(self.action("builds the runtime", env=env, before=("empty",), source="oauth"))
        return tools


@contextmanager
def open_course() -> Iterator[Course]:
    """Start the servers and make the copies. The end of the block stops the servers and deletes the copies."""
    with TemporaryDirectory(prefix="kis-bench-") as name:
        folder = Path(name)
        with open_servers(folder) as servers:
            yield Course(folder, servers)


def race(course: Course, contestants: Sequence[Contestant], rounds: int) -> dict[str, list[Took]]:
    """Run ``rounds`` rounds of all commands in turns; return the costs by name. The first round does not count."""
    took: dict[str, list[Took]] = {contestant.name: [] for contestant in contestants}
    for number in range(rounds + 1):
        for contestant in contestants:
            measured = course.run(contestant)
            if number:
                took[contestant.name].append(measured)
    return took


def forget_bytecode(folder: Path) -> None:
    """Delete the bytecode in ``folder``."""
    for path in folder.rglob("__pycache__"):
        shutil.rmtree(path)


def copy_distributions(folder: Path, *names: str) -> Path:
    """Copy the installed packages ``names`` into ``folder``, without bytecode, and return ``folder``."""
    for name in names:
        for file in distribution(name).files or ():
            if not {"..", "__pycache__"} & set(file.parts):
                (folder / file).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(str(file.locate()), folder / file)
    return folder


def middle(took: Sequence[Took]) -> float:
    """Return the median of the seconds."""
    return median(each.seconds for each in took)


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _launch(contestant: Contestant) -> tuple[int, float, int, str]:
    """Run the command. Returns its status, its seconds, its kilobytes, and all output."""
    with subprocess.Popen(  # noqa: S603 - our own commands
        [sys.executable, "-I", "-S", f"{HERE / 'launch.py'}", *contestant.command],
        env=dict(contestant.env),
        cwd=contestant.folder,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
        errors="replace",
        start_new_session=True,  # so that the command and its children can be killed together
    ) as process:
        try:
            figures, log = process.communicate(timeout=LONGEST_SECONDS)
        except BaseException:
            os.killpg(process.pid, signal.SIGKILL)
            raise
    status, seconds, kilobytes = figures.split()
    return int(status), float(seconds), int(kilobytes), log
