"""The shared store: the only file that imports the supabase client.

Reads go through ``reader`` (one GET, standard library), since that is quicker; the client is made when something has to
be written. Every error that leaves here is a StoreOutage or a StoreMisconfigured.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from kis_token.errors import StoreError, StoreOutage
from kis_token.forks import no_fork
from kis_token.limits import no_deadline, within
from kis_token.ports import Begun, Committed
from kis_token.reader import (
    COLUMNS,
    DATABASE_NOW,
    READ_SECONDS,
    TABLE,
    TYPES,
    Slot,
    key_headers,
    parse_http_date,
    parse_slot,
    read_slot,
    store_error,
)
from kis_token.token import Token, parse_instant

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime, timedelta

    import httpx
    from supabase import Client, PostgrestAPIError

    from kis_token.token import AppKey

#: One write, in seconds: longer than a healthy database ever takes, short against the lease of 60 s.
CALL_SECONDS = 8.0


class SupabaseStore:
    """The table ``api_credentials`` of one Supabase project, and the functions that govern issuing.

    ``left`` tells the seconds until the caller's deadline; no call takes longer.
    """

    def __init__(self, url: str, key: str, *, left: Callable[[], float] = no_deadline) -> None:
        self._url = url
        self._key = key
        self._left = left
        self._client: Client | None = None
        self._http: httpx.Client | None = None
        self._read_by_client = False
        self._last_date: str | None = None

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._url!r})"

    def close(self) -> None:
        """Close the connections. The next call opens them again."""
        if self._http is not None:
            self._http.close()
            self._client = self._http = None

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

    def _read(self, service_name: str, types: tuple[str, ...], *, only_living: bool = False) -> Slot:
        if not self._read_by_client:
            try:
                return read_slot(
                    self._url,
                    self._key,
                    service_name,
                    types=types,
                    only_living=only_living,
                    seconds=min(READ_SECONDS, self._left()),
                )
            except StoreOutage as outage:
                if not outage.doubtful:
                    raise
                # The client brings certificates of its own and speaks to every kind of proxy.
                self._read_by_client = True
        return self._select(service_name, types, only_active=True, only_living=only_living)

    def read_all(self, service_name: str) -> Slot:
        """Keys and token of ``service_name``, inactive rows as well."""
        return self._select(service_name, TYPES, only_active=False)

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
        answer = self._rpc(
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
        retry_at = answer.get("retry_at")
        return Begun(
            status=answer["status"],
            server_now=_time(answer["server_now"]),
            version=answer.get("version"),
            fence=answer.get("fence"),
            value=answer.get("value"),
            expires_at=answer.get("expires_at"),
            retry_at=_time(retry_at) if retry_at else None,
            holder_label=_one_line(answer.get("holder_label")),
            last_error=_one_line(answer.get("last_error")),
            rejected_token_id=answer.get("rejected_token_id"),
        )

    def commit(
        self, service_name: str, holder: str, fence: int, token: Token, stored_form: str, *, rejected: bool
    ) -> Committed:
        """Store ``token`` in its ``stored_form`` and give the turn back. May be repeated with the same arguments."""
        answer = self._rpc(
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
        return Committed(answer["status"], answer.get("version"), answer.get("value"), answer.get("expires_at"))

    def save(
        self,
        service_name: str,
        token: Token,
        stored_form: str,
        *,
        replaces_version: int | None = None,
        keys_version: int | None = None,
    ) -> None:
        """Store a token outside of any turn, unless one that lives longer and is not that version is there."""
        self._rpc(
            "save_token",
            service=service_name,
            value=stored_form,
            expires_at=token.expires_at.isoformat(),
            replaces_version=replaces_version,
            keys_version=keys_version,
        )

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
        self._rpc(
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
        answer = self._rpc(
            "set_app_key",
            service=service_name,
            app_key=app_key,
            app_secret=app_secret,
            environment=environment,
            keeps_token=keeps_token,
        )
        return bool(answer["status"] == "token-ended")

    def reseal(self, service_name: str, credential_type: str, stored_form: str, *, replaces_version: int) -> bool:
        """Give a value another stored form. False when its row is not the one of that version any more."""
        answer = self._rpc(
            "reseal",
            service=service_name,
            credential_type=credential_type,
            value=stored_form,
            replaces_version=replaces_version,
        )
        return bool(answer["status"] == "sealed")

    def revoke(self, service_name: str, token: Token, label: str) -> bool:
        """Have a revoked token stored no more. False when its row is not the one of its version any more, and stays."""
        answer = self._rpc(
            "revoke_token", service=service_name, version=token.version, token_id=token.token_id, label=label
        )
        return bool(answer["status"] == "revoked")

    def issuance_status(self, service_name: str | None, log_rows: int) -> dict[str, Any]:
        """Leases and the last events, newest first, as the function of that name tells them; None is all slots."""
        arguments = {"service": service_name, "log_rows": log_rows}
        answer = self._call(lambda client: client.rpc("issuance_status", arguments).execute().data)
        if not isinstance(answer, dict) or not answer.keys() >= {"server_now", "leases", "issuances"}:
            raise StoreOutage("store-unreachable", "Supabase's answer to issuance_status is not one of its own")
        return answer

    def rows_without_values(self) -> list[dict[str, Any]]:
        """What is known of the keys and tokens of all slots, inactive ones as well, without their values."""

        def call(client: Client) -> object:
            query = client.table(TABLE).select("service_name,credential_type,expires_at,is_active,environment,version")
            return query.in_("credential_type", TYPES).order("service_name").execute().data

        rows = self._call(call)
        if not isinstance(rows, list):
            raise StoreOutage("store-unreachable", "Supabase answered with something that is not the table")
        return rows

    def setup_faults(self) -> list[tuple[str, str]]:
        """What is not as the migrations leave it, as pairs of what and said. Raises StoreError."""
        faults = self._call(lambda client: client.rpc("check_setup", {}).execute().data)
        try:
            return [(str(fault["what"]), str(fault["said"])) for fault in cast("list[dict[str, str]]", faults)]
        except (TypeError, KeyError) as error:
            raise StoreOutage("store-unreachable", "Supabase's answer to check_setup is not one of its own") from error

    def _select(
        self, service_name: str, types: tuple[str, ...], *, only_active: bool, only_living: bool = False
    ) -> Slot:
        def call(client: Client) -> object:
            query = client.table(TABLE).select(COLUMNS).eq("service_name", service_name)
            if types:
                query = query.in_("credential_type", types)
            if only_active:
                query = query.is_("is_active", True)
            if only_living:
                query = query.gt("expires_at", DATABASE_NOW)
            return query.retry(False).execute().data  # noqa: FBT003 - hidden ones would cost 7 s

        return parse_slot(self._call(call), parse_http_date(self._last_date))

    def _rpc(self, function: str, **arguments: object) -> dict[str, Any]:
        answer = self._call(lambda client: client.rpc(function, arguments).execute().data)
        if not isinstance(answer, dict) or "status" not in answer or "server_now" not in answer:
            # A proxy's page with status 200 arrives here as text.
            raise StoreOutage("store-unreachable", f"Supabase's answer to {function} is not one of its own")
        return answer

    def _call(self, call: Callable[[Client], object]) -> object:
        with no_fork():
            import httpx
            from supabase import PostgrestAPIError, SupabaseException

        seconds = min(CALL_SECONDS, self._left())
        try:
            with no_fork():  # making a client imports as well
                client = self._get_client()
            return within(seconds, lambda _: call(client))
        except TimeoutError:
            message = f"Supabase did not answer within {max(seconds, 0):.2g} s"
            raise StoreOutage("store-unreachable", message) from None
        except PostgrestAPIError as error:
            raise _translate(error) from None
        except SupabaseException:
            raise store_error(400, "client") from None
        except (ValueError, RecursionError):  # JSON, text or numbers that are none; their errors quote the answer
            raise StoreOutage("store-unreachable", "Supabase's answer cannot be read") from None
        except httpx.HTTPError as error:
            raise StoreOutage("store-unreachable", f"Supabase does not answer ({type(error).__name__})") from None

    def _get_client(self) -> Client:
        """The client, made at the first use. It follows no redirect: that would carry the key along."""
        if self._client is None:
            import httpx
            from supabase import ClientOptions, create_client

            self._http = httpx.Client(
                timeout=CALL_SECONDS,
                event_hooks={"response": [self._note_date]},
                mounts={"http://": None},  # only this machine is spoken to without TLS: never through a proxy
            )
            headers = key_headers(self._key)
            options = ClientOptions(
                headers={"Authorization": headers["Authorization"]},
                httpx_client=self._http,
                auto_refresh_token=False,
                persist_session=False,
            )
            self._client = create_client(self._url, headers["apikey"], options=options)
        return self._client

    def _note_date(self, answer: httpx.Response) -> None:
        self._last_date = answer.headers.get("date")


def _time(value: object) -> datetime:
    try:
        return parse_instant(value)
    except ValueError:
        raise StoreOutage("store-unreachable", "Supabase's answer has a time that cannot be read") from None


def _one_line(text: object) -> str | None:
    """What other machines wrote, made fit for a log."""
    return None if text is None else " ".join(str(text).split())[:200]


def _translate(error: PostgrestAPIError) -> StoreError:
    """A PostgREST error by its code; an HTTP status as code is how the client reports pages that are not JSON."""
    # Releases for Python 3.10 give the status as a number.
    code = None if error.code is None else str(error.code)
    if code is None:
        # The gateway's refusal of a key has no code, and the client does not pass the status on.
        return store_error(401 if "api key" in (error.message or "").lower() else None, None)
    if code.isdigit() and len(code) == 3:
        return store_error(int(code), None)
    return store_error(400, code)
