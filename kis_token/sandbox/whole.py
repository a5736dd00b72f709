"""The whole sandbox: KIS, Supabase and what they need, started together and gone together."""

from __future__ import annotations

import secrets
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg

from kis_token.sandbox.database import apply_migrations, migrations_folder, prepare_database
from kis_token.sandbox.emulator import KISEmulator
from kis_token.sandbox.postgres import EmbeddedPostgres
from kis_token.sandbox.postgrest import PostgRESTStandIn

if TYPE_CHECKING:
    import ssl

    from typing_extensions import Self

    from kis_token.sandbox.kis_rules import Account

_SLOTS = {"production": "kis", "paper": "kis-paper"}


class Sandbox:
    """Everything a job talks to, on this machine alone and without an account. Use as a context manager.

    Starts PostgreSQL with this project's tables, a stand-in for Supabase before it, and the KIS emulator; the keys of
    one real and one paper account are stored under kis and kis-paper. On the way out all of it ends, the data too.
    With ``dsn``, a superuser's way into an empty database, no PostgreSQL is started. ``tls`` serves both over https.
    """

    def __init__(self, *, dsn: str | None = None, tls: ssl.SSLContext | None = None) -> None:
        self.kis = KISEmulator(tls=tls)
        self.service_key = f"sb_secret_{secrets.token_urlsafe(24)}"
        self.anon_key = f"sb_publishable_{secrets.token_urlsafe(24)}"
        self.supabase: PostgRESTStandIn
        self.owner_dsn: str
        self._dsn = dsn
        self._tls = tls
        self._folder: Path
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            dsn = self._dsn or stack.enter_context(EmbeddedPostgres()).create_database()
            project = prepare_database(dsn)
            apply_migrations(project.owner, migrations_folder())
            self.owner_dsn = project.owner
            for environment, slot in _SLOTS.items():
                self.store_keys(slot, self.kis.accounts[environment][0], environment)  # type: ignore[index]
            self.supabase = stack.enter_context(
                PostgRESTStandIn(project.api, service_key=self.service_key, anon_key=self.anon_key, tls=self._tls)
            )
            stack.enter_context(self.kis)
            self._folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="kis-sandbox-")))
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def store_keys(self, slot: str, account: Account, environment: str) -> None:
        """Put an account's key and secret into the table, as the owner of a project would."""
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
