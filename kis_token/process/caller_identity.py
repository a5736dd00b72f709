"""The caller, a job or a user of a machine: its name, its cache folder, and whether GitHub keeps secrets from it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

#: The variables that name a caller.
_NAMES = {
    "GITHUB_REPOSITORY", "GITHUB_RUN_ID", "GITHUB_JOB", "HOSTNAME", "COMPUTERNAME", "USER", "USERNAME",
}  # fmt: skip


def label(env: Mapping[str, str]) -> str:
    """Return the caller's name for the log of issues."""
    # A name that is not UTF-8 reaches Python with half a surrogate pair, which cannot be sent.
    names = {name: value.encode(errors="replace").decode() for name, value in env.items() if name in _NAMES}
    if names.get("GITHUB_REPOSITORY"):
        job = f"{names['GITHUB_REPOSITORY']} run {names.get('GITHUB_RUN_ID', '?')} {names.get('GITHUB_JOB', '')}"
        return job.strip()
    host = names.get("HOSTNAME") or names.get("COMPUTERNAME") or "a machine"
    return f"{names.get('USER') or names.get('USERNAME') or 'a user'} on {host}"


def are_secrets_withheld(env: Mapping[str, str]) -> bool:
    """Whether GitHub withholds the secrets from this run: a pull request from a fork or from Dependabot."""
    if env.get("GITHUB_ACTOR") == "dependabot[bot]":
        return True
    event_name = env.get("GITHUB_EVENT_NAME", "")
    if not event_name.startswith("pull_request") or event_name == "pull_request_target":
        return False  # pull_request_target runs with the base repository's secrets
    try:
        event = json.loads(Path(env.get("GITHUB_EVENT_PATH", "")).read_bytes())
        head, base = event["pull_request"]["head"]["repo"], event["pull_request"]["base"]["repo"]
        return head is None or bool(head["full_name"] != base["full_name"])  # None: the fork was deleted
    except (OSError, ValueError, KeyError, TypeError):
        return False  # an unreadable event proves nothing; the general message is correct as well


def user_cache_folder() -> Path | None:
    """Return this program's folder in the user's cache, or None if it is unknown, as without the runtime's packages."""
    try:
        from platformdirs import user_cache_path

        folder = user_cache_path("kis-token", appauthor=False)
    except (ImportError, RuntimeError):  # RuntimeError: a user without a home
        return None
    return folder if folder.is_absolute() else None
