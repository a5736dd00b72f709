"""The numeric IDs of a repository and of its owner, from GitHub's REST API.

Another owner can get a repository's name later, but not the repository's ID.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kis_token.admin.github_server import ask, members_of
from kis_token.errors import GitHubError

if TYPE_CHECKING:
    from kis_token.admin.github_server import GitHubServer

#: The form OWNER/REPO. A text in the form OWNER/REPO has no character that ends an SQL comment or the path of a URL.
REPOSITORY = re.compile(r"[A-Za-z0-9_.-]{1,100}/[A-Za-z0-9_.-]{1,100}", re.ASCII)

_API_VERSION = "2022-11-28"


@dataclass(frozen=True, slots=True)
class Repository:
    """A repository's present name, and the IDs of repository and owner, which the ID tokens of its jobs contain.

    GitHub runs scheduled workflows only on the ``default_branch``.
    """

    name: str
    repository_id: str
    owner_id: str
    default_branch: str = "main"


def look_up(server: GitHubServer, name: str, sign_in: str | None) -> Repository:
    """Ask GitHub for the repository whose present name is ``name``. Raises GitHubError.

    ``sign_in`` is a token of GitHub. For a public repository, ``sign_in`` may be None.
    """
    headers = {"Accept": "application/vnd.github+json", "X-GitHub-Api-Version": _API_VERSION}
    if sign_in is not None:
        headers["Authorization"] = f"Bearer {sign_in}"
    answer = ask(f"{server.api}/repos/{name}", headers)
    shown = f"(HTTP {answer.status})"
    if answer.status == 404:
        whom = "to this sign-in" if sign_in is not None else "without a sign-in"
        raise GitHubError("github-repository-unknown", f"{server.host} shows no repository {name} {whom}")
    if answer.status in (301, 302, 307, 308):
        raise GitHubError("github-repository-unknown", f"{server.host} has renamed or moved the repository {name}")
    if answer.status == 401:
        raise GitHubError("github-refused", f"{server.host} does not accept the GitHub token {shown}")
    if answer.status in (403, 429):
        raise GitHubError("github-refused", f"{server.host} refuses the request for the repository {shown}")
    found = members_of(answer, f"The API of {server.host}")
    owner = found.get("owner")
    numbers = (found.get("id"), owner.get("id") if isinstance(owner, dict) else None)
    if not all(isinstance(each, int) and not isinstance(each, bool) and each > 0 for each in numbers):
        raise GitHubError("github-unreachable", f"The API of {server.host} returns no ID of the repository {name}")
    full_name = found.get("full_name")
    is_name = isinstance(full_name, str) and REPOSITORY.fullmatch(full_name)
    branch = found.get("default_branch")
    return Repository(
        f"{full_name}" if is_name else name,
        f"{numbers[0]}",
        f"{numbers[1]}",
        branch if isinstance(branch, str) and branch else "main",
    )
