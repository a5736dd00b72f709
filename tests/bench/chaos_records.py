"""Made-up records of a chaos run, for the tests of its judges."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bench.chaos.records import (
    Attempt,
    Begin,
    Call,
    Issued,
    Records,
    Write,
)

if TYPE_CHECKING:
    from bench.chaos.records import Record


DAY = 86400.0
NOW = 1000.0
REFUSED = "tokens handed out that KIS would reject"
ENDED = "handed out after KIS had ended it early"
BESIDE_STORE = "tokenP without a lease, store answered"
HICCUP = "tokenP without a lease, too early"
GAVE_UP = "no token, given up too early"
#: The tokens of KIS: two tokens of the callers' key, an expired token, and a token of another key.
TOKENS = (
    Issued("old", NOW - 9 * 3600, NOW + DAY - 9 * 3600),
    Issued("new", NOW - 3600, NOW + DAY - 3600),
    Issued("expired", NOW - DAY - 1, NOW - 1),
    Issued("other's", NOW - 3600, NOW + DAY - 3600, own=False),
)


def noted(*records: Record, writes: tuple[Write, ...] = ()) -> Records:
    """Return the records of a run with TOKENS and with ``records``."""
    all_of_it = Records(writes=list(writes), machines=2)
    all_of_it.add(*TOKENS, *records)
    return all_of_it


def got(token: str, rejected: str | None = None) -> Attempt:
    """Return an attempt in which caller 0 got a token."""
    return Attempt("0.1.1", 0, "resolve", NOW - 5, NOW, token, "supabase", rejected=rejected)


def call_with_lease(by: str, at: float) -> tuple[Begin, Call]:
    """Return a call of tokenP a second after a grant."""
    return Begin(by, at - 1, "granted", delivered=True), Call(by, at, "new")
