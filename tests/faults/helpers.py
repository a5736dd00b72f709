"""Helpers for the tests of faults: a caller's error or warning, the stored rows, and servers that hang."""

from __future__ import annotations

import socket
import threading
import time
from contextlib import ExitStack, contextmanager, suppress
from typing import TYPE_CHECKING, Any

import pytest

from kis_token.errors import KisTokenError
from tests.races.caller_processes import SECONDS

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator
    from contextlib import AbstractContextManager

    from kis_token.core.resolution import Resolution
    from tests.resolver_harness import Chain
    from tests.support import Database

TABLE = "/rest/v1/api_credentials"
BEGIN = "/rest/v1/rpc/begin_issuance"
COMMIT = "/rest/v1/rpc/commit_issuance"
ABORT = "/rest/v1/rpc/abort_issuance"

#: An address whose name never resolves. No name server is asked for a name that ends with .invalid.
NO_SUPABASE = "https://no-such-project.invalid"
NO_KIS = "https://no-such-host.invalid:9443"

#: A process that takes the machine's lock, prints a line, and holds the lock until its input or the process ends.
HOLD_LOCK = """
import sys
from pathlib import Path
from kis_token.local.machine_lock import LocalMachine
with LocalMachine(lambda: [Path(sys.argv[1])]).lock(sys.argv[2], 10):
    print("held", flush=True)
    sys.stdin.read()
"""


def each_outcome(names: Iterable[str], outcomes: Collection[str]) -> pytest.MarkDecorator:
    """Parametrize a test over the faults ``names``. A fault that is not in ``outcomes`` gets the mark `matrix`."""
    repeats = pytest.mark.matrix
    return pytest.mark.parametrize(
        "name", [pytest.param(name, marks=() if name in outcomes else repeats) for name in names]
    )


def rows(database: Database) -> list[dict[str, Any]]:
    """Return all stored rows with every column."""
    return database.owner.execute("select * from public.api_credentials order by id").fetchall()


@contextmanager
def stored_stays(chain: Chain) -> Iterator[None]:
    """Assert that the block changes no stored row, in any column."""
    before = rows(chain.database)
    yield
    is_same = rows(chain.database) == before  # compared here, because a failed assertion would print the tokens
    assert is_same, "the stored rows have changed"


@contextmanager
def soon(seconds: float) -> Iterator[None]:
    """Assert that the block takes less than ``seconds``. Without a deadline, the fault would take much longer."""
    started = time.monotonic()
    yield
    assert time.monotonic() - started < seconds


def error_of(chain: Chain, **inputs: str) -> KisTokenError:
    """Return a caller's error, and assert that the error has a hint."""
    with pytest.raises(KisTokenError) as caught:
        chain.resolve(**inputs)
    assert caught.value.hint
    return caught.value


def assert_warned(got: Resolution, *words: str) -> None:
    """Assert that there is one warning, with these words."""
    assert len(got.warnings) == 1
    assert [word for word in words if word not in got.warnings[0]] == []


@contextmanager
def black_hole() -> Iterator[str]:
    """The address of a machine that neither accepts nor refuses a connection, because its queue is full."""
    with ExitStack() as stack:
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        for _ in range(8):
            waiting = stack.enter_context(socket.socket())
            waiting.settimeout(0)
            with suppress(BlockingIOError):
                waiting.connect(listener.getsockname())
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"


@contextmanager
def silence() -> Iterator[str]:
    """The address of a server that accepts connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as listener:  # the kernel accepts connections; no program answers
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"


@contextmanager
def dripping() -> Iterator[str]:
    """The address of a server whose answer never ends. The pauses between two bytes are shorter than any time limit."""
    done = threading.Event()

    def drip(connection: socket.socket) -> None:
        with connection, suppress(OSError):
            connection.recv(65536)
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
            while not done.wait(0.05):
                connection.sendall(b" ")

    def serve() -> None:
        with suppress(OSError):
            while True:
                threading.Thread(target=drip, args=(listener.accept()[0],), daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        done.set()
        listener.shutdown(socket.SHUT_RDWR)
    thread.join(SECONDS)


#: Servers that let a caller wait until the caller's time limit.
HANGS: dict[str, Callable[[], AbstractContextManager[str]]] = {
    "black-hole": black_hole,
    "silent": silence,
    "dripping": dripping,
}
