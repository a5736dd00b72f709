"""A caller of the chaos: a process that asks for the token again and again, in different ways, with the real chain."""

from __future__ import annotations

import json
import os
import random
import sys
import time
import traceback
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING
from unittest.mock import patch

import requests

from bench.chaos.bot import run_bot
from bench.chaos.records import Attempt, Log, Start, fingerprint
from bench.chaos.simulated_time import IDLE, RESOLVING, Shared, SimulatedClock
from kis_token.config import Settings
from kis_token.errors import IssuerOutage, KisTokenError
from kis_token.kis.api import KISIssuer
from kis_token.local.machine_lock import LocalMachine
from kis_token.wiring import open_resolver

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from bench.chaos.machines import Machine
    from kis_token.core.resolution import Resolution
    from kis_token.token import AppKey, Token

#: The average time between two attempts, in the machine's seconds.
PAUSE = 0.8
#: The share of the tokens that are tried at KIS.
USED = 0.25
#: The share of the attempts that are made by a bot that forks.
FORKED = 0.06


@dataclass(frozen=True, slots=True)
class Surroundings:
    """The data with which a caller starts."""

    shared: Shared
    log: Log
    seed: int
    variables: dict[str, str]
    app_key: AppKey
    stderr: Path


@dataclass(slots=True)
class Caller:
    """One process of a caller, on one of the machines. ``life`` counts the caller's processes."""

    around: Surroundings
    number: int
    life: int
    key: str
    machine: Machine

    def run(self) -> None:
        """Make attempts until the time is over or the parent process has ended."""
        os.dup2(os.open(self.around.stderr, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), sys.stderr.fileno())
        shared, parent, count = self.around.shared, os.getppid(), 0
        rng = random.Random(f"{self.around.seed}.{self.number}.{self.life}")  # noqa: S311 - made-up trouble
        with patch("kis_token.wiring.local_machine", lambda: LocalMachine(lambda: [self.machine.private])):
            while not shared.is_finishing and os.getppid() == parent:
                time.sleep(rng.expovariate(1 / PAUSE))
                with self._admitted() as admitted:
                    if admitted:
                        count += 1
                        self._ask(f"{self.number}.{self.life}.{count}", rng)

    @contextmanager
    def _admitted(self) -> Iterator[bool]:
        """Prevent a jump during the block. Yields False if a jump is due."""
        shared = self.around.shared
        # The mark is set before the gate is read, because the run closes the gate first and reads the marks afterwards.
        shared.set_mark(self.number, RESOLVING)
        try:
            yield not (shared.is_closed or shared.is_finishing)
        finally:
            shared.set_mark(self.number, IDLE)

    def _ask(self, by: str, rng: random.Random) -> None:
        """Do one job: run a bot, or get a token. Some tokens are used. If KIS rejects such a token, it is replaced."""
        clock = SimulatedClock(self.around.shared, rng)
        if rng.random() < FORKED:
            run_bot(self, by, clock, rng)
            return
        got = self._attempt(by, _draw_inputs(rng, self.around.app_key), clock, None)
        if got is None or rng.random() > USED:
            return
        issuer = KISIssuer(self.around.variables["KIS_BASE_URL"], "production")
        with suppress(IssuerOutage):
            if issuer.verify(got.token, self.around.app_key) is not None:
                self._attempt(f"{by}.rejected", {}, clock, got.token.value)

    def _attempt(
        self, by: str, inputs: dict[str, str], clock: SimulatedClock, rejected: str | None
    ) -> Resolution | None:
        """Call the resolver once. ``wiring`` makes the resolver with the simulated clock and the machine's folder."""
        settings = self.settings(by, inputs)

        def find() -> Resolution:
            with open_resolver(settings, clock.monotonic(), lambda _: None, clock) as resolver:
                return resolver.resolve(resolver.look(fingerprint(rejected) if rejected is not None else None))

        got: list[Resolution] = []

        def get() -> tuple[Token, str]:
            got.append(find())
            return got[0].token, got[0].source

        self.note(by, self.number, settings, get, clock=clock, rejected=rejected)
        return got[0] if got else None

    def note(
        self,
        by: str,
        number: int,
        settings: Settings,
        get: Callable[[], tuple[Token, str]],
        *,
        clock: SimulatedClock,
        rejected: str | None = None,
    ) -> None:
        """Record the outcome of ``get``, which returns a token and its source."""
        timeout = settings.timeout.total_seconds()
        began, found = clock.now().timestamp(), _peek(self.machine.cache)
        self.around.log.write(Start(by, number, began, timeout))
        token, source, code, crash = None, None, None, None
        try:
            # The User-Agent shows the attempt's name to KIS.
            with patch.object(requests.utils, "default_user_agent", lambda *_: by):
                got, source = get()
                token = fingerprint(got.value)
        except KisTokenError as error:
            code = error.code
        except Exception:  # noqa: BLE001 - a judge reports all such errors
            crash = traceback.format_exc()
        ended = clock.now().timestamp()
        kept = _peek(self.machine.cache)
        self.around.log.write(
            Attempt(
                by=by,
                caller=number,
                mode="replace" if rejected else settings.mode,
                began=began,
                ended=ended,
                token=token,
                source=source,
                code=code,
                crash=crash,
                rejected=fingerprint(rejected) if rejected else None,
                cached=found[0] if found is not None and found == kept else None,
            )
        )

    def settings(self, by: str, inputs: dict[str, str], key: str | None = None) -> Settings:
        """Return the settings of an attempt."""
        mine = {"SUPABASE_SERVICE_ROLE_KEY": key or self.key, "KIS_TOKEN_CACHE": self.machine.setting}
        # The label of a lease shows the caller's name to the store.
        who = {"USER": by, "HOSTNAME": self.machine.folder.name}
        given = {f"INPUT_{name.upper()}": value for name, value in inputs.items()}
        return Settings.from_env({**self.around.variables, **mine, **who, **given})


def child_key(key: str) -> str:
    """Return the Supabase key by which the store recognizes a forked child of the caller with ``key``."""
    return f"{key}_child"


def _draw_inputs(rng: random.Random, app_key: AppKey) -> dict[str, str]:
    """Return random inputs: most jobs resolve, and some rotate or force. Some have no keys or use `fail`."""
    inputs = {
        "mode": rng.choices(["resolve", "rotate", "force"], [90, 6, 4])[0],
        "min_validity": rng.choices(["10m", "0s", "2h", "12h"], [85, 5, 5, 5])[0],
        "on_store_outage": rng.choices(["issue", "fail"], [75, 25])[0],
        "timeout": rng.choices(["180s", "90s", "40s"], [40, 40, 20])[0],
    }
    keys = {"app_key": app_key.key, "app_secret": app_key.secret}
    return inputs | (keys if rng.random() < 0.75 else {})


def _peek(path: Path) -> tuple[str, int, int] | None:
    """Read the cache without the project's code: its token, and two values that show a change of the file."""
    try:
        with path.open("rb") as file:
            status = os.fstat(file.fileno())
            token = json.load(file)["access_token"]
    except (OSError, ValueError, TypeError, KeyError):
        return None
    return (fingerprint(token), status.st_ino, status.st_mtime_ns) if isinstance(token, str) else None
