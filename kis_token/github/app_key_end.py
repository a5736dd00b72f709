"""A step of the rotation: check whether the stored app key ends within 30 days. The step needs no package.

The step sets the output ``ends`` to ``soon`` or ``later``, and the output ``warning`` to a warning or, for ``later``,
to an empty text. If the job cannot read an app key in Supabase, the step sets no output.
"""

from __future__ import annotations

import os
import sys
import time
from typing import TYPE_CHECKING

from kis_token.clock import SystemClock
from kis_token.core.app_key_expiry import RENEWAL, warn_of_key_end
from kis_token.github.rotation_step import run_step
from kis_token.store.http_exchange import Wire
from kis_token.store.slot_query import read_slot
from kis_token.token import instant_or_none

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from kis_token.config import Settings
    from kis_token.core.slot import Slot
    from kis_token.github.workflow_commands import FileWorkflow


def main(env: Mapping[str, str], started: float) -> int:
    """Run the step and return its exit status."""
    return run_step(env, started, _look, "The last day of the app key was not read")


def _look(settings: Settings, workflow: FileWorkflow, left: Callable[[], float]) -> None:
    slot = _read(settings, workflow.mask, left)
    row = slot.rows.get("app_key")
    if row is None or row.is_empty:
        workflow.info("This job sees no app key in Supabase.")
        return
    now = slot.server_now or SystemClock().now()
    said = warn_of_key_end(settings.service_name, instant_or_none(row.expires_at), now)
    workflow.output("ends", "soon" if said else "later")
    workflow.output("warning", f"{said}. {RENEWAL}" if said else "")
    if said:
        workflow.warning(f"{said}. {RENEWAL}")
    else:
        workflow.info("The app key does not expire within 30 days, or no last day is stored.")


def _read(settings: Settings, mask: Callable[[str], None], left: Callable[[], float]) -> Slot:
    wire, key, service = Wire(settings.supabase_url), settings.supabase_key, settings.service_name
    if settings.id_token_request is None:
        return read_slot(wire, key, service, types=("app_key",))
    from kis_token.store.id_token import IDTokens
    from kis_token.store.keyless import read_keyless

    id_tokens = IDTokens(settings.id_token_request, settings.supabase_url, left, mask)
    return read_keyless(wire, key, id_tokens, service, left)


if __name__ == "__main__":
    sys.exit(main(os.environ, time.monotonic()))
