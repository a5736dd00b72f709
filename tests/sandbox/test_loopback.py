"""The HTTP server on loopback: its port while it is stopped.

The tests of other modules cover all other functions of the server.
"""

from __future__ import annotations

import errno
import socket

import pytest

from kis_token.sandbox.loopback import LoopbackServer, Response


def listen(port: int) -> None:
    """Bind and listen on a port, as another server does."""
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        other.bind(("127.0.0.1", port))
        other.listen()


@pytest.mark.parametrize("rounds", range(3))
def test_the_port_of_a_stopped_server_is_kept(rounds: int) -> None:
    """A stopped server refuses connections, no other program gets its port, and a restart uses the port again."""
    with LoopbackServer(lambda _: Response(200)) as server:
        url = server.url
        port = int(url.rpartition(":")[2])
        for _ in range(rounds + 1):
            server.stop()
            with pytest.raises(ConnectionRefusedError), socket.create_connection(("127.0.0.1", port)):
                pass
            with socket.socket() as plain, pytest.raises(OSError, match="in use") as caught:
                plain.bind(("127.0.0.1", port))
            assert caught.value.errno == errno.EADDRINUSE
            server.start()
            assert server.url == url
            with socket.create_connection(("127.0.0.1", port)):
                pass
    listen(port)  # the end of the block frees the port
