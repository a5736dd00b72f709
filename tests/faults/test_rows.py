"""Rows of other clients: times in every form, broken values, inactive and duplicate rows."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import timedelta, timezone
from typing import TYPE_CHECKING

import pytest

from kis_token.sandbox.kis_http import TOKEN_PATH, html_response
from kis_token.sandbox.loopback import Fault
from kis_token.sandbox.postgrest import PostgRESTStandIn
from kis_token.token import KST
from tests.faults.helpers import error_of, stored_stays
from tests.resolver_harness import OTHER, expired_token, stale_token
from tests.support import ANON_KEY, APP_KEY, HOUR, MINUTE, SERVICE_KEY, make_token, utc_now

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from datetime import datetime

    from kis_token.token import Token
    from tests.resolver_harness import Chain
    from tests.support import Database

OPAQUE = "opaque.token-of-a-test_0123456789"


def naive(moment: datetime, zone: timezone = KST) -> str:
    """Return local time without an offset, as the guide writes it."""
    return moment.astimezone(zone).replace(tzinfo=None).isoformat()


#: Forms of a token's end in the JSON and in the column. PostgreSQL reads a column value without an offset as UTC.
FORMS: dict[str, Callable[[datetime], tuple[object, str | None]]] = {
    "naive": lambda end: (naive(end), naive(end)),
    "naive-with-a-blank": lambda end: (naive(end).replace("T", " "), naive(end).replace("T", " ")),
    "naive-without-a-column": lambda end: (naive(end), None),
    "naive-in-utc": lambda end: (naive(end, timezone.utc), naive(end, timezone.utc)),
    "epoch-seconds": lambda end: (int(end.timestamp()), None),
    "epoch-as-text": lambda end: (f"{end.timestamp():.6f}", None),
    "z": lambda end: (f"{end:%FT%TZ}", f"{end:%FT%TZ}"),
    "+09:00": lambda end: (end.astimezone(KST).isoformat(), end.astimezone(KST).isoformat()),
    "+0900": lambda end: (f"{end.astimezone(KST):%FT%T%z}", None),
    "microseconds": lambda end: (f"{end:%FT%T.123456}+00:00", f"{end:%FT%T.123456}+00:00"),
    "the-column-alone": lambda end: (None, end.isoformat()),
    "unreadable": lambda end: ("tomorrow", end.isoformat()),
}

form = pytest.mark.parametrize("name", FORMS)


def put(database: Database, name: str, end: datetime) -> None:
    """Store a token that does not contain its own end."""
    member, column = FORMS[name](end)
    database.put("access_token", json.dumps({"access_token": OPAQUE, "expires_at": member, "issued_at": "?"}), column)


@form
def test_a_valid_token_in_any_form(chain: Chain, name: str) -> None:
    """A valid token is used with any form of its end. An end in naive UTC counts as nine hours earlier."""
    end = (utc_now() + 20 * HOUR).replace(microsecond=0)
    put(chain.database, name, end)

    with stored_stays(chain):
        got = chain.resolve()

    assert (got.token.value == OPAQUE, got.source, chain.issue_calls) == (True, "supabase", 0)
    early = 9 * HOUR if name == "naive-in-utc" else timedelta()
    assert end - early <= got.token.expires_at < end - early + timedelta(seconds=1)


@form
@pytest.mark.parametrize("ago", [MINUTE, 8 * HOUR], ids=["1 min", "8 h"])
def test_an_expired_token_in_any_form(chain: Chain, name: str, ago: timedelta) -> None:
    """An expired token is replaced with one tokenP call, even if its naive column is nine hours ahead."""
    put(chain.database, name, utc_now() - ago)

    got = chain.resolve(cache_path="off")
    again = chain.resolve(cache_path="off")

    assert (got.source, again.source, chain.issue_calls) == ("oauth", "supabase", 1)
    assert chain.database.stored_id() == got.token.token_id == again.token.token_id


# rows that cannot be used

BROKEN = {
    "empty": "",
    "half": make_token().to_json()[:100],
    "no-json": "<html>",
    "no-token": '{"expires_at": "2099-01-01T00:00:00Z"}',
    "null": "null",
    "control-characters": '{"access_token": "\\u0000\\n"}',
    "no-expiry": json.dumps({"access_token": OPAQUE}),
    "unreadable-expiry": json.dumps({"access_token": OPAQUE, "expires_at": "tomorrow"}),
    "endless-expiry": json.dumps({"access_token": OPAQUE, "expires_at": "infinity"}),
}

broken = pytest.mark.parametrize("name", BROKEN)


@broken
def test_a_broken_row_is_replaced(chain: Chain, name: str) -> None:
    """A broken row counts as absent: the first caller issues, the next one reads."""
    chain.database.put("access_token", BROKEN[name])

    got = chain.resolve(cache_path="off")
    again = chain.resolve(cache_path="off")

    assert (got.source, got.refreshed, again.source, chain.issue_calls) == ("oauth", True, "supabase", 1)
    assert chain.database.stored_id() == got.token.token_id == again.token.token_id


@broken
def test_a_broken_row_beside_a_cached_token(chain: Chain, name: str) -> None:
    """A fresh cached token replaces the broken row without a call."""
    chain.database.put("access_token", BROKEN[name])
    token = make_token()
    chain.cache_token(token)

    got = chain.resolve()

    assert (got.token.token_id, got.source, chain.issue_calls) == (token.token_id, "cache", 0)
    assert chain.database.stored_id() == token.token_id


@broken
def test_a_broken_row_and_no_kis(chain: Chain, name: str) -> None:
    """If the row is broken and KIS fails, a stale cached token is used, with a warning; the row stays."""
    chain.database.put("access_token", BROKEN[name])
    token = stale_token()
    chain.cache_token(token)
    chain.kis.production.add_fault(Fault("answer", TOKEN_PATH, response=html_response(503)))

    with stored_stays(chain):
        got = chain.resolve()

    assert (got.token.token_id, got.source, len(got.warnings)) == (token.token_id, "cache", 1)


def test_a_jwt_without_any_other_expiry(chain: Chain) -> None:
    """A JWT contains its own end, so the row needs no other end."""
    token = make_token()
    chain.database.put("access_token", json.dumps({"access_token": token.value}))

    got = chain.resolve()

    assert (got.token.expires_at, got.source, chain.issue_calls) == (token.expires_at, "supabase", 0)


# inactive and duplicate rows


def test_an_inactive_token(chain: Chain) -> None:
    """A valid token in an inactive row counts as absent: a caller issues a token, and the row is active again."""
    chain.database.put_token(make_token(), active=False)

    got = chain.resolve(cache_path="off")

    assert (got.source, chain.issue_calls) == ("oauth", 1)
    assert (chain.database.stored_id(), chain.database.row()["is_active"]) == (got.token.token_id, True)
    assert chain.resolve(cache_path="off").source == "supabase"


def test_an_inactive_key(chain: Chain) -> None:
    """If one of the two stored keys is inactive, the stored pair counts as absent, and the given keys are used."""
    chain.database.put_keys(OTHER)
    chain.database.owner.execute("update api_credentials set is_active = false where credential_type = 'app_secret'")

    got = chain.resolve()

    assert (got.source, got.token.app_key_id) == ("oauth", APP_KEY.key_id)


@pytest.fixture
def double(chain: Chain, make_database: Callable[[], Database]) -> Iterator[Chain]:
    """A project whose table was made without the unique constraint."""
    database = make_database()
    database.owner.execute(
        "alter table api_credentials drop constraint api_credentials_service_name_credential_type_key"
    )
    with PostgRESTStandIn(database.project.api, service_key=SERVICE_KEY, anon_key=ANON_KEY) as supabase:
        double = replace(chain, supabase=supabase, database=database, stores=[])
        yield double
        for store in double.stores:
            store.close()


def put_both(database: Database, *tokens: Token) -> None:
    """Store several token rows in one slot."""
    for token in tokens:
        database.owner.execute(
            "insert into api_credentials (service_name, credential_type, credential_value, expires_at)"
            " values ('kis', 'access_token', %s, %s)",
            [token.to_json(), token.expires_at],
        )


@pytest.mark.parametrize("is_last", [True, False], ids=["last", "first"])
def test_a_double_row_with_a_valid_token(double: Chain, *, is_last: bool) -> None:
    """The valid token is found in either order of the two rows, and no row is changed."""
    valid = make_token()
    put_both(double.database, *([expired_token(), valid] if is_last else [valid, expired_token()]))

    with stored_stays(double):
        got = double.resolve()

    assert (got.token.token_id, got.source, double.issue_calls) == (valid.token_id, "supabase", 0)


def test_a_double_row_without_a_valid_token(double: Chain) -> None:
    """If duplicate rows prevent the storing of a token, the error has the database's text, and KIS is not called."""
    put_both(double.database, expired_token(), expired_token())

    with stored_stays(double):
        error = error_of(double)

    assert (error.code, double.issue_calls) == ("store-cannot-store", 0)
    assert "42P10" in error.args[0]
