"""Fixtures for all tests."""

from __future__ import annotations

import base64
import compileall
import itertools
import os
import py_compile
import shutil
import subprocess
import sys
import tempfile
import time
import uuid
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg
import pytest

from kis_token.github.runtime import ensure_runtime
from kis_token.network import tls_trust
from kis_token.sandbox import Sandbox
from kis_token.sandbox.database import MigratedDatabases, make_project
from kis_token.sandbox.emulator import KISEmulator
from kis_token.sandbox.github_issuer import GitHubIssuer
from kis_token.sandbox.postgres import EmbeddedPostgres
from kis_token.sandbox.postgrest import PostgRESTStandIn
from tests import external_postgres, findings, leaks, quick
from tests.resolver_harness import ENCRYPTION_KEY, OTHER, Chain
from tests.support import ACCOUNT, ANON_KEY, SERVICE_KEY, Database
from tools.step import CHECKOUT

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

#: Linux's file system in memory, and the bytes that must be free in it: ten times the need of all tests.
MEMORY = Path("/dev/shm")  # noqa: S108 - folders in it get random names and closed modes, as in /tmp
MEMORY_NEEDED = 4 << 30

#: The secrets of the tests. Tokens and Supabase's secret keys are found by their prefixes.
SECRETS = (
    SERVICE_KEY,
    ACCOUNT.app_key,
    ACCOUNT.app_secret,
    OTHER.key,
    ENCRYPTION_KEY,
    "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=",
    "eyJyb2xlIjoic2VydmljZV9yb2xlIn0.c2lnbmF0dXJl",  # the payload of one of Supabase's older keys
    "PSzyxwvutsrqponmlkjihgfedcba76543210",
    "PSabcdefghijklmnopqrstuvwxyz01234567",
    "c2VjcmV0LW9mLWEtdGVzdA==",
)


def pytest_configure(config: pytest.Config) -> None:
    """Start the watch for leaked secrets, and close the run's folders to the developer's group."""
    os.umask(0o022)
    _keep_temporary_files_in_memory()
    findings.watch(config)
    config.pluginmanager.register(quick, "quick")
    for secret in SECRETS:
        leaks.LEAKS.add(secret)
    leaks.LEAKS.patterns.add_bytes(base64.b64decode(ENCRYPTION_KEY))


def _keep_temporary_files_in_memory() -> None:
    """Keep temporary files in memory if TMPDIR is not set. On a disk, small files take a tenth of the tests' time."""
    if "TMPDIR" in os.environ or not os.access(MEMORY, os.W_OK):
        return
    room = os.statvfs(MEMORY)
    if room.f_bavail * room.f_frsize >= MEMORY_NEEDED and not room.f_flag & os.ST_NOEXEC:
        os.environ["TMPDIR"] = str(MEMORY)
        tempfile.tempdir = None  # makes tempfile read the variable again


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """Use a worker for each core, and two more workers because some tests wait.

    An external PostgreSQL allows one worker.
    """
    cores = os.cpu_count() or 1
    if config.option.markexpr == "quick":
        return cores
    return 1 if external_postgres.DSN else cores + 2


@pytest.fixture(scope="session")
def _machines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("machines")
    # The folders are not made by mktemp, because mktemp lists all folders to find an unused number.
    return (folder / f"{number}" for number in itertools.count())


@pytest.fixture(autouse=True)
def _own_machine(_machines: Iterator[Path]) -> Iterator[None]:
    """Give each test its own folder for notes, because a note about one test's call would delay the next test.

    A test also cannot reach the profiles of the user that runs the tests.
    """
    folder = next(_machines)
    folder.mkdir(mode=0o700)
    with pytest.MonkeyPatch.context() as patch:  # the fixture monkeypatch ends before the other fixtures of the test
        patch.setenv("XDG_CACHE_HOME", str(folder))
        patch.setenv("XDG_CONFIG_HOME", str(folder / "config"))
        yield


@pytest.fixture
def plain_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep proxies and certificates of the machine that runs the tests out of the test and its child processes."""
    for name in (*tls_trust.VARIABLES, "http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.fixture(scope="session")
def postgres() -> Iterator[EmbeddedPostgres]:
    """One PostgreSQL for all tests. Tests make their own databases in this PostgreSQL."""
    if external_postgres.DSN:
        yield external_postgres.ExternalPostgres(external_postgres.DSN)
        return
    with EmbeddedPostgres() as server:
        yield server
        with psycopg.connect(server.dsn) as connection:
            (data,) = connection.execute("show data_directory").fetchone() or ("",)
        leaks.LEAKS.judge_file(str(Path(data).with_name("log")))


@pytest.fixture(scope="session")
def migrated(postgres: EmbeddedPostgres) -> Iterator[Database]:
    """One database with this project's tables, for all tests that do not change the schema.

    Tests use this database through the fixture ``database``.
    """
    # An external PostgREST serves one database.
    project = make_project(postgres.dsn if external_postgres.POSTGREST_URL else postgres.create_database())
    with Database(project) as database:
        yield database


@pytest.fixture
def database(migrated: Database) -> Database:
    """The migrated project with empty tables."""
    migrated.clear()
    return migrated


@pytest.fixture(scope="session")
def databases(postgres: EmbeddedPostgres) -> MigratedDatabases:
    """Databases with this project's tables, which tests use one after the other."""
    return MigratedDatabases(postgres)


@pytest.fixture
def make_database(databases: MigratedDatabases) -> Iterator[Callable[[], Database]]:
    """Return a function that makes a database with this project's tables, for a test that changes the schema."""
    with ExitStack() as stack:
        yield lambda: stack.enter_context(Database(stack.enter_context(databases.borrow())))


@pytest.fixture(scope="session")
def _stand_in(migrated: Database) -> Iterator[PostgRESTStandIn]:
    if external_postgres.POSTGREST_URL:
        with external_postgres.Gateway(
            external_postgres.POSTGREST_URL, external_postgres.JWT_SECRET, service_key=SERVICE_KEY, anon_key=ANON_KEY
        ) as gateway:
            gateway.wait()
            yield gateway
        return
    with PostgRESTStandIn(migrated.project.api, service_key=SERVICE_KEY, anon_key=ANON_KEY) as server:
        yield server


@pytest.fixture
def supabase(_stand_in: PostgRESTStandIn, database: Database) -> PostgRESTStandIn:  # noqa: ARG001 - empties the tables
    """The Supabase emulator on ``database``: running, with an empty log and no faults."""
    _stand_in.start()
    _stand_in.server.clear_faults()
    _stand_in.server.forget()
    _stand_in.server.send_date = True
    return _stand_in


@pytest.fixture
def kis() -> Iterator[KISEmulator]:
    """A new KIS emulator with the account ACCOUNT, which locks no app key."""
    with KISEmulator(production=ACCOUNT) as emulator:
        emulator.configure(lockout_after=0)
        yield emulator


@pytest.fixture(scope="session")
def github() -> GitHubIssuer:
    """GitHub's issuer of ID tokens, with one key for all tests. The issuer signs ID tokens, but listens on no port."""
    return GitHubIssuer()


@pytest.fixture
def sandbox(databases: MigratedDatabases) -> Iterator[Sandbox]:
    """A sandbox for one test, on the shared PostgreSQL."""
    with databases.borrow() as project, Sandbox(project=project) as running:
        yield running


@pytest.fixture(scope="session")
def tool_cache(tmp_path_factory: pytest.TempPathFactory, pytestconfig: pytest.Config) -> Path:
    """A runner's tool cache that all tests share, so that all workers together build the runtime once."""
    folder = leaks.shared_folder(tmp_path_factory, pytestconfig) / "tools"
    folder.mkdir(mode=0o700, exist_ok=True)
    return folder


@pytest.fixture(scope="session")
def compiled_action(tool_cache: Path) -> Path:
    """The action's files, with bytecode that is valid in each copy of them.

    The first worker that needs these files makes them for all workers.

    Without bytecode, each step of each workflow would compile the action's modules again.
    """
    action = tool_cache.with_name("action")
    if not action.exists():
        made = tool_cache.with_name(f"{uuid.uuid4()}")
        made.mkdir()
        for name in ("action.yml", "entrypoint.py", "requirements.txt", "requirements-uv.txt"):
            shutil.copy(CHECKOUT / name, made)
        shutil.copytree(CHECKOUT / "kis_token", made / "kis_token", ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copytree(CHECKOUT / ".github" / "workflows", made / ".github" / "workflows")
        mode = py_compile.PycInvalidationMode.UNCHECKED_HASH
        compileall.compile_dir(made / "kis_token", quiet=1, invalidation_mode=mode)
        with suppress(OSError):  # another worker has made the folder first
            made.rename(action)
    return action


@pytest.fixture(scope="session")
def runtime(tool_cache: Path) -> Path:
    """The runtime of all steps that do not seal. If the runtime is missing, it is built."""
    return _build_runtime(tool_cache, seals=False)


@pytest.fixture(scope="session")
def sealing_runtime(tool_cache: Path) -> Path:
    """The runtime of all steps that seal. If the runtime is missing, it is built."""
    return _build_runtime(tool_cache, seals=True)


def _build_runtime(tool_cache: Path, *, seals: bool) -> Path:
    """Return a runtime with bytecode, as after a step. Without bytecode, each copy would compile all packages again."""
    env = os.environ | {"RUNNER_TOOL_CACHE": str(tool_cache)}
    made = ensure_runtime(CHECKOUT / "requirements.txt", env, time.monotonic() + 180, seals=seals)
    if not (made / "requests" / "__pycache__").exists():
        load = "import sys; sys.path[:0] = sys.argv[1:]; import kis_token.github.action, kis_token.kis.session"
        subprocess.run([sys.executable, "-I", "-S", "-c", load, str(CHECKOUT), str(made)], check=True)
    return made


@pytest.fixture
def chain(supabase: PostgRESTStandIn, kis: KISEmulator, database: Database, tmp_path: Path) -> Iterator[Chain]:
    """The services that callers of an empty slot use."""
    chain = Chain(supabase, kis, database, tmp_path)
    yield chain
    for store in chain.stores:
        store.close()
