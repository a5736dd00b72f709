"""``kis-token check``: each mistake in a set-up is found and told with its remedy, and nothing is changed."""

from __future__ import annotations

import base64
import json
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest
from psycopg import sql

from kis_token.check import examine, read_settings
from kis_token.kis import KISIssuer
from kis_token.sandbox.postgrest import PostgRESTStandIn
from kis_token.sealing import make_vault
from kis_token.supabase import SupabaseStore
from tests.chain import ENCRYPTION_KEY, OTHER, Chain, dead_token
from tests.command import kis_token
from tests.support import ANON_KEY, APP_KEY, HOUR, SERVICE_KEY, TurnedClock, make_token

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from kis_token.sandbox.emulator import KISEmulator
    from kis_token.verdicts import Finding
    from tests.support import Database

OLDER_KEY = base64.b64encode(bytes(range(32))).decode()


def findings(
    chain: Chain, *, clock: TurnedClock | None = None, public_key: str | None = None, **inputs: str
) -> dict[str, list[Finding]]:
    """What is found, by what was looked at."""
    settings = chain.settings(**inputs)
    store = SupabaseStore(settings.supabase_url, settings.supabase_key)
    chain.stores.append(store)
    issuer = KISIssuer(settings.base_url, settings.environment)
    found: dict[str, list[Finding]] = {}
    for finding in examine(settings, store, issuer, clock or TurnedClock(), public_key):
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
    found = findings(whole, public_key=ANON_KEY)

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
        "public key",
        "sealing",
        "app key",
        "environment",
        "token",
        "cached token",
    }
    assert [(seen.method, seen.path) for seen in whole.kis.requests[asked:]] == [("HEAD", "/")]
    assert whole.database.row() == before
    assert whole.database.outcomes() == ["granted", "committed"]


def test_the_command(whole: Chain) -> None:
    """A line a finding, JSON for programs; status 0 when nothing is wrong, 1 when something is. No secret is shown."""
    text = kis_token(whole.variables, "check")
    as_json = kis_token(whole.variables, "check", "--json")
    whole.database.put_keys(OTHER)
    wrong = kis_token(whole.variables, "check")

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
    ended = kis_token({}, "check")
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


@pytest.mark.parametrize(
    ("damage", "what", "code"),
    [
        ("drop table public.api_credentials cascade", "supabase", "store-table-missing"),
        ("alter table public.api_credentials drop column version", "supabase", "store-column-missing"),
        ("alter table public.api_credentials drop column description", "table api_credentials", "store-column-missing"),
        ("drop function public.begin_issuance", "function begin_issuance", "store-function-missing"),
        ("drop function public.reseal", "function reseal", "store-function-missing"),
        ("drop function public.issuance_status", "function issuance_status", "store-function-missing"),
        (
            "revoke all on function public.save_token from service_role",
            "function save_token",
            "store-permission-denied",
        ),
        ("drop table public.credential_issuances", "grants on credential_issuances", "store-table-missing"),
        ("grant select on public.credential_leases to service_role", "grants on credential_leases", ""),
        (
            "grant execute on function public.issuance_check_service to service_role",
            "grants on issuance_check_service",
            "",
        ),
        ("grant select on public.api_credentials to anon", "grants on api_credentials", ""),
        ("grant execute on function public.set_app_key to anon", "grants on set_app_key", ""),
    ],
)
def test_migrations_and_grants(own: Chain, damage: str, what: str, code: str) -> None:
    """What the migrations did not make, or what somebody has granted since, is named."""
    own.database.put_keys()
    own.database.owner.execute(sql.SQL(damage))

    assert (what, code) in faults(findings(own, public_key=ANON_KEY))


def test_without_the_public_key_it_is_said(whole: Chain) -> None:
    """What cannot be looked at is told, with what it takes; the variable for it is read by the command."""
    (found,) = findings(whole)["public key"]
    assert (found.state, "SUPABASE_ANON_KEY" in found.remedy) == ("note", True)

    ended = kis_token(whole.variables | {"SUPABASE_ANON_KEY": ANON_KEY}, "check")
    assert "ok     public key: table and functions are closed to it" in ended.stdout


def test_a_public_key_that_is_none(whole: Chain) -> None:
    """A key that the project does not know proves nothing."""
    assert ("grants on api_credentials", "store-key-rejected") in faults(findings(whole, public_key="sb_publishable_x"))


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


def test_keys_that_do_not_match(whole: Chain) -> None:
    """A given key that is not the stored one, half a key, none at all; and a token of the key before."""
    assert faults(findings(whole, app_key=OTHER.key, app_secret=OTHER.secret)) == [("app key", "")]
    whole.database.put_keys(OTHER)
    assert faults(findings(whole, app_key="", app_secret="")) == [
        ("token", "token-of-another-key"),
        ("cached token", "token-of-another-key"),
    ]
    whole.database.put("app_secret", OTHER.secret, active=False)
    assert ("app key", "") in faults(findings(whole))
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
