"""The complete sandbox: starts and stops the emulators of KIS and Supabase, and the parts that they need."""

from __future__ import annotations

import secrets
import tempfile
from contextlib import ExitStack
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg

from kis_token.sandbox.database import list_caller, make_project, store_issuer_keys
from kis_token.sandbox.emulator import KISEmulator
from kis_token.sandbox.github_issuer import GitHubIssuer
from kis_token.sandbox.postgres import EmbeddedPostgres
from kis_token.sandbox.postgrest import PostgRESTStandIn

if TYPE_CHECKING:
    import ssl
    from collections.abc import Mapping

    from typing_extensions import Self

    from kis_token.sandbox.database import Project
    from kis_token.sandbox.kis_rules import Account, Environment

_SLOTS: dict[Environment, str] = {"production": "kis", "paper": "kis-paper"}

#: `Sandbox.environment` removes the variables with these prefixes. A variable with one of these prefixes can give a
#: program the settings of another account, or is an input of the GitHub Actions step that runs this process.
_OTHERS = ("KIS_", "SUPABASE_", "INPUT_")


class Sandbox:
    """Emulates all services that a job calls, on this machine, without an account. Use a sandbox in a ``with`` block.

    The sandbox starts PostgreSQL with this project's tables, a Supabase emulator that uses this PostgreSQL, and the KIS
    emulator. The slots kis and kis-paper have the keys of the first real and of the first paper account. At the end of
    the block, all parts are stopped and the data is deleted.

    - ``dsn`` is a superuser's connection string of an empty database, which replaces the sandbox's own PostgreSQL.
    - ``project`` is a database with this project's tables, all empty, which replaces the sandbox's own PostgreSQL.
    - ``kis`` replaces the KIS emulator.
    - With ``tls``, the sandbox serves Supabase over https, and also KIS if ``kis`` is not given.

    Attributes:
        kis: The KIS emulator, which runs until the ``with`` block ends.
        supabase: The Supabase emulator. ``supabase.stop`` and ``supabase.start`` simulate an outage, and
            ``supabase.server.add_fault`` adds a fault.
        service_key: The secret key of the emulated Supabase project.
        anon_key: The public key of the emulated Supabase project.
        owner_dsn: The connection string of the database's owner, with a password.

    If PostgreSQL is not installed or does not start, the start of the block raises RuntimeError.
    """

    def __init__(
        self,
        *,
        dsn: str | None = None,
        project: Project | None = None,
        kis: KISEmulator | None = None,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.kis = kis or KISEmulator(tls=tls)
        self.service_key = f"sb_secret_{secrets.token_urlsafe(24)}"
        self.anon_key = f"sb_publishable_{secrets.token_urlsafe(24)}"
        self.supabase: PostgRESTStandIn
        self.owner_dsn: str
        self._dsn = dsn
        self._project = project
        self._tls = tls
        self._folder: Path
        self._github: GitHubIssuer | None = None
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        self._github = None
        with ExitStack() as stack:
            project = self._project or make_project(
                self._dsn or stack.enter_context(EmbeddedPostgres()).create_database()
            )
            self.owner_dsn = project.owner
            for environment, slot in _SLOTS.items():
                for account in self.kis.accounts[environment][:1]:
                    self.store_keys(slot, account, environment)
            self.supabase = stack.enter_context(
                PostgRESTStandIn(project.api, service_key=self.service_key, anon_key=self.anon_key, tls=self._tls)
            )
            stack.enter_context(self.kis)
            self._folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="kis-sandbox-")))
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def store_keys(self, slot: str, account: Account, environment: Environment = "production") -> None:
        """Store an account's key and secret in ``slot``, as the owner of a project does."""
        with psycopg.connect(self.owner_dsn) as connection:
            connection.cursor().executemany(
                "insert into public.api_credentials (service_name, credential_type, credential_value, environment)"
                " values (%s, %s, %s, %s)",
                [
                    (slot, "app_key", account.app_key, environment),
                    (slot, "app_secret", account.app_secret, environment),
                ],
            )

    @property
    def github(self) -> GitHubIssuer:
        """The emulator of GitHub's issuer of ID tokens.

        The first use starts the emulator. `variables` does not have the emulator's address.
        """
        if self._github is None:
            self._github = self._stack.enter_context(GitHubIssuer(tls=self._tls))
        return self._github

    def trust(self, slot: str = "kis", *, access: str = "issue", **columns: object) -> None:
        """List the emulated issuer's default job as a caller of ``slot``, and store the issuer's keys.

        ``columns`` replace values of the new row in ``credential_callers``.
        """
        with psycopg.connect(self.owner_dsn) as connection:
            store_issuer_keys(connection, self.github)
            list_caller(connection, self.github, self.supabase.url, service_name=slot, access=access, **columns)

    def advance(self, seconds: float) -> None:
        """Move the clocks of KIS and of the leases forward. So a test need not wait for a minute between two issues.

        The clocks of the machine and of its programs do not change. So a token that has expired at KIS still looks
        valid to a program until KIS rejects the token. Raises ValueError if ``seconds`` is negative or if the new time
        is after the year 9999.
        """
        self.kis.advance(seconds)
        with psycopg.connect(self.owner_dsn) as connection:
            connection.execute(
                "update public.credential_leases set granted_at = granted_at - %(by)s,"
                " lease_until = lease_until - %(by)s, not_before = not_before - %(by)s, issued_at = issued_at - %(by)s,"
                " refused_until = refused_until - %(by)s",
                {"by": timedelta(seconds=seconds)},
            )

    def environment(self, outside: Mapping[str, str]) -> dict[str, str]:
        """Return a copy of ``outside``, the variables of a process, for a program that uses the sandbox.

        The copy has `variables`, and has no other variables that begin with KIS_, SUPABASE_ or INPUT_. In the copy,
        NO_PROXY contains 127.0.0.1, so that the program uses no proxy for this address.
        """
        kept = {name: value for name, value in outside.items() if not name.startswith(_OTHERS)}
        direct = ",".join(filter(None, (outside.get("NO_PROXY") or outside.get("no_proxy"), "127.0.0.1")))
        return kept | {"NO_PROXY": direct, "no_proxy": direct} | self.variables

    @property
    def variables(self) -> dict[str, str]:
        """The environment variables with which the command, the library and the action use the sandbox."""
        return {
            "SUPABASE_URL": self.supabase.url,
            "SUPABASE_SERVICE_ROLE_KEY": self.service_key,
            "KIS_BASE_URL": self.kis.production_url,
            # The sandbox has its own cache, so that tokens of the sandbox and real tokens stay apart.
            "KIS_TOKEN_CACHE": str(self._folder / ".kis_token_cache.json"),
            "KIS_SANDBOX_PAPER_URL": self.kis.paper_url,
            "KIS_SANDBOX_CONTROL_URL": self.kis.control_url,
        }
