"""Commands for an account's owner: revoke, set-keys, seal, keygen."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from kis_token.cli.context import slot_options
from kis_token.cli.help_examples import TaughtCommand
from kis_token.cli.terminal import say
from kis_token.token import in_both_zones

if TYPE_CHECKING:
    from kis_token.cli.context import Caller


@click.command(
    cls=TaughtCommand,
    short_help="end the token for all jobs",
    examples=["kis-token revoke", "kis-token revoke --yes --service kis-second"],
)
@click.option("--yes", is_flag=True, help="Do not ask for confirmation.")
@slot_options
@click.pass_obj
def revoke(caller: Caller, *, yes: bool) -> int:
    """End the slot's token at KIS for every job and machine that uses it, and remove it from Supabase.

    Use it after a token has leaked. It asks for confirmation. The next job issues a new token. But for 6 hours after an
    issue KIS may give only the revoked token again; until then jobs fail with token-repeated.
    """
    from kis_token.admin.revoke import revoke as end_token
    from kis_token.clock import SystemClock
    from kis_token.kis.api import KISIssuer
    from kis_token.store.sealing import make_vault
    from kis_token.wiring import open_store

    settings = caller.settings()
    question = f"Revoke the token of {settings.service_name} ({settings.environment}) for all jobs?"
    if not yes and not sys.stdin.isatty():
        say(f"{question} Standard input is no terminal: confirm with --yes.")
        return 2
    if not yes and not click.confirm(question, err=True):
        say("nothing was revoked")
        return 1
    issuer = KISIssuer(settings.base_url, settings.environment)
    with open_store(settings, caller.started, say) as store:
        revoked = end_token(settings, store, issuer, make_vault(settings.encryption_keys), SystemClock())
    if revoked is None:
        click.echo(f"{settings.service_name}: no token is stored, so nothing was revoked")
        return 0
    at_kis = "revoked" if revoked.was_valid else "already invalid at KIS"
    stored = "removed from Supabase" if revoked.is_inactive else "another token was stored meanwhile and stays"
    click.echo(f"{settings.service_name}: {at_kis}; {stored}")
    if revoked.repeated_until is not None:
        until = in_both_zones(revoked.repeated_until)
        say(f"warning: until {until} KIS may give only the revoked token, and jobs fail.")
    return 0


@click.command(
    "set-keys",
    TaughtCommand,
    short_help="store an account's app key and secret",
    examples=["kis-token set-keys", "KIS_ENVIRONMENT=paper kis-token set-keys < two-lines.txt"],
)
@slot_options
@click.pass_obj
def set_keys(caller: Caller) -> None:
    """Store an account's app key and secret in Supabase, sealed if an encryption key is given.

    Takes KIS_APP_KEY and KIS_APP_SECRET. If these are not set, reads two lines of standard input; typing is not
    shown. Deactivates a stored token of another app key.
    """
    from kis_token.admin.set_keys import set_app_key
    from kis_token.settings.pasted_values import unusual_lengths
    from kis_token.store.sealing import make_vault
    from kis_token.wiring import open_store

    given = {}
    if not (caller.env.get("KIS_APP_KEY") or caller.env.get("KIS_APP_SECRET")):
        given = {"app_key": _ask("app key"), "app_secret": _ask("app secret")}
    settings = caller.settings(**given)
    with open_store(settings, caller.started, say) as store:
        has_ended = set_app_key(settings, store, make_vault(settings.encryption_keys))
    lengths = unusual_lengths(settings.app_key or "", settings.app_secret or "")
    if lengths:
        say(f"warning: {lengths}")
    form = "sealed" if settings.encryption_keys else "plain"
    ended = "; the old token was deactivated, the next job issues one" if has_ended else ""
    click.echo(f"stored {form} for {settings.service_name} ({settings.environment}){ended}")


@click.command(
    cls=TaughtCommand,
    short_help="seal the stored keys and token",
    examples=["KIS_TOKEN_ENCRYPTION_KEY=$(cat key) kis-token seal"],
)
@slot_options
@click.pass_obj
def seal(caller: Caller) -> None:
    """Seal the slot's keys and token with the first line of KIS_TOKEN_ENCRYPTION_KEY.

    A value that is sealed with another line is sealed again with the first. The command can be interrupted and
    repeated. docs/security.md has the steps, also for a change of the key.
    """
    from kis_token.admin.set_keys import seal as seal_slot
    from kis_token.wiring import open_store

    settings = caller.settings()
    with open_store(settings, caller.started, say) as store:
        sealed = seal_slot(settings, store)
    click.echo(f"{settings.service_name}: " + (f"sealed {', '.join(sealed)}" if sealed else "nothing is left to seal"))


@click.command(
    cls=TaughtCommand,
    short_help="print a new encryption key",
    examples=["(umask 077; kis-token keygen > key)"],
)
def keygen() -> None:
    """Print a new encryption key on standard output, and nothing else."""
    from kis_token.admin.set_keys import make_encryption_key

    click.echo(make_encryption_key())


def _ask(what: str) -> str:
    """Read one line of standard input. On a terminal, ask for it and do not show it."""
    if not sys.stdin.isatty():
        return sys.stdin.readline().strip()
    from getpass import getpass

    return getpass(f"{what}: ", stream=sys.stderr).strip()
