"""Supabase and KIS for the benchmarks of one caller: the sandbox over https on loopback, in a separate process.

The slot kis has a fresh token. The slot kis-sealed has the same token, sealed. The process ends when its standard input
ends.
"""

from __future__ import annotations

import os
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg

from bench.children import LONGEST_SECONDS, Child, heard, say
from kis_token.admin.set_keys import make_encryption_key
from kis_token.config import Settings
from kis_token.sandbox import Sandbox
from kis_token.store.sealing import make_vault
from kis_token.wiring import open_resolver
from tools.certificate import make_certificate

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Literal

    #: The requests to the process: see the methods of ``_Servers``.
    Question = Literal["empty", "down", "up", "count"]

SEALED_SLOT = "kis-sealed"

#: The seconds after which KIS issues again and the database grants a lease again.
_PAUSE_SECONDS = 120.0


def open_servers(folder: Path) -> Child:
    """Start the process of the servers, which first sends its variables. ``folder`` gets the servers' certificate."""
    return Child("bench.speed.servers", "run_servers", f"{folder}", grace=LONGEST_SECONDS)


def run_servers(folder: str) -> None:
    """Serve until the input ends."""
    certificate, tls = make_certificate(Path(folder))
    os.environ.update(SSL_CERT_FILE=certificate, REQUESTS_CA_BUNDLE=certificate, NO_PROXY="127.0.0.1")
    with suppress(EOFError), Sandbox(tls=tls) as sandbox:
        sandbox.kis.configure(lockout_after=0)
        variables = {**sandbox.variables, "KIS_TOKEN_CACHE": "off"}
        _issue(variables)
        sandbox.trust(access="keys")
        sandbox.trust(SEALED_SLOT, access="keys")
        keyless = {"KEYLESS_KEY": sandbox.anon_key, **sandbox.github.variables()}
        say({**variables, **keyless, "KIS_TOKEN_ENCRYPTION_KEY": _seal(sandbox), "CERTIFICATE": certificate})
        servers = _Servers(sandbox)
        answers = {"empty": servers.empty, "down": servers.down, "up": servers.up, "count": servers.count}
        while True:
            say(answers[heard()]())


class _Servers:
    """The requests that the process answers."""

    def __init__(self, sandbox: Sandbox) -> None:
        self._sandbox = sandbox

    def empty(self) -> None:
        """Delete the token of the slot kis, and move the clocks forward until KIS issues again."""
        self._sandbox.advance(_PAUSE_SECONDS)
        with psycopg.connect(self._sandbox.owner_dsn) as connection:
            connection.execute(
                "delete from public.api_credentials where service_name = 'kis' and credential_type = 'access_token'"
            )
            # The sealed slot has the same app key, and only one slot of an app key may have a valid token.
            connection.execute("delete from public.credential_leases where service_name = %s", [SEALED_SLOT])

    def down(self) -> None:
        """Let Supabase refuse connections."""
        self._sandbox.supabase.stop()

    def up(self) -> None:
        """Let Supabase answer again."""
        self._sandbox.supabase.start()

    def count(self) -> list[int]:
        """Return the numbers of requests to Supabase and KIS since the last call."""
        servers = (self._sandbox.supabase.server, self._sandbox.kis.production)
        counts = [len(server.seen) for server in servers]
        for server in servers:
            server.forget()
        return counts


def _issue(variables: Mapping[str, str]) -> None:
    with open_resolver(Settings.from_env(variables), time.monotonic(), lambda _: None) as resolver:
        resolver.resolve()


def _seal(sandbox: Sandbox) -> str:
    """Store the values of the slot kis, sealed, in the slot kis-sealed. Return the encryption key."""
    key = make_encryption_key()
    vault = make_vault(Settings.from_env({**sandbox.variables, "KIS_TOKEN_ENCRYPTION_KEY": key}).encryption_keys)
    with psycopg.connect(sandbox.owner_dsn) as connection:
        rows = connection.execute(
            "select credential_type, credential_value, expires_at from public.api_credentials"
            " where service_name = 'kis'"
        ).fetchall()
        connection.cursor().executemany(
            "insert into public.api_credentials (service_name, credential_type, credential_value, expires_at)"
            " values (%s, %s, %s, %s)",
            [(SEALED_SLOT, kind, vault.seal(value, SEALED_SLOT, kind), end) for kind, value, end in rows],
        )
    return key
