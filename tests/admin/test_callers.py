"""The list of callers and the issuers' keys in ``kis-token status --callers`` and ``kis-token check``."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import psycopg
import pytest

from kis_token.admin.callers import list_callers
from kis_token.deadline import no_deadline
from kis_token.errors import StoreOutage
from kis_token.process.caller_identity import IDTokenRequest
from kis_token.sandbox.database import list_caller, store_issuer_keys
from kis_token.sandbox.github_issuer import GITHUB, GitHubIssuer, SigningKey
from kis_token.sandbox.loopback import Fault, LoopbackServer, Response
from kis_token.sandbox.postgrest import PostgRESTStandIn
from kis_token.store.id_token import IDTokens
from kis_token.store.keyless_store import KeylessStore
from kis_token.store.supabase import SupabaseStore
from tests.command import kis_token_here
from tests.github_network import GitHubNetwork
from tests.resolver_harness import issue_token
from tests.support import ANON_KEY, SERVICE_KEY

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from kis_token.sandbox import Sandbox
    from tests.resolver_harness import Chain
    from tests.support import Database

pytestmark = pytest.mark.usefixtures("plain_network")


@pytest.fixture
def network(tmp_path: Path) -> Iterator[GitHubNetwork]:
    """A stand-in for GitHub, reached under GitHub's own host names."""
    with GitHubNetwork(tmp_path) as network:
        yield network


def add(chain: Chain, network: GitHubNetwork, **columns: object) -> None:
    """Store the issuer's keys, and list the issuer's usual job with the columns in ``columns`` changed."""
    store_issuer_keys(chain.database.owner, network.issuer)
    list_caller(chain.database.owner, network.issuer, chain.supabase.url, **columns)


def check(chain: Chain, network: GitHubNetwork) -> dict[str, list[dict[str, str]]]:
    """Return the findings of ``kis-token check`` on callers and on issuer keys."""
    ended = kis_token_here({**chain.variables, **network.variables}, "check", "--json")
    found: dict[str, list[dict[str, str]]] = {"callers": [], "issuer keys": []}
    for finding in json.loads(ended.stdout):
        found.setdefault(finding["what"], []).append(finding)
    states = {finding["state"] for each in found.values() for finding in each}
    assert ended.returncode == int("wrong" in states)
    return {name: found[name] for name in ("callers", "issuer keys")}


def test_check_without_callers(sound: Chain, network: GitHubNetwork) -> None:
    """If the list of callers is empty, the check has no finding on callers, and GitHub gets no request."""
    assert check(sound, network) == {"callers": [], "issuer keys": []}
    assert network.asked == []


def test_check_shows_each_caller(sound: Chain, network: GitHubNetwork) -> None:
    """The check shows each caller as one finding with repository, ref, slot and access.

    A second finding confirms that all published keys are stored.
    """
    add(sound, network, note="acme/bot", access="issue")

    found = check(sound, network)

    (caller,) = found["callers"]
    assert caller["state"] == "ok"
    assert caller["said"].endswith("acme/bot on refs/heads/main for the slot kis: access issue")
    (keys,) = found["issuer keys"]
    assert (keys["state"], keys["said"]) == ("ok", f"all 1 of {GITHUB} are stored")


def test_check_finds_another_project_s_audience(sound: Chain, network: GitHubNetwork) -> None:
    """A row with another project's URL has no effect in this project.

    The finding on a row with another project's URL is wrong and names both URLs.
    """
    add(sound, network, audience="https://other.supabase.co")

    (caller,) = check(sound, network)["callers"]

    assert (caller["state"], caller["code"]) == ("wrong", "id-token-audience")
    assert caller["said"].endswith(
        f"its audience is https://other.supabase.co, and SUPABASE_URL is {sound.supabase.url}"
    )


def test_check_finds_a_row_that_has_ended(sound: Chain, network: GitHubNetwork) -> None:
    """If a row of the list is past its valid_until by the database's clock, the finding is a note."""
    add(sound, network, valid_until="2026-01-01T00:00:00Z")
    add(sound, network, ref="refs/heads/later", valid_until="2099-01-01T00:00:00Z")

    ended, later = check(sound, network)["callers"]

    assert (ended["state"], later["state"]) == ("note", "ok")
    assert ended["said"].endswith("it ended on 2026-01-01")


def test_check_finds_a_key_before_it_is_used(sound: Chain, network: GitHubNetwork) -> None:
    """If the database lacks a published key, the finding is wrong and names the key, also before GitHub uses it."""
    add(sound, network)
    network.issuer.announce(SigningKey.make("next-key"))

    (finding,) = check(sound, network)["issuer keys"]

    assert (finding["state"], finding["code"]) == ("wrong", "id-token-key-unknown")
    assert finding["said"] == f"{GITHUB} publishes keys that the database lacks: next-key"
    assert "kis-token trust --keys" in finding["remedy"]


def test_check_finds_keys_that_are_not_the_issuer_s(sound: Chain, network: GitHubNetwork) -> None:
    """If a stored key differs from the published key of the same name, the finding is wrong.

    A stored key that is no longer published is a note.
    """
    add(sound, network)
    add_key = "insert into public.credential_issuer_keys (issuer, kid, modulus) values (%s, %s, %s)"
    sound.database.owner.execute(add_key, (GITHUB, "old-key", SigningKey.make().modulus))
    published = network.issuer.keys[0].kid
    sound.database.owner.execute(
        "update public.credential_issuer_keys set modulus = %s where kid = %s", (SigningKey.make().modulus, published)
    )

    other, old = check(sound, network)["issuer keys"]

    assert (other["state"], other["code"], old["state"]) == ("wrong", "id-token-unknown", "note")
    assert published in other["said"]
    assert old["said"].endswith("any more: old-key")


def test_check_without_github(sound: Chain, network: GitHubNetwork) -> None:
    """If GitHub does not answer, the issuer keys are not compared, and the finding is a note."""
    add(sound, network)
    network.issuer.server.add_fault(Fault("reset", times=9))

    (finding,) = check(sound, network)["issuer keys"]

    assert finding["state"] == "note"
    assert "[github-unreachable]" in finding["said"]


def test_database_without_the_list(chain: Chain, make_database: Callable[[], Database], network: GitHubNetwork) -> None:
    """If sql/007 was not run, check names the file to run, and ``status --callers`` fails with the same remedy."""
    database = make_database()
    database.owner.execute("drop function public.credential_callers_status")
    with PostgRESTStandIn(database.project.api, service_key=SERVICE_KEY, anon_key=ANON_KEY) as supabase:
        old = replace(chain, supabase=supabase, database=database)
        (note,) = check(old, network)["callers"]
        status = kis_token_here(old.variables, "status", "--callers")
        usual = kis_token_here(old.variables, "status")

    assert note["state"] == "note"
    assert note["remedy"] == "If jobs are to work without a key, run all files of sql/ in order."
    assert (status.returncode, usual.returncode) == (1, 0)
    assert "[store-function-missing]. Run the files of sql/" in status.stderr


def test_status_with_callers(chain: Chain, network: GitHubNetwork) -> None:
    """With ``--callers``, a second request adds two tables to the text, and two members to the JSON."""
    add(chain, network, note="acme/bot\u202e", environment="prod")
    add(chain, network, service_name="kis-second", audience="https://other.supabase.co")
    chain.supabase.server.forget()

    text = kis_token_here(chain.variables, "status", "--callers").stdout
    assert [seen.path.rpartition("/")[2] for seen in chain.supabase.server.seen] == [
        "issuance_status",
        "credential_callers_status",
    ]
    found = json.loads(kis_token_here(chain.variables, "status", "--callers", "--json").stdout)
    one = json.loads(kis_token_here(chain.variables, "status", "--callers", "--json", "--service", "kis").stdout)
    usual = json.loads(kis_token_here(chain.variables, "status", "--json").stdout)

    assert "WITHOUT EFFECT" in text
    assert "another project's audience" in text
    assert "acme/bot  " in text
    assert network.issuer.keys[0].kid in text
    assert [caller["misfit"] for caller in found["callers"]] == [None, "audience"]
    assert [caller["service"] for caller in one["callers"]] == ["kis"]
    (key,) = found["issuer_keys"]
    assert (key["issuer"], key["kid"], key["bits"]) == (GITHUB, network.issuer.keys[0].kid, 2048)
    assert usual.keys() == found.keys() - {"callers", "issuer_keys"}
    assert json.loads(json.dumps(found)) == found


def test_status_without_callers(chain: Chain) -> None:
    """If the list of callers is empty, the text of ``status --callers`` reports this in one line."""
    text = kis_token_here(chain.variables, "status", "--callers").stdout
    assert "The list of callers without a key is empty.\n\nNo key is stored.\n" in text


def keyless_check(sandbox: Sandbox, network: GitHubNetwork) -> dict[str, dict[str, Any]]:
    """Return the findings of ``kis-token check`` in a keyless job, by checked part."""
    env = {**sandbox.variables, **network.variables, **network.job_variables()}
    ended = kis_token_here({**env, "SUPABASE_SERVICE_ROLE_KEY": sandbox.anon_key}, "check", "--json")
    return {finding["what"]: finding for finding in json.loads(ended.stdout)}


def test_check_of_a_job_without_a_key(sandbox: Sandbox, network: GitHubNetwork) -> None:
    """A keyless job checks its slot and the stored issuer keys by name, and reports a key that the database lacks."""
    issue_token(sandbox)
    with psycopg.connect(sandbox.owner_dsn) as connection:
        store_issuer_keys(connection, network.issuer)
        list_caller(connection, network.issuer, sandbox.supabase.url)

    before = keyless_check(sandbox, network)
    network.issuer.announce(SigningKey.make("next-key"))
    after = keyless_check(sandbox, network)

    assert {finding["state"] for finding in before.values()} <= {"ok", "note"}
    assert before["issuer keys"]["said"] == f"all of {GITHUB} are stored"
    assert (after["issuer keys"]["state"], after["issuer keys"]["code"]) == ("wrong", "id-token-key-unknown")
    assert after["issuer keys"]["said"].endswith("next-key")


@pytest.mark.parametrize(
    "answer",
    [
        [],
        {"server_now": "soon", "callers": [], "keys": []},
        {"server_now": "2026-03-02T00:00:00Z", "callers": {}, "keys": []},
        {"server_now": "2026-03-02T00:00:00Z", "callers": [{}], "keys": []},
        {"server_now": "2026-03-02T00:00:00Z", "callers": [], "keys": [{"kid": "a"}]},
    ],
)
def test_answer_that_is_not_the_database_s(answer: object) -> None:
    """If an answer does not have the form of credential_callers_status, it is an outage and not an empty list."""
    with LoopbackServer(lambda _: Response(200, answer)) as server:
        store = SupabaseStore(server.url, SERVICE_KEY)
        with pytest.raises(StoreOutage, match="Supabase"):
            list_callers(store, server.url)


@pytest.mark.parametrize("answer", [[], {}, {"issuer": 1, "issuer_keys": []}, {"issuer": GITHUB, "issuer_keys": None}])
def test_keyless_answer_that_is_not_the_database_s(answer: object) -> None:
    """If an answer does not have the form of keyless_read, it is an outage and not an empty list."""
    with LoopbackServer(lambda _: Response(200, answer)) as server, GitHubIssuer() as issuer:
        request = IDTokenRequest.find(issuer.variables())
        assert request is not None
        id_tokens = IDTokens(request, server.url, no_deadline, lambda _: None)
        store = KeylessStore(server.url, ANON_KEY, id_tokens, left=no_deadline)
        with pytest.raises(StoreOutage, match="The answer to keyless_read is not Supabase"):
            store.issuer_keys("kis")
