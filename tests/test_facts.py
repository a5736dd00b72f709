"""Facts with copies in SQL, shell and Python: all copies agree, and no literal in Python repeats a named fact."""

from __future__ import annotations

import ast
import re
from datetime import timedelta
from functools import cache
from pathlib import Path
from typing import Any, get_args

import pytest

import entrypoint
from bench.year import memory_rows, memory_store
from kis_token import config
from kis_token.core import issuance, lease, ports
from kis_token.core.slot import SEALED_PREFIX, TOKEN_TYPE
from kis_token.remedies import REMEDIES
from kis_token.sandbox import kis_rules
from kis_token.store import migrations, slot_query
from kis_token.token import LEAST_USEFUL, REISSUE_WINDOW, fingerprint

PACKAGE = Path(migrations.__file__).parents[1]
SQL = "\n".join(path.read_text(encoding="utf-8") for path in migrations.migrations())
START = (PACKAGE / "github" / "start.sh").read_text(encoding="utf-8")

#: The time between two calls of one app key: KIS's minute and a second more.
CALL_INTERVAL = lease.CALL_INTERVAL

#: A fact's name, its value in Python, the function of sql/ that repeats it, and the pattern of its copies in that
#: function.
TIMES: list[tuple[str, timedelta, str, str]] = [
    ("after a call", CALL_INTERVAL, "commit_issuance", r"(?<!issued_at > )\bt \+ interval '(.+?)'"),
    ("lease", memory_store.LEASE, "begin_issuance", r"lease_until\s+= t \+ interval '(.+?)'"),
    ("between grants", issuance.AFTER_GRANT, "begin_issuance", r"not_before\s+= t \+ interval '(.+?)'"),
    ("reissue window", REISSUE_WINDOW, "begin_issuance", r"lease\.issued_at < interval '(.+?)'"),
    ("reissue window", REISSUE_WINDOW, "commit_issuance", r"commit_issuance\.issued_at \+ interval '(.+?)'"),
    ("after a refusal", memory_store.AFTER_REFUSAL, "abort_issuance", r"is not null then t \+ interval '(.+?)'"),
    ("longest cool-down", memory_store.LONGEST_COOLDOWN, "abort_issuance", r"cooldown > interval '(.+?)'"),
    ("furthest issue", memory_store.FURTHEST_ISSUE, "commit_issuance", r"issued_at > t \+ interval '(.+?)'"),
    ("least memory", memory_rows.LEAST_MEMORY, "issuance_reject", r"greatest\(ends_at, t \+ interval '(.+?)'\)"),
    ("longest life", memory_rows.LONGEST_LIFE, "issuance_reject", r"(?:, |\), )t \+ interval '(\d+ days)'"),
]
#: Lengths and counts, with the columns of ``TIMES``.
NUMBERS: list[tuple[str, int, str, str]] = [
    ("rejected ids, but for the new one", memory_rows.MOST_REJECTED - 1, "issuance_reject", r"limit (\d+)"),
    ("label", memory_store.LABEL_LENGTH, "begin_issuance", r"left\(begin_issuance\.label, (\d+)\)"),
    ("label", memory_store.LABEL_LENGTH, "revoke_token", r"left\(label, (\d+)\)"),
    ("error code", memory_store.ERROR_CODE_LENGTH, "abort_issuance", r"left\(error_code, (\d+)\)"),
    ("largest value", slot_query.LARGEST_VALUE, "issuance_check_token", r"length\(value\) > (\d+)"),
    ("largest value", slot_query.LARGEST_VALUE, "reseal", r"length\(value\) > (\d+)"),
    ("schema version", migrations.SCHEMA_VERSION, "begin_issuance", r"'schema_version', (\d+)"),
    ("schema version", migrations.SCHEMA_VERSION, "credential_schema_version", r"select (\d+);"),
    ("schema version", migrations.SCHEMA_VERSION, "keyless_read", r"'schema_version', (\d+)"),
    ("schema version", migrations.SCHEMA_VERSION, "credential_callers_status", r"'schema_version', (\d+)"),
]
#: Patterns without their anchors, with the columns of ``TIMES``.
FORMS: list[tuple[str, str, str, str]] = [
    ("service name", config.SERVICE_NAME.pattern, "issuance_check_service", r"service !~ '\^(.+?)\$'"),
    ("service name", config.SERVICE_NAME.pattern, "check_setup", r"service_name ~ '\^(.+?)\$'"),
    ("sealed value", memory_store.SEALED.pattern, "issuance_check_token", r"value ~ '\^(.+?)\$'"),
    ("sealed value", memory_store.SEALED.pattern, "reseal", r"value !~ '\^(.+?)\$'"),
]
#: A type of Python with the words that a function of sql/ returns, that function, and the pattern of the words.
ANSWERS: list[tuple[Any, str, str]] = [
    (ports.BeginStatus, "begin_issuance", r"\bstatus := '(\w+)'"),
    (ports.CommitStatus, "commit_issuance", r"\bstatus := '(\w+)'"),
]

#: Times, numbers and words that have one name in kis_token/, where no other literal repeats them.
NAMED_TIMES = (CALL_INTERVAL, issuance.AFTER_GRANT, REISSUE_WINDOW, LEAST_USEFUL, memory_store.AFTER_REFUSAL)
NAMED_NUMBERS = (61, 70)
NAMED_WORDS = (slot_query.TABLE, slot_query.REJECTED_TOKENS, SEALED_PREFIX, config.SERVICE_NAME.pattern)


def function_in_sql(name: str) -> str:
    """The last definition of a function in sql/."""
    found = re.findall(rf"create or replace function public\.{name}\s*\(.*?\n\$\$;", SQL, re.DOTALL)
    assert found, f"sql/ has no function {name}"
    return str(found[-1])


def copies_of(function: str, pattern: str) -> list[str]:
    """Return all matches of a pattern in a function of sql/. If there is no match, the test fails."""
    found = [str(each) for each in re.findall(pattern, function_in_sql(function))]
    assert found, f"{function} has no longer what {pattern} looks for"
    return found


def interval(text: str) -> timedelta:
    """An interval of PostgreSQL such as ``61 seconds``."""
    number, unit = text.split()
    return timedelta(**{unit.removesuffix("s") + "s": int(number)})


def ids(rows: list[Any]) -> list[str]:
    """Return the names of a table's rows, for the tests' reports."""
    return [f"{row[-2]}, {row[0]}" if isinstance(row[0], str) else row[-2] for row in rows]


@cache  # computed at the first use, because each worker imports this file
def literals() -> list[tuple[str, object]]:
    """Return each constant and each constant timedelta of kis_token/ with its module, except those of the sandbox.

    The sandbox has copies of facts in place of imports, because it plays KIS and Supabase. The other tests of this file
    compare the copies.
    """
    found: list[tuple[str, object]] = []
    for path in sorted(PACKAGE.rglob("*.py")):
        if path.parent.name == "sandbox":
            continue
        module = path.relative_to(PACKAGE).as_posix()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant):
                found.append((module, node.value))
            is_timedelta = (
                isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "timedelta"
            )
            if is_timedelta and isinstance(node, ast.Call):
                parts = {each.arg: each.value.value for each in node.keywords if isinstance(each.value, ast.Constant)}
                if len(parts) == len(node.keywords):
                    found.append((module, timedelta(**{name: part for name, part in parts.items() if name})))  # type: ignore[arg-type]  # numbers
    return found


@pytest.mark.parametrize(("fact", "value", "function", "pattern"), TIMES, ids=ids(TIMES))
def test_time_is_the_same_in_sql(fact: str, value: timedelta, function: str, pattern: str) -> None:
    """Each copy of a time in a function of sql/ is the time that Python names."""
    assert {interval(copy) for copy in copies_of(function, pattern)} == {value}, fact


@pytest.mark.parametrize(("fact", "value", "function", "pattern"), NUMBERS, ids=ids(NUMBERS))
def test_number_is_the_same_in_sql(fact: str, value: int, function: str, pattern: str) -> None:
    """Each copy of a length or count in a function of sql/ is the number that Python names."""
    assert {int(copy) for copy in copies_of(function, pattern)} == {value}, fact


@pytest.mark.parametrize(("fact", "value", "function", "pattern"), FORMS, ids=ids(FORMS))
def test_form_is_the_same_in_sql(fact: str, value: str, function: str, pattern: str) -> None:
    """Each copy of a pattern in a function of sql/ is the pattern that Python names."""
    assert set(copies_of(function, pattern)) == {value}, fact


@pytest.mark.parametrize(("words", "function", "pattern"), ANSWERS, ids=ids(ANSWERS))
def test_statuses_are_those_of_sql(words: object, function: str, pattern: str) -> None:
    """A type of Python has exactly the words that the named function of sql/ returns."""
    assert set(copies_of(function, pattern)) == set(get_args(words))


def test_table_and_types_are_those_of_sql() -> None:
    """The functions and policies of sql/ name the same table and the same types of rows as Python, and no others."""
    compared = re.findall(r"\bcredential_type (?:=|in) (\([^)]*\)|'\w+')", SQL)
    types = {word for each in compared for word in re.findall(r"'(\w+)'", each)}
    assert types == {*slot_query.TYPES, slot_query.REJECTED_TOKENS}
    assert set(re.findall(r"create table if not exists public\.(\w+credentials)\b", SQL)) == {slot_query.TABLE}
    assert TOKEN_TYPE in slot_query.TYPES


def test_fingerprints_have_the_length_that_sql_expects() -> None:
    """Each function of sql/ with a fingerprint as its argument accepts the fingerprints that Python makes."""
    forms = set(re.findall(r"!~ '(\^\[0-9a-f\].*?)'", SQL))
    assert len(forms) == 1
    assert re.fullmatch(forms.pop(), fingerprint("opaque.token-of-a-test_0123456789"))


def test_service_name_has_one_length() -> None:
    """The columns of sql/, the remedy for a wrong name and the pattern allow the same number of characters."""
    longest = int(re.findall(r"\{0,(\d+)\}", config.SERVICE_NAME.pattern)[0]) + 1
    assert set(re.findall(r"\('service_name', 'text', (\d+)", SQL)) == {f"{longest}"}
    assert f"up to {longest} letters" in REMEDIES["invalid-service-name"]
    assert f"Up to {longest} letters" in function_in_sql("issuance_check_service")


def test_sealed_values_begin_with_the_prefix() -> None:
    """The pattern of sealed values begins with the prefix by which Python recognizes sealed values."""
    assert memory_store.SEALED.pattern.startswith(SEALED_PREFIX)


def test_times_of_the_lease_fit_together() -> None:
    """A caller waits longer than a lease lasts, two calls are a minute apart, and storing ends before the lease."""
    unknown = timedelta(seconds=lease.LONGEST_UNKNOWN + lease.LAPSE)
    assert memory_store.LEASE <= unknown <= issuance.AFTER_GRANT
    assert timedelta(seconds=lease.COMMIT_RETRY_TIME) < memory_store.LEASE
    assert issuance.AFTER_GRANT - lease.LONGEST_START >= CALL_INTERVAL > kis_rules.TOKEN_CALL_INTERVAL
    assert memory_store.LEASE + issuance.AFTER_LEASE == issuance.AFTER_GRANT


def test_model_has_the_times_of_the_program() -> None:
    """The store in memory has the same wait after a call, and between two grants, as the program."""
    assert (memory_store.AFTER_COMMIT, memory_store.BETWEEN_GRANTS) == (CALL_INTERVAL, issuance.AFTER_GRANT)


def test_emulated_kis_has_the_facts_of_the_program() -> None:
    """The sandbox imports nothing of the program, so its copies of KIS's rules and environments are compared."""
    assert kis_rules.SAME_TOKEN == REISSUE_WINDOW
    assert kis_rules.ENVIRONMENTS == config.ENVIRONMENTS
    assert timedelta(seconds=kis_rules.LONGEST_LIFE_SECONDS) == memory_rows.LONGEST_LIFE


def test_words_of_the_settings_are_those_of_their_types() -> None:
    """The types of config.py exist for type checkers alone. Each tuple of words has exactly the words of its type."""
    source = Path(config.__file__).read_text(encoding="utf-8")
    types = dict(re.findall(r"^    (\w+) = Literal(\[.*\])$", source, re.MULTILINE))
    words = {
        "Environment": config.ENVIRONMENTS,
        "Mode": config.MODES,
        "StoreOutagePolicy": config.STORE_OUTAGE_POLICIES,
    }
    assert {name: tuple(ast.literal_eval(text)) for name, text in types.items()} == words


def test_shell_and_python_have_the_same_words() -> None:
    """start.sh reads and writes the words that entrypoint.py names, and both show the remedy of errors.py."""
    written = set(re.findall(r"--[a-z]+(?==)", START))
    assert written == {entrypoint.STARTED_WORD, entrypoint.PYTHON_WORD, entrypoint.UNUSABLE_WORD}
    source = Path(entrypoint.__file__).read_text(encoding="utf-8")
    assert f'HINT="{REMEDIES["python-missing"]}"' in START
    assert f'hint = "{REMEDIES["python-missing"]}"' in source


def test_oldest_python_is_the_same_everywhere() -> None:
    """start.sh accepts the Pythons that pyproject.toml allows, and the remedy names the oldest."""
    project = (PACKAGE.parent / "pyproject.toml").read_text(encoding="utf-8")
    oldest = re.findall(r'requires-python = ">=([\d.]+)"', project)
    assert re.findall(r"sys\.version_info >= \((\d+), (\d+)\)", START) == [tuple(oldest[0].split("."))]
    assert f"Python {oldest[0]} or newer" in REMEDIES["python-missing"]


@pytest.mark.parametrize("value", [*NAMED_TIMES, *NAMED_NUMBERS, *NAMED_WORDS], ids=str)
def test_named_fact_has_one_literal(value: object) -> None:
    """A literal of a named fact appears at most once in kis_token/: all other places use the name."""
    places = [module for module, literal in literals() if type(literal) is type(value) and literal == value]
    assert len(places) <= 1, places
