"""What grows costs no more: a long log is not read to add to it or to tell of its end, and pruning it stops nobody."""

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

EVENTS = 100_000
FEW = 20

#: Years of one busy slot, and, before them, the few events of another.
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
    """Make the log long."""
    database.owner.execute(FILL, {"events": EVENTS, "few": FEW})


@contextmanager
def long_log(postgres: EmbeddedPostgres, statistics: str) -> Iterator[Database]:
    """A project with a long log. It is not lent: its statistics would stay when its tables are emptied."""
    dsn = postgres.create_database()
    with Database(make_project(dsn)) as database:
        fill(database)
        if statistics == "statistics":
            database.owner.execute("analyze public.credential_issuances")
        yield database
    postgres.drop_database(dsn)


@pytest.fixture(scope="module", params=["statistics", "no-statistics"])
def read_only(postgres: EmbeddedPostgres, request: pytest.FixtureRequest) -> Iterator[Database]:
    """A project with a long log, of which PostgreSQL has statistics or, as just after a restore, has none."""
    with long_log(postgres, request.param) as database:
        yield database


@pytest.fixture(params=["statistics", "no-statistics"])
def grown(postgres: EmbeddedPostgres, request: pytest.FixtureRequest) -> Iterator[Database]:
    """Such a project for a test that adds to it."""
    with long_log(postgres, request.param) as database:
        yield database


def rows_read(connection: Connection, function: str, **arguments: object) -> tuple[int, Any]:
    """How many rows of the log PostgreSQL looked at for a call, and the call's answer."""
    with connection.transaction():  # within which the counters only grow
        before = connection.execute(READ).fetchall()[0][0]
        answer = call(connection, function, **arguments)
        return connection.execute(READ).fetchall()[0][0] - before, answer


def arguments_of_begin(**changes: object) -> dict[str, object]:
    """A caller of the slot kis."""
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
    """Begin, commit and abort add to the log and look at none of it."""
    token = make_token()
    begin, begun = rows_read(grown.service, "begin_issuance", **arguments_of_begin())
    lease = {"service": "kis", "holder": "00000000-0000-0000-0000-000000000001", "fence": begun["fence"]}
    of_token = {"value": token.to_json(), "expires_at": token.expires_at, "issued_at": token.issued_at}
    commit, committed = rows_read(grown.service, "commit_issuance", **lease, **of_token, token_id=token.token_id)
    abort, _ = rows_read(grown.service, "abort_issuance", **lease, cooldown=timedelta(), error_code="out-of-time")

    assert (begun["status"], committed["status"]) == ("granted", "committed")
    assert (begin, commit, abort) == (0, 0, 0)


@pytest.mark.parametrize("mode", ["auto", "force_generic_plan"])
def test_a_status_reads_what_it_tells(read_only: Database, mode: str) -> None:
    """The last events of all slots, of a busy one, of one with few and of none cost as many rows as they are.

    Also when the session would keep one plan for all of them.
    """
    read_only.service.execute(f"set plan_cache_mode = {mode}")

    for service, told in ((None, 500), ("busy", 500), ("few", FEW), ("nobody", 0)):
        read, status = rows_read(read_only.service, "issuance_status", service=service, log_rows=500)
        assert (service, read, len(status["issuances"])) == (service, told, told)
    read_only.service.execute("reset plan_cache_mode")


def test_a_pruning_without_work_reads_nothing(database: Database) -> None:
    """When no event is old enough, none is looked at. The statistics are there: autovacuum makes them."""
    fill(database)
    database.owner.execute("analyze public.credential_issuances")

    # With statistics PostgreSQL also looks up the column's real end, which is a row.
    read, pruned = rows_read(database.service, "prune_issuances", keep=timedelta(days=90))
    assert (pruned, read <= 2) == (0, True)


def test_the_documented_prunings_work(database: Database) -> None:
    """What the documents have people run, by hand and by pg_cron, deletes what is older than 90 days as the owner."""
    page = (CHECKOUT / "docs" / "operations.md").read_text(encoding="utf-8")
    statements = re.findall(r"select public\.prune_issuances\([^)]*\)", page)

    assert len(statements) == 2
    for statement in statements:
        issue_by_functions(database, make_token(), service="kis-old")
        database.owner.execute("update public.credential_issuances set happened_at = now() - interval '91 days'")
        assert database.owner.execute(statement).fetchall() == [{"prune_issuances": 2}]
        database.clear()


def test_a_pruning_stops_nobody(database: Database) -> None:
    """While 100,000 events are being deleted others begin, commit and look, at once; what they add is kept."""
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


def test_a_pruning_waits_for_nobody(database: Database) -> None:
    """A turn that is being noted does not hold up who prunes, and is not pruned."""
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
    """While a turn of one slot is being given, fifty others begin and commit."""
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
