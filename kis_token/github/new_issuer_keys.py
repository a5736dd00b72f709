"""A step of the rotation: check whether the database has each key that GitHub publishes for its ID tokens.

GitHub publishes a key before GitHub signs with that key. As soon as GitHub signs with a key that the database lacks,
jobs without a Supabase key fail. The step sets the output ``keys`` to ``missing`` or ``stored``. If the step finds no
keyless caller, and therefore no issuer of ID tokens, the step sets no output. The step needs no package.
"""

from __future__ import annotations

import os
import re
import sys
import time
from typing import TYPE_CHECKING

from kis_token.admin.issuer_keys import fetch_keys
from kis_token.errors import StoreMisconfigured
from kis_token.github.rotation_step import run_step
from kis_token.store.http_exchange import Wire
from kis_token.store.keyless import read_issuer_keys
from kis_token.store.owner_calls import OwnerCalls

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from kis_token.config import Settings
    from kis_token.github.workflow_commands import FileWorkflow


def main(env: Mapping[str, str], started: float) -> int:
    """Run the step and return its exit status."""
    return run_step(env, started, _compare, "The issuer's keys were not compared with the stored keys")


def _compare(settings: Settings, workflow: FileWorkflow, left: Callable[[], float]) -> None:
    stored = _stored_keys(settings, workflow.mask, left)
    missing = {issuer: fetch_keys(issuer).missing_from(kids) for issuer, kids in stored.items()}
    if not stored:
        workflow.info("This run knows no keyless caller, so it compared no issuer's keys with the stored keys.")
        return
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


def _stored_keys(
    settings: Settings, mask: Callable[[str], None], left: Callable[[], float]
) -> dict[str, frozenset[str]]:
    """Return the names of the stored keys, by issuer.

    With the service key, the result has the issuers of all callers. With an ID token, the result has only the issuer of
    this job. With a read-only key, the result is empty.
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
            return {}  # a database from an older version has no list of callers
        raise
    issuers = {f"{caller.get('issuer')}" for caller in found["callers"]}
    return {
        issuer: frozenset(f"{each.get('kid')}" for each in found["keys"] if each.get("issuer") == issuer)
        for issuer in sorted(issuers)
    }


def _shown(kid: str) -> str:
    """Return a key's name for Markdown. A name with unusual characters is replaced by a general text."""
    return kid if re.fullmatch(r"[A-Za-z0-9._-]{1,100}", kid) else "a key with an unusual name"


if __name__ == "__main__":
    sys.exit(main(os.environ, time.monotonic()))
