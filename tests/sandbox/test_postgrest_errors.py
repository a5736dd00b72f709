"""The PostgREST stand-in answers errors with PostgREST's status, code and text."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from kis_token.sandbox.postgrest_errors import status_of
from tests.sandbox.notes_project import error_of

if TYPE_CHECKING:
    import httpx
    from supabase import Client

pytestmark = pytest.mark.usefixtures("empty_tables")


def test_unknown_function(service: Client) -> None:
    """A wrong name, a wrong argument and a missing argument get PGRST202; two matching functions get PGRST203."""
    wrong_name = error_of(service.rpc("nope", {"b": 1, "a": 2}).execute)
    wrong_argument = error_of(service.rpc("add", {"a": 1, "c": 2}).execute)
    missing_argument = error_of(service.rpc("add", {}).execute)
    ambiguous = error_of(service.rpc("same", {"a": "1"}).execute)

    assert wrong_name.code == wrong_argument.code == missing_argument.code == "PGRST202"
    assert wrong_name.message == "Could not find the function public.nope(a, b) in the schema cache"
    assert missing_argument.message == "Could not find the function public.add without parameters in the schema cache"
    assert ambiguous.code == "PGRST203"
    assert str(ambiguous.message).endswith("public.same(a => integer), public.same(a => text)")


@pytest.mark.parametrize(
    ("method", "path", "body", "expected"),
    [
        ("GET", "nope", None, (404, "PGRST205")),
        ("GET", "notes?nope=eq.1", None, (400, "42703")),
        ("GET", "notes?select=nope", None, (400, "42703")),
        ("GET", "notes?id=eq.x", None, (400, "22P02")),
        ("GET", "notes?id=1", None, (400, "PGRST100")),
        ("GET", "notes?id=in.1,2", None, (400, "PGRST100")),
        ("GET", 'notes?kind=in.("a"b)', None, (400, "PGRST100")),
        ("GET", "notes?order=id.up", None, (400, "PGRST100")),
        ("GET", "notes?limit=x", None, (400, "PGRST100")),
        ("GET", "private_notes", None, (403, "42501")),
        ("GET", "writing", None, (405, "25006")),
        ("PUT", "notes", "{}", (405, "PGRST117")),
        ("GET", "rpc/who", None, (405, "PGRST117")),
        ("GET", "a/b", None, (404, "PGRST125")),
        ("GET", "", None, (404, "PGRST125")),
        ("POST", "notes", "{", (400, "PGRST102")),
        ("POST", "notes", "", (400, "PGRST102")),
        ("POST", "notes", "7", (400, "PGRST102")),
        ("POST", "notes", '[{"kind": "a"}, {"big": 1}]', (400, "PGRST102")),
        ("POST", "rpc/add", "[1]", (400, "PGRST102")),
        ("POST", "notes", '{"nope": 1}', (400, "PGRST204")),
        ("POST", "notes?columns=nope", '[{"nope": 1}]', (400, "PGRST204")),
        ("PATCH", "notes?id=eq.1", '{"nope": 1}', (400, "PGRST204")),
        ("POST", "notes", '{"slot": null}', (400, "23502")),
        ("POST", "public_notes", '{"id": 1, "visible": true}', (409, "23505")),
        ("POST", "children", '{"id": 1, "parent": 99}', (409, "23503")),
        ("PATCH", "notes", '{"big": 1}', (400, "21000")),
        ("DELETE", "notes", None, (400, "21000")),
        ("POST", "rpc/add", '{"a": "x"}', (400, "22P02")),
        ("POST", "rpc/refuse", '{"code": "P0001", "said": "x"}', (400, "P0001")),
        ("POST", "rpc/refuse", '{"code": "55P03", "said": "x"}', (500, "55P03")),
        ("POST", "rpc/refuse", '{"code": "57014", "said": "x"}', (500, "57014")),
        ("POST", "rpc/refuse", '{"code": "53300", "said": "x"}', (503, "53300")),
    ],
)
def test_errors(http: httpx.Client, method: str, path: str, body: str | None, expected: tuple[int, str]) -> None:
    """Every error has PostgREST's status and code, in a body of PostgREST's four members."""
    answer = http.request(method, path, content=body)

    assert (answer.status_code, answer.json()["code"]) == expected
    assert answer.json().keys() == {"code", "details", "hint", "message"}


def test_errors_carry_the_text_of_the_database(service: Client) -> None:
    """Message, detail and hint of an exception reach the client unchanged."""
    error = error_of(service.rpc("refuse", {"code": "P0001", "said": "안 돼요 100%"}).execute)

    assert (error.code, error.message, error.details, error.hint) == ("P0001", "안 돼요 100%", "the detail", "the hint")


@pytest.mark.parametrize(
    ("sqlstate", "anonymous", "status"),
    [
        ("08006", False, 503),
        ("25006", False, 405),
        ("25P02", False, 500),
        ("40001", False, 500),
        ("42501", False, 403),
        ("42501", True, 401),
        ("42883", False, 404),
        ("42P01", False, 404),
        ("42P10", False, 400),
        ("53400", False, 500),
        ("57P01", False, 503),
        ("P0002", False, 500),
        ("22P05", False, 400),
    ],
)
def test_status_of_sqlstate(sqlstate: str, anonymous: bool, status: int) -> None:  # noqa: FBT001 - a column of the table
    """Each SQLSTATE has the HTTP status of PostgREST's documentation."""
    assert status_of(sqlstate, anonymous=anonymous) == status


def test_a_request_is_one_transaction(service: Client) -> None:
    """If a function fails, its writes are undone."""
    error_of(service.rpc("keep_and_refuse", {}).execute)

    assert service.table("notes").select("id").execute().data == []
