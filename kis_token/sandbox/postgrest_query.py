"""A request on a table, translated from PostgREST's query language into SQL."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from psycopg import sql

from kis_token.sandbox.postgrest_errors import ApiError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from psycopg import Connection

SCHEMA = "public"

_COMPARISONS = {"eq": "=", "neq": "<>", "gt": ">", "gte": ">=", "lt": "<", "lte": "<=", "like": "like"}
_IS = {"null", "not_null", "true", "false", "unknown"}
_ORDER = {"asc": "asc", "desc": "desc", "nullsfirst": "nulls first", "nullslast": "nulls last"}
_NOT_FILTERS = {"select", "order", "limit", "offset", "columns", "on_conflict"}
_ELEMENT = re.compile(r'"((?:[^"\\]|\\.)*)"|([^,"]*)', re.DOTALL)


@dataclass(frozen=True, slots=True)
class Table:
    """A table or view of the schema ``public``, with the columns that it has in the database now."""

    name: str
    columns: tuple[str, ...]
    primary_key: tuple[str, ...]

    @property
    def identifier(self) -> sql.Identifier:
        """The qualified name of the table."""
        return sql.Identifier(SCHEMA, self.name)

    def column(self, name: str) -> sql.Identifier:
        """Return the qualified name of a column. PostgreSQL raises 42703 if the column does not exist."""
        return sql.Identifier(SCHEMA, self.name, name)

    def check(self, columns: Iterable[str]) -> None:
        """Raise PGRST204 for the first of ``columns`` that the table does not have."""
        for name in columns:
            if name not in self.columns:
                raise ApiError(
                    400, "PGRST204", f"Could not find the '{name}' column of '{self.name}' in the schema cache"
                )


def find_table(connection: Connection[Any], name: str) -> Table:
    """Return the table ``name``. Raises PGRST205 if the table does not exist."""
    row = connection.execute(
        """
        select array(select a.attname::text from pg_catalog.pg_attribute a
                      where a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped order by a.attnum),
               array(select a.attname::text from pg_catalog.pg_index i
                       join pg_catalog.pg_attribute a on a.attrelid = i.indrelid and a.attnum = any (i.indkey)
                      where i.indrelid = c.oid and i.indisprimary)
          from pg_catalog.pg_class c
         where c.relnamespace = %s::regnamespace and c.relname = %s and c.relkind in ('r', 'p', 'v', 'm', 'f')
        """,
        (SCHEMA, name),
    ).fetchone()
    if row is None:
        raise ApiError(404, "PGRST205", f"Could not find the table '{SCHEMA}.{name}' in the schema cache")
    return Table(name, tuple(row[0]), tuple(row[1]))


@dataclass(frozen=True, slots=True)
class Query:
    """The query string of a request on ``table``.

    Every public method returns one SQL statement, or raises ApiError. If ``returning`` is true, the SQL statement
    returns the rows that it writes. If ``returning`` is false, a role that may write but not read can run the SQL
    statement.
    """

    table: Table
    parameters: tuple[tuple[str, str], ...]

    def read(self) -> sql.Composed:
        """Return the SQL statement for a GET request."""
        return sql.SQL("select {} from {}{}{}{}").format(
            self._selected(), self.table.identifier, self._where(), self._order(), self._limits()
        )

    def insert(self, rows: str, keys: Iterable[str], resolution: str, *, returning: bool) -> sql.Composed:
        """Return the SQL statement that inserts the JSON array ``rows``, whose objects have ``keys``.

        ``resolution`` is ``merge-duplicates`` or ``ignore-duplicates`` for an upsert, and empty for a plain insert.
        """
        columns = _split(self._last("columns")) or list(keys)
        self.table.check(columns)
        names = _comma(map(sql.Identifier, columns))
        return (
            sql.SQL(
                "insert into {table}{into} select {names} from json_populate_recordset(null::{table}, {rows})"
            ).format(
                table=self.table.identifier,
                into=sql.SQL(" ({})").format(names) if columns else sql.SQL(""),
                names=names,
                rows=sql.Literal(rows),
            )
            + self._on_conflict(columns, resolution)
            + self._returning(returning)
        )

    def update(self, row: str, keys: Iterable[str], *, returning: bool) -> sql.Composed:
        """Return the SQL statement that sets ``keys`` of the filtered rows to the values of the JSON object ``row``."""
        columns = list(keys)
        self.table.check(columns)
        where = self._required_where("UPDATE")
        if not columns:
            return sql.SQL("select {} from {} where false").format(self._selected(), self.table.identifier)
        changes = _comma(sql.SQL("{0} = body.{0}").format(sql.Identifier(name)) for name in columns)
        return (
            sql.SQL("update {table} set {changes} from json_populate_record(null::{table}, {row}) body").format(
                table=self.table.identifier, changes=changes, row=sql.Literal(row)
            )
            + where
            + self._returning(returning)
        )

    def delete(self, *, returning: bool) -> sql.Composed:
        """Return the SQL statement that deletes the rows that match the filters."""
        where = self._required_where("DELETE")
        return sql.SQL("delete from {}").format(self.table.identifier) + where + self._returning(returning)

    def _last(self, name: str) -> str:
        return dict(self.parameters).get(name, "")

    def _selected(self) -> sql.Composable:
        columns = _split(self._last("select"))
        if not columns or columns == ["*"]:
            return sql.SQL("{}.*").format(self.table.identifier)
        return _comma(map(self.table.column, columns))

    def _returning(self, wanted: bool) -> sql.Composed:  # noqa: FBT001 - passes on a keyword
        return sql.SQL(" returning {}").format(self._selected() if wanted else sql.SQL("1"))

    def _on_conflict(self, columns: list[str], resolution: str) -> sql.Composed:
        target = _split(self._last("on_conflict")) or list(self.table.primary_key)
        if not resolution or not target:
            return sql.Composed([])
        changes = _comma(sql.SQL("{0} = excluded.{0}").format(sql.Identifier(name)) for name in columns)
        merge = columns and resolution == "merge-duplicates"
        return sql.SQL(" on conflict ({}) do {}").format(
            _comma(map(sql.Identifier, target)), sql.SQL("update set ") + changes if merge else sql.SQL("nothing")
        )

    def _required_where(self, command: str) -> sql.Composed:
        where = self._where()
        if not where.as_string():
            # Supabase loads the extension safeupdate, which refuses an UPDATE or DELETE without a WHERE clause.
            raise ApiError(400, "21000", f"{command} requires a WHERE clause")
        return where

    def _where(self) -> sql.Composed:
        filters = [self._filter(name, value) for name, value in self.parameters if name not in _NOT_FILTERS]
        return sql.SQL(" where ") + sql.SQL(" and ").join(filters) if filters else sql.Composed([])

    def _filter(self, name: str, value: str) -> sql.Composed:
        negation, rest = (sql.SQL("not "), value[4:]) if value.startswith("not.") else (sql.SQL(""), value)
        operator, _, operand = rest.partition(".")
        if operator in _COMPARISONS:
            # As in PostgREST, the SQL literal of the operand has no type. So PostgreSQL gives the literal the type of
            # the column.
            condition = sql.SQL(_COMPARISONS[operator] + " {}").format(sql.Literal(_wildcards(operator, operand)))
        elif operator == "is" and operand in _IS:
            condition = sql.SQL("is " + operand.replace("_", " ")).format()
        elif operator == "in" and operand.startswith("(") and operand.endswith(")"):
            condition = sql.SQL("= any ({})").format(sql.Literal(_array(_split(operand[1:-1]))))
        else:
            raise _not_understood("filter", value)
        (column,) = _split(name)
        return negation + self.table.column(column) + sql.SQL(" ") + condition

    def _order(self) -> sql.Composed:
        terms = [self._order_term(term) for term in _split(self._last("order"))]
        return sql.SQL(" order by ") + sql.SQL(", ").join(terms) if terms else sql.Composed([])

    def _order_term(self, term: str) -> sql.Composed:
        column, *modifiers = term.split(".")
        if not all(modifier in _ORDER for modifier in modifiers):
            raise _not_understood("order", term)
        return sql.SQL(" ").join([self.table.column(column), *(sql.SQL(_ORDER[modifier]) for modifier in modifiers)])

    def _limits(self) -> sql.Composed:
        clauses = sql.Composed([])
        for name, keyword in (("limit", " limit "), ("offset", " offset ")):
            value = self._last(name)
            if value and not value.isdecimal():
                raise _not_understood(name, value)
            clauses += sql.SQL(keyword) + sql.SQL("{}").format(int(value)) if value else sql.Composed([])
        return clauses


def _comma(parts: Iterable[sql.Composable]) -> sql.Composed:
    return sql.SQL(", ").join(parts)


def _wildcards(operator: str, operand: str) -> str:
    """Replace ``*`` by ``%``, as PostgREST does for a pattern in a URL."""
    return operand.replace("*", "%") if operator == "like" else operand


def _array(values: Iterable[str]) -> str:
    """Return an array literal of PostgreSQL. The elements may contain any character."""
    return "{" + ",".join('"' + re.sub(r'(["\\])', r"\\\1", value) + '"' for value in values) + "}"


def _split(text: str) -> list[str]:
    """Split ``text`` at its commas, but not at commas within double quotes.

    Within double quotes, the character after a backslash belongs to the value.
    """
    parts: list[str] = []
    position = 0
    while text and position <= len(text):
        match = _ELEMENT.match(text, position)
        if match is None or text[match.end() : match.end() + 1] not in ("", ","):
            raise _not_understood("list", text)
        quoted, plain = match.groups()
        parts.append(plain if quoted is None else re.sub(r"\\(.)", r"\1", quoted, flags=re.DOTALL))
        position = match.end() + 1
    return parts


def _not_understood(what: str, text: str) -> ApiError:
    return ApiError(400, "PGRST100", f'"failed to parse {what} ({text})" (line 1, column 1)')
