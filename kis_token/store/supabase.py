"""The shared store: its reads, and the functions that govern issuing.

Reads use ``slot_query``, and functions are called by ``function_call``. ``slot_query`` and ``function_call`` use only
the standard library, because importing PostgREST's client takes time. Every error of this module is a StoreOutage or a
StoreMisconfigured.
"""

from __future__ import annotations

from contextlib import suppress
from datetime import timedelta
from typing import TYPE_CHECKING, Literal

from kis_token.core.ports import Begun, Committed
from kis_token.core.slot import TOKEN_TYPE
from kis_token.errors import StoreError, StoreMisconfigured
from kis_token.store.migrations import outdated
from kis_token.store.owner_calls import OwnerCalls
from kis_token.store.slot_query import TYPES

if TYPE_CHECKING:
    from kis_token.core.slot import Slot
    from kis_token.store.function_call import RpcAnswer
    from kis_token.token import AppKey, Token


class SupabaseStore(OwnerCalls):
    """The table ``api_credentials`` of one Supabase project, and the functions that govern issuing."""

    def read(self, service_name: str) -> Slot:
        """Return the active rows of keys and token of ``service_name``, in one request."""
        return self._read(service_name, TYPES)

    def read_service(self, service_name: str) -> Slot:
        """Return all active rows of ``service_name``, of any type."""
        return self._read(service_name, ())

    def read_unexpired_token(self, service_name: str) -> Slot:
        """Return the slot with at most one row, the token's row.

        If the row's ``expires_at`` is not in the future by the database's clock, the returned slot has no row.
        """
        return self._read(service_name, (TOKEN_TYPE,), only_unexpired=True)

    def begin(
        self,
        service_name: str,
        holder: str,
        label: str,
        app_key: AppKey,
        *,
        min_remaining: timedelta,
        rejected_version: int | None = None,
        rejected_token_id: str | None = None,
        keys_version: int | None = None,
    ) -> Begun:
        """Ask for the lease. ``holder`` is a new UUID for each attempt."""
        answer = self._ask_about_lease(
            "begin",
            service=service_name,
            holder=holder,
            label=label,
            app_key_id=app_key.key_id,
            credential_id=app_key.credential_id,
            min_remaining=f"{min_remaining.total_seconds():.0f} seconds",
            rejected_version=rejected_version,
            rejected_token_id=rejected_token_id,
            keys_version=keys_version,
        )
        begun = _parse_begun(answer)
        if begun.status != "granted":
            return begun
        if begun.fence is None:
            raise answer.outage()
        # In every version of sql/, the answers of begin_issuance and keyless_begin have the field last_error, which may
        # be null. An answer without last_error and without schema_version does not come from these two functions.
        is_of_sql = answer.lists("last_error") or answer.lists("schema_version")
        error = outdated(answer.number("schema_version")) if is_of_sql else None
        if error is not None:
            with suppress(StoreError):
                self.abort(service_name, holder, begun.fence, cooldown=timedelta(), error_code=error.code)
            raise error
        return begun

    def _ask_about_lease(self, step: Literal["begin", "commit", "abort"], **arguments: object) -> RpcAnswer:
        return self._ask(f"{step}_issuance", **arguments)

    def commit(
        self, service_name: str, holder: str, fence: int, token: Token, stored_form: str, *, rejected: bool
    ) -> Committed:
        """Store ``token`` in its ``stored_form`` and end the lease.

        The caller may repeat the call with the same arguments.
        """
        answer = self._ask_about_lease(
            "commit",
            service=service_name,
            holder=holder,
            fence=fence,
            value=stored_form,
            expires_at=token.expires_at.isoformat(),
            issued_at=token.issued_at.isoformat(),
            token_id=token.token_id,
            rejected=rejected,
        )
        return Committed(
            answer.one_of("committed", "unchanged", "fenced"),
            answer.number("version"),
            answer.text("value"),
            answer.text("expires_at"),
            is_rejected=answer.is_true("rejected"),
        )

    def save(
        self,
        service_name: str,
        token: Token,
        stored_form: str,
        *,
        replaces_version: int | None = None,
        keys_version: int | None = None,
    ) -> bool:
        """Store a token without a lease. Returns False, and stores nothing, if the token is rejected.

        If the stored token expires later than ``token``, and its row does not have the version ``replaces_version``,
        the stored token is kept.
        """
        arguments = {
            "service": service_name,
            "value": stored_form,
            "expires_at": token.expires_at.isoformat(),
            "replaces_version": replaces_version,
            "keys_version": keys_version,
        }
        try:
            # The fingerprint is passed because the database cannot read a sealed value.
            answer = self._ask("save_token", **arguments, token_id=token.token_id)
        except StoreMisconfigured as error:
            if not error.is_function_missing:
                raise
            answer = self._ask("save_token", **arguments)  # the function of an older release has no argument token_id
        return answer.one_of("saved", "kept", "rejected") != "rejected"

    def abort(
        self,
        service_name: str,
        holder: str,
        fence: int,
        *,
        cooldown: timedelta,
        error_code: str,
        refused_credential_id: str | None = None,
    ) -> None:
        """End the lease without storing a token."""
        self._ask_about_lease(
            "abort",
            service=service_name,
            holder=holder,
            fence=fence,
            cooldown=f"{cooldown.total_seconds():.0f} seconds",
            error_code=error_code,
            refused_credential_id=refused_credential_id,
        )


def _parse_begun(answer: RpcAnswer) -> Begun:
    return Begun(
        status=answer.one_of("granted", "fresh", "busy", "conflict", "changed"),
        server_now=answer.time("server_now"),
        version=answer.number("version"),
        fence=answer.number("fence"),
        value=answer.text("value"),
        expires_at=answer.text("expires_at"),
        retry_at=answer.time("retry_at") if answer.has("retry_at") else None,
        holder_label=answer.line("holder_label"),
        last_error=answer.line("last_error"),
        # The answer of an older release's function has the field rejected_token_id, which contains the last rejected
        # token and no earlier one.
        rejected_token_ids=answer.texts(
            "rejected_token_ids" if answer.has("rejected_token_ids") else "rejected_token_id"
        ),
    )
