"""A step of the rotation: whether GitHub publishes a key for ID tokens that the database lacks.

GitHub publishes a key before GitHub signs with that key. As soon as GitHub signs with a key that the database lacks,
jobs without a Supabase key fail. The step sets the output ``keys`` to ``missing`` or ``stored``, and does not set it if
there is nothing to compare. The step needs no package.
"""

from __future__ import annotations

import os
import re
import sys
import time
from typing import TYPE_CHECKING

from kis_token.admin.issuer_keys import fetch_keys
from kis_token.clock import SystemClock
from kis_token.config import Settings
from kis_token.deadline import Deadline
from kis_token.errors import KisTokenError, StoreMisconfigured
from kis_token.github.outputs import describe_defect, mask_secrets
from kis_token.github.workflow_commands import FileWorkflow
from kis_token.settings.environment import secrets_in
from kis_token.store.http_exchange import Wire
from kis_token.store.keyless import read_issuer_keys
from kis_token.store.owner_calls import OwnerCalls

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

#: The limit of the step, in seconds.
STEP_SECONDS = 60.0


def main(env: Mapping[str, str], started: float) -> int:
    """Run the step, and return the exit status. An outage is only a warning, because the next tick tries again."""
    workflow = FileWorkflow(env)
    try:
        mask_secrets(secrets_in(env), workflow)
        settings = Settings.from_env(env)
        left = Deadline(SystemClock().monotonic, started + STEP_SECONDS).left
        stored = _stored_keys(settings, workflow.mask, left)
        missing = {issuer: fetch_keys(issuer).missing_from(kids) for issuer, kids in stored.items()}
    except KisTokenError as error:
        workflow.warning(f"The issuer's keys were not compared: {error}. {error.hint}")
        return 0
    except Exception as error:  # noqa: BLE001 - a traceback may quote a secret
        workflow.error(f"{describe_defect(error)}")
        return 1
    if not stored:
        workflow.info("No job without a key is listed, so no key of an issuer is needed.")
        return 0
    lines = [f"- `{_shown(kid)}` of {issuer}" for issuer, kids in missing.items() for kid in kids]
    workflow.output("keys", "missing" if lines else "stored")
    workflow.output("list", "\n".join(lines))
    if lines:
        workflow.warning(
            "GitHub publishes keys that the database lacks. Run the SQL that kis-token trust --keys prints, before "
            "GitHub signs with them."
        )
    for line in lines or ["All published keys are stored."]:
        workflow.info(line)
    return 0


def _stored_keys(
    settings: Settings, mask: Callable[[str], None], left: Callable[[], float]
) -> dict[str, frozenset[str]]:
    """The names of the stored keys, by issuer.

    With the service key the result has the issuers of all callers, otherwise the issuer of this job alone.
    """
    key = settings.supabase_key
    if settings.reads_only:
        return {}
    if settings.id_token_request is not None:
        from kis_token.store.id_token import IDTokens

        id_tokens = IDTokens(settings.id_token_request, settings.supabase_url, left, mask)
        issuer, kids = read_issuer_keys(Wire(settings.supabase_url), key, id_tokens, settings.service_name, left)
        return {issuer: kids}
    try:
        found = OwnerCalls(settings.supabase_url, key, left=left).callers_status(None)
    except StoreMisconfigured as error:
        if error.is_function_missing:
            return {}  # the database is older than the list of callers
        raise
    issuers = {f"{caller.get('issuer')}" for caller in found["callers"]}
    return {
        issuer: frozenset(f"{each.get('kid')}" for each in found["keys"] if each.get("issuer") == issuer)
        for issuer in sorted(issuers)
    }


def _shown(kid: str) -> str:
    """The name of a key in Markdown. A name with unusual characters is not shown, because it comes from GitHub."""
    return kid if re.fullmatch(r"[A-Za-z0-9._-]{1,100}", kid) else "a key with an unusual name"


if __name__ == "__main__":
    sys.exit(main(os.environ, time.monotonic()))
