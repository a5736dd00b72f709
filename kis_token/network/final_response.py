"""An HTTP answer without the interim ones before it, of which the standard library knows 100 alone, and bounded."""

from __future__ import annotations

import http.client

#: More interim answers than this, such as 103, are no sensible answer.
MOST_INTERIM = 10


class FinalResponse(http.client.HTTPResponse):
    """Passes over interim answers (100 to 199, but for 101). Raises HTTPException when there is no end of them."""

    def _read_status(self) -> tuple[str, int, str]:
        for _ in range(MOST_INTERIM):
            version, status, reason = super()._read_status()  # type: ignore[misc]  # not in the published types
            if not 100 <= status < 200 or status == http.HTTPStatus.SWITCHING_PROTOCOLS:
                return version, status, reason
            http.client.parse_headers(self.fp)
        raise http.client.HTTPException("too many interim answers")

    def _safe_read(self, amt: int) -> bytes:
        if amt < 0:  # a chunk says so of itself, and the whole connection would be read
            raise http.client.IncompleteRead(b"")
        return super()._safe_read(amt)  # type: ignore[misc,no-any-return]  # not in the published types
