"""A contender in a process of its own: what `children.Child` runs, by its path, as tests/ is no package.

Reads a task, a line of JSON; says that it is ready; starts at the next line; answers with a line of JSON that holds no
token. It takes tasks until its input ends.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from typing import TYPE_CHECKING, Any

import supabase  # noqa: F401 - the store would import it in the middle of the race

from entrypoint import interrupt
from kis_token.config import Settings
from kis_token.errors import KisTokenError
from kis_token.wiring import open_resolver

if TYPE_CHECKING:
    from kis_token.resolver import Resolver


def main() -> int:
    """Do the tasks; the exit status."""
    signal.signal(signal.SIGTERM, interrupt)
    try:
        while line := sys.stdin.readline():
            task = json.loads(line)
            os.environ["XDG_CACHE_HOME"] = task["machine"]  # the processes are there for several tests
            with open_resolver(Settings.from_env(task["env"]), time.monotonic(), lambda _: None) as resolver:
                say("ready")
                sys.stdin.readline()
                say(json.dumps(outcome(resolver, task["refused"])))
    except KeyboardInterrupt:
        return 130
    return 0


def outcome(resolver: Resolver, refused: str | None) -> dict[str, Any]:
    """What this caller gets, without the token."""
    try:
        got = resolver.replace(refused) if refused else resolver.resolve()
    except KisTokenError as error:
        return {"code": error.code}
    return {
        "token_id": got.token.token_id,
        "source": got.source,
        "refreshed": got.refreshed,
        "warnings": got.warnings,
    }


def say(line: str) -> None:
    """A line for the test."""
    print(line, flush=True)  # noqa: T201 - this is how the test hears of it


if __name__ == "__main__":
    sys.exit(main())
