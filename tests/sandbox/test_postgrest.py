"""The PostgREST stand-in, driven by the real Supabase client and by plain HTTP: rows and functions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.sandbox.notes_project import error_of

if TYPE_CHECKING:
    from collections.abc import Callable

    import httpx
    from supabase import Client

pytestmark = pytest.mark.usefixtures("empty_tables")


@pytest.fixture
def rows(service: Client) -> list[dict[str, Any]]:
    """Four rows for the filters."""
    return insert(
        service,
        [
            {"kind": "a", "big": 1, "body": None},
            {"kind": "b", "big": 2, "body": {"x": 1}},
            {"kind": "c", "big": None, "body": None},
            {"kind": "d%", "big": 4, "body": None},
        ],
    )


def insert(client: Client, values: Any) -> list[dict[str, Any]]:  # noqa: ANN401 - one row or several
    """Insert, and return the rows as the table has them."""
    data: Any = client.table("notes").insert(values).execute().data
    return list(data)


@pytest.mark.parametrize(
    ("choose", "expected"),
    [
        (lambda q: q.eq("kind", "b"), "b"),
        (lambda q: q.eq("big", 2), "b"),
        (lambda q: q.neq("kind", "b"), "acd%"),
        (lambda q: q.gt("big", 1), "bd%"),
        (lambda q: q.gte("big", 2), "bd%"),
        (lambda q: q.lt("big", 2), "a"),
        (lambda q: q.lte("big", 2), "ab"),
        (lambda q: q.like("kind", "d%"), "d%"),
        (lambda q: q.like("kind", "*%*"), "abcd%"),
        (lambda q: q.is_("big", None), "c"),
        (lambda q: q.not_.is_("big", None), "abd%"),
        (lambda q: q.in_("kind", ["a", "c", "zz"]), "ac"),
        (lambda q: q.in_("big", [1, 4]), "ad%"),
        (lambda q: q.not_.in_("kind", ["a", "c"]), "bd%"),
        (lambda q: q.in_("kind", []), ""),
        (lambda q: q.eq("slot", "kis").gt("big", 1).lt("big", 4), "b"),
        (lambda q: q.limit(2), "ab"),
        (lambda q: q.range(1, 2), "bc"),
        (lambda q: q, "abcd%"),
    ],
)
def test_filters(service: Client, rows: list[dict[str, Any]], choose: Callable[[Any], Any], expected: str) -> None:
    """Each filter of the client selects the same rows as on Supabase."""
    chosen = choose(service.table("notes").select("kind")).order("id").execute().data

    assert "".join(row["kind"] for row in chosen) == expected
    assert len(rows) == 4


@pytest.mark.parametrize(
    ("order", "expected"),
    [
        (lambda q: q.order("big"), "abd%c"),
        (lambda q: q.order("big", desc=True), "cd%ba"),
        (lambda q: q.order("big", desc=True, nullsfirst=False), "d%bac"),
        (lambda q: q.order("big", nullsfirst=True), "cabd%"),
        (lambda q: q.order("slot").order("id", desc=True), "d%cba"),
    ],
)
def test_order(service: Client, rows: list[dict[str, Any]], order: Callable[[Any], Any], expected: str) -> None:
    """Rows come in the requested order, with nulls first or last as requested."""
    ordered = order(service.table("notes").select("kind")).execute().data

    assert "".join(row["kind"] for row in ordered) == expected
    assert len(rows) == 4


def test_columns(service: Client, rows: list[dict[str, Any]]) -> None:
    """Reads and writes return only the requested columns."""
    assert service.table("notes").select("id", "kind").eq("id", 1).execute().data == [{"id": 1, "kind": "a"}]
    assert service.table("notes").select("*").eq("id", 1).execute().data == rows[:1]
    written = service.table("notes").update({"big": 9}).eq("id", 1).select("id,big").execute().data
    assert written == [{"id": 1, "big": 9}]


HOSTILE = [
    "한국투자증권",
    "100% sure %s %(x)s",
    'it\'s "quoted"',
    "a,b(c)d.e:f",
    "back\\slash\\",
    "{curly}",
    "",
    "NULL",
    "*",
    "line\nbreak\ttab",
    "'; drop table notes; --",
    "eq.x&select=*#",
    "🔑",
]


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text(service: Client, text: str) -> None:
    """Any text is stored, found and listed unchanged."""
    stored = insert(service, {"kind": text, "body": {text: [text]}})

    assert stored[0]["kind"] == text
    assert stored[0]["body"] == {text: [text]}
    assert service.table("notes").select("*").eq("kind", text).execute().data == stored
    assert service.table("notes").select("*").in_("kind", [text, "other"]).execute().data == stored
    assert service.rpc("echo", {"value": {"text": text}}).execute().data == {"text": text}


def test_values(http: httpx.Client) -> None:
    """Values look as PostgreSQL prints them: times in UTC, 64-bit integers in full, JSON as JSON, and null."""
    sent = {"kind": "v", "big": 9223372036854775807, "at": "2026-01-02T03:04:05.600+09:00", "body": {"a": [1, None]}}

    answer = http.post("notes", json=sent, headers={"Prefer": "return=representation"})

    assert answer.headers["Content-Type"] == "application/json; charset=utf-8"
    assert answer.text == (
        '[{"id":1,"slot":"kis","kind":"v","body":{"a": [1, null]},"big":9223372036854775807,'
        '"at":"2026-01-01T18:04:05.6+00:00"}]'
    )


def test_insert_many(service: Client) -> None:
    """The objects of a list may have their keys in any order; a missing key is null."""
    inserted = insert(service, [{"kind": "a", "big": 1}, {"big": 2, "kind": "b"}, {"kind": "c"}])

    assert [(row["kind"], row["big"]) for row in inserted] == [("a", 1), ("b", 2), ("c", None)]
    assert insert(service, []) == []
    assert insert(service, {})[0]["slot"] == "kis"


def test_upsert(service: Client) -> None:
    """An upsert finds its row by given columns or the primary key.

    As requested, the upsert overwrites the given values or keeps the row.
    """
    table = service.table("notes")
    insert(service, {"kind": "k", "big": 1, "body": "old"})

    merged: Any = table.upsert({"slot": "kis", "kind": "k", "big": 2}, on_conflict="slot,kind").execute().data
    ignored = table.upsert(
        {"slot": "kis", "kind": "k", "big": 3}, on_conflict="slot,kind", ignore_duplicates=True
    ).execute()
    by_key: Any = table.upsert([{"id": 1, "big": 4}]).execute().data

    assert (merged[0]["id"], merged[0]["big"], merged[0]["body"]) == (1, 2, "old")
    assert ignored.data == []
    assert (by_key[0]["kind"], by_key[0]["big"]) == ("k", 4)
    assert len(table.select("id").execute().data) == 1


def test_update_and_delete(service: Client, rows: list[dict[str, Any]]) -> None:
    """Update and delete affect only the filtered rows, and return them."""
    updated: Any = service.table("notes").update({"big": 7, "body": {"n": 1}}).in_("kind", ["a", "b"]).execute().data
    deleted: Any = service.table("notes").delete().eq("kind", "c").execute().data

    assert [(row["kind"], row["big"]) for row in updated] == [("a", 7), ("b", 7)]
    assert [row["kind"] for row in deleted] == ["c"]
    assert service.table("notes").update({}).eq("kind", "a").execute().data == []
    assert service.table("notes").update({"big": 7}).eq("kind", "zz").execute().data == []
    assert len(service.table("notes").select("id").execute().data) == len(rows) - 1


def test_minimal_answers(http: httpx.Client) -> None:
    """The answer to a write without return=representation is 201 or 204, without a body."""
    assert [
        (answer.status_code, answer.content)
        for answer in (
            http.post("notes", json={"kind": "a"}),
            http.patch("notes?kind=eq.a", json={"big": 1}),
            http.delete("notes?kind=eq.a", headers={"Prefer": "return=minimal"}),
        )
    ] == [(201, b""), (204, b""), (204, b"")]


def test_single(service: Client, rows: list[dict[str, Any]], http: httpx.Client) -> None:
    """A request for a single row gets an object.

    A request for a single row that finds no or several rows gets PGRST116, and its writes are undone.
    """
    single = {"Accept": "application/vnd.pgrst.object+json", "Prefer": "return=representation"}

    assert service.table("notes").select("*").eq("id", 1).single().execute().data == rows[0]
    none = error_of(service.table("notes").select("*").eq("id", 99).single().execute)
    assert (none.code, none.details) == ("PGRST116", "The result contains 0 rows")
    several = http.patch("notes?id=gt.1", json={"big": 0}, headers=single)
    assert (several.status_code, several.json()["details"]) == (406, "The result contains 3 rows")
    assert service.table("notes").select("id").eq("big", 0).execute().data == []
    maybe = service.table("notes").select("*").eq("id", 99).maybe_single().execute()
    assert maybe is None


@pytest.mark.parametrize(
    ("function", "arguments", "expected"),
    [
        ("add", {"a": 1}, 11),
        ("add", {"b": 2, "a": 1}, 3),
        ("add", {"a": None}, None),
        ("echo", {"value": {"k": ["한글", 1.5, None]}}, {"k": ["한글", 1.5, None]}),
        ("echo", {"value": None}, None),
        ("echo_time", {"value": "2026-01-02T03:04:05+09:00"}, "2026-01-01T18:04:05+00:00"),
        ("numbers", {"up_to": 3}, [1, 2, 3]),
        ("numbers", {"up_to": 0}, []),
        ("squares", {"up_to": 2}, [{"square": 1}, {"square": 4}]),
        ("extremes", {"a": 2, "b": 1}, {"low": 1, "high": 2}),
        ("who", {}, "service_role"),
    ],
)
def test_functions(service: Client, function: str, arguments: dict[str, Any], expected: object) -> None:
    """A client gives a function's arguments by name, and gets the function's result as JSON."""
    assert service.rpc(function, arguments).execute().data == expected


def test_functions_of_other_kinds(http: httpx.Client, service: Client) -> None:
    """The answer to a void function is 204 without a body. The answer to a function with a row type is an object."""
    insert(service, {"kind": "last"})

    nothing = http.post("rpc/nothing")

    assert (nothing.status_code, nothing.content) == (204, b"")
    assert http.post("rpc/newest", json={}).json()["kind"] == "last"
