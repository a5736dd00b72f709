"""Errors: stable codes, a remedy for each, and whether a repetition can help."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

import kis_token
from kis_token import errors
from kis_token.errors import (
    ENTRIES,
    KIS_REFUSALS,
    CacheError,
    EnvironmentFault,
    IssuanceError,
    IssuerError,
    IssuerOutage,
    IssuerRateLimited,
    IssuerRefused,
    KisTokenError,
    SettingsError,
    StoreError,
    StoreMisconfigured,
    StoreOutage,
    TokenError,
    TokenUnusable,
)
from kis_token.remedies import REMEDIES

PACKAGE = Path(kis_token.__file__).parent

RETRYABLE = [
    (StoreOutage("store-unreachable", "x"), True),
    (StoreOutage("store-tls", "x", lasting=True), False),
    (StoreOutage("store-restricted", "x", persists=True), False),
    (StoreMisconfigured("store-table-missing", "x"), False),
    (TokenError("seal-broken", "x"), False),
    (TokenUnusable("x"), False),
    (IssuerRefused("EGW00103"), False),
    (IssuerRateLimited("kis-rate-limited", "x"), True),
    (IssuerOutage("kis-unreachable", "x", sent=True), True),
    (IssuanceError("wait-too-long", "x", retryable=True), True),
    (IssuanceError("key-in-two-slots", "x", retryable=False), False),
    (CacheError("cache-unwritable", "x"), False),
    (EnvironmentFault("pip-missing", "x"), False),
    (SettingsError([("invalid-mode", "x")]), False),
]


@pytest.mark.parametrize(("error", "retryable"), RETRYABLE, ids=lambda value: type(value).__name__)
def test_error_says_whether_to_try_again(error: KisTokenError, retryable: bool) -> None:  # noqa: FBT001 - a table's column
    """An error is retryable if, and only if, a later call may succeed without a change by the user."""
    assert error.retryable is retryable


@pytest.mark.parametrize("code", REMEDIES)
def test_error_shows_its_code_and_has_a_remedy(code: str) -> None:
    """The text has the message, the code, the remedy and the entry's address.

    The hint is a sentence, and the code is a word.
    """
    error = KisTokenError(code, "Something is wrong")
    assert error.brief == f"Something is wrong [{code}]"
    assert error.advice == f"Something is wrong [{code}]. {REMEDIES[code]}"
    assert f"{error}" == f"{error.advice} {ENTRIES}#{code}"
    assert error.hint == REMEDIES[code]
    assert re.fullmatch(r"[a-z]+(-[a-z]+)*", code)
    assert re.fullmatch(r"\S.*\S[.?]", error.hint)


def test_unusable_token_has_one_code() -> None:
    """A caller can catch an unusable token by its class, and its code stays token-unusable."""
    error = TokenUnusable("there is no cache file")
    assert isinstance(error, TokenError)
    assert (error.code, error.brief) == ("token-unusable", "there is no cache file [token-unusable]")


def test_missing_function_is_told_from_other_faults() -> None:
    """Only the code store-function-missing means that the database lacks the called function."""
    assert StoreMisconfigured("store-function-missing", "x").is_function_missing
    assert not StoreMisconfigured("store-table-missing", "x").is_function_missing


def test_unknown_code_is_a_programming_error() -> None:
    """An error without a remedy cannot be raised."""
    with pytest.raises(KeyError):
        KisTokenError("no-such-code", "x")


@pytest.mark.parametrize("kis_code", KIS_REFUSALS)
def test_refusal_names_kis_s_own_code(kis_code: str) -> None:
    """The text has KIS's own code. If another caller got the refusal, the text names that caller."""
    error = IssuerRefused(kis_code, ", to another job")
    assert (error.code, error.kis_code) == (KIS_REFUSALS[kis_code][0], kis_code)
    assert f"({kis_code}, to another job)" in f"{error}"


def test_settings_error_holds_every_fault() -> None:
    """The error has the code and text of the first fault, and contains all faults."""
    error = SettingsError([("invalid-mode", "first"), ("invalid-boolean", "second")])
    assert (error.code, error.args[0]) == ("invalid-mode", "first")
    assert [(fault.code, fault.args[0]) for fault in error.faults] == [
        ("invalid-mode", "first"),
        ("invalid-boolean", "second"),
    ]
    assert f"{error}".splitlines() == [f"{fault}" for fault in error.faults]


@pytest.mark.parametrize("doubtful", [True, False])
def test_outage_says_whether_it_may_be_this_machine_s_trouble(doubtful: bool) -> None:  # noqa: FBT001 - a table's column
    """An outage keeps the argument ``doubtful``, which is False by default."""
    assert StoreOutage("store-tls", "x", doubtful=doubtful).doubtful is doubtful
    assert StoreOutage("store-tls", "x").doubtful is False


def test_tree_is_as_drawn() -> None:
    """The classes of errors have the base classes that the module's docstring shows."""
    assert issubclass(StoreOutage, StoreError)
    assert issubclass(StoreMisconfigured, StoreError)
    assert all(issubclass(leaf, IssuerError) for leaf in (IssuerRefused, IssuerRateLimited, IssuerOutage))
    drawn = set(re.findall(r"[├└]── (\w+)", errors.__doc__ or ""))
    defined = {name for name, value in vars(errors).items() if isinstance(value, type) and name != "KisTokenError"}
    assert drawn == defined
    assert all(issubclass(getattr(errors, name), KisTokenError) for name in defined)


def test_every_remedy_is_for_a_code_that_can_occur() -> None:
    """Each remedy belongs to a code that can be raised.

    Some codes that can be raised are built from a name or belong to a class.
    """
    nodes = [
        node
        for path in PACKAGE.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if path.name != "errors.py"
    ]
    texts = {node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)}
    called = {node.func.id for node in nodes if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)}
    texts |= {TokenUnusable("x").code} if TokenUnusable.__name__ in called else set()
    texts |= {f"invalid-{name}" for name in ("environment", "mode", "on-store-outage")}
    texts |= {code for code, _ in KIS_REFUSALS.values()}
    entrypoint = (PACKAGE.parent / "entrypoint.py").read_text(encoding="utf-8")
    assert {code for code in REMEDIES if code not in texts and code not in entrypoint} == set()
