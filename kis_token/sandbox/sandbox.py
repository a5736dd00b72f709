"""The whole sandbox: KIS, Supabase and what they need, started together and gone together."""

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

#: Settings of some other account, or of the step that this process is part of.
_OTHERS = ("KIS_", "SUPABASE_", "INPUT_")


class Sandbox:
    """Everything a job talks to, on this machine alone and without an account. Use as a context manager.

    Starts PostgreSQL with this project's tables, a stand-in for Supabase before it, and the KIS emulator; the keys of
    the first real and the first paper account are stored under kis and kis-paper. On the way out all of it ends, the
    data too. No PostgreSQL is started with ``dsn``, a superuser's way into an empty database, or with ``project``, a
    migrated database with empty tables. ``kis`` takes the place of an emulator with one account in each environment.
    ``tls`` serves Supabase over https, and KIS unless that is given.

    Attributes:
        kis: The emulator, once entered running.
        supabase: The stand-in for Supabase: ``url``; ``stop`` and ``start`` for an outage; ``server.add_fault``.
        service_key: What a project's secret key is.
        anon_key: What its public key is.
        owner_dsn: The way into the database as its owner. Holds a password.

    Raises RuntimeError on entering when PostgreSQL is not there or does not start.
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
        """Put an account's key and secret into the table under a service name, as the owner of a project would."""
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
        """GitHub's issuer of ID tokens, emulated. It starts when it is first used, and no setting leads to it."""
        if self._github is None:
            self._github = self._stack.enter_context(GitHubIssuer())
        return self._github

    def trust(self, slot: str = "kis", *, access: str = "issue", **columns: object) -> None:
        """List the emulated issuer's usual job as a caller of ``slot``, and store the issuer's keys.

        ``columns`` are those of ``credential_callers`` that differ from the usual job's.
        """
        with psycopg.connect(self.owner_dsn) as connection:
            store_issuer_keys(connection, self.github)
            list_caller(connection, self.github, self.supabase.url, service_name=slot, access=access, **columns)

    def advance(self, seconds: float) -> None:
        """Let time pass for KIS, and for who may issue when: nobody has to wait a real minute for KIS's.

        The clocks of the machine and of the programs on it go on as before, so to them a token that KIS has let expire
        still looks good, until KIS refuses it. Raises ValueError for a time that is negative or beyond the calendar.
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
        """``outside``, with ``variables`` instead of any other account's settings, and with no proxy on the way."""
        kept = {name: value for name, value in outside.items() if not name.startswith(_OTHERS)}
        direct = ",".join(filter(None, (outside.get("NO_PROXY") or outside.get("no_proxy"), "127.0.0.1")))
        return kept | {"NO_PROXY": direct, "no_proxy": direct} | self.variables

    @property
    def variables(self) -> dict[str, str]:
        """The environment in which the command, the library and the action find the sandbox."""
        return {
            "SUPABASE_URL": self.supabase.url,
            "SUPABASE_SERVICE_ROLE_KEY": self.service_key,
            "KIS_BASE_URL": self.kis.production_url,
            # A cache of its own: tokens of the sandbox must not meet real ones.
            "KIS_TOKEN_CACHE": str(self._folder / ".kis_token_cache.json"),
            "KIS_SANDBOX_PAPER_URL": self.kis.paper_url,
            "KIS_SANDBOX_CONTROL_URL": self.kis.control_url,
        }
