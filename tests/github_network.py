"""GitHub on this machine, under GitHub's own names: the issuer of ID tokens and the REST API, over TLS.

A proxy leads from the names to servers on loopback, whose certificates an authority of the test has signed. So the
program under test uses its real addresses, and nothing in it knows of the test.
"""

from __future__ import annotations

import os
import socket
import threading
from contextlib import ExitStack
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from kis_token.sandbox.github_issuer import GITHUB, GitHubIssuer
from kis_token.sandbox.loopback import LoopbackServer, Request, Response
from tests.authority import make_authority

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from typing_extensions import Self

    from kis_token.sandbox.loopback import Seen

ESTABLISHED = b"HTTP/1.1 200 OK\r\n\r\n"
UNKNOWN = b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n"


class NamedHosts:
    """A proxy that leads each known name to a port of this machine. Other names it does not know."""

    def __init__(self, ports: Mapping[str, int]) -> None:
        self._ports = dict(ports)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._stack = ExitStack()
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.close()
        self._stack.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            self._stack.callback(client.close)
            client.settimeout(30)
            threading.Thread(target=self._open, args=(client,), daemon=True).start()

    def _open(self, client: socket.socket) -> None:
        method, address, *_ = client.recv(65536).split()
        port = self._ports.get(address.decode().removesuffix(":443"))
        if method != b"CONNECT" or port is None:
            client.sendall(UNKNOWN)
            return
        server = socket.create_connection(("127.0.0.1", port), timeout=30)
        self._stack.callback(server.close)
        client.sendall(ESTABLISHED)
        threading.Thread(target=_pass, args=(server, client), daemon=True).start()
        _pass(client, server)


def _pass(source: socket.socket, target: socket.socket) -> None:
    try:
        while data := source.recv(65536):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)
    except OSError:
        pass  # one end has gone; the other learns of it


class GitHubNetwork:
    """A server of GitHub: its issuer, and its API with the repository acme/bot. Use as a context manager.

    ``names`` are those of its two hosts: issuer and API.

    Attributes:
        issuer: The issuer of ID tokens; ``server`` has its log and faults.
        api: The REST API; its log and faults.
        sign_ins: The values of the header Authorization that the API has got, None for a request without one.
        is_private: Whether the API shows the repository only to the sign-in ``SIGN_IN``.
    """

    SIGN_IN = "gho_d0ntSh0wTh1s"

    def __init__(self, folder: Path, issuer: str = GITHUB, api_host: str = "api.github.com") -> None:
        self._authority = make_authority(folder / "authority")
        self._host = urlsplit(issuer).netloc
        self._api_host = api_host
        self.issuer = GitHubIssuer(issuer=issuer, tls=self._authority.server(self._host))
        self.api = LoopbackServer(self._answer, tls=self._authority.server(api_host))
        self.sign_ins: list[str | None] = []
        self.is_private = False
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        self._stack.enter_context(self.issuer)
        self._stack.enter_context(self.api)
        ports = {self._host: _port(self.issuer.url)}
        ports.setdefault(self._api_host, _port(self.api.url))
        self._proxy = self._stack.enter_context(NamedHosts(ports))
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @property
    def variables(self) -> dict[str, str]:
        """The environment in which GitHub's names lead here. Without a sign-in, and without the command gh."""
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
        """The environment of a job with the permission ``id-token: write``, which asks under GitHub's name."""
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
        return Response(200, {"id": 74, "full_name": "acme/bot", "owner": {"login": "acme", "id": 65}})


def _port(url: str) -> int:
    return int(url.rpartition(":")[2])
