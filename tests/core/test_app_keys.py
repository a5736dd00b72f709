"""Errors that name the origin of refused keys, rows with untidy keys, and warnings that are printed with an error."""

from __future__ import annotations

import logging
import os
import time
from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest

import entrypoint
from kis_token.admin.check import read_settings
from kis_token.client.credential_manager import SupabaseCredentialManager
from kis_token.client.get_token import get_token
from kis_token.client.kis_client import KISClient
from kis_token.core.slot import refused
from kis_token.errors import KIS_REFUSALS, EnvironmentFault, KisTokenError, StoreMisconfigured
from kis_token.github import action
from kis_token.github.workflow_commands import FileWorkflow
from kis_token.sandbox.kis_http import html_response
from kis_token.sandbox.loopback import Fault
from kis_token.token import AppKey
from tests.command import kis_token_here
from tests.resolver_harness import OTHER, expired_token
from tests.support import ACCOUNT, APP_KEY, HOUR, SERVICE_KEY, make_token

if TYPE_CHECKING:
    from pathlib import Path

    from tests.resolver_harness import Chain

#: Last year's keys, which KIS no longer accepts.
OLD = AppKey("PSq1w2e3r4t5y6u7i8o9p0a1s2d3f4g5h6j7", "bGFzdC15ZWFy" * 15)
STORED = "KIS does not know the app key stored in Supabase for the slot kis (EGW00103)"
GIVEN = "KIS does not know the app key given as input app-key / KIS_APP_KEY (EGW00103)"
WARNING = "app-key and app-secret differ from the keys stored for kis. The stored keys are used."


def step(monkeypatch: pytest.MonkeyPatch, chain: Chain, folder: Path, **variables: str) -> dict[str, Path]:
    """Set the environment of a step with the chain's variables; return the step's files."""
    for name in [name for name in os.environ if name.startswith(("INPUT_", "KIS_", "SUPABASE_"))]:
        monkeypatch.delenv(name)
    files = {name: folder / name.lower() for name in ("GITHUB_OUTPUT", "GITHUB_ENV", "GITHUB_STEP_SUMMARY")}
    for name, path in files.items():
        path.touch()
        monkeypatch.setenv(name, str(path))
    for name, value in {**chain.variables, "RUNNER_TEMP": str(folder), **variables}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(entrypoint, "STARTED", time.monotonic())  # the module was imported long before this step
    return files


def seen(capsys: pytest.CaptureFixture[str]) -> str:
    """The log of a step without its masks."""
    return "\n".join(line for line in capsys.readouterr().out.splitlines() if not line.startswith("::add-mask::"))


def test_keys_renewed_after_their_year(
    chain: Chain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """If new keys are given but old ones are stored, the step reports that the stored keys are used and refused."""
    chain.database.put_keys(OLD)
    files = step(monkeypatch, chain, tmp_path)

    status = action.main(time.monotonic(), None)

    log, summary = seen(capsys), files["GITHUB_STEP_SUMMARY"].read_text(encoding="utf-8")
    assert status == 1
    assert f"::error::{STORED} [kis-key-refused]" in log
    assert f"::warning::{WARNING}" in log
    assert "kis-token set-keys" in log
    assert f"> **Warning:** {WARNING}" in summary
    assert "stored in Supabase for the slot kis" in summary
    assert "error-code" in files["GITHUB_OUTPUT"].read_text()


def test_keys_renewed_after_their_year_by_the_command(chain: Chain) -> None:
    """`get` prints error and warning on standard error. After ``set-keys`` with new keys, `get` gets a token."""
    chain.database.put_keys(OLD)

    failed = kis_token_here(chain.variables, "get")
    stored = kis_token_here(chain.variables, "set-keys")
    got = kis_token_here(chain.variables, "get")

    assert (failed.returncode, failed.stdout) == (1, "")
    assert [line.split(":")[0] for line in failed.stderr.splitlines()][-2:] == ["warning", "error"]
    assert f"warning: {WARNING}" in failed.stderr
    assert f"error: {STORED} [kis-key-refused]" in failed.stderr
    assert (stored.returncode, got.returncode, got.stderr) == (0, 0, "")


def test_given_keys_that_are_refused(chain: Chain) -> None:
    """If no keys are stored and KIS refuses the given ones, the error calls them given, without a warning."""
    given = {"KIS_APP_KEY": OLD.key, "KIS_APP_SECRET": OLD.secret}
    failed = kis_token_here(chain.variables | given, "get")
    assert f"error: {GIVEN} [kis-key-refused]" in failed.stderr
    assert "warning" not in failed.stderr


def test_refusal_to_another_caller_names_the_origin(chain: Chain) -> None:
    """The next caller does not call KIS; its error also names the origin of the refused keys and has the warning."""
    chain.database.put_keys(OLD)
    with pytest.raises(KisTokenError):
        chain.resolve()
    with pytest.raises(KisTokenError) as caught:
        chain.resolve()
    assert "stored in Supabase for the slot kis (EGW00103, reported to another job a moment ago)" in f"{caught.value}"
    assert caught.value.warnings[0].startswith(WARNING)
    assert chain.issue_calls == 1


@pytest.mark.parametrize(("code", "part"), [("EGW00105", "app secret"), ("EGW00002", "key and secret")])
def test_each_refusal_names_the_origin(chain: Chain, code: str, part: str) -> None:
    """If KIS refuses a secret or a pair, the error names the origin: given or stored."""
    chain.refuse_issue(code)
    with pytest.raises(KisTokenError) as caught:
        chain.resolve()
    assert f"{part} given as input" in f"{caught.value}"
    chain.database.put_keys(OTHER)
    chain.database.clear()
    chain.database.put_keys(APP_KEY)
    chain.refuse_issue(code)
    with pytest.raises(KisTokenError) as caught:
        chain.resolve()
    assert f"{part} stored in Supabase for the slot kis ({code})" in f"{caught.value}"


def test_refused_key_of_another_length_is_reported_with_it() -> None:
    """If KIS refuses a truncated key, the error gives the key's length."""
    for kis_code in KIS_REFUSALS:
        assert "characters" not in f"{refused(kis_code, APP_KEY)}"
        cut = f"{refused(kis_code, AppKey(ACCOUNT.app_key[:-1], ACCOUNT.app_secret[:-1]))}"
        assert "the app key has 35 characters, and KIS's have 36" in cut
        assert "the app secret has 179 characters, and KIS's have 180" in cut


def test_refused_keys_of_a_program_s_memory_are_the_stored_ones(chain: Chain) -> None:
    """If a program has read the stored keys before an outage, its error in the outage calls them stored."""
    chain.database.put_keys(OLD)
    client = KISClient(chain.settings(app_key="", app_secret=""), clock=chain.clock())
    assert client.app_key == OLD.key
    chain.supabase.server.add_fault(Fault("answer", times=999, response=html_response(503)))
    with pytest.raises(KisTokenError) as caught:
        _ = client.access_token
    assert STORED in f"{caught.value}"


def test_token_of_another_key_names_the_compared_key(chain: Chain) -> None:
    """The error names the key that was compared with the token's key, and has the warning about the given key."""
    chain.database.put_token(make_token())
    with pytest.raises(KisTokenError) as caught:
        chain.resolve(app_key=OTHER.key, app_secret=OTHER.secret)
    assert f"{caught.value}".startswith(
        "The token of kis belongs to another app key than the one given as input app-key"
    )
    chain.database.put_keys(OLD)
    with pytest.raises(KisTokenError) as caught:
        chain.resolve()
    assert "than the one stored in Supabase for the slot kis" in f"{caught.value}"
    assert caught.value.warnings[0].startswith(WARNING)


def test_fast_path_prints_warnings_on_failure(
    chain: Chain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """If `check` finds no token, the fast path prints its warnings without the runtime."""
    chain.database.put_keys(OLD)
    files = step(monkeypatch, chain, tmp_path, INPUT_MODE="check")
    monkeypatch.setattr(entrypoint, "run_chain", lambda *_: pytest.fail("the runtime was asked for"))

    status = entrypoint.run_step()

    assert status == 1
    assert f"::warning::{WARNING}" in seen(capsys)
    assert f"> **Warning:** {WARNING}" in files["GITHUB_STEP_SUMMARY"].read_text(encoding="utf-8")


def test_fast_path_prints_warnings_where_the_runtime_fails(
    chain: Chain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """If the runtime cannot be built, the warnings of the fast path are still printed."""
    chain.database.put_keys(OLD)
    step(monkeypatch, chain, tmp_path)

    def fail(*_: object) -> int:
        raise EnvironmentFault("pip-missing", "There is no pip")

    monkeypatch.setattr(entrypoint, "run_chain", fail)
    assert entrypoint.run_step() == 1
    assert f"::warning::{WARNING}" in seen(capsys)


def test_settings_with_a_fault_keep_their_notes(chain: Chain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A note about a corrected value is printed although another value is invalid."""
    step(monkeypatch, chain, tmp_path, SUPABASE_URL="abcdefghijklmnopqrst", INPUT_MODE="nothing")
    with ExitStack() as end, pytest.raises(KisTokenError) as caught:
        entrypoint.find_token(FileWorkflow(os.environ), end)
    assert "https://abcdefghijklmnopqrst.supabase.co" in caught.value.warnings[0]


def test_library_logs_warnings_on_failure(chain: Chain, caplog: pytest.LogCaptureFixture) -> None:
    """``get_token`` and ``KISClient`` log their warnings before they raise."""
    chain.database.put_keys(OLD)
    for ask in (lambda: get_token(chain.variables), lambda: KISClient.from_env(chain.variables).access_token):
        caplog.clear()
        with caplog.at_level(logging.WARNING, "kis_token"), pytest.raises(KisTokenError):
            ask()
        assert [record.getMessage().startswith(WARNING) for record in caplog.records] == [True]


DIRTY = {
    "quotes": '"{}"',
    "typographic quotes": "\u201c{}\u201d",
    "a line break": "{}\r\n",
    "byte order mark": "\ufeff{}",
    "NAME=": "KIS_APP_KEY={}",
    "JSON": '"app_key": "{}",',
}


@pytest.mark.parametrize("case", DIRTY)
def test_dirty_rows_are_read(chain: Chain, case: str) -> None:
    """The chain and the manager can read keys that were pasted into the table with quotes, names or line breaks."""
    chain.database.put_keys(AppKey(DIRTY[case].format(APP_KEY.key), DIRTY[case].format(APP_KEY.secret)))

    got = chain.resolve(app_key="", app_secret="")

    assert (got.source, got.app_key == APP_KEY) == ("oauth", True)
    manager = SupabaseCredentialManager(chain.supabase.url, SERVICE_KEY, env={})
    pair = {"app_key": APP_KEY.key, "app_secret": APP_KEY.secret}
    found = manager.get_credentials("kis") or {}
    is_pair = (manager.get_kis_credentials() == pair, {name: found[name] for name in pair} == pair)
    assert is_pair == (True, True)


@pytest.mark.parametrize("word", ["null", "None", "", '""', "undefined"])
def test_words_without_a_value_in_rows_count_as_absent(chain: Chain, word: str) -> None:
    """A row with "null", "None" or the like contains no key: the given keys are used."""
    chain.database.put_keys(AppKey(word or " ", word or " "))
    assert chain.resolve().app_key == APP_KEY
    assert SupabaseCredentialManager(chain.supabase.url, SERVICE_KEY, env={}).get_kis_credentials() is None


@pytest.mark.parametrize(
    ("keys", "code"),
    [
        (AppKey(APP_KEY.secret, APP_KEY.key), "swapped-app-key"),
        (AppKey("your_app_key", APP_KEY.secret), "invalid-app-key"),
        (AppKey(APP_KEY.key, "********"), "invalid-app-secret"),
    ],
    ids=["swapped", "placeholder", "masked"],
)
def test_rows_that_cannot_be_keys(chain: Chain, keys: AppKey, code: str) -> None:
    """If the stored values cannot be keys, the error says that they are stored, and KIS is not called."""
    chain.database.put_keys(keys)
    with pytest.raises(StoreMisconfigured) as caught:
        chain.resolve()
    assert (caught.value.code, "stored for kis" in f"{caught.value}", chain.issue_calls) == (code, True, 0)


def test_set_keys_stores_pasted_values_clean(chain: Chain) -> None:
    """``set-keys`` removes quotes, names and a byte order mark from pasted lines, and refuses a swapped pair."""
    keyless = {name: value for name, value in chain.variables.items() if not name.startswith("KIS_APP_")}
    lines = f'\ufeffKIS_APP_KEY="{APP_KEY.key}"\r\nKIS_APP_SECRET="{APP_KEY.secret}"\r\n'

    swapped = kis_token_here(keyless, "set-keys", standard_input=f"{APP_KEY.secret}\n{APP_KEY.key}\n")
    stored = kis_token_here(keyless, "set-keys", standard_input=lines)

    assert (swapped.returncode, "[swapped-app-key]" in swapped.stderr) == (1, True)
    assert (stored.returncode, stored.stderr) == (0, "")
    rows = chain.database.owner.execute("select credential_value from public.api_credentials order by id").fetchall()
    is_clean = [row["credential_value"] for row in rows] == [APP_KEY.key, APP_KEY.secret]
    assert is_clean


def test_set_keys_names_a_cut_key(chain: Chain) -> None:
    """If a key's length is wrong, the error has both lengths. The key is not stored, and KIS is not called."""
    cut = {"KIS_APP_KEY": APP_KEY.key[:-1], "KIS_APP_SECRET": APP_KEY.secret}
    refused = kis_token_here(chain.variables | cut, "set-keys", "--no-verify")
    assert refused.returncode == 1
    assert "error: the app key for production has 35 characters, and KIS's have 36 [invalid-app-key]" in refused.stderr
    assert (chain.resolver(app_key="", app_secret="").look().app_key, chain.kis.requests) == (None, ())


def test_check_reports_unusual_lengths_and_corrected_addresses(chain: Chain) -> None:
    """``check`` reports unusual lengths and corrected addresses, although no call has failed."""
    cut = {"KIS_APP_KEY": APP_KEY.key, "KIS_APP_SECRET": APP_KEY.secret[:-1]}
    looked = kis_token_here(chain.variables | cut, "check").stdout
    assert "app key: the app secret has 179 characters, and KIS's have 180" in looked
    _, found = read_settings(chain.variables | {"SUPABASE_URL": "abcdefghijklmnopqrst"})
    assert [(finding.state, finding.what) for finding in found] == [("ok", "settings"), ("note", "settings")]


def test_set_keys_keeps_the_token_of_a_row_with_quotes(chain: Chain) -> None:
    """If the stored key differs from the new one only by quotes, ``set-keys`` keeps the slot's opaque token."""
    chain.database.put_keys(AppKey(f'"{APP_KEY.key}"', f'"{APP_KEY.secret}"'))
    value = '{"access_token": "opaque.token-of-a-test_0123456789"}'
    chain.database.put("access_token", value, make_token(left=HOUR).expires_at)
    stored = kis_token_here(chain.variables, "set-keys")
    assert "the old token was deactivated" not in stored.stdout


def test_expired_token_and_refused_keys(chain: Chain) -> None:
    """If the slot has an expired token, the error still names the origin of the refused keys."""
    chain.database.put_keys(OLD)
    chain.database.put_token(expired_token())
    with pytest.raises(KisTokenError) as caught:
        chain.resolve()
    assert f"{caught.value}".startswith(STORED)
