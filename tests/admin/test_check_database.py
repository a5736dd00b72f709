"""``kis-token check``: missing or changed parts of the database, and the version of its functions."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from psycopg import sql

from kis_token.sandbox.database import apply_migrations, migrations_folder, prepare_database
from kis_token.sandbox.postgrest import PostgRESTStandIn
from tests.admin.check_findings import faults, findings
from tests.resolver_harness import Chain
from tests.support import ANON_KEY, SERVICE_KEY, Database

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from kis_token.sandbox.emulator import KISEmulator
    from kis_token.sandbox.postgres import EmbeddedPostgres


@pytest.fixture
def own(make_database: Callable[[], Database], kis: KISEmulator, tmp_path: Path) -> Iterator[Chain]:
    """A separate project that the test may damage."""
    database = make_database()
    with PostgRESTStandIn(database.project.api, service_key=SERVICE_KEY, anon_key=ANON_KEY) as supabase:
        chain = Chain(supabase, kis, database, tmp_path)
        yield chain
        for store in chain.stores:
            store.close()


#: Damages of a project's database, each with its finding.
DAMAGES = [
    ("alter table api_credentials drop column description", "tables", "api_credentials has no column description"),
    ("drop function begin_issuance", "tables", "there is no function begin_issuance"),
    ("drop function reseal", "tables", "there is no function reseal"),
    ("alter function save_token security invoker", "tables", "the function save_token does not run as its owner"),
    (
        "drop trigger api_credentials_touch on api_credentials",
        "tables",
        "the trigger that keeps versions and times of api_credentials is missing or turned off",
    ),
    (
        "alter table api_credentials disable trigger api_credentials_touch",
        "tables",
        "the trigger that keeps versions and times of api_credentials is missing or turned off",
    ),
    (
        "alter table api_credentials drop constraint api_credentials_service_name_credential_type_key",
        "tables",
        "api_credentials may hold a credential twice: no unique index is valid",
    ),
    ("drop table credential_issuances", "tables", "there is no table credential_issuances"),
    ("revoke all on function save_token from service_role", "grants", "service_role may not call save_token"),
    ("revoke update on api_credentials from service_role", "grants", "service_role may not update api_credentials"),
    ("grant select on credential_leases to service_role", "grants", "service_role may select credential_leases"),
    (
        "grant execute on function issuance_write to service_role",
        "grants",
        "service_role may call issuance_write",
    ),
    (
        "grant select (credential_type, credential_value) on api_credentials to anon",
        "grants",
        "anon may select api_credentials",
    ),
    (
        "grant insert, update, delete on api_credentials to anon",
        "grants",
        "anon may delete, insert, update api_credentials",
    ),
    ("grant trigger on api_credentials to public", "grants", "authenticated may trigger api_credentials"),
    ("grant execute on function issuance_status to anon", "grants", "anon may call issuance_status"),
    ("grant execute on function set_app_key to authenticated", "grants", "authenticated may call set_app_key"),
    ("grant select on api_credentials to kis_token_reader", "grants", "kis_token_reader may select api_credentials"),
    ("alter table api_credentials disable row level security", "row level security", "it is off on api_credentials"),
    (
        "drop policy credential_leases_nobody on credential_leases",
        "row level security",
        "credential_leases lacks the policy credential_leases_nobody",
    ),
    (
        "drop policy api_credentials_token_reader_only on api_credentials",
        "row level security",
        "api_credentials lacks the policy api_credentials_token_reader_only",
    ),
]


@pytest.mark.parametrize(("damage", "what", "said"), DAMAGES)
def test_difference_from_the_migrations_is_named(own: Chain, damage: str, what: str, said: str) -> None:
    """The check names a missing part, a later grant and a disabled protection. The files of sql/ repair all three."""
    own.database.put_keys()
    own.database.owner.execute(sql.SQL(damage))

    assert said in [finding.said for finding in findings(own)[what] if finding.state == "wrong"]
    if "column" not in damage:
        apply_migrations(own.database.project.owner, migrations_folder())
        assert [name for name, _ in faults(findings(own)) if name in ("tables", "grants", "row level security")] == []


@pytest.mark.parametrize("legacy", [False, True], ids=["today", "legacy"])
def test_a_migrated_project_has_no_faults(postgres: EmbeddedPostgres, legacy: bool) -> None:  # noqa: FBT001 - a table
    """Right after the migrations, check_setup() finds no fault, even if the project grants rights by default."""
    project = prepare_database(postgres.create_database(), legacy_grants=legacy)
    apply_migrations(project.owner, migrations_folder())
    with Database(project) as database:
        assert database.call("check_setup") == []


@pytest.mark.parametrize(
    ("damage", "what", "code"),
    [
        ("drop table public.api_credentials cascade", "supabase", "store-table-missing"),
        ("alter table public.api_credentials drop column version", "supabase", "store-column-missing"),
        ("drop function public.check_setup", "tables", "store-function-missing"),
    ],
)
def test_projects_that_cannot_look_themselves(own: Chain, damage: str, what: str, code: str) -> None:
    """A missing table, column or function is reported with its code."""
    own.database.put_keys()
    own.database.owner.execute(sql.SQL(damage))

    assert (what, code) in faults(findings(own))


VERSION = "create or replace function credential_schema_version() returns integer language sql as 'select {}'"


@pytest.mark.parametrize(
    ("change", "is_old"),
    [
        (VERSION.format(1), True),
        (VERSION.format(99), False),
        ("drop function public.credential_schema_version", True),
    ],
    ids=["older", "newer", "from before there was a version"],
)
def test_the_version_of_the_functions(own: Chain, change: str, *, is_old: bool) -> None:
    """Functions of an older release are wrong, with the files to run. Functions of a newer release are ok."""
    own.database.put_keys()
    own.database.owner.execute(change.encode())
    found = findings(own)

    assert [code for _, code in faults(found) if code] == (["store-schema-outdated"] if is_old else [])
    assert not is_old or "005_check.sql" in found["tables"][0].said
