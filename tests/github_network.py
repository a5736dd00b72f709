"""GitHub on this machine, under GitHub's own names: the issuer of ID tokens and the REST API, over TLS.

A proxy leads requests for GitHub's hosts to servers on loopback, whose certificates an authority of the test has
signed. So the program under test uses GitHub's real addresses, and contains no code for tests.
"""

from __future__ import annotations

import os
from contextlib import ExitStack
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from kis_token.sandbox.github_issuer import GITHUB, GitHubIssuer
from kis_token.sandbox.loopback import LoopbackServer, Request, Response
from tests.authority import make_authority
from tests.tunnel_proxy import TunnelProxy

if TYPE_CHECKING:
    from pathlib import Path

    from typing_extensions import Self

    from kis_token.sandbox.loopback import Seen


class GitHubNetwork:
    """A server of GitHub: its issuer, and its API with the repository acme/bot. Use as a context manager.

    ``names`` are the names of the two hosts: issuer and API.

    Attributes: issuer: The issuer of ID tokens; ``server`` has its log and faults. api: The REST API; its log and
    faults. sign_ins: The values of the header Authorization in the API's requests; None for a request without this
    header. default_branch: The default branch of acme/bot. is_private: Whether the API shows the repository only to the
    sign-in ``SIGN_IN``.
    """

    SIGN_IN = "gho_d0ntSh0wTh1s"

    def __init__(self, folder: Path, issuer: str = GITHUB, api_host: str = "api.github.com") -> None:
        self._authority = make_authority(folder / "authority")
        self._host = urlsplit(issuer).netloc
        self._api_host = api_host
        self.issuer = GitHubIssuer(issuer=issuer, tls=self._authority.server(self._host))
        self.api = LoopbackServer(self._answer, tls=self._authority.server(api_host))
        self.sign_ins: list[str | None] = []
        self.default_branch = "main"
        self.is_private = False
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        self._stack.enter_context(self.issuer)
        self._stack.enter_context(self.api)
        ports = {self._host: _port(self.issuer.url)}
        ports.setdefault(self._api_host, _port(self.api.url))
        self._proxy = self._stack.enter_context(TunnelProxy(ports))
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @property
    def variables(self) -> dict[str, str]:
        """The variables that make GitHub's names lead to these servers.

        The variables have no sign-in, and hide the command gh.
        """
        others = {name: "" for name in os.environ if name.lower() in ("all_proxy", "https_proxy")}
        return others | {
            "HTTPS_PROXY": self._proxy.url,
            "https_proxy": self._proxy.url,
            "NO_PROXY": "127.0.0.1",
            "no_proxy": "127.0.0.1",
            "SSL_CERT_FILE": str(self._authority.file),
            "PATH": os.defpath,
            "GH_TOKEN": "",
            "GITHUB_TOKEN": "",
        }

    @property
    def asked(self) -> list[str]:
        """The paths of all requests, first those of the issuer."""
        seen: tuple[Seen, ...] = (*self.issuer.server.seen, *self.api.seen)
        return [each.path for each in seen]

    def job_variables(self, **changes: object) -> dict[str, str]:
        """The variables of a job with the permission ``id-token: write``, with the address under GitHub's name."""
        variables = self.issuer.variables(**changes)
        name = "ACTIONS_ID_TOKEN_REQUEST_URL"
        return variables | {name: variables[name].replace(self.issuer.url, f"https://{self._host}")}

    def _answer(self, request: Request) -> Response:
        sign_in = request.headers.get("Authorization")
        self.sign_ins.append(sign_in)
        if not request.headers.get("User-Agent"):
            return Response(403, {"message": "Request forbidden by administrative rules."})
        is_shown = not self.is_private or sign_in == f"Bearer {self.SIGN_IN}"
        if request.path.removeprefix("/api/v3").lower() != "/repos/acme/bot" or not is_shown:
            return Response(404, {"message": "Not Found"})
        owner = {"login": "acme", "id": 65}
        found = {"id": 74, "full_name": "acme/bot", "default_branch": self.default_branch, "owner": owner}
        return Response(200, found)


def _port(url: str) -> int:
    return int(url.rpartition(":")[2])
