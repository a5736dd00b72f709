"""Emulates Supabase's REST interface: the part of PostgREST and of its gateway that this project uses.

Each request becomes one transaction with the role of the request's key. All values in the emulator's answers, and the
texts of database errors, come from PostgreSQL. The Supabase emulator reads the schema for each request, so it has no
cache of the schema. The Supabase emulator does not support these parts of PostgREST: embedded resources, casts and JSON
paths in ``select``, filters with ``or``, counts, GET on functions, and tokens of users.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

import psycopg
from psycopg import sql

from kis_token.sandbox.loopback import LoopbackServer, Request, Response
from kis_token.sandbox.postgrest_errors import ApiError, database_error
from kis_token.sandbox.postgrest_pool import ConnectionPool
from kis_token.sandbox.postgrest_query import SCHEMA, Query, find_table
from kis_token.sandbox.postgrest_rpc import find_function
from kis_token.settings.pasted_values import parse_claims

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Collection, Mapping

    from typing_extensions import Self

    from kis_token.sandbox.postgrest_pool import Connection

_BASE = "/rest/v1/"
_SINGLE = "application/vnd.pgrst.object+json"

# The statement with which a transaction takes a role, as in PostgREST. A local setting ends with the transaction, so a
# connection never keeps a role.
_BECOME = """
    select set_config('role', %(role)s, true),
           set_config('search_path', 'public, extensions', true),
           set_config('request.jwt.claims', %(claims)s, true)
"""

# PostgreSQL makes the JSON, so that every value has the same form as on Supabase.
_ROWS = sql.SQL("""
    with pgrst_source as ({})
    select coalesce(json_agg(pgrst_source), '[]')::text, (json_agg(pgrst_source) -> 0)::text, count(*) from pgrst_source
""")
_CALL = sql.SQL("""
    select coalesce(json_agg(pgrst_call), '[]')::text, coalesce((json_agg(pgrst_call) -> 0)::text, 'null') from {}
""")


class PostgRESTStandIn:
    """Serves the database of ``dsn`` over HTTP. The user of ``dsn`` may take the roles anon and service_role.

    Use this class in a ``with`` block, or call ``start`` and ``stop``. ``start`` and ``stop`` can be repeated, and the
    port stays the same. The attribute ``server`` logs the requests, and ``server.add_fault`` adds a fault.
    ``further_keys`` maps further keys, such as legacy keys, to their roles.
    """

    def __init__(
        self,
        dsn: str,
        *,
        service_key: str,
        anon_key: str,
        further_keys: Mapping[str, str] | None = None,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.server = LoopbackServer(self._handle, tls=tls)
        self._roles = {service_key: "service_role", anon_key: "anon", **(further_keys or {})}
        self._dsn = dsn
        self._pool = ConnectionPool(dsn)

    @property
    def url(self) -> str:
        """The value for SUPABASE_URL. Before the first ``start``, the port in this URL is 0."""
        return self.server.url

    def start(self) -> None:
        """Listen, unless the server is already listening."""
        self.server.start()

    def stop(self) -> None:
        """Refuse connections from now on, and disconnect from the database."""
        self.server.stop()
        self._pool.close()
        self._pool = ConnectionPool(self._dsn)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _handle(self, request: Request) -> Response:
        try:
            return self._answer(request)
        except ApiError as error:
            return Response(error.status, error.body)

    def _answer(self, request: Request) -> Response:
        claims = self._claims(request)
        role = claims["role"]
        _check_schema(request)
        kind, _, name = unquote(request.path.removeprefix(_BASE)).rpartition("/")
        if not request.path.startswith(_BASE) or kind not in ("", "rpc") or not name:
            raise ApiError(404, "PGRST125", "Invalid path specified in request URL")
        serve = _SERVED.get((kind, request.method))
        if serve is None:
            raise ApiError(405, "PGRST117", f"Unsupported HTTP method: {request.method}")
        with self._pool.connection() as connection:
            try:
                with connection.transaction():
                    connection.execute(_BECOME, {"role": role, "claims": json.dumps(claims)})
                    return serve(connection, name, request)
            except psycopg.Error as error:
                raise database_error(error, anonymous=role == "anon") from error

    def _claims(self, request: Request) -> dict[str, object]:
        """Return the role of the request's key and, if the key is a JWT, the claims of the key."""
        role = self._role(request)
        _, _, token = request.headers.get("Authorization", "").partition(" ")
        return {**parse_claims(token), "role": role}

    def _role(self, request: Request) -> str:
        """Return the role that Supabase's gateway gives to the request's key.

        Raises ApiError 401 for an unknown key.
        """
        key = request.headers.get("apikey")
        if not key:
            raise ApiError(
                401,
                None,
                "No API key found in request",
                hint="No `apikey` request header or url param was found.",
            )
        if key not in self._roles:
            raise ApiError(
                401,
                None,
                "Invalid API key",
                hint="Double check your Supabase `anon` or `service_role` API key.",
            )
        scheme, _, token = request.headers.get("Authorization", f"Bearer {key}").partition(" ")
        if scheme.lower() != "bearer" or token not in self._roles:
            raise ApiError(
                401,
                "PGRST301",
                "No suitable key or wrong key type",
                details="None of the keys was able to decode the JWT",
            )
        return self._roles[token]


@dataclass(frozen=True, slots=True)
class _Preferences:
    """The settings in the header Prefer."""

    representation: bool
    resolution: str

    @classmethod
    def of(cls, request: Request) -> Self:
        stated = ",".join(request.headers.get_all("Prefer", [])).split(",")
        preferences = dict(item.strip().partition("=")[::2] for item in stated)
        return cls(preferences.get("return") == "representation", preferences.get("resolution", ""))


def _read(connection: Connection, name: str, request: Request) -> Response:
    connection.execute("set transaction read only")
    query = Query(find_table(connection, name), request.query)
    return _rows(connection, query.read(), request, 200)


def _insert(connection: Connection, name: str, request: Request) -> Response:
    query, preferences = Query(find_table(connection, name), request.query), _Preferences.of(request)
    text, body = _json(request)
    rows = [body] if isinstance(body, dict) else body
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise ApiError(400, "PGRST102", "Empty or invalid json")
    keys = rows[0] if rows else {}
    if any(row.keys() != keys.keys() for row in rows) and "columns" not in dict(request.query):
        raise ApiError(400, "PGRST102", "All object keys must match")
    statement = query.insert(
        text if rows is body else f"[{text}]", keys, preferences.resolution, returning=preferences.representation
    )
    return _written(connection, statement, request, 201)


def _update(connection: Connection, name: str, request: Request) -> Response:
    query = Query(find_table(connection, name), request.query)
    text, keys = _json_object(request)
    statement = query.update(text, keys, returning=_Preferences.of(request).representation)
    return _written(connection, statement, request, 200)


def _delete(connection: Connection, name: str, request: Request) -> Response:
    query = Query(find_table(connection, name), request.query)
    return _written(connection, query.delete(returning=_Preferences.of(request).representation), request, 200)


def _call(connection: Connection, name: str, request: Request) -> Response:
    text, keys = _json_object(request) if request.body else ("{}", ())
    function = find_function(connection, name, keys)
    rows, first = _one(connection, _CALL.format(function.call(text, keys)))
    if function.returns_void:
        return Response(204)
    return Response(200, (rows if function.returns_set else first).encode())


#: Maps a path and an HTTP method to the function that answers the request. The path is "rpc" for the call of a
#: function, and empty for a request on a table.
_SERVED: dict[tuple[str, str], Callable[[Connection, str, Request], Response]] = {
    ("", "GET"): _read,
    ("", "POST"): _insert,
    ("", "PATCH"): _update,
    ("", "DELETE"): _delete,
    ("rpc", "POST"): _call,
}


def _written(connection: Connection, statement: sql.Composed, request: Request, status: int) -> Response:
    """Run a statement that writes. The answer has the written rows if the header Prefer asks for them."""
    if _Preferences.of(request).representation:
        return _rows(connection, statement, request, status)
    connection.execute(statement)
    return Response(status if status == 201 else 204)


def _rows(connection: Connection, statement: sql.Composed, request: Request, status: int) -> Response:
    rows, first, count = _one(connection, _ROWS.format(statement))
    if _SINGLE not in request.headers.get("Accept", ""):
        return Response(status, rows.encode())
    if count != 1:
        message = "Cannot coerce the result to a single JSON object"
        raise ApiError(406, "PGRST116", message, details=f"The result contains {count} rows")
    return Response(status, first.encode())


def _one(connection: Connection, statement: sql.Composed) -> tuple[Any, ...]:
    """Return the row of a statement that always returns exactly one row."""
    return connection.execute(statement).fetchall()[0]


def _json(request: Request) -> tuple[str, Any]:
    """Return the body as text, and its JSON value."""
    try:
        return request.body.decode(), request.json()
    except ValueError:
        raise ApiError(400, "PGRST102", "Empty or invalid json") from None


def _json_object(request: Request) -> tuple[str, Collection[str]]:
    """Return the body as text, and the keys of its JSON object."""
    text, body = _json(request)
    if not isinstance(body, dict):
        raise ApiError(400, "PGRST102", "Empty or invalid json")
    return text, body.keys()


def _check_schema(request: Request) -> None:
    """Raise PGRST106 if the client asks for a schema that is not exposed."""
    header = "Accept-Profile" if request.method == "GET" else "Content-Profile"
    schema = request.headers.get(header, SCHEMA)
    if schema != SCHEMA:
        hint = f"Only the following schemas are exposed: {SCHEMA}"
        raise ApiError(406, "PGRST106", f"Invalid schema: {schema}", hint=hint)
