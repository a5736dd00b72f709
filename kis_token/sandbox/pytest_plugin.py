"""Fixtures for tests of programs that use KIS: no account, no network, and nothing left of one test in the next.

pytest finds this module by itself wherever the package is installed, so it imports nothing until a fixture is used.
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
    """The databases of one PostgreSQL for a run of tests; for each worker where pytest-xdist runs several."""
    try:
        from kis_token.sandbox.database import MigratedDatabases
        from kis_token.sandbox.postgres import EmbeddedPostgres
    except ImportError as error:
        from kis_token.errors import EnvironmentFault

        fault = EnvironmentFault("sandbox-missing", f"kis_sandbox needs the package {error.name}")
        pytest.fail(f"{fault}. {fault.hint}", pytrace=False)
    with EmbeddedPostgres() as server:
        yield MigratedDatabases(server)


@pytest.fixture
def kis_emulator() -> KISEmulator:
    """The KIS that ``kis_sandbox`` starts: one real and one paper account, whose clock is the machine's.

    Define a fixture of this name yourself for other accounts or another clock.
    """
    from kis_token.sandbox.emulator import KISEmulator

    return KISEmulator()


@pytest.fixture
def kis_sandbox(
    _kis_sandbox_databases: MigratedDatabases, kis_emulator: KISEmulator, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Sandbox]:
    """A sandbox of the test's own, and the environment in which programs find it; both end with the test.

    The database holds the keys of ``kis_emulator``'s first accounts, no token, and nothing of another test. All other
    variables that begin with KIS_, SUPABASE_ or INPUT_ are gone meanwhile, so that no test meets a real account by
    mistake.
    """
    from kis_token.sandbox.sandbox import Sandbox

    try:
        with (
            _kis_sandbox_databases.borrow() as project,
            Sandbox(project=project, kis=kis_emulator) as sandbox,
        ):
            # The test's own monkeypatch: with another, what the test sets besides would be undone in the wrong order.
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
    """Let a process's one `SupabaseCredentialManager`, when there is one, be made anew: it knows one environment."""
    module = sys.modules.get("kis_token.client.credential_manager")
    if module is not None:
        module.get_supabase_manager.cache_clear()
