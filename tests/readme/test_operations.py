"""The commands of docs/operations.md have the described effect."""

from __future__ import annotations

import re
import textwrap
from typing import TYPE_CHECKING

import psycopg
import pytest

from kis_token.sandbox.database import apply_migrations, migrations_folder, prepare_database
from kis_token.sandbox.postgrest import PostgRESTStandIn
from tests.github_network import GitHubNetwork
from tests.readme.page import blocks_of, read_page

if TYPE_CHECKING:
    from pathlib import Path

    from kis_token.sandbox.postgres import EmbeddedPostgres
    from tests.readme.newcomer import Newcomer

#: The page, with the blocks of its lists moved to the margin.
PAGE = re.sub(
    r"^   ```.*?^   ```$",
    lambda match: textwrap.dedent(match[0]),
    read_page("docs/operations.md"),
    flags=re.MULTILINE | re.DOTALL,
)
WATCH, TRUST, TELL, COPY, SECRETS = (block.code for block in blocks_of(PAGE) if block.language == "sh")
# The last block needs pg_cron, which the sandbox's PostgreSQL lacks. tests/integration tests the block's statement.
REMOVE, WITHDRAW, FORGET, PRUNE, _ = (block.code for block in blocks_of(PAGE) if block.language == "sql")


@pytest.fixture
def owner(newcomer: Newcomer) -> Newcomer:
    """A user whose project is set up and has a token."""
    apply_migrations(newcomer.sandbox.owner_dsn, migrations_folder())
    newcomer.type("kis-token set-keys", *newcomer.keys, **newcomer.exported)
    newcomer.type("kis-token get > /dev/null", **newcomer.exported)
    return newcomer


def sql(dsn: str, command: str) -> list[tuple[object, ...]]:
    """Run a statement in the SQL editor, and return the rows."""
    with psycopg.connect(dsn) as connection:
        cursor = connection.execute(command.encode())
        return cursor.fetchall() if cursor.description else []


def test_watching(owner: Newcomer) -> None:
    """The page's crontab line prints the faults of the set-up. If the set-up has no fault, the line prints nothing."""
    quiet = owner.type(WATCH, **owner.exported)
    sql(owner.sandbox.owner_dsn, "drop function public.save_token")
    loud = owner.type(WATCH, **owner.exported)

    assert quiet == ""
    assert re.match(r"wrong +tables: there is no function save_token\. Run the files of sql/", loud)


def test_keyless_callers(owner: Newcomer, tmp_path: Path) -> None:
    """The printed SQL lists the caller. status shows the caller as row 1.

    The page's statements end and remove the row.
    """
    dsn = owner.sandbox.owner_dsn
    command, show = TRUST.splitlines()
    with GitHubNetwork(tmp_path) as network:
        numbers = " --repository-id 74 --owner-id 65"
        network_only = {name: value for name, value in network.variables.items() if name != "PATH"}
        printed = owner.type(f"{command}{numbers}", **owner.exported, **network_only)
        kid = network.issuer.keys[0].kid
    sql(dsn, printed)

    shown = owner.type(show, **owner.exported)
    assert re.search(r"^1 +kis +issue +someone/bot +refs/heads/main ", shown, re.MULTILINE)
    assert kid in shown
    ends, remove = REMOVE.splitlines()
    sql(dsn, ends)
    assert sql(dsn, "select valid_until::date::text from credential_callers") == [("2030-12-31",)]
    sql(dsn, remove)
    sql(dsn, WITHDRAW.replace("NAME", kid))
    assert sql(dsn, "select from credential_callers") == sql(dsn, "select from credential_issuer_keys") == []


def test_tokens_of_a_restored_dump(owner: Newcomer) -> None:
    """If the tokens are deleted, a machine with a valid cached token stores it.

    A machine without a cached token issues a new token.
    """
    sql(owner.sandbox.owner_dsn, FORGET)
    assert sql(owner.sandbox.owner_dsn, "select * from api_credentials where credential_type = 'access_token'") == []
    owner.type("kis-token get > /dev/null", **owner.exported)
    assert owner.sandbox.kis.counts("production").calls == 1

    sql(owner.sandbox.owner_dsn, FORGET)
    owner.sandbox.advance(7 * 3600)
    sql(owner.sandbox.owner_dsn, "update credential_leases set not_before = now() - interval '1 second'")
    owner.type("kis-token get > /dev/null", **owner.exported, KIS_TOKEN_CACHE="off")
    assert owner.sandbox.kis.counts("production").issues == 2


def test_pruning(owner: Newcomer) -> None:
    """Only events older than 90 days are deleted. After the pruning, the stored token is still used."""
    dsn = owner.sandbox.owner_dsn
    aged = sql(
        dsn,
        "update credential_issuances set happened_at = now() - interval '91 days' where outcome <> 'committed'"
        " returning id",
    )  # on a busy machine, the first lease may end without a tokenP call and add one more event

    assert aged
    assert sql(dsn, PRUNE) == [(len(aged),)]
    assert sql(dsn, PRUNE) == [(0,)]
    assert sql(dsn, "select outcome from credential_issuances") == [("committed",)]
    owner.type("kis-token get > /dev/null", **owner.exported)
    assert owner.sandbox.kis.counts("production").calls == 1


def test_moving(owner: Newcomer, postgres: EmbeddedPostgres) -> None:
    """The commands copy keys and token to a new project without a KIS call. Jobs continue with the same token."""
    new = prepare_database(postgres.create_database())
    apply_migrations(new.owner, migrations_folder())
    token = "select credential_value from api_credentials where credential_type = 'access_token'"
    key = "sb_secret_of-the-new-project_0000000000"

    with PostgRESTStandIn(new.api, service_key=key, anon_key="sb_publishable_of-the-new-project") as stand_in:
        seen = owner.type(TELL + COPY + SECRETS, stand_in.url, key, **owner.exported)

        assert "wrong" not in seen
        assert "stored plain for kis (production)" in seen
        assert re.search(r"^kis +production +fresh +23 h", seen, re.MULTILINE)
        is_same = sql(new.owner, token) == sql(owner.sandbox.owner_dsn, token)
        assert is_same
        moved = {"SUPABASE_URL": stand_in.url, "SUPABASE_SERVICE_ROLE_KEY": key}
        assert owner.github_secrets == moved
        owner.type("kis-token get > /dev/null", **moved, KIS_TOKEN_CACHE="off")
    assert owner.sandbox.kis.counts("production").calls == 1
