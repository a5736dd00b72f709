"""Commands for an account's owner: revoke, set-keys, seal, keygen."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING

import click

from kis_token.cli.context import slot_options
from kis_token.cli.help_examples import TaughtCommand
from kis_token.cli.terminal import say
from kis_token.cli.usage_errors import FormedType
from kis_token.errors import IssuerError, IssuerRefused, KisTokenError
from kis_token.token import in_both_zones

if TYPE_CHECKING:
    from datetime import datetime

    from kis_token.cli.context import Caller
    from kis_token.config import Settings


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

    Use this command after a token has leaked. The command asks for confirmation. The next job issues a new token. For 6
    hours after the issue of the revoked token, KIS may answer each request for a new token with the revoked token. If
    KIS answers with the revoked token, jobs fail with token-repeated.
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
    stored = "removed from Supabase" if revoked.is_inactive else "another token was stored meanwhile and was kept"
    click.echo(f"{settings.service_name}: {at_kis}; {stored}")
    if revoked.repeated_until is not None:
        until = in_both_zones(revoked.repeated_until)
        say(f"warning: until {until} KIS may give only the revoked token, and jobs fail.")
    return 0


class LastDay(FormedType):
    """The type of an option whose value is a day in Korea. The day, as YYYY-MM-DD, must not have passed."""

    name = "date"
    form = "a day that has not passed, as YYYY-MM-DD"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> datetime:
        """Return the end of the day."""
        from kis_token.clock import SystemClock
        from kis_token.core.app_key_expiry import end_of, parse_last_day

        day = parse_last_day(value, SystemClock().now())
        return self.fail("no such day", param, ctx) if day is None else end_of(day)


@click.command(
    "set-keys",
    TaughtCommand,
    short_help="store an account's app key and secret",
    examples=[
        "kis-token set-keys",
        "kis-token set-keys --expires 2027-03-01",
        "KIS_ENVIRONMENT=paper kis-token set-keys < two-lines.txt",
    ],
)
@click.option(
    "--expires",
    type=LastDay(),
    metavar="DATE",
    help="The keys' last day at KIS, in Korea. Default: the stored day, or a year from today for a new app key.",
)
@click.option("--no-verify", is_flag=True, help="Do not ask KIS whether it accepts the keys.")
@slot_options
@click.pass_obj
def set_keys(caller: Caller, *, expires: datetime | None, no_verify: bool) -> None:
    """Store an account's app key and secret in Supabase, sealed if an encryption key is given.

    The keys come from KIS_APP_KEY and KIS_APP_SECRET. If these variables are not set, the command reads two lines of
    standard input, and a terminal does not show them. The command checks the form of both keys, and asks KIS whether it
    accepts the keys. This check issues no token. A stored token of another app key is deactivated. From 30 days before
    the keys' last day, kis-token check, kis-token status and the rotation print a warning.
    """
    from kis_token.admin.app_key_check import check_form
    from kis_token.admin.set_keys import set_app_key
    from kis_token.core.app_key_expiry import last_day_of
    from kis_token.store.sealing import make_vault
    from kis_token.token import instant_or_none
    from kis_token.wiring import open_store

    settings = _settings_with_keys(caller)
    check_form(settings.app_key or "", settings.app_secret or "", environment=settings.environment)
    if not no_verify:
        _verify(settings)
    started = time.monotonic()  # the user may have typed for longer than the settings' timeout
    with open_store(settings, started, say) as store:
        has_ended = set_app_key(settings, store, make_vault(settings.encryption_keys), expires_at=expires)
        row = store.read(settings.service_name).rows.get("app_key")
    form = "sealed" if settings.encryption_keys else "plain"
    ended = "; the old token was deactivated, the next job issues one" if has_ended else ""
    end = instant_or_none(row.expires_at) if row is not None else None
    last_day = "" if end is None else f"; last day {last_day_of(end)} in Korea"
    click.echo(f"stored {form} for {settings.service_name} ({settings.environment}){last_day}{ended}")


def _settings_with_keys(caller: Caller) -> Settings:
    """Return the settings with app key and secret. Asks for app key and secret only if all other settings are valid."""
    settings = caller.settings()
    if settings.app_key is None:
        settings = caller.settings(app_key=_ask("app key"), app_secret=_ask("app secret"))
    if settings.app_key is None:
        raise KisTokenError("missing-app-key", "No app key and secret are given")
    return settings


def _verify(settings: Settings) -> None:
    """Ask KIS whether it accepts the keys. Each raised error has the warning that nothing was stored."""
    from kis_token.admin.app_key_check import verify

    try:
        verify(
            settings.app_key or "",
            settings.app_secret or "",
            environment=settings.environment,
            base_url=settings.base_url,
        )
    except IssuerRefused as error:
        error.warn(["Nothing was stored."])
        raise
    except IssuerError as error:
        error.warn(
            ["Nothing was stored, because KIS did not check the keys. To store them unchecked, add --no-verify."]
        )
        raise


@click.command(
    cls=TaughtCommand,
    short_help="seal the stored keys and token",
    examples=["KIS_TOKEN_ENCRYPTION_KEY=$(cat key) kis-token seal"],
)
@slot_options
@click.pass_obj
def seal(caller: Caller) -> None:
    """Seal the slot's keys and token with the first line of KIS_TOKEN_ENCRYPTION_KEY.

    Each line of KIS_TOKEN_ENCRYPTION_KEY is one key. If a value is sealed with the second or a later key of
    KIS_TOKEN_ENCRYPTION_KEY, the command seals the value again with the first key. The command can be interrupted and
    repeated. docs/security.md describes each step, and how to change the encryption key.
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
    """Read one line of standard input. On a terminal, show a prompt, and hide the typed line."""
    if not sys.stdin.isatty():
        return sys.stdin.readline().strip()
    from getpass import getpass

    return getpass(f"{what}: ", stream=sys.stderr).strip()
