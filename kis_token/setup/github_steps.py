"""The repository's part of the set-up: its two workflows, and the variables or secrets that the workflows read."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kis_token.errors import GitHubError, SettingsError, StoreMisconfigured
from kis_token.settings.pasted_values import pasted_words
from kis_token.settings.supabase_project import find_supabase_key_fault, is_public_key
from kis_token.setup.connection import dashboard_link
from kis_token.setup.dialogue import Question
from kis_token.setup.repository_settings import GitHubCommand
from kis_token.setup.workflow_files import workflow_files
from kis_token.wiring import open_public_store

if TYPE_CHECKING:
    from kis_token.config import Settings
    from kis_token.setup.options import Setup
    from kis_token.setup.repository_settings import Kind

#: The names of the variables that can hold the public key. The public key is no secret.
PUBLIC_KEYS = ("SUPABASE_PUBLISHABLE_KEY", "SUPABASE_ANON_KEY")


def write_workflows(setup: Setup, settings: Settings) -> None:
    """Write both workflows. Ask before a file with other contents is replaced. Raises EnvironmentFault."""
    report, options = setup.dialogue.report, setup.options
    for file in workflow_files(options.directory, settings, with_secret=options.with_secret):
        state = file.state()
        if state == "same":
            report("ok", "workflow", f"{file.shown} is there")
        elif state == "different" and not setup.dialogue.confirm(f"{file.shown} has other contents. Replace it?"):
            report("kept", "workflow", f"{file.shown} has other contents than init writes, and was not changed")
        elif options.is_dry:
            report("would", "workflow", f"write {file.shown}")
        else:
            file.write()
            report("new", "workflow", f"{file.shown} is written; commit and push it")


def find_public_key(setup: Setup, settings: Settings, there: str) -> str:
    """Return a public key that Supabase accepts: from a variable, from ``there`` (the repository) or from the user.

    With ``--yes``, if the key is missing or wrong, raises KisTokenError.
    """
    given = next(filter(None, (setup.env.get(name, "") for name in PUBLIC_KEYS)), "") or there
    if given or setup.dialogue.is_absent:
        return _accepted(given, settings, setup)
    _tell_of_public_key(setup, settings)
    return setup.dialogue.ask(Question("Supabase public key"), lambda answer: _accepted(answer, settings, setup))


def _tell_of_public_key(setup: Setup, settings: Settings) -> None:
    where = dashboard_link(settings.supabase_url, "settings/api-keys") or "the project's settings, under API Keys"
    setup.dialogue.tell(f"The repository gets the public key (sb_publishable_…, or the older anon key): {where}")


def check_public_key(text: str, url: str) -> str:
    """Return the public key in ``text``. Raises SettingsError."""
    words = pasted_words(text)
    if not words:
        raise SettingsError([("no-public-key", f"{PUBLIC_KEYS[0]} is not set")])
    fault = find_supabase_key_fault(words, url)
    if fault is not None:
        raise SettingsError([fault])
    if not is_public_key(words):
        raise SettingsError([("no-public-key", "The given key is a secret key of the project, and not its public key")])
    return words[0]


def _accepted(text: str, settings: Settings, setup: Setup) -> str:
    """Return the public key in ``text`` if the Supabase project accepts the key. Raises KisTokenError."""
    key = check_public_key(text, settings.supabase_url)
    with open_public_store(settings, key, setup.clock) as store:
        try:
            store.read(settings.service_name)
        except StoreMisconfigured as error:
            # Supabase does not let a public key read a table, so this error shows that Supabase accepts the key.
            if error.code != "store-permission-denied":
                raise
    return key


def set_repository_settings(setup: Setup, settings: Settings, repository: str | None) -> None:
    """Set the repository's variables or, with a stored key, its secrets. Without gh, show the commands to the user."""
    kind: Kind = "secret" if setup.options.with_secret else "variable"
    command = GitHubCommand.find(setup.env) if repository is not None else None
    there: dict[str, str] = {}
    if command is not None and repository is not None:
        try:
            there = command.values(kind, repository)
        except GitHubError as error:
            setup.dialogue.warn(f"warning: {error.brief}")
            command = None
    wanted = {"SUPABASE_URL": settings.supabase_url}
    if setup.options.with_secret:
        wanted["SUPABASE_SERVICE_ROLE_KEY"] = settings.supabase_key
    elif command is not None or setup.dialogue.is_absent:
        wanted[PUBLIC_KEYS[0]] = find_public_key(setup, settings, there.get(PUBLIC_KEYS[0], ""))
    else:
        wanted[PUBLIC_KEYS[0]] = ""  # gh asks the user for the key
        _tell_of_public_key(setup, settings)
    if command is None or repository is None:
        _show_commands(setup, kind, wanted, repository)
        return
    for name, value in wanted.items():
        if _is_to_be_set(setup, kind, name, value, there.get(name)):
            try:
                command.set(kind, repository, name, value)
            except GitHubError as error:
                setup.dialogue.warn(f"warning: {error.brief}")
                _show_commands(setup, kind, {name: value}, repository)
            else:
                setup.dialogue.report("new", kind, f"{name} is set")


def _is_to_be_set(setup: Setup, kind: Kind, name: str, value: str, before: str | None) -> bool:
    """Whether this run must set the value. If this run must not set the value, reports the reason.

    ``before`` is None if the name is not set yet.
    """
    report = setup.dialogue.report
    if before is not None and kind == "secret":
        report("kept", kind, f"{name} is there. GitHub does not show the secret's value, so the secret was not changed")
    elif before == value:
        report("ok", kind, f"{name} is set")
    elif before is not None and not setup.dialogue.confirm(f"The {kind} {name} has another value. Replace it?"):
        report("kept", kind, f"{name} has another value, and was not changed")
    elif setup.options.is_dry:
        report("would", kind, f"set {name}")
    else:
        return True
    return False


def _show_commands(setup: Setup, kind: Kind, wanted: dict[str, str], repository: str | None) -> None:
    """Show the commands that set the values. No command contains a secret, because gh asks the user for each secret."""
    where = f" --repo {repository}" if repository is not None else ""
    for name, value in wanted.items():
        given = f" --body {value}" if kind == "variable" and value else ""
        setup.dialogue.report("todo", kind, f"gh {kind} set {name}{where}{given}")
    if repository is not None:
        page = "secrets" if kind == "secret" else "variables"
        setup.dialogue.tell(
            f"You can also set {kind}s on the page https://github.com/{repository}/settings/{page}/actions"
        )
