"""Find the repository that gets the workflows: the folder's repository, or a repository that the user names."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

from kis_token.admin.github_repository import REPOSITORY, look_up
from kis_token.admin.github_server import find_server
from kis_token.admin.github_sign_in import find_sign_in
from kis_token.admin.issuer_keys import fetch_keys
from kis_token.admin.trust_sql import Caller, unfit
from kis_token.errors import GitHubError
from kis_token.setup.dialogue import Question
from kis_token.setup.tables import Access

if TYPE_CHECKING:
    from kis_token.admin.github_server import GitHubServer
    from kis_token.config import Settings
    from kis_token.setup.options import Setup

#: The time limit of one call of git, in seconds. No call of git uses the network.
_GIT_SECONDS = 10

#: The forms of a github.com repository's address that git can store.
_REMOTE = re.compile(
    r"(?:https?://(?:[^@/]*@)?|ssh://(?:git@)?|git@|git://)(?:ssh\.)?github\.com(?::\d+)?[:/](?P<name>.+)"
)


def find_folder(folder: Path, path: str | None) -> Path:
    """Return the top folder of the repository around ``folder``; outside a repository, return ``folder`` itself.

    ``path`` is the variable PATH.
    """
    top = _git(folder, path, "rev-parse", "--show-toplevel")
    return Path(top) if top else folder


def find_name(folder: Path, path: str | None) -> str | None:
    """Return OWNER/REPO of the folder's remote "origin", or None if the folder has no such remote at github.com."""
    remote = _REMOTE.fullmatch(_git(folder, path, "remote", "get-url", "origin"))
    name = remote["name"].strip("/").removesuffix(".git") if remote is not None else ""
    return name if REPOSITORY.fullmatch(name) else None


def choose_name(setup: Setup) -> str | None:
    """Return the repository's name: the given name, the folder's name, or the user's answer.

    Returns None if no repository is named. Raises KisTokenError ``invalid-caller`` if a text is not a repository's
    name.
    """
    given = setup.options.repository or find_name(setup.options.directory, setup.env.get("PATH"))
    if given is not None:
        return check_name(given)
    if setup.dialogue.is_absent:
        return None
    prompt = "GitHub repository for the workflows, OWNER/REPO (Enter for none)"
    return setup.dialogue.ask(Question(prompt), lambda answer: check_name(answer.strip()) if answer.strip() else None)


def check_name(text: str) -> str:
    """Return OWNER/REPO from a repository's name or address. Raises KisTokenError ``invalid-caller``."""
    remote = _REMOTE.fullmatch(text.strip())
    name = (remote["name"] if remote is not None else text).strip().strip("/").removesuffix(".git")
    if REPOSITORY.fullmatch(name) is None:
        raise unfit("--repository")
    return name


def find_access(setup: Setup, settings: Settings, name: str) -> Access:
    """Return the access that jobs on the repository's default branch need, and the keys of the jobs' issuer.

    GitHub provides the repository's data and the keys. If GitHub does not show the repository, asks the user for
    another name. With ``--yes``, if GitHub does not show the repository, raises GitHubError. For any other failure of
    GitHub, raises GitHubError. Also raises KisTokenError ``invalid-caller``.
    """
    server = find_server(None, setup.env.get("GITHUB_API_URL", ""))
    if server is None:  # cannot happen: without an issuer, `find_server` returns a server for each URL
        raise unfit("GITHUB_API_URL")
    return Access(_caller(setup, settings, name, server), fetch_keys(server.issuer))


def _caller(setup: Setup, settings: Settings, name: str, server: GitHubServer) -> Caller:
    sign_in = find_sign_in(server, setup.env)
    try:
        repository = look_up(server, name, sign_in)
    except GitHubError as error:
        if setup.dialogue.is_absent or error.code != "github-repository-unknown":
            raise
        setup.dialogue.warn(f"error: {error}")
        question = Question("GitHub repository for the workflows, OWNER/REPO")
        repository = setup.dialogue.ask(question, lambda answer: look_up(server, check_name(answer), sign_in))
    return Caller(
        settings.service_name,
        settings.supabase_url,
        repository,
        f"refs/heads/{repository.default_branch}",
        access="issue",
        issuer=server.issuer,
    )


def _git(folder: Path, path: str | None, *arguments: str) -> str:
    """Return the first line that git prints, or "" if git is missing or fails."""
    program = shutil.which("git", path=path)
    if program is None:
        return ""
    try:
        done = subprocess.run(  # noqa: S603 - runs git with fixed arguments
            [program, "-C", str(folder), *arguments],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_GIT_SECONDS,
            check=False,
        )
    except (OSError, ValueError, subprocess.SubprocessError):
        return ""
    return done.stdout.partition("\n")[0].strip() if done.returncode == 0 else ""
