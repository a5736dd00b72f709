"""A final HTTP answer: all interim answers before it are skipped. The standard library skips status 100 alone."""

from __future__ import annotations

import http.client

#: After so many interim answers, such as 103, the answer is given up.
MOST_INTERIM = 10


class FinalResponse(http.client.HTTPResponse):
    """Skips interim answers (100 to 199, except 101). Raises HTTPException after MOST_INTERIM of them."""

    def _read_status(self) -> tuple[str, int, str]:
        for _ in range(MOST_INTERIM):
            version, status, reason = super()._read_status()  # type: ignore[misc]  # not in the published types
            if not 100 <= status < 200 or status == http.HTTPStatus.SWITCHING_PROTOCOLS:
                return version, status, reason
            http.client.parse_headers(self.fp)
        raise http.client.HTTPException("too many interim answers")

    def _safe_read(self, amt: int) -> bytes:
        if amt < 0:  # a chunk with a negative length would read the whole connection
            raise http.client.IncompleteRead(b"")
        return super()._safe_read(amt)  # type: ignore[misc,no-any-return]  # not in the published types
