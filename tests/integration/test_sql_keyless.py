"""The keyless functions: the calls that each access permits, and answers equal to those of the functions for a key."""

from __future__ import annotations

import json

import psycopg
import pytest

from kis_token.sandbox.database import apply_migrations, list_caller, migrations_folder, store_issuer_keys
from kis_token.sandbox.github_issuer import GitHubIssuer, SigningKey
from kis_token.store.slot_query import parse_slot
from tests.keyless import PROJECT, Job, refusal
from tests.support import APP_KEY, MINUTE, Caller, Database, make_token, utc_now

HEXADECIMAL = "0123456789abcdef"


@pytest.mark.parametrize(
    ("access", "types"),
    [
        ("token", {"access_token", "rejected_tokens"}),
        ("keys", {"access_token", "rejected_tokens", "app_key", "app_secret"}),
        ("issue", {"access_token", "rejected_tokens", "app_key", "app_secret"}),
    ],
)
def test_rows_of_each_access(database: Database, job: Job, access: str, types: set[str]) -> None:
    """With the access ``token``, a read has the token and the rejected tokens.

    With the access ``keys`` or ``issue``, a read also has the app key and the app secret.
    """
    token = make_token()
    database.put_token(token)
    database.put("rejected_tokens", json.dumps({HEXADECIMAL: "2099-01-01T00:00:00+00:00"}))
    database.put("refresh_token", "of another program")
    database.put("app_key", "of another slot", service="kis-second")
    database.owner.execute("update public.credential_callers set access = %s", (access,))

    answer = job.read()

    assert {row["credential_type"] for row in answer["rows"]} == types
    assert (answer["access"], answer["schema_version"]) == (access, 2)
    slot = parse_slot(answer["rows"], None)
    assert slot.rows["access_token"].version == database.row()["version"]
    assert slot.rejected == {HEXADECIMAL}


def test_read_has_the_rows_as_the_table_has_them(database: Database, job: Job) -> None:
    """A row of keyless_read is the same JSON as PostgREST's for the table's row. Inactive rows are left out."""
    database.put_token(make_token())
    database.put("app_secret", "inactive", active=False)
    rows = database.owner.execute(
        "select to_json(r) as row from (select credential_type, credential_value, expires_at, version"
        " from public.api_credentials where is_active order by credential_type) r"
    ).fetchall()

    answer = job.read()

    assert answer["rows"] == [row["row"] for row in rows]
    assert {row["credential_type"] for row in answer["rows"]} == {"access_token", "app_key"}
    assert answer["server_now"]


def test_read_names_the_issuer_s_stored_keys(database: Database, github: GitHubIssuer, job: Job) -> None:
    """A read has the names of the stored keys of the job's own issuer, and of no other issuer."""
    other = GitHubIssuer(issuer="https://token.actions.octo.ghe.com")
    store_issuer_keys(database.owner, other)
    own = sorted(key.kid for key in github.keys)
    before = job.read()
    database.owner.execute(
        "insert into public.credential_issuer_keys (issuer, kid, modulus) values (%s, 'a-next-key', %s)",
        (github.issuer, SigningKey.make().modulus),
    )

    assert (before["issuer"], before["issuer_keys"]) == (github.issuer, own)
    assert set(job.read()["issuer_keys"]) == {*own, "a-next-key"}


def test_read_writes_nothing(database: Database, github: GitHubIssuer, job: Job) -> None:
    """keyless_read works in a read-only transaction, which PostgREST opens for every stable function."""
    with database.connect_as("anon") as connection:
        connection.execute("set default_transaction_read_only = on")
        assert Job(connection, github).read()["rows"] == job.read()["rows"]


def test_slot_without_rows(job: Job, database: Database) -> None:
    """If a slot has no rows, keyless_read returns an empty list and raises no error."""
    database.owner.execute("delete from public.api_credentials")
    assert job.read()["rows"] == []


@pytest.mark.parametrize("access", ["token", "keys"])
def test_low_access_cannot_issue(database: Database, job: Job, access: str) -> None:
    """A job without the access ``issue`` cannot begin, commit or abort. The error has an UPDATE that grants it."""
    database.owner.execute("update public.credential_callers set access = %s", (access,))

    assert [refusal(attempt).code for attempt in (job.begin, job.abort)] == ["KTA05"] * 2
    found = refusal(job.commit, make_token())
    assert found.code == "KTA05"
    database.owner.execute(found.detail.encode())
    assert job.begin()["status"] == "granted"


def test_answers_of_begin_and_commit(database: Database, job: Job) -> None:
    """keyless_begin and keyless_commit return the same members as begin_issuance and commit_issuance."""
    with_key = Caller(database, service="kis-second")
    with_key_begun = with_key.begin()
    with_key_done = with_key.commit(make_token("PSsecond"))
    database.owner.execute("delete from public.credential_leases where service_name = 'kis-second'")

    begun = job.begin()
    token = make_token()
    done = job.commit(token)

    assert (begun["status"], done["status"]) == ("granted", "committed")
    assert (begun.keys(), done.keys()) == (with_key_begun.keys(), with_key_done.keys())
    assert database.stored_id() == token.token_id
    assert job.commit(token)["status"] == "committed"
    assert job.begin()["status"] == "fresh"
    assert database.outcomes() == ["granted", "committed"]


def test_abort(database: Database, job: Job) -> None:
    """keyless_abort ends the lease with an error code, and marks a credential as refused, like abort_issuance."""
    job.begin()
    assert job.abort(refused_credential_id=APP_KEY.credential_id)["status"] == "aborted"
    assert database.outcomes() == ["granted", "aborted"]
    assert database.lease()["refused_credential_id"] == APP_KEY.credential_id
    assert job.begin()["status"] == "busy"


def test_optional_arguments_arrive(database: Database, job: Job) -> None:
    """rejected_version, rejected_token_id, keys_version and rejected work as in the functions for a key."""
    token = make_token()
    version = database.put_token(token)
    assert job.begin(keys_version=0)["status"] == "changed"
    assert job.begin()["status"] == "fresh"
    begun = job.begin(rejected_version=version, rejected_token_id=token.token_id)
    assert (begun["status"], begun["rejected_token_ids"]) == ("granted", [token.token_id])
    assert job.commit(token, rejected=True)["status"] == "unchanged"
    assert database.lease()["last_error"] == "token-repeated"


def test_label_is_the_issuer_s_word(database: Database, job: Job) -> None:
    """The label in the log has the claims' repository, run and attempt. A keyless job cannot send a label."""
    job.begin()
    assert database.lease()["holder_label"] == "acme/bot run 7000000001 attempt 1"
    with pytest.raises(psycopg.errors.UndefinedFunction):
        job.begin(label="somebody else")


def test_wrong_arguments_are_refused_as_with_a_key(job: Job) -> None:
    """An argument that raises 22023 in the functions for a key raises 22023 in the keyless functions."""
    assert refusal(job.begin, holder=None).code == "22023"
    assert refusal(job.begin, app_key_id="short").code == "22023"
    assert refusal(job.begin, service="no slot").code == "22023"
    assert refusal(job.read, service="no slot").code == "22023"
    job.begin()
    assert refusal(job.abort, cooldown=-MINUTE).code == "22023"


def test_begin_can_be_repeated(database: Database, job: Job) -> None:
    """After a lost answer, a job can begin again as the same holder, with the same or a newer ID token of its run."""
    token = job.token()
    fences = {job.begin(token)["fence"], job.begin(token)["fence"], job.begin()["fence"]}

    assert len(fences) == 1
    assert database.outcomes() == ["granted"]


def test_holder_of_the_service_key_is_not_taken_over(database: Database, job: Job) -> None:
    """If a job knows the holder id of a caller with the service key, the job cannot take over the caller's lease."""
    owner = Caller(database)
    owner.begin()
    job.holder, job.fence = owner.holder, owner.fence

    assert [refusal(attempt).code for attempt in (job.begin, job.abort)] == ["KTA06", "KTA06"]
    assert refusal(job.commit, make_token()).code == "KTA06"
    assert owner.commit(make_token())["status"] == "committed"


def test_tokens_that_have_begun_are_forgotten_when_they_have_expired(database: Database, job: Job) -> None:
    """A begin deletes the records of expired ID tokens and keeps the other records, so the table does not grow."""
    job.begin()
    (kept,) = database.owner.execute("select expires_at from public.credential_attempts").fetchall()
    assert kept["expires_at"] > utc_now() + 60 * MINUTE
    database.owner.execute(
        "insert into public.credential_attempts select issuer, 'old ' || i, gen_random_uuid(), service_name,"
        " repository_id, run_id, run_attempt, now() - interval '1 second' from public.credential_attempts,"
        " generate_series(1, 120) i"
    )

    for _ in range(2):
        job.begin()

    rows = database.owner.execute("select jti from public.credential_attempts where jti like 'old %'").fetchall()
    assert rows == []
    assert len(database.owner.execute("select from public.credential_attempts").fetchall()) == 3


def test_files_can_be_run_again(database: Database, job: Job) -> None:
    """If the files of sql/ run again, keys and callers stay, and check_setup() finds no difference."""
    apply_migrations(database.project.owner, migrations_folder())
    assert job.read()["access"] == "issue"
    assert database.call("check_setup") == []


@pytest.mark.parametrize("listed", [None, "token", "keys", "issue"])
def test_app_key_of_another_slot(database: Database, github: GitHubIssuer, job: Job, listed: str | None) -> None:
    """If another slot has issued with the app key, begin raises KTA05 unless the job may issue for both slots."""
    if listed is not None:
        list_caller(database.owner, github, PROJECT, service_name="kis-second", access=listed)
    caller = Caller(database, service="kis-second")
    assert caller.begin()["status"] == "granted"
    assert caller.commit(make_token())["status"] == "committed"

    if listed == "issue":
        assert job.begin()["status"] == "conflict"
        return
    refused = refusal(job.begin)

    assert refused.code == "KTA05"
    assert "kis-second" not in f"{refused}", "the other slot's name is shown"
    assert database.outcomes() == []
    assert caller.begin()["status"] == "fresh"
