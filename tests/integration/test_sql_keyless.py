"""The keyless functions: how much each access lets a listed job do, and that they answer as the ones with a key do."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import psycopg
import pytest

from kis_token.sandbox.database import apply_migrations, list_caller, migrations_folder, store_issuer_keys
from kis_token.sandbox.github_issuer import GitHubIssuer, SigningKey
from kis_token.store.slot_query import parse_slot
from tests.keyless import PROJECT, Job, refusal, trust
from tests.support import APP_KEY, MINUTE, Caller, Database, call, make_token, utc_now

if TYPE_CHECKING:
    from collections.abc import Iterator

HEXADECIMAL = "0123456789abcdef"


@pytest.fixture(scope="module")
def anon(migrated: Database) -> Iterator[psycopg.Connection[tuple[Any, ...]]]:
    """A connection with the public key's role."""
    with migrated.connect_as("anon") as connection:
        yield connection


@pytest.fixture
def job(database: Database, github: GitHubIssuer, anon: psycopg.Connection[tuple[Any, ...]]) -> Job:
    """A job that is listed with the access issue; the slot has keys."""
    database.put_keys()
    trust(database, github, access="issue")
    return Job(anon, github)


@pytest.mark.parametrize(
    ("access", "types"),
    [
        ("token", {"access_token", "rejected_tokens"}),
        ("keys", {"access_token", "rejected_tokens", "app_key", "app_secret"}),
        ("issue", {"access_token", "rejected_tokens", "app_key", "app_secret"}),
    ],
)
def test_rows_of_each_access(database: Database, job: Job, access: str, types: set[str]) -> None:
    """A read with the access token has the token and the rejected ones, with keys and issue also app key and secret."""
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
    """A row of keyless_read is the JSON that PostgREST makes of the table's row; inactive rows are left out."""
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


def test_read_writes_nothing(database: Database, github: GitHubIssuer, job: Job) -> None:
    """A read works in a read-only transaction, which PostgREST opens for a function that is stable."""
    with database.connect_as("anon") as connection:
        connection.execute("set default_transaction_read_only = on")
        assert Job(connection, github).read()["rows"] == job.read()["rows"]


def test_slot_without_rows(job: Job, database: Database) -> None:
    """A slot that holds no row is an empty list, which is no error."""
    database.owner.execute("delete from public.api_credentials")
    assert job.read()["rows"] == []


@pytest.mark.parametrize("access", ["token", "keys"])
def test_low_access_cannot_issue(database: Database, job: Job, access: str) -> None:
    """A job without the access issue cannot begin, commit or abort; the error has the UPDATE that changes it."""
    database.owner.execute("update public.credential_callers set access = %s", (access,))

    assert [refusal(attempt).code for attempt in (job.begin, job.abort)] == ["KTA05"] * 2
    found = refusal(job.commit, make_token())
    assert found.code == "KTA05"
    database.owner.execute(found.detail.encode())
    assert job.begin()["status"] == "granted"


def test_answers_of_begin_and_commit(database: Database, job: Job) -> None:
    """keyless_begin and keyless_commit answer with the members of begin_issuance and commit_issuance."""
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
    """keyless_abort gives the lease back with its error code, and refuses a credential as abort_issuance does."""
    job.begin()
    assert job.abort(refused_credential_id=APP_KEY.credential_id)["status"] == "aborted"
    assert database.outcomes() == ["granted", "aborted"]
    assert database.lease()["refused_credential_id"] == APP_KEY.credential_id
    assert job.begin()["status"] == "busy"


def test_optional_arguments_arrive(database: Database, job: Job) -> None:
    """rejected_version, rejected_token_id, keys_version and rejected reach the functions behind."""
    token = make_token()
    version = database.put_token(token)
    assert job.begin(keys_version=0)["status"] == "changed"
    assert job.begin()["status"] == "fresh"
    begun = job.begin(rejected_version=version, rejected_token_id=token.token_id)
    assert (begun["status"], begun["rejected_token_ids"]) == ("granted", [token.token_id])
    assert job.commit(token, rejected=True)["status"] == "unchanged"
    assert database.lease()["last_error"] == "token-repeated"


def test_label_is_the_issuer_s_word(database: Database, job: Job) -> None:
    """The log names repository, run and attempt of the claims. A caller cannot send a label."""
    job.begin()
    assert database.lease()["holder_label"] == "acme/bot run 7000000001 attempt 1"
    with pytest.raises(psycopg.errors.UndefinedFunction):
        job.begin(label="somebody else")


def test_wrong_arguments_are_refused_as_with_a_key(job: Job) -> None:
    """Arguments that the functions with a key refuse are refused with the same SQLSTATE, 22023."""
    assert refusal(job.begin, holder=None).code == "22023"
    assert refusal(job.begin, app_key_id="short").code == "22023"
    assert refusal(job.begin, service="no slot").code == "22023"
    assert refusal(job.read, service="no slot").code == "22023"
    job.begin()
    assert refusal(job.abort, cooldown=-MINUTE).code == "22023"


def test_begin_can_be_repeated(database: Database, job: Job) -> None:
    """After a lost answer the same token, or a newer one of the same run, begins with the same holder again."""
    token = job.token()
    fences = {job.begin(token)["fence"], job.begin(token)["fence"], job.begin()["fence"]}

    assert len(fences) == 1
    assert database.outcomes() == ["granted"]


def test_holder_of_the_service_key_is_not_taken_over(database: Database, job: Job) -> None:
    """A job that has the holder id of a caller with the service key cannot take over its lease."""
    owner = Caller(database)
    owner.begin()
    job.holder, job.fence = owner.holder, owner.fence

    assert [refusal(attempt).code for attempt in (job.begin, job.abort)] == ["KTA06", "KTA06"]
    assert refusal(job.commit, make_token()).code == "KTA06"
    assert owner.commit(make_token())["status"] == "committed"


def test_tokens_that_have_begun_are_forgotten_when_they_have_expired(database: Database, job: Job) -> None:
    """A begin deletes the notes of tokens that have expired, and keeps the others: the table does not grow."""
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


def test_insert_that_the_error_prints(database: Database, job: Job) -> None:
    """The INSERT of caller-not-listed lists the job when it is pasted, with the access that the call needed."""
    database.owner.execute("delete from public.credential_callers")
    for ref, event, runner in (
        ("refs/heads/main", "push", "github-hosted"),
        ("refs/heads/it's", "release", "self-hosted"),
        ("refs/tags/자동매매", "repository_dispatch", "github-hosted"),
    ):
        claims = {"ref": ref, "event_name": event, "runner_environment": runner}
        token = job.token(**claims)
        found = refusal(job.read, token)
        assert (found.code, "SQL editor" in found.hint) == ("KTA04", True)
        database.owner.execute(found.detail.encode())
        assert job.read(token)["access"] == "token"
        assert refusal(job.begin, job.token(**claims)).code == "KTA05"
    database.owner.execute("delete from public.credential_callers")
    database.owner.execute(refusal(job.begin).detail.encode())
    assert job.begin()["status"] == "granted"


def test_insert_of_hostile_claims(database: Database, job: Job) -> None:
    """A branch with SQL in its name stays a name. Claims that cannot be a row's are not printed at all."""
    hostile = "refs/heads/x');drop/table/public.api_credentials;--"
    found = refusal(job.read, job.token(ref=hostile, repository="a'b/c\\d", repository_id="99"))
    database.owner.execute(found.detail.encode())
    assert database.owner.execute(
        "select ref, note from public.credential_callers where repository_id = '99'"
    ).fetchall() == [{"ref": hostile, "note": None}]

    for change in (
        {"ref": "refs/heads/a\nb"},
        {"ref": "refs/heads/a\\'b"},
        {"ref": "refs/heads/a\u202eb"},
        {"ref": "refs/heads/" + "x" * 245},
        {"ref": "refs/pull/7/merge"},
        {"repository_id": "74; drop"},
        {"event_name": "pull_request"},
        {"runner_environment": "'"},
    ):
        found = refusal(job.read, job.token(**{"repository_owner_id": "1"} | change))
        assert (found.code, found.detail) == ("KTA04", ""), change
        assert "x" * 30 not in found.message + found.hint


def test_error_names_the_columns_that_differ(job: Job) -> None:
    """A job of a listed repository learns which columns of its row differ; a job of another one learns nothing."""
    found = refusal(job.read, job.token(ref="refs/heads/next", event_name="pull_request"))
    assert "differs in: ref, events" in found.message
    assert "differs" not in refusal(job.read, job.token(repository_id="75")).message


def test_highest_access_of_the_rows_that_fit(database: Database, github: GitHubIssuer, job: Job) -> None:
    """Of several rows that fit, the one with the highest access counts; a row that differs adds nothing."""
    database.owner.execute("update public.credential_callers set access = 'token'")
    list_caller(database.owner, github, PROJECT, access="issue", environment="production")

    assert job.read()["access"] == "token"
    assert job.read(job.token(environment="production"))["access"] == "issue"


def test_one_row_for_a_slot_a_repository_and_a_ref(database: Database, github: GitHubIssuer, job: Job) -> None:  # noqa: ARG001 - its row
    """The same job cannot be listed twice for a slot: lowering one row's access would leave the other's."""
    for change in ({"access": "token"}, {"events": ["push"]}, {"note": "again"}):
        assert refusal(list_caller, database.owner, github, PROJECT, **change).code == "23505"
    list_caller(database.owner, github, PROJECT, service_name="kis-second")


@pytest.mark.parametrize(
    "change",
    [
        {"access": "admin"},
        {"access": "Issue"},
        {"audience": "https://github.com/acme"},
        {"audience": "https://github.com"},
        {"audience": "https://ghes.example.com/acme"},
        {"audience": "https://*.supabase.co"},
        {"audience": f"{PROJECT}/"},
        {"audience": "http://abcdefghijklmnopqrst.supabase.co"},
        {"audience": ""},
        {"repository_id": "*"},
        {"repository_id": ""},
        {"repository_id": "acme/bot"},
        {"repository_owner_id": "%"},
        {"ref": "main"},
        {"ref": "*"},
        {"ref": "refs/heads/*"},
        {"ref": "refs/heads/release/?"},
        {"ref": "refs/heads/[a-z]"},
        {"ref": "refs/heads/"},
        {"ref": "refs/heads/a b"},
        {"ref": "refs/heads/a\u200bb"},
        {"ref": "refs/pull/7/merge"},
        {"ref": "refs/heads/dependabot/pip/requests-3"},
        {"events": []},
        {"events": ["*"]},
        {"events": ["push", None]},
        {"events": ["push", "pull_request"]},
        {"events": ["pull_request_target"]},
        {"events": ["pull_request_review"]},
        {"events": ["workflow_run"]},
        {"events": ["issue_comment"]},
        {"events": ["issues"]},
        {"runner_environment": "*"},
        {"environment": ""},
        {"environment": "prod*"},
        {"workflow": "trade"},
        {"workflow": ".github/workflows/*.yml"},
        {"job_workflow_ref": "acme/*/.github/workflows/a.yml@refs/heads/main"},
        {"job_workflow_ref": "acme/bot/.github/workflows/a.yml@*"},
        {"issuer": "https://evil.example"},
        {"issuer": "https://token.actions.githubusercontent.com/*"},
        {"service_name": "*"},
    ],
    ids=str,
)
def test_rows_that_cannot_be_stored(database: Database, github: GitHubIssuer, change: dict[str, Any]) -> None:
    """A wildcard, GitHub's default audience, and events that people without write access cause cannot be listed."""
    assert refusal(list_caller, database.owner, github, PROJECT, **change).code == "23514"


def test_rows_that_can_be_stored(database: Database, github: GitHubIssuer) -> None:
    """Branches in any script, tags, each kind of issuer, and a project on this machine can be listed."""
    changes: list[dict[str, object]] = [
        {"ref": "refs/heads/자동매매/v1.2+rc@3"},
        {"ref": "refs/tags/v1"},
        {"ref": "refs/heads/" + "x" * 244},
        {"events": ["release", "repository_dispatch"]},
        {"environment": "운영 1"},
        {"workflow": ".github/workflows/trade.yaml"},
        {"job_workflow_ref": "acme/shared/.github/workflows/a.yml@refs/tags/v1"},
        {"issuer": "https://token.actions.githubusercontent.com/acme-corp"},
        {"issuer": "https://token.actions.acme.ghe.com"},
        {"issuer": "https://github.acme.example/_services/token"},
        {"issuer": "http://127.0.0.1:8080"},
    ]
    for change in changes:
        list_caller(database.owner, github, PROJECT, **change)
    for audience in ("http://127.0.0.1:54321", "http://[::1]:8000", "https://supabase.acme.example:8443"):
        list_caller(database.owner, github, audience)

    rows = database.owner.execute("select from public.credential_callers").fetchall()
    assert len(rows) == len(changes) + 3


def test_workflow_and_reusable_workflow(database: Database, job: Job) -> None:
    """A row can be narrowed to a workflow's file and to a reusable workflow: each is compared as a whole."""
    database.owner.execute(
        "update public.credential_callers set workflow = '.github/workflows/trade.yml',"
        " job_workflow_ref = 'acme/shared/.github/workflows/run.yml@refs/tags/v1'"
    )
    assert refusal(job.read).code == "KTA04"
    assert (
        job.read(job.token(job_workflow_ref="acme/shared/.github/workflows/run.yml@refs/tags/v1"))["access"] == "issue"
    )


def test_issuer_of_an_enterprise(database: Database, anon: psycopg.Connection[tuple[Any, ...]]) -> None:
    """Issuers are apart: a token of GitHub Enterprise Server is good for the rows with its issuer alone."""
    server = GitHubIssuer(issuer="https://github.acme.example/_services/token")
    server.publish(SigningKey.make("shared-kid"))
    trust(database, server)

    assert Job(anon, server).read()["access"] == "token"
    stranger = GitHubIssuer()
    stranger.publish(server.keys[-1])
    assert refusal(Job(anon, stranger).read).code == "KTA01"
    store_issuer_keys(database.owner, stranger)
    assert refusal(Job(anon, stranger).read).code == "KTA04"


def test_rows_end_by_their_date(database: Database, job: Job) -> None:
    """A row counts until valid_until."""
    database.owner.execute("update public.credential_callers set valid_until = now() + interval '1 minute'")
    assert job.read()["access"] == "issue"
    database.owner.execute("update public.credential_callers set valid_until = now()")
    found = refusal(job.read)
    assert (found.code, "valid_until" in found.message) == ("KTA04", True)


def test_job_that_is_taken_off_the_list(database: Database, job: Job) -> None:
    """Deleting a row ends the job's access at once, also for an attempt that has begun."""
    job.begin()
    database.owner.execute("delete from public.credential_callers")
    assert [refusal(attempt).code for attempt in (job.read, job.begin, job.abort)] == ["KTA04"] * 3
    assert refusal(job.commit, make_token()).code == "KTA04"


def test_callers_status(database: Database, github: GitHubIssuer, job: Job) -> None:  # noqa: ARG001 - its row
    """The service key can see all rows of the list and the issuers' keys, without the moduli."""
    list_caller(database.owner, github, PROJECT, service_name="kis-second", note="acme/bot")

    status = database.call("credential_callers_status")

    assert [(row["service_name"], row["access"], row["note"]) for row in status["callers"]] == [
        ("kis", "issue", None),
        ("kis-second", "token", "acme/bot"),
    ]
    (key,) = status["keys"]
    assert (key["issuer"], key["kid"], key["bits"]) == (github.issuer, github.keys[-1].kid, 2048)
    assert set(key) == {"issuer", "kid", "bits", "modulus_sha256", "added_at"}
    one = database.call("credential_callers_status", service="kis-second")
    assert [row["service_name"] for row in one["callers"]] == ["kis-second"]


def test_callers_status_is_closed_to_the_public_key(anon: psycopg.Connection[tuple[Any, ...]]) -> None:
    """The public key cannot list callers and keys."""
    assert refusal(call, anon, "credential_callers_status").code == "42501"


def test_files_can_be_run_again(database: Database, job: Job) -> None:
    """Running the files again keeps keys and callers, and check_setup() finds nothing."""
    apply_migrations(database.project.owner, migrations_folder())
    assert job.read()["access"] == "issue"
    assert database.call("check_setup") == []
