"""Calls to Supabase and KIS, and an answer for them. The calls share one rule for certificates and proxies."""

from __future__ import annotations

import uuid
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from kis_token.kis.session import Session, prepare
from kis_token.sandbox.loopback import Response
from kis_token.store.supabase import SupabaseStore
from tests.support import APP_KEY, MINUTE, SERVICE_KEY

if TYPE_CHECKING:
    from kis_token.sandbox.loopback import Request

GRANTED = {"status": "granted", "fence": 1, "server_now": "2027-03-02T07:00:00+09:00"}


def answer(request: Request) -> Response:
    """Return a short answer of Supabase or KIS that the calls of this file accept."""
    return Response(200, [] if "api_credentials" in request.path else GRANTED)


def read(url: str) -> object:
    """Read the slot with the standard library."""
    with closing(SupabaseStore(url, SERVICE_KEY)) as store:
        return store.read("kis").rows


def begin(url: str) -> object:
    """Ask for a lease by a function call."""
    with closing(SupabaseStore(url, SERVICE_KEY)) as store:
        return store.begin("kis", str(uuid.uuid4()), "a laptop", APP_KEY, min_remaining=10 * MINUTE).status


def ask_kis(url: str) -> object:
    """Call KIS with requests."""
    with closing(Session(url)) as session:
        return session.call(prepare("GET", f"{url}/quotation", {}), 10).status_code


CALLS = {"read": read, "begin": begin, "kis": ask_kis}
calls = pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
