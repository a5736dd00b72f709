"""A transport for httpx that sends each request with the class `Wire`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import httpx

from kis_token.errors import StoreOutage
from kis_token.store.slot_query import check_answer

if TYPE_CHECKING:
    from collections.abc import Callable

    from kis_token.store.http_exchange import Wire

#: The request headers that `Wire` sets itself.
_OF_THE_WIRE = {"host", "accept-encoding", "connection", "content-length"}

#: The answer headers that describe the body before its decompression.
_OF_THE_BODY = {"content-encoding", "content-length", "transfer-encoding"}


class WireTransport(httpx.BaseTransport):
    """Sends each request in at most ``seconds()``. ``key`` is the key that the client sends.

    If Supabase does not answer, raises StoreOutage. For an error answer, raises the error that `error_answers` returns.
    """

    def __init__(self, wire: Wire, key: str, seconds: Callable[[], float]) -> None:
        self._wire = wire
        self._key = key
        self._seconds = seconds

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Send the request. Returns an answer with a success status."""
        headers = {name: value for name, value in request.headers.items() if name not in _OF_THE_WIRE}
        answer = self._wire.exchange(
            request.method,
            request.url.raw_path.decode("ascii"),
            headers,
            seconds=self._seconds(),
            body=request.read() or None,
        )
        check_answer(answer, self._key)
        if answer.status == 200 and not answer.body.strip():
            # PostgREST's client would read an empty body as an empty list.
            raise StoreOutage("store-unreachable", "Supabase's answer cannot be read")
        kept = [(name, value) for name, value in answer.headers.items() if name.lower() not in _OF_THE_BODY]
        return httpx.Response(answer.status, headers=kept, content=answer.body, request=request)


def open_http(wire: Wire, key: str, seconds: Callable[[], float]) -> httpx.Client:
    """An HTTP client over a `WireTransport`. The client follows no redirect and reads no environment variable."""
    return httpx.Client(transport=WireTransport(wire, key, seconds), trust_env=False)
