"""Facts that few runs need: whether GitHub withholds secrets, the cache folder, and the request for ID tokens."""

from __future__ import annotations

import json
from pathlib import Path
from urllib.parse import urlsplit

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping


def are_secrets_withheld(env: Mapping[str, str]) -> bool:
    """Whether GitHub withholds the secrets from this run, as in a pull request of a fork or in a run of Dependabot."""
    if env.get("GITHUB_ACTOR") == "dependabot[bot]":
        return True
    event_name = env.get("GITHUB_EVENT_NAME", "")
    if not event_name.startswith("pull_request") or event_name == "pull_request_target":
        return False  # for example pull_request_target, which has the base repository's secrets
    try:
        event = json.loads(Path(env.get("GITHUB_EVENT_PATH", "")).read_bytes())
        head, base = event["pull_request"]["head"]["repo"], event["pull_request"]["base"]["repo"]
        return head is None or bool(head["full_name"] != base["full_name"])  # head is None if the fork was deleted
    except (OSError, ValueError, KeyError, TypeError):
        return False  # if the event's data cannot be read, the general message about missing secrets is shown


def user_cache_folder() -> Path | None:
    """Return this program's folder in the user's cache folder.

    The result is None if the user has no home folder, or if the package platformdirs is not installed.
    """
    return _user_folder("user_cache_path")


def user_config_folder() -> Path | None:
    """Return this program's folder in the user's configuration folder; None if there is no home or no platformdirs."""
    return _user_folder("user_config_path")


def _user_folder(kind: str) -> Path | None:
    try:
        import platformdirs

        folder: Path = getattr(platformdirs, kind)("kis-token", appauthor=False)
    except (ImportError, RuntimeError):  # a user without a home folder gives a RuntimeError
        return None
    return folder if folder.is_absolute() else None


class IDTokenRequest:
    """The address at which a job of GitHub Actions gets ID tokens, and the secret that a request needs.

    GitHub sets address and secret for a job with the permission ``id-token: write``.
    """

    __slots__ = ("bearer", "url")

    def __init__(self, url: str, bearer: str) -> None:
        self.url = url
        self.bearer = bearer

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.url!r})"

    @staticmethod
    def find(env: Mapping[str, str]) -> IDTokenRequest | None:
        """Return this job's request for ID tokens; None if the job lacks the permission or the address is not safe."""
        url, bearer = env.get("ACTIONS_ID_TOKEN_REQUEST_URL", ""), env.get("ACTIONS_ID_TOKEN_REQUEST_TOKEN", "")
        return IDTokenRequest(url, bearer) if bearer and _is_safe(url) else None


def _is_safe(url: str) -> bool:
    """Whether a secret may be sent to this address, because it has TLS or is on this machine."""
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port  # .port raises ValueError if the port is not a number
    except ValueError:
        return False
    if "@" in parts.netloc or not host:  # in a URL, a user's name before "@" can look like a host
        return False
    return parts.scheme == "https" or (parts.scheme == "http" and host in ("127.0.0.1", "localhost"))
