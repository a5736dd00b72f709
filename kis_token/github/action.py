"""The GitHub adapter: runs the whole chain as a workflow step, with actions_toolkit.core.

entrypoint.py calls this module if the fast path found no token. This module reports each error together with the
results of the sources. The module prints no traceback, because a traceback may quote a secret.
"""

from __future__ import annotations

import linecache
import os
import sys
from typing import TYPE_CHECKING

from actions_toolkit import core

from kis_token.clock import SystemClock
from kis_token.config import Settings
from kis_token.errors import KisTokenError
from kis_token.github.failures import describe_defect, report_failure
from kis_token.github.outputs import mask_secrets, mask_view, publish
from kis_token.github.workflow_commands import FileWorkflow, Masks, writing
from kis_token.settings.environment import secrets_in
from kis_token.wiring import open_resolver

if TYPE_CHECKING:
    from kis_token.core.resolution import TraceEntry, View


class ToolkitWorkflow:
    """Gives commands to the runner through actions_toolkit.core, and flushes each command that it prints.

    ``masks`` are the lines that the step has already given to the runner as masks.
    """

    def __init__(self, masks: Masks | None = None) -> None:
        self._masks = masks or Masks()

    def mask(self, secret: str) -> None:
        """Mask ``secret``, unless it is masked already. The mask command is flushed before the method returns."""
        for line in self._masks.add(secret):
            core.set_secret(line)
        sys.stdout.flush()

    def output(self, name: str, value: str) -> None:
        """Set an output of the step."""
        with writing(os.environ, "GITHUB_OUTPUT"):  # without GITHUB_OUTPUT, `actions_toolkit` would print the output
            core.set_output(name, value)

    def export(self, name: str, value: str) -> None:
        """Set a variable for the steps that follow."""
        with writing(os.environ, "GITHUB_ENV"):  # without GITHUB_ENV, `actions_toolkit` would print the variable
            core.export_variable(name, value)

    def summarize(self, markdown: str) -> None:
        """Add ``markdown`` to the job's summary. The package ``actions_toolkit`` has no function for the summary."""
        FileWorkflow(os.environ).summarize(markdown)

    def error(self, message: str) -> None:
        """Annotate the run with an error."""
        core.error(message)
        sys.stdout.flush()

    def warning(self, message: str) -> None:
        """Annotate the run with a warning."""
        core.warning(message)
        sys.stdout.flush()

    def info(self, message: str) -> None:
        """Add a line to the log."""
        FileWorkflow(os.environ).info(message)


def main(started: float, view: View | None, masks: Masks | None = None) -> int:
    """Resolve and publish a token, and return the exit status.

    ``started`` is the time at which the step began, a value of ``time.monotonic``. ``view`` is the fast path's view of
    store and cache; None if this module must read store and cache. ``masks`` are the masks that the fast path set.
    Raises ImportError if a package cannot be loaded: entrypoint.py then installs the packages again.
    """
    _keep_line_ends()
    workflow = ToolkitWorkflow(masks)
    trace: tuple[TraceEntry, ...] = ()
    try:
        mask_secrets(secrets_in(os.environ), workflow)
        # The fast path has read the settings without packages. `main` reads the settings again, because outside of a
        # job only the package `platformdirs` finds the user's cache folder.
        settings = Settings.from_env(os.environ)
        with open_resolver(settings, started, workflow.info, mask=workflow.mask) as resolver:
            view = view or resolver.look()
            mask_view(view, workflow)
            trace = view.trace
            resolution = resolver.resolve(view)
        publish(resolution, settings, workflow, os.environ, SystemClock().now())
    except KisTokenError as error:
        report_failure(error, trace, workflow)
        return 1
    except Exception as error:
        if _is_of_loading(error):
            raise ImportError(name=getattr(error, "name", None) or type(error).__name__) from error
        defect = describe_defect(error)
        defect.warn(view.warnings if view is not None else ())
        report_failure(defect, trace, workflow)
        return 1
    return 0


def _is_of_loading(error: Exception) -> bool:
    """Whether ``error`` arose while a module was loaded. Damaged bytecode can raise an error of any class."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    if trace is None or isinstance(error, (ImportError, SyntaxError)):
        return trace is not None
    file = trace.tb_frame.f_code.co_filename
    # For a source file with null bytes, Python 3.10 raises ValueError and hides the loader's frames.
    is_import = linecache.getline(file, trace.tb_lineno).lstrip().startswith(("import ", "from "))
    return is_import or file.startswith("<frozen importlib")


def _keep_line_ends() -> None:
    """Make sys.stdout write line ends unchanged, because ``actions_toolkit`` writes the system's line ends itself."""
    reconfigure = getattr(sys.stdout, "reconfigure", None)
    if reconfigure is not None:
        reconfigure(newline="\n")
