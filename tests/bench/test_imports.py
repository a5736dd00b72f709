"""A warm resolve imports what it needs of the standard library, and nothing that comes in unasked."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import psycopg
import pytest

from bench.speed.imports import ASKED, Imported, record, render, unasked
from tests.support import make_token
from tools.step import CHECKOUT, read_pairs, step_environment

if TYPE_CHECKING:
    from pathlib import Path

    from kis_token.sandbox import Sandbox


@pytest.fixture
def job(sandbox: Sandbox, tmp_path: Path) -> dict[str, str]:
    """The environment of a step that will find a fresh token."""
    token = make_token(sandbox.kis.accounts["production"][0].app_key)
    with psycopg.connect(sandbox.owner_dsn) as connection:
        connection.execute(
            "insert into public.api_credentials (service_name, credential_type, credential_value, expires_at)"
            " values ('kis', 'access_token', %s, %s)",
            [token.to_json(), token.expires_at],
        )
    inputs = {"supabase-url": sandbox.supabase.url, "supabase-key": sandbox.service_key}
    return step_environment(inputs, {}, tmp_path)


def test_warm_resolve_imports_nothing_unasked(job: dict[str, str], tmp_path: Path) -> None:
    """The whole step, with a real answer: modules of ours, those of ASKED, and what these import in turn."""
    imported = record(sys.executable, CHECKOUT / "entrypoint.py", job)

    assert read_pairs(tmp_path / "github_output")["source"] == "supabase"
    assert unasked(sys.executable, imported, job) == []
    names = {each.name for each in imported}
    assert {"kis_token.core.lookup", "kis_token.store.slot_query", "kis_token.github.outputs", "http.client"} <= names
    assert ASKED.keys() <= names, "what is asked for without need lets others in"


@pytest.mark.usefixtures("child_processes")
def test_what_comes_in_unasked_is_named(tmp_path: Path) -> None:
    """A module of the standard library that nobody asked for, and all that it brings."""
    program = tmp_path / "program.py"
    program.write_text("import json, tempfile\n")

    surprises = unasked(sys.executable, record(sys.executable, program, {}), {})

    assert {"tempfile", "shutil"} <= set(surprises)
    assert not {"json", "json.decoder", "os"} & set(surprises)


def test_modules_are_listed_by_their_time() -> None:
    """The slowest first, and the sum of all at the end."""
    lines = render([Imported("quick", 0.5, 1024), Imported("slow", 2.0, 2048)]).splitlines()[2:]
    assert [[cell.strip() for cell in line.strip("|").split("|")] for line in lines] == [
        ["slow", "2.0", "2"],
        ["quick", "0.5", "1"],
        ["all 2", "2.5", "3"],
    ]
