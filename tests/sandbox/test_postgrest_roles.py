"""Keys and roles of the PostgREST stand-in."""

from __future__ import annotations

from typing import TYPE_CHECKING

import httpx
import pytest

from tests.sandbox.notes_project import ANON_KEY, LEGACY_KEY, SERVICE_KEY, connect, error_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from supabase import Client

    from kis_token.sandbox.postgrest import PostgRESTStandIn

pytestmark = pytest.mark.usefixtures("empty_tables")


@pytest.fixture(scope="module")
def anon(server: PostgRESTStandIn) -> Iterator[Client]:
    """A client with the publishable key."""
    with connect(server.url, ANON_KEY) as client:
        yield client


def test_anon_and_row_level_security(anon: Client, service: Client) -> None:
    """The role anon sees only the rows that policies allow, changes no others, and is refused without a grant."""
    assert anon.rpc("who", {}).execute().data == "anon"
    assert anon.table("public_notes").select("id").execute().data == [{"id": 1}]
    assert anon.table("public_notes").update({"visible": True}).eq("id", 2).execute().data == []
    assert error_of(anon.table("public_notes").insert({"id": 3, "visible": True}).execute).code == "42501"
    assert error_of(anon.table("notes").select("id").execute).code == "42501"
    assert len(service.table("public_notes").select("id").execute().data) == 2


def test_refused_without_grant_has_the_status_of_the_role(server: PostgRESTStandIn) -> None:
    """Without a grant, a request of anon gets 401, and a request of service_role gets 403."""
    statuses = [
        httpx.get(f"{server.url}/rest/v1/private_notes", headers={"apikey": key}).status_code
        for key in (ANON_KEY, SERVICE_KEY)
    ]

    assert statuses == [401, 403]


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({}, (401, None, "No API key found in request")),
        ({"apikey": "sb_secret_wrong"}, (401, None, "Invalid API key")),
        (
            {"apikey": SERVICE_KEY, "Authorization": "Bearer x.y.z"},
            (401, "PGRST301", "No suitable key or wrong key type"),
        ),
        ({"apikey": SERVICE_KEY, "Accept-Profile": "auth"}, (406, "PGRST106", "Invalid schema: auth")),
    ],
)
def test_refused_before_the_database(
    server: PostgRESTStandIn, headers: dict[str, str], expected: tuple[int, str | None, str]
) -> None:
    """A missing or wrong key, a wrong token and a closed schema are refused without a query to the database."""
    answer = httpx.get(f"{server.url}/rest/v1/notes", headers=headers)

    assert (answer.status_code, answer.json().get("code"), answer.json()["message"]) == expected


def test_invalid_key_as_the_client_sees_it(server: PostgRESTStandIn) -> None:
    """The client reports a wrong key with the gateway's text, in its message or (before 2.34) only in its details."""
    with connect(server.url, "sb_secret_wrong") as client:
        error = error_of(client.table("notes").select("id").execute)

    assert "Invalid API key" in str(error.json())


def test_legacy_keys(server: PostgRESTStandIn) -> None:
    """A legacy key works beside the new one. If key and token differ in their role, the token's role counts."""
    mixed = httpx.post(
        f"{server.url}/rest/v1/rpc/who", headers={"apikey": ANON_KEY, "Authorization": f"Bearer {LEGACY_KEY}"}
    )

    with connect(server.url, LEGACY_KEY) as legacy:
        assert legacy.rpc("who", {}).execute().data == "service_role"
    assert mixed.json() == "service_role"


def test_roles_do_not_leak_between_requests(anon: Client, service: Client) -> None:
    """Requests that share a connection keep their own roles, also after an error."""
    for _ in range(3):
        assert service.rpc("who", {}).execute().data == "service_role"
        error_of(service.rpc("refuse", {"code": "P0001", "said": "x"}).execute)
        assert anon.rpc("who", {}).execute().data == "anon"
