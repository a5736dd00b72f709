"""Write the SQL that the project lacks into a file, and wait until the user has run the SQL."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

from kis_token.errors import EnvironmentFault
from kis_token.local.private_files import write_private
from kis_token.process.caller_identity import user_cache_folder
from kis_token.setup.connection import dashboard_link
from kis_token.setup.tables import find_lacking, not_run, wait_until_complete
from kis_token.wiring import open_store

if TYPE_CHECKING:
    from kis_token.config import Settings
    from kis_token.setup.options import Setup
    from kis_token.setup.tables import Access, Lacking

#: Commands that copy their standard input to the clipboard: on macOS, on Wayland, on X11, and in WSL on Windows.
_COPIERS = (
    ("pbcopy", "pbcopy"),
    ("wl-copy", "wl-copy"),
    ("xclip", "xclip -selection clipboard"),
    ("clip.exe", "clip.exe"),
)

#: The text that explains a warning of the SQL editor in Supabase's dashboard.
WARNING = (
    'The editor warns: "Query has destructive operations". Confirm it. The SQL replaces its own functions and '
    "policies by drop … if exists. It drops no table and deletes no row."
)


def ensure_sql(setup: Setup, settings: Settings, access: Access | None) -> bool:
    """Return True when the project has tables, functions and ``access``.

    In a dry run, returns False if the project lacks the tables, the functions or ``access``.

    If the project lacks a part, writes the SQL for this part into a file, tells the user where to paste the SQL, and
    waits until the user has run the SQL. With ``--yes``, or if the user does not run the SQL, raises StoreMisconfigured
    ``store-table-missing``. Raises EnvironmentFault if the file cannot be written.
    """
    dialogue = setup.dialogue
    lacking = _look(setup, settings, access)
    if lacking is not None:
        if setup.options.is_dry:
            dialogue.report("would", "tables", f"wait until you have run the SQL for {lacking.what}")
            return False
        _show(setup, settings, lacking)
        if dialogue.is_absent:
            raise not_run()
        dialogue.warn("Waiting until the SQL has been run. Ctrl-C ends the wait; run kis-token init again to go on.")
        wait_until_complete(lambda: _look(setup, settings, access), setup.clock)
    dialogue.report("new" if lacking is not None else "ok", "tables", "tables and functions are there")
    if access is not None:
        caller = access.caller
        said = f"{caller.repository.name} may issue on {caller.ref.removeprefix('refs/heads/')} without a stored key"
        dialogue.report("new" if lacking is not None else "ok", "caller", said)
    return True


def _look(setup: Setup, settings: Settings, access: Access | None) -> Lacking | None:
    with open_store(settings, setup.clock.monotonic(), lambda _: None, setup.clock) as store:
        return find_lacking(store, settings.service_name, access)


def _show(setup: Setup, settings: Settings, lacking: Lacking) -> None:
    """Write the SQL into a file, and show the user the steps. Raises EnvironmentFault."""
    folder = user_cache_folder() or setup.options.directory
    file = folder / "kis-token-init.sql"
    try:
        write_private(file, lacking.sql.encode())
    except OSError as error:
        raise EnvironmentFault("file-unwritable", f"The file {file} cannot be written ({error.strerror})") from error
    editor = dashboard_link(settings.supabase_url, "sql/new") or "the SQL editor of the project"
    copier = next((shown for name, shown in _COPIERS if shutil.which(name, path=setup.env.get("PATH"))), None)
    copy = f"{copier} < {file}" if copier is not None else f"open {file}, and copy the whole text"
    setup.dialogue.tell(
        f"\nSupabase lacks {lacking.what}. No key of Supabase allows these changes, so run the SQL yourself, once:\n"
        f"  1. Copy the SQL: {copy}\n"
        f"  2. Paste the SQL into {editor}\n"
        f"  3. Press Run.\n{WARNING}\n"
    )
