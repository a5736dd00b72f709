"""A proxy on loopback that opens a tunnel for each CONNECT request."""

from __future__ import annotations

import socket
import threading
from contextlib import ExitStack
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from typing_extensions import Self

_ESTABLISHED = b"HTTP/1.1 200 OK\r\n\r\n"


class TunnelProxy:
    """Opens tunnels to this machine.

    ``asked`` has the requests to the proxy, and ``passed`` has the bytes that went through tunnels.

    ``ports`` maps names of hosts to ports of this machine; the proxy answers 502 for all other hosts. Without
    ``ports``, the proxy opens tunnels to 127.0.0.1, and answers 403 for all other hosts.
    """

    def __init__(self, ports: Mapping[str, int] | None = None) -> None:
        self.asked: list[bytes] = []
        self.passed: list[bytes] = []
        self._ports = ports
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

    def _find_port(self, host: str, port: str) -> int | None:
        if self._ports is not None:
            return self._ports.get(host if port == "443" else f"{host}:{port}")
        return int(port) if host == "127.0.0.1" else None

    def _open(self, client: socket.socket) -> None:
        head = client.recv(65536)
        self.asked.append(head)
        port = self._find_port(*head.split()[1].decode().partition(":")[::2])
        if port is None or not head.startswith(b"CONNECT "):
            status = "403 Forbidden" if self._ports is None else "502 Bad Gateway"
            client.sendall(f"HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n".encode())
            return
        server = socket.create_connection(("127.0.0.1", port), timeout=30)
        self._stack.callback(server.close)
        client.sendall(_ESTABLISHED)
        threading.Thread(target=self._pass, args=(server, client), daemon=True).start()
        self._pass(client, server)

    def _pass(self, source: socket.socket, target: socket.socket) -> None:
        try:
            while data := source.recv(65536):
                self.passed.append(data)
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)
        except OSError:
            pass  # one end is closed, so the other end is closed too
