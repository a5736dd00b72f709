"""A step of this project's own workflows: starts the sandbox for the steps that follow.

The program runs on the runner's own Python with the standard library. The sandbox's packages are installed from the
lock, in the same way as the action's packages. The sandbox is a separate process, which ends with the job: the runner
deletes RUNNER_TEMP, and ends the processes that a job has left running.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from kis_token.github.runtime import ensure_runtime

CHECKOUT = Path(__file__).resolve().parents[1]
INSTALL_SECONDS = 300
LIFE_SECONDS = 900

#: The step's outputs, by the names that the sandbox gives to the values.
OUTPUTS = {
    "SUPABASE_URL": "supabase-url",
    "SUPABASE_SERVICE_ROLE_KEY": "supabase-key",
    "KIS_BASE_URL": "base-url",
    "KIS_SANDBOX_CONTROL_URL": "control-url",
}


def start() -> None:
    """Start the sandbox, mask its key, and output its addresses. The function returns when the sandbox answers."""
    runtime = ensure_runtime(
        CHECKOUT / "requirements-dev.txt",
        os.environ,
        time.monotonic() + INSTALL_SECONDS,
    )
    folder = tempfile.mkdtemp(prefix="sandbox-", dir=os.environ["RUNNER_TEMP"])
    with Path(folder, "log").open("wb") as log:
        server = subprocess.Popen(  # noqa: S603 - this program itself
            [sys.executable, "-X", "utf8", "-m", "tools.background_sandbox", folder],
            cwd=CHECKOUT,
            env=os.environ | {"PYTHONPATH": str(runtime)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=log,
            start_new_session=True,
            umask=0o022,  # no other user may write the folders for bytecode in the runtime
            creationflags=getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0),  # on Windows, in place of a new session
        )
    line = server.stdout.readline() if server.stdout else b""
    if not line:
        sys.exit(f"The sandbox did not start:\n{Path(folder, 'log').read_text(errors='replace')}")
    variables = json.loads(line)
    print(f"::add-mask::{variables['SUPABASE_SERVICE_ROLE_KEY']}", flush=True)
    with Path(os.environ["GITHUB_OUTPUT"]).open("a", encoding="utf-8") as outputs:
        outputs.writelines(f"{output}={variables[name]}\n" for name, output in OUTPUTS.items())


def serve(folder: Path) -> None:
    """Run the sandbox as long as ``folder`` exists, up to a time limit."""
    from kis_token.sandbox import Sandbox

    end = time.monotonic() + LIFE_SECONDS
    with Sandbox() as sandbox:
        print(json.dumps(sandbox.variables), flush=True)
        while folder.is_dir() and time.monotonic() < end:
            time.sleep(0.5)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        serve(Path(sys.argv[1]))
    else:
        start()
