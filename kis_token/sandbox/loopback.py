"""An HTTP server on loopback that logs its requests and can simulate faults.

The KIS emulator and the Supabase emulator use this server.

The server listens on 127.0.0.1 only, on a port that the system chooses. The server ends with its process, because all
its threads are daemon threads. This module does not depend on the modules that use it.
"""

from __future__ import annotations

import json
import os
import selectors
import socket
import struct
import threading
import weakref
from collections import deque
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import parse_qsl, urlsplit

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Mapping
    from email.message import Message

    from typing_extensions import Self

FaultKind = Literal["answer", "stall", "reset", "truncate"]

#: After this number of seconds, the server closes a stalled connection, even if the client still waits.
LONGEST_STALL_SECONDS = 300.0


@dataclass(frozen=True, slots=True)
class Request:
    """One request. ``query`` has all parameters of the query string in their order. A name can occur more than once."""

    method: str
    path: str
    query: tuple[tuple[str, str], ...]
    headers: Message = field(repr=False)
    body: bytes = field(repr=False)

    def json(self) -> Any:  # noqa: ANN401 - a body has any JSON type
        """Return the body as JSON. Raises ValueError if the body is not JSON."""
        return json.loads(self.body)


@dataclass(frozen=True, slots=True)
class Response:
    """An answer. A body that is not bytes is sent as JSON."""

    status: int
    body: object = b""
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Seen:
    """A request's entry in the log. The entry has no headers and no body, so it contains no secret."""

    method: str
    path: str
    status: int


@dataclass(frozen=True, slots=True)
class Fault:
    """A fault that replaces the normal answer to the next ``times`` requests whose path starts with ``path``.

    ``kind`` is one of these:

    - ``answer``: send ``response``.
    - ``stall``: send nothing for ``seconds``, or until the server stops; then close the connection.
    - ``reset``: close the connection without a byte.
    - ``truncate``: send half of the normal answer; then close the connection.

    If ``after`` is true, the request takes effect, and only its answer is lost.
    """

    kind: FaultKind
    path: str = "/"
    times: int = 1
    response: Response = field(default_factory=lambda: Response(500))
    seconds: float = LONGEST_STALL_SECONDS
    after: bool = False


class LoopbackServer:
    """Answers requests with ``handle``. Use a server in a ``with`` block, or call ``start`` and ``stop``.

    ``start`` and ``stop`` can be repeated. A stopped server refuses connections, so a test can simulate an outage. A
    server keeps its port, and no other program can take the port of a stopped server.

    ``observe`` gets each request and its answer before the answer is sent. If the server makes no answer because of a
    fault, ``observe`` gets a `Response` with the status 0.
    """

    def __init__(
        self,
        handle: Callable[[Request], Response],
        *,
        tls: ssl.SSLContext | None = None,
        send_date: bool = True,
        observe: Callable[[Request, Response], object] | None = None,
    ) -> None:
        self.send_date = send_date
        self._observe = observe
        self._handle = handle
        self._tls = tls
        self._port = 0
        self._server: _Server | None = None
        self._give_port_back: Callable[[], object] = lambda: None
        self._stopped = threading.Event()
        self._lock = threading.Lock()
        self._seen: list[Seen] = []
        self._faults: deque[tuple[Fault, int]] = deque()

    @property
    def url(self) -> str:
        """The server's address, without a final slash. Before the first ``start``, the port in the address is 0."""
        return f"{'https' if self._tls else 'http'}://127.0.0.1:{self._port}"

    def start(self) -> None:
        """Listen, unless the server is already listening."""
        if self._server is not None:
            return
        self._stopped.clear()
        self._give_port_back()
        self._server = _Server(("127.0.0.1", self._port), self)
        self._port = self._server.server_address[1]
        if self._tls is not None:
            # Each TLS handshake runs in the thread of its connection, so that a silent client cannot block other
            # clients.
            self._server.socket = self._tls.wrap_socket(
                self._server.socket, server_side=True, do_handshake_on_connect=False
            )
        self._server.serve()

    def stop(self) -> None:
        """Refuse connections from now on, and break open connections."""
        if self._server is None:
            return
        self._stopped.set()
        server, self._server = self._server, None
        server.refuse()
        self._keep_port()
        server.break_connections()

    def _keep_port(self) -> None:
        """Bind the port of the stopped server without listening, so that no other program can take the port."""
        holder = socket.socket()
        if os.name == "posix":  # on Windows, SO_REUSEADDR would let other programs bind the same port
            holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        with suppress(OSError):  # another program has taken the port
            holder.bind(("127.0.0.1", self._port))
        self._give_port_back = weakref.finalize(self, holder.close)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        self._give_port_back()

    def add_fault(self, fault: Fault) -> None:
        """Apply ``fault`` to the next ``fault.times`` requests that match its path.

        The faults are used in the order in which they are added.
        """
        with self._lock:
            self._faults.append((fault, fault.times))

    def clear_faults(self) -> None:
        """Remove all remaining faults, so that no later request gets one of them."""
        with self._lock:
            self._faults.clear()

    @property
    def seen(self) -> tuple[Seen, ...]:
        """All requests since the first start or the last ``forget``, in the order of arrival."""
        with self._lock:
            return tuple(self._seen)

    def forget(self) -> None:
        """Empty the log."""
        with self._lock:
            self._seen.clear()

    def answer(self, request: Request) -> tuple[Response, Fault | None]:
        """Return the answer to ``request``, and the fault that its connection must simulate, or None."""
        fault = self._take_fault(request.path)
        response = self._handle(request) if fault is None or fault.after or fault.kind == "truncate" else Response(0)
        if fault is not None and fault.kind == "answer":
            response = fault.response
        with self._lock:
            self._seen.append(Seen(request.method, request.path, response.status))
        if self._observe is not None:
            self._observe(request, response)
        if fault is not None and fault.kind == "stall":
            self._stopped.wait(min(fault.seconds, LONGEST_STALL_SECONDS))
        return response, fault

    def _take_fault(self, path: str) -> Fault | None:
        with self._lock:
            for index, (fault, left) in enumerate(self._faults):
                if path.startswith(fault.path):
                    if left > 1:
                        self._faults[index] = (fault, left - 1)
                    else:
                        del self._faults[index]
                    return fault
        return None


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 512  # at least 200 clients can connect at the same time
    timeout = 0  # the server does not wait for a client that has disconnected before its connection is accepted

    def __init__(self, address: tuple[str, int], owner: LoopbackServer) -> None:
        self.owner = owner
        self._open: set[socket.socket] = set()
        super().__init__(address, _Connection)
        self._bell, self._ringer = socket.socketpair()
        self._thread = threading.Thread(target=self._take_connections, daemon=True)

    def serve(self) -> None:
        """Accept connections from now on."""
        self._thread.start()

    def refuse(self) -> None:
        """Accept no more connections, and return at once.

        ``shutdown`` of the base class would wait for ``serve_forever``.
        """
        self._ringer.close()
        self._thread.join()
        self._bell.close()
        self.server_close()

    def _take_connections(self) -> None:
        with selectors.DefaultSelector() as selector:
            for source in (self, self._bell):
                selector.register(source, selectors.EVENT_READ)
            while all(key.fileobj is self for key, _ in selector.select()):
                self.handle_request()

    def get_request(self) -> tuple[socket.socket, Any]:
        connection, address = super().get_request()
        self._open.add(connection)
        return connection, address

    def shutdown_request(self, request: Any) -> None:  # noqa: ANN401 - socketserver's own signature
        self._open.discard(request)
        super().shutdown_request(request)

    def break_connections(self) -> None:
        for connection in tuple(self._open):
            with suppress(OSError):  # the client has already closed the connection
                connection.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: object, client_address: object) -> None:
        """Print nothing, because tests disconnect in the middle of a request."""


class _Connection(BaseHTTPRequestHandler):
    server: _Server
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    timeout = LONGEST_STALL_SECONDS  # after this many seconds, an idle connection is closed and its thread ends

    def _serve(self) -> None:
        parts = urlsplit(self.path)
        request = Request(
            method=self.command,
            path=parts.path,
            query=tuple(parse_qsl(parts.query, keep_blank_values=True)),
            headers=self.headers,
            body=self.rfile.read(int(self.headers.get("Content-Length") or 0)),
        )
        response, fault = self.server.owner.answer(request)
        if fault is not None and fault.kind in ("stall", "reset"):
            self._break_off()
            return
        body = response.body if isinstance(response.body, bytes) else json.dumps(response.body).encode()
        self.send_response_only(response.status)
        if self.server.owner.send_date:
            self.send_header("Date", self.date_time_string())
        for name, value in {"Content-Type": "application/json; charset=utf-8", **response.headers}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if fault is not None and fault.kind == "truncate":
            self.wfile.write(body[: len(body) // 2])
            self.wfile.flush()
            self._break_off()
            return
        self.wfile.write(body)

    do_GET = do_POST = do_PATCH = do_DELETE = do_PUT = do_HEAD = _serve  # noqa: N815 - names fixed by http.server

    def _break_off(self) -> None:
        """Close the connection with a reset, as a crashed peer or a firewall does."""
        self.close_connection = True
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the parent's parameter name
        """Print nothing, because ``LoopbackServer.seen`` has the log."""
