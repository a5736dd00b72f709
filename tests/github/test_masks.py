"""The masks of one step: on the fast and on the slow path, the runner gets each secret once, before the outputs."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import pytest

from kis_token.github.action import ToolkitWorkflow
from kis_token.github.workflow_commands import FileWorkflow, Masks
from kis_token.settings.pasted_values import payload_of
from tests.resolver_harness import issue_token
from tools.step import run_step

if TYPE_CHECKING:
    from pathlib import Path

    from kis_token.sandbox import Sandbox
    from tools.step import Ended

MASK = "::add-mask::"


def inputs_of(sandbox: Sandbox) -> dict[str, str]:
    """Return the inputs of a step with keys and outputs of every kind."""
    account = sandbox.kis.accounts["production"][0]
    return {
        "supabase-url": sandbox.supabase.url,
        "supabase-key": sandbox.service_key,
        "base-url": sandbox.kis.production_url,
        "app-key": account.app_key,
        "app-secret": account.app_secret,
        "export-credentials": "true",
        "export-env": "true",
    }


def assert_each_secret_is_masked_once(ended: Ended, sandbox: Sandbox) -> None:
    """Check that the log has one mask for each of a step's five secrets, and no other mask."""
    account, token = sandbox.kis.accounts["production"][0], ended.outputs["access-token"]
    secrets = [sandbox.service_key, account.app_key, account.app_secret, token, payload_of(token)]
    masked = Counter(line.removeprefix(MASK) for line in ended.log.splitlines() if line.startswith(MASK))
    assert [masked[secret] for secret in secrets] == [1] * 5
    assert masked.total() == 5


def test_warm_step_masks_each_secret_once(sandbox: Sandbox, tmp_path: Path) -> None:
    """The fast path gives the runner five masks for five secrets."""
    issue_token(sandbox)
    ended = run_step(inputs_of(sandbox), tmp_path)
    assert (ended.status, ended.public["source"]) == (0, "supabase")
    assert_each_secret_is_masked_once(ended, sandbox)


def test_issuing_step_masks_each_secret_once(sandbox: Sandbox, tool_cache: Path, tmp_path: Path) -> None:
    """The fast path passes its masks to the chain. The chain repeats no mask, and adds the masks of the new token."""
    ended = run_step(inputs_of(sandbox), tmp_path, {"RUNNER_TOOL_CACHE": f"{tool_cache}"})
    assert (ended.status, ended.public["source"]) == (0, "oauth")
    assert_each_secret_is_masked_once(ended, sandbox)


@pytest.mark.parametrize("kind", ["file", "toolkit"])
def test_mask_is_repeated_by_no_writer(kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Both implementations of Workflow skip the lines that this step has masked already, and mask the other lines."""
    first, masks = FileWorkflow({}), Masks()
    workflow = first if kind == "file" else ToolkitWorkflow(masks)
    if kind == "toolkit":
        masks.add("masked-before")
    else:
        first.mask("masked-before")
    capsys.readouterr()
    workflow.mask("masked-before\nnew\nnew")
    workflow.mask("new")
    assert capsys.readouterr().out.splitlines() == [f"{MASK}new"]


def test_masks_are_shown_by_no_repr() -> None:
    """The repr of the masks has no secret."""
    masks = Masks()
    masks.add("opaque.token-of-a-test_0123456789")
    assert "opaque" not in f"{masks!r}"
