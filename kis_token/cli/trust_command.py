"""The command ``kis-token trust``: SQL that lists a repository's jobs as callers without a key."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from kis_token.admin.trust_sql import ACCESSES, DEFAULT_EVENTS, Caller, caller_sql, keys_sql, transaction, unfit
from kis_token.cli.help_examples import TaughtCommand
from kis_token.errors import KisTokenError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from kis_token.admin.github_repository import Repository
    from kis_token.admin.github_server import GitHubServer
    from kis_token.admin.trust_sql import Access
    from kis_token.cli.context import Caller as Started


@click.command(
    cls=TaughtCommand,
    short_help="print the SQL that lets a repository's jobs work without a key",
    examples=[
        "kis-token trust acme/bot --branch main --access issue",
        "kis-token trust acme/bot --tag v1 --workflow trade.yml --service kis-second",
        "kis-token trust --keys",
    ],
)
@click.argument("repository", metavar="[OWNER/REPO]", required=False)
@click.option("--branch", metavar="NAME", help="The branch of the jobs. The default is main.")
@click.option("--tag", metavar="NAME", help="The tag of the jobs. Give --tag or --branch, not both.")
@click.option(
    "--access",
    type=click.Choice(ACCESSES),
    default=ACCESSES[0],
    help="token (default): read the token. keys: also read app key and secret. issue: also issue tokens.",
)
@click.option("--service", metavar="SLOT", help="The slot to use, instead of KIS_SERVICE_NAME.")
@click.option(
    "--events",
    metavar="LIST",
    default=",".join(DEFAULT_EVENTS),
    help="The default is schedule,workflow_dispatch,push. The list can also have repository_dispatch and release.",
)
@click.option("--environment", metavar="NAME", help="Allow only jobs that use this environment of GitHub.")
@click.option("--workflow", metavar="FILE", help="Allow only jobs of this workflow file in .github/workflows.")
@click.option("--self-hosted", is_flag=True, help="Allow only jobs on your own runners, and not on GitHub's.")
@click.option("--issuer", metavar="URL", help="The issuer of GitHub Enterprise Server, or of a subdomain of ghe.com.")
@click.option(
    "--repository-id",
    metavar="NUMBER",
    help="The repository's numeric ID. If --repository-id and --owner-id are given, GitHub is not asked.",
)
@click.option("--owner-id", metavar="NUMBER", help="The numeric ID of the repository's owner.")
@click.option("--supabase-url", metavar="URL", help="The project's URL, instead of SUPABASE_URL.")
@click.option("--keys", "only_keys", is_flag=True, help="Print only the SQL that stores the issuer's keys.")
@click.pass_context
def trust(
    context: click.Context, /, repository: str | None, *, only_keys: bool, issuer: str | None, **given: str
) -> None:
    """Print the SQL that gives a repository's jobs access to the slot. Then the jobs need no key of Supabase.

    Run the SQL in the SQL editor of the project. If you run the SQL again, it changes the jobs' access and events, and
    adds new keys of the issuer. The numeric IDs of the repository and its owner come from GitHub. For a private
    repository, the command needs gh's sign-in or GH_TOKEN. The command needs no key of Supabase. docs/operations.md
    describes how to change and remove callers.
    """
    from kis_token.admin.github_server import find_server
    from kis_token.admin.issuer_keys import fetch_keys

    started: Started = context.obj
    server = find_server(issuer, started.env.get("GITHUB_API_URL", ""))
    if server is None:
        raise unfit("--issuer")
    statements = []
    if not only_keys:
        if repository is None:
            raise click.MissingParameter(ctx=context, param=context.command.params[0])
        statements.append(caller_sql(_caller(context, repository, server, given)))
    statements.append(keys_sql(fetch_keys(server.issuer)))
    click.echo(transaction(*statements), nl=False)


def _caller(context: click.Context, name: str, server: GitHubServer, given: Mapping[str, str]) -> Caller:
    """Return the row that the options describe. Raises KisTokenError."""
    from kis_token.config import project_and_slot

    started: Started = context.obj
    if given["branch"] and given["tag"]:
        said = "--branch and --tag are both given, but a row is for one branch or one tag"
        raise KisTokenError("invalid-caller", said)
    inputs = {"INPUT_SUPABASE_URL": given["supabase_url"], "INPUT_SERVICE_NAME": given["service"]}
    audience, slot = project_and_slot({**started.variables()} | {key: value for key, value in inputs.items() if value})
    access: Access = next(each for each in ACCESSES if each == given["access"])
    workflow = given["workflow"]
    return Caller(
        slot,
        audience,
        _repository(name, server, given, started.env),
        f"refs/tags/{given['tag']}" if given["tag"] else f"refs/heads/{given['branch'] or 'main'}",
        access=access,
        events=tuple(dict.fromkeys(given["events"].replace(",", " ").split())),
        runner_environment="self-hosted" if given["self_hosted"] else "github-hosted",
        environment=given["environment"],
        workflow=f".github/workflows/{workflow.removeprefix('.github/workflows/')}" if workflow else None,
        issuer=server.issuer,
    )


def _repository(name: str, server: GitHubServer, given: Mapping[str, str], env: Mapping[str, str]) -> Repository:
    """Return the repository with the given IDs, or with the IDs that GitHub returns. Raises KisTokenError."""
    from kis_token.admin.github_repository import REPOSITORY, Repository, look_up
    from kis_token.admin.github_sign_in import find_sign_in

    if REPOSITORY.fullmatch(name) is None:
        raise unfit("OWNER/REPO")
    if bool(given["repository_id"]) != bool(given["owner_id"]):
        raise KisTokenError("invalid-caller", "One of --repository-id and --owner-id is given without the other")
    if given["repository_id"]:
        return Repository(name, given["repository_id"], given["owner_id"])
    return look_up(server, name, find_sign_in(server, env))
