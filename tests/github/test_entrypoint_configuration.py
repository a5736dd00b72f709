"""A configuration error ends the step with one line for each fault."""

from __future__ import annotations

import json
import os
import signal
from typing import TYPE_CHECKING

import psycopg
import pytest

import entrypoint
from kis_token.github.summary import plain
from kis_token.remedies import REMEDIES
from tests.github.entrypoint_steps import (
    UNREACHABLE_INDEX,
    assert_succeeded,
    errors,
    failure,
    inputs_of,
    seen_by_people,
)
from tests.resolver_harness import issue_token
from tests.support import first_of
from tools.step import Ended, read_ended, run_step, step_environment

if TYPE_CHECKING:
    from pathlib import Path

    from kis_token.sandbox import Sandbox


BAD_INPUTS = {
    "no url": ({"supabase-url": ""}, ["missing-supabase-url"]),
    "blank url": ({"supabase-url": "   "}, ["missing-supabase-url"]),
    "no key": ({"supabase-key": ""}, ["missing-supabase-key"]),
    "blank key": ({"supabase-key": " \n "}, ["missing-supabase-key"]),
    "no URL": ({"supabase-url": "my project"}, ["invalid-supabase-url"]),
    "http elsewhere": ({"supabase-url": "http://example.supabase.co"}, ["invalid-supabase-url"]),
    "password in url": ({"supabase-url": "https://a:b@example.supabase.co"}, ["invalid-supabase-url"]),
    "line break in key": ({"supabase-key": "sb_secret_abcdef\nghijklmnopqrstuvw"}, ["invalid-supabase-key"]),
    "blank in key": ({"supabase-key": "sb_secret_abcdef ghijklmnopqrstuvw"}, ["invalid-supabase-key"]),
    "public key": ({"supabase-key": "sb_publishable_0123456789abcdef"}, ["anon-supabase-key"]),
    "unknown mode": ({"mode": "refresh"}, ["invalid-mode"]),
    "unknown environment": ({"environment": "vts"}, ["invalid-environment"]),
    "no duration": ({"min-validity": "soon"}, ["invalid-duration"]),
    "long min-validity": ({"min-validity": "13h"}, ["invalid-duration"]),
    "no timeout": ({"timeout": "0s"}, ["invalid-duration"]),
    "no boolean": ({"export-env": "maybe"}, ["invalid-boolean"]),
    "bad service": ({"service-name": "kis real"}, ["invalid-service-name"]),
    "bad host": ({"base-url": "ftp://example"}, ["invalid-base-url"]),
    "half a key pair": ({"app-key": "PSabcdefghijklmnopqrstuvwxyz01234567"}, ["incomplete-app-key"]),
    "several at once": (
        {"supabase-url": "", "supabase-key": "", "mode": "x", "environment": "y", "timeout": "z"},
        [
            "invalid-environment",
            "missing-supabase-url",
            "missing-supabase-key",
            "invalid-mode",
            "invalid-duration",
        ],
    ),
}


def assert_faults(ended: Ended, codes: list[str], sandbox: Sandbox, folder: Path) -> None:
    """Check that each fault is one error line with code and remedy, and that no traceback, request or file exists."""
    assert ended.status == 1
    assert len(errors(ended)) == len(codes)
    for line, code in zip(errors(ended), codes, strict=True):
        assert f"[{code}]" in line
        assert REMEDIES[code] in line
    assert ended.public == failure(*codes)
    assert "Traceback" not in ended.log
    assert sandbox.supabase.server.seen == ()
    assert sandbox.kis.requests == ()
    assert list((folder / "temp").iterdir()) == []
    assert all(plain(REMEDIES[code]) in ended.summary for code in codes)


@pytest.mark.parametrize("case", BAD_INPUTS, ids=str)
def test_bad_input_gives_one_line_for_each_fault(
    unasked: Sandbox, tmp_path: Path, case: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each fault is reported before the watch of the timeout starts. The program runs in the test's own process."""
    changed, codes = BAD_INPUTS[case]
    environment = step_environment(inputs_of(unasked) | changed, UNREACHABLE_INDEX, tmp_path)
    monkeypatch.setattr(os, "environ", environment)
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    monkeypatch.setattr(entrypoint, "start_watch", lambda *_: pytest.fail("these inputs have no fault"))

    status = entrypoint.run_step()

    assert_faults(read_ended(status, "".join(capsys.readouterr()), environment), codes, unasked, tmp_path)


@pytest.mark.parametrize("case", ["no url", "line break in key", "several at once"])
def test_bad_input_of_a_step(unasked: Sandbox, tmp_path: Path, case: str) -> None:
    """In a process of its own, the step reports a single fault, a value with a line break, and several faults."""
    changed, codes = BAD_INPUTS[case]

    ended = run_step(inputs_of(unasked) | changed, tmp_path, UNREACHABLE_INDEX)

    assert_faults(ended, codes, unasked, tmp_path)


def test_blanks_around_values_are_cut_off(sandbox: Sandbox, tmp_path: Path) -> None:
    """If a secret was pasted with a line break at its end, the step removes the line break and works."""
    issue_token(sandbox)
    padded = {"supabase-key": f"  {sandbox.service_key}\n", "supabase-url": f" {sandbox.supabase.url}/ "}

    assert_succeeded(run_step(inputs_of(sandbox) | padded, tmp_path / "second"), "supabase")


def test_pull_request_of_a_fork_is_told_why(unasked: Sandbox, tmp_path: Path) -> None:
    """If secrets are missing because the pull request comes from a fork, the error names this reason."""
    repositories = {"head": {"repo": {"full_name": "fork/bot"}}, "base": {"repo": {"full_name": "someone/bot"}}}
    event = tmp_path / "event.json"
    event.write_text(json.dumps({"pull_request": repositories}))
    env = {"GITHUB_EVENT_NAME": "pull_request", "GITHUB_EVENT_PATH": str(event)}

    ended = run_step({"base-url": unasked.kis.production_url}, tmp_path / "job", env)

    assert ended.public == failure("secrets-withheld")
    assert len(errors(ended)) == 1


def _no_tables(sandbox: Sandbox) -> dict[str, str]:
    with psycopg.connect(sandbox.owner_dsn) as connection:
        connection.execute("drop table api_credentials cascade")
    return {}


def _no_functions(sandbox: Sandbox) -> dict[str, str]:
    with psycopg.connect(sandbox.owner_dsn) as connection:
        connection.execute("drop function begin_issuance")
    return {}


def _guide_table_alone(sandbox: Sandbox) -> dict[str, str]:
    with psycopg.connect(sandbox.owner_dsn) as connection:
        connection.execute("alter table api_credentials drop column version cascade")
    return {}


def _anon_key(sandbox: Sandbox) -> dict[str, str]:
    # Unlike a key that begins with sb_publishable_, this key does not show its kind.
    sandbox.supabase.stop()
    key = "0123456789abcdefghijklmnopqrstuvwxyz"
    sandbox.supabase._roles[key] = "anon"
    sandbox.supabase.start()
    return {"supabase-key": key}


def _wrong_key(_: Sandbox) -> dict[str, str]:
    return {"supabase-key": "sb_secret_of-another-project-0123456789"}


def _swapped_environment(sandbox: Sandbox) -> dict[str, str]:
    return {"base-url": sandbox.kis.paper_url}


def _no_keys(sandbox: Sandbox) -> dict[str, str]:
    with psycopg.connect(sandbox.owner_dsn) as connection:
        connection.execute("delete from api_credentials")
    return {}


def _wrong_secret(sandbox: Sandbox) -> dict[str, str]:
    with psycopg.connect(sandbox.owner_dsn) as connection:
        connection.execute("update api_credentials set credential_value = 'x' || credential_value"
                           " where credential_type = 'app_secret'")  # fmt: skip
    return {}


MISTAKES = {
    "store-table-missing": _no_tables,
    "store-column-missing": _guide_table_alone,
    "store-function-missing": _no_functions,
    "store-permission-denied": _anon_key,
    "store-key-rejected": _wrong_key,
    "kis-key-refused": _swapped_environment,
    "kis-secret-refused": _wrong_secret,
    "missing-app-key": _no_keys,
}


@pytest.mark.parametrize("code", first_of(4, MISTAKES))
def test_configuration_error_is_named(sandbox: Sandbox, tool_cache: Path, tmp_path: Path, code: str) -> None:
    """An error that only Supabase or KIS can detect is one line with code and remedy; nothing is stored."""
    changed = MISTAKES[code](sandbox)

    ended = run_step(inputs_of(sandbox) | changed, tmp_path, {"RUNNER_TOOL_CACHE": str(tool_cache)})

    assert ended.status == 1
    assert len(errors(ended)) == 1, seen_by_people(ended)
    assert f"[{code}]" in errors(ended)[0]
    assert REMEDIES[code] in errors(ended)[0]
    assert ended.public == failure(code)
    assert "Traceback" not in ended.log
    assert sandbox.kis.counts("production").issues == 0
    assert not (tmp_path / "temp" / ".kis_token_cache.json").exists()
