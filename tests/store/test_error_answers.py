"""Answers that gateways, proxies and PostgREST give instead of rows, and the errors that result.

The answers come from public reports. A real server sends each answer to the warm read and to a call of a function.
"""

from __future__ import annotations

import base64
import json
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st
from psycopg import sql

from kis_token.errors import StoreError, StoreMisconfigured, StoreOutage
from kis_token.sandbox.loopback import Fault, LoopbackServer, Response
from kis_token.sandbox.postgrest import PostgRESTStandIn
from kis_token.store.error_answers import code_error
from kis_token.store.http_exchange import Wire
from kis_token.store.slot_query import read_slot
from kis_token.store.supabase import SupabaseStore
from tests.support import ANON_KEY, SERVICE_KEY, make_token, utc_now

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.support import Database

HTML = {"Content-Type": "text/html"}
PAGE = b'<html><script src="https://cdnjs.cloudflare.com/x.js"></script><h1>Blocked: policy 1015</h1></html>'
QUOTA = (
    "Service for this project is restricted due to the following violations: {}. "
    "The project owner must upgrade their plan or remove spend caps to restore service."
)


def cloudflare(number: str) -> bytes:
    """The parts of an error page that identify Cloudflare."""
    return (
        f"<html><title>Access denied | x.supabase.co used Cloudflare to restrict access</title><h1>Error "
        f'<span class="code">{number}</span></h1><p>Cloudflare Ray ID: <b>8f1a2b3c</b></p></html>'
    ).encode()


def postgrest(status: int, code: str, message: str = "x") -> Response:
    """An error answer of PostgREST."""
    return Response(status, {"code": code, "message": message, "details": None, "hint": None})


def gateway(status: int, message: str) -> Response:
    """An answer of Supabase's gateway."""
    return Response(status, {"message": message, "hint": "x"})


@dataclass(frozen=True)
class Case:
    """An answer, the code of the error that results, and words that the error must contain.

    For outages, ``persists`` means that a repetition does not help, and ``alone`` means that a token may be issued
    without the store.
    """

    response: Response
    code: str
    words: str = ""
    persists: bool = False
    alone: bool = False


CONFIGURATION_ERRORS = {
    "legacy keys": Case(
        gateway(401, "Legacy API keys are disabled"), "store-legacy-keys-disabled", "legacy keys are turned off"
    ),
    "invalid key": Case(gateway(401, "Invalid API key"), "store-key-rejected"),
    "no key": Case(gateway(401, "No API key found in request"), "store-key-rejected"),
    "unregistered key": Case(gateway(401, "Unregistered API key"), "store-key-rejected"),
    "taken for a browser": Case(
        gateway(401, "Forbidden use of secret API key in browser"), "store-key-rejected", "as a browser"
    ),
    "Kong, hosted elsewhere": Case(gateway(401, "Invalid authentication credentials"), "store-key-rejected"),
    "gateway's header alone": Case(
        Response(401, b"", {"sb-error-code": "UNAUTHORIZED_INVALID_API_KEY"}), "store-key-rejected"
    ),
    "JWT of the gateway": Case(gateway(401, "Invalid JWT"), "store-key-rejected"),
    "JWT": Case(postgrest(401, "PGRST301", "Expected 3 parts in JWT; got 1"), "store-key-rejected", "PGRST301"),
    "no bearer": Case(postgrest(401, "PGRST302", "Anonymous access is disabled"), "store-key-rejected", "PGRST302"),
    "JWT expired": Case(postgrest(401, "PGRST303", "JWT expired"), "store-key-expired", "PGRST303"),
    "JWT of another audience": Case(postgrest(401, "PGRST303", "JWT not in audience"), "store-key-rejected"),
    "role is not there": Case(
        postgrest(401, "22023", 'role "kis_token_reader" does not exist'), "store-permission-denied", "key's role"
    ),
    "no right": Case(postgrest(403, "42501"), "store-permission-denied", "42501"),
    "no column": Case(postgrest(400, "42703"), "store-column-missing", "42703"),
    "policy that calls itself": Case(postgrest(500, "42P17"), "store-rejected", "42P17"),
    "constraint": Case(postgrest(409, "23505"), "store-rejected", "23505"),
    "exception of a trigger": Case(postgrest(400, "P0001"), "store-rejected", "P0001"),
    "relationship that is ambiguous": Case(postgrest(300, "PGRST201"), "store-rejected", "PGRST201"),
    "without details": Case(Response(404, {"code": "42P01", "message": "x"}), "store-table-missing", "42P01"),
}

OUTAGES = {
    "quota of egress": Case(
        gateway(402, QUOTA.format("exceed_egress_quota")), "store-restricted", "exceed_egress_quota", persists=True
    ),
    "quotas": Case(
        gateway(402, QUOTA.format("exceed_egress_quota, exceed_cached_egress_quota")),
        "store-restricted",
        "exceed_cached_egress_quota, exceed_egress_quota",
        persists=True,
    ),
    "bill": Case(Response(402, b'{"error":"overdue_payment"}'), "store-restricted", "overdue_payment", persists=True),
    "402 of another": Case(Response(402, b"Payment required", HTML), "store-unreachable", "Payment Required"),
    "WAF": Case(Response(403, PAGE, HTML), "store-unreachable", "not look like Supabase's"),
    "403 in JSON": Case(Response(403, {"message": "Forbidden"}), "store-unreachable"),
    "403 without a body": Case(Response(403), "store-unreachable"),
    "401 of a proxy": Case(Response(401, b"Unauthorized"), "store-unreachable", "Unauthorized"),
    "401 with a code of another": Case(
        Response(401, {"code": "UNAUTHORIZED_NO_AUTH_HEADER", "message": "x"}), "store-unreachable"
    ),
    "a code among others' members": Case(
        Response(403, {"code": "42501", "message": "x", "request_id": "1"}), "store-unreachable"
    ),
    "Cloudflare blocks": Case(
        Response(403, cloudflare("1020"), HTML), "store-unreachable", "Cloudflare answers for Supabase"
    ),
    "Cloudflare's number": Case(Response(403, cloudflare("1020"), HTML), "store-unreachable", "its error 1020"),
    "Cloudflare limits": Case(Response(429, b"error code: 1015"), "store-unreachable", "its error 1015"),
    "Cloudflare challenges": Case(
        Response(403, PAGE, {**HTML, "cf-mitigated": "challenge"}), "store-unreachable", "Cloudflare"
    ),
    "page": Case(Response(404, PAGE, HTML), "store-not-supabase", "not look like Supabase's", persists=True),
    "no route of Kong": Case(gateway(404, "no Route matched with those values"), "store-not-supabase", persists=True),
    "path": Case(Response(404, {"error": "requested path is invalid"}), "store-not-supabase", persists=True),
    "portal": Case(Response(302, b"", {"Location": "http://login.example/"}), "store-redirects", persists=True),
    "moved": Case(Response(308), "store-redirects", persists=True),
    "400": Case(Response(400, b"<center>nginx</center>", HTML), "store-unreachable", "Bad Request"),
    "405": Case(Response(405), "store-unreachable", "Method Not Allowed"),
    "407": Case(Response(407), "store-unreachable"),
    "409": Case(Response(409, b"conflict"), "store-unreachable"),
    "413": Case(Response(413), "store-unreachable"),
    "418": Case(Response(418), "store-unreachable"),
    "421": Case(Response(421), "store-unreachable"),
    "429": Case(Response(429, {"message": "Too many requests"}), "store-unreachable", "Too Many Requests"),
    "451": Case(Response(451), "store-unreachable", "Unavailable For Legal Reasons"),
    "499": Case(Response(499), "store-unreachable"),
    "511": Case(Response(511), "store-unreachable", "Network Authentication Required"),
    "project without a name": Case(Response(400, b"Project not specified"), "store-unreachable"),
    "502": Case(Response(502, b"<h1>Bad Gateway</h1>", HTML), "store-unreachable", "Bad Gateway", alone=True),
    "Kong without PostgREST": Case(
        gateway(502, "An invalid response was received from the upstream server"),
        "store-unreachable",
        "gateway cannot reach PostgREST",
        alone=True,
    ),
    "Envoy without PostgREST": Case(
        Response(503, b"upstream connect error or disconnect/reset before headers. reset reason: connection failure"),
        "store-unreachable",
        "gateway cannot reach PostgREST",
        alone=True,
    ),
    "522": Case(Response(522, cloudflare("522"), HTML), "store-unreachable", "Cloudflare answers", alone=True),
    "521 without a page": Case(Response(521), "store-unreachable", "Cloudflare answers", alone=True),
    "530": Case(Response(530, b"error code: 1016"), "store-unreachable", "its error 1016", alone=True),
    "paused": Case(Response(540, b"Project paused"), "store-paused", "project is paused", alone=True),
    "544": Case(Response(544), "store-unreachable", "gateway timed out", alone=True),
    "546": Case(Response(546), "store-unreachable", alone=True),
    "restarting": Case(postgrest(503, "57P01"), "store-unreachable", "the database is restarting", alone=True),
    "starting": Case(postgrest(500, "57P03"), "store-unreachable", "the database is restarting", alone=True),
    "too slow": Case(postgrest(500, "57014"), "store-unreachable", "took too long", alone=True),
    "no connection": Case(postgrest(503, "53300"), "store-unreachable", "too many connections", alone=True),
    "full disk": Case(postgrest(503, "53100"), "store-unreachable", "disk is full", alone=True),
    "pool": Case(postgrest(504, "PGRST003"), "store-unreachable", "no free connection", alone=True),
    "schema": Case(postgrest(503, "PGRST002"), "store-unreachable", "cannot read the schema yet", alone=True),
    "no database": Case(postgrest(503, "PGRST000"), "store-unreachable", "cannot reach the database", alone=True),
    "no secret": Case(postgrest(500, "PGRST300"), "store-unreachable", "no JWT secret", alone=True),
    "locked": Case(postgrest(500, "55P03"), "store-unreachable", "another transaction", alone=True),
    "clocks": Case(postgrest(401, "PGRST303", "JWT issued at future"), "store-unreachable", "not valid yet"),
    "read-only": Case(
        postgrest(405, "25006", "cannot execute SELECT FOR UPDATE in a read-only transaction"),
        "store-database-read-only",
        "read-only, usually because its disk is full (HTTP 405 25006)",
        persists=True,
    ),
    "read-only, with another status": Case(
        postgrest(500, "25006"), "store-database-read-only", "HTTP 500 25006", persists=True
    ),
    "replica": Case(
        postgrest(400, "0A000", "cannot set transaction read-write mode during recovery"),
        "store-database-read-only",
        "HTTP 400 0A000",
        persists=True,
    ),
}


@pytest.fixture
def server() -> Iterator[LoopbackServer]:
    """A server that returns no rows."""
    with LoopbackServer(lambda _: Response(200, [])) as running:
        yield running


def errors_of(server: LoopbackServer, response: Response, key: str = SERVICE_KEY) -> list[StoreError]:
    """The errors of a read and of a function call that get this answer, each after one request."""
    server.add_fault(Fault("answer", times=2, response=response))
    errors = []
    with closing(SupabaseStore(server.url, key)) as store:
        for ask in (
            lambda: read_slot(Wire(server.url), key, "kis"),
            lambda: store.issuance_status(None, 1),
        ):
            with pytest.raises(StoreError) as caught:
                ask()
            errors.append(caught.value)
    assert len(server.seen) == 2
    return errors


def assert_is(error: StoreError, case: Case) -> None:
    """Assert that the error has the code and words of the case and the HTTP status, and no text of the answer."""
    assert error.code == case.code
    assert f"HTTP {case.response.status}" in f"{error}"
    assert case.words in f"{error}"
    assert "policy 1015" not in f"{error}"
    assert error.hint


@pytest.mark.parametrize("name", CONFIGURATION_ERRORS)
def test_supabase_s_own_answer_is_a_configuration_error(server: LoopbackServer, name: str) -> None:
    """PostgREST's codes, and the gateway's messages about the key, report a configuration error."""
    case = CONFIGURATION_ERRORS[name]
    for error in errors_of(server, case.response):
        assert isinstance(error, StoreMisconfigured)
        assert_is(error, case)


@pytest.mark.parametrize("name", OUTAGES)
def test_any_other_answer_is_an_outage(server: LoopbackServer, name: str) -> None:
    """Any other answer is an outage. With a status below 500, or with 511, no caller issues without the store."""
    case = OUTAGES[name]
    for error in errors_of(server, case.response):
        assert isinstance(error, StoreOutage)
        assert_is(error, case)
        assert (error.persists, error.doubtful) == (case.persists, not case.alone)
        assert error.lasting is (case.code == "store-redirects")


def jwt(ends_at: datetime) -> str:
    """A key in the form of a JWT that expires at this time."""
    parts = ({"alg": "HS256"}, {"role": "service_role", "exp": int(ends_at.timestamp())})
    words = [base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=").decode() for part in parts]
    return ".".join([*words, "c2lnbmVk"])


@pytest.mark.parametrize(
    "response",
    [gateway(401, "Invalid API key"), postgrest(401, "PGRST301"), Response(401)],
    ids=["gateway", "JWT", "nothing"],
)
def test_expired_key_is_reported_with_its_date(server: LoopbackServer, response: Response) -> None:
    """If Supabase rejects a key that has expired, the error names the key's date. A read-only key has a date too."""
    ended = utc_now() - timedelta(days=2)
    for key in (jwt(ended), f"sb_publishable_x {jwt(ended)}"):
        server.forget()
        for error in errors_of(server, response, key):
            assert (error.code, isinstance(error, StoreMisconfigured)) == ("store-key-expired", True)
            assert f"{ended:%Y-%m-%d}" in f"{error}"


def test_date_of_a_key_counts_for_the_key_alone(server: LoopbackServer) -> None:
    """If the key is valid, or the answer is not about the key, the error does not call the key expired."""
    valid, ended = jwt(utc_now() + timedelta(days=2)), jwt(utc_now() - timedelta(days=2))
    assert {each.code for each in errors_of(server, gateway(401, "Invalid API key"), valid)} == {"store-key-rejected"}
    server.forget()
    legacy = gateway(401, "Legacy API keys are disabled")
    assert {each.code for each in errors_of(server, legacy, ended)} == {"store-legacy-keys-disabled"}
    server.forget()
    for page in (Response(502), Response(403, PAGE, HTML)):
        assert {each.code for each in errors_of(server, page, ended)} == {"store-unreachable"}
        server.forget()


def test_end_of_a_key_is_judged_by_the_answer_s_date(server: LoopbackServer) -> None:
    """A key that is valid by the answer's Date is not reported as expired, even if this machine's clock is wrong."""
    key = jwt(datetime(2020, 1, 1, tzinfo=timezone.utc))
    server.send_date = False
    dated = {"Date": "Mon, 02 Dec 2019 12:00:00 GMT"}
    answer = Response(401, {"message": "Invalid API key"}, dated)
    assert {each.code for each in errors_of(server, answer, key)} == {"store-key-rejected"}


@given(st.integers(100, 999), st.text(max_size=40), st.text(max_size=200))
def test_text_of_an_answer_is_never_repeated(status: int, code: str, message: str) -> None:
    """The error never repeats code or message of an answer, because they may contain a secret."""
    marked = f"QzXj7{code}", f"QzXj7{message}"
    assert "QzXj7" not in f"{code_error(status, *marked)}"
    assert "QzXj7" not in f"{code_error(status, 'PGRST203', marked[1])}"


# two functions of one name


BETWEEN = "Could not choose the best candidate function between: "


def call_save(url: str) -> StoreError:
    """The error of a call of save_token."""
    token = make_token()
    with closing(SupabaseStore(url, SERVICE_KEY)) as store, pytest.raises(StoreError) as caught:
        store.save("kis", token, token.to_json(), replaces_version=1, keys_version=1)
    return caught.value


def test_two_functions_of_one_name(make_database: Callable[[], Database]) -> None:
    """The error names the function, and the statement that drops the variant that sql/ does not create.

    After the statement has run, a token can be saved.
    """
    project = make_database()
    project.owner.execute(
        "create function public.save_token(service text, value text, expires_at timestamptz, replaces_version bigint,"
        " keys_version bigint, token_id character varying default null, note text default null)"
        " returns jsonb language sql as 'select null::jsonb'"
    )
    statement = (
        "drop function public.save_token"
        "(text, text, timestamp with time zone, bigint, bigint, character varying, text);"
    )
    with PostgRESTStandIn(project.project.api, service_key=SERVICE_KEY, anon_key=ANON_KEY) as server:
        error = call_save(server.url)
        assert (error.code, isinstance(error, StoreMisconfigured)) == ("store-function-ambiguous", True)
        assert "HTTP 300 PGRST203" in f"{error}"
        assert "save_token" in f"{error}"
        assert f"{error}".count("drop function") == 1
        assert statement in f"{error}"
        project.owner.execute(sql.SQL(statement))
        with closing(SupabaseStore(server.url, SERVICE_KEY)) as store:
            token = make_token()
            assert store.save("kis", token, token.to_json(), replaces_version=1, keys_version=0)


@pytest.mark.parametrize(
    "listed",
    [
        "",
        "public.save_token(service => text), and more",
        'public."save token"(service => text), public.save_token(service => text)',
        "public.save_token(service => text), public.begin_issuance(service => text)",
        "public.save_token(service => text; drop table x), public.save_token()",
        "public.save_token(" + ", ".join(f"a{n} => text" for n in range(60)) + ")",
        "public.save_token(" + "a" * 5000,
    ],
)
def test_functions_that_are_listed_otherwise_are_not_repeated(listed: str) -> None:
    """If PostgREST's list of functions contains unexpected text, the error repeats no part of the list."""
    error = code_error(300, "PGRST203", BETWEEN + listed)
    assert error.brief == "Supabase has several functions of one name (HTTP 300 PGRST203) [store-function-ambiguous]"


RESEAL = "public.reseal(service => text, credential_type => text, value => text, replaces_version => bigint)"


@pytest.mark.parametrize(
    "listed", [f"{RESEAL}, {RESEAL}", "public.reseal_all(a => text), public.reseal_all()"], ids=["twice", "another's"]
)
def test_functions_that_need_not_be_dropped(listed: str) -> None:
    """If no listed function has to be dropped, the error has only the name of the functions."""
    error = code_error(300, "PGRST203", BETWEEN + listed)
    assert "of one name (HTTP 300 PGRST203): reseal" in f"{error}"
    assert "drop" not in f"{error}"
