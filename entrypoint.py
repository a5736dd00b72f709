"""The action's program, with the standard library alone.

A fresh token in Supabase costs one GET: nothing is installed, downloaded or imported from elsewhere. Anything more
(issuing, waiting, writing, sealed values) needs the runtime, which is found or built and handed the rest.

Parses on Python 3.8, because a job may have put an old one first on its path; runs on 3.10 or newer. The caller's
site-packages, .pth files and PYTHON variables play no part: it insists on -I -S -X utf8 and starts itself again if need
be.
"""

from __future__ import annotations

import os
import sys
import time
from typing import TYPE_CHECKING

HERE = os.path.dirname(os.path.abspath(__file__))
OLDEST = (3, 10)
NEWEST_MINOR = 20
REINSTALL = "--reinstall="

if TYPE_CHECKING:
    from contextlib import ExitStack
    from pathlib import Path

    from kis_token.config import Settings
    from kis_token.lookup import Resolution, View
    from kis_token.workflow import FileWorkflow


def read_start() -> float:
    """When the step began, as time.monotonic has it: now, or the time that this program passed to its second start."""
    return next((float(word[len(REINSTALL) :]) for word in sys.argv if word.startswith(REINSTALL)), time.monotonic())


STARTED = read_start()


def main() -> int:
    """Run the step; its exit status."""
    if sys.version_info < OLDEST:
        python = None if "--again" in sys.argv else find_python()
        if python is None:
            return report_old_python()
        return start_again(python)
    if not (sys.flags.isolated and sys.flags.no_site and sys.flags.utf8_mode):
        return start_again(sys.executable)
    sys.path.insert(0, HERE)
    return run_step()


def report_old_python() -> int:
    """Without our own modules, which this Python cannot read."""
    hint = "Add a step with actions/setup-python before this one."
    problem = "Python 3.10 or newer is needed, and only an older one was found"
    print("::error::%s [python-missing]. %s" % (problem, hint))  # noqa: T201, UP031 - a command; as old as can be
    if os.environ.get("GITHUB_OUTPUT"):
        with open(os.environ["GITHUB_OUTPUT"], "a") as file:
            file.write("error-code=python-missing\nerror-hint=%s\n" % hint)  # noqa: UP031 - the same
    return 1


def find_python() -> str | None:
    """A Python that is new enough, by its name on the path, and that really starts: it may be a stub."""
    import shutil
    import subprocess

    for minor in range(NEWEST_MINOR, OLDEST[1] - 1, -1):
        python = shutil.which("python3.%d" % minor)  # noqa: UP031 - as old as can be
        if python and not subprocess.call([python, "-I", "-S", "-c", ""], stderr=subprocess.DEVNULL):  # noqa: S603 - the same
            return python
    return None


def start_again(python: str, *more: str) -> int:
    """The same program under ``python``, cut off from the caller's packages."""
    command = [python, "-I", "-S", "-X", "utf8", os.path.abspath(__file__), "--again", *more]
    if os.name == "nt":
        # exec on Windows returns to the caller before the new program is done.
        import subprocess

        return subprocess.call(command)  # noqa: S603 - our own arguments
    return os.execv(python, command)  # noqa: S606 - our own arguments; it never returns


def run_step() -> int:
    """The whole step: nothing leaves it but a status, whatever happens."""
    import signal
    from contextlib import ExitStack

    from kis_token.errors import KisTokenError
    from kis_token.publish import describe_defect, report_failure
    from kis_token.workflow import FileWorkflow

    workflow = FileWorkflow(os.environ)
    signal.signal(signal.SIGTERM, interrupt)
    with ExitStack() as end:
        try:
            try:
                return find_token(workflow, end)
            except KisTokenError as error:
                report_failure(error, (), workflow)
            except Exception as error:  # noqa: BLE001 - a traceback may quote a secret
                report_failure(describe_defect(error), (), workflow)
        except KeyboardInterrupt:
            return 130
        except OSError:
            pass  # nobody listens on standard output any more
        return 1


def interrupt(*_: object) -> None:
    """A cancelled run: end as after Ctrl-C, which gives a turn to issue back."""
    raise KeyboardInterrupt


def find_token(workflow: FileWorkflow, end: ExitStack) -> int:
    """The fast path, then whatever else is needed; the exit status. Raises KisTokenError."""
    from kis_token.clock import SystemClock
    from kis_token.config import Settings, secrets_in
    from kis_token.errors import EnvironmentFault
    from kis_token.publish import mask_secrets, mask_view, publish, report_failure
    from kis_token.workflow import require_file

    mask_secrets(secrets_in(os.environ), workflow)
    settings = Settings.from_env(os.environ)
    start_watch(settings, workflow, end)
    require_file(os.environ, "GITHUB_OUTPUT")
    if settings.export_env:
        require_file(os.environ, "GITHUB_ENV")
    view, resolution = look_quickly(settings, workflow)
    if view is not None:
        mask_view(view, workflow)
    if resolution is None:
        try:
            return run_chain(settings, view, workflow)
        except EnvironmentFault as fault:
            at_hand = view.at_hand() if view is not None and settings.mode == "resolve" else None
            if view is not None and view.outage is not None:
                fault = EnvironmentFault(fault.code, f"{view.outage.args[0]}. {fault.args[0]}")
            if view is None or at_hand is None:
                report_failure(fault, view.links if view is not None else (), workflow)
                return 1
            # Renewing failed before it began; what lives is not withheld for that.
            resolution = view.resolution(*at_hand, warning=f"The token was not renewed: {fault}. {fault.hint}")
    publish(resolution, settings, workflow, os.environ, SystemClock().now())
    return 0


def start_watch(settings: Settings, workflow: FileWorkflow, end: ExitStack) -> None:
    """End the process when its time is up, whatever it hangs in. Everything inside has a limit of its own before.

    ``end`` waits for a watch that is reporting: Python aborts when it exits while another thread writes to its output.
    """
    import threading

    from kis_token.errors import IssuanceError
    from kis_token.publish import report_failure

    limit = settings.timeout.total_seconds()

    def give_up() -> None:
        error = IssuanceError("timed-out", "The step took longer than timeout allows", retryable=True)
        report_failure(error, (), workflow)
        os._exit(1)

    watch = threading.Timer(limit - (time.monotonic() - STARTED), give_up)
    watch.daemon = True
    watch.start()
    end.callback(watch.join)
    end.callback(watch.cancel)


def look_quickly(settings: Settings, workflow: FileWorkflow) -> tuple[View | None, Resolution | None]:
    """What store and cache say, and a token when that is all it takes.

    Neither where a secret library would be needed, or where certificates or a proxy make the standard library doubtful.
    """
    if settings.encryption_keys or settings.mode == "force":
        return None, None
    from kis_token.cache import make_cache, remember
    from kis_token.clock import SystemClock
    from kis_token.limits import usable
    from kis_token.lookup import enough, look
    from kis_token.reader import READ_SECONDS, Slot, read_slot
    from kis_token.retry import Retry
    from kis_token.sealing import PlainVault
    from kis_token.wire import Wire

    vault = PlainVault()
    cache = make_cache(settings, vault)
    wire = Wire(settings.supabase_url)

    def left() -> float:
        return STARTED + usable(settings.timeout.total_seconds()) - time.monotonic()

    def read() -> Slot:
        return read_slot(wire, settings.supabase_key, settings.service_name, seconds=min(READ_SECONDS, left()))

    clock = SystemClock()
    view = look(settings, read, cache, vault, clock, retry=Retry(clock, left, workflow.info))
    if view.outage is not None and view.outage.lasting:
        return None, None  # the packages bring further certificates
    resolution = enough(view, settings)
    return view, remember(cache, resolution) if resolution is not None else None


def run_chain(settings: Settings, view: View | None, workflow: FileWorkflow) -> int:
    """The rest of the step, with the packages; the exit status. Raises EnvironmentFault where there are none.

    Packages that cannot be loaded although their files are as recorded are installed anew, once: by a second start of
    this program, since what is loaded already cannot be loaded again.
    """
    from contextlib import ExitStack

    from kis_token.bootstrap import forget_runtime
    from kis_token.errors import EnvironmentFault

    with ExitStack() as end:
        runtime = add_runtime(settings, end)
        try:
            return run_action(view)
        except ImportError as error:
            seen = error.name or type(error).__name__
        if any(word.startswith(REINSTALL) for word in sys.argv):
            raise EnvironmentFault("runtime-failed", f"The packages were installed anew and cannot be loaded ({seen})")
        forget_runtime(runtime)
    workflow.info(f"The packages cannot be loaded ({seen}). They are installed anew.")
    sys.stdout.flush()  # exec would lose what is not written yet
    return start_again(sys.executable, f"{REINSTALL}{STARTED!r}")


def add_runtime(settings: Settings, end: ExitStack) -> Path:
    """Find or build the packages and make them importable until ``end``."""
    from pathlib import Path

    from kis_token.bootstrap import ensure_runtime

    here = Path(HERE)
    runtime = ensure_runtime(
        here / "requirements.txt",
        here / "requirements-uv.txt",
        os.environ,
        STARTED + settings.timeout.total_seconds(),
        end.callback,
        seals=bool(settings.encryption_keys),
    )
    sys.path.insert(1, str(runtime))
    os.umask(os.umask(0o022) | 0o022)  # folders for bytecode, which Python makes there, are closed to others too
    return runtime


def run_action(view: View | None) -> int:
    """The chain as a step; its exit status. Raises ImportError where a package cannot be loaded."""
    try:
        from kis_token import action
    except Exception as error:
        raise ImportError(name=getattr(error, "name", None) or type(error).__name__) from error
    return action.main(STARTED, view)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:  # while the first modules are imported
        sys.exit(130)
