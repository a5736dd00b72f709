"""Commands that get or renew a token: get, exec, rotate, refresh, export."""

from __future__ import annotations

import json
import shlex
from dataclasses import replace
from typing import TYPE_CHECKING

import click

from kis_token.cli.context import slot_options
from kis_token.cli.help_examples import TaughtCommand
from kis_token.cli.terminal import say
from kis_token.config import TOKEN_FILE_CLIENTS
from kis_token.github.outputs import outputs_of, variables_of
from kis_token.token import in_both_zones

if TYPE_CHECKING:
    from kis_token.cli.context import Caller
    from kis_token.config import Mode


@click.command(
    cls=TaughtCommand,
    short_help="print a valid token",
    examples=[
        "TOKEN=$(kis-token get)",
        "kis-token get --json | jq -r .expires_at",
        'set -a; eval "$(kis-token get --env)"; set +a',
    ],
)
@click.option("--json", "form", flag_value="json", help="Print the token and its properties as one JSON object.")
@click.option("--env", "form", flag_value="env", help="Print KIS_ACCESS_TOKEN and KIS_BASE_URL, quoted for a shell.")
@slot_options
@click.pass_obj
def get(caller: Caller, form: str | None) -> None:
    """Print a valid token, and nothing else, on standard output.

    The token comes from Supabase or, while Supabase is down, from the cache file. If a renewal is due, KIS issues one
    new token for all callers.
    """
    settings = caller.settings()
    resolution = caller.resolve(settings)
    if form == "json":
        click.echo(json.dumps({**outputs_of(resolution, settings), "service_name": settings.service_name}))
    elif form == "env":
        for name, value in variables_of(resolution, settings).items():
            click.echo(f"{name}={shlex.quote(value)}")
    else:
        click.echo(resolution.token.value)


@click.command(
    "exec",
    TaughtCommand,
    context_settings={"allow_interspersed_args": False},
    short_help="run a program with the token",
    examples=["kis-token exec -- python bot.py", "kis-token exec --environment paper -- ./bot --once"],
)
@click.argument("command", nargs=-1, required=True, metavar="[--] CMD...", type=click.UNPROCESSED)
@slot_options
@click.pass_obj
def execute(caller: Caller, command: tuple[str, ...]) -> int:
    """Run CMD with the token and the keys as environment variables.

    The variables are KIS_ACCESS_TOKEN, KIS_BASE_URL, KIS_APP_KEY, KIS_APP_SECRET, KIS_ENVIRONMENT and KIS_SERVICE_NAME.
    Other environment variables, such as KIS_ACCOUNT_NO, stay unchanged. The token is usually valid for min-validity or
    longer. The token is not renewed while CMD runs.

    CMD replaces this process, so CMD gets all signals, and the exit status is that of CMD. The status is 127 if CMD
    does not exist, and 126 if CMD cannot be started.
    """
    from kis_token.cli.processes import become

    settings = caller.settings()
    resolution = caller.resolve(settings)
    variables = {
        **variables_of(resolution, settings, resolution.app_key),
        "KIS_ENVIRONMENT": settings.environment,
        "KIS_SERVICE_NAME": settings.service_name,
    }
    if resolution.app_key is None:
        say("warning: no app key is known, so the program gets only the token")
    # INPUT_SERVICE_NAME and INPUT_ENVIRONMENT hold the values of --service and --environment. CMD gets the values in
    # KIS_SERVICE_NAME and KIS_ENVIRONMENT, and not in the INPUT variables.
    kept = {
        name: value for name, value in caller.env.items() if name not in ("INPUT_SERVICE_NAME", "INPUT_ENVIRONMENT")
    }
    return become(command, kept | variables)


@click.command(
    cls=TaughtCommand,
    short_help="renew the token if it is due",
    examples=["13 6 * * *  kis-token rotate        # with the machine's clock in Korea time"],
)
@click.option("--verify", is_flag=True, help="Request a quotation with the new token before it replaces the old one.")
@slot_options
@click.pass_obj
def rotate(caller: Caller, *, verify: bool) -> None:
    """Renew the token if a renewal is due. If no renewal is due, print the time of the next renewal.

    Let cron run this command in the early Korean morning. The rotation workflow of this project also rotates the token
    in the early Korean morning.
    """
    _renew(caller, "rotate", verify=verify)


@click.command(
    cls=TaughtCommand,
    short_help="renew the token now",
    examples=["kis-token refresh --force"],
)
@click.option(
    "--force",
    is_flag=True,
    required=True,
    help="Confirm the issue. KIS sends the account's owner a message for every new token.",
)
@click.option("--verify", is_flag=True, help="Request a quotation with the new token before it replaces the old one.")
@slot_options
@click.pass_obj
def refresh(caller: Caller, *, force: bool, verify: bool) -> None:  # noqa: ARG001 - click requires the option
    """Renew the token now, even if it is valid for hours.

    Within 6 hours of an issue, KIS returns the same token again. If KIS returns the same token, the command reports
    "not renewed", which is not an error.
    """
    _renew(caller, "force", verify=verify)


def _renew(caller: Caller, mode: Mode, *, verify: bool) -> None:
    resolution = caller.resolve(replace(caller.settings(), mode=mode, verify=verify))
    done = "renewed" if resolution.refreshed else "not renewed"
    said = resolution.trace[-1]
    click.echo(f"{done} ({said.source}: {said.text}); valid until {in_both_zones(resolution.token.expires_at)}")


def _complete_client(context: click.Context, _: click.Parameter, incomplete: str) -> list[str]:
    """Return the clients that begin with ``incomplete`` and that are not on the command line yet."""
    given = context.params.get("clients") or ()
    return [name for name in TOKEN_FILE_CLIENTS if name.startswith(incomplete) and name not in given]


@click.command(
    cls=TaughtCommand,
    short_help="write the token into other clients' files",
    examples=["kis-token export kis-auth", "KIS_HTS_ID=my_id kis-token export python-kis kis-trader"],
)
@click.argument("clients", nargs=-1, required=True, metavar="CLIENT...", shell_complete=_complete_client)
@slot_options
@click.pass_obj
def export(caller: Caller, clients: tuple[str, ...]) -> None:
    """Write the token into the files of other KIS clients, so that these clients do not issue tokens.

    CLIENT is one or more of kis-auth, python-kis, kis-trader and koreainvestment-cli; docs/clients.md describes each.
    """
    from kis_token.clock import SystemClock
    from kis_token.errors import IssuanceError
    from kis_token.local.token_files import export as write_files

    settings = caller.settings(token_files=" ".join(clients))
    resolution = caller.resolve(settings)
    if resolution.expired:
        raise IssuanceError("no-valid-token", "The clients do not use an expired token", retryable=True)
    write_files(resolution.token, resolution.app_key, settings, caller.env, SystemClock().now())
    # The files' names are not printed, because the names are derived from keys.
    names = ", ".join(settings.token_files)
    click.echo(f"written for {names}; valid until {in_both_zones(resolution.token.expires_at)}")
