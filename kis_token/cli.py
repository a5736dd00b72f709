"""The command ``kis-token``. Like the action, it catches everything: a traceback may quote what it should not."""

from __future__ import annotations

import argparse
import os
import sys
import time
from dataclasses import replace
from typing import TYPE_CHECKING

from kis_token.config import Settings
from kis_token.errors import EnvironmentFault, KisTokenError, SettingsError
from kis_token.publish import describe_defect
from kis_token.token import in_both_zones

if TYPE_CHECKING:
    from kis_token.lookup import Resolution

_DESCRIPTION = "One KIS Open API access token a day, shared by every job and every machine."


def main(arguments: list[str] | None = None) -> int:
    """Run the command; its exit status: 0, or 1 after an error, which is explained on standard error."""
    options = _parser().parse_args(arguments)
    try:
        return int(options.run(options))
    except KisTokenError as error:
        for fault in error.faults if isinstance(error, SettingsError) else [error]:
            _say(f"error: {fault}. {fault.hint}")
    except KeyboardInterrupt:
        return 130
    except Exception as error:  # noqa: BLE001 - the last line of defence for secrets
        defect = describe_defect(error)
        _say(f"error: {defect}. {defect.hint}")
    return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="kis-token", description=_DESCRIPTION)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    get = commands.add_parser("get", help="print a valid token, and nothing else, on standard output")
    get.set_defaults(run=_get)
    rotate = commands.add_parser("rotate", help="renew the token when it is due; say when it will be, when it is not")
    rotate.set_defaults(run=_renew, mode="rotate")
    refresh = commands.add_parser("refresh", help="renew the token now, although it may be good for hours")
    refresh.add_argument("--force", action="store_true", required=True, help="yes: KIS messages the account's owner")
    refresh.set_defaults(run=_renew, mode="force")
    for renewing in (rotate, refresh):
        renewing.add_argument(
            "--verify", action="store_true", help="try the new token on a quotation before storing it"
        )
    sandbox = commands.add_parser(
        "sandbox",
        help="KIS and Supabase on this machine, without an account",
        description="Start a KIS emulator and a stand-in for Supabase. With a command, run it inside and end with its "
        "status; without one, print the variables to export and stay until Ctrl-C.",
    )
    sandbox.add_argument("command", nargs=argparse.REMAINDER, metavar="-- CMD", help="the command to run inside")
    sandbox.set_defaults(run=_sandbox)
    return parser


def _get(_: argparse.Namespace) -> int:
    resolution = _resolve(Settings.from_env(os.environ))
    print(resolution.token.value)  # noqa: T201 - this is the command's output
    return 0


def _renew(options: argparse.Namespace) -> int:
    resolution = _resolve(replace(Settings.from_env(os.environ), mode=options.mode, verify=options.verify))
    done = "renewed" if resolution.refreshed else "not renewed"
    said = resolution.links[-1]
    print(f"{done} ({said.name}: {said.said}); valid until {in_both_zones(resolution.token.expires_at)}")  # noqa: T201 - this is the command's output
    return 0


def _resolve(settings: Settings) -> Resolution:
    from kis_token.wiring import open_resolver

    started = time.monotonic()
    with open_resolver(settings, started, _say) as resolver:
        resolution = resolver.resolve()
    for warning in resolution.warnings:
        _say(f"warning: {warning}")
    return resolution


def _sandbox(options: argparse.Namespace) -> int:
    try:
        from kis_token.sandbox.command import run
    except ImportError as error:
        raise EnvironmentFault("sandbox-missing", f"The sandbox needs the package {error.name}") from None
    command = options.command
    try:
        return run(command[1:] if command[:1] == ["--"] else command)
    except RuntimeError as error:
        # PostgreSQL did not start; its own words, which hold no secret of ours, say why.
        raise EnvironmentFault("sandbox-failed", f"{error}") from None


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)  # noqa: T201 - standard output is for the result alone
