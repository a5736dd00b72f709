"""Commands that bring a token: get, exec, rotate, refresh, export."""

from __future__ import annotations

import json
import shlex
from dataclasses import replace
from typing import TYPE_CHECKING

import click

from kis_token.cli.context import slot_options
from kis_token.cli.help_examples import TaughtCommand
from kis_token.cli.terminal import say
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
@click.option("--json", "form", flag_value="json", help="Print all that is known of the token, as one JSON object.")
@click.option("--env", "form", flag_value="env", help="Print KIS_ACCESS_TOKEN and KIS_BASE_URL, quoted for a shell.")
@slot_options
@click.pass_obj
def get(caller: Caller, form: str | None) -> None:
    """Print a valid token, and nothing else, on standard output.

    It comes from Supabase; while that is down from the cache file; only when it is used up from KIS, for everybody.
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

    These are KIS_ACCESS_TOKEN, KIS_BASE_URL, KIS_APP_KEY and KIS_APP_SECRET, besides KIS_ENVIRONMENT and
    KIS_SERVICE_NAME as they are used here. All others, such as KIS_ACCOUNT_NO, stay as they are. The token is as long
    valid as min-validity says, and is not renewed while CMD runs.

    CMD takes the place of this process, so its exit status and its signals are its own. 127 says that there is no such
    program, 126 that it cannot be started.
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
        say("warning: no app key is known; the program gets the token alone")
    # The options were for this command; what it starts reads variables.
    kept = {
        name: value for name, value in caller.env.items() if name not in ("INPUT_SERVICE_NAME", "INPUT_ENVIRONMENT")
    }
    return become(command, kept | variables)


@click.command(
    cls=TaughtCommand,
    short_help="renew the token when it is due",
    examples=["13 6 * * *  kis-token rotate        # with the machine's clock in Korea time"],
)
@click.option("--verify", is_flag=True, help="Try the new token on a quotation before it replaces the old one.")
@slot_options
@click.pass_obj
def rotate(caller: Caller, *, verify: bool) -> None:
    """Renew the token when it is due; when it is not, say when it will be.

    For a cron job in the early Korean morning; the workflow of this project does the same.
    """
    _renew(caller, "rotate", verify=verify)


@click.command(
    cls=TaughtCommand,
    short_help="renew the token now",
    examples=["kis-token refresh --force"],
)
@click.option("--force", is_flag=True, required=True, help="Yes: KIS messages the account's owner at each new token.")
@click.option("--verify", is_flag=True, help="Try the new token on a quotation before it replaces the old one.")
@slot_options
@click.pass_obj
def refresh(caller: Caller, *, force: bool, verify: bool) -> None:  # noqa: ARG001 - click sees to it
    """Renew the token now, although it may be good for hours.

    Within 6 hours of an issue KIS gives the same token again; that is said, and no error.
    """
    _renew(caller, "force", verify=verify)


def _renew(caller: Caller, mode: Mode, *, verify: bool) -> None:
    resolution = caller.resolve(replace(caller.settings(), mode=mode, verify=verify))
    done = "renewed" if resolution.refreshed else "not renewed"
    said = resolution.trace[-1]
    click.echo(f"{done} ({said.source}: {said.text}); valid until {in_both_zones(resolution.token.expires_at)}")


@click.command(
    cls=TaughtCommand,
    short_help="write the token into other clients' files",
    examples=["kis-token export kis-auth", "KIS_HTS_ID=somebody kis-token export python-kis kis-trader"],
)
@click.argument("clients", nargs=-1, required=True, metavar="CLIENT...")
@slot_options
@click.pass_obj
def export(caller: Caller, clients: tuple[str, ...]) -> None:
    """Write the token where other KIS clients look for it, so that they ask KIS for none.

    CLIENT is one or more of kis-auth, python-kis, kis-trader and koreainvestment-cli; docs/clients.md says what each
    needs.
    """
    from kis_token.clock import SystemClock
    from kis_token.errors import IssuanceError
    from kis_token.local.token_files import export as write_files

    settings = caller.settings(token_files=" ".join(clients))
    resolution = caller.resolve(settings)
    if resolution.expired:
        raise IssuanceError("no-valid-token", "The clients would not use a token past its end", retryable=True)
    write_files(resolution.token, resolution.app_key, settings, caller.env, SystemClock().now())
    # The files' names tell more than they should.
    names = ", ".join(settings.token_files)
    click.echo(f"written for {names}; valid until {in_both_zones(resolution.token.expires_at)}")
