"""The command ``kis-token``. Like the action, it catches everything: a traceback may quote what it should not."""

from __future__ import annotations

import argparse
import os
import sys
import time
from dataclasses import replace
from typing import TYPE_CHECKING

from kis_token.config import Settings
from kis_token.errors import EnvironmentFault, IssuanceError, KisTokenError, SettingsError
from kis_token.publish import describe_defect
from kis_token.token import in_both_zones

if TYPE_CHECKING:
    from kis_token.lookup import Resolution

_DESCRIPTION = "One KIS Open API access token a day, shared by every job and every machine."


def main(arguments: list[str] | None = None) -> int:
    """Run the command; its exit status: 0, or 1 after an error, which is explained on standard error."""
    parser = _parser()
    options, further = parser.parse_known_args(arguments)
    if further:
        parser.error("there are arguments that this command does not take")  # not repeated: they may be keys
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
    set_keys = commands.add_parser(
        "set-keys",
        help="store an account's app key and secret",
        description="Store KIS_APP_KEY and KIS_APP_SECRET; where they are not set, two lines of standard input. They "
        "are sealed where an encryption key is given. A token of another app key is ended.",
    )
    set_keys.set_defaults(run=_set_keys)
    seal = commands.add_parser(
        "seal",
        help="seal what is stored with the first encryption key",
        description="Seal the slot's keys and token. What is sealed with another of the given keys is sealed anew with "
        "the first. May be interrupted and repeated.",
    )
    seal.set_defaults(run=_seal)
    keygen = commands.add_parser("keygen", help="print a new encryption key, and nothing else, on standard output")
    keygen.set_defaults(run=_keygen)
    export = commands.add_parser(
        "export",
        help="write the token where other KIS clients look for it",
        description="Write the token into the files of kis-auth, python-kis, kis-trader and koreainvestment-cli, as "
        "named, so that they find it and ask KIS for none.",
    )
    export.add_argument("clients", nargs="+", metavar="CLIENT", help="one or more of these names")
    export.set_defaults(run=_export)
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


def _set_keys(_: argparse.Namespace) -> int:
    from kis_token.keys import set_app_key
    from kis_token.sealing import make_vault
    from kis_token.wiring import open_store

    env = dict(os.environ)
    if not (env.get("KIS_APP_KEY") or env.get("KIS_APP_SECRET")):
        env |= {"KIS_APP_KEY": _ask("app key"), "KIS_APP_SECRET": _ask("app secret")}
    settings = Settings.from_env(env)
    with open_store(settings, time.monotonic()) as store:
        has_ended = set_app_key(settings, store, make_vault(settings.encryption_keys))
    form = "sealed" if settings.encryption_keys else "plain"
    ended = "; the old token is ended, the next job issues one" if has_ended else ""
    print(f"stored {form} for {settings.service_name} ({settings.environment}){ended}")  # noqa: T201 - the output
    return 0


def _seal(_: argparse.Namespace) -> int:
    from kis_token.keys import seal
    from kis_token.wiring import open_store

    settings = Settings.from_env(os.environ)
    with open_store(settings, time.monotonic()) as store:
        sealed = seal(settings, store)
    print(f"{settings.service_name}: " + (f"sealed {', '.join(sealed)}" if sealed else "nothing is left to seal"))  # noqa: T201 - the output
    return 0


def _export(options: argparse.Namespace) -> int:
    from kis_token.clock import SystemClock
    from kis_token.export import export

    settings = Settings.from_env({**os.environ, "INPUT_TOKEN_FILES": " ".join(options.clients)})
    resolution = _resolve(settings)
    if resolution.expired:
        raise IssuanceError("no-valid-token", "The clients would not use a token past its end", retryable=True)
    export(resolution.token, resolution.app_key, settings, os.environ, SystemClock().now())
    # The files' names tell more than they should.
    print(f"written for {', '.join(settings.token_files)}; valid until {in_both_zones(resolution.token.expires_at)}")  # noqa: T201 - the output
    return 0


def _keygen(_: argparse.Namespace) -> int:
    from kis_token.keys import make_encryption_key

    print(make_encryption_key())  # noqa: T201 - the output
    return 0


def _ask(what: str) -> str:
    """One line of standard input, unseen where a person types it."""
    if not sys.stdin.isatty():
        return sys.stdin.readline().strip()
    from getpass import getpass

    return getpass(f"{what}: ", stream=sys.stderr).strip()


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
