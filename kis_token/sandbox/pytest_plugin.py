"""Fixtures for tests of programs that use KIS. The tests need no account and no network, and share no state.

pytest loads this module in each project in which the package is installed. So this module imports nothing until a
fixture is used.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kis_token.sandbox.database import MigratedDatabases
    from kis_token.sandbox.emulator import KISEmulator
    from kis_token.sandbox.sandbox import Sandbox


@pytest.fixture(scope="session")
def _kis_sandbox_databases() -> Iterator[MigratedDatabases]:
    """The databases of one PostgreSQL server, for one test run or for one worker of pytest-xdist."""
    try:
        from kis_token.sandbox.database import MigratedDatabases
        from kis_token.sandbox.postgres import EmbeddedPostgres
    except ImportError as error:
        from kis_token.errors import EnvironmentFault

        fault = EnvironmentFault("sandbox-missing", f"kis_sandbox needs the package {error.name}")
        pytest.fail(f"{fault}", pytrace=False)
    with EmbeddedPostgres() as server:
        yield MigratedDatabases(server)


@pytest.fixture
def kis_emulator() -> KISEmulator:
    """The KIS emulator that ``kis_sandbox`` starts.

    The emulator has one real and one paper account, and uses the machine's clock. A project that needs other accounts
    or another clock overrides this fixture.
    """
    from kis_token.sandbox.emulator import KISEmulator

    return KISEmulator()


@pytest.fixture
def kis_sandbox(
    _kis_sandbox_databases: MigratedDatabases, kis_emulator: KISEmulator, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Sandbox]:
    """A sandbox for one test, and the environment variables that lead programs to the sandbox.

    The sandbox and its variables are removed at the end of the test. The database has the keys of the first accounts of
    ``kis_emulator``, no token, and no data of other tests. During the test, all other variables that begin with KIS_,
    SUPABASE_ or INPUT_ are removed, so no test reaches a real account by accident.
    """
    from kis_token.sandbox.sandbox import Sandbox

    try:
        with (
            _kis_sandbox_databases.borrow() as project,
            Sandbox(project=project, kis=kis_emulator) as sandbox,
        ):
            # Use the test's own monkeypatch: a second one would undo the changes in the wrong order.
            inside = sandbox.environment(os.environ)
            for name in os.environ.keys() - inside.keys():
                monkeypatch.delenv(name)
            for name, value in inside.items():
                monkeypatch.setenv(name, value)
            _forget_manager()
            yield sandbox
    finally:
        _forget_manager()


def _forget_manager() -> None:
    """Drop the `SupabaseCredentialManager` of this process, so that the next one reads the present environment."""
    module = sys.modules.get("kis_token.client.credential_manager")
    if module is not None:
        module.get_supabase_manager.cache_clear()
