"""With a long log, calls are as fast as with a short log: no call reads the whole log, and pruning delays no caller."""

from __future__ import annotations

import re
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest

from kis_token.sandbox.database import make_project
from tests.support import APP_KEY, Caller, Database, call, issue_by_functions, make_token
from tools.step import CHECKOUT

if TYPE_CHECKING:
    from collections.abc import Iterator

    import psycopg

    from kis_token.sandbox.postgres import EmbeddedPostgres

    Connection = psycopg.Connection[tuple[Any, ...]]

EVENTS = 30_000
FEW = 20

#: The events of one busy slot over years, after a few events of another slot.
FILL = """
insert into public.credential_issuances (service_name, happened_at, outcome, fence, holder_label, token_id)
select case when i <= %(few)s then 'few' else 'busy' end, now() - (%(events)s - i + 1) * interval '1 second',
       case when i %% 2 = 1 then 'granted' else 'committed' end, i, 'acme/bot run 7 trade', '0123456789abcdef'
from generate_series(1, %(events)s) i
"""

READ = """
select seq_tup_read + coalesce(idx_tup_fetch, 0) from pg_catalog.pg_stat_xact_user_tables
where relid = 'public.credential_issuances'::regclass
"""


def fill(database: Database) -> None:
    """Insert many events into the log."""
    database.owner.execute(FILL, {"events": EVENTS, "few": FEW})


@contextmanager
def long_log(postgres: EmbeddedPostgres, statistics: str) -> Iterator[Database]:
    """A project with a long log in its own database: after a test, emptied tables would keep the log's statistics."""
    dsn = postgres.create_database()
    with Database(make_project(dsn)) as database:
        fill(database)
        if statistics == "statistics":
            database.owner.execute("analyze public.credential_issuances")
        yield database
    postgres.drop_database(dsn)


@pytest.fixture(scope="module", params=["statistics", "no-statistics"])
def read_only(postgres: EmbeddedPostgres, request: pytest.FixtureRequest) -> Iterator[Database]:
    """Two projects with a long log: one with statistics, and one without statistics, as right after a restore."""
    with long_log(postgres, request.param) as database:
        yield database


@pytest.fixture(params=["statistics", "no-statistics"])
def grown(postgres: EmbeddedPostgres, request: pytest.FixtureRequest) -> Iterator[Database]:
    """A project with a long log, for a test that adds events."""
    with long_log(postgres, request.param) as database:
        yield database


def rows_read(connection: Connection, function: str, **arguments: object) -> tuple[int, Any]:
    """Return the number of the log's rows that a call has read, and the call's answer."""
    with connection.transaction():  # within a transaction, PostgreSQL's counters only grow
        before = connection.execute(READ).fetchall()[0][0]
        answer = call(connection, function, **arguments)
        return connection.execute(READ).fetchall()[0][0] - before, answer


def arguments_of_begin(**changes: object) -> dict[str, object]:
    """Return the arguments of begin_issuance for the slot kis."""
    usual: dict[str, object] = {
        "service": "kis",
        "holder": "00000000-0000-0000-0000-000000000001",
        "label": "a laptop",
        "app_key_id": APP_KEY.key_id,
        "credential_id": APP_KEY.credential_id,
        "min_remaining": timedelta(minutes=10),
    }
    return usual | changes


def test_a_lease_reads_nothing_of_the_log(grown: Database) -> None:
    """Begin, commit and abort add events to the log, but read no row of the log."""
    token = make_token()
    begin, begun = rows_read(grown.service, "begin_issuance", **arguments_of_begin())
    lease = {"service": "kis", "holder": "00000000-0000-0000-0000-000000000001", "fence": begun["fence"]}
    of_token = {"value": token.to_json(), "expires_at": token.expires_at, "issued_at": token.issued_at}
    commit, committed = rows_read(grown.service, "commit_issuance", **lease, **of_token, token_id=token.token_id)
    abort, _ = rows_read(grown.service, "abort_issuance", **lease, cooldown=timedelta(), error_code="out-of-time")

    assert (begun["status"], committed["status"]) == ("granted", "committed")
    assert (begin, commit, abort) == (0, 0, 0)


@pytest.mark.parametrize("mode", ["auto", "force_generic_plan"])
def test_a_status_reads_only_the_returned_events(read_only: Database, mode: str) -> None:
    """issuance_status reads only the events that it returns: for all slots, a busy, a quiet and an empty slot.

    issuance_status reads no more events if the session uses one generic plan for all calls.
    """
    read_only.service.execute(f"set plan_cache_mode = {mode}")

    for service, returned in ((None, 500), ("busy", 500), ("few", FEW), ("empty", 0)):
        read, status = rows_read(read_only.service, "issuance_status", service=service, log_rows=500)
        assert (service, read, len(status["issuances"])) == (service, returned, returned)
    read_only.service.execute("reset plan_cache_mode")


def test_a_pruning_without_work_reads_nothing(database: Database) -> None:
    """If no event is old enough to delete, pruning reads at most two rows of a long log."""
    fill(database)
    database.owner.execute("analyze public.credential_issuances")

    # If a table has statistics, PostgreSQL's planner also reads the row with the column's largest value.
    read, pruned = rows_read(database.service, "prune_issuances", keep=timedelta(days=90))
    assert (pruned, read <= 2) == (0, True)


def test_the_documented_prunings_work(database: Database) -> None:
    """If the owner runs a documented statement (by hand or by pg_cron), events older than 90 days are deleted."""
    page = (CHECKOUT / "docs" / "operations.md").read_text(encoding="utf-8")
    statements = re.findall(r"select public\.prune_issuances\([^)]*\)", page)

    assert len(statements) == 2
    for statement in statements:
        issue_by_functions(database, make_token(), service="kis-old")
        database.owner.execute("update public.credential_issuances set happened_at = now() - interval '91 days'")
        assert database.owner.execute(statement).fetchall() == [{"prune_issuances": 2}]
        database.clear()


def test_a_pruning_stops_no_caller(database: Database) -> None:
    """While 30,000 events are deleted, other callers begin, commit and read without a wait. New events stay."""
    fill(database)
    database.service.execute("set lock_timeout = '1s'")
    pruning = database.connect_as("service_role")
    try:
        with pruning.transaction():
            assert call(pruning, "prune_issuances", keep=timedelta()) == EVENTS
            issue_by_functions(database, make_token())
            assert len(database.call("issuance_status", log_rows=500)["issuances"]) == 500
    finally:
        pruning.close()
        database.service.execute("reset lock_timeout")

    assert database.outcomes() == ["granted", "committed"]
    assert database.outcomes("busy") == database.outcomes("few") == []


def test_a_pruning_waits_for_no_caller(database: Database) -> None:
    """A grant in an open transaction does not delay a pruning, and the grant's event is not pruned."""
    fill(database)
    beginning = database.connect_as("service_role")
    database.service.execute("set lock_timeout = '1s'")
    try:
        with beginning.transaction():
            assert call(beginning, "begin_issuance", **arguments_of_begin())["status"] == "granted"
            assert database.call("prune_issuances", keep=timedelta()) == EVENTS
    finally:
        beginning.close()
        database.service.execute("reset lock_timeout")

    assert database.outcomes() == ["granted"]


def test_a_slot_waits_for_no_other(database: Database) -> None:
    """While a grant of one slot is in an open transaction, callers of fifty other slots begin and commit."""
    beginning = database.connect_as("service_role")
    database.service.execute("set lock_timeout = '1s'")
    try:
        with beginning.transaction():
            assert call(beginning, "begin_issuance", **arguments_of_begin())["status"] == "granted"
            for number in range(50):
                key = type(APP_KEY)(f"PSother{number}", "c2VjcmV0")
                other = Caller(database, service=f"kis-{number}", app_key=key)
                assert other.begin()["status"] == "granted"
                assert other.commit(make_token())["status"] == "committed"
    finally:
        beginning.close()
        database.service.execute("reset lock_timeout")

    assert database.outcomes("kis-49") == ["granted", "committed"]
