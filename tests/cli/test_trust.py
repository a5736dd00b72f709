"""``kis-token trust`` prints SQL that lists one job of a repository as a caller, and no other job."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest

from kis_token.admin.github_server import find_server
from kis_token.admin.trust_sql import is_audience, is_ref
from kis_token.sandbox.database import store_issuer_keys
from kis_token.sandbox.github_issuer import GITHUB, GitHubIssuer, SigningKey
from kis_token.sandbox.loopback import Fault, Response
from tests.authority import make_authority
from tests.command import kis_token_here
from tests.github_network import GitHubNetwork
from tests.keyless import PROJECT, Job, refusal
from tests.support import make_token
from tests.workflows.conftest import add_command, needs_scripts

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable, Iterator
    from pathlib import Path

    import psycopg

    from tests.support import Database

    Connection = psycopg.Connection[tuple[Any, ...]]

pytestmark = pytest.mark.usefixtures("plain_network")

VARIABLES = {"SUPABASE_URL": PROJECT}


@pytest.fixture
def anon(database: Database) -> Iterator[Connection]:
    """The connection of a caller with the public key."""
    with database.connect_as("anon") as connection:
        yield connection


@pytest.fixture
def network(tmp_path: Path) -> Iterator[GitHubNetwork]:
    """A stand-in for GitHub, reached under GitHub's own host names."""
    with GitHubNetwork(tmp_path) as network:
        yield network


def trust(network: GitHubNetwork, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    """Run ``kis-token trust`` on a machine that reaches only the stand-in for GitHub."""
    return kis_token_here({**VARIABLES, **network.variables, **env}, "trust", *arguments)


def printed(network: GitHubNetwork, *arguments: str, **env: str) -> str:
    """Return the SQL that ``kis-token trust`` prints."""
    ended = trust(network, *arguments, **env)
    assert (ended.returncode, ended.stderr) == (0, "")
    return ended.stdout


def run(database: Database, statements: str) -> None:
    """Paste SQL into the SQL editor."""
    database.owner.execute(statements.encode())


def rows(database: Database) -> list[dict[str, object]]:
    """Return the rows of the list of callers."""
    return database.owner.execute("select * from public.credential_callers order by id").fetchall()


def test_printed_sql_lists_the_job(network: GitHubNetwork, database: Database, anon: Connection) -> None:
    """After the SQL has run, only the repository's job on main can read the token, and no job on another branch."""
    database.put_token(make_token())

    run(database, printed(network, "acme/bot"))

    assert "access_token" in Job(anon, network.issuer).types()
    assert refusal(Job(anon, network.issuer, ref="refs/heads/fix").read).code == "KTA04"
    (row,) = rows(database)
    assert {name: row[name] for name in ("service_name", "access", "audience", "ref", "events", "note")} == {
        "service_name": "kis",
        "access": "token",
        "audience": PROJECT,
        "ref": "refs/heads/main",
        "events": ["schedule", "workflow_dispatch", "push"],
        "note": "acme/bot",
    }
    assert (row["repository_id"], row["repository_owner_id"]) == ("74", "65")
    assert (row["issuer"], row["runner_environment"], row["environment"], row["workflow"]) == (
        GITHUB,
        "github-hosted",
        None,
        None,
    )


def test_each_option_has_its_column(network: GitHubNetwork, database: Database) -> None:
    """Each option sets its column, and a quote in a name stays in the name."""
    text = printed(
        network,
        *("acme/bot", "--tag", "it's", "--access", "issue", "--service", "kis-second", "--events", "push,release"),
        *("--environment", "the owner's \\ env", "--workflow", "trade.yml", "--self-hosted"),
        *("--supabase-url", "https://other.example.com"),
    )
    run(database, text)

    (row,) = rows(database)
    assert (row["ref"], row["access"], row["service_name"]) == ("refs/tags/it's", "issue", "kis-second")
    assert (row["events"], row["environment"]) == (["push", "release"], "the owner's \\ env")
    assert (row["workflow"], row["runner_environment"]) == (".github/workflows/trade.yml", "self-hosted")
    assert row["audience"] == "https://other.example.com"


def test_sql_can_be_run_again(network: GitHubNetwork, database: Database) -> None:
    """The same SQL changes nothing when run again. SQL for another access changes the access and keeps valid_until."""
    first = printed(network, "acme/bot")
    run(database, first)
    database.owner.execute("update public.credential_callers set valid_until = '2099-01-01'")
    before = rows(database)
    run(database, first)
    assert rows(database) == before

    run(database, printed(network, "acme/bot", "--access", "issue"))

    (row,) = rows(database)
    assert row == before[0] | {"access": "issue"}


def test_new_keys_are_added(network: GitHubNetwork, database: Database, anon: Connection) -> None:
    """``--keys`` prints SQL only for the issuer's keys and needs no project's URL.

    The SQL of ``--keys`` adds a key that the issuer has published later.
    """
    run(database, printed(network, "acme/bot"))
    network.issuer.publish(SigningKey.make(bits=4096))
    job = Job(anon, network.issuer)
    assert refusal(job.read).code == "KTA07"

    text = printed(network, "--keys", SUPABASE_URL="")

    assert "credential_callers" not in text
    run(database, text)
    assert job.read()["access"] == "token"
    assert network.asked.count("/repos/acme/bot") == 1


def test_key_that_was_stored_wrongly_is_corrected(network: GitHubNetwork, database: Database) -> None:
    """If a stored key differs from the published key of the same name, the SQL replaces it and sets added_at."""
    run(database, printed(network, "--keys"))
    database.owner.execute(
        "update public.credential_issuer_keys set modulus = %s, added_at = '2026-01-01'", (SigningKey.make().modulus,)
    )

    run(database, printed(network, "--keys"))

    (row,) = database.owner.execute("select modulus, added_at > '2026-01-02' as is_new from credential_issuer_keys")
    assert (bytes(row["modulus"]), row["is_new"]) == (network.issuer.keys[0].modulus, True)


def test_keys_that_cannot_be_stored(network: GitHubNetwork, database: Database) -> None:
    """Keys of another kind, length or exponent are left out. A comment in the SQL has the number of these keys."""
    sound = network.issuer.keys[0].jwk()
    short = SigningKey.make("short", bits=1024).jwk()
    odd: list[object] = [
        sound | {"kid": "e", "e": "Aw"},
        sound | {"kid": "kty", "kty": "EC"},
        sound | {"kid": "use", "use": "enc"},
        sound | {"kid": "alg", "alg": "RS512"},
        sound | {"kid": "a b"},
        sound | {"kid": "x'; drop table credential_callers; --\n"},
        sound | {"kid": "n", "n": sound["n"][:-3] + "'.."},
        {name: value for name, value in sound.items() if name != "kid"},
        short,
        "a text",
    ]
    network.issuer.server.add_fault(Fault("answer", "/.well-known/jwks", 1, Response(200, {"keys": [*odd, sound]})))

    text = printed(network, "--keys")

    assert f"-- Left out: {len(odd)}." in text
    run(database, text)
    assert [row["kid"] for row in database.owner.execute("select kid from credential_issuer_keys")] == [sound["kid"]]


def test_numbers_can_be_given(network: GitHubNetwork, database: Database) -> None:
    """If both numbers are given, GitHub's API gets no request, so that an invisible repository can be listed."""
    run(database, printed(network, "someone/else", "--repository-id", "1234", "--owner-id", "56"))

    (row,) = rows(database)
    assert (row["repository_id"], row["repository_owner_id"], row["note"]) == ("1234", "56", "someone/else")
    assert network.sign_ins == []


def test_private_repository_by_a_variable(network: GitHubNetwork) -> None:
    """GH_TOKEN gives access to a private repository. GH_TOKEN is sent only to GitHub and is not printed."""
    network.is_private = True
    refused = trust(network, "acme/bot")
    text = printed(network, "acme/bot", GH_TOKEN=network.SIGN_IN, GITHUB_TOKEN="another")

    assert (refused.returncode, "[github-repository-unknown]" in refused.stderr) == (1, True)
    assert network.sign_ins == [None, f"Bearer {network.SIGN_IN}"]
    assert network.SIGN_IN not in text


@needs_scripts
@pytest.mark.usefixtures("child_processes")
def test_private_repository_by_the_sign_in_of_gh(network: GitHubNetwork, tmp_path: Path) -> None:
    """The command uses the token of ``gh`` for github.com. If ``gh`` is not signed in, the command uses no token."""
    network.is_private = True
    commands = tmp_path / "commands"
    commands.mkdir()
    arguments = ["auth", "token", "--hostname", "github.com"]
    add_command(commands, "gh", f"import sys\nprint({network.SIGN_IN!r} if sys.argv[1:] == {arguments} else '')")
    path = f"{commands}{os.pathsep}{os.defpath}"
    printed(network, "acme/bot", PATH=path)
    add_command(commands, "gh", "raise SystemExit(1)")
    trust(network, "acme/bot", PATH=path)

    assert network.sign_ins == [f"Bearer {network.SIGN_IN}", None]


@pytest.mark.parametrize(
    ("issuer", "api_url"),
    [
        ("https://git.example.com/_services/token", "https://git.example.com/api/v3"),
        ("https://token.actions.octo.ghe.com", "https://api.octo.ghe.com"),
        (f"{GITHUB}/octo", "https://api.github.com"),
    ],
    ids=["server", "ghe.com", "enterprise"],
)
def test_other_issuers(tmp_path: Path, database: Database, anon: Connection, issuer: str, api_url: str) -> None:
    """A job of another server is listed with this server's issuer.

    A github.com job of the same numbers is no caller.
    """
    numbers = ("--repository-id", "74", "--owner-id", "65") if "/api/v3" in api_url else ()
    with GitHubNetwork(tmp_path, issuer, urlsplit(api_url).netloc) as network:
        text = printed(network, "acme/bot", *numbers, "--issuer", issuer, GITHUB_API_URL="https://api.github.com")
        if issuer.endswith("/octo"):
            assert find_server(None, api_url) == find_server(GITHUB)
        else:  # the command derives the issuer from the API's address
            assert printed(network, "acme/bot", *numbers, GITHUB_API_URL=api_url) == text
        run(database, text)

        assert Job(anon, network.issuer).read()["access"] == "token"
        assert bool(network.sign_ins) is not bool(numbers)
        stranger = GitHubIssuer()
        store_issuer_keys(database.owner, stranger)
        assert refusal(Job(anon, stranger).read).code == "KTA04"


def test_issuer_on_this_machine(network: GitHubNetwork, database: Database, anon: Connection) -> None:
    """For an emulated issuer, the SQL has the given numbers. GH_TOKEN is not sent to an emulated issuer."""
    with GitHubIssuer() as issuer:
        issuer.issuer = issuer.url
        numbers = ("--repository-id", "74", "--owner-id", "65")
        run(database, printed(network, "acme/bot", *numbers, "--issuer", issuer.url, GH_TOKEN=network.SIGN_IN))
        unknown = trust(network, "acme/bot", "--issuer", issuer.url)

        assert Job(anon, issuer).read()["access"] == "token"
        assert (unknown.returncode, "[github-repository-unknown]" in unknown.stderr) == (1, True)
    assert_refused(trust(network, "--keys", "--issuer", "http://127.0.0.1:99999"), "github-unreachable")


def test_sign_in_of_github_does_not_go_to_another_server(tmp_path: Path) -> None:
    """A GitHub Enterprise Server gets the token of GH_ENTERPRISE_TOKEN, and never that of GH_TOKEN."""
    arguments = ("acme/bot", "--issuer", "https://git.example.com/_services/token")
    with GitHubNetwork(tmp_path, api_host="git.example.com") as network:
        trust(network, *arguments, GH_TOKEN="gho_cloud", GH_ENTERPRISE_TOKEN="gho_own")
        trust(network, *arguments, GH_TOKEN="gho_cloud", GH_ENTERPRISE_TOKEN="")

        # The second request of each run is for the issuer's keys.
        assert network.sign_ins == ["Bearer gho_own", None, None, None]
        assert network.asked.count("/api/v3/repos/acme/bot") == 2


@pytest.mark.parametrize(
    ("arguments", "option"),
    [
        (("acme",), "OWNER/REPO"),
        (("acme/bot/x",), "OWNER/REPO"),
        (("acme/bot'; drop table x; --",), "OWNER/REPO"),
        (("acme/bot", "--branch", "release/*"), "--branch or --tag"),
        (("acme/bot", "--branch", "dependabot/pip/x"), "--branch or --tag"),
        (("acme/bot", "--tag", "a b"), "--branch or --tag"),
        (("acme/bot", "--tag", "a\nb"), "--branch or --tag"),
        (("acme/bot", "--events", "pull_request_target"), "--events"),
        (("acme/bot", "--events", "workflow_run,push"), "--events"),
        (("acme/bot", "--events", ","), "--events"),
        (("acme/bot", "--environment", "prod*"), "--environment"),
        (("acme/bot", "--environment", "a\nb"), "--environment"),
        (("acme/bot", "--workflow", "*.yml"), "--workflow"),
        (("acme/bot", "--workflow", "trade"), "--workflow"),
        (("acme/bot", "--issuer", "https://evil.example.com"), "--issuer"),
        (("--keys", "--issuer", "http://git.example.com/_services/token"), "--issuer"),
        (("acme/bot", "--repository-id", "0", "--owner-id", "1"), "--repository-id"),
        (("acme/bot", "--repository-id", "1", "--owner-id", "1'"), "--owner-id"),
        (("acme/bot", "--repository-id", "1"), "--repository-id and --owner-id"),
        (("acme/bot", "--branch", "main", "--tag", "v1"), "--branch and --tag are both given"),
        (("acme/bot", "--supabase-url", "https://github.com"), "--supabase-url"),
    ],
)
def test_values_that_the_list_cannot_hold(network: GitHubNetwork, arguments: tuple[str, ...], option: str) -> None:
    """If the list cannot hold a value, no SQL is printed. The error names the option and does not print the value."""
    ended = trust(network, *arguments)

    assert (ended.returncode, ended.stdout) == (1, "")
    assert f"{option}" in ended.stderr
    assert "[invalid-caller]" in ended.stderr
    assert "drop table" not in ended.stderr


def test_repository_is_needed(network: GitHubNetwork) -> None:
    """A command line with no repository and no ``--keys`` is invalid."""
    ended = trust(network)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr.endswith("error: '[OWNER/REPO]' is missing\n")


def test_project_is_needed(network: GitHubNetwork) -> None:
    """If the project's URL is missing, ``trust`` fails. ``trust`` does not need a key of Supabase."""
    ended = trust(network, "acme/bot", SUPABASE_URL="")
    assert (ended.returncode, ended.stdout) == (1, "")
    assert "[missing-supabase-url]" in ended.stderr
    assert "key" not in ended.stderr


DISCOVERY = {"issuer": GITHUB, "jwks_uri": f"{GITHUB}/.well-known/jwks"}


@pytest.mark.parametrize(
    ("fault", "code"),
    [
        (Fault("reset", "/repos"), "github-unreachable"),
        (Fault("answer", "/repos", 1, Response(500)), "github-unreachable"),
        (Fault("answer", "/repos", 1, Response(200, b"<html>")), "github-unreachable"),
        (Fault("answer", "/repos", 1, Response(200, {"id": "74", "owner": {"id": 65}})), "github-unreachable"),
        (Fault("answer", "/repos", 1, Response(200, {"id": 74, "owner": None})), "github-unreachable"),
        (
            Fault("answer", "/repos", 1, Response(301, {}, {"Location": "/r/74"})),
            "github-repository-unknown",
        ),
        (Fault("answer", "/repos", 1, Response(401, {"message": "Bad credentials"})), "github-refused"),
        (Fault("answer", "/repos", 1, Response(403, {"message": "API rate limit exceeded"})), "github-refused"),
        (Fault("answer", "/repos", 1, Response(429)), "github-refused"),
    ],
    ids=["reset", "500", "a page", "texts", "no owner", "moved", "401", "403", "429"],
)
def test_api_does_not_tell_the_numbers(network: GitHubNetwork, fault: Fault, code: str) -> None:
    """If GitHub's API does not give the repository's numbers, the error has a code, and no SQL is printed."""
    network.api.add_fault(fault)
    assert_refused(trust(network, "acme/bot"), code)


@pytest.mark.parametrize(
    "fault",
    [
        Fault("reset"),
        Fault("truncate"),
        Fault("answer", response=Response(404)),
        Fault("answer", response=Response(200, DISCOVERY | {"issuer": "https://token.actions.other.ghe.com"})),
        Fault("answer", response=Response(200, DISCOVERY | {"jwks_uri": "https://evil.example.com/jwks"})),
        Fault("answer", response=Response(200, DISCOVERY | {"jwks_uri": f"{GITHUB}@evil.example.com/jwks"})),
        Fault("answer", response=Response(200, DISCOVERY | {"jwks_uri": f"http{GITHUB[5:]}/jwks"})),
        Fault("answer", response=Response(200, DISCOVERY | {"jwks_uri": "https://[/jwks"})),
        Fault("answer", "/.well-known/jwks", response=Response(200, {"keys": []})),
        Fault("answer", "/.well-known/jwks", response=Response(200, {"keys": None})),
        Fault("answer", "/.well-known/jwks", response=Response(500)),
    ],
)
def test_issuer_does_not_tell_its_keys(network: GitHubNetwork, fault: Fault) -> None:
    """If the issuer does not give its keys, or names another host for them, the error is github-unreachable."""
    network.issuer.server.add_fault(fault)
    assert_refused(trust(network, "acme/bot"), "github-unreachable")


def test_certificate_that_is_not_trusted(network: GitHubNetwork, tmp_path: Path) -> None:
    """Keys from a server with a wrong certificate are not printed."""
    other = make_authority(tmp_path / "other")
    assert_refused(trust(network, "--keys", SSL_CERT_FILE=str(other.file)), "store-tls")


def assert_refused(ended: subprocess.CompletedProcess[str], code: str) -> None:
    """Check that the command printed only an error with this code and a remedy."""
    assert (ended.returncode, ended.stdout) == (1, "")
    assert ended.stderr.startswith("error: ")
    assert f"[{code}]. " in ended.stderr


@pytest.mark.skipif(sys.platform == "win32", reason="PostgreSQL's regular expressions are compared on one system")
@pytest.mark.parametrize("function", ["issuance_is_ref", "issuance_is_audience", "issuance_is_issuer"])
def test_forms_are_those_of_the_database(database: Database, function: str) -> None:
    """The command and the database accept the same forms of refs, audiences and issuers."""
    accepts: Callable[[str], bool] = {
        "issuance_is_ref": is_ref,
        "issuance_is_audience": is_audience,
        "issuance_is_issuer": lambda text: find_server(text) is not None,
    }[function]
    texts = [*REFS, *AUDIENCES, *ISSUERS]
    mine = {text: accepts(text) for text in texts}
    theirs = {
        text: database.owner.execute(f"select public.{function}(%s) as fits", (text,)).fetchone() for text in texts
    }
    assert mine == {text: row is not None and row["fits"] for text, row in theirs.items()}
    assert set(mine.values()) == {True, False}


REFS = [
    *(f"refs/heads/{name}" for name in ("main", "a/b", "it's", "fix@home", "dependabot", "dependabot/pip/x", "메인")),
    *(f"refs/heads/{name}" for name in ("", "a b", "a\tb", "a\u00a0b", "a\u200bb", "a\u202eb", "a\ufeffb", "a\u0085b")),
    *(f"refs/heads/a{sign}" for sign in "~^:?*[\\]{}\"'\n"),
    *("refs/tags/v1", "refs/tags/dependabot/x", "refs/pull/1/merge", "main", "refs/heads/gh-readonly-queue/main"),
    *(f"refs/heads/{'x' * length}" for length in (244, 245)),
]
AUDIENCES = [
    *(
        PROJECT,
        f"{PROJECT}/",
        f"{PROJECT}\n",
        PROJECT.upper(),
        "https://x",
        "https://-x",
        "https://x-",
        "https://x:443",
    ),
    *(
        "https://x:123456",
        "https://[fd00::1]",
        "http://127.0.0.1:54321",
        "http://localhost",
        "http://[::1]:1",
        "http://x",
    ),
    *("https://github.com", "https://api.github.com:443", "https://github.com.evil.com", "https://notgithub.com"),
    *("https://octo.ghe.com", "https://token.actions.githubusercontent.com", "https://x?y", "https://a@b"),
]
ISSUERS = [
    *(GITHUB, f"{GITHUB}/", f"{GITHUB}/octo", f"{GITHUB}/octo/x", f"{GITHUB}\n", "https://token.actions.octo.ghe.com"),
    *(
        "https://git.example.com/_services/token",
        "https://git.example.com:8443/_services/token",
        "https://-/_services/token",
    ),
    *("https://Git.example.com/_services/token", "http://git.example.com/_services/token", "https://x/_services/token"),
]
