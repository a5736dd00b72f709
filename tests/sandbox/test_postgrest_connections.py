"""The PostgREST stand-in under load, in outages, and without its database."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import httpx
import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict

from kis_token.sandbox.database import Project, prepare_database
from kis_token.sandbox.loopback import Fault
from kis_token.sandbox.postgrest import PostgRESTStandIn
from kis_token.sandbox.postgrest_errors import ApiError, database_error
from kis_token.sandbox.postgrest_pool import ConnectionPool
from tests.sandbox.notes_project import ANON_KEY, SERVICE_KEY, connect, error_of, execute

if TYPE_CHECKING:
    from supabase import Client

    from kis_token.sandbox.postgres import EmbeddedPostgres

pytestmark = pytest.mark.usefixtures("empty_tables")


def test_two_hundred_at_once(http: httpx.Client) -> None:
    """200 concurrent requests are all answered, over at most 20 connections."""

    def call(_: int) -> int:
        return int(client.post("rpc/connection").raise_for_status().json())

    with (
        httpx.Client(
            base_url=http.base_url, headers=http.headers, timeout=60, limits=httpx.Limits(max_connections=200)
        ) as client,
        ThreadPoolExecutor(200) as threads,
    ):
        connections = list(threads.map(call, range(200)))

    assert len(connections) == 200
    assert 1 < len(set(connections)) <= 20


def test_changes_of_the_schema_are_seen_at_once(service: Client, project: Project) -> None:
    """No cache needs a reload: new tables, columns and functions can be used at once, and dropped ones are missing."""
    execute(project.owner, "create table fresh (id int); grant all on fresh to service_role")
    assert service.table("fresh").insert({"id": 1}).execute().data == [{"id": 1}]
    execute(project.owner, "alter table fresh add column more text; create function late() returns int return 1")
    assert service.table("fresh").update({"more": "x"}).eq("id", 1).execute().data == [{"id": 1, "more": "x"}]
    assert service.rpc("late", {}).execute().data == 1
    execute(project.owner, "drop table fresh; drop function late")
    assert error_of(service.table("fresh").select("*").execute).code == "PGRST205"


def test_log_faults_and_outage(project: Project) -> None:
    """The stand-in has the log and the faults of the HTTP server.

    A stopped server refuses connections; a restart keeps the port.
    """
    with (
        PostgRESTStandIn(project.api, service_key=SERVICE_KEY, anon_key=ANON_KEY) as server,
        connect(server.url, SERVICE_KEY) as client,
    ):
        url = server.url
        server.server.add_fault(Fault("reset", "/rest/v1/rpc/who"))

        with pytest.raises(httpx.HTTPError):
            client.rpc("who", {}).execute()
        assert client.rpc("who", {}).execute().data == "service_role"
        assert [seen.path for seen in server.server.seen] == ["/rest/v1/rpc/who"] * 2

        server.stop()
        with pytest.raises(httpx.ConnectError):
            client.rpc("who", {}).execute()
        server.start()
        assert server.url == url
        assert client.rpc("who", {}).execute().data == "service_role"


def test_connections_are_shared_and_given_up(project: Project) -> None:
    """A caller that waits too long gets PGRST003.

    A connection that is in use when the pool ends is closed when it is returned.
    """
    pool = ConnectionPool(project.api, size=1, longest_wait=0.05)

    with pool.connection() as connection:
        with pytest.raises(ApiError) as refused, pool.connection():
            pass
        pool.close()
        assert connection.execute("select 1").fetchall() == [(1,)]

    assert (refused.value.status, refused.value.body["code"]) == (504, "PGRST003")
    assert connection.closed


def test_connection_lost_without_a_message() -> None:
    """If a connection breaks without an error from the server, the request gets PGRST001 and 503."""
    error = database_error(psycopg.OperationalError("the connection is closed"), anonymous=False)

    assert (error.status, error.body["code"]) == (503, "PGRST001")


def test_database_gone(postgres: EmbeddedPostgres) -> None:
    """If the database is missing, each request gets 503, on the broken connection and on new ones."""
    project = prepare_database(dsn := postgres.create_database())
    with PostgRESTStandIn(project.api, service_key=SERVICE_KEY, anon_key=ANON_KEY) as server:

        def get() -> tuple[int, str]:
            answer = httpx.get(f"{server.url}/rest/v1/notes", headers={"apikey": SERVICE_KEY})
            return answer.status_code, answer.json()["code"]

        assert get() == (404, "PGRST205")
        with psycopg.connect(postgres.dsn, autocommit=True) as connection:
            name = sql.Identifier(str(conninfo_to_dict(dsn)["dbname"]))
            connection.execute(sql.SQL("drop database {} with (force)").format(name))

        assert get() in [(503, "57P01"), (503, "PGRST001")]
        assert get() == (503, "PGRST000")
