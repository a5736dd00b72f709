"""A caller in a separate process with restrictions. `test_disk` runs this file.

The task names the environment, the largest file that may be written, and the user of the process. The process resolves
a token, and sends the result without the token's value. All imports come before the process changes its user, because
the new user may not read any file.
"""

from __future__ import annotations

import importlib
import os
import resource
import time
from typing import TYPE_CHECKING, Any

import filelock  # noqa: F401 - see above

import kis_token.kis.session  # noqa: F401 - see above
from kis_token.config import Settings
from kis_token.errors import KisTokenError
from kis_token.wiring import open_resolver

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

importlib.import_module("_strptime")  # datetime would import this module at the first use of strptime


def main(connection: Connection, task: dict[str, Any]) -> None:
    """Resolve under the restrictions of the task."""
    os.environ.clear()
    os.environ.update(task["machine"])
    if task["largest_file"] is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (task["largest_file"], task["largest_file"]))
    if task["user"] is not None:
        os.setgroups([])
        os.setgid(task["user"])
        os.setuid(task["user"])
    with open_resolver(Settings.from_env(task["env"]), time.monotonic(), lambda _: None) as resolver:
        try:
            got = resolver.resolve()
        except KisTokenError as error:
            answer: dict[str, object] = {"code": error.code}
        else:
            answer = {"token_id": got.token.token_id, "source": got.source, "warnings": got.warnings}
    connection.send(answer)


if __name__ == "__main__":
    main(*globals()["given"])
