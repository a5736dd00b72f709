"""A bot of the chaos: a program with one KISClient that forks after its first call, or in the middle of that call.

Parent and child continue with the same client, at the same time. Each of the two processes must get its own tokens and
answers, and must end.
"""

from __future__ import annotations

import ctypes
import logging
import os
import signal
import threading
import time
import traceback
import warnings
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

import requests

from bench.chaos.records import Attempt, Start, Tally
from bench.chaos.simulated_time import CHILD, MIXED
from kis_token.client.kis_client import KISClient
from kis_token.errors import IssuanceError, KisTokenError
from kis_token.sandbox.kis_http import PRICE_PATH, PRICE_TR_ID
from kis_token.wiring import open_resolver

if TYPE_CHECKING:
    import random
    from collections.abc import Iterator
    from contextlib import AbstractContextManager

    from bench.chaos.caller import Caller
    from bench.chaos.simulated_time import SimulatedClock
    from kis_token.config import Settings
    from kis_token.core.resolver import Resolver
    from kis_token.token import Token

#: A child that takes longer than this counts as hanging, in the machine's seconds. Its token may take 4 s, and each
#: call 2 s.
LONGEST_CHILD = 20.0

CALLS, CALL_SECONDS = 3, 2.0

_DIE_WITH_PARENT = 1  # PR_SET_PDEATHSIG


def run_bot(caller: Caller, by: str, clock: SimulatedClock, rng: random.Random) -> None:
    """Run one bot: a first call, a fork, and calls of both processes."""
    app_key = caller.around.app_key
    # The bot gets the keys as inputs, so that it can call KIS in an outage of Supabase.
    settings = caller.settings(by, {"timeout": "40s", "app_key": app_key.key, "app_secret": app_key.secret})
    client = KISClient(settings, clock=clock)
    logging.getLogger("kis_token").setLevel(logging.CRITICAL)  # warnings on stderr would count as errors

    def first() -> None:
        caller.note(by, caller.number, settings, lambda: (_token(client, clock), "bot"), clock=clock)

    with _starts_noted(caller, by, caller.number, clock):
        if rng.random() < 0.5:
            first()
            pid = _fork(caller, by, client, settings, clock)
        else:
            thread = threading.Thread(target=first, daemon=True)
            thread.start()
            time.sleep(rng.uniform(0.0, 0.05))
            pid = _fork(caller, by, client, settings, clock)
            thread.join()
        _call(caller, by, client, "parent")
    if not _ends(pid):
        now = clock.now().timestamp()
        hung = "a forked child did not end"
        caller.around.log.write(Attempt(f"{by}.child", CHILD + caller.number, "resolve", now, now, crash=hung))
    client.close()


@contextmanager
def _starts_noted(caller: Caller, by: str, number: int, clock: SimulatedClock) -> Iterator[None]:
    """Record each use of the chain by the client: one call of the API may use the chain several times."""

    def opened(settings: Settings, *others: Any) -> AbstractContextManager[Resolver]:  # noqa: ANN401 - passed on
        timeout = settings.timeout.total_seconds()
        caller.around.log.write(Start(by, number, clock.now().timestamp(), timeout))
        return open_resolver(settings, *others)

    with patch("kis_token.client.token_holder.open_resolver", opened):
        yield


def _token(client: KISClient, clock: SimulatedClock) -> Token:
    """Return the client's token. Raises IssuanceError for an expired token, although the client may try it."""
    token = client._token_holder.ready().token  # noqa: SLF001 - the token itself, with its end
    if not token.is_valid(clock.now()):
        raise IssuanceError("no-valid-token", "the token has ended", retryable=True)
    return token


def _fork(caller: Caller, by: str, client: KISClient, settings: Settings, clock: SimulatedClock) -> int:
    """Fork, and return the child's process id. The child makes its calls and ends in this function."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Python warns of forks in processes with threads
        pid = os.fork()
    if pid:
        return pid
    try:
        with suppress(OSError):
            ctypes.CDLL(None).prctl(_DIE_WITH_PARENT, signal.SIGKILL)
        name = f"{by}.child"
        mine = caller.settings(name, {}, f"{settings.supabase_key}_child")
        # The judges recognize the caller by label and key.
        holder = client._token_holder  # noqa: SLF001 - the judges need this name
        holder._settings = replace(holder._settings, label=mine.label, supabase_key=mine.supabase_key)  # noqa: SLF001 - as in the line above
        number = CHILD + caller.number
        with _starts_noted(caller, name, number, clock):
            caller.note(name, number, settings, lambda: (_token(client, clock), "bot"), clock=clock)
            _call(caller, name, client, "child")
    except BaseException:  # noqa: BLE001 - the report reads the traceback from stderr
        os.write(2, traceback.format_exc().encode())
    finally:
        os._exit(0)


def _call(caller: Caller, by: str, client: KISClient, who: str) -> None:
    """Make a few calls of the API, each of which must get its own answer."""
    for number in range(CALLS):
        asked = f"{who}{number}"
        params = {"FID_COND_MRKT_DIV_CODE": "J", "FID_INPUT_ISCD": asked}
        # The User-Agent shows the caller's name to KIS, as in every attempt.
        with suppress(KisTokenError, ValueError), patch.object(requests.utils, "default_user_agent", lambda *_: by):
            answer = client.request("GET", PRICE_PATH, tr_id=PRICE_TR_ID, params=params, timeout=CALL_SECONDS)
            got = answer.json().get("output", {}).get("stck_shrn_iscd", asked)
            if got != asked:
                caller.around.log.write(Tally(MIXED, f"{by} asked for {asked} and got the answer for {got}"))


def _ends(pid: int) -> bool:
    """Whether the child ends in time. A child that does not end is killed."""
    limit = time.monotonic() + LONGEST_CHILD
    while time.monotonic() < limit:
        if os.waitpid(pid, os.WNOHANG)[0]:
            return True
        time.sleep(0.01)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return False
