"""The store's calls for the account's owner: keys, seals, revocation, status, and the faults of the tables."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kis_token.errors import StoreMisconfigured
from kis_token.store.function_call import RpcAnswer, foreign
from kis_token.store.migrations import outdated
from kis_token.store.slot_query import TYPES
from kis_token.store.supabase_calls import SupabaseCalls

if TYPE_CHECKING:
    from datetime import datetime

    from kis_token.core.slot import Slot
    from kis_token.token import Token


class OwnerCalls(SupabaseCalls):
    """The store's calls for the commands of ``kis-token`` that the account's owner runs.

    Every method may raise StoreOutage and StoreMisconfigured.
    """

    def read_all(self, service_name: str) -> Slot:
        """Return the rows of keys and token of ``service_name``, active and inactive."""
        return self._read(service_name, TYPES, with_inactive=True)

    def set_app_key(
        self,
        service_name: str,
        app_key: str,
        app_secret: str,
        environment: str,
        *,
        keeps_token: bool,
        expires_at: datetime | None = None,
    ) -> bool:
        """Store an app key and secret, both plain or both sealed. Returns True if a stored token became inactive.

        With ``keeps_token``, the stored token stays active. ``expires_at`` is the time until which KIS accepts the app
        key; None if the time is unknown. The functions of an older release cannot store the expiry time of an app key.
        """
        end = {} if expires_at is None else {"expires_at": expires_at.isoformat()}
        answer = self._ask(
            "set_app_key",
            service=service_name,
            app_key=app_key,
            app_secret=app_secret,
            environment=environment,
            keeps_token=keeps_token,
            **end,
        )
        return answer.one_of("stored", "token-ended") == "token-ended"

    def reseal(self, service_name: str, credential_type: str, stored_form: str, *, replaces_version: int) -> bool:
        """Replace the text of a stored value by ``stored_form``, the sealed form of the same value.

        Returns False if the row's version is not ``replaces_version``.
        """
        answer = self._ask(
            "reseal",
            service=service_name,
            credential_type=credential_type,
            value=stored_form,
            replaces_version=replaces_version,
        )
        return answer.one_of("changed", "sealed") == "sealed"

    def revoke(self, service_name: str, token: Token, label: str) -> bool:
        """Make a token that was revoked at KIS inactive in the store.

        If the row no longer has the version of ``token``, the row is kept and the call returns False.
        """
        answer = self._ask(
            "revoke_token", service=service_name, version=token.version, token_id=token.token_id, label=label
        )
        return answer.one_of("kept", "revoked") == "revoked"

    def issuance_status(
        self, service_name: str | None, log_rows: int, *, token_of: str | None = None
    ) -> dict[str, Any]:
        """Return leases, the last events and the rows without their values, from the SQL function `issuance_status`.

        The result is about the slot ``service_name``, or about all slots if ``service_name`` is None. If ``token_of``
        is given, ``token_rows`` are the active token and the rejected tokens of the slot ``token_of``. Raises
        StoreMisconfigured ``store-schema-outdated`` if the database has an older version of the function.
        """
        arguments = {"service": service_name, "log_rows": log_rows}
        if token_of is None:
            return self._run("issuance_status", _parse_status, **arguments)
        try:
            return self._run("issuance_status", _parse_status, **arguments, token_of=token_of)
        except StoreMisconfigured as error:
            if not error.is_function_missing:
                raise
            # In an older release of sql/, issuance_status has no argument token_of. Without the argument token_of, the
            # older issuance_status answers, and the answer shows the version of sql/.
            return self._run("issuance_status", _parse_status, **arguments)

    def callers_status(self, service_name: str | None) -> dict[str, Any]:
        """The callers without a key and the issuers' keys, from the SQL function `credential_callers_status`.

        The result is about the slot ``service_name``, or about all slots if ``service_name`` is None.
        """
        return self._run("credential_callers_status", _parse_callers, service=service_name)

    def schema_version(self) -> int | None:
        """Return the version of the database's functions; None if the functions are too old to have a version."""

        def parse(answer: object) -> int:
            if not isinstance(answer, int):
                raise foreign("credential_schema_version")
            return answer

        try:
            return self._run("credential_schema_version", parse)
        except StoreMisconfigured as error:
            if not error.is_function_missing:
                raise
            return None

    def setup_faults(self) -> list[tuple[str, str]]:
        """Return the differences between the database and the files of sql/, as pairs of object and finding."""

        def parse(faults: object) -> list[tuple[str, str]]:
            try:
                if not isinstance(faults, list):
                    raise TypeError  # noqa: TRY301 - the except clause below handles every error of a wrong answer
                return [(str(fault["what"]), str(fault["said"])) for fault in faults]
            except (TypeError, KeyError):
                raise foreign("check_setup") from None

        return self._run("check_setup", parse)


def _parse_status(answer: object) -> dict[str, Any]:
    found = RpcAnswer("issuance_status", answer, ("server_now", "leases", "issuances"))
    found.time("server_now")
    found.expect_objects("leases", "issuances")
    # An answer with ``leases`` and ``issuances`` comes from the SQL function `issuance_status`. If this answer has no
    # ``schema_version``, the database has an older version of the function.
    error = outdated(found.number("schema_version"))
    if error is not None:
        raise error
    found.expect_objects("rows", "token_rows")
    return found.fields


def _parse_callers(answer: object) -> dict[str, Any]:
    found = RpcAnswer("credential_callers_status", answer, ("server_now", "callers", "keys"))
    found.time("server_now")
    found.expect_objects("callers", "keys")
    return found.fields
