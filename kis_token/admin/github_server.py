"""A GitHub server with its issuer of ID tokens and its REST API, and a request to this server with a time limit.

A repository's ID is valid only on one server, so the ID and the issuer must come from the same server. This module
follows the pages "OpenID Connect reference" and "Getting started with the REST API" of GitHub's documentation, 2026.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from kis_token.errors import GitHubError, StoreOutage
from kis_token.store.http_exchange import Wire

if TYPE_CHECKING:
    from collections.abc import Mapping

    from kis_token.store.http_exchange import Answer

#: The issuer of github.com, which is the default of the column ``issuer``, and the REST API of github.com.
GITHUB_ISSUER = "https://token.actions.githubusercontent.com"
GITHUB_API = "https://api.github.com"

#: The time limit of one request, in seconds.
REQUEST_SECONDS = 10.0

#: The issuers that `issuance_is_issuer` in sql/006 accepts: github.com and its enterprises, ghe.com, GitHub Enterprise
#: Server, and an emulated issuer on this machine.
_GITHUB = re.escape(GITHUB_ISSUER) + r"(/[A-Za-z0-9-]{1,100})?"
_GHE = r"https://token\.actions\.(?P<subdomain>[a-z0-9-]{1,100})\.ghe\.com"
_SERVER = r"https://(?P<host>[a-z0-9]([a-z0-9.-]{0,250}[a-z0-9])?)/_services/token"
_LOOPBACK = r"http://(?P<place>(127\.0\.0\.1|localhost|\[::1\])(:[0-9]{1,5})?)"


@dataclass(frozen=True, slots=True)
class GitHubServer:
    """One server of GitHub. ``host`` is the server's name for the command gh."""

    issuer: str
    api: str
    host: str

    @property
    def is_own(self) -> bool:
        """Whether the server is a GitHub Enterprise Server, which its users run themselves."""
        return self.host != "github.com" and not self.host.endswith(".ghe.com")


def find_server(issuer: str | None, api_url: str = "") -> GitHubServer | None:
    """Return the server with this issuer, or None if the database cannot store the issuer.

    If ``issuer`` is None, returns the server with the REST API ``api_url``. If ``issuer`` is None and ``api_url`` is
    empty or unknown, returns github.com.
    """
    if issuer is None:
        issuer = _issuer_of(api_url)
    if re.fullmatch(_GITHUB, issuer):
        return GitHubServer(issuer, GITHUB_API, "github.com")
    found = re.fullmatch(_GHE, issuer)
    if found:
        return GitHubServer(issuer, f"https://api.{found['subdomain']}.ghe.com", f"{found['subdomain']}.ghe.com")
    found = re.fullmatch(_SERVER, issuer)
    if found:
        return GitHubServer(issuer, f"https://{found['host']}/api/v3", found["host"])
    found = re.fullmatch(_LOOPBACK, issuer)
    return GitHubServer(issuer, issuer, found["place"]) if found else None


def _issuer_of(api_url: str) -> str:
    """Return the issuer of the server with the REST API ``api_url``.

    If ``api_url`` is not the URL of a GitHub server's REST API, return the issuer of github.com.
    """
    url = api_url.strip().rstrip("/").lower()
    found = re.fullmatch(r"https://api\.([a-z0-9-]+)\.ghe\.com", url)
    if found:
        return f"https://token.actions.{found[1]}.ghe.com"
    found = re.fullmatch(r"https://([a-z0-9.-]+)/api/v3", url)
    return f"https://{found[1]}/_services/token" if found else GITHUB_ISSUER


def ask(url: str, headers: Mapping[str, str]) -> Answer:
    """Send a GET request to GitHub, and return the answer, even if its status is an error.

    Raises GitHubError. The error's code is ``github-unreachable`` if GitHub does not answer, ``store-tls`` for a
    problem with certificates, or ``proxy-unusable`` for a problem with the proxy.
    """
    parts = urlsplit(url)
    try:
        wire = Wire(f"{parts.scheme}://{parts.netloc}", peer=f"GitHub at {parts.netloc}")
    except ValueError:  # the port has five digits and is larger than 65535
        raise GitHubError("github-unreachable", f"GitHub at {parts.netloc} has no such port") from None
    # GitHub's API refuses a request without a User-Agent.
    sent = {"User-Agent": "kis-token", "Accept": "application/json", **headers}
    try:
        return wire.exchange("GET", parts.path, sent, seconds=REQUEST_SECONDS)
    except StoreOutage as outage:
        code = "github-unreachable" if outage.code == "store-unreachable" else outage.code
        raise GitHubError(code, f"{outage.args[0]}") from None


def members_of(answer: Answer, peer: str) -> dict[str, Any]:
    """Return the JSON object of an answer with status 200.

    Raises GitHubError ``github-unreachable`` for any other answer.
    """
    found = answer.json() if answer.status == 200 and not answer.is_cut else None
    if not isinstance(found, dict):
        raise GitHubError("github-unreachable", f"{peer} does not answer as GitHub does (HTTP {answer.status})")
    return found
