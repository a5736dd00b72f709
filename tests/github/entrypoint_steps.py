"""Steps for the tests of entrypoint.py: their inputs and results."""

from __future__ import annotations

import json
import os
import shutil
import sys
from typing import TYPE_CHECKING

import psycopg

from kis_token.remedies import REMEDIES
from kis_token.token import fingerprint

if TYPE_CHECKING:
    from pathlib import Path

    from kis_token.sandbox import Sandbox
    from tools.step import Ended


#: An address where no server listens, for a package index that cannot be reached.
NOWHERE = "http://127.0.0.1:9/simple"
UNREACHABLE_INDEX = {
    "PIP_INDEX_URL": NOWHERE,
    "PIP_EXTRA_INDEX_URL": NOWHERE,
    "PIP_RETRIES": "0",
    "UV_INDEX_URL": NOWHERE,
    "UV_DEFAULT_INDEX": NOWHERE,
    "UV_NO_CACHE": "1",
}


def inputs_of(sandbox: Sandbox, **further: str) -> dict[str, str]:
    """Return the inputs that a workflow gives the action."""
    given = {
        "supabase-url": sandbox.supabase.url,
        "supabase-key": sandbox.service_key,
        "base-url": sandbox.kis.production_url,
    }
    return given | {name.replace("_", "-"): value for name, value in further.items()}


def seen_by_people(ended: Ended) -> str:
    """Return log and summary without the add-mask commands, which the runner does not show."""
    lines = [line for line in ended.log.splitlines() if not line.startswith("::add-mask::")]
    return "\n".join([*lines, ended.summary])


def errors(ended: Ended) -> list[str]:
    """Return the error annotations of a step."""
    return [line for line in ended.log.splitlines() if line.startswith("::error")]


def failure(*codes: str) -> dict[str, str]:
    """Return the outputs of a step that failed with these error codes."""
    hints = dict.fromkeys(REMEDIES[code] for code in codes)
    return {"error-code": ",".join(codes), "error-hint": " ".join(hints)}


def assert_succeeded(ended: Ended, source: str) -> None:
    """Check that the output is a token from ``source``, and that log and summary do not contain the token."""
    assert ended.status == 0, seen_by_people(ended)
    assert ended.public["source"] == source
    shown = ended.outputs["access-token"] in seen_by_people(ended)
    assert not shown, "the token is shown"


def age_token(sandbox: Sandbox, seconds: int) -> None:
    """Store a token that is not a JWT and ends in ``seconds``. If ``seconds`` is negative, it has expired."""
    value = json.dumps({"access_token": "opaque.token-of-a-test_0123456789", "app_key_id": "0" * 16})
    with psycopg.connect(sandbox.owner_dsn) as connection:
        connection.execute(
            "update api_credentials set credential_value = %s, expires_at = now() + make_interval(secs => %s)"
            " where credential_type = 'access_token'",
            [
                value.replace("0" * 16, fingerprint(sandbox.kis.accounts["production"][0].app_key)),
                seconds,
            ],
        )
        connection.execute("update credential_leases set not_before = null")


class Runner:
    """A runner with a runtime that a test may damage, and with a stand-in for uv that installs an undamaged runtime.

    Both runtimes consist of hard links to the files of the runtime that all tests share. Before a test changes a file's
    contents, the test replaces the link by a copy (``own``).
    """

    def __init__(self, folder: Path, runtime: Path) -> None:
        self.folder = folder
        self.runtime = folder / "tools" / runtime.parent.name / runtime.name
        self.source = folder / "source"
        self.source.symlink_to(runtime)
        shutil.copytree(runtime, self.runtime, copy_function=os.link)
        uv = folder / "bin" / "uv"
        uv.parent.mkdir()
        uv.write_text(f"""#!{sys.executable} -IS
import os, shutil, sys
from pathlib import Path
with Path({str(folder / "calls")!r}).open("a") as calls:
    calls.write("x")
shutil.copytree({str(self.source)!r}, sys.argv[sys.argv.index("--target") + 1], copy_function=os.link)
""")
        uv.chmod(0o755)
        self.env = UNREACHABLE_INDEX | {
            "RUNNER_TOOL_CACHE": str(folder / "tools"),
            "PATH": f"{uv.parent}{os.pathsep}{os.environ['PATH']}",
        }

    @property
    def builds(self) -> int:
        """Return the number of installations."""
        calls = self.folder / "calls"
        return len(calls.read_text()) if calls.exists() else 0

    def let_uv_install_the_same(self) -> None:
        """Make the stand-in for uv install the same damaged files again."""
        self.source.unlink()
        shutil.copytree(self.runtime, self.source, copy_function=os.link)
