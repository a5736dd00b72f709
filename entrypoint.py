"""The action's program, which itself uses only the standard library.

If Supabase has a fresh token, the program makes one request to Supabase, and installs and downloads nothing. All other
work (issuing, waiting, writing, sealing) needs the runtime, a folder with packages. The program finds or builds the
runtime, and runs kis_token.github.action with the packages of the runtime.

kis_token/github/start.sh chooses the Python, 3.10 or newer. The program ignores the caller's site-packages, .pth files
and PYTHON variables. If the program was not started with the options -I -S -X utf8, it starts itself again with these
options.
"""

from __future__ import annotations

import gc
import os
import sys
import time

TYPE_CHECKING = False  # The name is not imported from `typing`, because a Python may lack this module.
HERE = os.path.dirname(os.path.abspath(__file__))
#: The names of this program's arguments. Each argument has the form NAME=VALUE. start.sh adds arguments when it starts
#: this program, and this program adds arguments when it starts itself again.
STARTED_WORD = "--started"
PYTHON_WORD = "--python"
UNUSABLE_WORD = "--unusable"
REINSTALL_WORD = "--reinstall"

if TYPE_CHECKING:
    from contextlib import ExitStack
    from pathlib import Path
    from typing import NoReturn

    from kis_token.config import Settings
    from kis_token.core.ports import Vault
    from kis_token.core.resolution import Resolution, TraceEntry, View
    from kis_token.core.slot import Slot
    from kis_token.errors import KisTokenError
    from kis_token.github.workflow_commands import FileWorkflow, Masks


def read_word(name: str) -> str:
    """Return the value of the argument ``name=value``, or "" if no argument has this name."""
    return next((word[len(name) + 1 :] for word in sys.argv if word.startswith(f"{name}=")), "")


#: The time at which the step began, a value of `time.monotonic`. If this program starts itself again, STARTED keeps the
#: value from the first start.
STARTED = float(read_word(STARTED_WORD) or read_word(REINSTALL_WORD) or time.monotonic())


def main() -> int:
    """Run the step and return its exit status."""
    if not (sys.flags.isolated and sys.flags.no_site and sys.flags.utf8_mode):
        return start_again()
    gc.disable()  # On the fast path, garbage collection frees nearly nothing and takes a twentieth of the time.
    sys.path.append(HERE)  # Python searches HERE last, because most imports are of the standard library.
    # Python writes no bytecode of the action's files, because a runner fetches these files again for each job.
    sys.dont_write_bytecode = True
    try:
        return run_step()
    except ImportError as error:
        if not lacks_module(error):
            raise
        return try_another_python(error)


def start_again(*more: str) -> int:
    """Start this program again with the same Python, without the caller's packages, and return its exit status."""
    command = [sys.executable, "-I", "-S", "-X", "utf8", os.path.abspath(__file__), *sys.argv[1:], *more]
    if os.name == "nt":
        # On Windows, exec ends this process before the new program ends, so the runner would end the step too early.
        import subprocess

        return subprocess.call(command)  # noqa: S603 - this program chooses the arguments
    return os.execv(sys.executable, command)  # noqa: S606 - this program chooses the arguments; execv never returns


def lacks_module(error: ImportError) -> bool:
    """Whether ``error`` shows that this Python cannot load a module of the standard library."""
    return (error.name or "").partition(".")[0] in sys.stdlib_module_names


def try_another_python(error: ImportError) -> int:
    """Continue with the next Python that start.sh finds, because this Python cannot load a module of its library.

    If the step was not started by start.sh or runs on Windows, report an error and return the exit status 1.
    """
    python = read_word(PYTHON_WORD)
    sys.stdout.flush()  # exec would lose the buffered output
    if python and os.name != "nt":
        earlier = read_word(UNUSABLE_WORD)
        unusable = f"{earlier}; " if earlier else ""
        words = [f"{STARTED_WORD}={STARTED!r}", f"{UNUSABLE_WORD}={unusable}{python}: Python without {error.name}"]
        os.execv("/bin/sh", ["/bin/sh", f"{HERE}/kis_token/github/start.sh", *words])  # noqa: S606 - this program chooses the arguments; execv never returns
    hint = "Install Python 3.10 or newer, or add a step with actions/setup-python before this one."
    print(f"::error::{sys.executable} cannot load its module {error.name} [python-missing]. {hint}", flush=True)  # noqa: T201 - a command
    if os.environ.get("GITHUB_OUTPUT"):
        with open(os.environ["GITHUB_OUTPUT"], "a", encoding="utf-8") as file:
            file.write(f"error-code=python-missing\nerror-hint={hint}\n")
    return 1


def run_step() -> int:
    """Run the whole step, report each error, and return the exit status.

    Raises ImportError if this Python lacks a module of the standard library. Raises no other error.
    """
    from contextlib import ExitStack

    # `dataclasses` imports the modules `inspect` and `copy`, and does not use them for the classes of the fast path. To
    # import `inspect` and `copy` would take a tenth of the fast path's time.
    for name in ("inspect", "copy"):
        load_when_used(name)
    from kis_token.errors import KisTokenError
    from kis_token.github.workflow_commands import FileWorkflow
    from kis_token.process.interrupts import interruptible

    workflow = FileWorkflow(os.environ)
    with interruptible(interrupt), ExitStack() as end:
        try:
            try:
                return find_token(workflow, end)
            except KisTokenError as error:
                report(error, (), workflow)
            except Exception as error:
                if isinstance(error, ImportError) and lacks_module(error):
                    raise
                from kis_token.github.failures import describe_defect

                report(describe_defect(error), (), workflow)  # a traceback may quote a secret
        except KeyboardInterrupt:
            return 130
        except OSError:
            pass  # standard output is closed
        return 1


def report(error: KisTokenError, trace: tuple[TraceEntry, ...], workflow: FileWorkflow) -> None:
    """Report an error as annotations, outputs and summary."""
    from kis_token.github.failures import report_failure  # few steps need it

    report_failure(error, trace, workflow)


def load_when_used(name: str) -> None:
    """Let imports of the module ``name`` succeed at once, and load the module at the first use of an attribute."""
    import types

    class Later(types.ModuleType):
        def __getattr__(self, attribute: str) -> object:
            import importlib

            if sys.modules.get(name) is self:
                del sys.modules[name]
            module = importlib.import_module(name)
            self.__dict__.update(vars(module))
            return getattr(module, attribute)

    sys.modules.setdefault(name, Later(name))


def interrupt(*_: object) -> None:
    """Raise KeyboardInterrupt for a cancelled run, so that the step gives its lease back."""
    raise KeyboardInterrupt


def find_token(workflow: FileWorkflow, end: ExitStack) -> int:
    """Find a token by the fast path or by the chain, output it, and return the exit status. Raises KisTokenError."""
    from kis_token.clock import SystemClock
    from kis_token.config import Settings
    from kis_token.errors import EnvironmentFault
    from kis_token.github.outputs import mask_secrets, mask_view, publish
    from kis_token.github.workflow_commands import require_file
    from kis_token.settings.environment import secrets_in

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
            at_hand = view.at_hand() if view is not None and settings.mode in ("resolve", "check") else None
            if view is not None and view.outage is not None:
                # If `view.outage.lasting` is True, the new error has the code of `view.outage`. If
                # `view.outage.lasting` is False, the new error has the code of `fault`.
                code = view.outage.code if view.outage.lasting else fault.code
                fault = EnvironmentFault(code, f"{view.outage.args[0]}. {fault.args[0]}")
            if view is None or at_hand is None:
                fault.warn(view.warnings if view is not None else ())
                report(fault, view.trace if view is not None else (), workflow)
                return 1
            # The packages cannot be used, so the token was not renewed. Output the token that is still valid.
            resolution = view.resolution(*at_hand, warning=f"The token was not renewed: {fault.advice}")
    publish(resolution, settings, workflow, os.environ, SystemClock().now())
    return 0


def start_watch(settings: Settings, workflow: FileWorkflow, end: ExitStack) -> None:
    """Start a timer that reports ``timed-out`` and ends the process at ``timeout``, even if an operation hangs.

    An operation with its own time limit ends before ``timeout``. If the timer is writing its report, ``end`` waits for
    the report, because Python aborts if the process exits while another thread writes to standard output.
    """
    import threading

    from kis_token.errors import IssuanceError

    limit = settings.timeout.total_seconds()

    def give_up() -> None:
        error = IssuanceError("timed-out", "The step took longer than timeout allows", retryable=True)
        report(error, (), workflow)
        os._exit(1)

    watch = threading.Timer(limit - (time.monotonic() - STARTED), give_up)
    watch.daemon = True
    watch.start()
    end.callback(watch.join)
    end.callback(watch.cancel)


def look_quickly(settings: Settings, workflow: FileWorkflow) -> tuple[View | None, Resolution | None]:
    """Read store and cache. Return the `View`, and a `Resolution` if a token is sufficient for the mode.

    If the mode is force, or if sealed values cannot be read without the packages, the function returns `(None, None)`,
    and the chain reads the slot. If the packages are needed, the function returns None in place of the `Resolution`.
    The packages are also needed if Supabase's certificate could not be checked. Raises KisTokenError.
    """
    vault = make_fast_vault(settings)
    if vault is None or settings.mode == "force":
        return None, None
    from kis_token.clock import SystemClock
    from kis_token.core.lookup import enough, look
    from kis_token.core.resolution import remember, telling
    from kis_token.core.retry import Retry
    from kis_token.deadline import Deadline, usable
    from kis_token.local.cache import make_cache
    from kis_token.store.http_exchange import Wire
    from kis_token.store.slot_query import READ_SECONDS, read_slot

    cache = make_cache(settings, vault)
    wire = Wire(settings.supabase_url)
    clock = SystemClock()
    deadline = Deadline(clock.monotonic, STARTED + usable(settings.timeout.total_seconds()))

    if settings.id_token_request is None:

        def read() -> Slot:
            seconds = min(READ_SECONDS, deadline.left())
            return read_slot(wire, settings.supabase_key, settings.service_name, seconds=seconds)

    else:
        from kis_token.store.id_token import IDTokens
        from kis_token.store.keyless import read_keyless

        id_tokens = IDTokens(settings.id_token_request, settings.supabase_url, deadline.left, workflow.mask)

        def read() -> Slot:
            return read_keyless(wire, settings.supabase_key, id_tokens, settings.service_name, deadline.left)

    view = look(settings, read, cache, vault, clock, retry=Retry(clock, deadline.left, workflow.info))
    if _lacks_certificates(view):
        return view, None
    with telling(view):
        resolution = enough(view, settings)
        outage = None if settings.allow_expired or resolution is not None else view.outage
        if outage is not None and not outage.retryable:
            raise outage  # `run_chain` would send the same request, and the request would fail again
    try:
        return view, remember(cache, resolution) if resolution is not None else None
    except ImportError as error:
        if lacks_module(error):
            raise
        return view, None  # the cache needs a package to seal the token


def make_fast_vault(settings: Settings) -> Vault | None:
    """Return a `Vault` that needs no packages; None if a key is set and this Python cannot load OpenSSL's libcrypto."""
    if not settings.encryption_keys:
        from kis_token.core.slot import PlainVault

        return PlainVault()
    from kis_token.store.libcrypto import load
    from kis_token.store.sealing import make_vault

    return make_vault(settings.encryption_keys) if load() is not None else None


def _lacks_certificates(view: View) -> bool:
    """Whether Supabase's certificate could not be checked.

    The runtime's packages contain certificates that this Python may lack.
    """
    return view.outage is not None and view.outage.code == "store-tls"


def run_chain(settings: Settings, view: View | None, workflow: FileWorkflow) -> int:
    """Run the chain with the packages and return the exit status. Raises EnvironmentFault if no runtime is usable.

    If a package's files are undamaged but the package cannot be loaded, all packages are installed again, once. After
    this installation, the program starts itself again, because a process cannot load a module a second time.
    """
    import zlib  # noqa: F401 - packages and installers need zlib: a Python without zlib fails here, not later
    from contextlib import ExitStack

    from kis_token.errors import EnvironmentFault
    from kis_token.github.runtime import forget_runtime

    gc.enable()  # The chain runs longer than the fast path, and the packages create more objects.
    with ExitStack() as end:
        runtime = add_runtime(settings, end)
        try:
            return run_action(view if view is not None and not _lacks_certificates(view) else None, workflow.masks)
        except ImportError as error:
            if lacks_module(error):
                raise
            seen = error.name or type(error).__name__
        if read_word(REINSTALL_WORD):
            raise EnvironmentFault("runtime-failed", f"The packages were installed again and cannot be loaded ({seen})")
        forget_runtime(runtime)
    workflow.info(f"The packages cannot be loaded ({seen}). They are installed again.")
    sys.stdout.flush()  # exec would lose the buffered output
    return start_again(f"{REINSTALL_WORD}={STARTED!r}")


def add_runtime(settings: Settings, end: ExitStack) -> Path:
    """Find or build the runtime (the folder with the packages), add it to ``sys.path``, and return its path.

    If the runtime is for this run only, ``end`` removes the runtime.
    """
    from pathlib import Path

    from kis_token.github.runtime import ensure_runtime

    runtime = ensure_runtime(
        Path(HERE, "requirements.txt"),
        os.environ,
        STARTED + settings.timeout.total_seconds(),
        end.callback,
        seals=bool(settings.encryption_keys),
    )
    sys.path.append(str(runtime))
    sys.dont_write_bytecode = False  # Later steps use the runtime and its bytecode again.
    os.umask(os.umask(0o022) | 0o022)  # No other user may write to the folders that Python makes for bytecode.
    return runtime


def run_action(view: View | None, masks: Masks) -> int:
    """Run the chain as a step and return its exit status. Raises ImportError if a package cannot be loaded."""
    try:
        from kis_token.github import action
    except Exception as error:
        raise ImportError(name=getattr(error, "name", None) or type(error).__name__) from error
    return action.main(STARTED, view, masks)


def leave(status: int) -> NoReturn:
    """End the process. After the fast path, skip Python's clean-up of all modules.

    Python's clean-up of all modules would take a twelfth of the fast path's time.
    """
    if gc.isenabled():  # only the fast path runs without the collector
        sys.exit(status)
    try:
        for stream in filter(None, (sys.stdout, sys.stderr)):
            stream.flush()
    except OSError:  # the stream is closed
        status = status or 1
    os._exit(status)


if __name__ == "__main__":
    try:
        STATUS = main()
    except KeyboardInterrupt:  # a signal came while the first modules were imported
        STATUS = 130
    leave(STATUS)
