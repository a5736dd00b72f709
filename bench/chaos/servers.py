"""The two servers of the chaos, KIS and the Supabase emulator.

Each server is a separate process, so that no server waits for the other. A server records an event before a fault
changes the answer, because the true state is known there.
"""

from __future__ import annotations

import json
import os
import random
import threading
import time
from contextlib import contextmanager
from dataclasses import replace
from email.utils import format_datetime
from functools import partial
from typing import TYPE_CHECKING
from unittest.mock import patch

from bench.chaos.records import Begin, Call, Health, Issued, Killed, Read, Tally, fingerprint
from bench.chaos.simulated_time import AT_KIS, CHILD, GRANTED, SimulatedClock
from bench.chaos.trouble import KIS_FAULTS, REFUSED, STORE_FAULTS, Spell, Trouble
from kis_token.sandbox.emulator import KISEmulator
from kis_token.sandbox.kis_http import TOKEN_PATH, error_code, error_response, html_response
from kis_token.sandbox.loopback import Fault, Response
from kis_token.sandbox.postgrest import PostgRESTStandIn
from kis_token.settings.pasted_values import parse_claims
from kis_token.token import claimed_time

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from multiprocessing.connection import Connection

    from bench.chaos.records import Log, Record
    from bench.chaos.simulated_time import Shared
    from kis_token.sandbox.kis_rules import Account
    from kis_token.sandbox.loopback import LoopbackServer, Request


#: Between the spells of faults, the share LOST of the answers to the calls LOSABLE is lost.
LOSABLE, LOST = frozenset({"begin", "commit", "abort", "save"}), 0.08
#: The probability that the store restarts immediately after it answers with this status.
RESTART_AT = {"granted": 0.3, "busy": 0.02}
#: Before a port closes, the server waits until all pending answers are sent, but at most LONGEST_SETTLE. Then it waits
#: for SETTLE. Both times are in the machine's seconds. Without these waits, the judges could not know which answers
#: arrived.
SETTLE, LONGEST_SETTLE = 0.03, 0.5
#: The share of the store's answers without the header Date.
DATELESS = 0.01
#: The shortest and longest stall, in the machine's seconds. At ten times the speed, the longest stall is 15 s of
#: simulated time, which is the time that tokenP may take. The project's own limits for one call are not compressed: a
#: stall would reach them only after 150 s of simulated time.
STALLS = (0.05, 1.5)
#: The shortest and longest duration of a tokenP call, in the machine's seconds.
TOKEN_SECONDS = (0.03, 0.15)


class FaultyServer:
    """Replaces a server's ``answer``: applies ``trouble`` to requests and reports each outcome to ``note``."""

    def __init__(  # noqa: PLR0917 - only two calls make this object
        self,
        server: LoopbackServer,
        index: int,
        shared: Shared,
        trouble: Trouble,
        log: Log,
        where: str,
        note: Callable[[Request, Response | None, str | None], Record | None],
        lose: Callable[[Request], bool] = lambda _: False,
    ) -> None:
        self._answer = server.answer
        self._index = index
        self._shared = shared
        self._trouble = trouble
        self._log = log
        self._where = where
        self._note = note
        self._lose = lose
        self._busy = 0
        self._lock = threading.Lock()

    def __call__(self, request: Request) -> tuple[Response, Fault | None]:
        """Return the correct or a false answer, and the fault of the connection."""
        with self._counted():
            kind = self._trouble.draw()
            if kind is None and self._lose(request):
                kind = "reset after"
            if kind is None or kind == "truncate" or kind.endswith("after"):
                true, _ = self._answer(request)
            else:
                true = None
            record = self._note(request, true, kind)
            if record is not None:
                self._log.write(record)
            if kind is not None:
                self._log.write(Tally(self._where, kind))
            if kind is not None and true is not None:
                self._log.write(Tally(f"{self._where}: lost", _name(request)))
            if kind in ("stall", "stall after"):
                self._trouble.pause(STALLS)
            return _spoil(request, true, kind)

    @contextmanager
    def _counted(self) -> Iterator[None]:
        self._count(1)
        try:
            yield
        finally:
            self._count(-1)

    def _count(self, change: int) -> None:
        with self._lock:
            self._busy += change
            self._shared.set_busy(self._index, self._busy)


def _name(request: Request) -> str:
    """Return one word for the purpose of a request."""
    return "read" if request.method == "GET" else request.path.rpartition("/")[2].partition("_")[0]


def _spoil(request: Request, true: Response | None, kind: str | None) -> tuple[Response, Fault | None]:
    """Return the answer to send, and the fault of the connection."""
    if kind in ("reset", "reset after", "stall", "stall after"):
        return Response(0), Fault("reset")
    if kind == "page":
        return html_response(502), None
    if kind == "page as 200":
        return html_response(200), None
    if kind is not None and kind.startswith("EGW"):
        return error_response(kind, request.path), None
    if true is None or kind == "503 after":
        status = int(kind.removeprefix("HTTP ")) if kind is not None and kind.startswith("HTTP") else 503
        return Response(status, {"message": "made up"}), None
    return true, Fault("truncate") if kind == "truncate" else None


def serve_store(  # noqa: PLR0917 - the two processes start alike
    shared: Shared, log: Log, spells: Sequence[Spell], seed: str, ready: Connection, dsn: str, keys: Mapping[str, int]
) -> None:
    """Run the Supabase emulator. ``keys`` maps the callers' keys to their numbers."""
    clock, roles = SimulatedClock(shared), dict.fromkeys(keys, "service_role")
    rng = random.Random(seed)  # noqa: S311 - made-up trouble
    trouble = Trouble(shared, rng, spells, STORE_FAULTS, 0.02)
    store = PostgRESTStandIn(dsn, service_key="sb_secret_nobody", anon_key="sb_publishable_x", further_keys=roles)

    def note(request: Request, true: Response | None, kind: str | None) -> Record | None:
        caller, delivered = keys[request.headers["apikey"]], kind is None
        at = clock.now().timestamp()
        if request.method == "GET":
            is_complete = delivered and true is not None and true.status == 200
            return Read(caller, at) if is_complete else None
        if not request.path.endswith("/begin_issuance"):
            return None
        answer = json.loads(true.body) if true is not None and isinstance(true.body, bytes) else {}
        if answer.get("status") == "granted":
            shared.set_mark(caller % CHILD, GRANTED)
        if rng.random() < RESTART_AT.get(str(answer.get("status")), 0.0):
            trouble.restart()
        return Begin(request.json()["label"].split()[0], at, answer.get("status"), delivered)

    def lose(request: Request) -> bool:
        return _name(request) in LOSABLE and rng.random() < LOST

    server = store.server
    faulty = FaultyServer(server, 0, shared, trouble, log, "store", note, lose)

    def answer(request: Request) -> tuple[Response, Fault | None]:
        response, fault = faulty(request)
        if rng.random() < DATELESS:
            log.write(Tally("store", "no Date"))
            return response, fault
        # The header Date has the simulated time. The server's own header would have the machine's time.
        date = {"Date": format_datetime(clock.now(), usegmt=True)}
        return replace(response, headers={**response.headers, **date}), fault

    server.send_date = False
    with patch.object(server, "answer", answer), store:
        ready.send(store.url)
        act = _health_noted(trouble, lambda well: log.write(Health(clock.now().timestamp(), well)))
        _open_and_close(server, trouble, partial(shared.busy, 0), act, lambda: log.write(Tally("store", REFUSED)))


def serve_kis(  # noqa: PLR0917 - the two processes start alike
    shared: Shared, log: Log, spells: Sequence[Spell], seed: str, ready: Connection, own: Account, other: Account
) -> None:
    """Run KIS, which sometimes ends a token early. ``own`` is the callers' account."""
    clock = SimulatedClock(shared)
    rng = random.Random(seed)  # noqa: S311 - made-up trouble
    trouble = Trouble(shared, rng, spells, KIS_FAULTS, 0.15)
    # The lockout is turned off, because KIS's lockout lasts a day, which would be most of the run.
    kis = KISEmulator(production=[own, other], clock=clock)
    # KIS's rules about earlier tokens are unclear. The emulator follows the stricter reading: a new token ends the
    # previous token.
    kis.configure(lockout_after=0, calls_per_second=1000, reissue_kills_previous=True)
    issued: dict[str, str] = {}

    def note(request: Request, true: Response | None, kind: str | None) -> Record:
        by = str(request.headers["User-Agent"])
        shared.set_mark(int(by.partition(".")[0]), AT_KIS)
        at, answer = clock.now().timestamp(), true.body if true is not None else None
        if true is None or not isinstance(answer, dict) or "access_token" not in answer:
            return Call(by, at, code=(error_code(true) if true is not None else None) or kind)
        value = str(answer["access_token"])
        token, is_new = fingerprint(value), value not in issued.values()
        if is_new:
            if issued:
                log.write(Killed(list(issued)[-1], at))
            issued[token] = value
            log.write(_issued(value, own))
        trouble.pause(TOKEN_SECONDS)
        return Call(by, at, token, kind, is_new)

    def kill_now_and_then() -> None:
        if issued and rng.random() < 0.01 / 30:  # this runs every 0.01 s, so a token ends every 30 s on average
            token, value = list(issued.items())[-1]
            kis.kill_token(value)
            log.write(Killed(token, clock.now().timestamp()))

    server = kis.production
    faulty = FaultyServer(server, 1, shared, trouble, log, "KIS", note)
    plain = server.answer

    def answer(request: Request) -> tuple[Response, Fault | None]:
        return faulty(request) if request.path == TOKEN_PATH else plain(request)

    with patch.object(server, "answer", answer):
        server.start()
        ready.send(kis.production_url)
        busy = partial(shared.busy, 1)
        _open_and_close(server, trouble, busy, kill_now_and_then, lambda: log.write(Tally("KIS", REFUSED)))


def _health_noted(trouble: Trouble, note: Callable[[bool], None]) -> Callable[[], None]:
    """Return a function that checks ``trouble`` and records the start and the end of each spell."""
    last = [True]

    def look() -> None:
        if trouble.is_well != last[0]:
            last[0] = not last[0]
            note(last[0])

    return look


def _issued(value: str, own: Account) -> Issued:
    claims = parse_claims(value)
    begins, ends = claimed_time(claims, "iat"), claimed_time(claims, "exp")
    if begins is None or ends is None:
        raise ValueError("the emulator's tokens have a start and an end")
    return Issued(fingerprint(value), begins.timestamp(), ends.timestamp(), claims.get("jti") == own.app_key)


def _open_and_close(
    server: LoopbackServer,
    trouble: Trouble,
    busy: Callable[[], int],
    act: Callable[[], object],
    note: Callable[[], object],
) -> None:
    """Keep the port open or closed as ``trouble`` decides, until the process or its parent ends."""
    parent, is_closed = os.getppid(), False
    while os.getppid() == parent:
        is_refused = trouble.is_refused
        if is_refused and not is_closed:
            note()
            limit = time.monotonic() + LONGEST_SETTLE
            while busy() and time.monotonic() < limit:
                time.sleep(SETTLE / 10)
            time.sleep(SETTLE)
            server.stop()
        elif is_closed and not is_refused:
            server.start()
        is_closed = is_refused
        act()
        time.sleep(0.01)
