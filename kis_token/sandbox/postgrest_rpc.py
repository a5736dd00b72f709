"""Translates a function's name and JSON arguments into an SQL call, as PostgREST does."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from psycopg import sql

from kis_token.sandbox.postgrest_errors import ApiError
from kis_token.sandbox.postgrest_query import SCHEMA

if TYPE_CHECKING:
    from collections.abc import Iterable

    from psycopg import Connection

# In ``proargmodes``, the modes o and t mark output arguments (OUT and TABLE). A call passes no output arguments, so the
# query leaves them out. Arguments with a default value come last.
_FUNCTIONS = """
    select a.names, a.types,
           p.pronargs - p.pronargdefaults,
           p.proretset,
           p.prorettype = 'pg_catalog.void'::regtype,
           coalesce(p.proargmodes && '{o,b,t}', false)
      from pg_catalog.pg_proc p
     cross join lateral (
            select coalesce(array_agg(coalesce(name, '') order by i), '{}') as names,
                   coalesce(array_agg(pg_catalog.format_type(type, null) order by i), '{}') as types
              from unnest(p.proargnames, p.proargmodes, coalesce(p.proallargtypes, p.proargtypes::oid[]))
                   with ordinality as argument (name, mode, type, i)
             where coalesce(mode, 'i') in ('i', 'b', 'v')) a
     where p.pronamespace = %s::regnamespace and p.proname = %s and p.prokind = 'f'
"""


@dataclass(frozen=True, slots=True)
class Function:
    """A function of the schema ``public``, with the arguments that it has in the database now."""

    name: str
    arguments: tuple[tuple[str, str], ...]
    required: int
    returns_set: bool
    returns_void: bool
    names_results: bool

    def takes(self, names: set[str]) -> bool:
        """Return whether the function can be called with exactly the arguments ``names``."""
        arguments = [name for name, _ in self.arguments]
        return set(arguments[: self.required]) <= names <= set(arguments)

    def call(self, arguments: str, names: Iterable[str]) -> sql.Composed:
        """Return the call as an item of a ``from`` clause, with the alias ``pgrst_call``.

        ``arguments`` is a JSON object, and ``names`` are its keys.
        """
        given = [(sql.Identifier(name), sql.SQL(kind)) for name, kind in self.arguments if name in set(names)]
        call = sql.SQL("{}({})").format(
            sql.Identifier(SCHEMA, self.name),
            sql.SQL(", ").join(sql.SQL("{0} => body.{0}").format(name) for name, _ in given),
        )
        if self.names_results:
            # If a function has only one output argument, PostgreSQL would give the result column the alias
            # ``pgrst_call`` as its name. With the inner select, the result column has the name of the output argument.
            call = sql.SQL("(select * from {})").format(call)
        if not given:
            return call + sql.SQL(" pgrst_call")
        # The names of the types come from PostgreSQL's catalogue, so they need no quoting.
        columns = sql.SQL(", ").join(sql.SQL("{} {}").format(name, kind) for name, kind in given)
        return sql.SQL("json_to_record({}) as body ({}), lateral {} pgrst_call").format(
            sql.Literal(arguments), columns, call
        )


def find_function(connection: Connection[Any], name: str, arguments: Iterable[str]) -> Function:
    """Return the one function ``name`` that accepts ``arguments``.

    Raises PGRST202 if no function accepts the arguments, and PGRST203 if several functions accept them.
    """
    names = sorted(arguments)
    rows = connection.execute(_FUNCTIONS, (SCHEMA, name)).fetchall()
    functions = [Function(name, tuple(zip(row[0], row[1], strict=True)), *row[2:]) for row in rows]
    fitting = [function for function in functions if function.takes(set(names))]
    if len(fitting) == 1:
        return fitting[0]
    if fitting:
        signatures = (", ".join(f"{name} => {kind}" for name, kind in function.arguments) for function in fitting)
        candidates = ", ".join(f"{SCHEMA}.{name}({signature})" for signature in signatures)
        raise ApiError(300, "PGRST203", f"Could not choose the best candidate function between: {candidates}")
    if names:
        asked = f"{SCHEMA}.{name}({', '.join(names)})"
        searched = f"{SCHEMA}.{name} with parameter{'s' if len(names) > 1 else ''} {', '.join(names)}"
    else:
        asked = searched = f"{SCHEMA}.{name} without parameters"
    raise ApiError(
        404,
        "PGRST202",
        f"Could not find the function {asked} in the schema cache",
        details=f"Searched for the function {searched} or with a single unnamed json/jsonb parameter, "
        "but no matches were found in the schema cache.",
    )
