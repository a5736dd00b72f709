"""A caller in a process of its own that meets what its own process alone can meet: what `test_disk` runs, by its path.

Reads one line of JSON: the environment, the largest file that may be written, and the user to become; then resolves,
and answers with a line of JSON that holds no token. Everything is imported before, since that user may read nothing.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import time

import filelock  # noqa: F401 - see above
import supabase  # noqa: F401 - see above

import kis_token.kis_session  # noqa: F401 - see above
from kis_token.config import Settings
from kis_token.errors import KisTokenError
from kis_token.wiring import open_resolver


def main() -> int:
    """Do the task; the exit status."""
    task = json.loads(sys.stdin.readline())
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
    print(json.dumps(answer))  # noqa: T201 - this is how the test hears of it
    return 0


if __name__ == "__main__":
    sys.exit(main())
