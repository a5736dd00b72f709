"""The command group ``kis-token``."""

from __future__ import annotations

import click

from kis_token.cli import init_command, trust_command
from kis_token.cli import key_commands as keys
from kis_token.cli import setup_commands as setup
from kis_token.cli import token_commands as token
from kis_token.cli.help_examples import TaughtGroup

#: In the order of --help and of docs/command.md.
COMMANDS: tuple[click.Command, ...] = (
    init_command.init,
    token.get,
    token.execute,
    token.rotate,
    token.refresh,
    token.export,
    setup.status,
    setup.check,
    keys.revoke,
    keys.set_keys,
    keys.seal,
    keys.keygen,
    setup.sql,
    trust_command.trust,
    setup.sandbox,
)


@click.group(
    "kis-token",
    cls=TaughtGroup,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    no_args_is_help=True,
    examples=["kis-token check", "kis-token get", "kis-token exec -- python bot.py"],
)
@click.version_option(package_name="kis-token", message="%(version)s")
def kis_token() -> None:
    """One KIS Open API access token a day, shared by every job and every machine.

    The settings are environment variables: at least SUPABASE_URL and SUPABASE_SERVICE_ROLE_KEY. The result goes to
    standard output, everything else to standard error.

    Exit status: 0 done; 1 an error, which is explained; 2 invalid command line; 130 interrupted. exec and sandbox
    return the status of CMD: 127 if the program does not exist, 126 if it cannot be started.
    """


for each in COMMANDS:
    kis_token.add_command(each)
