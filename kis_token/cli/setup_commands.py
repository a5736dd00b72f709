"""The commands status, check, sql and sandbox, which never ask KIS to issue a token."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from kis_token.cli.context import slot_options
from kis_token.cli.help_examples import TaughtCommand
from kis_token.cli.terminal import say, width_of
from kis_token.errors import EnvironmentFault, SettingsError, StoreMisconfigured

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kis_token.admin.finding import Finding
    from kis_token.cli.context import Caller

_COLOURS = {"ok": "green", "wrong": "red", "note": "yellow"}


@click.command(
    cls=TaughtCommand,
    short_help="show slots, tokens and their issuers",
    examples=["kis-token status", "kis-token status --json | jq '.slots[] | {service, token, expires_at}'"],
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.option(
    "--callers",
    "with_callers",
    is_flag=True,
    help="Also show the callers without a key, and the keys of their issuers.",
)
@slot_options
@click.pass_obj
def status(caller: Caller, *, as_json: bool, with_callers: bool) -> None:
    """Show each slot: its token's expiry time, the caller that issued it, the next rotation, and the last attempts.

    With --service, show only that slot. Times are in Korea time and in UTC. On a narrow terminal, a list replaces each
    table.
    """
    from kis_token.admin.callers import list_callers
    from kis_token.admin.status import collect
    from kis_token.admin.status_report import as_json as members_of
    from kis_token.admin.status_report import as_text, callers_as_json, callers_as_text, key_warnings
    from kis_token.store.sealing import make_vault
    from kis_token.wiring import open_store

    settings = caller.settings()
    if settings.reads_only:
        said = "A read-only key cannot read the log of attempts to issue a token"
        raise StoreMisconfigured("store-permission-denied", said)
    with open_store(settings, caller.started, say) as store:
        found = collect(settings, store, make_vault(settings.encryption_keys), only=caller.service)
        listed = list_callers(store, settings.supabase_url, only=caller.service) if with_callers else None
    if caller.service and not found.events and not any(slot.environment for slot in found.slots):
        say(f"warning: there is no slot {caller.service} yet")
    for warning in key_warnings(found):
        say(f"warning: {warning}")
    if as_json:
        click.echo(json.dumps(members_of(found) | (callers_as_json(listed) if listed is not None else {})))
        return
    width = width_of(sys.stdout)
    for line in [*as_text(found, width), *(["", *callers_as_text(listed, width)] if listed is not None else [])]:
        click.secho(line, bold=line.isupper())


@click.command(
    cls=TaughtCommand,
    short_help="check the whole set-up",
    examples=["kis-token check", "kis-token check --json | jq '.[] | select(.state == \"wrong\")'"],
)
@click.option("--json", "as_json", is_flag=True, help="Print the findings as one JSON array.")
@slot_options
@click.pass_obj
def check(caller: Caller, *, as_json: bool) -> int:
    """Check the whole set-up, without issuing, storing or changing anything.

    The command checks variables, KIS's host, Supabase and the kind of its key, the cache file, the clock, tables,
    functions and grants, seals, keys and tokens. The command prints one line for each finding, with the remedy, and
    then the result with the next step. The exit status is 1 if anything is wrong.
    """
    from kis_token.admin.finding import conclude

    findings = []
    for finding in _findings(caller):
        findings.append(finding)
        if not as_json:
            state, rest = finding.state, str(finding).removeprefix(finding.state)
            click.echo(click.style(state, fg=_COLOURS[state]) + rest)
    if as_json:
        click.echo(json.dumps([asdict(finding) for finding in findings]))
    else:
        click.secho(conclude(findings), bold=True)
    return 1 if any(finding.state == "wrong" for finding in findings) else 0


def _findings(caller: Caller) -> Iterator[Finding]:
    from kis_token.admin.check import examine, read_settings
    from kis_token.admin.finding import wrong_as
    from kis_token.admin.setting_sources import examine_sources
    from kis_token.clock import SystemClock
    from kis_token.kis.api import KISIssuer
    from kis_token.wiring import open_store

    try:
        additions = caller.additions()
    except SettingsError as error:
        yield from (wrong_as("settings", fault) for fault in error.faults)
        return
    settings, said = read_settings(caller.variables())
    yield from said
    if settings is None:
        return
    yield examine_sources(caller.env, additions)
    issuer = KISIssuer(settings.base_url, settings.environment)
    with open_store(settings, caller.started, say) as store:
        yield from examine(settings, store, issuer, SystemClock())


@click.command(
    cls=TaughtCommand,
    short_help="print the SQL that Supabase needs",
    examples=['kis-token sql | psql "$DATABASE_URL"', 'ls "$(kis-token sql --directory)"'],
)
@click.option("--directory", is_flag=True, help="Print the files' folder instead.")
def sql(*, directory: bool) -> None:
    """Print the migrations in their order, for the SQL editor of the Supabase project.

    The migrations can be run again at any time, even if the tables have rows.
    """
    from kis_token.store.migrations import migrations, migrations_folder

    if directory:
        click.echo(migrations_folder())
        return
    for path in migrations():
        click.echo(f"-- {path.name}\n\n{path.read_text(encoding='utf-8')}")


@click.command(
    cls=TaughtCommand,
    context_settings={"allow_interspersed_args": False},
    short_help="start KIS and Supabase on this machine",
    examples=["kis-token sandbox -- kis-token get", "kis-token sandbox -- pytest"],
)
@click.argument("command", nargs=-1, metavar="[-- CMD...]", type=click.UNPROCESSED)
def sandbox(command: tuple[str, ...]) -> int:
    """Start a KIS emulator and a Supabase emulator: no account is needed.

    With CMD, run CMD in the sandbox and return the status of CMD. Without CMD, print the variables to export and run
    until Ctrl-C. The sandbox needs an extra: pip install 'kis-token[sandbox]'.
    """
    try:
        from kis_token.sandbox.command import run
    except ImportError as error:
        raise EnvironmentFault("sandbox-missing", f"The sandbox needs the package {error.name}") from None
    try:
        return run(list(command))
    except RuntimeError as error:
        # PostgreSQL did not start. PostgreSQL's error text contains no secret of this project.
        raise EnvironmentFault("sandbox-failed", f"{error}") from None
