"""``kis-token check``: each mistake in a set-up is found and told with its remedy, and nothing is changed."""

from __future__ import annotations

import base64
import json
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest
from psycopg import sql

from kis_token.admin.check import examine, read_settings
from kis_token.kis.api import KISIssuer
from kis_token.sandbox.database import apply_migrations, migrations_folder, prepare_database
from kis_token.sandbox.loopback import Fault, LoopbackServer, Response
from kis_token.sandbox.postgrest import PostgRESTStandIn
from kis_token.store.sealing import SealingVault, make_vault
from kis_token.store.supabase import SupabaseStore
from tests.command import kis_token, kis_token_here
from tests.resolver_harness import ENCRYPTION_KEY, OTHER, Chain, dead_token
from tests.support import ANON_KEY, APP_KEY, HOUR, SERVICE_KEY, Database, TurnedClock, make_token

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from kis_token.admin.finding import Finding
    from kis_token.sandbox.emulator import KISEmulator
    from kis_token.sandbox.postgres import EmbeddedPostgres

OLDER_KEY = base64.b64encode(bytes(range(32))).decode()


def findings(chain: Chain, *, clock: TurnedClock | None = None, **inputs: str) -> dict[str, list[Finding]]:
    """What is found, by what was looked at."""
    settings = chain.settings(**inputs)
    store = SupabaseStore(settings.supabase_url, settings.supabase_key)
    chain.stores.append(store)
    issuer = KISIssuer(settings.base_url, settings.environment)
    found: dict[str, list[Finding]] = {}
    for finding in examine(settings, store, issuer, clock or TurnedClock()):
        found.setdefault(finding.what, []).append(finding)
    return found


def faults(found: dict[str, list[Finding]]) -> list[tuple[str, str]]:
    """What is wrong, with the error's code where there is one. Each has a remedy."""
    wrong = [finding for each in found.values() for finding in each if finding.state == "wrong"]
    assert all(finding.remedy for finding in wrong)
    return [(finding.what, finding.code) for finding in wrong]


@pytest.fixture
def whole(chain: Chain) -> Chain:
    """A set-up in which nothing is wrong."""
    chain.database.put_keys()
    chain.resolve()
    return chain


@pytest.fixture
def own(make_database: Callable[[], Database], kis: KISEmulator, tmp_path: Path) -> Iterator[Chain]:
    """A project of the test's own, to break."""
    database = make_database()
    with PostgRESTStandIn(database.project.api, service_key=SERVICE_KEY, anon_key=ANON_KEY) as supabase:
        chain = Chain(supabase, kis, database, tmp_path)
        yield chain
        for store in chain.stores:
            store.close()


def test_a_whole_set_up(whole: Chain) -> None:
    """Nothing is wrong and nothing is left open; KIS was only greeted, and no row was changed."""
    before, asked = whole.database.row(), len(whole.kis.requests)
    found = findings(whole)

    assert faults(found) == []
    assert {finding.state for each in found.values() for finding in each} == {"ok"}
    assert set(found) == {
        "kis",
        "supabase-key",
        "cache",
        "supabase",
        "clock",
        "tables",
        "grants",
        "row level security",
        "sealing",
        "app key",
        "environment",
        "token",
        "cached token",
    }
    assert [(seen.method, seen.path) for seen in whole.kis.requests[asked:]] == [("HEAD", "/")]
    assert whole.database.row() == before
    assert whole.database.outcomes() == ["granted", "committed"]


def test_a_check_reads_each_thing_once(whole: Chain) -> None:
    """A check asks Supabase for the slot, for the version, for what is wrong with the tables, and for all slots."""
    whole.supabase.server.forget()
    findings(whole)

    assert [seen.path.removeprefix("/rest/v1/") for seen in whole.supabase.server.seen] == [
        "api_credentials",
        "rpc/credential_schema_version",
        "rpc/check_setup",
        "rpc/issuance_status",
    ]


def test_the_command(whole: Chain) -> None:
    """A line a finding, JSON for programs; status 0 when nothing is wrong, 1 when something is. No secret is shown."""
    text = kis_token(whole.variables, "check")
    as_json = kis_token_here(whole.variables, "check", "--json")
    whole.database.put_keys(OTHER)
    wrong = kis_token_here(whole.variables, "check")

    assert (text.returncode, as_json.returncode, wrong.returncode) == (0, 0, 1)
    assert text.stdout.startswith("ok     settings: production, slot kis, KIS at http://127.0.0.1:")
    members = json.loads(as_json.stdout)
    assert len(members) == len(text.stdout.splitlines())
    assert set(members[0]) == {"state", "what", "said", "remedy", "code"}
    lines = [line for line in wrong.stdout.splitlines() if line.startswith("wrong")]
    assert lines
    assert all(line.endswith(".") for line in lines)
    assert text.stderr == wrong.stderr == ""


def test_settings_that_make_no_sense() -> None:
    """Each fault in the variables is a finding; without settings nothing else can be looked at."""
    settings, said = read_settings({"KIS_ENVIRONMENT": "both", "SUPABASE_URL": "https://x.supabase.co"})

    assert settings is None
    assert [finding.code for finding in said] == ["invalid-environment", "missing-supabase-key"]
    ended = kis_token_here({}, "check")
    assert (ended.returncode, ended.stdout.count("wrong  settings:")) == (1, 2)


def test_supabase_that_is_down(whole: Chain) -> None:
    """The outage is the finding; what could not be looked at for it is said once."""
    whole.supabase.stop()
    found = findings(whole)

    assert faults(found) == [("supabase", "store-unreachable")]
    assert [finding.state for finding in found["the rest"]] == ["note"]


def test_key_of_another_project(whole: Chain) -> None:
    """A key that the project does not know."""
    assert faults(findings(whole, supabase_key="sb_secret_of_another_project")) == [("supabase", "store-key-rejected")]


@pytest.mark.parametrize(
    ("claims", "states"),
    [
        ({"role": "service_role"}, ["ok"]),
        ({"role": "service_role", "exp": 4102444800}, ["ok"]),
        ({"role": "service_role", "exp": 946684800}, ["ok", "wrong"]),
        ({"role": "service_role", "exp": None}, ["ok", "note"]),
        ({"role": "somebody"}, ["note"]),
    ],
)
def test_kinds_of_keys(whole: Chain, claims: dict[str, object], states: list[str]) -> None:
    """A key says itself what it is and when it ends; an end that is near is worth a word."""
    clock = TurnedClock()
    if "exp" in claims and claims["exp"] is None:
        claims = claims | {"exp": int((clock.now() + timedelta(days=3)).timestamp())}
    head, body = (base64.urlsafe_b64encode(json.dumps(part).encode()).decode().rstrip("=") for part in ({}, claims))
    found = findings(whole, supabase_key=f"{head}.{body}.eA", clock=clock)

    assert [finding.state for finding in found["supabase-key"]] == states


def test_a_reader_s_key(whole: Chain) -> None:
    """Functions and keys are not for a reader: that is said, and is not wrong."""
    jwt = "eyJhIjoxfQ.eyJyb2xlIjoia2lzX3Rva2VuX3JlYWRlciJ9.eA"
    keys = {jwt: "kis_token_reader"}
    database = whole.database.project.api
    with PostgRESTStandIn(database, service_key=SERVICE_KEY, anon_key=ANON_KEY, further_keys=keys) as supabase:
        found = findings(whole, supabase_url=supabase.url, supabase_key=f"{ANON_KEY}\n{jwt}")

    assert faults(found) == []
    assert (found["supabase-key"][0].state, found["tables"][0].state, found["token"][0].state) == ("note", "note", "ok")


@pytest.mark.parametrize("url", ["http://127.0.0.1:9", "https://127.0.0.1:9"])
def test_kis_that_is_not_there(whole: Chain, url: str) -> None:
    """A host that does not answer is told; all else is looked at as well."""
    found = findings(whole, base_url=url)

    assert faults(found) == [("kis", "kis-unreachable")]
    assert found["token"][0].state == "ok"


#: What somebody may have done to a project, and what is said of it.
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
def test_what_is_not_as_the_migrations_leave_it(own: Chain, damage: str, what: str, said: str) -> None:
    """What is missing, and what somebody has granted or turned off since, is named; the files of sql/ mend it."""
    own.database.put_keys()
    own.database.owner.execute(sql.SQL(damage))

    assert said in [finding.said for finding in findings(own)[what] if finding.state == "wrong"]
    if "column" not in damage:
        apply_migrations(own.database.project.owner, migrations_folder())
        assert [name for name, _ in faults(findings(own)) if name in ("tables", "grants", "row level security")] == []


@pytest.mark.parametrize("legacy", [False, True], ids=["today", "legacy"])
def test_a_migrated_project_has_no_faults(postgres: EmbeddedPostgres, legacy: bool) -> None:  # noqa: FBT001 - a table
    """Right after the files were run nothing is found, also where a project gives rights away by default."""
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
    """Without a table to read, or with files of before, that is the finding."""
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
    """Functions of an older release are told with the files to run; those of a newer one are as good."""
    own.database.put_keys()
    own.database.owner.execute(change.encode())
    found = findings(own)

    assert [code for _, code in faults(found) if code] == (["store-schema-outdated"] if is_old else [])
    assert not is_old or "005_check.sql" in found["tables"][0].said


def test_a_server_that_is_no_supabase(whole: Chain) -> None:
    """Another server's 404 is told as such, and not as a missing table."""
    with LoopbackServer(lambda _: Response(404, b"<html>not here</html>")) as server:
        assert faults(findings(whole, supabase_url=server.url)) == [("supabase", "store-not-supabase")]


def test_an_outage_in_the_middle(whole: Chain) -> None:
    """What does not answer any more is told once, and the rest is said not to have been looked at."""
    whole.supabase.server.add_fault(Fault("reset", "/rest/v1/rpc/check_setup", 9))
    found = findings(whole)

    assert faults(found) == [("supabase", "store-unreachable")]
    assert [finding.state for finding in found["the rest"]] == ["note"]


def test_keys_that_cannot_be_keys(whole: Chain) -> None:
    """Stored keys that the chain refuses or passes over are wrong here as well."""
    for value, code in (("a b", "invalid-app-key"), ("\u2026", "invalid-app-key"), (" ", "missing-app-key")):
        whole.database.put("app_key", value)
        assert ("app key", code) in faults(findings(whole, app_key="", app_secret=""))
    assert findings(whole)["app key"][0].state == "note"


def test_an_app_key_in_two_slots(whole: Chain) -> None:
    """Another slot that has a living token of this app key keeps this one from issuing."""
    assert faults(findings(whole, service_name="kis-second")) == [("app key", "key-in-two-slots")]


def test_a_cached_token_is_replaced_by_itself(whole: Chain) -> None:
    """One of another key, sealed or not sealed: while Supabase works that is no fault of the set-up."""
    whole.cache_token(make_token(OTHER.key))
    assert findings(whole)["cached token"][0].state == "note"
    whole.cache_token(make_token())
    vault = make_vault(whole.settings(encryption_key=ENCRYPTION_KEY).encryption_keys)
    assert isinstance(vault, SealingVault)
    for name, value in (("app_key", APP_KEY.key), ("app_secret", APP_KEY.secret)):
        whole.database.put(name, vault.seal(value, "kis", name))
    token = make_token()
    whole.database.put("access_token", vault.seal(token.to_json(), "kis", "access_token"), token.expires_at)
    found = findings(whole, encryption_key=ENCRYPTION_KEY)
    assert (faults(found), found["cached token"][0].state) == ([], "note")


def test_a_rejected_token(whole: Chain) -> None:
    """Stored and cached it is told as not used, which the next caller mends; the memory is no credential."""
    token = whole.resolve().token
    whole.database.call("revoke_token", service="kis", version=0, token_id=token.token_id, label="an owner")
    found = findings(whole)

    assert (faults(found), found["token"][0].state, found["cached token"][0].state) == ([], "note", "note")
    assert "KIS rejects" in found["token"][0].said
    assert "rejected_tokens" not in found["sealing"][0].said


def test_seals(whole: Chain) -> None:
    """Plain values with a key, sealed ones without, another key's: each is wrong by its code."""
    assert ("sealing", "plain-with-key") in faults(findings(whole, encryption_key=ENCRYPTION_KEY))
    vault = make_vault(whole.settings(encryption_key=OLDER_KEY).encryption_keys)
    whole.database.put("app_key", vault.seal(APP_KEY.key, "kis", "app_key"))
    whole.database.put("app_secret", vault.seal(APP_KEY.secret, "kis", "app_secret"))
    assert ("sealing", "sealed-without-key") in faults(findings(whole))
    assert ("sealing", "seal-broken") in faults(findings(whole, encryption_key=ENCRYPTION_KEY))


def test_a_seal_that_is_to_be_changed(chain: Chain) -> None:
    """What only an older key opens works, and is worth a word."""
    chain.resolve(encryption_key=OLDER_KEY)
    both = findings(chain, encryption_key=f"{ENCRYPTION_KEY}\n{OLDER_KEY}")

    assert faults(both) == []
    assert [(finding.state, finding.remedy) for finding in both["sealing"]] == [("note", "Run kis-token seal.")]
    assert [finding.state for finding in findings(chain, encryption_key=OLDER_KEY)["sealing"]] == ["ok"]


@pytest.mark.parametrize(("hours", "direction"), [(1, "ahead"), (-1, "behind")])
def test_a_clock_that_is_wrong(whole: Chain, hours: int, direction: str) -> None:
    """A clock that is far from Supabase's is told with its direction."""
    found = findings(whole, clock=TurnedClock(wrong_by=hours * HOUR))

    assert ("clock", "") in faults(found)
    assert direction in found["clock"][0].said


def test_a_supabase_that_tells_no_time(whole: Chain) -> None:
    """Without a Date nothing can be said of the clock, which is not wrong."""
    whole.supabase.server.send_date = False
    assert findings(whole)["clock"][0].state == "note"


def test_cache_folders(whole: Chain, tmp_path: Path) -> None:
    """No folder to write in, one that others may swap, a file that others can read: each is wrong. Nothing is made."""
    file = tmp_path / "file"
    file.write_text("x")
    assert faults(findings(whole, cache_path=str(file / "cache.json"))) == [("cache", "cache-unwritable")]

    cached = whole.folder / "cache.json"
    cached.chmod(0o644)
    assert faults(findings(whole)) == [("cache", "")]
    cached.chmod(0o600)

    new = tmp_path / "new" / "folder" / "cache.json"
    assert faults(findings(whole, cache_path=str(new))) == []
    assert not (tmp_path / "new").exists()

    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o777)  # whatever the mask
    assert faults(findings(whole, cache_path=str(shared / "cache.json"))) == [("cache", "")]

    assert findings(whole, cache_path="off")["cache"][0].state == "note"
    for other in (shared, tmp_path / "link"):
        (tmp_path / "link").unlink(missing_ok=True)
        (tmp_path / "link").symlink_to(cached)
        (found,) = findings(whole, cache_path=str(other))["cache"]
        assert (found.state, "a folder, a link" in found.said) == ("wrong", True)


def test_keys_that_do_not_match(whole: Chain) -> None:
    """A given key that is not the stored one, half a key, none at all; and a token of the key before."""
    assert faults(findings(whole, app_key=OTHER.key, app_secret=OTHER.secret)) == [("app key", "")]
    whole.database.put_keys(OTHER)
    assert faults(findings(whole, app_key="", app_secret="")) == [
        ("token", "token-of-another-key"),
    ]
    whole.database.put("app_secret", OTHER.secret, active=False)
    assert ("app key", "missing-app-key") in faults(findings(whole, app_key="", app_secret=""))
    whole.database.clear()
    assert faults(findings(whole, app_key="", app_secret="")) == [("app key", "missing-app-key")]
    assert faults(findings(whole)) == []


def test_a_key_of_the_other_environment(whole: Chain) -> None:
    """A key that is noted as one for paper is wrong for production; the other way round it is worth a word."""
    whole.database.owner.execute("update public.api_credentials set environment = 'paper'")
    assert faults(findings(whole)) == [("environment", "")]
    whole.database.owner.execute("update public.api_credentials set environment = 'production'")
    paper = findings(whole, environment="paper", service_name="kis", base_url=whole.kis.paper_url)
    assert paper["environment"][0].state == "note"


def test_a_token_of_the_other_environment(whole: Chain) -> None:
    """A token that was issued for the other environment."""
    paper = findings(whole, environment="paper", service_name="kis", base_url=whole.kis.paper_url)
    assert ("token", "token-of-another-environment") in faults(paper)


def test_tokens_that_are_replaced_are_not_wrong(chain: Chain) -> None:
    """None, a dead one, one that cannot be read: the next caller issues another, and that is said."""
    chain.database.put_keys()
    assert findings(chain)["token"][0].state == "note"
    chain.database.put_token(dead_token())
    assert findings(chain)["token"][0].state == "note"
    chain.database.put("access_token", "{")
    assert findings(chain)["token"][0].state == "note"
    assert faults(findings(chain)) == []


def test_a_rotation_that_has_not_run(chain: Chain) -> None:
    """A token that should have been renewed long ago tells of it."""
    chain.database.put_token(make_token(left=HOUR, age=40 * HOUR))
    assert findings(chain)["rotation"][0].state == "note"
