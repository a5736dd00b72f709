"""The user's sign-in at GitHub: a token in a variable, or that of the command gh."""

from __future__ import annotations

import shutil
import subprocess
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from kis_token.admin.github_server import GitHubServer

#: Seconds for the command gh, which asks no server.
_GH_SECONDS = 10


def find_sign_in(server: GitHubServer, env: Mapping[str, str]) -> str | None:
    """A token of GitHub for this server: that of a variable, or of gh's sign-in; None without either.

    As gh does, a token of github.com goes to github.com and ghe.com alone.
    """
    names = ("GH_ENTERPRISE_TOKEN", "GITHUB_ENTERPRISE_TOKEN") if server.is_own else ("GH_TOKEN", "GITHUB_TOKEN")
    tokens = [env.get(name, "").strip() for name in names]
    program = shutil.which("gh", path=env.get("PATH"))
    if not any(tokens) and program is not None:
        try:
            done = subprocess.run(  # noqa: S603 - gh, with a name of a server that was checked
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
            pass  # gh does not work: public repositories need no sign-in
    # A header takes one word of ASCII.
    return next(
        (token for token in tokens if token.isascii() and token.isprintable() and len(token.split()) == 1), None
    )
