"""A relay whose TLS handshakes can fail, for several test files of this folder."""

from __future__ import annotations

import socket
import threading
from contextlib import suppress
from typing import TYPE_CHECKING

from tests.races.caller_processes import SECONDS

if TYPE_CHECKING:
    import ssl

    from typing_extensions import Self


class Hiccuping:
    """A TLS relay. The next ``fails`` connections fail during the handshake."""

    def __init__(self, port: int, context: ssl.SSLContext) -> None:
        self.fails = 0
        self.how = "closed"
        self._port = port
        self._context = context
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"https://127.0.0.1:{self._listener.getsockname()[1]}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._serve, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _serve(self) -> None:
        with suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                threading.Thread(target=self._relay, args=(connection,), daemon=True).start()

    def _relay(self, connection: socket.socket) -> None:
        with connection, suppress(OSError):
            if self.fails:
                self.fails -= 1
                connection.recv(65536)
                if self.how == "plain-502":
                    connection.sendall(b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n")
                return
            with (
                self._context.wrap_socket(connection, server_side=True) as near,
                socket.create_connection(("127.0.0.1", self._port)) as far,
            ):
                back = threading.Thread(target=_copy, args=(far, near), daemon=True)
                back.start()
                _copy(near, far)
                back.join(SECONDS)


def _copy(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):
        while block := source.recv(65536):
            target.sendall(block)
        target.shutdown(socket.SHUT_WR)
