"""Gets GitHub's ID token of this job. The ID token takes the place of a Supabase key.

The job asks GitHub for the ID token, with the Supabase project's URL as the audience. This module needs only the
standard library. Source: "OpenID Connect reference" of GitHub's documentation, 2026.
"""

from __future__ import annotations

import re
import time
from urllib.parse import quote, urlsplit

from kis_token.errors import StoreMisconfigured, StoreOutage
from kis_token.store.http_exchange import Wire

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from kis_token.process.caller_identity import IDTokenRequest
    from kis_token.store.http_exchange import Answer

#: The limit of one request to GitHub, in seconds.
REQUEST_SECONDS = 5.0

#: The longest ID token, in characters. GitHub's ID tokens have fewer than 3,000 characters.
LARGEST_TOKEN = 16 * 1024

#: The format of an ID token: three parts of base64url. Only a text with the format of an ID token is masked in the log,
#: because masking a text such as ".." would hide much of the log.
_TOKEN = re.compile(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+")


class IDTokens:
    """Gets this job's ID tokens. ``mask`` is called with each ID token before its first use.

    ``left`` returns the seconds until the caller's deadline. Threads may share an object of this class.
    """

    def __init__(
        self, request: IDTokenRequest, audience: str, left: Callable[[], float], mask: Callable[[str], None]
    ) -> None:
        self._request = request
        self._audience = audience
        self._left = left
        self._mask = mask
        self._last: tuple[float, str] | None = None

    def get(self, *, oldest: float = 0.0) -> str:
        """An ID token that this job got at most ``oldest`` seconds ago.

        Raises these errors:

        - StoreOutage ``id-token-unavailable``: GitHub does not answer.
        - StoreOutage ``id-token-missing``: GitHub's answer has no ID token.
        - StoreMisconfigured ``id-token-refused``: GitHub refuses an ID token to this job.
        """
        last = self._last
        if last is not None and time.monotonic() - last[0] < oldest:
            return last[1]
        asked = time.monotonic()
        token = self._fetch()
        self._mask(token)
        self._last = asked, token
        return token

    def _fetch(self) -> str:
        parts = urlsplit(self._request.url)
        query = "&".join(filter(None, (parts.query, f"audience={quote(self._audience, safe='')}")))
        headers = {"Authorization": f"Bearer {self._request.bearer}", "Accept": "application/json"}
        wire = Wire(f"{parts.scheme}://{parts.netloc}", peer="GitHub's ID token endpoint")
        try:
            answer = wire.exchange("GET", f"{parts.path}?{query}", headers, seconds=min(REQUEST_SECONDS, self._left()))
        except StoreOutage as outage:
            # Supabase may work although GitHub gives no ID token. Because of ``doubtful=True``, no caller issues a
            # token without the store.
            message = f"No ID token: {outage.args[0]}"
            raise StoreOutage(
                "id-token-unavailable", message, doubtful=True, lasting=outage.lasting, sent=False
            ) from None
        return _token_in(answer)


def _token_in(answer: Answer) -> str:
    if 400 <= answer.status < 500 and answer.status not in (408, 429):
        raise StoreMisconfigured("id-token-refused", f"GitHub gives this job no ID token (HTTP {answer.status})")
    found = answer.json() if answer.status == 200 and not answer.is_cut else None
    token = found.get("value") if isinstance(found, dict) else None
    if isinstance(token, str) and len(token) <= LARGEST_TOKEN and _TOKEN.fullmatch(token):
        return token
    if answer.status == 200:
        message = "The answer of GitHub's ID token endpoint has no ID token"
        raise StoreOutage("id-token-missing", message, doubtful=True, sent=False)
    message = f"GitHub's ID token endpoint does not work (HTTP {answer.status})"
    raise StoreOutage("id-token-unavailable", message, doubtful=True, sent=False)
