"""Find the user's GitHub token: in an environment variable, or with the command gh."""

from __future__ import annotations

import shutil
import subprocess
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from kis_token.admin.github_server import GitHubServer

#: The time limit of the command gh, in seconds. ``gh auth token`` sends no request.
_GH_SECONDS = 10


def find_sign_in(server: GitHubServer, env: Mapping[str, str]) -> str | None:
    """Return a GitHub token for this server from a variable or from gh's sign-in. Return None if no token is found.

    Like gh, this function uses GH_TOKEN and GITHUB_TOKEN only for github.com and ghe.com.
    """
    names = ("GH_ENTERPRISE_TOKEN", "GITHUB_ENTERPRISE_TOKEN") if server.is_own else ("GH_TOKEN", "GITHUB_TOKEN")
    tokens = [env.get(name, "").strip() for name in names]
    program = shutil.which("gh", path=env.get("PATH"))
    if not any(tokens) and program is not None:
        try:
            done = subprocess.run(  # noqa: S603 - runs gh with the checked name of a server
                [program, "auth", "token", "--hostname", server.host],
                env=dict(env),
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=_GH_SECONDS,
                check=False,
            )
            tokens.append(done.stdout.strip() if done.returncode == 0 else "")
        except (OSError, ValueError, subprocess.SubprocessError):
            pass  # If gh does not work, continue without a sign-in, because public repositories need no sign-in.
    # A token in a header must be one word of printable ASCII.
    return next(
        (token for token in tokens if token.isascii() and token.isprintable() and len(token.split()) == 1), None
    )
