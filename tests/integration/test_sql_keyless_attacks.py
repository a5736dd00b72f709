"""The attacks on keyless callers, each with the SQLSTATE that ends the attack. docs/security.md has the same list.

The tests call the database in the role of the public key. tests/store/test_keyless_http.py attacks over HTTP.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import re
import time
from typing import TYPE_CHECKING, Any

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from kis_token.sandbox.database import list_caller
from kis_token.sandbox.github_issuer import GitHubIssuer, SigningKey, base64url
from tests.keyless import PROJECT, Job, refusal, trust
from tests.support import Database, make_token
from tools.step import CHECKOUT

if TYPE_CHECKING:
    import psycopg

DAY = 24 * 3600

#: For each attack: the claims of a signed token that differ from the listed job's, and the SQLSTATE that ends the
#: attack.
CLAIMED: dict[str, tuple[dict[str, object], str]] = {
    "another repository of the owner": ({"repository": "acme/other", "repository_id": "75"}, "KTA04"),
    "the repository was renamed, and an attacker registers its old name": ({"repository_id": "990"}, "KTA04"),
    "the repository moved to another owner": ({"repository_owner_id": "66"}, "KTA04"),
    "the owner was renamed, and an attacker registers the owner's old name": (
        {"repository_owner_id": "991", "repository_id": "992"},
        "KTA04",
    ),
    "a fork": (
        {"repository": "mallory/bot", "repository_id": "76", "repository_owner_id": "67", "event_name": "push"},
        "KTA04",
    ),
    "a pull request from a fork": (
        {"event_name": "pull_request", "ref": "refs/pull/7/merge", "head_ref": "main", "base_ref": "main"},
        "KTA04",
    ),
    "a pull request of the repository itself": ({"event_name": "pull_request", "head_ref": "next"}, "KTA04"),
    "pull_request_target": ({"event_name": "pull_request_target"}, "KTA04"),
    "workflow_run": ({"event_name": "workflow_run"}, "KTA04"),
    "issue_comment": ({"event_name": "issue_comment"}, "KTA04"),
    "a branch that Dependabot made": (
        {"event_name": "push", "ref": "refs/heads/dependabot/pip/requests-3", "actor": "dependabot[bot]"},
        "KTA04",
    ),
    "another branch": ({"event_name": "push", "ref": "refs/heads/next"}, "KTA04"),
    "a branch with a longer name": ({"event_name": "push", "ref": "refs/heads/main2"}, "KTA04"),
    "a branch whose name differs only in upper and lower case": (
        {"event_name": "push", "ref": "refs/heads/Main"},
        "KTA04",
    ),
    "a tag with the branch's name": ({"event_name": "push", "ref": "refs/tags/main"}, "KTA04"),
    "another workflow": ({"workflow_ref": "acme/bot/.github/workflows/other.yml@refs/heads/main"}, "KTA04"),
    "the workflow of another branch": (
        {"workflow_ref": "acme/bot/.github/workflows/trade.yml@refs/heads/next"},
        "KTA04",
    ),
    "the same workflow file in another repository": (
        {"workflow_ref": "mallory/bot/.github/workflows/trade.yml@refs/heads/main"},
        "KTA04",
    ),
    "another reusable workflow": ({"job_workflow_ref": "acme/shared/.github/workflows/b.yml@refs/tags/v1"}, "KTA04"),
    "no GitHub environment": ({"environment": None}, "KTA04"),
    "another GitHub environment": ({"environment": "staging"}, "KTA04"),
    "a self-hosted runner": ({"runner_environment": "self-hosted"}, "KTA04"),
    "the audience of another project": ({"aud": "https://zyxwvutsrqponmlkjihg.supabase.co"}, "KTA02"),
    "GitHub's default audience": ({"aud": "https://github.com/acme"}, "KTA02"),
    "a list with the right audience": ({"aud": [PROJECT]}, "KTA02"),
    "a list with two audiences": ({"aud": [PROJECT, "https://github.com/acme"]}, "KTA02"),
    "the audience with a slash": ({"aud": f"{PROJECT}/"}, "KTA02"),
    "an ID token whose `iss` is not the issuer in the job's row": ({"iss": "https://evil.example"}, "KTA01"),
    "an ID token of the issuer of another GitHub enterprise": (
        {"iss": "https://token.actions.githubusercontent.com/mallory"},
        "KTA01",
    ),
    "the right ids as JSON numbers": ({"repository_id": 74}, "KTA04"),
    "the right ids in a JSON list": ({"repository_id": ["74"]}, "KTA04"),
}

#: For each attack: the times of a signed token in seconds from now, and the SQLSTATE that ends the attack.
TIMED: dict[str, tuple[dict[str, int], str]] = {
    "an expired token": ({"iat": -300, "exp": -1}, "KTA03"),
    "a token of a year ago": ({"iat": -365 * DAY, "exp": -365 * DAY + 300}, "KTA03"),
    "a token from the future": ({"iat": 60, "nbf": -240, "exp": 360}, "KTA03"),
    "a token that is not valid yet": ({"iat": 0, "nbf": 60, "exp": 300}, "KTA03"),
    "a token that lives for a year": ({"iat": 0, "exp": 365 * DAY}, "KTA03"),
    "a token that is older than 330 s": ({"iat": -335, "exp": 300}, "KTA03"),
}

#: The claims that an ID token needs, each with the SQLSTATE that is raised without the claim.
NEEDED = {
    "iss": "KTA01",
    "aud": "KTA02",
    **dict.fromkeys(("exp", "iat"), "KTA03"),
    **dict.fromkeys(("jti", "repository", "repository_id", "repository_owner_id", "ref", "event_name"), "KTA04"),
    **dict.fromkeys(("runner_environment", "run_id", "run_attempt"), "KTA04"),
    **dict.fromkeys(("environment", "workflow_ref", "job_workflow_ref"), "KTA04"),
}


@pytest.fixture
def job(database: Database, github: GitHubIssuer, anon: psycopg.Connection[tuple[Any, ...]]) -> Job:
    """The only listed job, by a row that sets every optional column."""
    database.put_keys()
    database.put_token(make_token())
    reusable = "acme/shared/.github/workflows/a.yml@refs/tags/v1"
    trust(
        database,
        github,
        access="issue",
        environment="production",
        workflow=".github/workflows/trade.yml",
        job_workflow_ref=reusable,
    )
    job = Job(anon, github, environment="production", job_workflow_ref=reusable)
    assert job.read()["access"] == "issue"
    return job


def codes(job: Job, id_token: str) -> set[str | None]:
    """Return the set of SQLSTATEs that the four keyless functions raise for an ID token."""
    attempts = (job.read, job.begin, job.abort, lambda token: job.commit(make_token(), token))
    return {refusal(attempt, id_token).code for attempt in attempts}


@pytest.mark.parametrize("attack", CLAIMED)
def test_other_claims(job: Job, attack: str) -> None:
    """If the claims of a token are not the listed job's, all four functions refuse the token that GitHub has signed."""
    changes, code = CLAIMED[attack]
    assert codes(job, job.token(**changes)) == {code}


@pytest.mark.parametrize("attack", TIMED)
def test_other_times(job: Job, attack: str) -> None:
    """If an ID token is expired, not valid yet, too old or valid for too long, all four functions refuse the token."""
    times, code = TIMED[attack]
    now = int(time.time())
    assert codes(job, job.token(**{"nbf": None} | {name: now + by for name, by in times.items()})) == {code}


def test_old_token_cannot_begin(job: Job) -> None:
    """A job with an ID token that is older than 120 s can read, but cannot begin."""
    now = int(time.time())
    token = job.token(iat=now - 125, exp=now + 175)
    assert job.read(token)["access"] == "issue"
    assert refusal(job.begin, token).code == "KTA03"
    assert job.begin(job.token(iat=now - 100, exp=now + 200))["status"] == "fresh"


def test_clock_that_is_ahead(job: Job) -> None:
    """An ID token from an issuer whose clock is 20 s ahead is accepted."""
    now = int(time.time())
    assert job.read(job.token(iat=now + 20, exp=now + 320, nbf=now + 20))["access"] == "issue"


@pytest.mark.parametrize("name", NEEDED)
def test_missing_claim(job: Job, name: str) -> None:
    """An ID token is refused if a needed claim is missing, empty or an object."""
    values: tuple[object, ...] = (None, "", {})
    for value in values:
        assert codes(job, job.token(**{name: value})) == {NEEDED[name]}


def test_null_claims(job: Job, github: GitHubIssuer) -> None:
    """If a needed claim of an ID token is null, the claim counts as missing."""
    usual = {"environment": "production", "job_workflow_ref": "acme/shared/.github/workflows/a.yml@refs/tags/v1"}
    for name, code in NEEDED.items():
        token = github.sign(github.claims(PROJECT, **usual) | {name: None})
        assert refusal(job.read, token).code == code, name
    assert refusal(job.read, github.sign({"iss": github.issuer})).code == "KTA02"
    assert refusal(job.read, github.sign({})).code == "KTA01"


def test_public_key_alone(job: Job) -> None:
    """The public key alone gives no access: an empty text, and GitHub's request token, are refused as ID tokens."""
    for nothing in ("", "null", "undefined", "x.y.z", base64.b64encode(b"request token").decode()):
        assert codes(job, nothing) == {"KTA01"}


@pytest.mark.usefixtures("job")
def test_claims_of_the_api_are_not_read(github: GitHubIssuer, database: Database) -> None:
    """Claims from another signer in PostgREST's setting request.jwt.claims have no effect: only the argument counts."""
    claims = github.claims(PROJECT, environment="production")
    with database.connect_as("authenticated") as connection:
        for setting in (claims, {"role": "authenticated", "user_metadata": claims, "app_metadata": claims}):
            connection.execute("select set_config('request.jwt.claims', %s, false)", (json.dumps(setting),))
            assert codes(Job(connection, github), "x.y.z") == {"KTA01"}


def forged_tokens(github: GitHubIssuer, claims: dict[str, object]) -> dict[str, str]:
    """Return tokens that GitHub's key has not signed, by the name of the forgery."""
    key = github.keys[-1]
    header = {"alg": "RS256", "typ": "JWT", "kid": key.kid}
    stranger = SigningKey.make(key.kid)
    good = key.sign(header, claims)
    head, body, signature = good.split(".")
    public = key.private.public_key()
    pem = public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)

    def encoded(part: object) -> str:
        return base64url(json.dumps(part).encode())

    def hs256(secret: bytes, alg: str = "HS256") -> str:
        signed = f"{encoded(header | {'alg': alg})}.{body}"
        return f"{signed}.{base64url(hmac.digest(secret, signed.encode(), hashlib.sha256))}"

    changed = encoded(claims | {"repository_id": "75"})
    return {
        "alg none without a signature": f"{encoded(header | {'alg': 'none'})}.{body}.",
        "alg none with the old signature": f"{encoded(header | {'alg': 'none'})}.{body}.{signature}",
        "HS256 with the public key in PEM": hs256(pem),
        "HS256 with the modulus": hs256(key.modulus),
        "HS256 with the header of RS256": hs256(pem, "RS256"),
        "the same kid with another key": stranger.sign(header, claims),
        "another key in the header": stranger.sign(header | {"jwk": stranger.jwk()}, claims),
        "a changed payload": f"{head}.{changed}.{signature}",
        "a changed header": f"{encoded(header | {'x': 1})}.{body}.{signature}",
        "the signature of another token": f"{head}.{body}.{github.id_token(PROJECT).rpartition('.')[2]}",
        "no signature": f"{head}.{body}",
        "a signature of zeros": f"{head}.{body}.{base64url(bytes(256))}",
    }


def test_forged_tokens(job: Job, github: GitHubIssuer) -> None:
    """If a token has the listed job's claims but is not signed by GitHub's key, all four functions refuse the token."""
    claims = github.claims(
        PROJECT, environment="production", job_workflow_ref="acme/shared/.github/workflows/a.yml@refs/tags/v1"
    )
    assert job.read(github.sign(claims))["access"] == "issue"
    for name, token in forged_tokens(github, claims).items():
        assert codes(job, token) == {"KTA01"}, name


def test_key_of_another_issuer(database: Database, github: GitHubIssuer, job: Job) -> None:
    """A trusted issuer's key cannot sign for another issuer, because each key is stored for one issuer."""
    server = GitHubIssuer(issuer="https://github.acme.example/_services/token")
    server.publish(SigningKey.make())
    trust(database, server, access="issue")
    key = server.keys[-1]
    claims = github.claims(PROJECT, environment="production")
    assert refusal(job.read, key.sign({"alg": "RS256", "kid": key.kid}, claims)).code == "KTA07"
    assert refusal(job.read, key.sign({"alg": "RS256", "kid": github.keys[-1].kid}, claims)).code == "KTA01"


def test_id_token_in_an_address(database: Database, github: GitHubIssuer, job: Job) -> None:
    """An ID token in the address of a GET, which servers log, is refused.

    The functions read the HTTP method from a setting of PostgREST.
    """
    with database.connect_as("anon") as connection:
        for method, code in (("GET", "KTA01"), ("HEAD", "KTA01"), ("POST", None)):
            connection.execute("select set_config('request.method', %s, false)", (method,))
            read = Job(connection, github, **job.claims).read
            assert (refusal(read).code if code else read()["access"]) == (code or "issue")


def test_claims_that_are_too_long(job: Job) -> None:
    """A claim of more than 512 characters, which GitHub does not sign, is refused and written to no table."""
    for name in ("jti", "ref", "run_id"):
        assert codes(job, job.token(**{name: "x" * 513})) == {"KTA04"}
    assert "jti" in refusal(job.begin, job.token(jti="x" * 3000)).message


def test_stolen_token_of_a_lower_access(database: Database, job: Job) -> None:
    """A stolen ID token of a job with the access ``token`` can read the KIS token, but cannot read keys or begin."""
    database.owner.execute("update public.credential_callers set access = 'token'")
    stolen = job.token()
    for _ in range(2):
        assert job.types(stolen) == {"access_token"}
    assert refusal(job.begin, stolen).code == "KTA05"
    assert refusal(job.commit, make_token(), stolen).code == "KTA05"


def test_audience_of_another_row(database: Database, job: Job, github: GitHubIssuer) -> None:
    """If rows have different audiences, an ID token for one project URL does not fit a row with another URL."""
    list_caller(database.owner, github, "https://kis.acme.example", service_name="kis-second")
    assert refusal(job.read, job.token("https://kis.acme.example")).code == "KTA04"
    assert job.read(job.token("https://kis.acme.example"), service="kis-second")["access"] == "token"


def test_default_audience_while_the_list_is_empty(database: Database, job: Job) -> None:
    """While the list is empty, the error for a token with GitHub's default audience has no INSERT."""
    database.owner.execute("delete from public.credential_callers")
    assert codes(job, job.token("https://github.com/acme")) == {"KTA02"}
    assert codes(job, job.token([PROJECT])) == {"KTA02"}
    assert codes(job, job.token()) == {"KTA04"}


def test_slot_that_the_job_is_not_listed_for(job: Job) -> None:
    """A job that is listed for one slot cannot read or begin in another slot, whether the other slot exists or not."""
    for service in ("kis-paper", "nothing-of-the-kind"):
        assert refusal(job.read, service=service).code == "KTA04"
        assert refusal(job.begin, service=service).code == "KTA04"


def test_documented_attacks() -> None:
    """docs/security.md names each attack of CLAIMED and TIMED, and each test that docs/security.md names exists."""
    page = (CHECKOUT / "docs" / "security.md").read_text(encoding="utf-8")
    section = page.split("## Keyless callers\n")[1].split("\n## ")[0]
    named = re.findall(r"`(tests/[\w/]+\.py)::(test_\w+)`", section)

    assert [attack for attack in (*CLAIMED, *TIMED) if attack not in section] == []
    assert named
    for path, test in named:
        assert f"\ndef {test}(" in (CHECKOUT / path).read_text(encoding="utf-8"), test
