"""The store over HTTP: one request for each call, and the right error for each failure."""

from __future__ import annotations

import uuid
from contextlib import closing
from typing import TYPE_CHECKING

import certifi
import pytest
from psycopg import sql

from kis_token.core.retry import Retry
from kis_token.errors import StoreMisconfigured, StoreOutage
from kis_token.sandbox.kis_http import html_response
from kis_token.sandbox.loopback import Fault, LoopbackServer, Response
from kis_token.sandbox.postgrest import PostgRESTStandIn
from kis_token.store.supabase import SupabaseStore
from kis_token.token import fingerprint
from tests.support import ANON_KEY, APP_KEY, MINUTE, SERVICE_KEY, TurnedClock, make_token, utc_now
from tools.certificate import make_certificate

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from kis_token.core.ports import Begun
    from kis_token.errors import StoreError
    from tests.support import Database


def read(manager: SupabaseStore) -> object:
    """Read the slot kis."""
    return manager.read("kis")


def begin(manager: SupabaseStore, holder: str | None = None) -> Begun:
    """Ask for the lease."""
    return manager.begin("kis", holder or str(uuid.uuid4()), "a laptop", APP_KEY, min_remaining=10 * MINUTE)


def commit(manager: SupabaseStore) -> object:
    """Commit a token."""
    token = make_token()
    return manager.commit("kis", str(uuid.uuid4()), 1, token, token.to_json(), rejected=False)


def abort(manager: SupabaseStore) -> object:
    """End the lease."""
    manager.abort("kis", str(uuid.uuid4()), 1, cooldown=MINUTE, error_code="EGW00133")
    return None


OPERATIONS = [read, begin, commit, abort]


@pytest.fixture
def manager(supabase: PostgRESTStandIn) -> Iterator[SupabaseStore]:
    """The store with the service key."""
    with closing(SupabaseStore(supabase.url, SERVICE_KEY)) as manager:
        yield manager


def assert_silent(error: BaseException | None) -> None:
    """Assert that the texts of the error and of its causes contain no key."""
    while error is not None:
        assert not any(secret in f"{error!r} {error}" for secret in (SERVICE_KEY, ANON_KEY, APP_KEY.key))
        error = error.__cause__


def test_a_read_is_one_request(supabase: PostgRESTStandIn, manager: SupabaseStore, database: Database) -> None:
    """One GET returns the active rows of the slot's keys and token, and no other rows."""
    token = make_token()
    database.put_keys()
    version = database.put_token(token)
    database.put("webhook", "x")
    database.put("app_key", "PSother", service="kis-paper")

    slot = manager.read("kis")

    assert {name: fingerprint(row.value) for name, row in slot.rows.items()} == {
        "app_key": APP_KEY.key_id,
        "app_secret": fingerprint(APP_KEY.secret),
        "access_token": fingerprint(token.to_json()),
    }
    assert slot.rows["access_token"].version == version
    assert slot.server_now is not None
    assert abs(slot.server_now - utc_now()) < MINUTE
    assert [(seen.method, seen.path) for seen in supabase.server.seen] == [("GET", "/rest/v1/api_credentials")]


def test_inactive_rows_are_not_read(manager: SupabaseStore, database: Database) -> None:
    """An inactive row counts as absent."""
    database.put_token(make_token(), active=False)

    assert manager.read("kis").rows == {}


def test_reads_of_other_rows(manager: SupabaseStore, database: Database) -> None:
    """`read_service` returns the rows of all types; `read_unexpired_token` returns only a valid token."""
    database.put_keys()
    database.put("webhook", "x")
    database.put("old", "x", active=False)

    for left, valid in ((MINUTE, {"access_token"}), (-MINUTE, set[str]())):
        database.put_token(make_token(left=left))
        assert manager.read_service("kis").rows.keys() == {"app_key", "app_secret", "access_token", "webhook"}
        assert manager.read_unexpired_token("kis").rows.keys() == valid
        assert manager.read("kis").rows.keys() == {"app_key", "app_secret", "access_token"}


def test_a_lease_is_two_requests(supabase: PostgRESTStandIn, manager: SupabaseStore, database: Database) -> None:
    """Begin and commit are one request each, and store the token."""
    holder, token = str(uuid.uuid4()), make_token()

    begun = begin(manager, holder)
    assert (begun.status, begun.fence, begun.value) == ("granted", 1, None)
    committed = manager.commit("kis", holder, 1, token, token.to_json(), rejected=False)

    assert (committed.status, committed.version) == ("committed", database.row()["version"])
    assert database.stored_id() == token.token_id
    assert database.row()["expires_at"] == token.expires_at
    assert [(seen.method, seen.path) for seen in supabase.server.seen] == [
        ("POST", "/rest/v1/rpc/begin_issuance"),
        ("POST", "/rest/v1/rpc/commit_issuance"),
    ]


def test_an_abort_is_one_request(supabase: PostgRESTStandIn, manager: SupabaseStore, database: Database) -> None:
    """An abort ends the lease and records error and refused credential; the next caller of begin gets the error."""
    holder = str(uuid.uuid4())
    begin(manager, holder)
    manager.abort("kis", holder, 1, cooldown=MINUTE, error_code="EGW00105", refused_credential_id=APP_KEY.credential_id)

    begun = begin(manager)
    assert (begun.status, begun.last_error, begun.holder_label) == ("busy", "EGW00105", None)
    assert begun.retry_at is not None
    assert 14 * MINUTE < begun.retry_at - begun.server_now <= 15 * MINUTE
    assert database.lease()["refused_credential_id"] == APP_KEY.credential_id
    assert [seen.path.rpartition("/")[2] for seen in supabase.server.seen].count("abort_issuance") == 1


def test_a_fresh_token_comes_with_the_answer(manager: SupabaseStore, database: Database) -> None:
    """Begin returns a fresh stored token, but not the version that the caller rejects."""
    token = make_token()
    version = database.put_token(token)

    begun = begin(manager)

    assert (begun.status, begun.version) == ("fresh", version)
    assert fingerprint(begun.value or "") == fingerprint(token.to_json())
    rejecting = manager.begin(
        "kis", str(uuid.uuid4()), "a laptop", APP_KEY, min_remaining=MINUTE, rejected_version=version
    )
    assert rejecting.status == "granted"


def test_values_may_hold_anything(manager: SupabaseStore, database: Database) -> None:
    """Text outside ASCII, quotes and line ends arrive unchanged, in values and in labels."""
    value = '한국투자 "증권" \\ \n 🔑 é'
    database.put("app_secret", value)

    assert manager.read("kis").rows["app_secret"].value == value
    manager.begin("kis", str(uuid.uuid4()), "서버 🔑", APP_KEY, min_remaining=MINUTE)
    assert database.lease()["holder_label"] == "서버 🔑"


OUTAGES = {
    "reset": Fault("reset"),
    "reset after the work": Fault("reset", after=True),
    "truncated": Fault("truncate"),
    "silence": Fault("stall", seconds=0.1),
    "page 500": Fault("answer", response=html_response(500)),
    "page 502": Fault("answer", response=html_response(502)),
    "page 503": Fault("answer", response=html_response(503)),
    "page 520": Fault("answer", response=html_response(520)),
    "page 200": Fault("answer", response=html_response(200)),
    "JSON of another kind": Fault("answer", response=Response(200, {"answer": 42})),
    "no connection to the database": Fault(
        "answer", response=Response(503, {"code": "PGRST000", "message": SERVICE_KEY, "details": None, "hint": None})
    ),
    "statement timeout": Fault(
        "answer", response=Response(500, {"code": "57014", "message": "canceling", "details": None, "hint": None})
    ),
    "too many requests": Fault("answer", response=Response(429, {"message": "Too many requests"})),
}


@pytest.mark.parametrize("fault", OUTAGES.values(), ids=OUTAGES.keys())
@pytest.mark.parametrize("operation", OPERATIONS)
def test_outages(
    supabase: PostgRESTStandIn,
    manager: SupabaseStore,
    operation: Callable[[SupabaseStore], object],
    fault: Fault,
) -> None:
    """Any failure or unusable answer of Supabase is an outage, and the request is not repeated."""
    supabase.server.add_fault(fault)
    with pytest.raises(StoreOutage) as caught:
        operation(manager)

    assert (caught.value.code, caught.value.retryable) == ("store-unreachable", True)
    assert_silent(caught.value)
    assert len(supabase.server.seen) == 1


@pytest.mark.parametrize("operation", OPERATIONS)
def test_refused_connection_of_the_store(
    supabase: PostgRESTStandIn,
    manager: SupabaseStore,
    operation: Callable[[SupabaseStore], object],
) -> None:
    """A refused connection is an outage; when Supabase is back, the same manager works."""
    supabase.stop()
    with pytest.raises(StoreOutage) as caught:
        operation(manager)
    assert_silent(caught.value)
    assert (caught.value.refused, caught.value.sent) == (True, False)
    supabase.start()
    operation(manager)


@pytest.mark.parametrize(
    ("key", "code"),
    [("sb_secret_of_another_project", "store-key-rejected"), (ANON_KEY, "store-permission-denied")],
    ids=["another project", "public"],
)
@pytest.mark.parametrize("operation", OPERATIONS)
def test_wrong_keys(
    supabase: PostgRESTStandIn, operation: Callable[[SupabaseStore], object], key: str, code: str
) -> None:
    """Another project's key and the public key are configuration errors."""
    assert_misconfigured(SupabaseStore(supabase.url, key), operation, code)


def assert_misconfigured(manager: SupabaseStore, operation: Callable[[SupabaseStore], object], code: str) -> None:
    """Assert that the operation raises a configuration error with this code, and that the error shows no secret."""
    with pytest.raises(StoreMisconfigured) as caught:
        operation(manager)
    manager.close()
    error: StoreError = caught.value
    assert (error.code, error.retryable) == (code, False)
    assert error.hint
    assert_silent(error)


@pytest.mark.parametrize(
    ("damage", "operation", "code"),
    [
        ("drop table public.api_credentials cascade", read, "store-table-missing"),
        ("alter table public.api_credentials rename to old_credentials", begin, "store-table-missing"),
        ("alter table public.api_credentials drop column version", read, "store-column-missing"),
        ("drop function public.begin_issuance", begin, "store-function-missing"),
        ("drop function public.commit_issuance", commit, "store-function-missing"),
        ("drop function public.abort_issuance", abort, "store-function-missing"),
        ("revoke all on public.api_credentials from service_role", read, "store-permission-denied"),
        ("revoke all on function public.begin_issuance from service_role", begin, "store-permission-denied"),
    ],
)
def test_missing_parts_of_the_database(
    make_database: Callable[[], Database],
    damage: str,
    operation: Callable[[SupabaseStore], object],
    code: str,
) -> None:
    """A missing table, column, function or permission has its own error code."""
    project = make_database()
    project.owner.execute(sql.SQL(damage))
    with PostgRESTStandIn(project.project.api, service_key=SERVICE_KEY, anon_key=ANON_KEY) as server:
        assert_misconfigured(SupabaseStore(server.url, SERVICE_KEY), operation, code)


@pytest.mark.parametrize("operation", OPERATIONS)
def test_redirects_are_not_followed(
    supabase: PostgRESTStandIn,
    manager: SupabaseStore,
    operation: Callable[[SupabaseStore], object],
) -> None:
    """A redirect is an outage with its own code; the key is not sent to its target."""
    with LoopbackServer(lambda _: Response(200, [])) as elsewhere:
        supabase.server.add_fault(Fault("answer", response=Response(302, b"", {"Location": elsewhere.url + "/x"})))
        with pytest.raises(StoreOutage) as caught:
            operation(manager)
        assert (caught.value.code, elsewhere.seen) == ("store-redirects", ())
        assert_silent(caught.value)


def test_arguments_that_the_functions_refuse(manager: SupabaseStore) -> None:
    """A service name that the database does not accept is a configuration error, not an outage."""
    with pytest.raises(StoreMisconfigured) as caught:
        manager.abort("not a name", str(uuid.uuid4()), 1, cooldown=MINUTE, error_code="x")
    assert caught.value.code == "store-rejected"


@pytest.mark.parametrize(("url", "key", "available"), [("https://x.supabase.co", "k", True), ("", "k", False)])
def test_availability_needs_url_and_key(url: str, key: str, available: bool) -> None:  # noqa: FBT001 - a table
    """Availability depends on url and key alone; no request is made."""
    assert SupabaseStore(url, key).is_available() is available


def test_the_repr_hides_the_key() -> None:
    """The repr shows the address and never the key."""
    assert repr(SupabaseStore("https://x.supabase.co", SERVICE_KEY)).count(SERVICE_KEY) == 0


@pytest.mark.parametrize("key", ["sb_x", ""])
@pytest.mark.parametrize("operation", OPERATIONS)
def test_a_malformed_key_is_an_error_of_ours(
    supabase: PostgRESTStandIn, operation: Callable[[SupabaseStore], object], key: str
) -> None:
    """If a malformed or empty key gets past the settings, the store raises a configuration error."""
    assert_misconfigured(SupabaseStore(supabase.url, key), operation, "store-key-rejected")


def test_certificates_of_the_runtime_are_trusted_as_well(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A certificate that certifi trusts and the system does not is accepted for reads and writes."""
    path, context = make_certificate(tmp_path)
    for name in ("SSL_CERT_FILE", "SSL_CERT_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(certifi, "where", lambda: path)
    token = make_token()
    version = database.put_token(token)
    with (
        PostgRESTStandIn(database.project.api, service_key=SERVICE_KEY, anon_key=ANON_KEY, tls=context) as server,
        closing(SupabaseStore(server.url, SERVICE_KEY)) as manager,
    ):
        for _ in range(2):
            slot = manager.read("kis")
            assert slot.rows["access_token"].version == version
            assert slot.server_now is not None
        assert begin(manager).status == "fresh"
        assert [seen.method for seen in server.server.seen] == ["GET", "GET", "POST"]


UNUSABLE_ANSWERS = {
    "html-200": html_response(200),
    "empty-200": Response(200),
    "other-json": Response(200, {"message": "hello"}),
    "list-of-text": Response(200, ["a"]),
}

OUTSIDE: dict[str, Callable[[SupabaseStore], object]] = {
    "read": read,
    "save": lambda store: store.save("kis", (token := make_token()), token.to_json()),
    "status": lambda store: store.issuance_status(None, 1),
    "status with a token": lambda store: store.issuance_status(None, 1, token_of="kis"),
    "all rows": lambda store: store.read_all("kis"),
    "check": lambda store: store.setup_faults(),
}


@pytest.mark.parametrize("answer", UNUSABLE_ANSWERS)
@pytest.mark.parametrize("call", OUTSIDE)
def test_one_unusable_answer_is_repeated(supabase: PostgRESTStandIn, call: str, answer: str) -> None:
    """If an answer does not come from Supabase, a call outside of the chain is repeated, even if the status is 200."""
    clock = TurnedClock()
    retry = Retry(clock, lambda: 60.0, print)
    with closing(SupabaseStore(supabase.url, SERVICE_KEY, retry=retry)) as store:
        supabase.server.add_fault(Fault("answer", response=UNUSABLE_ANSWERS[answer]))
        OUTSIDE[call](store)
    assert len(supabase.server.seen) == 2


@pytest.mark.parametrize("body", [b"", {}, "null", {"what": "x"}], ids=["empty", "object", "text", "one"])
def test_an_unusable_answer_to_check_setup_is_an_outage(
    supabase: PostgRESTStandIn, manager: SupabaseStore, body: object
) -> None:
    """If the answer to check_setup is unusable, the error is an outage, and the check does not succeed."""
    supabase.server.add_fault(Fault("answer", "/rest/v1/rpc/check_setup", 9, Response(200, body)))
    with pytest.raises(StoreOutage):
        manager.setup_faults()


def test_an_untrusted_certificate(database: Database, tmp_path: Path) -> None:
    """An untrusted certificate is an outage, of reads and of writes, and no request was sent."""
    _, context = make_certificate(tmp_path)
    with PostgRESTStandIn(database.project.api, service_key=SERVICE_KEY, anon_key=ANON_KEY, tls=context) as server:
        for operation in (read, begin):
            manager = SupabaseStore(server.url, SERVICE_KEY)
            with closing(manager), pytest.raises(StoreOutage) as caught:
                operation(manager)
            assert (caught.value.code, caught.value.doubtful, caught.value.sent) == ("store-tls", True, False)
            assert_silent(caught.value)
        assert server.server.seen == ()
