"""``make demo``: ten jobs of the action at once against the sandbox, a later job, and a job without Supabase."""

from __future__ import annotations

import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING

from kis_token.sandbox import TOKEN_PATH, Sandbox
from kis_token.token import KST, parse_instant
from tools.step import Ended, run_step

if TYPE_CHECKING:
    from collections.abc import Mapping

JOBS = 10


@dataclass(frozen=True, slots=True)
class Job:
    """A job with one step of the action, and the times around the step."""

    name: str
    began: datetime
    ended: datetime
    step: Ended

    @classmethod
    def run(cls, name: str, inputs: Mapping[str, str], folder: Path) -> Job:
        """Run the step. All jobs share the machine's tool cache. Each job has its own outputs and temporary files."""
        began = datetime.now(timezone.utc)
        step = run_step(inputs, folder / name, {"GITHUB_JOB": name, "RUNNER_TOOL_CACHE": str(folder / "tools")})
        return cls(name, began, datetime.now(timezone.utc), step)

    def show(self) -> None:
        """Print one line, and the log of a step that failed."""
        if self.step.status:
            print(self.step.log)
        seconds = (self.ended - self.began).total_seconds()
        print(
            f"   {self.name:6}  {_clock(self.began)} to {_clock(self.ended)} KST, {seconds:4.1f} s   "
            f"source: {self.step.outputs.get('source', 'none')}"
        )


def main() -> int:
    """Run the three parts and print the results. Returns 0 if KIS was called once and each job has its token."""
    print("Starting the sandbox: PostgreSQL, a Supabase emulator, and a KIS emulator.", flush=True)
    with Sandbox() as sandbox, tempfile.TemporaryDirectory(prefix="kis-demo-") as name:
        inputs = {
            "supabase-url": sandbox.supabase.url,
            "supabase-key": sandbox.service_key,
            "base-url": sandbox.kis.production_url,
        }
        folder = Path(name)
        (folder / "tools").mkdir()
        print(
            f"\n1. {JOBS} jobs start at once, and no token is stored. One job installs the packages for all.",
            flush=True,
        )
        with ThreadPoolExecutor(JOBS) as pool:
            jobs = list(pool.map(lambda number: Job.run(f"job-{number}", inputs, folder), range(1, JOBS + 1)))
        for job in sorted(jobs, key=lambda job: job.ended):
            job.show()
        print("\n2. The first job runs again: the token is stored, so it makes one request.", flush=True)
        jobs.append(Job.run("job-1", inputs, folder))
        jobs[-1].show()
        print("\n3. It runs again, and Supabase does not answer.", flush=True)
        sandbox.supabase.stop()
        jobs.append(Job.run("job-1", inputs, folder))
        jobs[-1].show()
        calls = [seen.at for seen in sandbox.kis.requests if seen.path == TOKEN_PATH]
    print(f"\ntokenP calls for all {len(jobs)} steps: {len(calls)}, at {', '.join(map(_clock, calls))} KST.")
    end = jobs[0].step.outputs.get("expires-at")
    if end:
        print(f"The token is valid until {parse_instant(end).astimezone(KST):%Y-%m-%d %H:%M:%S} KST.")
    sources = [job.step.outputs.get("source") for job in jobs]
    is_one_token = len({job.step.outputs.get("access-token") for job in jobs}) == 1
    as_told = sorted(map(str, sources[:JOBS])) == ["oauth", *["supabase"] * (JOBS - 1)]
    return 0 if as_told and sources[JOBS:] == ["supabase", "cache"] and is_one_token and len(calls) == 1 else 1


def _clock(moment: datetime) -> str:
    return f"{moment.astimezone(KST):%H:%M:%S}"


if __name__ == "__main__":
    sys.exit(main())
