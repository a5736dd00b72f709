"""Measures leases on one slot of a sandbox, by SQL and over HTTP.

A lease by SQL shows the time of the database alone.
"""

from __future__ import annotations

import uuid
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg import sql

from bench.growth.samples import Sample, timed
from kis_token.store.supabase import SupabaseStore
from kis_token.token import AppKey, Token

if TYPE_CHECKING:
    from typing_extensions import Self

    from kis_token.sandbox import Sandbox

SERVICE = "kis"

_LABEL = "bench.growth"
_MIN_REMAINING = timedelta(minutes=10)

#: The query for the number of rows of the log that PostgreSQL has read in this transaction.
_READ = """
select seq_tup_read + coalesce(idx_tup_fetch, 0) from pg_catalog.pg_stat_xact_user_tables
where relid = 'public.credential_issuances'::regclass
"""


class MeasuredSlot:
    """The slot kis. The end of the ``with`` block closes all connections."""

    def __init__(self, sandbox: Sandbox) -> None:
        self.owner = psycopg.connect(sandbox.owner_dsn, autocommit=True)
        self.store = SupabaseStore(sandbox.supabase.url, sandbox.service_key)
        self._service = psycopg.connect(sandbox.owner_dsn, autocommit=True)
        self._service.execute("set role service_role")
        account = sandbox.kis.accounts["production"][0]
        self._app_key = AppKey(account.app_key, account.app_secret)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.store.close()
        self._service.close()
        self.owner.close()

    def ask(self, function: str, **arguments: object) -> tuple[Sample, Any]:
        """Call a function by SQL as the API's role. Returns a sample (time and log rows read) and the answer."""
        named = sql.SQL(", ").join(
            sql.SQL("{} => {}").format(sql.Identifier(name), sql.Placeholder(name)) for name in arguments
        )
        query = sql.SQL("select public.{}({})").format(sql.Identifier(function), named)
        with self._service.transaction():
            before = self._service.execute(_READ).fetchall()[0][0]
            with timed() as watch:
                answer = self._service.execute(query, arguments).fetchall()[0][0]
            read = self._service.execute(_READ).fetchall()[0][0] - before
        return Sample(watch.milliseconds, read), answer

    def take_lease(self) -> dict[str, Sample]:
        """Replace the slot's token within a lease, by SQL."""
        version, token, holder = self._prepare()
        begin, begun = self.ask(
            "begin_issuance",
            service=SERVICE,
            holder=holder,
            label=_LABEL,
            app_key_id=self._app_key.key_id,
            credential_id=self._app_key.credential_id,
            min_remaining=_MIN_REMAINING,
            rejected_version=version,
        )
        commit, committed = self.ask(
            "commit_issuance",
            service=SERVICE,
            holder=holder,
            fence=begun["fence"],
            value=token.to_json(),
            expires_at=token.expires_at,
            issued_at=token.issued_at,
            token_id=token.token_id,
        )
        _judge(begun["status"], committed["status"])
        return {"begin_issuance, SQL": begin, "commit_issuance, SQL": commit}

    def take_lease_over_http(self) -> dict[str, Sample]:
        """Replace the slot's token within a lease, through the Supabase emulator."""
        version, token, holder = self._prepare()
        with timed() as begin:
            begun = self.store.begin(
                SERVICE, holder, _LABEL, self._app_key, min_remaining=_MIN_REMAINING, rejected_version=version
            )
        with timed() as commit:
            committed = self.store.commit(SERVICE, holder, begun.fence or 0, token, token.to_json(), rejected=False)
        _judge(begun.status, committed.status)
        return {
            "begin_issuance, HTTP": Sample(begin.milliseconds),
            "commit_issuance, HTTP": Sample(commit.milliseconds),
        }

    def _prepare(self) -> tuple[int | None, Token, str]:
        """Remove the wait between two leases. Return the version to replace, a new token, and a holder id."""
        self.owner.execute("update public.credential_leases set not_before = null where service_name = %s", (SERVICE,))
        rows = self.owner.execute(
            "select version from public.api_credentials where service_name = %s and credential_type = 'access_token'",
            (SERVICE,),
        ).fetchall()
        now = datetime.now(timezone.utc)
        token = Token(
            f"made-up-{uuid.uuid4()}", expires_at=now + timedelta(hours=17), issued_at=now - timedelta(hours=7)
        )
        return (rows[0][0] if rows else None), token, str(uuid.uuid4())


def _judge(begun: str, committed: str) -> None:
    """Raise RuntimeError unless a complete lease was measured."""
    if (begun, committed) != ("granted", "committed"):
        raise RuntimeError(f"Not a complete lease: {begun}, {committed}")
