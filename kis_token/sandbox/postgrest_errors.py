"""PostgREST's errors: their JSON, and the HTTP status for each SQLSTATE.

Source: PostgREST 14, https://docs.postgrest.org/en/v14/references/errors.html
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import psycopg

#: The HTTP status for each SQLSTATE. A key with fewer than five characters is for every SQLSTATE that begins with the
#: key. If several keys of ``_STATUS`` match an SQLSTATE, the longest of these keys gives the status. If no key of
#: ``_STATUS`` matches an SQLSTATE, the status is 400.
_STATUS = {
    "08": 503,
    "09": 500,
    "0L": 403,
    "0P": 403,
    "21000": 500,
    "23503": 409,
    "23505": 409,
    "25": 500,
    "25006": 405,
    "28": 403,
    "2D": 500,
    "38": 500,
    "39": 500,
    "3B": 500,
    "40": 500,
    "42501": 403,
    "42883": 404,
    "42P01": 404,
    "42P17": 500,
    "53": 503,
    "53400": 500,
    "54": 500,
    "55": 500,
    "57": 500,
    "57P01": 503,
    "58": 500,
    "F0": 500,
    "HV": 500,
    "P0": 500,
    "P0001": 400,
    "XX": 500,
}


class ApiError(Exception):
    """An error answer with the JSON ``body``.

    If ``code`` is None, ``body`` has the form of an error of Supabase's gateway.
    """

    def __init__(
        self, status: int, code: str | None, message: str, *, details: str | None = None, hint: str | None = None
    ) -> None:
        super().__init__(message)
        self.status = status
        self.body = {"message": message, "hint": hint}
        if code is not None:
            self.body |= {"code": code, "details": details}


def database_error(error: psycopg.Error, *, anonymous: bool) -> ApiError:
    """Return PostgREST's answer to an error of PostgreSQL or to a broken connection."""
    if error.sqlstate is None:
        message = "Database client error. Retrying the connection."
        return ApiError(503, "PGRST001", message, details=str(error))
    return ApiError(
        status_of(error.sqlstate, anonymous=anonymous),
        error.sqlstate,
        error.diag.message_primary or "",
        details=error.diag.message_detail,
        hint=error.diag.message_hint,
    )


def status_of(sqlstate: str, *, anonymous: bool) -> int:
    """Return the HTTP status for ``sqlstate``.

    If a right is missing, an anonymous client gets status 401, and any other client gets 403.
    """
    if anonymous and sqlstate == "42501":
        return 401
    prefixes = (sqlstate[:length] for length in range(len(sqlstate), 1, -1))
    return next((_STATUS[prefix] for prefix in prefixes if prefix in _STATUS), 400)
