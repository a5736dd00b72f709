"""A caller in a separate process. `caller_processes.Child` runs this file by its path.

The process receives a task, reports that it is ready, starts on a signal, and returns a result without the token. The
process receives further tasks until the test closes the connection.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from entrypoint import interrupt
from kis_token.config import Settings
from kis_token.errors import KisTokenError
from kis_token.token import fingerprint
from kis_token.wiring import open_resolver

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

    from kis_token.core.resolution import Resolution
    from kis_token.core.resolver import Resolver


def main(connection: Connection) -> None:
    """Do the tasks. On SIGTERM, exit as the command kis-token does."""
    signal.signal(signal.SIGTERM, interrupt)
    try:
        with suppress(EOFError):
            while True:
                _do(connection)
    except KeyboardInterrupt:
        sys.exit(130)


def _do(connection: Connection) -> None:
    """Do one task."""
    task = connection.recv()
    os.environ.clear()
    os.environ.update(task["machine"])
    with open_resolver(Settings.from_env(task["env"]), time.monotonic(), lambda _: None) as resolver:
        connection.send("ready")
        connection.recv()
        connection.send(outcome(resolver, task["rejected"]))


def resolve_without(resolver: Resolver, rejected: str | None) -> Resolution:
    """Return the caller's token, which is never ``rejected``."""
    return resolver.resolve(resolver.look(fingerprint(rejected) if rejected is not None else None))


def outcome(resolver: Resolver, rejected: str | None) -> dict[str, Any]:
    """Return the result of this caller, without the token."""
    try:
        got = resolve_without(resolver, rejected)
    except KisTokenError as error:
        return {"code": error.code}
    return {
        "token_id": got.token.token_id,
        "source": got.source,
        "refreshed": got.refreshed,
        "warnings": got.warnings,
    }


if __name__ == "__main__":
    main(*globals()["given"])
