"""Fixtures for tests of programs that use KIS: no account, no network, and no state from other tests.

pytest loads this module wherever the package is installed, so it imports nothing until a fixture is used.
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
    """The databases of one PostgreSQL for one run of tests, or for one worker of pytest-xdist."""
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
    """The KIS that ``kis_sandbox`` starts: one real and one paper account, on the machine's clock.

    Override this fixture to use other accounts or another clock.
    """
    from kis_token.sandbox.emulator import KISEmulator

    return KISEmulator()


@pytest.fixture
def kis_sandbox(
    _kis_sandbox_databases: MigratedDatabases, kis_emulator: KISEmulator, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Sandbox]:
    """A sandbox for one test, and the environment variables that lead programs to it. Both end with the test.

    The database holds the keys of ``kis_emulator``'s first accounts, no token, and no data of other tests. All other
    variables that begin with KIS_, SUPABASE_ or INPUT_ are removed meanwhile, so no test reaches a real account by
    accident.
    """
    from kis_token.sandbox.sandbox import Sandbox

    try:
        with (
            _kis_sandbox_databases.borrow() as project,
            Sandbox(project=project, kis=kis_emulator) as sandbox,
        ):
            # The test's own monkeypatch: a second one would undo the test's own changes in the wrong order.
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
    """Drop the process's one `SupabaseCredentialManager`, so that the next one uses the present environment."""
    module = sys.modules.get("kis_token.client.credential_manager")
    if module is not None:
        module.get_supabase_manager.cache_clear()
