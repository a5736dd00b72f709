"""The command ``kis-token init``: the whole set-up, from an empty project to the first token."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from kis_token.cli.context import slot_options
from kis_token.cli.help_examples import TaughtCommand
from kis_token.cli.interview import AbsentUser, UserAtTerminal
from kis_token.cli.terminal import say
from kis_token.errors import SettingsError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from kis_token.cli.context import Caller
    from kis_token.setup.dialogue import Dialogue
    from kis_token.setup.keep import Choice
    from kis_token.setup.options import Options


@click.command(
    cls=TaughtCommand,
    short_help="set everything up, and get the first token",
    examples=[
        "kis-token init",
        "kis-token init --dry-run",
        "kis-token init --yes --repository acme/bot",
        "kis-token init --yes --with-secret",
    ],
)
@click.option("--yes", is_flag=True, help="Ask nothing: take everything from the environment.")
@click.option(
    "--with-secret", is_flag=True, help="Let the repository store the secret key. Then no list of callers is needed."
)
@click.option(
    "--directory",
    metavar="PATH",
    help="The repository's folder. The default is the repository that contains the current folder.",
)
@click.option("--repository", metavar="OWNER/REPO", help="The repository. The default is the folder's remote origin.")
@click.option(
    "--keep",
    type=click.Choice(["keyring", "file", "no"]),
    help='The place for URL, key and slot on this machine. "no" keeps nothing. With --yes, the default is "no".',
)
@click.option("--dry-run", is_flag=True, help="Print what would be done. Change, store and issue nothing.")
@slot_options
@click.pass_obj
def init(
    caller: Caller,
    *,
    yes: bool,
    with_secret: bool,
    directory: str | None,
    repository: str | None,
    keep: Choice | None,
    dry_run: bool,
) -> int:
    """Set up Supabase, the account's keys and a repository, and get the first token.

    Asks for each value that is missing, and checks each answer. You can run this command again at any time: it
    continues where it ended, and asks before it replaces anything. The command reads the variables SUPABASE_URL,
    SUPABASE_SERVICE_ROLE_KEY, KIS_APP_KEY, KIS_APP_SECRET and, for a repository that stores no key,
    SUPABASE_PUBLISHABLE_KEY. docs/init.md describes each step.
    """
    from kis_token.setup.options import Options
    from kis_token.setup.repository import find_folder

    folder = Path(directory).absolute() if directory else find_folder(Path.cwd(), caller.env.get("PATH"))
    options = Options(folder, repository, with_secret=with_secret, keep=keep, is_dry=dry_run)
    if yes:
        return _run(caller, options, AbsentUser())
    if not sys.stdin.isatty():
        say("Standard input is no terminal, so no question can be asked. Set the variables and use --yes.")
        return 2
    from kis_token.cli.line_reader import open_line_reader

    with open_line_reader(sys.stderr) as reader:
        return _run(caller, options, UserAtTerminal(reader))


def _run(caller: Caller, options: Options, dialogue: Dialogue) -> int:
    from kis_token.clock import SystemClock
    from kis_token.setup.options import Setup
    from kis_token.setup.run import run

    return 0 if run(Setup(_known(caller), options, dialogue, SystemClock())) else 1


def _known(caller: Caller) -> Mapping[str, str]:
    """Return the variables, including those of the profile. If the profile does not exist yet, it adds no variables."""
    try:
        return caller.variables()
    except SettingsError as error:
        if error.code != "profile-unknown":
            raise
        return caller.env
