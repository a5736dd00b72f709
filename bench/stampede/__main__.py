"""``python -m bench.stampede``: many callers at once on an empty slot, with our resolver or the guide's algorithm.

Each caller has no cache and a client of its own, as on a separate machine. Up to ten callers are a process each. More
callers are threads, in one process for each core. With a process for each caller, the benchmark would only measure how
the processes share the cores. KIS and Supabase are the sandbox, in a separate process. All times are from the machine's
monotonic clock.

A count is that of one round, or minimum-maximum if rounds differ. Times are from the start of a round to a token, for
all rounds together. "waiting req/s": the requests a second to Supabase while all callers wait for the holder's tokenP
call. "after commit s": the median time from the holder's commit at Supabase to the token of another caller.
"""

from __future__ import annotations

import argparse
import math
import os
import platform
import signal
import ssl
import sys
import time
from collections import Counter
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from queue import SimpleQueue
from statistics import median
from threading import Barrier, Thread
from typing import TYPE_CHECKING, Literal, NamedTuple
from unittest.mock import patch

from bench.children import LONGEST_SECONDS, Child, heard, say
from kis_token.config import Settings
from kis_token.errors import KisTokenError
from kis_token.kis.api import RATE_LIMITED
from kis_token.sandbox import Sandbox
from kis_token.sandbox.postgres import EmbeddedPostgres
from kis_token.token import fingerprint
from kis_token.wiring import open_resolver

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from kis_token.sandbox.loopback import Fault, LoopbackServer, Request, Response

    #: Returns a token, and whether it came from KIS.
    Resolve = Callable[[], tuple[str, bool]]

Algorithm = Literal["ours", "guide"]
ALGORITHMS: tuple[Algorithm, ...] = ("ours", "guide")

#: Up to this number, each caller is a process. More callers are threads.
MOST_PROCESSES = 10

#: The time limit of a caller of this project, in seconds.
CALLER_SECONDS = 60

#: The seconds from the announcement of a start to the start.
LEAD_SECONDS = 0.2

COMMIT = "/rest/v1/rpc/commit_issuance"
COLUMNS = (
    *("callers", "algorithm", "tokenP", "EGW00133", "failed", "tokens", "median s", "p95 s", "max s"),
    *("store requests", "waiting req/s", "after commit s"),
)


class Outcome(NamedTuple):
    """The end of a caller's call: the time, and the token's fingerprint or the error.

    ``asked`` is True if the token came from KIS.
    """

    at: float
    token_id: str | None = None
    asked: bool = False
    error: str | None = None


class Arrival(NamedTuple):
    """A request's time of arrival, and its path."""

    at: float
    path: str


@dataclass(frozen=True, slots=True)
class Round:
    """A round that starts at ``go``: the callers' outcomes, and the requests to Supabase and KIS.

    All times are monotonic.
    """

    callers: int
    algorithm: Algorithm
    go: float
    outcomes: list[Outcome]
    store: list[Arrival]
    token_calls: list[float]
    too_early: int

    @property
    def tokens(self) -> set[str]:
        """The fingerprints of all tokens handed out."""
        return {each.token_id for each in self.outcomes if each.token_id is not None}

    @property
    def errors(self) -> list[str]:
        """The errors of the callers that got no token."""
        return [each.error for each in self.outcomes if each.error is not None]

    @property
    def times(self) -> list[float]:
        """Seconds from the start to each token."""
        return [each.at - self.go for each in self.outcomes if each.token_id is not None]

    @property
    def committed_at(self) -> float | None:
        """The time at which the holder's commit reached Supabase. It is None for the guide's algorithm."""
        return next((each.at for each in self.store if each.path == COMMIT), None)

    @property
    def waits(self) -> list[float]:
        """Seconds from the holder's commit to the token of each other caller."""
        begin = self.committed_at
        return [each.at - begin for each in self.outcomes if begin and each.token_id and not each.asked]

    @property
    def rates(self) -> list[float]:
        """Requests a second to Supabase from the holder's tokenP call to its commit, while all other callers wait."""
        end = self.committed_at
        if end is None:
            return []
        begin = self.token_calls[0]
        return [sum(begin <= each.at < end for each in self.store) / (end - begin)]


def main(arguments: list[str] | None = None) -> int:
    """Print the table, row by row. Returns the exit status, which does not depend on the figures."""
    parser = argparse.ArgumentParser(prog="python -m bench.stampede", description=__doc__)
    parser.add_argument("--callers", type=_numbers, default="1,10,50,200", help="numbers of callers, with commas")
    parser.add_argument("--rounds", type=_number, help="rounds of each; 5 by default, 3 with more than 100 callers")
    parser.add_argument("--token-seconds", type=float, default=0.4, help="seconds of a tokenP call; 0.4 by default")
    options = parser.parse_args(arguments)
    print(f"{os.cpu_count()} cores, Python {platform.python_version()}, {platform.system()} {platform.machine()}.")
    print(f"Simulated: Supabase and KIS. KIS issues one token a minute; tokenP takes {options.token_seconds:g} s.")
    print("A right result has 1 in the column tokenP and 0 in the column failed.")
    print("After many EGW00133, KIS locks an app key. See --help.\n")
    print(_line(COLUMNS), _line("-" * len(title) for title in COLUMNS), sep="\n", flush=True)
    failures = []
    try:
        with open_servers(options.token_seconds) as servers:
            for callers in options.callers:
                rounds = list(measure(servers, callers, options.rounds or (5 if callers <= 100 else 3)))
                for algorithm in ALGORITHMS:
                    chosen = [each for each in rounds if each.algorithm == algorithm]
                    print(_line(row(chosen)), flush=True)
                    errors = Counter(error for each in chosen for error in each.errors)
                    who = f"{callers} callers, {algorithm}"
                    failures += [f"{who}: {times} failures with {error}" for error, times in errors.items()]
    except KeyboardInterrupt:
        return 130
    print("\nFailures of all rounds:", *failures or ["none"], sep="\n")
    return 0


def _number(text: str) -> int:
    number = int(text)
    if number < 1:
        raise ValueError
    return number


def _numbers(text: str) -> list[int]:
    return [_number(each) for each in text.split(",")]


def open_servers(token_seconds: float) -> Child:
    """Start the process with KIS and Supabase. The result is a context manager.

    Every answer of tokenP takes ``token_seconds``. KIS decides the answer when the call arrives.
    """
    return Child("bench.stampede.__main__", "run_servers", token_seconds, grace=LONGEST_SECONDS)


def measure(servers: Child, callers: int, rounds: int) -> Iterator[Round]:
    """Run ``rounds`` rounds of each algorithm, in turns."""
    processes = callers if callers <= MOST_PROCESSES else os.cpu_count() or 1
    shares = [len(range(index, callers, processes)) for index in range(processes)]
    with ExitStack() as stack:
        children = [
            stack.enter_context(Child("bench.stampede.__main__", "run_callers", share, grace=0.0)) for share in shares
        ]
        for number in range(rounds + 1):
            for algorithm in ALGORITHMS:
                measured = _race(servers, children, callers, algorithm)
                if number:  # the first round loads all modules, which on few cores takes longer than the race
                    yield measured


def _race(servers: Child, children: Sequence[Child], callers: int, algorithm: Algorithm) -> Round:
    servers.tell("begin")
    variables = servers.hear()
    for child in children:
        child.tell((algorithm, variables))
    for child in children:
        child.hear()
    go = time.monotonic() + LEAD_SECONDS
    for child in children:
        child.tell(go)
    outcomes = [Outcome(*each) for child in children for each in child.hear()]
    servers.tell("end")
    store, token_calls, too_early = servers.hear()
    return Round(callers, algorithm, go, outcomes, [Arrival(*each) for each in store], token_calls, too_early)


def row(rounds: Sequence[Round]) -> tuple[str, ...]:
    """Return the cells of one row, in the order of COLUMNS, for rounds of one algorithm with the same callers."""
    times = sorted(seconds for each in rounds for seconds in each.times)
    waits = [seconds for each in rounds for seconds in each.waits]
    return (
        str(rounds[0].callers),
        rounds[0].algorithm,
        _span(len(each.token_calls) for each in rounds),
        _span(each.too_early for each in rounds),
        _span(len(each.errors) for each in rounds),
        _span(len(each.tokens) for each in rounds),
        _seconds(median(times) if times else None),
        _seconds(times[math.ceil(0.95 * len(times)) - 1] if times else None),
        _seconds(times[-1] if times else None),
        _span(len(each.store) for each in rounds),
        _span(rate for each in rounds for rate in each.rates),
        _seconds(median(waits) if waits else None),
    )


def _span(values: Iterable[float]) -> str:
    distinct = sorted({round(each) for each in values})
    return "-".join(str(each) for each in (distinct[:1] + distinct[1:][-1:])) or "-"


def _seconds(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _line(cells: Iterable[str]) -> str:
    return "| " + " | ".join(f"{cell:>{len(title)}}" for cell, title in zip(cells, COLUMNS, strict=True)) + " |"


def run_servers(token_seconds: float) -> None:
    """Run KIS and Supabase. Each round has a new KIS and a new Supabase."""
    with suppress(EOFError), EmbeddedPostgres() as postgres:
        while True:
            heard()
            with (
                Sandbox(dsn=postgres.create_database()) as sandbox,
                _watched(sandbox.supabase.server) as store,
                _watched(sandbox.kis.production, token_seconds) as kis,
            ):
                sandbox.kis.configure(lockout_after=0)
                say(sandbox.variables)
                heard()
                too_early = sum(seen.code == RATE_LIMITED for seen in sandbox.kis.requests)
                say((store, [each.at for each in kis], too_early))


@contextmanager
def _watched(server: LoopbackServer, delay: float = 0.0) -> Iterator[list[Arrival]]:
    """Yield the requests to ``server`` as they arrive. Each answer is delayed by ``delay`` seconds."""
    answer, arrivals = server.answer, list[Arrival]()

    def watch(request: Request) -> tuple[Response, Fault | None]:
        arrivals.append(Arrival(time.monotonic(), request.path))
        answered = answer(request)
        time.sleep(delay)
        return answered

    with patch.object(server, "answer", watch):
        yield arrivals


def run_callers(count: int) -> None:
    """Run ``count`` callers in this process, round after round."""
    os.environ["NO_PROXY"] = os.environ["no_proxy"] = "127.0.0.1"
    # Without this patch, each client would load certificates, which are not needed here. Loading takes 20 ms. 200
    # machines would load at the same time, but 200 callers on two cores would load one after the other.
    context = ssl.create_default_context()
    with suppress(EOFError), patch.object(ssl, "create_default_context", return_value=context):
        while True:
            task = heard()
            ready, go, outcomes = Barrier(count + 1), Future[float](), SimpleQueue[Outcome]()
            for _ in range(count):
                Thread(target=_run, args=(*task, ready, go, outcomes), daemon=True).start()
            ready.wait(LONGEST_SECONDS)
            say("ready")
            go.set_result(heard())
            say([outcomes.get(timeout=LONGEST_SECONDS) for _ in range(count)])


def _run(
    algorithm: Algorithm,
    variables: Mapping[str, str],
    ready: Barrier,
    go: Future[float],
    outcomes: SimpleQueue[Outcome],
) -> None:
    """Run one caller."""
    with _PREPARED[algorithm](variables) as resolve:
        ready.wait(LONGEST_SECONDS)
        time.sleep(max(go.result(LONGEST_SECONDS) - time.monotonic(), 0.0))
        outcomes.put(_outcome(resolve))


def _outcome(resolve: Resolve) -> Outcome:
    try:
        token, asked = resolve()
    except KisTokenError as error:
        return Outcome(time.monotonic(), error=error.code)
    except Exception as error:  # noqa: BLE001 - any error of the guide's libraries means no token
        return Outcome(time.monotonic(), error=type(error).__name__)
    return Outcome(time.monotonic(), fingerprint(token), asked)


@contextmanager
def _ours(variables: Mapping[str, str]) -> Iterator[Resolve]:
    settings = Settings.from_env({**variables, "KIS_TOKEN_CACHE": "off", "KIS_TOKEN_TIMEOUT": f"{CALLER_SECONDS}s"})
    with open_resolver(settings, time.monotonic(), lambda _: None) as resolver:

        def resolve() -> tuple[str, bool]:
            got = resolver.resolve()
            return got.token.value, got.source == "oauth"

        yield resolve


@contextmanager
def _guide(variables: Mapping[str, str]) -> Iterator[Resolve]:
    from bench.guide import GuideClient

    yield GuideClient(variables).token


_PREPARED = {"ours": _ours, "guide": _guide}


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    sys.exit(main())
