"""``make demo``: the action's own program against the sandbox: without a token, with a token, without Supabase."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from kis_token.sandbox import Sandbox
from tools.step import Ended, run_step


def main() -> int:
    """Run the three steps and print the results. Returns 0 if KIS was called exactly once."""
    print("Starting the sandbox: PostgreSQL, a stand-in for Supabase, and a KIS emulator.", flush=True)
    with Sandbox() as sandbox, tempfile.TemporaryDirectory(prefix="kis-demo-") as folder:
        inputs = {
            "supabase-url": sandbox.supabase.url,
            "supabase-key": sandbox.service_key,
            "base-url": sandbox.kis.production_url,
        }
        steps = []
        for title, is_down in (
            ("1. No token is stored. The packages are installed, which takes a moment", False),
            ("2. The token is stored: one request, nothing installed", False),
            ("3. Supabase does not answer", True),
        ):
            print(f"\n{title}", flush=True)
            if is_down:
                sandbox.supabase.stop()
            steps.append(run_step(inputs, Path(folder)))
            _show(steps[-1])
        counts = sandbox.kis.counts("production")
        print(f"\nKIS was asked for a token {counts.calls} time(s).")
    sources = [step.outputs.get("source") for step in steps]
    same = len({step.outputs.get("access-token") for step in steps}) == 1
    return 0 if sources == ["oauth", "supabase", "cache"] and same and counts.calls == 1 else 1


def _show(step: Ended) -> None:
    if step.status:
        print(step.log)
    outputs = step.outputs
    print(
        f"   source: {outputs.get('source', 'none')}, refreshed: {outputs.get('refreshed')}, "
        f"valid until {outputs.get('expires-at')}"
    )


if __name__ == "__main__":
    sys.exit(main())
