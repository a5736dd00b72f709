"""``kis-token check``: settings, routes to Supabase and KIS, and kinds of keys. The check changes nothing."""

from __future__ import annotations

import base64
import json
import re
from datetime import timedelta

import pytest

from kis_token.admin.check import read_settings
from kis_token.errors import ENTRIES
from kis_token.sandbox.loopback import Fault, LoopbackServer, Response
from kis_token.sandbox.postgrest import PostgRESTStandIn
from tests.admin.check_findings import faults, findings
from tests.command import kis_token, kis_token_here
from tests.resolver_harness import OTHER, Chain
from tests.support import ANON_KEY, SERVICE_KEY, TurnedClock


def test_a_whole_set_up(sound: Chain) -> None:
    """In a complete set-up, all findings are ok. The check sends KIS one HEAD request and changes no row."""
    before, asked = sound.database.row(), len(sound.kis.requests)
    found = findings(sound)

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
    assert [(seen.method, seen.path) for seen in sound.kis.requests[asked:]] == [("HEAD", "/")]
    assert sound.database.row() == before
    assert sound.database.outcomes() == ["granted", "committed"]


def test_a_check_reads_each_thing_once(sound: Chain) -> None:
    """A check sends five requests to Supabase: for slot, version, faults of the tables, all slots, and callers."""
    sound.supabase.server.forget()
    findings(sound)

    assert [seen.path.removeprefix("/rest/v1/") for seen in sound.supabase.server.seen] == [
        "api_credentials",
        "rpc/credential_schema_version",
        "rpc/check_setup",
        "rpc/issuance_status",
        "rpc/credential_callers_status",
    ]


def test_the_command(sound: Chain) -> None:
    """Each finding is a line or a JSON object. The last line is the result. A fault gives the exit status 1."""
    text = kis_token(sound.variables, "check")
    as_json = kis_token_here(sound.variables, "check", "--json")
    sound.database.put_keys(OTHER)
    wrong = kis_token_here(sound.variables, "check")

    assert (text.returncode, as_json.returncode, wrong.returncode) == (0, 0, 1)
    assert text.stdout.startswith("ok     settings: production, slot kis, KIS at http://127.0.0.1:")
    members = json.loads(as_json.stdout)
    *told, result = text.stdout.splitlines()
    assert len(members) == len(told)
    assert result == "Ready: no fault was found. Next: kis-token get prints a token."
    assert set(members[0]) == {"state", "what", "said", "remedy", "code"}
    lines = [line for line in wrong.stdout.splitlines() if line.startswith("wrong")]
    assert lines
    assert all(line.endswith(".") or re.search(rf"\[(.+)\]\. .+\. {ENTRIES}#\1$", line) for line in lines)
    assert wrong.stdout.splitlines()[-1].startswith(f"Not ready: {len(lines)} faults (app key")
    assert wrong.stdout.endswith("). Next: correct them and run kis-token check again.\n")
    assert text.stderr == wrong.stderr == ""


def test_invalid_settings() -> None:
    """Each fault in the settings is a finding. If the settings have a fault, no other part is checked."""
    settings, said = read_settings({"KIS_ENVIRONMENT": "both", "SUPABASE_URL": "https://x.supabase.co"})

    assert settings is None
    assert [finding.code for finding in said] == ["invalid-environment", "missing-supabase-key"]
    ended = kis_token_here({}, "check")
    assert (ended.returncode, ended.stdout.count("wrong  settings:")) == (1, 2)


def test_supabase_that_is_down(sound: Chain) -> None:
    """During an outage of Supabase, one finding reports the outage, and one reports the skipped checks."""
    sound.supabase.stop()
    found = findings(sound)

    assert faults(found) == [("supabase", "store-unreachable")]
    assert [finding.state for finding in found["the rest"]] == ["note"]


def test_key_of_another_project(sound: Chain) -> None:
    """A Supabase key that the project does not accept is wrong."""
    assert faults(findings(sound, supabase_key="sb_secret_of_another_project")) == [("supabase", "store-key-rejected")]


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
def test_kinds_of_keys(sound: Chain, claims: dict[str, object], states: list[str]) -> None:
    """The check reads a Supabase key's kind and end from its claims. A near end is a note."""
    clock = TurnedClock()
    if "exp" in claims and claims["exp"] is None:
        claims = claims | {"exp": int((clock.now() + timedelta(days=3)).timestamp())}
    head, body = (base64.urlsafe_b64encode(json.dumps(part).encode()).decode().rstrip("=") for part in ({}, claims))
    found = findings(sound, supabase_key=f"{head}.{body}.eA", clock=clock)

    assert [finding.state for finding in found["supabase-key"]] == states


def test_a_read_only_key(sound: Chain) -> None:
    """With a read-only key, functions and app keys are not checked, and a note reports this."""
    jwt = "eyJhIjoxfQ.eyJyb2xlIjoia2lzX3Rva2VuX3JlYWRlciJ9.eA"
    keys = {jwt: "kis_token_reader"}
    database = sound.database.project.api
    with PostgRESTStandIn(database, service_key=SERVICE_KEY, anon_key=ANON_KEY, further_keys=keys) as supabase:
        found = findings(sound, supabase_url=supabase.url, supabase_key=f"{ANON_KEY}\n{jwt}")

    assert faults(found) == []
    assert (found["supabase-key"][0].state, found["tables"][0].state, found["token"][0].state) == ("note", "note", "ok")


@pytest.mark.parametrize("url", ["http://127.0.0.1:9", "https://127.0.0.1:9"])
def test_kis_that_is_not_there(sound: Chain, url: str) -> None:
    """If KIS's host does not answer, the finding is wrong, and all other parts are checked."""
    found = findings(sound, base_url=url)

    assert faults(found) == [("kis", "kis-unreachable")]
    assert found["token"][0].state == "ok"


def test_a_server_that_is_no_supabase(sound: Chain) -> None:
    """If a server that is not Supabase answers 404, the finding names the wrong server and not a missing table."""
    with LoopbackServer(lambda _: Response(404, b"<html>not here</html>")) as server:
        assert faults(findings(sound, supabase_url=server.url)) == [("supabase", "store-not-supabase")]


def test_an_outage_in_the_middle(sound: Chain) -> None:
    """If an outage begins during the check, one finding reports the outage, and one reports the skipped checks."""
    sound.supabase.server.add_fault(Fault("reset", "/rest/v1/rpc/check_setup", 9))
    found = findings(sound)

    assert faults(found) == [("supabase", "store-unreachable")]
    assert [finding.state for finding in found["the rest"]] == ["note"]
