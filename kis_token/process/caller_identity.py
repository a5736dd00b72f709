"""Facts about the caller that few runs need: whether GitHub withholds its secrets, and where its cache folder is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping


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
