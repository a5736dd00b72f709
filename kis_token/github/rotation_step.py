"""Runs a check of the rotation workflow. The check reads Supabase, and sets outputs for an issue on GitHub.

The check needs no package.

If a KisTokenError occurs, the check prints a warning and succeeds, because the renewal of the token is more important
than the check. A later run of the workflow checks again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kis_token.clock import SystemClock
from kis_token.config import Settings
from kis_token.deadline import Deadline
from kis_token.errors import KisTokenError
from kis_token.github.failures import describe_defect
from kis_token.github.outputs import mask_secrets
from kis_token.github.workflow_commands import FileWorkflow
from kis_token.settings.environment import secrets_in

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

#: The time limit of a step, in seconds.
STEP_SECONDS = 60.0


def run_step(
    env: Mapping[str, str],
    started: float,
    work: Callable[[Settings, FileWorkflow, Callable[[], float]], None],
    failure: str,
) -> int:
    """Run ``work`` with the settings, the workflow and the seconds left; return the exit status.

    ``started`` is the time at which the step began, a value of ``time.monotonic``. ``failure`` is the beginning of the
    warning about an error.
    """
    workflow = FileWorkflow(env)
    try:
        mask_secrets(secrets_in(env), workflow)
        left = Deadline(SystemClock().monotonic, started + STEP_SECONDS).left
        work(Settings.from_env(env), workflow, left)
    except KisTokenError as error:
        workflow.warning(f"{failure}: {error.advice}")
    except Exception as error:  # noqa: BLE001 - a traceback may quote a secret
        workflow.error(describe_defect(error).brief)
        return 1
    return 0
