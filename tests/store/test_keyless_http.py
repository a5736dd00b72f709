"""Attacks on the keyless functions over HTTP, with each kind of public key, and the answers that a client gets."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import httpx
import pytest

from kis_token.sandbox.database import list_caller, store_issuer_keys
from kis_token.sandbox.github_issuer import GitHubIssuer, base64url
from kis_token.sandbox.postgrest import PostgRESTStandIn
from kis_token.store.slot_query import key_headers, parse_slot
from tests.support import ANON_KEY, APP_KEY, SERVICE_KEY, Database, make_token

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kis_token.token import Token

FUNCTIONS = ("keyless_read", "keyless_begin", "keyless_commit", "keyless_abort")
TABLES = ("credential_callers", "credential_issuer_keys", "credential_attempts", "credential_leases", "api_credentials")


def jwt(claims: dict[str, object]) -> str:
    """A key in the form of a JWT. The stand-in compares the key's text; PostgREST would check the signature."""
    return ".".join((*(base64url(json.dumps(part).encode()) for part in ({"alg": "HS256"}, claims)), "c2lnbmVk"))


LEGACY_ANON = jwt({"role": "anon", "iss": "supabase", "ref": "abcdefghijklmnopqrst"})


class Project:
    """A client of a project whose list of callers has one job."""

    def __init__(self, url: str, github: GitHubIssuer) -> None:
        self.url = url
        self._github = github
        self._http = httpx.Client(base_url=url, trust_env=False, timeout=20)

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def id_token(self, **claims: object) -> str:
        """A new ID token of the listed job, in which ``claims`` replace the job's claims."""
        return self._github.id_token(self.url, **claims)

    def call(self, function: str, key: str = ANON_KEY, /, **arguments: object) -> httpx.Response:
        """Call a function with a key."""
        return self._http.post(f"/rest/v1/rpc/{function}", json=arguments, headers=key_headers(key))

    def request(self, method: str, path: str, key: str, body: object = None) -> httpx.Response:
        """Send any request with a key."""
        return self._http.request(method, f"/rest/v1/{path}", json=body, headers=key_headers(key))

    def attempt(self, function: str, key: str = ANON_KEY, **changes: object) -> httpx.Response:
        """Call a keyless function with valid arguments, but without an ID token."""
        arguments: dict[str, object] = {"service": "kis"}
        if function != "keyless_read":
            arguments["holder"] = str(uuid4())
        if function == "keyless_begin":
            arguments |= {"app_key_id": APP_KEY.key_id, "credential_id": APP_KEY.credential_id}
            arguments["min_remaining"] = "600 seconds"
        if function == "keyless_commit":
            arguments |= commit_arguments(make_token())
        if function == "keyless_abort":
            arguments |= {"fence": 1, "cooldown": "61 seconds", "error_code": "EGW00133"}
        return self.call(function, key, **arguments | changes)


def commit_arguments(token: Token, fence: int = 1) -> dict[str, object]:
    """The arguments of keyless_commit that belong to the token."""
    return {
        "fence": fence,
        "value": token.to_json(),
        "expires_at": token.expires_at.isoformat(),
        "issued_at": token.issued_at.isoformat(),
        "token_id": token.token_id,
    }


@pytest.fixture
def user_jwt(github: GitHubIssuer) -> str:
    """The session of a signed-in user who has copied the listed job's claims into the account's metadata."""
    claims = github.claims("https://abcdefghijklmnopqrst.supabase.co")
    return jwt({**claims, "role": "authenticated", "user_metadata": claims, "app_metadata": claims})


@pytest.fixture
def project(database: Database, github: GitHubIssuer, user_jwt: str) -> Iterator[Project]:
    """A project with keys, a token, and one listed job that may issue."""
    further = {LEGACY_ANON: "anon", user_jwt: "authenticated"}
    with PostgRESTStandIn(
        database.project.api, service_key=SERVICE_KEY, anon_key=ANON_KEY, further_keys=further
    ) as server:
        database.put_keys()
        database.put_token(make_token())
        store_issuer_keys(database.owner, github)
        list_caller(database.owner, github, server.url, access="issue")
        project = Project(server.url, github)
        yield project
        project.close()


def error(response: httpx.Response) -> tuple[int, str | None]:
    """The HTTP status and the SQLSTATE of an error that has PostgREST's form."""
    body: dict[str, Any] = response.json()
    assert {"code", "message", "details", "hint"} == body.keys()
    return response.status_code, body["code"]


@pytest.mark.parametrize("kind", ["publishable", "legacy anon", "signed-in user"])
def test_public_keys(project: Project, user_jwt: str, kind: str) -> None:
    """A public key or a user's session needs an ID token, even if the session contains the job's claims."""
    key = {"publishable": ANON_KEY, "legacy anon": f"{ANON_KEY} {LEGACY_ANON}"}.get(kind, f"{ANON_KEY} {user_jwt}")

    for function in FUNCTIONS:
        assert error(project.attempt(function, key)) == (400, "KTA01")
        assert error(project.attempt(function, key, id_token=None)) == (400, "KTA01")
        assert error(project.attempt(function, key, id_token=key.rpartition(" ")[2])) == (400, "KTA01")
    read = project.attempt("keyless_read", key, id_token=project.id_token())
    assert (read.status_code, read.json()["access"]) == (200, "issue")


def test_id_token_as_the_key(project: Project) -> None:
    """If an ID token is sent as the key or beside the key, the gateway or PostgREST refuses the request with 401."""
    token = project.id_token()
    assert project.attempt("keyless_read", token, id_token=token).status_code == 401
    assert project.attempt("keyless_read", f"{ANON_KEY} {token}", id_token=token).status_code == 401


@pytest.mark.parametrize("table", TABLES)
def test_tables_are_closed(project: Project, user_jwt: str, table: str) -> None:
    """A public key or a session can use no table; the service key can use only api_credentials."""
    keys = [ANON_KEY, f"{ANON_KEY} {user_jwt}", *([] if table == "api_credentials" else [SERVICE_KEY])]
    column = {"api_credentials": "service_name", "credential_leases": "service_name"}.get(table, "issuer")
    for key in keys:
        refused = {401} if key == ANON_KEY else {403}
        answers = [
            project.request("GET", f"{table}?select=*", key),
            project.request("POST", table, key, {column: "https://token.actions.githubusercontent.com"}),
            project.request("PATCH", f"{table}?{column}=neq.x", key, {column: "y"}),
            project.request("DELETE", f"{table}?{column}=neq.x", key),
        ]
        assert {answer.status_code for answer in answers} == refused
        assert {answer.json()["code"] for answer in answers} == {"42501"}


def test_service_key_calls_no_keyless_function(project: Project) -> None:
    """The service key cannot call the keyless functions, not even with an ID token."""
    for function in FUNCTIONS:
        assert error(project.attempt(function, SERVICE_KEY, id_token=project.id_token())) == (403, "42501")


def test_functions_with_a_key_stay_closed(project: Project, user_jwt: str) -> None:
    """The public key and a user's session cannot call the other functions, such as begin_issuance."""
    begin: dict[str, object] = {
        "service": "kis",
        "holder": str(uuid4()),
        "label": "x",
        "app_key_id": APP_KEY.key_id,
        "credential_id": APP_KEY.credential_id,
        "min_remaining": "600 seconds",
    }
    calls: dict[str, dict[str, object]] = {
        "begin_issuance": begin,
        "issuance_status": {},
        "credential_callers_status": {},
        "check_setup": {},
        "issuance_id_token_claims": {"id_token": project.id_token()},
        "issuance_check_times": {"claims": {}, "oldest": 330},
    }
    for function, arguments in calls.items():
        assert error(project.call(function, ANON_KEY, **arguments)) == (401, "42501"), function
        assert error(project.call(function, f"{ANON_KEY} {user_jwt}", **arguments)) == (403, "42501"), function


def test_a_day_without_a_key(project: Project, database: Database) -> None:
    """A listed job reads, begins and commits over HTTP; the client can parse the rows that the job reads."""
    database.owner.execute("delete from public.api_credentials where credential_type = 'access_token'")
    holder = str(uuid4())
    begun = project.attempt("keyless_begin", holder=holder, id_token=project.id_token()).json()
    token = make_token()
    done = project.call(
        "keyless_commit",
        ANON_KEY,
        service="kis",
        holder=holder,
        id_token=project.id_token(),
        **commit_arguments(token, begun["fence"]),
    ).json()
    read = project.attempt("keyless_read", id_token=project.id_token()).json()

    assert (begun["status"], done["status"]) == ("granted", "committed")
    slot = parse_slot(read["rows"], None)
    assert (slot.rows["app_key"].value, slot.rows["access_token"].value) == (APP_KEY.key, token.to_json())


def test_errors_reach_a_client(project: Project, database: Database) -> None:
    """Each refusal is an HTTP 400 whose code is the SQLSTATE. The details of KTA04 are an INSERT statement."""
    answer = project.attempt("keyless_read")
    attempts = {
        "KTA01": "x.y.z",
        "KTA02": project.id_token(aud="https://github.com/acme"),
        "KTA03": project.id_token(exp=1, iat=0, nbf=0),
        "KTA04": project.id_token(ref="refs/heads/next"),
    }
    for code, token in attempts.items():
        answer = project.attempt("keyless_read", id_token=token)
        assert error(answer) == (400, code)
        assert token not in answer.text
    assert answer.json()["details"].startswith("insert into public.credential_callers (service_name, access, ")
    database.owner.execute("update public.credential_callers set access = 'keys'")
    assert error(project.attempt("keyless_begin", id_token=project.id_token())) == (400, "KTA05")


def test_twelve_holders_over_http(project: Project, database: Database) -> None:
    """If twelve holders send the same ID token, one holder gets the lease, and eleven holders get KTA06."""
    database.owner.execute("delete from public.api_credentials where credential_type = 'access_token'")
    token = project.id_token()

    with ThreadPoolExecutor(12) as pool:
        answers = list(pool.map(lambda _: project.attempt("keyless_begin", id_token=token), range(12)))

    assert sorted(answer.json().get("code", "granted") for answer in answers) == ["KTA06"] * 11 + ["granted"]
    assert database.outcomes() == ["granted"]
