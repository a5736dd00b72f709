"""The lease is granted to exactly one of several concurrent callers."""

from __future__ import annotations

import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import TYPE_CHECKING, Any

import psycopg
import pytest

from kis_token.token import parse_instant
from tests.support import APP_KEY, MINUTE, Caller, call, in_rounds, issue_by_functions, make_token

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from tests.support import Database

CALLERS = 16

Connection = psycopg.Connection[tuple[Any, ...]]


@pytest.fixture(scope="module")
def connections(migrated: Database) -> Iterator[list[Connection]]:
    """A connection for each caller."""
    made = [migrated.connect_as("service_role") for _ in range(CALLERS)]
    yield made
    for connection in made:
        connection.close()


def begin_at_once(connections: list[Connection], services: Sequence[str], **changes: object) -> list[dict[str, Any]]:
    """Let all connections begin at the same moment, spread over ``services``. Return their answers."""
    barrier = Barrier(len(connections))

    def begin(number: int) -> dict[str, Any]:
        caller: dict[str, object] = {
            "service": services[number % len(services)],
            "holder": f"00000000-0000-0000-0000-{number:012}",
            "label": f"job {number}",
            "app_key_id": APP_KEY.key_id,
            "credential_id": APP_KEY.credential_id,
            "min_remaining": 10 * MINUTE,
        }
        barrier.wait(timeout=20)
        answer: dict[str, Any] = call(connections[number], "begin_issuance", **(caller | changes))
        return answer

    with ThreadPoolExecutor(len(connections)) as pool:
        return list(pool.map(begin, range(len(connections))))


@in_rounds(5, 20)
@pytest.mark.parametrize("services", [("kis",), ("kis", "kis-second")], ids=["one-slot", "two-slots-one-key"])
def test_one_of_sixteen_is_granted(
    database: Database, connections: list[Connection], services: tuple[str, ...], rounds: int
) -> None:
    """On one empty slot, or on two slots with the same app key, exactly one caller is granted the lease."""
    for _ in range(rounds):
        database.clear()

        answers = begin_at_once(connections, services)

        assert Counter(answer["status"] for answer in answers) == {"granted": 1, "busy": CALLERS - 1}
        winner = next(f"job {number}" for number, answer in enumerate(answers) if answer["status"] == "granted")
        assert {answer["holder_label"] for answer in answers if answer["status"] == "busy"} == {winner}


@in_rounds(5, 20)
def test_one_of_sixteen_renews(database: Database, connections: list[Connection], rounds: int) -> None:
    """If all callers reject the stored token, one caller is granted the lease, and the others get the status busy."""
    version = issue_by_functions(database, make_token())
    for _ in range(rounds):
        database.age(120)

        answers = begin_at_once(connections, ["kis"], rejected_version=version)

        assert Counter(answer["status"] for answer in answers) == {"granted": 1, "busy": CALLERS - 1}


@in_rounds(5, 20)
def test_one_of_sixteen_takes_over(database: Database, connections: list[Connection], rounds: int) -> None:
    """After a lease has ended without a commit, one of the waiting callers is granted the next fence."""
    Caller(database).begin()
    for fence in range(2, 2 + rounds):
        database.age(71)

        answers = begin_at_once(connections, ["kis"])

        assert [answer["fence"] for answer in answers if answer["status"] == "granted"] == [fence]


@in_rounds(5, 20)
def test_two_slots_take_a_key_over_one_at_a_time(
    database: Database, connections: list[Connection], rounds: int
) -> None:
    """If callers of two slots begin with the same app key, exactly one is granted the lease, without a deadlock."""
    for _ in range(rounds):
        database.clear()
        Caller(database).begin()
        database.age(71)

        answers = begin_at_once(connections, ["kis", "kis-second"])

        assert Counter(answer["status"] for answer in answers) == {"granted": 1, "busy": CALLERS - 1}
        holders = [name for name in ("kis", "kis-second") if database.lease(name)["app_key_id"] == APP_KEY.key_id]
        assert len(holders) == 1


def test_a_caller_reads_the_clock_after_the_lock(database: Database, connections: list[Connection]) -> None:
    """If begin waits for another transaction's lock, begin reads the clock after the wait."""
    with psycopg.connect(database.project.owner) as owner, ThreadPoolExecutor() as pool:
        issue_by_functions(database, make_token())
        owner.execute("select 1 from credential_leases for update")
        answer = pool.submit(begin_at_once, connections[:1], ["kis"])
        deadline = time.monotonic() + 20
        while not database.owner.execute("select 1 from pg_locks where not granted").fetchall():
            assert time.monotonic() < deadline
        released = owner.execute("select to_jsonb(clock_timestamp())").fetchall()[0][0]
        owner.commit()

        (begun,) = answer.result()

    assert parse_instant(begun["server_now"]) > parse_instant(released)


@in_rounds(5, 20)
def test_a_commit_and_a_writer_without_lease_do_not_lose_a_token(
    database: Database, connections: list[Connection], rounds: int
) -> None:
    """If a commit and save_token run at the same moment, the token that expires later stays stored."""
    for _ in range(rounds):
        database.clear()
        caller = Caller(database)
        caller.begin()
        sooner, later = make_token(), make_token(left=24 * 60 * MINUTE)
        barrier = Barrier(2)

        def save(barrier: Barrier = barrier, later: Any = later) -> None:  # noqa: ANN401 - bound for this round
            barrier.wait(timeout=20)
            call(connections[0], "save_token", service="kis", value=later.to_json(), expires_at=later.expires_at)

        with ThreadPoolExecutor() as pool:
            saving = pool.submit(save)
            barrier.wait(timeout=20)
            caller.commit(sooner)
            saving.result()

        assert database.stored_id() == later.token_id
