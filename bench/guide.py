"""The algorithm of the guide, as a reader of the guide writes it.

The benchmarks compare this project with that algorithm.

The algorithm reads the stored token. If the stored token is not valid, the algorithm calls KIS. Then the algorithm
looks for the token's row, and updates or inserts the row. The algorithm has no lease and no second try: an answer
without a token is an error.

The guide has two errors with times: it reads ``access_token_token_expired`` as a number of seconds, and it writes times
without an offset. This module does not repeat these errors, so that the comparison is only about the lease. This module
reads that field as a time in Korea, and writes all times with an offset.
"""

from __future__ import annotations

import json
import os
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

import requests
from supabase import create_client

from kis_token.token import parse_kst

if TYPE_CHECKING:
    from collections.abc import Mapping

_TABLE = "api_credentials"
_SECONDS = 15.0


class GuideClient:
    """A client that follows the guide. ``variables`` has the variables that the guide names, and KIS's address."""

    def __init__(self, variables: Mapping[str, str]) -> None:
        self._client = create_client(variables["SUPABASE_URL"], variables["SUPABASE_SERVICE_ROLE_KEY"])
        self._base_url = variables["KIS_BASE_URL"]

    def token(self) -> tuple[str, bool]:
        """Return a token, and whether KIS was called.

        Raises the libraries' errors, and KeyError if KIS gave no token.
        """
        keys = self._keys()
        stored = self._stored_token()
        return (stored, False) if stored is not None else (self._issue(keys), True)

    def _keys(self) -> dict[str, str]:
        answer = (
            self._client.table(_TABLE).select("credential_type,credential_value").eq("service_name", "kis").execute()
        )
        rows: Any = answer.data
        return {row["credential_type"]: row["credential_value"] for row in rows}

    def _stored_token(self) -> str | None:
        answer = (
            self._client.table(_TABLE)
            .select("credential_value")
            .eq("service_name", "kis")
            .eq("credential_type", "access_token")
            .eq("is_active", True)  # noqa: FBT003 - the client's signature
            .gt("expires_at", _now())
            .execute()
        )
        rows: Any = answer.data
        return str(json.loads(rows[0]["credential_value"])["access_token"]) if rows else None

    def _issue(self, keys: Mapping[str, str]) -> str:
        answer = requests.post(
            f"{self._base_url}/oauth2/tokenP",
            json={"grant_type": "client_credentials", "appkey": keys["app_key"], "appsecret": keys["app_secret"]},
            timeout=_SECONDS,
        ).json()
        token, end = str(answer["access_token"]), parse_kst(answer["access_token_token_expired"]).isoformat()
        self._store(json.dumps({"access_token": token, "expires_at": end, "issued_at": _now()}), end)
        return token

    def _store(self, value: str, end: str) -> None:
        slot = {"service_name": "kis", "credential_type": "access_token"}
        table = self._client.table(_TABLE)
        if table.select("id").match(slot).execute().data:
            table.update({"credential_value": value, "expires_at": end, "updated_at": _now()}).match(slot).execute()
        else:
            table.insert({**slot, "credential_value": value, "expires_at": end}).execute()


def _now() -> str:
    return datetime.now(timezone.utc).isoformat()


if __name__ == "__main__":
    got, _ = GuideClient(os.environ).token()
    with Path(os.environ["GITHUB_OUTPUT"]).open("a", encoding="utf-8") as file:
        file.write(f"access-token={got}\n")
