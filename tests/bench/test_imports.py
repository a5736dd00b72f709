"""A warm resolve imports only the modules of the standard library that it uses."""

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
    """The environment of a step that finds a fresh token."""
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
    """The whole step, with a real answer, imports our modules, those of ASKED, and their imports."""
    imported = record(sys.executable, CHECKOUT / "entrypoint.py", job)

    assert read_pairs(tmp_path / "github_output")["source"] == "supabase"
    assert unasked(sys.executable, imported, job) == []
    names = {each.name for each in imported}
    assert {"kis_token.core.lookup", "kis_token.store.slot_query", "kis_token.github.outputs", "http.client"} <= names
    assert ASKED.keys() <= names, "ASKED has a module that is not imported, and would excuse its imports"


@pytest.mark.usefixtures("child_processes")
def test_an_unasked_module_is_named(tmp_path: Path) -> None:
    """A module of the standard library outside ASKED is named with all its imports."""
    program = tmp_path / "program.py"
    program.write_text("import json, tempfile\n")

    surprises = unasked(sys.executable, record(sys.executable, program, {}), {})

    assert {"tempfile", "shutil"} <= set(surprises)
    assert not {"json", "json.decoder", "os"} & set(surprises)


def test_modules_are_listed_by_their_time() -> None:
    """The slowest module is first, and the sum is at the end."""
    lines = render([Imported("quick", 0.5, 1024), Imported("slow", 2.0, 2048)]).splitlines()[2:]
    assert [[cell.strip() for cell in line.strip("|").split("|")] for line in lines] == [
        ["slow", "2.0", "2"],
        ["quick", "0.5", "1"],
        ["all 2", "2.5", "3"],
    ]
