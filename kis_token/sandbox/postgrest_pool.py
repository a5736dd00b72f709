"""A few PostgreSQL connections that many threads share."""

from __future__ import annotations

from contextlib import contextmanager, suppress
from queue import Empty, LifoQueue
from typing import TYPE_CHECKING, Any

import psycopg

from kis_token.sandbox.postgrest_errors import ApiError

if TYPE_CHECKING:
    from collections.abc import Iterator

Connection = psycopg.Connection[tuple[Any, ...]]


class ConnectionPool:
    """At most ``size`` connections to ``dsn``.

    The pool makes a connection when one is first needed, and replaces a broken connection.

    A thread waits up to ``longest_wait`` seconds for a connection.
    """

    def __init__(self, dsn: str, *, size: int = 20, longest_wait: float = 10.0) -> None:
        self._dsn = dsn
        self._longest_wait = longest_wait
        self._closed = False
        # With "last in, first out", an existing connection is used before a new connection is made.
        self._slots: LifoQueue[Connection | None] = LifoQueue()
        for _ in range(size):
            self._slots.put(None)

    @contextmanager
    def connection(self) -> Iterator[Connection]:
        """Yield a connection for the block. Raises the ApiError of PostgREST if no connection becomes free in time."""
        try:
            held = self._slots.get(timeout=self._longest_wait)
        except Empty:
            raise ApiError(504, "PGRST003", "Timed out acquiring connection from connection pool.") from None
        try:
            if held is None or held.closed:
                held = self._connect()
            yield held
        finally:
            self._slots.put(held)
            if self._closed:
                self.close()

    def close(self) -> None:
        """Close all idle connections now. Each connection that is in use is closed when its block ends."""
        self._closed = True
        idle: list[Connection | None] = []
        with suppress(Empty):
            while True:
                idle.append(self._slots.get_nowait())
        for connection in idle:
            if connection is not None:
                connection.close()
            self._slots.put(None)

    def _connect(self) -> Connection:
        try:
            # A prepared statement would fail after a change of the schema. With ``prepare_threshold=None``, psycopg
            # prepares no statement.
            return psycopg.connect(self._dsn, autocommit=True, prepare_threshold=None, options="-c TimeZone=UTC")
        except psycopg.OperationalError as error:
            message = "Database connection error. Retrying the connection."
            raise ApiError(503, "PGRST000", message, details=str(error)) from error
