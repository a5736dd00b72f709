"""The command group ``kis-token``."""

from __future__ import annotations

import click

from kis_token.cli.help_examples import TaughtGroup

#: Each command's module and function, in the order of --help and of docs/command.md. A module is loaded only when one
#: of its commands is used, because scripts run `kis-token get` often.
COMMANDS = {
    "init": "init_command:init",
    "get": "token_commands:get",
    "exec": "token_commands:execute",
    "rotate": "token_commands:rotate",
    "refresh": "token_commands:refresh",
    "export": "token_commands:export",
    "status": "setup_commands:status",
    "check": "setup_commands:check",
    "revoke": "key_commands:revoke",
    "set-keys": "key_commands:set_keys",
    "seal": "key_commands:seal",
    "keygen": "key_commands:keygen",
    "sql": "setup_commands:sql",
    "trust": "trust_command:trust",
    "sandbox": "setup_commands:sandbox",
}


@click.group(
    "kis-token",
    cls=TaughtGroup,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    no_args_is_help=True,
    places={name: f"kis_token.cli.{place}" for name, place in COMMANDS.items()},
    examples=["kis-token check", "kis-token get", "kis-token exec -- python bot.py"],
)
@click.version_option(package_name="kis-token", message="%(version)s")
def kis_token() -> None:
    """One KIS Open API access token a day, shared by every job and every machine.

    The settings are environment variables: at least SUPABASE_URL and SUPABASE_SERVICE_ROLE_KEY. The result goes to
    standard output, everything else to standard error.

    Exit status: 0 done; 1 an error, which is explained; 2 invalid command line; 130 interrupted. exec and sandbox
    return the status of CMD, 127 if CMD does not exist, or 126 if CMD cannot be started.
    """
