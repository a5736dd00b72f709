"""The shared store: the only file that imports the supabase client.

Reads go through ``rest`` (one GET, standard library), since that is quicker; the client is made when something has to
be written. Every error that leaves here is a StoreOutage or a StoreMisconfigured.
"""

from __future__ import annotations

from contextlib import suppress
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar

from kis_token.core.ports import Begun, Committed
from kis_token.core.retry import Retry, at_most, to_the_end
from kis_token.deadline import no_deadline
from kis_token.errors import StoreError, StoreMisconfigured, StoreOutage
from kis_token.process.forks import no_fork
from kis_token.store.migrations import outdated
from kis_token.store.rest import (
    READ_SECONDS,
    TABLE,
    TYPES,
    key_headers,
    read_slot,
)
from kis_token.store.wire import Wire
from kis_token.token import Token, parse_instant

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

    from supabase import Client

    from kis_token.core.slot import Slot
    from kis_token.token import AppKey

#: One write, in seconds: longer than a healthy database ever takes, short against the lease of 60 s.
CALL_SECONDS = 8.0

_Result = TypeVar("_Result")
_Word = TypeVar("_Word", bound=str)


class SupabaseStore:
    """The table ``api_credentials`` of one Supabase project, and the functions that govern issuing.

    ``left`` tells the seconds until the caller's deadline; no call takes longer. With ``retry`` a call that fails is
    repeated for some seconds; the chain, which knows what is at hand, does that by itself.
    """

    def __init__(
        self, url: str, key: str, *, left: Callable[[], float] = no_deadline, retry: Retry | None = None
    ) -> None:
        self._url = url
        self._key = key
        self._left = left
        self._retry = retry
        self._wire = Wire(url)
        self._client: Client | None = None

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._url!r})"

    def close(self) -> None:
        """Let go of the client. The next call makes another one."""
        self._client = None

    def is_available(self) -> bool:
        """Whether url and key are known; asks nobody."""
        return bool(self._url and self._key)

    def read(self, service_name: str) -> Slot:
        """Keys and token of ``service_name``, the active rows, in one request."""
        return self._read(service_name, TYPES)

    def read_service(self, service_name: str) -> Slot:
        """All active rows of ``service_name``, whatever their types."""
        return self._read(service_name, ())

    def read_living_token(self, service_name: str) -> Slot:
        """The token's row alone, and only when its column ``expires_at`` lies ahead by the database's clock."""
        return self._read(service_name, ("access_token",), only_living=True)

    def _read(
        self, service_name: str, types: tuple[str, ...], *, only_living: bool = False, with_inactive: bool = False
    ) -> Slot:
        def read() -> Slot:
            return read_slot(
                self._wire,
                self._key,
                service_name,
                types=types,
                only_living=only_living,
                with_inactive=with_inactive,
                seconds=min(READ_SECONDS, self._left()),
            )

        return self._repeat(read, READ_SECONDS)

    def _repeat(self, ask: Callable[[], _Result], seconds: float) -> _Result:
        """Outside of the chain: again for a little longer than one try may take, so that there is a second one."""
        if self._retry is None:
            return ask()
        return self._retry.run(ask, lambda: at_most(seconds + 1, to_the_end))

    def read_all(self, service_name: str) -> Slot:
        """Keys and token of ``service_name``, inactive rows as well."""
        return self._read(service_name, TYPES, with_inactive=True)

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
        """Ask for a turn to issue. ``holder`` is a fresh UUID for each attempt."""
        answer = self._ask(
            "begin_issuance",
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
        begun = Begun(
            status=answer.one_of("granted", "fresh", "busy", "conflict", "changed"),
            server_now=answer.time("server_now"),
            version=answer.number("version"),
            fence=answer.number("fence"),
            value=answer.text("value"),
            expires_at=answer.text("expires_at"),
            retry_at=answer.time("retry_at") if answer.has("retry_at") else None,
            holder_label=_one_line(answer.text("holder_label")),
            last_error=_one_line(answer.text("last_error")),
            # Functions of an older release name the last one alone.
            rejected_token_ids=answer.texts(
                "rejected_token_ids" if answer.has("rejected_token_ids") else "rejected_token_id"
            ),
        )
        if begun.status != "granted":
            return begun
        if begun.fence is None:
            raise answer.outage()
        # The functions of every release answer last_error, if only with null; the version is younger.
        is_of_sql = answer.lists("last_error") or answer.lists("schema_version")
        error = outdated(answer.number("schema_version")) if is_of_sql else None
        if error is not None:
            with suppress(StoreError):
                self.abort(service_name, holder, begun.fence, cooldown=timedelta(), error_code=error.code)
            raise error
        return begun

    def commit(
        self, service_name: str, holder: str, fence: int, token: Token, stored_form: str, *, rejected: bool
    ) -> Committed:
        """Store ``token`` in its ``stored_form`` and give the turn back. May be repeated with the same arguments."""
        answer = self._ask(
            "commit_issuance",
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
        """Store a token outside of any turn, unless one that lives longer and is not that version is there.

        False when the slot remembers it as rejected: then it is not stored.
        """
        arguments = {
            "service": service_name,
            "value": stored_form,
            "expires_at": token.expires_at.isoformat(),
            "replaces_version": replaces_version,
            "keys_version": keys_version,
        }
        try:
            # The database cannot tell which token a sealed value holds.
            answer = self._ask("save_token", **arguments, token_id=token.token_id)
        except StoreMisconfigured as error:
            if not error.is_function_missing:
                raise
            answer = self._ask("save_token", **arguments)  # of a release that remembered no tokens here
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
        """Give the turn back without a token."""
        self._ask(
            "abort_issuance",
            service=service_name,
            holder=holder,
            fence=fence,
            cooldown=f"{cooldown.total_seconds():.0f} seconds",
            error_code=error_code,
            refused_credential_id=refused_credential_id,
        )

    def set_app_key(
        self, service_name: str, app_key: str, app_secret: str, environment: str, *, keeps_token: bool
    ) -> bool:
        """Store key and secret in their stored forms. Whether a token was ended, as it is unless ``keeps_token``."""
        answer = self._ask(
            "set_app_key",
            service=service_name,
            app_key=app_key,
            app_secret=app_secret,
            environment=environment,
            keeps_token=keeps_token,
        )
        return answer.one_of("stored", "token-ended") == "token-ended"

    def reseal(self, service_name: str, credential_type: str, stored_form: str, *, replaces_version: int) -> bool:
        """Give a value another stored form. False when its row is not the one of that version any more."""
        answer = self._ask(
            "reseal",
            service=service_name,
            credential_type=credential_type,
            value=stored_form,
            replaces_version=replaces_version,
        )
        return answer.one_of("changed", "sealed") == "sealed"

    def revoke(self, service_name: str, token: Token, label: str) -> bool:
        """Have a revoked token stored no more. False when its row is not the one of its version any more, and stays."""
        answer = self._ask(
            "revoke_token", service=service_name, version=token.version, token_id=token.token_id, label=label
        )
        return answer.one_of("kept", "revoked") == "revoked"

    def issuance_status(self, service_name: str | None, log_rows: int) -> dict[str, Any]:
        """Leases and the last events, newest first, as the function of that name tells them; None is all slots."""
        arguments = {"service": service_name, "log_rows": log_rows}

        def parse(answer: object) -> dict[str, Any]:
            if not isinstance(answer, dict) or not answer.keys() >= {"server_now", "leases", "issuances"}:
                raise _foreign("issuance_status")
            return answer

        return self._call(lambda client: client.rpc("issuance_status", arguments).execute().data, parse)

    def rows_without_values(self) -> list[dict[str, Any]]:
        """What is known of the keys and tokens of all slots, inactive ones as well, without their values."""

        def call(client: Client) -> object:
            query = client.table(TABLE).select("service_name,credential_type,expires_at,is_active,environment,version")
            query = query.in_("credential_type", TYPES).not_.is_("credential_value", "null")
            return query.order("service_name").execute().data

        def parse(rows: object) -> list[dict[str, Any]]:
            if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
                raise StoreOutage("store-unreachable", "Supabase answered with something that is not the table")
            return rows

        return self._call(call, parse)

    def schema_version(self) -> int | None:
        """The version of the tables and functions; None when they are from before there was one. Raises StoreError."""

        def parse(answer: object) -> int:
            if not isinstance(answer, int):
                raise _foreign("credential_schema_version")
            return answer

        try:
            return self._call(lambda client: client.rpc("credential_schema_version", {}).execute().data, parse)
        except StoreMisconfigured as error:
            if not error.is_function_missing:
                raise
            return None

    def setup_faults(self) -> list[tuple[str, str]]:
        """What is not as the migrations leave it, as pairs of what and said. Raises StoreError."""

        def parse(faults: object) -> list[tuple[str, str]]:
            try:
                if not isinstance(faults, list):
                    raise TypeError  # noqa: TRY301 - joins the other ways of not being a list of faults
                return [(str(fault["what"]), str(fault["said"])) for fault in faults]
            except (TypeError, KeyError):
                raise _foreign("check_setup") from None

        return self._call(lambda client: client.rpc("check_setup", {}).execute().data, parse)

    def _ask(self, function: str, **arguments: object) -> _Answer:
        return _Answer(function, self._rpc(function, **arguments))

    def _rpc(self, function: str, **arguments: object) -> dict[str, Any]:
        def parse(answer: object) -> dict[str, Any]:
            if not isinstance(answer, dict) or "status" not in answer or "server_now" not in answer:
                raise _foreign(function)  # a proxy's page with status 200 arrives here as text
            return answer

        return self._call(lambda client: client.rpc(function, arguments).execute().data, parse)

    def _call(self, call: Callable[[Client], object], parse: Callable[[object], _Result]) -> _Result:
        with no_fork():
            from supabase import PostgrestAPIError, SupabaseException

        def ask() -> _Result:
            try:
                with no_fork():  # making a client imports as well
                    client = self.get_client()
                return parse(call(client))
            except SupabaseException:
                raise StoreMisconfigured("store-key-rejected", "The supabase library takes no such key") from None
            except (ValueError, RecursionError, PostgrestAPIError):  # not JSON, or not PostgREST's; the errors quote it
                raise StoreOutage("store-unreachable", "Supabase's answer cannot be read") from None

        return self._repeat(ask, CALL_SECONDS)

    def get_client(self) -> Client:
        """The client, made at the first use. It raises errors of its own, which the other methods translate."""
        if self._client is None:
            from supabase import ClientOptions, create_client

            from kis_token.store.transport import WireTransport, open_http

            transport = WireTransport(self._wire, self._key, lambda: min(CALL_SECONDS, self._left()))
            headers = key_headers(self._key)
            options = ClientOptions(
                headers={"Authorization": headers["Authorization"]},
                httpx_client=open_http(transport),
                auto_refresh_token=False,
                persist_session=False,
            )
            self._client = create_client(self._url, headers["apikey"], options=options)
        return self._client


def _foreign(function: str) -> StoreOutage:
    return StoreOutage("store-unreachable", f"Supabase's answer to {function} is not one of its own")


class _Answer:
    """A function's answer, each field of which is checked where it is read. Every method raises StoreOutage."""

    def __init__(self, function: str, fields: dict[str, object]) -> None:
        self._function = function
        self._fields = fields

    def outage(self) -> StoreOutage:
        """The error for an answer that PostgreSQL did not give."""
        return _foreign(self._function)

    def lists(self, name: str) -> bool:
        """Whether there is such a field, also one that is null."""
        return name in self._fields

    def has(self, name: str) -> bool:
        """Whether there is such a field that is not null."""
        return self._fields.get(name) is not None

    def one_of(self, *statuses: _Word) -> _Word:
        """The answer's status."""
        for status in statuses:
            if status == self._fields.get("status"):
                return status
        raise self.outage()

    def text(self, name: str) -> str | None:
        """A text; None where the field is missing or null."""
        value = self._fields.get(name)
        if value is not None and not isinstance(value, str):
            raise self.outage()
        return value

    def number(self, name: str) -> int | None:
        """A whole number; None where the field is missing or null."""
        value = self._fields.get(name)
        if value is not None and (not isinstance(value, int) or isinstance(value, bool)):
            raise self.outage()
        return value

    def texts(self, name: str) -> frozenset[str]:
        """The texts in a list, or the one text; none where there is neither."""
        value = self._fields.get(name)
        return frozenset(each for each in (value if isinstance(value, list) else [value]) if isinstance(each, str))

    def is_true(self, name: str) -> bool:
        """Whether there is such a field and it is true."""
        return self._fields.get(name) is True

    def time(self, name: str) -> datetime:
        """A point in time, which has to be there."""
        try:
            return parse_instant(self._fields.get(name))
        except ValueError:
            raise self.outage() from None


def _one_line(text: str | None) -> str | None:
    """A text that other machines wrote, made fit for a log."""
    return None if text is None else "".join(filter(str.isprintable, " ".join(text.split())))[:200]
