"""The output of a step: masks come first, then outputs, and readable texts have no secret."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest
import yaml

from kis_token.core.resolution import Resolution, TraceEntry, View
from kis_token.errors import EnvironmentFault, IssuanceError, KisTokenError, SettingsError
from kis_token.github.failures import describe_defect, describe_failure, report_failure
from kis_token.github.outputs import SHORTEST_SECRET, mask_secrets, mask_view, publish
from kis_token.github.summary import describe_success
from kis_token.remedies import REMEDIES
from kis_token.token import build_token, fingerprint
from tests.support import ACCOUNT, APP_KEY, SERVICE_KEY, RecordedWorkflow, make_settings, make_token

NOON = datetime(2026, 3, 2, 12, 0, tzinfo=timezone.utc)
OPAQUE = "opaque.token-of-a-test_0123456789"
ACTION = Path(__file__).resolve().parents[2] / "action.yml"
EXPORTS = {"INPUT_EXPORT_ENV": "true", "INPUT_EXPORT_CREDENTIALS": "true"}


def resolution_of(value: str = "", **changes: object) -> Resolution:
    """Return a resolution at noon with the token ``value``, or with a JWT if ``value`` is empty."""
    end = NOON + timedelta(hours=3)
    begun = end - timedelta(hours=24)
    token = make_token(left=end - NOON, age=NOON - begun, now=NOON)
    if value:
        token = build_token(value, expiries=[end], issued_at=begun)
    links = (TraceEntry("supabase", "its token is fresh, 3 h 0 min left"), TraceEntry("cache", "turned off"))
    found = Resolution(token, "supabase", APP_KEY, links, NOON)
    return replace(found, **changes)  # type: ignore[arg-type]  # the tests name real fields


def published(resolution: Resolution, **variables: str) -> RecordedWorkflow:
    """Return the workflow's record of a published resolution."""
    workflow = RecordedWorkflow()
    publish(resolution, make_settings(**variables), workflow, {}, NOON)
    return workflow


def for_people(workflow: RecordedWorkflow) -> str:
    """Return all readable texts: the log's lines and the summary."""
    return "\n".join(text for kind in ("info", "warning", "error", "summarize") for text in workflow.of(kind))


def hidden(workflow: RecordedWorkflow, secret: str) -> bool:
    """Whether the mask of a secret comes before every message that is not a mask."""
    kinds = [each[0] for each in workflow.told]
    first_said = next((place for place, kind in enumerate(kinds) if kind != "mask"), len(kinds))
    return ("mask", secret) in workflow.told[:first_said]


@pytest.mark.parametrize("exports", [{}, EXPORTS], ids=["plain", "with exports"])
def test_every_secret_is_masked_before_anything_is_put_out(exports: dict[str, str]) -> None:
    """Token, key and secret are masked before any output: with step debugging, the runner logs each output."""
    resolution = resolution_of()
    workflow = published(resolution, **exports)
    for secret in (resolution.token.value, APP_KEY.key, APP_KEY.secret):
        assert hidden(workflow, secret), "a secret is not masked in time"


def test_app_key_inside_the_token_is_masked() -> None:
    """The app key inside a JWT is masked even if no app key was given, because every reader can decode a JWT."""
    workflow = published(resolution_of(app_key=None))
    assert hidden(workflow, ACCOUNT.app_key), "the app key is not masked"


def test_part_that_decodes_to_the_app_key_is_masked() -> None:
    """The middle part of a JWT contains the app key, and has its own mask."""
    resolution = resolution_of(app_key=None)
    payload = resolution.token.value.split(".")[1]
    assert hidden(published(resolution), payload), "the payload is not masked"


def test_found_values_are_masked_before_they_are_judged() -> None:
    """The tokens of store and cache, and the stored keys, are masked as soon as they are read."""
    stored, cached = make_token(), make_token()
    workflow = RecordedWorkflow()
    mask_view(View(NOON, (), app_key=APP_KEY, stored=stored, cached=cached), workflow)
    for secret in (stored.value, cached.value, APP_KEY.key, APP_KEY.secret):
        assert hidden(workflow, secret), "a secret is not masked"
    assert {each[0] for each in workflow.told} == {"mask"}


def test_only_a_claim_in_the_form_of_a_token_is_masked() -> None:
    """A claim of a few characters or of several words is not masked: its mask would blank usual words in the log."""
    for claim in ("1", "a sentence that the log is full of"):
        jwt = make_token(claim, now=NOON)
        workflow = published(replace(resolution_of(), token=jwt))
        assert claim not in workflow.of("mask")


def test_opaque_token_is_masked_once() -> None:
    """An opaque token is masked exactly once."""
    workflow = published(resolution_of(OPAQUE, app_key=None))
    assert [secret == OPAQUE for secret in workflow.of("mask")] == [True]


def test_short_values_are_not_masked() -> None:
    """A value below the minimum length of a secret is not masked. Each secret is masked once."""
    workflow = RecordedWorkflow()
    mask_secrets([SERVICE_KEY, "1", "", "x" * (SHORTEST_SECRET - 1), "x" * SHORTEST_SECRET, SERVICE_KEY], workflow)
    assert [len(secret) for secret in workflow.of("mask")] == [len(SERVICE_KEY), SHORTEST_SECRET]


def test_outputs_are_those_of_action_yml() -> None:
    """Only declared outputs are set: the keys only with export-credentials, the error outputs only on failure."""
    declared = set(yaml.safe_load(ACTION.read_text(encoding="utf-8"))["outputs"])
    keys, failure = {"app-key", "app-secret"}, {"error-code", "error-hint"}
    workflow = RecordedWorkflow()
    report_failure(KisTokenError("token-unusable", "x"), (), workflow)
    assert set(published(resolution_of()).outputs()) == declared - keys - failure
    assert set(published(resolution_of(), **EXPORTS).outputs()) == declared - failure
    assert set(workflow.outputs()) == failure


def test_outputs_have_their_forms() -> None:
    """Times are ISO 8601 in UTC, seconds are whole numbers, and booleans are ``true`` or ``false``."""
    outputs = published(resolution_of(OPAQUE), KIS_ENVIRONMENT="paper").outputs()
    assert fingerprint(outputs.pop("access-token")) == fingerprint(OPAQUE)
    assert outputs == {
        "expires-at": "2026-03-02T15:00:00+00:00",
        "issued-at": "2026-03-01T15:00:00+00:00",
        "expires-in": "10800",
        "source": "supabase",
        "refreshed": "false",
        "expired": "false",
        "environment": "paper",
        "base-url": "https://openapivts.koreainvestment.com:29443",
    }


def test_renewed_and_expired_tokens_are_marked() -> None:
    """Outputs mark a renewed and an expired token, and expires-in is never negative."""
    outputs = published(resolution_of(OPAQUE, refreshed=True, expired=True, now=NOON + timedelta(hours=4))).outputs()
    assert (outputs["refreshed"], outputs["expired"], outputs["expires-in"]) == ("true", "true", "0")


VARIABLES = [
    ({}, set()),
    ({"INPUT_EXPORT_ENV": "true"}, {"KIS_ACCESS_TOKEN", "KIS_BASE_URL"}),
    ({"INPUT_EXPORT_CREDENTIALS": "true"}, set()),
    (EXPORTS, {"KIS_ACCESS_TOKEN", "KIS_BASE_URL", "KIS_APP_KEY", "KIS_APP_SECRET"}),
]


@pytest.mark.parametrize(("exports", "names"), VARIABLES, ids=["neither", "env", "credentials", "both"])
def test_variables_are_set_only_where_asked_for(exports: dict[str, str], names: set[str]) -> None:
    """Later steps get no secret in their environment unless export-env is set."""
    assert {each[1] for each in published(resolution_of(), **exports).told if each[0] == "export"} == names


def test_unknown_keys_cannot_be_exported() -> None:
    """export-credentials without known keys is an error before any output."""
    workflow = RecordedWorkflow()
    with pytest.raises(KisTokenError) as caught:
        publish(resolution_of(app_key=None), make_settings(**EXPORTS), workflow, {}, NOON)
    assert caught.value.code == "missing-app-key"
    assert workflow.told == []


@pytest.mark.parametrize("exports", [{}, EXPORTS], ids=["plain", "with exports"])
def test_people_never_read_a_secret(exports: dict[str, str]) -> None:
    """Log and summary have no token and no key, with and without exports."""
    resolution = resolution_of(warnings=("The token was not renewed.",))
    seen = for_people(published(resolution, **exports))
    for secret in (resolution.token.value, APP_KEY.key, APP_KEY.secret, SERVICE_KEY):
        assert secret not in seen, "a secret is shown"


def test_log_and_summary_have_the_result_of_each_source() -> None:
    """Log and summary have each source's result, the token's end in both zones, and the warnings."""
    resolution = resolution_of(warnings=("The clock is off.",), refreshed=True)
    workflow = published(resolution)
    assert workflow.of("info") == [
        "supabase: its token is fresh, 3 h 0 min left",
        "cache: turned off",
        "token from supabase, valid until 2026-03-03 00:00:00 KST (2026-03-02 15:00:00 UTC)",
    ]
    assert workflow.of("warning") == ["The clock is off."]
    assert workflow.of("summarize") == [describe_success(resolution, make_settings())]


def test_failure_is_one_line_with_its_remedy() -> None:
    """A failure has one line with text, code and remedy, an output with the code, and a summary with the sources."""
    workflow = RecordedWorkflow()
    error = IssuanceError("wait-too-long", "Time was up", retryable=True)
    links = (TraceEntry("supabase", "no token is stored"),)
    report_failure(error, links, workflow)
    assert workflow.of("error") == [f"Time was up [wait-too-long]. {REMEDIES['wait-too-long']}"]
    assert workflow.outputs() == {"error-code": "wait-too-long", "error-hint": REMEDIES["wait-too-long"]}
    assert workflow.of("info") == ["supabase: no token is stored"]
    assert workflow.of("summarize") == [describe_failure([error], links)]


def test_every_fault_has_a_line_of_its_own() -> None:
    """If there are several faults, each fault has its own line and code, and the summary has all faults."""
    workflow = RecordedWorkflow()
    error = SettingsError([("invalid-mode", "first"), ("invalid-boolean", "second")])
    report_failure(error, (), workflow)
    assert [line.split("]")[0] for line in workflow.of("error")] == ["first [invalid-mode", "second [invalid-boolean"]
    assert workflow.outputs() == {
        "error-code": "invalid-mode,invalid-boolean",
        "error-hint": f"{REMEDIES['invalid-mode']} {REMEDIES['invalid-boolean']}",
    }
    assert workflow.of("summarize") == [describe_failure(error.faults, ())]


class BrokenWorkflow(RecordedWorkflow):
    """A workflow whose files cannot be written."""

    def output(self, name: str, value: str) -> None:
        """Raise the error."""
        raise EnvironmentFault("output-unwritable", f"{name} of {len(value)} characters cannot be written")


def test_error_is_told_even_when_the_files_are_broken() -> None:
    """The error line is printed before the files are written. If they are unwritable, a second line reports this."""
    workflow = BrokenWorkflow()
    report_failure(KisTokenError("output-unwritable", "GITHUB_OUTPUT names no file"), (), workflow)
    assert len(workflow.of("error")) == 1
    assert workflow.of("info") == ["The output error-code and the summary could not be written."]


def test_lines_of_a_secret_are_masked_by_themselves() -> None:
    """If a secret has several lines, each long line gets its own mask, and a short line gets no mask."""
    workflow = RecordedWorkflow()
    mask_secrets(["x" * SHORTEST_SECRET + "\n1\ntrue"], workflow)
    assert workflow.of("mask") == ["x" * SHORTEST_SECRET]


class WithoutSummary(RecordedWorkflow):
    """A workflow whose summary cannot be written."""

    def summarize(self, markdown: str) -> None:
        """Raise the error."""
        raise EnvironmentFault("output-unwritable", f"a summary of {len(markdown)} characters cannot be written")


def test_summary_that_cannot_be_written_is_a_warning() -> None:
    """If the summary cannot be written, the token is still output, with a warning."""
    workflow = WithoutSummary()
    publish(resolution_of(), make_settings(), workflow, {}, NOON)
    assert "access-token" in workflow.outputs()
    assert len(workflow.of("warning")) == 1


def test_defect_is_described_without_its_text() -> None:
    """An unexpected error is reported by its type and place in our code, without its text, which may quote a secret."""
    with pytest.raises(AttributeError) as caught:
        publish(None, make_settings(), RecordedWorkflow(), {}, NOON)  # type: ignore[arg-type]  # the defect
    defect = describe_defect(caught.value)
    assert defect.code == "internal-error"
    assert defect.args[0].startswith("Unexpected AttributeError at outputs.py:")
    secret = describe_defect(ValueError(f"bad {OPAQUE}"))
    assert secret.brief == "Unexpected ValueError [internal-error]"


def test_token_files_are_written_after_masks_and_before_outputs(tmp_path: Path) -> None:
    """Token files exist before the first output and after the masks, and the log names the clients."""
    there: list[bool] = []

    class Looking(RecordedWorkflow):
        def output(self, name: str, value: str) -> None:
            there.append(any(tmp_path.glob("KIS/config/KIS*")))
            super().output(name, value)

    workflow = Looking()
    settings = make_settings(INPUT_TOKEN_FILES="kis-auth,kis-trader")
    publish(resolution_of(), settings, workflow, {"HOME": str(tmp_path)}, NOON)
    assert there
    assert all(there)
    assert "token files written for kis-auth, kis-trader" in workflow.of("info")


def test_token_file_that_cannot_be_written_is_an_error_before_any_output(tmp_path: Path) -> None:
    """If a token file cannot be written, the step fails after the masks and before the first output."""
    (tmp_path / "KIS").touch()
    workflow, settings = RecordedWorkflow(), make_settings(INPUT_TOKEN_FILES="kis-auth")
    with pytest.raises(KisTokenError) as caught:
        publish(resolution_of(), settings, workflow, {"HOME": str(tmp_path)}, NOON)
    assert caught.value.code == "export-failed"
    assert {each[0] for each in workflow.told} == {"mask"}


def test_no_file_is_written_for_an_expired_token(tmp_path: Path) -> None:
    """With allow-expired, an expired token is output with a warning, but no token file: a client would issue."""
    workflow, settings = RecordedWorkflow(), make_settings(INPUT_TOKEN_FILES="kis-auth")
    publish(resolution_of(expired=True), settings, workflow, {"HOME": str(tmp_path)}, NOON)
    assert list(tmp_path.iterdir()) == []
    assert len(workflow.of("warning")) == 1
    assert "access-token" in workflow.outputs()
