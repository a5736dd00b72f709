"""Unexpected errors in the GitHub adapter. test_entrypoint.py tests the steps that succeed."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from kis_token.github import action
from kis_token.remedies import REMEDIES

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

    from kis_token.sandbox import Sandbox

SECRET = "sb_secret_that-must-never-be-seen-0123456789"


def prepare(monkeypatch: pytest.MonkeyPatch, folder: Path, **variables: str) -> dict[str, Path]:
    """Set the environment of a step, and return its files."""
    files = {name: folder / name.lower() for name in ("GITHUB_OUTPUT", "GITHUB_ENV", "GITHUB_STEP_SUMMARY")}
    for name, path in files.items():
        path.touch()
        monkeypatch.setenv(name, str(path))
    for name, value in {"RUNNER_TEMP": str(folder), **variables}.items():
        monkeypatch.setenv(name, value)
    return files


def test_unforeseen_error_is_named_without_its_text(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """An unexpected error is one line with its type and place, but without its text, which may contain a secret."""
    files = prepare(monkeypatch, tmp_path, SUPABASE_URL="https://abc.supabase.co", SUPABASE_SERVICE_ROLE_KEY=SECRET)

    def fail(*_: object, **__: object) -> None:
        raise ValueError(f"a library quotes {SECRET}")

    monkeypatch.setattr(action, "open_resolver", fail)
    status = action.main(time.monotonic(), None)

    lines = [line for line in capsys.readouterr().out.splitlines() if not line.startswith("::add-mask::")]
    assert status == 1
    assert len(lines) == 1
    assert lines[0].startswith("::error::Unexpected ValueError at action.py:")
    assert REMEDIES["internal-error"] in lines[0]
    assert SECRET not in lines[0] + files["GITHUB_STEP_SUMMARY"].read_text(encoding="utf-8")
    assert "internal-error" in files["GITHUB_OUTPUT"].read_text()


def test_failure_shows_the_result_of_each_source(
    sandbox: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The summary of a failure has the result of each source and the remedy."""
    files = prepare(monkeypatch, tmp_path, **(sandbox.variables | {"KIS_BASE_URL": sandbox.kis.paper_url}))

    status = action.main(time.monotonic(), None)

    summary = files["GITHUB_STEP_SUMMARY"].read_text(encoding="utf-8")
    assert status == 1
    assert "| supabase | no token is stored |" in summary
    assert "| cache | there is no cache file |" in summary
    assert "`kis-key-refused`" in summary
    assert REMEDIES["kis-key-refused"] in summary
    assert capsys.readouterr().out.count("::error::") == 1
