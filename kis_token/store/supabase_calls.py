"""Calls to Supabase: limited in time, and repeated if needed.

The store's own calls need only the standard library. Only `get_client`, which is for users' code, needs the package
supabase. No other file imports the package supabase.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

from kis_token.core.retry import Retry, at_most, to_the_end
from kis_token.deadline import no_deadline
from kis_token.store.function_call import RpcAnswer, call_function
from kis_token.store.http_exchange import Wire
from kis_token.store.slot_query import READ_SECONDS, key_headers, read_slot

if TYPE_CHECKING:
    from collections.abc import Callable

    from supabase import Client

    from kis_token.core.slot import Slot

#: A write to the store may take at most this many seconds. A healthy database needs less than ``CALL_SECONDS``. A lease
#: lasts 60 s, which is much longer than ``CALL_SECONDS``.
CALL_SECONDS = 8.0

_Result = TypeVar("_Result")


class SupabaseCalls:
    """Calls one Supabase project. No connection is kept between two calls.

    ``left`` returns the seconds until the caller's deadline; no call takes longer. With ``retry``, a failed call is
    repeated for some seconds. The chain passes no ``retry``, because the chain itself decides whether to repeat a call.
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
        """Discard the client of the package supabase. The next `get_client` makes a new client."""
        self._client = None

    def is_available(self) -> bool:
        """Whether url and key are known. Makes no request."""
        return bool(self._url and self._key)

    def get_client(self) -> Client:
        """The client of the package supabase, for users' code. The first call makes the client.

        If a request fails, the client raises StoreOutage or StoreMisconfigured.
        """
        if self._client is None:
            from supabase import ClientOptions, create_client

            from kis_token.store.httpx_transport import open_http

            headers = key_headers(self._key)
            options = ClientOptions(
                headers={"Authorization": headers["Authorization"]},
                httpx_client=open_http(self._wire, self._key, self._seconds),
                auto_refresh_token=False,
                persist_session=False,
            )
            self._client = create_client(self._url, headers["apikey"], options=options)
        return self._client

    def _repeat(self, ask: Callable[[], _Result], seconds: float) -> _Result:
        """Call ``ask``, and repeat a failed call if ``retry`` was given.

        ``seconds`` is the limit of one try. The last try begins at most ``seconds`` plus one second after the first
        try. So a second try is possible even if the first try takes ``seconds``.
        """
        if self._retry is None:
            return ask()
        return self._retry.run(ask, lambda: at_most(seconds + 1, to_the_end))

    def _read(
        self, service_name: str, types: tuple[str, ...], *, only_unexpired: bool = False, with_inactive: bool = False
    ) -> Slot:
        def read() -> Slot:
            return read_slot(
                self._wire,
                self._key,
                service_name,
                types=types,
                only_unexpired=only_unexpired,
                with_inactive=with_inactive,
                seconds=min(READ_SECONDS, self._left()),
            )

        return self._repeat(read, READ_SECONDS)

    def _ask(self, function: str, **arguments: object) -> RpcAnswer:
        return RpcAnswer(function, self._rpc(function, **arguments))

    def _rpc(self, function: str, **arguments: object) -> dict[str, Any]:
        """Call ``function``, and return the fields of the answer. The answer must have a status and a time."""
        return self._run(function, lambda answer: RpcAnswer(function, answer).fields, **arguments)

    def _run(self, function: str, parse: Callable[[object], _Result], **arguments: object) -> _Result:
        """Call ``function`` of sql/, and return the result of ``parse`` for its answer.

        If ``parse`` raises StoreOutage, the call is treated as failed.
        """

        def ask() -> _Result:
            return parse(call_function(self._wire, self._key, function, arguments, seconds=self._seconds()))

        return self._repeat(ask, CALL_SECONDS)

    def _seconds(self) -> float:
        return min(CALL_SECONDS, self._left())
