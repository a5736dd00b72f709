"""A call of a function of sql/, and its answer. Each field of the answer is checked when it is read."""

from __future__ import annotations

import json

from kis_token.errors import StoreOutage
from kis_token.store.http_exchange import one_line
from kis_token.store.slot_query import check_answer, key_headers
from kis_token.token import parse_instant

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime
    from typing import Any, TypeVar

    from kis_token.store.http_exchange import Wire

    _Word = TypeVar("_Word", bound=str)


def foreign(function: str) -> StoreOutage:
    """The error for an answer to ``function`` from a program other than PostgreSQL, such as a proxy's page."""
    return StoreOutage("store-unreachable", f"The answer to {function} is not Supabase's")


def call_function(wire: Wire, key: str, function: str, arguments: Mapping[str, object], *, seconds: float) -> object:
    """Call ``function`` in one request of at most ``seconds``. Return the answer as JSON; None if it is not JSON.

    Raises StoreOutage and StoreMisconfigured.
    """
    answer = wire.exchange(
        "POST",
        f"/rest/v1/rpc/{function}",
        {**key_headers(key), "Accept": "application/json", "Content-Type": "application/json"},
        seconds=seconds,
        body=json.dumps(arguments).encode(),
    )
    check_answer(answer, key)
    return answer.json()


class RpcAnswer:
    """The JSON object with which ``function`` answered. The object must have each field that ``needed`` names.

    The constructor and every method may raise StoreOutage.

    Attributes:
        fields: the JSON object.
    """

    def __init__(self, function: str, answer: object, needed: tuple[str, ...] = ("status", "server_now")) -> None:
        if not isinstance(answer, dict) or not answer.keys() >= set(needed):
            raise foreign(function)
        self.fields: dict[str, Any] = answer
        self._function = function

    def outage(self) -> StoreOutage:
        """The error for an answer from a program other than PostgreSQL."""
        return foreign(self._function)

    def lists(self, name: str) -> bool:
        """Whether the answer has the field ``name``. The field may be null."""
        return name in self.fields

    def has(self, name: str) -> bool:
        """Whether the answer has the field ``name`` and the field is not null."""
        return self.fields.get(name) is not None

    def one_of(self, *statuses: _Word) -> _Word:
        """The answer's status, which must be one of ``statuses``."""
        for status in statuses:
            if self.fields.get("status") == status:
                return status
        raise self.outage()

    def text(self, name: str) -> str | None:
        """The text in the field ``name``; None if the field is missing or null."""
        value = self.fields.get(name)
        if value is not None and not isinstance(value, str):
            raise self.outage()
        return value

    def line(self, name: str) -> str | None:
        """The text in the field ``name``, made safe for a log; None if the field is missing or null."""
        text = self.text(name)
        return None if text is None else one_line(text, 200)

    def number(self, name: str) -> int | None:
        """The integer in the field ``name``; None if the field is missing or null."""
        value = self.fields.get(name)
        if value is not None and (not isinstance(value, int) or isinstance(value, bool)):
            raise self.outage()
        return value

    def texts(self, name: str) -> frozenset[str]:
        """The texts in the field ``name``, from a list or a single text; empty if the field is missing or null."""
        value = self.fields.get(name)
        return frozenset(each for each in (value if isinstance(value, list) else [value]) if isinstance(each, str))

    def is_true(self, name: str) -> bool:
        """Whether the field ``name`` is true."""
        return self.fields.get(name) is True

    def time(self, name: str) -> datetime:
        """The time in the field ``name``. The field must be present."""
        try:
            return parse_instant(self.fields.get(name))
        except ValueError:
            raise self.outage() from None

    def expect_objects(self, *names: str) -> None:
        """Check that each field is a list of JSON objects."""
        for name in names:
            value = self.fields.get(name)
            if not isinstance(value, list) or not all(isinstance(each, dict) for each in value):
                raise self.outage()
