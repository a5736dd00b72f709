"""``kis-token status``: the data on slots and issues, and the output."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg
import pytest

from kis_token.admin.status import Event, SlotStatus, Status, collect
from kis_token.admin.status_report import as_json, as_text
from kis_token.core.app_key_expiry import RENEWAL
from kis_token.errors import StoreMisconfigured, StoreOutage
from kis_token.sandbox.database import apply_migrations, migrations_folder, prepare_database
from kis_token.sandbox.loopback import Fault, Response
from kis_token.sandbox.postgrest import PostgRESTStandIn
from kis_token.store.sealing import SealingVault, make_vault
from kis_token.store.supabase import SupabaseStore
from kis_token.token import KST
from tests.command import kis_token, kis_token_here
from tests.resolver_harness import ENCRYPTION_KEY, OTHER, expired_token, put_key_end, stale_token
from tests.support import ANON_KEY, HOUR, SERVICE_KEY, Caller, issue_by_functions, make_token, utc_now

if TYPE_CHECKING:
    from kis_token.sandbox.postgres import EmbeddedPostgres
    from tests.resolver_harness import Chain

OLD_FILES = Path(__file__).parents[1] / "integration" / "sql_of_1_0_0.sql"


def status_of(chain: Chain, *, only: str | None = None, key: str = SERVICE_KEY, **inputs: str) -> Status:
    """Return the status that ``kis-token status`` collects."""
    settings = chain.settings(**inputs)
    store = SupabaseStore(chain.supabase.url, key)
    chain.stores.append(store)
    return collect(settings, store, make_vault(settings.encryption_keys), only=only)


def slot_of(chain: Chain, **inputs: str) -> SlotStatus:
    """The only slot."""
    (slot,) = status_of(chain, **inputs).slots
    return slot


def test_a_token_that_was_issued_with_a_lease(chain: Chain) -> None:
    """A slot's status has the times of its token, the lease holder as issuer, and the time of the next rotation."""
    token = make_token()
    issue_by_functions(chain.database, token)
    status = status_of(chain)

    (slot,) = status.slots
    assert (slot.service, slot.token, slot.issued_by) == ("kis", "fresh", "acme/bot run 7 trade")
    assert (slot.issued_at, slot.expires_at) == (token.issued_at, token.expires_at)
    assert slot.rotation_due_at is not None
    assert token.issued_at < slot.rotation_due_at <= token.issued_at + 23 * HOUR
    assert (slot.issuing, slot.last_error) == (None, None)
    assert [(event.outcome, event.by) for event in status.events] == [("committed", "acme/bot run 7 trade")]


def test_a_token_that_another_client_stored(chain: Chain) -> None:
    """If a token was stored without a lease, its status has no issuer."""
    issue_by_functions(chain.database, make_token())
    token = stale_token()
    chain.database.put_token(token)

    slot = slot_of(chain)
    assert (slot.token, slot.issued_by, slot.expires_at) == ("stale", None, token.expires_at)


@pytest.mark.parametrize("way", ["expired", "inactive", "unreadable", "sealed", "endless"])
def test_a_token_that_cannot_be_used(chain: Chain, way: str) -> None:
    """A token that cannot be used is shown with its state and raises no error, because status is for diagnosis."""
    token = make_token()
    if way == "expired":
        chain.database.put_token(expired_token())
    elif way == "inactive":
        chain.database.put_token(token, active=False)
    elif way == "unreadable":
        chain.database.put("access_token", "{", token.expires_at)
    elif way == "endless":
        chain.database.put("access_token", "{", "infinity")
    else:
        vault = make_vault(chain.settings(encryption_key=ENCRYPTION_KEY).encryption_keys)
        assert isinstance(vault, SealingVault)
        chain.database.put("access_token", vault.seal(token.to_json(), "kis", "access_token"), token.expires_at)

    slot = slot_of(chain)
    assert slot.token == {"expired": "expired", "inactive": "inactive"}.get(way, "unreadable")
    if way == "sealed":
        assert slot_of(chain, encryption_key=ENCRYPTION_KEY).token == "fresh"


def test_a_stored_token_that_is_rejected(chain: Chain) -> None:
    """A token that the slot remembers as rejected is not fresh, and the status has no next rotation."""
    token = make_token()
    issue_by_functions(chain.database, token)
    chain.database.call("revoke_token", service="kis", version=0, token_id=token.token_id, label="an owner")

    assert (slot_of(chain).token, slot_of(chain).rotation_due_at) == ("rejected", None)


def test_earliest_end_counts_for_the_own_slot(chain: Chain) -> None:
    """If the column expires_at is nine hours late, as some clients store it, the end in the token's value counts."""
    token = make_token(left=HOUR)
    chain.database.put("access_token", token.to_json(), token.expires_at + 9 * HOUR)

    assert slot_of(chain).expires_at == token.expires_at


def test_all_slots_or_one(chain: Chain) -> None:
    """Slots with keys, tokens or a lease are listed by name. A requested slot is listed even if it is empty."""
    chain.database.put_keys(service="a-empty")
    token = make_token(OTHER.key)
    issue_by_functions(chain.database, token, service="kis-second", app_key=OTHER)
    Caller(chain.database).begin()

    everything = status_of(chain)
    assert [(slot.service, slot.token) for slot in everything.slots] == [
        ("a-empty", "none"),
        ("kis", "none"),
        ("kis-second", "fresh"),
    ]
    assert everything.slots[2].issued_by == "acme/bot run 7 trade"
    assert everything.slots[2].issued_at == token.issued_at
    second = status_of(chain, only="kis-second")
    assert [slot.service for slot in second.slots] == [event.service for event in second.events] == ["kis-second"]
    assert [slot.token for slot in status_of(chain, only="kis-third").slots] == ["none"]


def test_holder_and_last_error(chain: Chain) -> None:
    """Status shows the holder of a running lease, and the error code of an aborted lease."""
    first = Caller(chain.database, label="night job")
    first.begin()
    first.abort("EGW00133")
    chain.database.age(100)
    Caller(chain.database, label="morning job").begin()
    status = status_of(chain)

    (slot,) = status.slots
    assert (slot.issuing, slot.last_error) == ("morning job", "EGW00133")
    assert [(event.outcome, event.by, event.error_code) for event in status.events] == [
        ("granted", "morning job", None),
        ("aborted", "night job", "EGW00133"),
    ]


def test_foreign_text_cannot_control_a_terminal(chain: Chain) -> None:
    """Line breaks and escape sequences are removed from labels and slot names of other machines."""
    issue_by_functions_as(chain, "evil\x1b[2J\r\nsecond line\x07")
    assert slot_of(chain).issued_by == "evil[2J second line"
    chain.database.put_token(make_token(), service="bad\x1b[2Jname")

    assert [slot.service for slot in status_of(chain).slots] == ["bad[2Jname", "kis"]


def test_a_slot_that_there_is_not(chain: Chain) -> None:
    """A warning reports that no slot has the name ``--service``. A slot that has only keys is shown."""
    missing = kis_token_here(chain.variables, "status", "--service", "kis-typo")
    chain.database.put_keys()
    found = kis_token_here(chain.variables, "status", "--service", "kis")

    assert (missing.returncode, missing.stderr) == (0, "warning: there is no slot kis-typo yet\n")
    assert (found.returncode, found.stderr, "kis   production   none" in found.stdout) == (0, "", True)


def issue_by_functions_as(chain: Chain, label: str) -> None:
    """Begin and commit a lease with the given label."""
    caller = Caller(chain.database, label=label)
    caller.begin()
    caller.commit(make_token())


def test_times_are_in_both_zones(chain: Chain) -> None:
    """The text shows each time in Korea time and in UTC. The JSON has two members for each time."""
    token = make_token()
    issue_by_functions(chain.database, token)
    status = status_of(chain)

    text = "\n".join(as_text(status))
    (event,) = status.events
    for moment in (token.expires_at, event.happened_at):
        assert f"{moment.astimezone(KST):%m-%d %H:%M}  {moment.astimezone(timezone.utc):%m-%d %H:%M}" in text
    members = as_json(status)
    for name in ("expires_at", "issued_at", "rotation_due_at"):
        utc, kst = (datetime.fromisoformat(members["slots"][0][each]) for each in (name, f"{name}_kst"))
        assert utc == kst
        assert (utc.utcoffset(), kst.utcoffset()) == (timedelta(), 9 * HOUR)
    assert set(members) == {"now", "now_kst", "slots", "events"}


def test_the_tables() -> None:
    """Slots and events are tables. An unknown value is shown as a dash. A column without values is left out."""
    now = datetime(2026, 3, 2, 12, 0, tzinfo=timezone.utc)
    valid = SlotStatus(
        "kis",
        "production",
        "fresh",
        issued_at=now - 9 * HOUR - timedelta(minutes=57),
        expires_at=now + 14 * HOUR + timedelta(minutes=3),
        rotation_due_at=now - timedelta(seconds=30),
        last_error="EGW00133",
    )
    expired = SlotStatus("kis-paper", "paper", "expired", expires_at=now - HOUR)
    event = Event(now, "kis", "aborted", "acme/bot", "EGW00133")
    assert as_text(Status(now, (valid, expired), (event,))) == [
        (
            "SLOT       ENVIRONMENT  TOKEN    LEFT        AGE         ENDS (KST)   ENDS (UTC)   ROTATION DUE (KST)  "
            "ROTATION DUE (UTC)  LAST ERROR"
        ),
        (
            "kis        production   fresh    14 h 3 min  9 h 57 min  03-03 11:03  03-03 02:03  03-02 20:59         "
            "03-02 11:59         EGW00133"
        ),
        (
            "kis-paper  paper        expired  0 h 0 min   -           03-02 20:00  03-02 11:00  -                   "
            "-                   -"
        ),
        "",
        "WHEN (KST)   WHEN (UTC)   SLOT  OUTCOME              BY",
        "03-02 21:00  03-02 12:00  kis   no token (EGW00133)  acme/bot",
    ]


@pytest.mark.parametrize("width", [80, 60])
def test_a_narrow_terminal_gets_a_list(width: int) -> None:
    """If a table is wider than the terminal, each slot and each event is shown as a list.

    The lines of the list fit the terminal, and the list has each time in both zones.
    """
    now = datetime(2026, 3, 2, 12, 0, tzinfo=timezone.utc)
    long = SlotStatus("kis", "production", "fresh", expires_at=now + 14 * HOUR, issued_by="word " * 16)
    unbroken = SlotStatus("k" * 63, issuing="x" * 80)
    event = Event(now, "kis", "unchanged", "acme/bot-of-a-long-name run 4711 trade-in-the-morning", "EGW00133")

    lines = as_text(Status(now, (long, unbroken), (event,)), width)

    assert max(map(len, lines)) <= width
    assert lines[:5] == [
        "kis",
        "  environment   production",
        "  token         fresh",
        "  left          14 h 0 min",
        "  ends          03-03 11:00 KST, 03-03 02:00 UTC",
    ]
    assert sum(line.count("x") for line in lines if "xxx" in line) == 80
    at = lines.index("03-02 21:00 KST, 03-02 12:00 UTC")
    said = "kis, KIS gave the same token again (EGW00133), acme/bot-of-a-long-name run 4711 trade-in-the-morning"
    assert " ".join(" ".join(lines[at + 1 :]).split()) == said


def test_a_table_that_fits_stays_one() -> None:
    """A short table stays a table on a narrow terminal."""
    now = datetime(2026, 3, 2, 12, 0, tzinfo=timezone.utc)
    status = Status(now, (SlotStatus("kis", "production"),), ())
    table = ["SLOT  ENVIRONMENT  TOKEN", "kis   production   none", "", "There is no event yet."]
    assert as_text(status, 60) == as_text(status) == table


def test_app_key_that_ends_soon(chain: Chain) -> None:
    """The JSON has the app key's end. From 30 days before the end, status prints a warning for the slot."""
    for service, days in (("kis", 29), ("kis-second", 31)):
        chain.database.put_keys(service=service)
        put_key_end(chain, utc_now() + timedelta(days=days), service)
    ended = kis_token_here(chain.variables, "status")
    status = status_of(chain)

    end = status.slots[0].app_key_expires_at
    assert end is not None
    assert as_json(status)["slots"][0]["app_key_expires_at_kst"] == end.astimezone(KST).isoformat(timespec="seconds")
    (warning,) = ended.stderr.splitlines()
    assert warning.startswith(f"warning: The app key of kis ends on {end.astimezone(KST):%Y-%m-%d} in Korea")
    assert warning.endswith(RENEWAL)


def test_nothing_yet() -> None:
    """If a project has no slot and no event, status prints two lines that say so."""
    now = datetime(2026, 3, 2, 12, 0, tzinfo=timezone.utc)
    assert as_text(Status(now, (), ())) == ["There is no slot yet.", "", "There is no event yet."]


def test_the_command(chain: Chain) -> None:
    """``status`` prints text, or one JSON object with ``--json``, but no token. ``status`` issues no token."""
    issue_by_functions(chain.database, make_token())
    text = kis_token(chain.variables, "status")
    members = json.loads(kis_token_here(chain.variables, "status", "--json").stdout)

    assert (text.returncode, text.stderr) == (0, "")
    assert re.search(r"^SLOT .*\nkis   production   fresh ", text.stdout)
    assert "issued a token" in text.stdout
    assert members["slots"][0]["issued_by"] == members["events"][0]["by"] == "acme/bot run 7 trade"
    assert chain.issue_calls == 0


@pytest.mark.parametrize("options", [(), ("--service", "kis"), ("--service", "kis-typo"), ("--json",)], ids=" ".join)
def test_the_command_makes_one_request(chain: Chain, options: tuple[str, ...]) -> None:
    """``kis-token status`` reads slots, tokens and events by one request to Supabase, and never calls KIS."""
    chain.database.put_keys()
    issue_by_functions(chain.database, make_token())
    chain.supabase.server.forget()

    ended = kis_token_here(chain.variables, "status", *options)

    assert (ended.returncode, chain.kis.requests) == (0, ())
    assert [(seen.method, seen.path) for seen in chain.supabase.server.seen] == [
        ("POST", "/rest/v1/rpc/issuance_status")
    ]


def test_an_older_database_is_a_configuration_error(chain: Chain, postgres: EmbeddedPostgres) -> None:
    """With the functions of version 1.0.0, status fails and names the files to run. After these files, status works."""
    project = prepare_database(postgres.create_database())
    with psycopg.connect(project.owner, autocommit=True) as connection:
        connection.execute(OLD_FILES.read_bytes())
    with PostgRESTStandIn(project.api, service_key=SERVICE_KEY, anon_key=ANON_KEY) as supabase:
        old = replace(chain, supabase=supabase)
        for only in (None, "kis"):
            with pytest.raises(StoreMisconfigured, match=r"run 001_api_credentials\.sql, 002_issuance\.sql") as caught:
                status_of(old, only=only)
            assert caught.value.code == "store-schema-outdated"
        apply_migrations(project.owner, migrations_folder())
        assert status_of(old).slots == ()


def test_a_missing_function_is_a_configuration_error(chain: Chain) -> None:
    """If Supabase has no function issuance_status, the error reports the missing function."""
    missing = {"code": "PGRST202", "message": "x", "details": None, "hint": None}
    fault = Fault("answer", "/rest/v1/rpc/issuance_status", 2, Response(404, missing))
    chain.supabase.server.add_fault(fault)
    with pytest.raises(StoreMisconfigured) as caught:
        status_of(chain)
    assert caught.value.code == "store-function-missing"


def test_a_read_only_key_may_not_read_the_log(chain: Chain) -> None:
    """A read-only key cannot read the log. The error names the kinds of keys that can read the log."""
    chain.supabase.server.forget()
    env = chain.variables | {
        "SUPABASE_SERVICE_ROLE_KEY": f"{ANON_KEY}\neyJhIjoxfQ.eyJyb2xlIjoia2lzX3Rva2VuX3JlYWRlciJ9.eA"
    }
    ended = kis_token_here(env, "status")
    assert (ended.returncode, "[store-permission-denied]" in ended.stderr) == (1, True)
    assert chain.supabase.server.seen == ()


def test_a_store_that_fails(chain: Chain) -> None:
    """A key that Supabase refuses is a configuration error. A malformed answer, or no answer, is an outage."""
    with pytest.raises(StoreMisconfigured):
        status_of(chain, key="sb_secret_of_another_project")
    answers: list[object] = [[], {}, {"server_now": "x", "leases": [], "issuances": []}]
    sound = {"server_now": "2026-03-02T00:00:00+00:00", "leases": [], "issuances": [], "schema_version": 2}
    answers += [sound, sound | {"leases": [1]}, sound | {"rows": [1], "token_rows": []}]
    answers += [sound | {"rows": [], "token_rows": [{}]}, sound | {"rows": [{}], "token_rows": []}]
    for answer in (*answers, {"server_now": "2026-03-02T00:00:00+00:00", "leases": [1], "issuances": []}):
        chain.supabase.server.add_fault(Fault("answer", "/rest/v1/rpc/issuance_status", response=Response(200, answer)))
        with pytest.raises(StoreOutage):
            status_of(chain)
